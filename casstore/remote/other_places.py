"""Where else a chunk may be read, when its place is gone or damaged: other versions may have it in another pack."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from casstore.digest import Digest
from casstore.remote.segment import ChunkPlace, PackInfo, Segment, chunks_of, needed
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.manifest import Manifest


@dataclass(slots=True)
class BadPlaces:
    """What was found while chunks were read: keys of packs that are gone or cut short, and records that are damaged."""

    packs: set[str] = field(default_factory=set)
    records: set[tuple[str, Digest]] = field(default_factory=set)

    def is_bad(self, pack: str, digest: Digest) -> bool:
        """Whether the chunk cannot be read from that pack."""
        return pack in self.packs or (pack, digest) in self.records

    def is_doubtful(self, pack: str) -> bool:
        """Whether something is wrong with a pack, so that more may be."""
        return pack in self.packs or any(pack == key for key, _ in self.records)

    def add(self, pack: str, digest: Digest | None) -> bool:
        """Note a record, or with None a pack as a whole; returns whether that was not known."""
        if pack in self.packs or (pack, digest) in self.records:
            return False
        if digest is None:
            self.packs.add(pack)
        else:
            self.records.add((pack, digest))
        return True

    def spoils(self, segment: Segment) -> bool:
        """Whether one of the chunks of a segment has a bad place in it."""
        return any(self.is_bad(segment.packs[place.pack].key, each) for each, place in segment.chunks.items())

    def avoided(self, segment: Segment, others: Collection[Segment]) -> Segment | None:
        """The version of a segment with its chunks at other places, as far as others have them; None where none fit.

        What has no other place keeps its own.
        """
        found = _Places(segment)
        sources = (segment, *others)
        found.add_all(sources, lambda pack, _: not self.is_doubtful(pack))
        found.add_all(sources, lambda pack, digest: not self.is_bad(pack, digest))
        found.add_all([segment], lambda _pack, _digest: True)
        return assembled(segment.manifest, found.places) if found.is_whole else None


class _Places:
    """Of each chunk the first place that was found, and that can be read with what had been found before it."""

    def __init__(self, segment: Segment) -> None:
        self._first = chunks_of(segment.manifest)
        self.places: dict[Digest, tuple[PackInfo, ChunkPlace]] = {}
        self._depths: dict[Digest, int] = {}

    @property
    def is_whole(self) -> bool:
        return self._first.keys() <= self.places.keys()

    def add_all(self, sources: Collection[Segment], may: Callable[[str, Digest], bool]) -> None:
        """Add what these segments have, until that is nothing more."""
        before = -1
        while before < len(self.places):
            before = len(self.places)
            for segment in sources:
                for digest in sorted(segment.chunks.keys() - self.places.keys(), key=segment.depths.__getitem__):
                    place = segment.chunks[digest]
                    if may(segment.packs[place.pack].key, digest):
                        self._add(digest, segment.packs[place.pack], place)

    def _add(self, digest: Digest, info: PackInfo, place: ChunkPlace) -> None:
        if place.raw_bytes != self._first.get(digest, place.raw_bytes):
            return  # a stranger's segment may say anything
        depth = 0
        if place.base is not None and place.grouping is not None:
            if not {place.base, place.grouping} <= self.places.keys() or self._depths[place.grouping]:
                return
            if any(self.places[on][1].raw_bytes != place.raw_bytes for on in (place.base, place.grouping)):
                return
            depth = self._depths[place.base] + 1
        if depth <= MAX_DELTA_LINKS:
            self.places[digest], self._depths[digest] = (info, place), depth


def assembled(manifest: Manifest, places: Mapping[Digest, tuple[PackInfo, ChunkPlace]]) -> Segment:
    """The segment of a version whose chunks are at these places. Raises KeyError where one has none."""
    first = chunks_of(manifest)
    wanted = needed(first, {digest: place for digest, (_, place) in places.items()})
    packs: dict[PackInfo, int] = {}
    chunks = {}
    for digest in [*first, *sorted(wanted - first.keys())]:
        pack, place = places[digest]
        chunks[digest] = place._replace(pack=packs.setdefault(pack, len(packs)))
    return Segment(manifest, list(packs), chunks)
