"""Runs real code in threads of which one at a time makes one call to an object store, in an order told by a seed.

Schedules have few changes of priority, at random places: such find what depends on few of them sooner than fair ones
(Burckhardt et al., A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, ASPLOS 2010).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from casstore.errors import RemoteError

_MOST_CALLS = 5000


class Killed(BaseException):
    """The actor is dead: it was ended at a call, and makes no more."""


class AtOnce(Executor):
    """An Executor that does all in the thread that asks for it, at once."""

    def __init__(self, _threads: int = 1) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """See Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **named))
        except Exception as error:  # noqa: BLE001 - it is for who asks for the result
            future.set_exception(error)
        return future


class Actor:
    """One thread, what it did, and how many calls it has made."""

    def __init__(self, name: str, work: Callable[[], object], priority: int) -> None:
        self.name = name
        self.work = work
        self.priority = priority
        self.calls = 0
        self.wakes_at = 0
        self.killed = False
        self.result: object = None
        self.error: BaseException | None = None
        self.turn = threading.Semaphore(0)


class Scheduler:
    """A hook of a MemoryBackend. `changes`: how often priorities change at most, within so many `calls`.

    `kill_at`: at which of its calls an actor dies; `lose`: the share of changes that are made and not acknowledged.
    `check` is called after each call that has changed the store.
    """

    def __init__(
        self,
        seed: int,
        check: Callable[[], object],
        *,
        kill_at: Mapping[str, int] | None = None,
        lose: float = 0.0,
        calls: int = 150,
    ) -> None:
        self._random = random.Random(seed)
        self._check = check
        self._kill_at = dict(kill_at or {})
        self._lose = lose
        self._changes = set(self._random.sample(range(calls), self._random.choice([2, 4, 8, 16])))
        self._local = threading.local()
        self._waiting: list[Actor] = []
        self._done = threading.Semaphore(0)
        self._calls = 0
        self.clock = 0
        self.failure: BaseException | None = None
        self.trace: list[str] = []

    def run(self, work: Mapping[str, Callable[[], object]]) -> dict[str, Actor]:
        """Do all this at once; returns how each has ended. Raises what `check` has raised first."""
        priorities = self._random.sample(range(len(work)), len(work))
        actors = {name: Actor(name, each, priorities[i]) for i, (name, each) in enumerate(work.items())}
        threads = [threading.Thread(target=self._act, args=(actor,), daemon=True) for actor in actors.values()]
        self._waiting = list(actors.values())
        for thread in threads:
            thread.start()
        self._wake_next()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
        return actors

    def _act(self, actor: Actor) -> None:
        self._local.actor = actor
        actor.turn.acquire()
        try:
            actor.result = actor.work()
        except BaseException as error:  # noqa: BLE001 - it is for the test to say which may be
            actor.error = error
        self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting:
            self.clock = max(self.clock, min(each.wakes_at for each in self._waiting))
            actor = self._choose(self._awake())
            self._waiting.remove(actor)
            actor.turn.release()

    def _awake(self) -> list[Actor]:
        return [each for each in self._waiting if each.wakes_at <= self.clock]

    def _choose(self, actors: Sequence[Actor]) -> Actor:
        return min(actors, key=lambda each: each.priority)

    def _look(self, actor: Actor, _call: str) -> None:
        """An actor is about to make a call: change priorities if it is time to."""
        if self._calls in self._changes:
            actor.priority = self._lowest()

    def sleep(self, ticks: float) -> None:
        """Have the others go on until the clock, which counts calls, has gone on so far."""
        actor: Actor | None = getattr(self._local, "actor", None)
        if actor is None:
            self.clock += int(ticks)
            return
        actor.wakes_at = self.clock + int(ticks)
        self._wait(actor)

    def _wait(self, actor: Actor) -> None:
        self._waiting.append(actor)
        self._wake_next()
        actor.turn.acquire()

    def let_others_go_on(self, _seconds: float = 0.0) -> None:
        """What a pause is here: all others come before the actor that makes it."""
        actor = getattr(self._local, "actor", None)
        if actor is not None:
            actor.priority = self._lowest()

    def _lowest(self) -> int:
        self._calls += 1
        return 1_000 + self._calls

    def before(self, method: str, key: str) -> None:
        """Wait for this actor's turn. See Hook."""
        actor: Actor | None = getattr(self._local, "actor", None)
        if actor is None:
            return
        if self.failure is not None or actor.killed:
            raise Killed
        self._look(actor, f"{method} {key}")
        self._calls += 1
        actor.calls += 1
        self.clock += 1
        if self._choose([actor, *self._awake()]) is not actor:
            self._wait(actor)
        if self.failure is not None or self._calls > _MOST_CALLS:
            raise Killed
        self.trace.append(f"{actor.name} {method} {key}")

    def after(self, method: str, key: str) -> None:
        """Look at the store. See Hook."""
        actor: Actor | None = getattr(self._local, "actor", None)
        if actor is None:
            return
        if method in ("create", "put", "delete"):
            try:
                self._check()
            except BaseException as error:
                self.failure = error
                raise Killed from error
        if self._kill_at.get(actor.name) == actor.calls:
            actor.killed = True
            raise Killed
        if method in ("create", "put", "delete") and self._random.random() < self._lose:
            raise RemoteError(f"the answer to {method} {key} was lost")


class Directed(Scheduler):
    """A schedule that is told: each step lets one actor go on until it is about to make a call that begins so.

    With an empty text it lets the actor end. What is left after the last step goes on in any order.
    """

    def __init__(self, steps: Sequence[tuple[str, str]], check: Callable[[], object]) -> None:
        super().__init__(0, check)
        self._steps = list(steps)

    def _choose(self, actors: Sequence[Actor]) -> Actor:
        while self._steps:
            for actor in actors:
                if actor.name == self._steps[0][0]:
                    return actor
            self._steps.pop(0)  # that actor has ended
        return super()._choose(actors)

    def _look(self, actor: Actor, call: str) -> None:
        name, call_at = self._steps[0] if self._steps else ("", "")
        if name == actor.name and call_at and call.startswith(call_at):
            self._steps.pop(0)
