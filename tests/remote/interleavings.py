"""Runs processes against one bucket: in every order, in random orders, and in an order that is given.

A client that is killed is one that takes no further step, so that every state stands for that too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from tests.remote import bucket as buckets
from tests.remote.bucket import FLIGHT, LOST, Bucket, Request, Verb
from tests.remote.promises import broken, left_over, misreported
from tests.remote.protocol import Outcome, Process, Protocol

# For the number of a bucket or of a past in a state: there are fewer of them than these bits can count.
_BITS = 24


@dataclass(frozen=True)
class Client:
    """`start` makes its process, given how often it was killed before; that happens at most `kills` times."""

    name: str
    start: Callable[[int], Process]
    kills: int = 0


class Found(NamedTuple):
    """What is wrong, and the steps that lead to it: names of clients, with what befell the request if anything did."""

    fault: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """`is_swept`: every bucket that can arise is swept, which must leave no garbage."""

    protocol: Protocol
    clients: tuple[Client, ...]
    bucket: Bucket
    is_swept: bool = True


class Searched(NamedTuple):
    """`is_whole`: there are no further states."""

    found: Found | None
    states: int
    is_whole: bool


class _Interned:
    """Values by number, and numbers by value."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class _Step(NamedTuple):
    """`process`: the past of the client that takes it; of no meaning where a request arrives that was on its way."""

    bucket: int
    process: int
    what: str


@dataclass
class _Search:
    """Buckets and the pasts of processes have numbers, so that a state is a tuple of numbers.

    The past of a process is the client, how often it was killed, and the answers that it got since.
    """

    scenario: Scenario
    buckets: _Interned = field(default_factory=_Interned)
    pasts: _Interned = field(default_factory=_Interned)
    pending: dict[int, Request | Outcome] = field(default_factory=dict)
    steps: dict[tuple[int, int], list[_Step]] = field(default_factory=dict)
    faults: dict[int, str | None] = field(default_factory=dict)

    def frozen(self, bucket: Bucket) -> int:
        return self.buckets.number(tuple(sorted(bucket.items(), key=lambda item: item[0])))

    def past(self, client: int, kills: int, answers: Any) -> int:
        """`answers` is a chain: none, or the answers before with the last one."""
        number = self.pasts.number((client, kills, answers))
        if number not in self.pending:
            self.pending[number] = self._replay(client, kills, number)
        return number

    def _replay(self, client: int, kills: int, number: int) -> Request | Outcome:
        answers: list[Any] = []
        chain = self.pasts.values[number][2]
        while chain is not None:
            before, answer = chain
            answers.append(answer)
            chain = self.pasts.values[before][2]
        process = self.scenario.clients[client].start(kills)
        try:
            request = next(process)
            for answer in reversed(answers):
                request = process.send(answer)
        except StopIteration as stopped:
            outcome: Outcome = stopped.value
            return outcome
        return request

    def after(self, bucket: int, process: int) -> list[_Step]:
        """What one process can do, or what can befall it, in a bucket."""
        known = self.steps.get((bucket, process))
        if known is None:
            request = self.pending[process]
            known = list(self._after(bucket, process, request)) if isinstance(request, Request) else []
            self.steps[bucket, process] = known
        return known

    def _after(self, number: int, process: int, request: Request) -> Iterator[_Step]:
        client, kills, _ = self.pasts.values[process]
        name = self.scenario.clients[client].name
        for what, bucket, answer in _befalling(dict(self.buckets.values[number]), request):
            yield _Step(self.frozen(bucket), self.past(client, kills, (process, answer)), f"{name}{what}")
        if kills < self.scenario.clients[client].kills:
            for what, bucket in _killing(dict(self.buckets.values[number]), request):
                yield _Step(self.frozen(bucket), self.past(client, kills + 1, None), f"{name}{what}")

    def landing(self, number: int) -> list[_Step]:
        """What requests that are on their way can do to a bucket."""
        known = self.steps.get((number, -1))
        if known is None:
            bucket = dict(self.buckets.values[number])
            known = []
            for flight in buckets.in_flight(bucket):
                after = dict(bucket)
                buckets.land(after, flight)
                known.append(_Step(self.frozen(after), -1, f"arrives: {flight}"))
            self.steps[number, -1] = known
        return known

    def fault(self, number: int, processes: Sequence[int]) -> str | None:
        """What is wrong with a state."""
        if number not in self.faults:
            bucket = dict(self.buckets.values[number])
            fault = broken(bucket)
            if fault is None and self.scenario.is_swept:
                fault = left_over(bucket, self.scenario.protocol)
            self.faults[number] = fault
        if fault := self.faults[number]:
            return fault
        outcomes = [self.pending[each] for each in processes]
        ended = {
            client.name: each
            for client, each in zip(self.scenario.clients, outcomes, strict=True)
            if isinstance(each, Outcome)
        }
        return misreported(dict(self.buckets.values[number]), ended) if len(ended) == len(outcomes) else None


