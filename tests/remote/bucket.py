"""A bucket for the bounded model of the remote protocol: requests, what they answer, and what lies under which key.

A bucket is a dict from keys to bodies. Every request is one atomic step. Keys that begin with `~` are not in the
bucket: the journal of a client, requests that are still on their way, and how many requests may still fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

Bucket = dict[str, Any]


class Verb(Enum):
    CREATE = "create"
    PUT = "put"
    GET = "get"
    LIST = "list"
    EPOCH = "epoch"
    DELETE = "delete"


class Request(NamedTuple):
    """One step. `keys`: prefixes for LIST, which takes keys from `start` up to, and without, `stop`."""

    verb: Verb
    keys: tuple[str, ...] = ()
    body: Any = None
    start: str = ""
    stop: str = ""


class Lost(Enum):
    """The answer to a create that the client does not get: it was done, it will be done later, or never."""

    LOST = "lost"


LOST = Lost.LOST
FAULTS, FLIGHT, REWRITTEN, JOURNAL = "~faults", "~flight/", "~rewritten", "~journal/"


class Chunk(NamedTuple):
    """Where the one chunk of a version lies, and which bytes must stand there."""

    pack: str
    content: str


class Segment(NamedTuple):
    digest: str
    chunk: Chunk


class Ref(NamedTuple):
    """The body of refs/<tag>/<gen> and of refs/<tag>/<gen>.s<k>. `owner`: the client that pushes, under any push id."""

    push: str
    owner: str
    segment: str
    digest: str


class Open(NamedTuple):
    epoch: int


class Sealed(NamedTuple):
    refs: tuple[tuple[str, Ref], ...]


class Revoked(NamedTuple):
    by: str


class Condemned(NamedTuple):
    packs: tuple[str, ...]
    run: str


class Epoch(NamedTuple):
    number: int
    condemned: tuple[str, ...]


class Alias(NamedTuple):
    """The body of aliases/<name>/<n>. `mover` is empty where a mutant leaves out who moves."""

    version: str
    mover: str
    expected: str


def create(key: str, body: Any) -> Request:
    return Request(Verb.CREATE, (key,), body)


def put(key: str, body: Any) -> Request:
    return Request(Verb.PUT, (key,), body)


def get(*keys: str) -> Request:
    return Request(Verb.GET, keys)


def delete(keys: Iterable[str]) -> Request:
    return Request(Verb.DELETE, tuple(sorted(keys)))


def listing(*prefixes: str, start: str = "", stop: str = "\U0010ffff") -> Request:
    return Request(Verb.LIST, prefixes, None, start, stop)


EPOCH = Request(Verb.EPOCH)


def perform(bucket: Bucket, request: Request) -> Any:
    """Do what the request asks for, in place. Returns the answer; that to a create is the body that stands there."""
    verb, keys = request.verb, request.keys
    if verb is Verb.CREATE:
        return bucket.setdefault(keys[0], request.body)
    if verb is Verb.PUT:
        return _change(bucket, keys[0], request.body)
    if verb is Verb.GET:
        return tuple(bucket.get(key) for key in keys)
    if verb is Verb.LIST:
        found = sorted(key for key in bucket if key.startswith(keys) and request.start <= key < request.stop)
        return tuple((key, bucket[key]) for key in found)
    if verb is Verb.EPOCH:
        number = max(int(key[3:]) for key in bucket if key.startswith("gc/"))
        return Epoch(number, bucket[f"gc/{number}"].packs)
    for key in keys:
        _change(bucket, key, None)
    return None


def _change(bucket: Bucket, key: str, body: Any) -> None:
    before = bucket.pop(key, None)
    if body is not None:
        bucket[key] = body
    if key.startswith("refs/") and before not in (None, body):
        bucket[REWRITTEN] = key


def may_be_lost(bucket: Bucket, request: Request) -> bool:
    """Whether the answer to this request may get lost here."""
    faults: Faults = bucket[FAULTS]
    return request.verb is Verb.CREATE and faults.left > 0 and request.keys[0].startswith(faults.prefix)


def lose_answer(bucket: Bucket, request: Request, *, is_late: bool) -> None:
    """The client hears nothing; the request is done now, or is on its way and may be done at any time, or never."""
    bucket[FAULTS] = bucket[FAULTS]._replace(left=bucket[FAULTS].left - 1)
    if is_late:
        send(bucket, request)
    else:
        perform(bucket, request)


def send(bucket: Bucket, request: Request) -> None:
    """The request is on its way, and nobody waits for it any more."""
    bucket[f"{FLIGHT}{request.keys[0]}={request.body}"] = request


def in_flight(bucket: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in bucket if key.startswith(FLIGHT))


def land(bucket: Bucket, flight: str) -> None:
    """A request that was on its way arrives."""
    perform(bucket, bucket.pop(flight))


class Version(NamedTuple):
    """A live version: the key of its ref, and the body of the newest of what says where its chunks are."""

    key: str
    newest: Ref
    repacked: int


def generations(refs: Mapping[str, Any]) -> dict[str, int]:
    """The highest generation of every tag, live or deleted."""
    highest: dict[str, int] = {}
    for key in refs:
        _, tag, last = key.split("/")
        if "." not in last:
            highest[tag] = max(highest.get(tag, 0), int(last))
    return highest


def live(refs: Mapping[str, Any]) -> dict[str, Version]:
    """The live version of every tag that has one: the highest generation, unless that has a tombstone."""
    found = {}
    for tag, generation in generations(refs).items():
        key = f"refs/{tag}/{generation}"
        if f"{key}.x" in refs:
            continue
        newer = [int(each[len(key) + 2 :]) for each in refs if each.startswith(f"{key}.s")]
        repacked = max(newer, default=0)
        found[tag] = Version(key, refs[f"{key}.s{repacked}" if repacked else key], repacked)
    return found


class Faults(NamedTuple):
    """How many answers may yet get lost, of requests for keys that begin so."""

    left: int = 0
    prefix: str = ""


def initial(*tags: str, faults: Faults | None = None) -> Bucket:
    """A bucket with these versions (by default A), each with a pack of its own, whose pushes are long over."""
    made: Bucket = {"gc/0": Condemned((), "first"), "aliases/latest/0": Alias("A", "first", "")}
    made[FAULTS] = faults or Faults()
    for tag in tags or ("A",):
        push = tag.lower()
        chunk, segment = Chunk(f"packs/{push}/0", push), f"segments/{push}/0"
        made[chunk.pack] = chunk.content
        made[segment] = Segment(tag, chunk)
        made[f"refs/{tag}/0"] = Ref(push, push, segment, tag)
    return made
