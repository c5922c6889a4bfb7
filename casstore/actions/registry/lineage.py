"""Ancestors and descendants of a version, and what each has changed: all of it from the catalog.

An edge names its parent by tag and digest. Where the tag is gone, or means another content by now, the parent is gone,
and nothing is followed through it. Tags that were deleted and saved again can still lead in a circle, so that each
version is followed once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from casstore.actions.describing.times import timestamp
from casstore.actions.registry.likeness import Common, Likeness
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import InvalidSetting
from casstore.late_classes import dataclass
from casstore.storage.parents import Parent
from casstore.tag import Tag

MOST_RELATIVES = 100_000
HERE, GONE, ELSEWHERE, OUTSIDE = "here", "gone", "elsewhere", "outside"


@dataclass(frozen=True, slots=True)
class Relative:
    """An ancestor or a descendant, in a list that is a tree: what stands one deeper after it hangs on it.

    Attributes
    ----------
    depth
        1 for a parent or a child of the version that was asked for, 2 for a parent of such a parent ...
    relation
        What the child is of its parent, such as `finetune`.
    tag, digest
        Of a version; else None.
    uri
        Of anything else; else None.
    state
        `here`; `gone` for a version that was deleted, whose tag may mean another one now; `elsewhere` for one whose
        bytes only a remote has; `outside` for what is no version of a store.
    created_at
        When a version that is here was saved, in UTC.
    changed
        The share of the child's tensors that do not stand in the parent just the same, from 0 to 1; None where that
        cannot be told.
    changed_count, total
        The same as numbers: how many have changed, of how many.
    unit
        `tensors`; or `chunks` where the versions have none.
    is_repeated
        Whether it stands in the list before, with what hangs on it.
    """

    depth: int
    relation: str
    tag: Tag | None = None
    digest: Digest | None = None
    uri: str | None = None
    state: str = HERE
    created_at: datetime | None = None
    changed: float | None = None
    changed_count: int | None = None
    total: int | None = None
    unit: str = "tensors"
    is_repeated: bool = False

    def __str__(self) -> str:
        return str(self.uri if self.tag is None else self.tag)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from, and what came from it.

    Attributes
    ----------
    tag, digest
        The version.
    created_at
        When it was saved, in UTC.
    ancestors
        What it came from, parents before theirs; see `Relative`.
    descendants
        What came from it, in the order of saving.
    is_whole
        False where there are more, deeper or beyond the limit.
    """

    tag: Tag
    digest: Digest
    created_at: datetime
    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]
    is_whole: bool


class _Edge(NamedTuple):
    """An edge to be followed: what it leads to, the row of that if it is here, and the version that it leads from."""

    depth: int
    to: Parent
    row: VersionRow | None
    origin: VersionRow


def lineage(workspace: Workspace, row: VersionRow, depth: int, limit: int) -> Lineage:
    """The ancestors and descendants of a version, at most `limit` of each. Raises InvalidSetting, IntegrityError."""
    if depth < 1 or not 0 < limit <= MOST_RELATIVES:
        raise InvalidSetting(f"depth is at least 1, and limit from 1 to {MOST_RELATIVES:,}")
    likeness = Likeness(workspace)
    above = _Ancestors(workspace, likeness, depth, limit).follow(row)
    below = _Descendants(workspace, likeness, depth, limit).follow(row)
    return Lineage(
        row.tag, Digest(row.digest), timestamp(row.created_at_ns), tuple(above.found), tuple(below.found),
        above.is_whole and below.is_whole,
    )  # fmt: skip


class _Walk(ABC):
    """One direction of a lineage. It does not call itself: a chain may have a hundred thousand versions."""

    def __init__(self, workspace: Workspace, likeness: Likeness, depth: int, limit: int) -> None:
        self._workspace = workspace
        self._likeness = likeness
        self._depth, self._limit = depth, limit
        self._seen: set[object] = set()
        self.found: list[Relative] = []
        self.is_whole = True

    def follow(self, start: VersionRow) -> _Walk:
        """Follow all edges from a version."""
        self._seen.add((start.tag, start.digest, None))
        waiting = [_Edge(1, *each) for each in self._edges(start)][::-1]
        while waiting:
            if len(self.found) == self._limit:
                self.is_whole = False
                break
            edge = waiting.pop()
            is_repeated = edge.to.thing in self._seen
            self._seen.add(edge.to.thing)
            self.found.append(self._relative(edge, is_repeated=is_repeated))
            if edge.row is None or is_repeated:
                continue
            further = [_Edge(edge.depth + 1, *each) for each in self._edges(edge.row)]
            if edge.depth == self._depth:
                self.is_whole = self.is_whole and not further
            else:
                waiting += further[::-1]
        return self

    @abstractmethod
    def _edges(self, row: VersionRow) -> Iterable[tuple[Parent, VersionRow | None, VersionRow]]:
        """What follows one version in this direction."""

    @abstractmethod
    def _common(self, edge: _Edge, row: VersionRow) -> Common | None:
        """What the two ends of an edge share."""

    def _relative(self, edge: _Edge, *, is_repeated: bool) -> Relative:
        relation, thing = edge.to.relation, edge.to.thing
        if edge.row is None:
            return Relative(edge.depth, relation, *thing, self._state(edge.to), is_repeated=is_repeated)
        created_at, common = timestamp(edge.row.created_at_ns), self._common(edge, edge.row)
        if common is None:
            return Relative(edge.depth, relation, *thing, HERE, created_at, is_repeated=is_repeated)
        return Relative(
            edge.depth, relation, *thing, HERE, created_at, common.changed, common.total - common.equal, common.total,
            common.unit, is_repeated,
        )  # fmt: skip

    def _state(self, parent: Parent) -> str:
        if parent.tag is None:
            return OUTSIDE
        there = self._workspace.catalog.remotes.elsewhere(parent.tag.name)
        return ELSEWHERE if any((each.tag, each.digest) == (parent.tag, parent.digest) for each in there) else GONE


class _Ancestors(_Walk):
    def _edges(self, row: VersionRow) -> Iterable[tuple[Parent, VersionRow | None, VersionRow]]:
        for parent in self._workspace.catalog.parents.of(row.id):
            there = None if parent.tag is None else self._workspace.catalog.versions.find(parent.tag)
            is_same = there is not None and there.digest == parent.digest
            yield parent, there if is_same else None, row

    def _common(self, edge: _Edge, row: VersionRow) -> Common | None:
        return self._likeness.common(edge.origin, row)


class _Descendants(_Walk):
    def _edges(self, row: VersionRow) -> Iterable[tuple[Parent, VersionRow | None, VersionRow]]:
        catalog = self._workspace.catalog
        for version_id, relation in catalog.parents.children(row.tag, Digest(row.digest), self._limit + 1):
            child = catalog.versions.by_id(version_id)
            if child is not None:
                yield Parent(relation, child.tag, Digest(child.digest)), child, row

    def _common(self, edge: _Edge, row: VersionRow) -> Common | None:
        return self._likeness.common(row, edge.origin)