def _befalling(bucket: Bucket, request: Request) -> Iterator[tuple[str, Bucket, Any]]:
    """What can happen to a request: how that is called, the bucket afterwards, and the answer."""
    after = dict(bucket)
    answer = buckets.perform(after, request)
    yield "", after, answer
    if buckets.may_be_lost(bucket, request):
        for is_late in (False, True):
            after = dict(bucket)
            buckets.lose_answer(after, request, is_late=is_late)
            yield (" is late" if is_late else " hears nothing"), after, LOST


def _killing(bucket: Bucket, request: Request) -> Iterator[tuple[str, Bucket]]:
    """A client is killed before its request, or while that is on its way."""
    yield " is killed", bucket
    is_sent = request.verb in (Verb.CREATE, Verb.PUT) and not request.keys[0].startswith("~")
    if is_sent:
        after = dict(bucket)
        buckets.send(after, request)
        yield " is killed while sending", after


def search(scenario: Scenario, *, most_states: int) -> Searched:
    """Go through all orders of steps, depth first, until something is wrong or that many states were seen."""
    searching = _Search(scenario)
    first = (searching.frozen(scenario.bucket), *(searching.past(i, 0, None) for i in range(len(scenario.clients))))
    seen = {_packed(first)}
    stack: list[tuple[tuple[int, ...], Any]] = [(first, None)]
    while stack:
        state, trace = stack.pop()
        if fault := searching.fault(state[0], state[1:]):
            return Searched(Found(fault, _unwound(trace)), len(seen), is_whole=False)
        if len(seen) >= most_states:
            return Searched(None, len(seen), is_whole=False)
        for place in range(len(state)):
            taken = searching.after(state[0], state[place]) if place else searching.landing(state[0])
            for step in taken:
                after = (step.bucket, *state[1:place], *([step.process] if place else []), *state[place + 1 :])
                if (packed := _packed(after)) not in seen:
                    seen.add(packed)
                    stack.append((after, (trace, step.what)))
    return Searched(None, len(seen), is_whole=True)


def _packed(state: tuple[int, ...]) -> int:
    packed = 0
    for number in state:
        packed = packed << _BITS | number
    return packed


def _unwound(trace: Any) -> tuple[str, ...]:
    steps = []
    while trace is not None:
        trace, what = trace
        steps.append(what)
    return tuple(reversed(steps))


