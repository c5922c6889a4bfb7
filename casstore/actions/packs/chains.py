"""Which chunk another may be stored against where not all of a store travels, and what reading it takes then."""

from __future__ import annotations

from dataclasses import dataclass, field

from casstore.actions.packs.bases import choose_base
from casstore.catalog.index import DeltaLink
from casstore.digest import Digest
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.pack import PackEntry


@dataclass(slots=True)
class Chains:
    """The chunks that are there already where others go, as possible bases of these."""

    links: dict[Digest, DeltaLink] = field(default_factory=dict)

    def link(self, predecessor: Digest) -> DeltaLink | None:
        """Which of the predecessor and what it stands on a chunk should be stored against, if any."""
        return choose_base(predecessor, self.links)

    def takes(self, base: Digest, grouping: Digest, length: int) -> bool:  # noqa: ARG002 - costs are a subclass's
        """Whether a record of that length that stands on these may go as it is."""
        on, by = self.links.get(base), self.links.get(grouping)
        return on is not None and by is not None and by.base is None and on.depth < MAX_DELTA_LINKS

    def note(self, entry: PackEntry, predecessor: Digest | None) -> None:
        """Note a chunk that is there from now on. `predecessor`: of which it is the next version."""
        before = None if predecessor is None else self.links.get(predecessor)
        if entry.base is None:
            self.links[entry.digest] = DeltaLink(entry.digest, None, None, 0, 0)
            return
        generation = 1 if before is None else max(1, before.generation + 1)
        depth = self.links[entry.base].depth + 1
        self.links[entry.digest] = DeltaLink(entry.digest, entry.base, entry.grouping, depth, generation)


@dataclass(slots=True)
class BoundedChains(Chains):
    """Chains in which a chunk and all that it stands on take at most so much as the chunk would take by itself.

    So whoever has nothing yet reads at most `most` times what the version takes without deltas.
    """

    most: float = 1.5
    _bytes: dict[Digest, int] = field(default_factory=dict)  # of the chunk and all that it stands on
    _alone: dict[Digest, int] = field(default_factory=dict)  # of what the chain begins with

    def add(self, link: DeltaLink, length: int) -> None:
        """Note a chunk that is there, in a record of that length; its base has been noted."""
        self.links[link.digest] = link
        self._count(link.digest, link.base, length)

    def link(self, predecessor: Digest) -> DeltaLink | None:
        """See Chains."""
        link = choose_base(predecessor, self.links)
        while link is not None:
            alone, on = self._alone[link.digest], self._bytes[link.digest]
            # What it will take is told by the step before it, or by experience where that stands alone.
            expected = on - self._bytes[link.base] if link.base is not None else alone // 4
            if on + expected <= self.most * alone:
                return link
            link = None if link.base is None else self.links.get(link.base)
        return None

    def takes(self, base: Digest, grouping: Digest, length: int) -> bool:
        """See Chains."""
        may = Chains.takes(self, base, grouping, length)
        return may and self._bytes[base] + length <= self.most * self._alone[base]

    def note(self, entry: PackEntry, predecessor: Digest | None) -> None:
        """See Chains."""
        Chains.note(self, entry, predecessor)
        self._count(entry.digest, entry.base, entry.length)

    def _count(self, digest: Digest, base: Digest | None, length: int) -> None:
        self._bytes[digest] = length + (0 if base is None else self._bytes[base])
        self._alone[digest] = length if base is None else self._alone[base]
