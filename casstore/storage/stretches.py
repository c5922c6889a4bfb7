"""Neighbouring chunks of a blob, and the parts of packs that they need, so that each part is read at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from casstore.digest import Digest
from casstore.storage import pack
from casstore.storage.container import Container, Location
from casstore.storage.recipe import Chunk

# What one thread reads, decodes and hands on at a time: enough for what is done once for each to vanish, and little
# enough for a few of them to fit in memory.
_STRETCH_BYTES = 2 << 20
_STRETCH_CHUNKS = 64
# To read this much that is not needed takes less time than another read.
_GAP_BYTES = 128 << 10
_PART_BYTES = 4 << 20
# Of one stretch: chunks of the largest size, or a damaged catalog, would need more. The rest is read record by record.
_PARTS_BYTES = 16 << 20


class Record(NamedTuple):
    """A record that is needed, and where it stands."""

    digest: Digest
    offset: int
    length: int


class Part(NamedTuple):
    """A part of a pack that begins and ends with records that are needed."""

    container: Container
    records: list[Record]

    @property
    def start(self) -> int:
        return self.records[0].offset

    @property
    def length(self) -> int:
        last = self.records[-1]
        return last.offset + last.length - self.start


def stretches(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in their order, so many at a time as are worth a thread's while."""
    stretch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if stretch and (size + chunk.length > _STRETCH_BYTES or len(stretch) == _STRETCH_CHUNKS):
            yield stretch
            stretch, size = [], 0
        stretch.append(chunk)
        size += chunk.length
    if stretch:
        yield stretch


def parts(chunks: Iterable[Chunk], locations: Mapping[Digest, Location]) -> list[Part]:
    """The parts of packs that decoding these chunks takes, as far as the locations lead and are possible."""
    found = {digest: locations[digest] for digest in _needed(chunks, locations)}
    ordered = sorted(
        (location.container.file_id, location.offset, location.length, digest)
        for digest, location in found.items()
        if location.container.is_pack and location.offset >= 0 and 0 < location.length <= pack.MAX_RECORD_BYTES
    )
    made: list[Part] = []
    size = end = 0
    for file_id, offset, length, digest in ordered:
        record = Record(digest, offset, length)
        last = made[-1] if made else None
        if (
            last is not None
            and last.container.file_id == file_id
            and end <= offset <= end + _GAP_BYTES
            and offset + length - last.start <= _PART_BYTES
        ):
            size += offset - end + length
            if size > _PARTS_BYTES:
                break
            last.records.append(record)
        else:
            size += length
            if size > _PARTS_BYTES:
                break
            made.append(Part(found[digest].container, [record]))
        end = offset + length
    return made


def _needed(chunks: Iterable[Chunk], locations: Mapping[Digest, Location]) -> set[Digest]:
    """These chunks and all that decoding them takes, as far as locations are known."""
    found: set[Digest] = set()
    waiting = [chunk.digest for chunk in chunks]
    while waiting:
        digest = waiting.pop()
        location = locations.get(digest)
        if location is not None and digest not in found:
            found.add(digest)
            waiting += [each for each in (location.base, location.grouping) if each is not None]
    return found
