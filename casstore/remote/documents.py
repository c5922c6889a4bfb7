"""The small documents of a remote: canonical JSON that carries its own digest, read as if a stranger had written it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import zstandard

from casstore.digest import HASH_NAME, Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.plain_json import canonical_json
from casstore.remote import keys
from casstore.remote.backend import MOST_DOCUMENT_BYTES
from casstore.storage.coding.documents import decompress_document
from casstore.tag import Tag

FORMAT = 1
_MOST_VALUES = 2_000_000  # told by what stands before each; an empty list is two bytes here, and 56 in Python
_CHECK = "check"

_T = TypeVar("_T")


def pack(kind: str, fields: Mapping[str, Any]) -> bytes:
    """A document of that kind. The same fields give the same bytes."""
    document = {**fields, "kind": kind, "format": FORMAT, "requires": [], "hash": HASH_NAME}
    check = str(Digest.of(canonical_json(document).encode("utf-8")))
    return canonical_json({**document, _CHECK: check}).encode("utf-8")


def unpack(kind: str, body: bytes, key: str) -> dict[str, Any]:
    """The fields of a document. Raises IntegrityError that names `key`, UnsupportedFormat."""
    try:
        if len(body) > MOST_DOCUMENT_BYTES:
            raise ValueError("it is too long")
        if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise ValueError("it holds more than there can be")
        document = json.loads(body)
        check = document.pop(_CHECK)
        if check != str(Digest.of(canonical_json(document).encode("utf-8"))):
            raise ValueError("it does not match its own digest")
        if document["format"] != FORMAT or document["requires"] or document["hash"] != HASH_NAME:
            raise UnsupportedFormat(f"{key} was written by a newer casstore; upgrade this one")
        if document["kind"] != kind:
            raise ValueError(f"it is not a {kind}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{key} in the remote is damaged: {error}") from error
    found: dict[str, Any] = document
    return found


class _Fields:
    """Takes typed fields out of a document, and says which one is wrong. Raises IntegrityError."""

    def __init__(self, kind: str, body: bytes, key: str) -> None:
        self._document = unpack(kind, body, key)
        self._key = key

    def get(self, name: str, kind: type[_T]) -> _T:
        value = self._document.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(name)
        return value

    def wrong(self, name: str) -> IntegrityError:
        return IntegrityError(f"{self._key} in the remote is damaged: its {name} is not what it can be")

    def number(self, name: str) -> int:
        value = self.get(name, int)
        if not 0 <= value < 1 << 63:
            raise self.wrong(name)
        return value

    def digest(self, name: str) -> Digest:
        try:
            return Digest.parse(self.get(name, str))
        except ValueError as error:
            raise self.wrong(name) from error

    def texts(self, name: str) -> list[str]:
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name)
        return values


@dataclass(frozen=True, slots=True)
class Marker:
    """`casremote`: says that a remote stands here. `id` is random: a bucket that was made again has another."""

    id: str
    single_writer: bool = False

    def pack(self) -> bytes:
        return pack("remote", {"id": self.id, "single_writer": self.single_writer})

    @classmethod
    def unpack(cls, body: bytes) -> Marker:
        """Read a marker. Raises IntegrityError, UnsupportedFormat."""
        fields = _Fields("remote", body, keys.MARKER)
        made = cls(fields.get("id", str), fields.get("single_writer", bool))
        if not keys.is_push_id(made.id):
            raise fields.wrong("id")
        return made


@dataclass(frozen=True, slots=True)
class Ref:
    """A version of a remote: what it is, and which segment says where its chunks are.

    Attributes
    ----------
    tag
        The version's tag.
    digest
        Of the version's files section, as `Model.digest`.
    manifest
        Of the bytes of its manifest.
    size
        Of its files, in bytes.
    created_at_ns
        As the manifest says, UTC.
    described
        The digest of labels, metadata and all else that is said of the version.
    labels
        What it can be found by.
    segment, segment_check, segment_bytes
        The segment's key, the digest of its header, and its size.
    push_id
        The push that wrote it.
    """

    tag: Tag
    digest: Digest
    manifest: Digest
    size: int
    created_at_ns: int
    described: Digest
    labels: Mapping[str, str]
    segment: str
    segment_check: Digest
    segment_bytes: int
    push_id: str

    def pack(self) -> bytes:
        """The bytes of the document, by which it is stored."""
        fields = {
            "name": self.tag.name,
            "version": self.tag.version,
            "digest": str(self.digest),
            "manifest": str(self.manifest),
            "size": self.size,
            "created_at": self.created_at_ns,
            "described": str(self.described),
            "labels": dict(self.labels),
            "segment": self.segment,
            "segment_check": str(self.segment_check),
            "segment_bytes": self.segment_bytes,
            "push": self.push_id,
        }
        return pack("ref", fields)

    @classmethod
    def unpack(cls, body: bytes, tag: Tag, key: str) -> Ref:
        """Read the ref of `tag`. Raises IntegrityError, also for one that names another tag or place."""
        fields = _Fields("ref", body, key)
        labels = fields.get("labels", dict)
        if not all(isinstance(text, str) for pair in labels.items() for text in pair):
            raise fields.wrong("labels")
        if (fields.get("name", str), fields.get("version", str)) != (tag.name, tag.version):
            raise fields.wrong("name")
        made = cls(
            tag,
            fields.digest("digest"),
            fields.digest("manifest"),
            fields.number("size"),
            fields.number("created_at"),
            fields.digest("described"),
            labels,
            fields.get("segment", str),
            fields.digest("segment_check"),
            fields.number("segment_bytes"),
            fields.get("push", str),
        )
        place = keys.parse_segment(made.segment)
        if place is None or place[0] != made.push_id:
            raise fields.wrong("segment")
        return made

    def says_the_same_as(self, other: Ref) -> bool:
        """Whether both are of one version with the same content and description, wherever its chunks are."""
        return (self.tag, self.digest, self.described) == (other.tag, other.digest, other.described)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Says that a version was deleted: by whom, and when by that machine's clock."""

    by: str
    at_ns: int

    def pack(self) -> bytes:
        return pack("tombstone", {"by": self.by, "at": self.at_ns})


