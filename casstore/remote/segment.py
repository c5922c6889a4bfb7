"""Segments: one version's manifest, and where in which pack each of its chunks is, and all that those need.

    header   124 B  magic "casssegm", u16 format, u16 requires, u32 hash (1: BLAKE3-256), then of each of the three
                    sections u32 length and its BLAKE3-256
    packs           zstd of msgpack: [[push id (16 B), number, size, BLAKE3-256], ...]
    manifest        as in a store
    chunks          zstd of msgpack, column by column: see `_pack_chunks`

The packs come first so that gc needs the beginning alone. Integers are little-endian. docs/format.md is the contract.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgpack
import zstandard

from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.remote import keys
from casstore.storage.bounded_msgpack import Unpacking
from casstore.storage.coding.documents import decompress_document
from casstore.storage.coding.encodings import Encoding
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import MAX_CHUNK_BYTES

FORMAT = 1
_HASH_BLAKE3_256 = 1
_MAGIC = b"casssegm"
_HEADER = struct.Struct("<8sHHI" + "I32s" * 3)
HEADER_BYTES = _HEADER.size
_FIRST_RECORD = 16  # a pack's header stands before it
MOST_BYTES = 1 << 30  # of a segment, and of each section decompressed
# A record: its header, extension and encoded bytes.
_LEAST_RECORD_BYTES = 48
_MOST_RECORD_BYTES = _LEAST_RECORD_BYTES + 0xFFFF + MAX_CHUNK_BYTES
_COLUMNS = 8
_PACK_ITEMS = 6
_NUMBER_BYTES = 9
_ANY_SECTION_BYTES = 1024
_ANY_SECTION_ITEMS = 64


class PackInfo(NamedTuple):
    """A pack of the remote: its key, its size in bytes, and the digest of the whole."""

    key: str
    size: int
    digest: Digest


class ChunkPlace(NamedTuple):
    """Where a chunk's record is, in which of the segment's packs, and what it is: see `container.Location`."""

    pack: int
    offset: int
    length: int
    raw_bytes: int
    encoding: int
    base: Digest | None = None
    grouping: Digest | None = None


class Header(NamedTuple):
    """The lengths and digests of a segment's sections, in order: packs, manifest, chunks."""

    sections: tuple[tuple[int, Digest], ...]

    @classmethod
    def unpack(cls, data: bytes, check: Digest, key: str) -> Header:
        """Read a segment's header, whose digest its ref gives. Raises IntegrityError, UnsupportedFormat."""
        header = data[:HEADER_BYTES]
        if len(header) < HEADER_BYTES or Digest.of(header) != check:
            raise IntegrityError(f"{key} in the remote is damaged: its header is not what its ref says")
        magic, format_number, requires, hash_number, *sections = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise IntegrityError(f"{key} in the remote is not a segment")
        if format_number != FORMAT or requires or hash_number != _HASH_BLAKE3_256:
            raise UnsupportedFormat(f"{key} in the remote was written by a newer casstore; upgrade this one")
        made = cls(tuple((sections[i], Digest(sections[i + 1])) for i in (0, 2, 4)))
        if made.size > MOST_BYTES:
            raise IntegrityError(f"{key} in the remote is damaged: it is too long")
        return made

    @property
    def size(self) -> int:
        """Of the whole segment, in bytes."""
        return HEADER_BYTES + sum(length for length, _ in self.sections)

    @property
    def packs_end(self) -> int:
        """How many bytes from the start hold the header and the list of packs."""
        return HEADER_BYTES + self.sections[0][0]


@dataclass(frozen=True)
class Segment:
    """One version of a remote, wholly: `chunks` has those of the manifest, in order of first use, and what they need.

    Its packs may have been written by other pushes.
    """

    manifest: Manifest
    packs: Sequence[PackInfo]
    chunks: Mapping[Digest, ChunkPlace]

    def pack(self) -> bytes:
        """The segment's bytes."""
        first = chunks_of(self.manifest)
        ordered = [*first, *(digest for digest in self.chunks if digest not in first)]
        sections = [
            _compress(msgpack.packb([_pack_row(info) for info in self.packs])),
            self.manifest.pack(),
            _pack_chunks(ordered, len(first), self.chunks),
        ]
        fields = [field for section in sections for field in (len(section), Digest.of(section))]
        return b"".join([_HEADER.pack(_MAGIC, FORMAT, 0, _HASH_BLAKE3_256, *fields), *sections])

    @classmethod
    def unpack(cls, data: bytes, check: Digest, key: str) -> Segment:
        """Read a segment, trusting nothing; `check` is the digest of its header, from its ref.

        Raises IntegrityError that names `key`, UnsupportedFormat.
        """
        header = Header.unpack(data, check, key)
        if len(data) != header.size:
            raise IntegrityError(f"{key} in the remote is damaged: it is cut short, or more follows")
        packs = unpack_packs(data, header, key)
        with _named(key):
            manifest = Manifest.unpack(_section(data, header, 1))
            chunks = _unpack_chunks(_section(data, header, 2), manifest, packs)
        return cls(manifest, packs, chunks)

    @cached_property
    def depths(self) -> dict[Digest, int]:
        """How many deltas reading each chunk decodes."""
        return _depths(self.chunks)