class Running:
    """One run of a scenario, step by step."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.bucket = dict(scenario.bucket)
        self.steps: list[str] = []
        self.kills = dict.fromkeys(range(len(scenario.clients)), 0)
        self._processes: list[Process] = []
        self._pending: list[Request | Outcome] = []
        for client in scenario.clients:
            process = client.start(0)
            self._processes.append(process)
            self._pending.append(next(process))

    def waiting(self) -> list[int]:
        """The clients that have not ended."""
        return [number for number, each in enumerate(self._pending) if isinstance(each, Request)]

    def is_running(self, client: int) -> bool:
        return isinstance(self._pending[client], Request)

    def step(self, client: int, choose: Callable[[int], int] = lambda _: 0) -> str | None:
        """Let a client take a step. `choose` says which of so many things befalls its request. Returns a fault."""
        request = self._pending[client]
        assert isinstance(request, Request)
        befalling = list(_befalling(self.bucket, request))
        what, self.bucket, answer = befalling[choose(len(befalling))]
        self.steps.append(self.scenario.clients[client].name + what)
        try:
            self._pending[client] = self._processes[client].send(answer)
        except StopIteration as stopped:
            self._pending[client] = stopped.value
        return broken(self.bucket)

    def kill(self, client: int, *, is_sending: bool) -> str | None:
        """Kill a client and start it again. Returns a fault."""
        request = self._pending[client]
        assert isinstance(request, Request)
        what, self.bucket = list(_killing(self.bucket, request))[-1 if is_sending else 0]
        self.steps.append(self.scenario.clients[client].name + what)
        self.kills[client] += 1
        process = self.scenario.clients[client].start(self.kills[client])
        self._processes[client], self._pending[client] = process, next(process)
        return broken(self.bucket)

    def land(self, flight: str) -> str | None:
        """Let a request arrive that was on its way. Returns a fault."""
        buckets.land(self.bucket, flight)
        self.steps.append(f"arrives: {flight}")
        return broken(self.bucket)

    def end(self) -> str | None:
        """What is wrong once nobody takes a further step."""
        clients = zip(self.scenario.clients, self._pending, strict=True)
        outcomes = {client.name: each for client, each in clients if isinstance(each, Outcome)}
        if len(outcomes) == len(self._pending) and (fault := misreported(self.bucket, outcomes)):
            return fault
        return left_over(self.bucket, self.scenario.protocol) if self.scenario.is_swept else None


def random_run(scenario: Scenario, chance: random.Random) -> Found | None:
    """One run in which the client of highest priority steps, and priorities change a few times.

    As in Burckhardt and others, A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, ASPLOS 2010.
    """
    run = Running(scenario)
    order = list(range(len(scenario.clients)))
    chance.shuffle(order)
    priority = {client: place for place, client in enumerate(order)}
    changes = set(chance.sample(range(30 * len(order)), chance.choice([2, 3, 5, 8])))
    most_kills = chance.choice([0, 1, 3])
    step = 0
    while waiting := run.waiting():
        client = min(waiting, key=priority.__getitem__)
        if step in changes:
            priority[client] = len(order) + step
        step += 1
        fault = _random_step(run, client, chance, most_kills)
        if fault:
            return Found(fault, tuple(run.steps))
    for flight in buckets.in_flight(run.bucket):
        if fault := run.land(flight):
            return Found(fault, tuple(run.steps))
    fault = run.end()
    return Found(fault, tuple(run.steps)) if fault else None


def _random_step(run: Running, client: int, chance: random.Random, most_kills: int) -> str | None:
    flights = buckets.in_flight(run.bucket)
    if flights and chance.random() < 0.05:
        return run.land(chance.choice(flights))
    may_be_killed = run.kills[client] < min(most_kills, run.scenario.clients[client].kills)
    if may_be_killed and chance.random() < 0.1:
        return run.kill(client, is_sending=chance.random() < 0.7)
    return run.step(client, lambda count: chance.randrange(count) if chance.random() < 0.3 else 0)


def random_runs(scenario: Scenario, *, runs: int, seed: int) -> Found | None:
    """The first fault in so many random runs."""
    chance = random.Random(seed)
    return next((found for _ in range(runs) if (found := random_run(scenario, chance))), None)


Until = Callable[[Bucket], bool]


class Then(Enum):
    """What befalls the request of a client at the end of its turn."""

    NOTHING = "it waits"
    LATE = "it is on its way, and the client hears nothing"
    KILL = "its client is killed before it, and started again"
    KILL_SENDING = "its client is killed and started again, and it is on its way"


class Turn(NamedTuple):
    """A client takes so many steps, or steps until something holds of the bucket, or steps until it has ended."""

    client: str
    until: int | Until = 1000
    then: Then = Then.NOTHING


class Arrival(NamedTuple):
    """The request for a key that was on its way arrives."""

    key: str


def directed(scenario: Scenario, turns: Sequence[Turn | Arrival]) -> Found | None:
    """Run clients by turns; in the end, all to their ends."""
    run = Running(scenario)
    for turn in (*turns, *(Turn(client.name) for client in scenario.clients)):
        if isinstance(turn, Arrival):
            (flight,) = (each for each in buckets.in_flight(run.bucket) if each.startswith(f"{FLIGHT}{turn.key}="))
            fault = run.land(flight)
        else:
            fault = _take(run, turn)
        if fault:
            return Found(fault, tuple(run.steps))
    fault = run.end()
    return Found(fault, tuple(run.steps)) if fault else None


def _take(run: Running, turn: Turn) -> str | None:
    client = [each.name for each in run.scenario.clients].index(turn.client)
    taken = 0
    while run.is_running(client):
        if taken >= turn.until if isinstance(turn.until, int) else turn.until(run.bucket):
            break
        taken += 1
        if fault := run.step(client):
            return fault
    if turn.then is Then.NOTHING:
        return None
    if turn.then is Then.LATE:
        return run.step(client, lambda count: count - 1)
    return run.kill(client, is_sending=turn.then is Then.KILL_SENDING)
