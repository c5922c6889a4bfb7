"""The names of all that stands in a remote, and what a listing of refs says. docs/format.md has the layout.

casremote                           the marker
refs/<name>/<version>/<gen>         a commit; gen counts 0, 1, ... as a deleted tag is pushed again
refs/<name>/<version>/<gen>.x       it has been deleted
refs/<name>/<version>/<gen>.s<k>    the same version, repacked: the highest k says where its chunks are
refs/<name>/<version>/<gen>.<digest>.sig    a signature of it; the digest is that of the object
packs/<push>/<n>.pack               chunks
segments/<push>/<n>                 one version's manifest, and where each of its chunks is
pushes/<push>/open, /v<epoch>, /end
gc/<epoch>                          what no new push may rely on
summaries/<n>                       many refs in one object, for who has none of them yet
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from casstore.digest import Digest
from casstore.errors import InvalidTag
from casstore.tag import Tag

MARKER = "casremote"
REFS = "refs/"
PACKS = "packs/"
SEGMENTS = "segments/"
PUSHES = "pushes/"
EPOCHS = "gc/"
SUMMARIES = "summaries/"
PROBE = "probe"

_PUSH_ID = re.compile(r"[0-9a-f]{32}")
_NUMBER = r"(0|[1-9][0-9]{0,999})"  # whatever stands in a bucket, the next number is one too
_REF = re.compile(rf"refs/([^/]+)/([^/]+)/{_NUMBER}(?:(\.x)|\.s{_NUMBER})?")
_SIGNATURE = re.compile(rf"refs/([^/]+)/([^/]+)/{_NUMBER}\.([0-9a-f]{{64}})\.sig")
_PACK = re.compile(rf"packs/([0-9a-f]{{32}})/{_NUMBER}\.pack")
_SEGMENT = re.compile(rf"segments/([0-9a-f]{{32}})/{_NUMBER}")
_PUSH = re.compile(rf"pushes/([0-9a-f]{{32}})/(?:(open)|(end)|v{_NUMBER})")
_EPOCH = re.compile(rf"gc/{_NUMBER}")
_SUMMARY = re.compile(rf"summaries/{_NUMBER}")


def new_push_id() -> str:
    """A name that no push has had, and none will have again."""
    return secrets.token_hex(16)


def ref_prefix(tag: Tag) -> str:
    return f"{REFS}{tag.name}/{tag.version}/"


def ref(tag: Tag, generation: int) -> str:
    return f"{ref_prefix(tag)}{generation}"


def tombstone(tag: Tag, generation: int) -> str:
    return f"{ref(tag, generation)}.x"


def signature(tag: Tag, generation: int, digest: Digest) -> str:
    return f"{ref(tag, generation)}.{digest.hex()}.sig"


def pack(push_id: str, number: int) -> str:
    return f"{PACKS}{push_id}/{number}.pack"


def segment(push_id: str, number: int) -> str:
    return f"{SEGMENTS}{push_id}/{number}"


def new_number() -> int:
    """A number that no pack and no segment of a push has."""
    return secrets.randbits(48)


def push_prefix(push_id: str) -> str:
    return f"{PUSHES}{push_id}/"


def push_open(push_id: str) -> str:
    return f"{PUSHES}{push_id}/open"


def push_seen(push_id: str, epoch: int) -> str:
    return f"{PUSHES}{push_id}/v{epoch}"


def push_end(push_id: str) -> str:
    return f"{PUSHES}{push_id}/end"


def epoch(number: int) -> str:
    return f"{EPOCHS}{number}"


def is_push_id(text: str) -> bool:
    return _PUSH_ID.fullmatch(text) is not None


def parse_pack(key: str) -> tuple[str, int] | None:
    """The push and the number of a pack's key; None for a key of another kind."""
    found = _PACK.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))


def parse_segment(key: str) -> tuple[str, int] | None:
    """The push and the number of a segment's key; None for a key of another kind."""
    found = _SEGMENT.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))


def parse_push(key: str) -> str | None:
    """The push whose record has that key; None for a key of another kind."""
    found = _PUSH.fullmatch(key)
    return None if found is None else found[1]


def parse_ref(key: str) -> Tag | None:
    """The tag of a ref's key, also of one that was repacked; None for a key of another kind, as that of a tombstone."""
    found = _REF.fullmatch(key)
    return None if found is None or found[4] is not None else _tag(found[1], found[2])


