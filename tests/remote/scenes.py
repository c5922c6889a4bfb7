"""Scenes for the remote protocol: which processes meet in which bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.remote.bucket import Faults, initial
from tests.remote.interleavings import Client, Scenario
from tests.remote.protocol import Cleaning, Protocol, Push

# Listings that are cut where it matters: a push's `end` is in the first page, its `open` in the second.
PAGES = {"refs/": "refs/B", "pushes/": "pushes/q00/o", "packs/": "packs/b"}


@dataclass(frozen=True)
class Cast:
    """Makes clients that follow a protocol."""

    protocol: Protocol

    def push(self, push: Push, kills: int = 0) -> Client:
        return Client(push.name, lambda incarnation: self.protocol.push(push, incarnation), kills)

    def push_anew(self, push: Push, kills: int = 0) -> Client:
        return Client(push.name, lambda incarnation: self.protocol.push_anew(push, incarnation), kills)

    def delete(self, tag: str, name: str = "") -> Client:
        return Client(name or f"delete {tag}", lambda _: self.protocol.delete(tag))

    def undelete(self, tag: str) -> Client:
        return Client(f"undelete {tag}", lambda _: self.protocol.undelete(tag))

    def read(self, tag: str) -> Client:
        return Client(f"read {tag}", lambda _: self.protocol.read(tag))

    def repack(self, name: str, *tags: str, kills: int = 0) -> Client:
        return Client(name, lambda incarnation: self.protocol.repack(name, tags, incarnation), kills)

    def help(self) -> Client:
        return Client("help", lambda _: self.protocol.help())

    def move(self, mover: str, version: str) -> Client:
        return Client(mover, lambda _: self.protocol.move_alias(mover, version, expected="A"))

    def gc(self, run: str, cleaning: Cleaning = Cleaning.PACKS) -> Client:
        return Client(run, lambda _: self.protocol.gc(run, cleaning))


@dataclass(frozen=True)
class Scene:
    """`tags`: the versions that are there before. `failing`: one request for a key that begins so may fail."""

    cast: Callable[[Cast], list[Client]]
    tags: tuple[str, ...] = ("A",)
    failing: str | None = None
    is_swept: bool = True

    def scenario(self, protocol: Protocol) -> Scenario:
        faults = None if self.failing is None else Faults(1, self.failing)
        clients = tuple(self.cast(Cast(protocol)))
        return Scenario(protocol, clients, initial(*self.tags, faults=faults), self.is_swept)


Q = Push("q", "B")
R = Push("r", "C")
POLLING = Push("q", "B", tries=2, polls=True)
ADOPTING = Push("q", "B", adopts=True)
ANEW = Push("q", "B", tries=2)
RESUMED = Push("q", "B", tries=2, polls=True, journals=True)

SCENES = {
    "push, delete, gc": Scene(lambda cast: [cast.push(Q), cast.delete("A"), cast.gc("g")]),
    "push, delete, gc of everything": Scene(
        lambda cast: [cast.push(POLLING), cast.delete("A"), cast.gc("g", Cleaning.ALL)]
    ),
    "push, undelete, gc": Scene(
        lambda cast: [cast.push(Q), cast.delete("A"), cast.undelete("A"), cast.gc("g")],
    ),
    "push, read, delete, gc": Scene(
        lambda cast: [cast.push(Q), cast.read("A"), cast.delete("A"), cast.gc("g", Cleaning.SEGMENTS)]
    ),
    "push, two gcs of everything": Scene(
        lambda cast: [cast.push(Q), cast.gc("g", Cleaning.ALL), cast.gc("h", Cleaning.ALL)]
    ),
    "push, delete, two gcs": Scene(lambda cast: [cast.push(Q), cast.delete("A"), cast.gc("g"), cast.gc("h")]),
    "two pushes, delete, gc": Scene(
        lambda cast: [cast.push(Q), cast.push(R), cast.delete("A"), cast.gc("g", Cleaning.ALL)]
    ),
    "two pushes, two deletes, gc": Scene(
        lambda cast: [cast.push(Q), cast.push(R), cast.delete("A"), cast.delete("C"), cast.gc("g")], is_swept=False
    ),
    "two pushes, two deletes, gc that may not hear": Scene(
        lambda cast: [cast.push(Q), cast.push(R), cast.delete("A"), cast.delete("C"), cast.gc("g")],
        failing="gc/",
        is_swept=False,
    ),
    "two pushes, two deletes, two gcs": Scene(
        lambda cast: [
            *[cast.push(Q), cast.push(R), cast.delete("A"), cast.delete("C")],
            *[cast.gc("g"), cast.gc("h")],
        ],
        is_swept=False,
    ),
    "two pushes, two deletes, three gcs that purge epochs": Scene(
        lambda cast: [
            *[cast.push(Q), cast.push(R), cast.delete("A"), cast.delete("C"), cast.delete("D"), cast.delete("E")],
            *[cast.gc(run, Cleaning.EPOCHS) for run in ("g", "h", "i")],
        ],
        tags=("A", "D", "E"),
        is_swept=False,
    ),
    # A tag that is pushed again after it was deleted.
    "two push again what is deleted": Scene(
        lambda cast: [cast.push(Push("q", "A")), cast.push(Push("r", "A")), cast.delete("A"), cast.help()]
    ),
    "pushed again, deleted again, rolled forward": Scene(
        lambda cast: [cast.push(Push("q", "A")), cast.delete("A"), cast.delete("A", "again"), cast.help()]
    ),
    "two push again, gc": Scene(
        lambda cast: [
            *[cast.push(Push("q", "A")), cast.push(Push("r", "A", digest="q"))],
            *[cast.delete("A"), cast.gc("g", Cleaning.ALL)],
        ],
    ),
    # Pushes that are killed and resumed.
    "resumed push, delete, gc": Scene(
        lambda cast: [cast.push(RESUMED, kills=1), cast.delete("A"), cast.gc("g")], is_swept=False
    ),
    "resumed twice, delete, gc of everything": Scene(
        lambda cast: [cast.push(RESUMED, kills=2), cast.delete("A"), cast.gc("g", Cleaning.ALL)]
    ),
    "resumed push, two deletes, two gcs": Scene(
        lambda cast: [cast.push(RESUMED, kills=1), cast.delete("A"), cast.delete("C"), cast.gc("g"), cast.gc("h")],
        tags=("A", "C"),
    ),
    "resumed push that was committed, purged and deleted": Scene(
        lambda cast: [
            *[cast.push(RESUMED, kills=1), cast.delete("A"), cast.delete("B")],
            *[cast.gc("g", Cleaning.ALL), cast.gc("h", Cleaning.ALL)],
        ],
        failing="pushes/",
    ),
    "push that adopts, delete, gc": Scene(
        lambda cast: [cast.push(ADOPTING), cast.delete("A"), cast.gc("g", Cleaning.ALL)]
    ),
    "push that adopts, two deletes, two gcs": Scene(
        lambda cast: [cast.push(ADOPTING), cast.delete("A"), cast.delete("C"), cast.gc("g"), cast.gc("h")],
        tags=("A", "C"),
        is_swept=False,
    ),
    "push that is revoked and relies on its packs, gc": Scene(
        lambda cast: [cast.push_anew(ANEW), cast.gc("g"), cast.gc("h")]
    ),
    "push that is killed, revoked and relies on its packs, gcs": Scene(
        lambda cast: [cast.push_anew(ANEW, kills=1), cast.delete("A"), *[cast.gc(run) for run in ("g", "h", "i")]],
        is_swept=False,
    ),
    # Repacking.
    "repack, gc, read": Scene(lambda cast: [cast.repack("m", "A"), cast.gc("g", Cleaning.ALL), cast.read("A")]),
    "two repacks, gc": Scene(
        lambda cast: [cast.repack("m", "A"), cast.repack("n", "A"), cast.gc("g", Cleaning.ALL)], is_swept=False
    ),
    "repack of two versions, help, gc": Scene(
        lambda cast: [cast.repack("m", "A", "C"), cast.help(), cast.gc("g", Cleaning.ALL)], tags=("A", "C")
    ),
    "repack, push, gc": Scene(
        lambda cast: [cast.repack("m", "A"), cast.push(Q), cast.gc("g", Cleaning.ALL)],
    ),
    "repack of what is deleted and pushed again, gc": Scene(
        lambda cast: [
            *[cast.repack("m", "A"), cast.push(Push("q", "A")), cast.delete("A"), cast.gc("g", Cleaning.SEGMENTS)],
        ],
    ),
    # Aliases, and answers that are lost.
    "three move an alias": Scene(
        lambda cast: [cast.move("m", "B"), cast.move("n", "B"), cast.move("o", "C")], failing="aliases/"
    ),
    "push and gc that may not hear": Scene(
        lambda cast: [cast.push(POLLING), cast.delete("A"), cast.gc("g")], failing=""
    ),
    "push and gc of everything that may not hear": Scene(
        lambda cast: [cast.push(Q), cast.delete("A"), cast.gc("g", Cleaning.ALL)], failing=""
    ),
    "repack that may not hear": Scene(lambda cast: [cast.repack("m", "A"), cast.gc("g")], failing=""),
}


def everybody(cast: Cast) -> list[Client]:
    """All that may meet, for random runs, which take some of them."""
    return [
        *[cast.push(RESUMED, kills=2), cast.push(Push("r", "A", tries=2, journals=True), kills=1)],
        *[cast.push(Push("s", "A", digest="v")), cast.repack("m", "A", "B"), cast.repack("n", "A", kills=1)],
        *[cast.delete("A"), cast.delete("A", "again"), cast.delete("B"), cast.read("A"), cast.help()],
        *[cast.gc(run, Cleaning.ALL) for run in ("g", "h", "i")],
        *[cast.move("t", "B"), cast.move("u", "B")],
    ]
