"""The remote protocol holds its promises in every order of steps, and each of its rules is needed for that.

All that is bounded is bounded by counts of states, runs and steps, never by time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kit import EVERY
from tests.remote.bucket import Bucket, Faults, initial
from tests.remote.interleavings import (
    Arrival,
    Client,
    Found,
    Scenario,
    Then,
    Turn,
    directed,
    random_run,
    search,
)
from tests.remote.protocol import Cleaning, Protocol, Push
from tests.remote.rules import Rule
from tests.remote.scenes import ANEW, PAGES, RESUMED, SCENES, Cast, everybody

# Scenes of which every state is seen, in the quick tier.
SMALL = [
    "push, delete, gc",
    "push, delete, gc of everything",
    "push, read, delete, gc",
    "push, two gcs of everything",
    "two push again what is deleted",
    "pushed again, deleted again, rolled forward",
    "push that adopts, delete, gc",
    "push that is revoked and relies on its packs, gc",
    "repack, gc, read",
    "repack of two versions, help, gc",
    "three move an alias",
    "repack that may not hear",
]
LARGE = [name for name in SCENES if name not in SMALL]
MOST_STATES = 1_000_000 if EVERY else 30_000


@pytest.mark.parametrize("pages", [{}, PAGES], ids=["listed at once", "listed in pages"])
@pytest.mark.parametrize("name", SMALL)
def test_every_order_of_steps_holds_the_promises(name: str, pages: dict[str, str]) -> None:
    searched = search(SCENES[name].scenario(Protocol(pages=pages)), most_states=100_000)
    assert searched.found is None
    assert searched.is_whole


@pytest.mark.crash
@pytest.mark.parametrize("name", LARGE)
def test_many_orders_of_steps_hold_the_promises(name: str) -> None:
    assert search(SCENES[name].scenario(Protocol(pages=PAGES)), most_states=MOST_STATES).found is None


def some_of_everybody(chance: random.Random, protocol: Protocol) -> Scenario:
    clients = everybody(Cast(protocol))
    chance.shuffle(clients)
    some = tuple(clients[: chance.choice([4, 5, 6, 8, len(clients)])])
    return Scenario(protocol, some, initial(faults=Faults(chance.choice([0, 1, 3]))))


def random_fault(protocol: Protocol, *, runs: int, seed: int) -> Found | None:
    chance = random.Random(seed)
    found = (random_run(some_of_everybody(chance, protocol), chance) for _ in range(runs))
    return next((each for each in found if each), None)


def test_random_orders_of_many_hold_the_promises() -> None:
    assert random_fault(Protocol(pages=PAGES), runs=300, seed=1) is None


@pytest.mark.crash
@pytest.mark.parametrize("seed", [2, 3])
def test_many_random_orders_of_many_hold_the_promises(seed: int) -> None:
    assert random_fault(Protocol(pages=PAGES), runs=40_000 if EVERY else 2_000, seed=seed) is None


@dataclass(frozen=True)
class Searched:
    """A rule is missed within so many states of a scene."""

    scene: str
    most_states: int = 100_000

    def found(self, protocol: Protocol) -> Found | None:
        return search(SCENES[self.scene].scenario(protocol), most_states=self.most_states).found


@dataclass(frozen=True)
class Directed:
    """A rule is missed in one order of steps."""

    clients: Callable[[Cast], Sequence[Client]]
    turns: Sequence[Turn | Arrival]
    tags: tuple[str, ...] = ("A",)
    faults: int = 0

    def found(self, protocol: Protocol) -> Found | None:
        bucket = initial(*self.tags, faults=Faults(self.faults))
        return directed(Scenario(protocol, tuple(self.clients(Cast(protocol))), bucket, is_swept=False), self.turns)


def there(key: str) -> Callable[[Bucket], bool]:
    return lambda bucket: key in bucket


def sealing(bucket: Bucket) -> bool:
    """q has noted what it seals."""
    journal: Any = bucket.get("~journal/q")
    return journal is not None and journal.sealing is not None


# g marks the pack of A, which is deleted, and publishes; meanwhile r has come to rely on that pack.
RELIED_ON_WHEN_MARKED: list[Turn | Arrival] = [Turn("r", 5), Turn("delete A")]

SECOND_LOOK = Directed(
    # q reads the epoch before g publishes, and opens after g has listed pushes.
    lambda cast: [
        *[cast.push(Push("q", "B")), cast.push(Push("r", "C")), cast.delete("A"), cast.delete("C"), cast.gc("g")]
    ],
    [
        *[Turn("q", 1), *RELIED_ON_WHEN_MARKED, Turn("g", there("gc/1")), Turn("r"), Turn("g", 1)],
        *[Turn("q", there("segments/q00/0")), Turn("delete C"), Turn("g"), Turn("q")],
    ],
)
AVOID_CONDEMNED = Directed(
    SECOND_LOOK.clients,
    # q opens after g has published, while C still needs the pack.
    [
        *[*RELIED_ON_WHEN_MARKED, Turn("g", there("gc/1")), Turn("r"), Turn("g", 1)],
        *[Turn("q", there("segments/q00/0")), Turn("delete C"), Turn("g"), Turn("q")],
    ],
)
EPOCH_IS_CERTAIN = Directed(
    SECOND_LOOK.clients,
    # The epoch of g does not come in time, if ever.
    [
        *[*RELIED_ON_WHEN_MARKED, Turn("g", 4, Then.LATE), Turn("r"), Turn("g", 1)],
        *[Turn("q", there("segments/q00/0")), Turn("delete C"), Turn("g"), Turn("q")],
    ],
    faults=1,
)
CONDEMNED_FOR_EVER = Directed(
    lambda cast: [*SECOND_LOOK.clients(cast), cast.gc("h")],
    # h takes the pack off the list, as C needs it; q relies on it; C is deleted.
    [
        *[*RELIED_ON_WHEN_MARKED, Turn("g", there("gc/1")), Turn("r"), Turn("g", 1), Turn("h")],
        *[Turn("q", there("segments/q00/0")), Turn("delete C"), Turn("g"), Turn("q")],
    ],
)
LATEST_EPOCH = Directed(
    lambda cast: [
        *[cast.push(Push("q", "B")), cast.push(Push("r", "C"))],
        *[cast.delete(tag) for tag in ("A", "C", "D", "E")],
        *[cast.gc(run, Cleaning.EPOCHS) for run in ("g", "h", "i")],
    ],
    # g is about to create the first epoch when h and i create two, and i removes the first; so g creates it again.
    [
        *[*RELIED_ON_WHEN_MARKED, Turn("g", 5), Turn("r")],
        *[Turn("delete D"), Turn("h"), Turn("delete E"), Turn("i")],
        *[Turn("q", there("segments/q00/0")), Turn("delete C"), Turn("g"), Turn("q")],
    ],
    tags=("A", "D", "E"),
)
RELY_AFRESH = Directed(
    lambda cast: [
        *[cast.push(RESUMED, kills=1), cast.delete("A"), cast.delete("C"), cast.gc("g"), cast.gc("h")],
    ],
    # q acknowledges that A's pack is condemned, and is killed before it notes that; the pack is deleted, and h
    # condemns something else, so that no list names the pack any more.
    [
        *[Turn("q", 6), Turn("delete A"), Turn("g", there("gc/1"))],
        *[Turn("q", there("pushes/q00/v1"), Then.KILL), Turn("g"), Turn("delete C"), Turn("h", there("gc/2"))],
        *[Turn("q", there("pushes/q00/v2")), Turn("h"), Turn("q")],
    ],
    tags=("A", "C"),
)
ALL_CONDEMNED = Directed(
    SCENES["push that adopts, two deletes, two gcs"].cast,
    # q gives A's pack up for C's when g condemns it, and C's for A's, which is gone by then, when h condemns that.
    [
        *[Turn("q", 5), Turn("delete A"), Turn("g", there("gc/1")), Turn("q", there("pushes/q00/v1")), Turn("g")],
        *[Turn("delete C"), Turn("h", there("gc/2")), Turn("q", there("pushes/q00/v2")), Turn("h"), Turn("q")],
    ],
    tags=("A", "C"),
)
ALL_EPOCHS = Directed(
    lambda cast: [
        *[cast.push_anew(ANEW, kills=1), cast.delete("A"), cast.delete("C")],
        *[cast.gc(run) for run in ("f", "g", "h", "i")],
    ],
    # q is killed while it writes its pack for the second time, and f revokes it. g condemns the pack, and falls asleep;
    # h removes it, and i condemns something else. Then the pack arrives once more, q relies on it, and g wakes up.
    [
        *[Turn("q", 7, Then.KILL_SENDING), Turn("delete A"), Turn("f")],
        *[Turn("g", there("gc/2")), Turn("g", 3), Turn("h"), Turn("delete C"), Turn("i")],
        Arrival("packs/q00/0"),
        *[Turn("q", there("segments/q10/0")), Turn("g"), Turn("q")],
    ],
    tags=("A", "C"),
)
LOOK_AT_OWN_REFS = Directed(
    SCENES["resumed push that was committed, purged and deleted"].cast,
    # q is killed while it opens, resumed, and does not hear that it has sealed. Others commit its push, remove its
    # records and delete its version. Then its first request to open arrives, so that it looks open, and is revoked.
    [
        Turn("q", 2, Then.KILL_SENDING),
        Turn("q", sealing, Then.LATE),
        Arrival("pushes/q00/end"),
        *[Turn("g"), Turn("delete B"), Turn("delete A")],
        Arrival("pushes/q00/open"),
        *[Turn("h"), Turn("q")],
    ],
    faults=1,
)

MISSED: dict[Rule, Searched | Directed] = {
    Rule.SECOND_LOOK: SECOND_LOOK,
    Rule.LOOK_BEFORE_ACKNOWLEDGING: Searched("push, delete, gc of everything"),
    Rule.AVOID_CONDEMNED: AVOID_CONDEMNED,
    Rule.SEAL: Searched("push, delete, gc"),
    Rule.RANDOM_NAMES: Searched("push, delete, gc"),
    Rule.NEXT_GENERATION: Searched("two push again what is deleted"),
    Rule.TAKEN_IS_FINAL: Searched("two repacks, gc"),
    Rule.PACKS_FIRST: Searched("push, delete, gc of everything"),
    Rule.PUBLISH: Searched("two pushes, two deletes, gc"),
    Rule.FENCE: Searched("push, delete, gc"),
    Rule.MARK_AGAIN: Searched("push, delete, gc"),
    Rule.CONDEMNED_FOR_EVER: CONDEMNED_FOR_EVER,
    Rule.ROLL_FORWARD: Searched("push, delete, gc"),
    Rule.ROLL_ALL_FORWARD: Searched("repack of two versions, help, gc"),
    Rule.TOMBSTONES_STAY: Searched("push, undelete, gc"),
    Rule.LATEST_EPOCH: LATEST_EPOCH,
    Rule.SEGMENTS_OF_OPEN_PUSHES: Searched("push, read, delete, gc"),
    Rule.SEGMENTS_ROLLED_FORWARD: Searched("push, read, delete, gc"),
    Rule.NEWEST_SEGMENT: Searched("repack, gc, read"),
    Rule.LOOK_AGAIN: Searched("repack, gc, read"),
    Rule.KEEP_REVOKED: Searched("push, delete, gc of everything"),
    Rule.PURGE_ROLLED_FORWARD: Searched("push, two gcs of everything"),
    Rule.LOOK_AT_OWN_REFS: LOOK_AT_OWN_REFS,
    Rule.SEAL_IN_JOURNAL: Searched("resumed push, delete, gc"),
    Rule.RELY_AFRESH: RELY_AFRESH,
    Rule.ALL_CONDEMNED: ALL_CONDEMNED,
    Rule.ALL_EPOCHS: ALL_EPOCHS,
    Rule.NEW_NUMBERS: Searched("resumed push, delete, gc"),
    Rule.READ_BACK: Searched("push and gc that may not hear"),
    Rule.UNKNOWN_IS_NO_FAILURE: Searched("push and gc that may not hear"),
    Rule.OPEN_IS_CERTAIN: Searched("push and gc that may not hear"),
    Rule.SEAL_IS_CERTAIN: Searched("push and gc that may not hear"),
    Rule.EPOCH_IS_CERTAIN: EPOCH_IS_CERTAIN,
    Rule.FENCE_IS_CERTAIN: Searched("push and gc that may not hear"),
    Rule.NAMED_MOVER: Searched("three move an alias"),
    Rule.COMPARE_AGAIN: Searched("three move an alias"),
}


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name.lower())
def test_without_any_of_its_rules_the_protocol_breaks_a_promise(rule: Rule) -> None:
    assert MISSED[rule].found(Protocol().without(rule)) is not None


@pytest.mark.parametrize("rule", [rule for rule in Rule if isinstance(MISSED[rule], Directed)])
def test_with_all_of_its_rules_it_stands_what_breaks_it_without_one(rule: Rule) -> None:
    assert MISSED[rule].found(Protocol()) is None