def parse_signature(key: str) -> Digest | None:
    """The digest in a signature's key, which is that of its bytes; None for a key of another kind."""
    found = _SIGNATURE.fullmatch(key)
    return None if found is None else Digest.parse(found[4])


def parse_epoch(key: str) -> int | None:
    """The number of an epoch's key; None for a key of another kind."""
    found = _EPOCH.fullmatch(key)
    return None if found is None else int(found[1])


def summary(number: int) -> str:
    return f"{SUMMARIES}{number}"


def parse_summary(key: str) -> int | None:
    """The number of a summary's key; None for a key of another kind."""
    found = _SUMMARY.fullmatch(key)
    return None if found is None else int(found[1])


@dataclass(slots=True)
class PushState:
    """What a listing of `pushes/` says of one push."""

    is_open: bool = False
    has_ended: bool = False
    seen: int = -1  # the newest epoch that it says to have seen after it was opened
    opened_ns: int = 0  # by the store's clock
    modified_ns: int = 0


def pushes(entries: Iterable[tuple[str, int]]) -> dict[str, PushState]:
    """The pushes in a listing of keys with times. Keys of another kind are passed over."""
    found: dict[str, PushState] = {}
    for key, modified_ns in entries:
        match = _PUSH.fullmatch(key)
        if match is None:
            continue
        state = found.setdefault(match[1], PushState())
        if match[2] is not None:
            state.is_open, state.opened_ns = True, modified_ns
        state.has_ended |= match[3] is not None
        if match[4] is not None:
            state.seen = max(state.seen, int(match[4]))
        state.modified_ns = max(state.modified_ns, modified_ns)
    return found


@dataclass(slots=True)
class RefState:
    """What a listing of `refs/` says of one tag.

    Attributes
    ----------
    generation
        The highest that has a ref; -1 where there are only tombstones.
    is_deleted
        Whether that generation has a tombstone.
    repacked
        The highest `.s<k>` of that generation, or None.
    """

    generation: int = -1
    repacked: int | None = None
    _deleted: set[int] = field(default_factory=set)
    _signatures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def is_deleted(self) -> bool:
        return self.generation in self._deleted

    @property
    def next_generation(self) -> int:
        """The one under which the tag is pushed again."""
        return max(self.generation, *self._deleted, -1) + 1

    @property
    def is_live(self) -> bool:
        return self.generation >= 0 and not self.is_deleted

    @property
    def signatures(self) -> list[str]:
        """The keys of the signatures of the version that is there, in the order of the listing."""
        return [key for generation, key in self._signatures if self.is_live and generation == self.generation]

    @property
    def dead_signatures(self) -> list[str]:
        """The keys of those of versions that are not there, and never will be again."""
        return [
            key for generation, key in self._signatures if generation < self.generation or generation in self._deleted
        ]

    def key(self, tag: Tag) -> str:
        """The key of the document that says where the version's chunks are now."""
        suffix = "" if self.repacked is None else f".s{self.repacked}"
        return f"{ref(tag, self.generation)}{suffix}"

    def next_repacked(self, tag: Tag) -> str:
        """The key under which a repacked version's document goes."""
        number = 0 if self.repacked is None else self.repacked + 1
        return f"{ref(tag, self.generation)}.s{number}"


def refs(keys: Iterable[str]) -> dict[Tag, RefState]:
    """The tags in a listing of refs. Keys of another kind, and what no tag can be called, are passed over."""
    found: dict[Tag, RefState] = {}
    repacked: dict[tuple[Tag, int], int] = {}
    for key in keys:
        match = _REF.fullmatch(key) or _SIGNATURE.fullmatch(key)
        tag = None if match is None else _tag(match[1], match[2])
        if match is None or tag is None:
            continue
        state = found.setdefault(tag, RefState())
        generation = int(match[3])
        if match.re is _SIGNATURE:
            state._signatures.append((generation, key))
        elif match[4] is not None:
            state._deleted.add(generation)
        elif match[5] is not None:
            repacked[tag, generation] = max(repacked.get((tag, generation), 0), int(match[5]))
        else:
            state.generation = max(state.generation, generation)
    for tag, state in found.items():
        state.repacked = repacked.get((tag, state.generation))
    return found


def live(states: Mapping[Tag, RefState]) -> dict[Tag, str]:
    """The keys of the documents of the versions that are there and not deleted."""
    return {tag: state.key(tag) for tag, state in states.items() if state.is_live}


def _tag(name: str, version: str) -> Tag | None:
    if (name, version) != (name.lower(), version.lower()):
        return None
    try:
        return Tag(name, version)
    except InvalidTag:
        return None