@dataclass(frozen=True, slots=True)
class PushOpen:
    """A push has begun: the epoch that it knew, what it is to bring, and who pushes."""

    epoch: int
    tags: Sequence[str]
    content: Digest
    by: str

    def pack(self) -> bytes:
        fields = {"epoch": self.epoch, "tags": list(self.tags), "content": str(self.content), "by": self.by}
        return pack("push", fields)

    @classmethod
    def unpack(cls, body: bytes, key: str) -> PushOpen:
        fields = _Fields("push", body, key)
        return cls(fields.number("epoch"), fields.texts("tags"), fields.digest("content"), fields.get("by", str))


@dataclass(frozen=True, slots=True)
class Seen:
    """A push has checked what it relies on against what an epoch condemns."""

    epoch: int

    def pack(self) -> bytes:
        return pack("seen", {"epoch": self.epoch})


@dataclass(frozen=True, slots=True)
class PushEnd:
    """How a push has ended, whoever said so first: sealed, with the refs that are to be made, or revoked."""

    push_id: str
    is_sealed: bool
    refs: Sequence[tuple[str, str]] = ()
    by: str = ""

    def pack(self) -> bytes:
        fields = {
            "push": self.push_id,
            "state": "sealed" if self.is_sealed else "revoked",
            "refs": [list(pair) for pair in self.refs],
            "by": self.by,
        }
        return pack("end", fields)

    @classmethod
    def unpack(cls, body: bytes, push_id: str) -> PushEnd:
        """Read how that push ended. Raises IntegrityError, also for refs that could not be made, UnsupportedFormat."""
        fields = _Fields("end", body, keys.push_end(push_id))
        state = fields.get("state", str)
        rows = fields.get("refs", list)
        if fields.get("push", str) != push_id:
            raise fields.wrong("push")
        if state not in ("sealed", "revoked"):
            raise fields.wrong("state")
        for row in rows:
            is_pair = isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row)
            tag = keys.parse_ref(row[0]) if is_pair else None
            if tag is None:
                raise fields.wrong("refs")
            # Once made it would stand for ever, and nobody could read it.
            Ref.unpack(row[1].encode("utf-8", "surrogatepass"), tag, f"{keys.push_end(push_id)}: {row[0]}")
        return cls(push_id, state == "sealed", [(key, text) for key, text in rows], fields.get("by", str))


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a gc has condemned: packs that no push may rely on which has not done so before. `run` is that gc's id."""

    number: int
    run: str
    condemned: Collection[str]

    def pack(self) -> bytes:
        return pack("epoch", {"epoch": self.number, "run": self.run, "condemned": sorted(self.condemned)})

    @classmethod
    def unpack(cls, body: bytes, number: int) -> Epoch:
        fields = _Fields("epoch", body, keys.epoch(number))
        condemned = fields.texts("condemned")
        if fields.number("epoch") != number:
            raise fields.wrong("epoch")
        if any(keys.parse_pack(key) is None for key in condemned):
            raise fields.wrong("condemned")
        return cls(number, fields.get("run", str), frozenset(condemned))


@dataclass(frozen=True, slots=True)
class Summary:
    """Refs by their keys, as they stand, in one object: it saves who has none of them yet as many requests.

    Refs never change, so that one of any age is right in what it says, and may lack what is newer.
    """

    refs: Mapping[str, str]

    def pack(self) -> bytes:
        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(
            pack("summary", {"refs": dict(self.refs)})
        )

    @classmethod
    def unpack(cls, body: bytes, key: str) -> Summary:
        """Read a summary; the refs in it are not. Raises IntegrityError, UnsupportedFormat."""
        try:
            document = decompress_document(body, MOST_DOCUMENT_BYTES)
        except IntegrityError as error:
            raise IntegrityError(f"{key} in the remote is damaged: {error}") from error
        fields = _Fields("summary", document, key)
        refs = fields.get("refs", dict)
        if not all(isinstance(text, str) for pair in refs.items() for text in pair):
            raise fields.wrong("refs")
        return cls(refs)
