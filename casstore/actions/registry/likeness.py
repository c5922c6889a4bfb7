"""How much two versions have in common, told from recipes alone: no content is read."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from casstore.actions.workspace import Workspace
from casstore.catalog.parents import Parents
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import InvalidSetting
from casstore.late_classes import dataclass
from casstore.progress import Progress
from casstore.storage.recipe import chunk_contents, tensor_contents
from casstore.tag import Tag

MOST_LIKELY = 1000
# Of more tensors, or chunks, of a version so many are looked for: a bit for each, of each blob of the store, must fit
# into memory.
MOST_SOUGHT = 16_384
_MOST_KEPT = 1_000_000  # contents of versions that are kept to be compared with the next: some 100 MB


class Common(NamedTuple):
    """How many of a version's tensors, or chunks where it has no tensors, stand in another one just the same."""

    equal: int
    total: int
    unit: str

    @property
    def changed(self) -> float:
        """The share that does not."""
        return 1 - self.equal / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class LikelyParent:
    """A version that another one may have come from.

    Attributes
    ----------
    tag
        Its tag.
    digest
        Its content's digest.
    equal
        How many of the other one's tensors stand in it just the same, wherever and under whatever names.
    total
        How many tensors the other one has; where it has more than 16,384, so many of them are looked for.
    unit
        `tensors`; or `chunks` where the other one has no tensors, whose chunks are compared then.
    """

    tag: Tag
    digest: Digest
    equal: int
    total: int
    unit: str

    @property
    def share(self) -> float:
        """`equal` as a part of `total`, from 0 to 1."""
        return self.equal / self.total


class Likeness:
    """Compares versions two at a time; what was read of the last ones is kept."""

    def __init__(self, workspace: Workspace) -> None:
        self._parents = workspace.catalog.parents
        self._kept: OrderedDict[int, tuple[list[bytes], list[bytes]]] = OrderedDict()
        self._count = 0

    def common(self, child: VersionRow, parent: VersionRow) -> Common | None:
        """What of the child stands in its parent; None where the two are of different kinds, such as a model and a
        dataset. Raises IntegrityError."""
        ours, theirs = self.contents(child.id), self.contents(parent.id)
        if bool(ours[0]) != bool(theirs[0]):
            return None
        unit = "tensors" if ours[0] else "chunks"
        mine, known = (ours[0], set(theirs[0])) if ours[0] else (ours[1], set(theirs[1]))
        return Common(sum(each in known for each in mine), len(mine), unit)

    def contents(self, version_id: int) -> tuple[list[bytes], list[bytes]]:
        """The contents of a version's tensors, or where it has none of its chunks. Raises IntegrityError."""
        if version_id in self._kept:
            self._kept.move_to_end(version_id)
            return self._kept[version_id]
        recipes = self._parents.recipes_of(version_id)
        tensors = [each for recipe in recipes for each in tensor_contents(*recipe)]
        chunks = [] if tensors else [each for recipe in recipes for each in chunk_contents(*recipe)]
        self._kept[version_id] = tensors, chunks
        self._count += len(tensors) + len(chunks)
        while self._count > _MOST_KEPT and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._count -= sum(map(len, gone))
        return tensors, chunks


def likely_parents(
    workspace: Workspace, row: VersionRow, name: str | None, limit: int, progress: Progress
) -> list[LikelyParent]:
    """The versions that this one most likely came from, the likeliest first: those with most of its tensors, and of
    equal ones the last before it. What came from it is none of them.

    Every recipe of the store is looked at once, a few in memory at a time. Raises IntegrityError.
    """
    if not 0 < limit <= MOST_LIKELY:
        raise InvalidSetting(f"the most that are listed is a number from 1 to {MOST_LIKELY:,}, not {limit}")
    tensors, chunks = Likeness(workspace).contents(row.id)
    sought = _Sought.of(tensors or chunks)
    unit = "tensors" if tensors else "chunks"
    catalog = workspace.catalog
    among = None if name is None else {Digest(blob) for _, blob in catalog.parents.blobs_of_versions(name)}
    found = _found(catalog.parents, sought, among, tensor_contents if tensors else chunk_contents, progress)
    ours = catalog.parents.descendants(row.id)
    scores = (
        (equal, version_id < row.id, -abs(row.id - version_id), version_id)
        for version_id, equal in _scores(catalog.parents.blobs_of_versions(name), found, sought)
        if version_id not in ours
    )
    made = []
    for equal, _, _, version_id in heapq.nlargest(limit, scores):
        other = catalog.versions.by_id(version_id)
        if other is not None:
            made.append(LikelyParent(other.tag, Digest(other.digest), equal, sought.total, unit))
    return made


class _Sought(NamedTuple):
    """The contents that are looked for, each once, by number; and of those that stand in the version several times, by
    number, how often more. `total`: how many there are with these."""

    numbers: dict[bytes, int]
    doubles: dict[int, int]
    total: int

    @classmethod
    def of(cls, contents: Sequence[bytes]) -> _Sought:
        """Those of a version, or where they are very many as many of them as there may be, from all of it."""
        counts = Counter(contents)
        step = -(-len(counts) // MOST_SOUGHT) or 1
        picked = list(counts)[::step]
        doubles = {number: counts[each] - 1 for number, each in enumerate(picked) if counts[each] > 1}
        return cls({each: number for number, each in enumerate(picked)}, doubles, len(picked) + sum(doubles.values()))

    def bits(self, contents: Iterable[bytes]) -> int:
        """A number whose bits say which of the sought ones are among these."""
        found = [number for each in contents if (number := self.numbers.get(each)) is not None]
        if not found:
            return 0
        marks = bytearray(len(self.numbers) // 8 + 1)
        for number in found:
            marks[number >> 3] |= 1 << (number & 7)
        return int.from_bytes(marks, "little")

    def count(self, bits: int) -> int:
        """How many tensors, or chunks, of the version these bits stand for."""
        return bits.bit_count() + sum(more for number, more in self.doubles.items() if bits >> number & 1)


def _found(
    parents: Parents,
    sought: _Sought,
    among: Collection[Digest] | None,
    contents: Callable[[Digest, bytes | None], list[bytes]],
    progress: Progress,
) -> dict[bytes, int]:
    """The blobs, all or of these, that hold some of what is sought, each with the bits of that."""
    found: dict[bytes, int] = {}
    same: dict[int, int] = {}  # many blobs have the same: one number serves them all
    progress.start("compare recipes", parents.recipe_bytes() if among is None else None)
    try:
        for blob, packed in parents.recipes(among):
            bits = sought.bits(contents(blob, packed))
            if bits:
                found[blob] = same.setdefault(bits, bits)
            progress.advance(len(packed))
    finally:
        progress.finish()
    return found


def _scores(blobs: Iterable[tuple[int, bytes]], found: dict[bytes, int], sought: _Sought) -> Iterator[tuple[int, int]]:
    """Each version that has some of what is sought, by row id, and how much."""
    for version_id, rows in groupby(blobs, key=lambda row: row[0]):
        bits = 0
        for _, blob in rows:
            number = sought.numbers.get(blob)  # a blob of one chunk is that chunk
            bits |= found.get(blob, 0) if number is None else 1 << number
        if bits:
            yield version_id, sought.count(bits)