def chunks_of(manifest: Manifest) -> dict[Digest, int]:
    """The chunks of a version, each once, in order of first use, with their raw bytes."""
    found: dict[Digest, int] = {}
    for file in manifest.files:
        for segment in manifest.recipe_of(file).segments:
            for digest, length in segment.chunks:
                found.setdefault(digest, length)
    return found


def unpack_packs(data: bytes, header: Header, key: str) -> list[PackInfo]:
    """The packs that a segment names, out of as much of it as holds them. Raises IntegrityError."""
    with _named(key):
        section = _section(data, header, 0)
        # Digests do not shrink, so that their bytes bound how many rows there are.
        rows = _unpack(section, len(section) // DIGEST_BYTES, _PACK_ITEMS)
        packs = [_pack_info(*row[:4]) for row in rows]
        if len({info.key for info in packs}) != len(packs):
            raise ValueError("it names a pack twice")
    return packs


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Have errors of what is read out of a segment name it."""
    try:
        yield
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{key} in the remote: {error}") from error
    except (IntegrityError, msgpack.UnpackException, ValueError, TypeError, LookupError) as error:
        raise IntegrityError(f"{key} in the remote is damaged: {error}") from error


def _section(data: bytes, header: Header, number: int) -> bytes:
    start = HEADER_BYTES + sum(length for length, _ in header.sections[:number])
    length, digest = header.sections[number]
    section = data[start : start + length]
    if Digest.of(section) != digest:
        raise ValueError("a part of it does not match its digest")
    return section


def _pack_row(info: PackInfo) -> list[Any]:
    place = keys.parse_pack(info.key)
    if place is None:
        raise ValueError(f"{info.key} is not a pack's key")
    return [bytes.fromhex(place[0]), place[1], info.size, info.digest]


def _pack_info(push_id: bytes, number: int, size: int, digest: bytes) -> PackInfo:
    if type(push_id) is not bytes or len(push_id) != 16:
        raise ValueError("a pack's push has no possible id")
    if type(number) is not int or type(size) is not int or not (0 <= number < 1 << 53 and 0 < size < 1 << 40):
        raise ValueError("a pack's number or size is out of range")
    return PackInfo(keys.pack(push_id.hex(), number), size, Digest.from_bytes(digest))


def _pack_chunks(ordered: Sequence[Digest], named: int, chunks: Mapping[Digest, ChunkPlace]) -> bytes:
    """The columns: digests that the manifest does not have (in one), then of each chunk its pack; the gap between where
    its record starts and where the one before it in the table ends, in the same pack, or the pack's header; length; raw
    bytes; encoding; base and grouping as rows counted from 1, 0 for none, the grouping 0 where it is the base.
    """
    row_of = {digest: row for row, digest in enumerate(ordered, 1)}
    columns: list[list[int]] = [[] for _ in range(_COLUMNS - 1)]
    before: ChunkPlace | None = None
    for digest in ordered:
        place = chunks[digest]
        follows = before is not None and before.pack == place.pack
        end = before.offset + before.length if before is not None and follows else _FIRST_RECORD
        grouping = None if place.grouping == place.base else place.grouping
        row = (
            place.pack,
            place.offset - end,
            place.length,
            place.raw_bytes,
            place.encoding,
            0 if place.base is None else row_of[place.base],
            0 if grouping is None else row_of[grouping],
        )
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        before = place
    return _compress(msgpack.packb([b"".join(ordered[named:]), *columns]))


def _unpack_chunks(section: bytes, manifest: Manifest, packs: Sequence[PackInfo]) -> dict[Digest, ChunkPlace]:
    first = chunks_of(manifest)
    more, *columns = _unpack(section, len(first) + len(section) // DIGEST_BYTES, _COLUMNS)[:_COLUMNS]
    if type(more) is not bytes or len(more) % DIGEST_BYTES:
        raise ValueError("its digests are cut short")
    ordered = [*first, *(Digest(more[at : at + DIGEST_BYTES]) for at in range(0, len(more), DIGEST_BYTES))]
    if len(set(ordered)) != len(ordered):
        raise ValueError("a chunk stands in it twice")
    if len(columns) != _COLUMNS - 1 or any(len(column) != len(ordered) for column in columns):
        raise ValueError("it does not say of each chunk where it is")
    chunks: dict[Digest, ChunkPlace] = {}
    before: ChunkPlace | None = None
    for digest, row in zip(ordered, zip(*columns, strict=True), strict=True):
        before = chunks[digest] = _place(row, before, ordered, packs)
        if chunks[digest].raw_bytes != first.get(digest, chunks[digest].raw_bytes):
            raise ValueError(f"chunk {digest} has another length than its recipe says")
    _depths(chunks)
    return chunks


def _place(
    row: Sequence[Any], before: ChunkPlace | None, ordered: Sequence[Digest], packs: Sequence[PackInfo]
) -> ChunkPlace:
    if not all(type(value) is int for value in row):
        raise TypeError("a number in it is none")
    pack, gap, length, raw_bytes, encoding, base, grouping = row
    if not (0 <= pack < len(packs) and 0 <= base <= len(ordered) and 0 <= grouping <= len(ordered)):
        raise ValueError("a chunk's pack or base is out of range")
    offset = gap + (before.offset + before.length if before is not None and before.pack == pack else _FIRST_RECORD)
    is_within = _FIRST_RECORD <= offset < offset + length <= packs[pack].size
    if not (is_within and _LEAST_RECORD_BYTES <= length <= _MOST_RECORD_BYTES and 0 < raw_bytes <= MAX_CHUNK_BYTES):
        raise ValueError("a chunk's place is out of range")
    if (encoding == Encoding.DELTA) != bool(base) or (grouping and not base):
        raise ValueError("a chunk is a delta without a base, or has one and is none")
    base_digest = ordered[base - 1] if base else None
    return ChunkPlace(
        pack, offset, length, raw_bytes, encoding, base_digest, ordered[grouping - 1] if grouping else base_digest
    )


def _depths(chunks: Mapping[Digest, ChunkPlace]) -> dict[Digest, int]:
    """Raises ValueError for chains that go in a circle or are too long, and for bases that no delta can have."""
    depths: dict[Digest, int] = {}
    for digest in chunks:
        chain: list[Digest] = []
        at: Digest | None = digest
        while at is not None and at not in depths:
            chain.append(at)
            if len(chain) > MAX_DELTA_LINKS + 1:
                raise ValueError("a chain of deltas is too long, or goes in a circle")
            at = chunks[at].base
        depth = -1 if at is None else depths[at]
        for link in reversed(chain):
            depth += 1
            depths[link] = depth
        if depths[digest] > MAX_DELTA_LINKS:
            raise ValueError("a chain of deltas is too long")
    for place in chunks.values():
        if place.grouping is not None and chunks[place.grouping].base is not None:
            raise ValueError("a delta groups the elements of another")
        if any(chunks[on].raw_bytes != place.raw_bytes for on in (place.base, place.grouping) if on is not None):
            raise ValueError("a delta's base has another length")
    return depths


def needed(
    digests: Iterable[Digest], chunks: Mapping[Digest, ChunkPlace], here: Collection[Digest] = ()
) -> set[Digest]:
    """These chunks and all that decoding them takes, but what is `here` already."""
    found: set[Digest] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest not in found and digest not in here:
            found.add(digest)
            place = chunks[digest]
            waiting += [each for each in (place.base, place.grouping) if each is not None]
    return found


def _compress(document: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(document)


def _unpack(section: bytes, most_rows: int, columns: int) -> Any:
    """A section that has at most so many rows, of numbers and digests. Raises IntegrityError, ValueError."""
    most_bytes = _ANY_SECTION_BYTES + most_rows * (DIGEST_BYTES + columns * _NUMBER_BYTES)
    packed = decompress_document(section, min(MOST_BYTES, most_bytes))
    return Unpacking(_ANY_SECTION_ITEMS + most_rows * (columns + 1)).unpack(packed)
