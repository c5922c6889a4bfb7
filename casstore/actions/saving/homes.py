"""Where the chunks of a new version are stored already, and which of these homes can be relied on."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace

from casstore.actions import loose_files
from casstore.actions.workspace import Workspace
from casstore.catalog.index import Fingerprint
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage import files

_log = logging.getLogger(__name__)
_NOTHING_NOTED: Mapping[Fingerprint, Digest] = {}


@dataclass(frozen=True, slots=True)
class Homes:
    """The chunks that a version needs, and the homes found for them since `gc_epoch`.

    `lost_homes`: containers among them that are gone or damaged. `lost_chunks`: the chunks lost with them.
    """

    wanted: set[Digest]
    gc_epoch: int
    found: Mapping[Digest, int]
    lost_homes: Set[int] = field(default_factory=set)
    lost_chunks: Set[Digest] = field(default_factory=set)

    @classmethod
    def of(
        cls, workspace: Workspace, wanted: set[Digest], found: tuple[int, Mapping[Digest, int]] | None = None
    ) -> Homes:
        """Look the chunks up, except those in `found`, which comes with the epoch of its own look-up."""
        index = workspace.catalog.index
        epoch, homes = (index.gc_epoch(), {}) if found is None else found
        return cls(wanted, epoch, {**homes, **index.usable_homes(wanted - homes.keys())})

    def checked(
        self,
        workspace: Workspace,
        noted: Mapping[Fingerprint, Digest] = _NOTHING_NOTED,
        doubted: Set[Digest] = frozenset(),
    ) -> Homes:
        """These homes, with the lost ones found by `find_lost`."""
        lost_homes, lost_chunks = find_lost(workspace, self.found, noted, doubted)
        return replace(self, lost_homes=lost_homes, lost_chunks=lost_chunks)

    @property
    def have(self) -> set[Digest]:
        """The chunks that can be relied on."""
        return self.found.keys() - self.lost_chunks


def find_lost(
    workspace: Workspace,
    homes: Mapping[Digest, int],
    noted: Mapping[Fingerprint, Digest],
    doubted: Set[Digest] = frozenset(),
) -> tuple[set[int], set[Digest]]:
    """The containers among these homes whose files are gone, cut short or written to, and the lost chunks.

    Chunks in `doubted` are read, and count as lost if they are damaged. Lost chunks, and deltas that need them, have to
    be stored again, which mends them. `noted`: the fingerprints of files that the caller has linked.
    """
    index = workspace.catalog.index
    bases = index.bases_of(homes.keys())
    homes = {**index.usable_homes(bases), **homes}
    containers = index.containers(set(homes.values()))
    gone = [each for each, size in containers if not loose_files.is_intact(workspace, each, size, noted)]
    for each in gone:
        _log.info(
            "%s is missing, cut short or was written to: chunks of it that this save needs are stored again",
            each.path(workspace.layout),
        )
    lost_homes = {each.id for each in gone}
    lost = {digest for digest, home in homes.items() if home in lost_homes} | (bases - homes.keys())
    lost |= _unreadable(workspace, [digest for digest in homes if digest in doubted and digest not in lost])
    if bases and lost:
        links = index.chains(homes.keys()).values()
        while more := {link.digest for link in links if not lost.isdisjoint((link.base, link.grouping))} - lost:
            lost |= more
    return lost_homes, lost


def _unreadable(workspace: Workspace, doubted: Collection[Digest]) -> set[Digest]:
    """The chunks among these that are damaged in their homes. Sound ones are recorded as read."""
    if not doubted:
        return set()
    began_ns = time.time_ns()
    bad = set()
    for digest, future in workspace.objects.read_ahead(doubted):
        try:
            future.result()
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            bad.add(digest)
    workspace.catalog.index.note_read_chunks(set(doubted) - bad, began_ns)
    return bad
