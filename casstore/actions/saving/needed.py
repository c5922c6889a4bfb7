"""Where the chunks of a new version are stored already, and which of these containers can be relied on."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Set
from dataclasses import field, replace

from casstore.actions import loose_files
from casstore.actions.workspace import Workspace
from casstore.catalog.index import Fingerprint
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.late_classes import dataclass
from casstore.storage import files

_log = logging.getLogger(__name__)
_NOTHING_NOTED: Mapping[Fingerprint, Digest] = {}


@dataclass(frozen=True, slots=True)
class Needed:
    """The chunks that a version needs, and the containers found for them since `gc_epoch`.

    `lost_containers`: containers among them that are gone or damaged. `lost_chunks`: the chunks lost with them.
    """

    wanted: set[Digest]
    gc_epoch: int
    found: Mapping[Digest, int]
    lost_containers: Set[int] = field(default_factory=set)
    lost_chunks: Set[Digest] = field(default_factory=set)

    @classmethod
    def of(
        cls, workspace: Workspace, wanted: set[Digest], found: tuple[int, Mapping[Digest, int]] | None = None
    ) -> Needed:
        """Look the chunks up, except those in `found`, which comes with the epoch of its own look-up."""
        index = workspace.catalog.index
        epoch, containers = (index.gc_epoch(), {}) if found is None else found
        return cls(wanted, epoch, {**containers, **index.usable_containers(wanted - containers.keys())})

    def checked(
        self,
        workspace: Workspace,
        noted: Mapping[Fingerprint, Digest] = _NOTHING_NOTED,
        doubted: Set[Digest] = frozenset(),
    ) -> Needed:
        """These containers, with the lost ones found by `find_lost`."""
        lost_containers, lost_chunks = find_lost(workspace, self.found, noted, doubted)
        return replace(self, lost_containers=lost_containers, lost_chunks=lost_chunks)

    @property
    def have(self) -> set[Digest]:
        """The chunks that can be relied on."""
        return self.found.keys() - self.lost_chunks


def find_lost(
    workspace: Workspace,
    containers: Mapping[Digest, int],
    noted: Mapping[Fingerprint, Digest],
    doubted: Set[Digest] = frozenset(),
) -> tuple[set[int], set[Digest]]:
    """Those of these containers whose files are gone, cut short or written to, and the lost chunks.

    Chunks in `doubted` are read, and count as lost if they are damaged. Lost chunks, and deltas that need them, have to
    be stored again, which mends them. `noted`: the fingerprints of files that the caller has linked.
    """
    index = workspace.catalog.index
    bases = index.bases_of(containers.keys())
    containers = {**index.usable_containers(bases), **containers}
    found = index.containers(set(containers.values()))
    gone = [each for each, size in found if not loose_files.is_intact(workspace, each, size, noted)]
    for each in gone:
        _log.info(
            "%s is missing, cut short or was written to: chunks of it that this save needs are stored again",
            each.path(workspace.layout),
        )
    lost_containers = {each.id for each in gone}
    lost = {digest for digest, each in containers.items() if each in lost_containers} | (bases - containers.keys())
    lost |= _unreadable(workspace, [digest for digest in containers if digest in doubted and digest not in lost])
    if bases and lost:
        links = index.chains(containers.keys()).values()
        while more := {link.digest for link in links if not lost.isdisjoint((link.base, link.grouping))} - lost:
            lost |= more
    return lost_containers, lost


def _unreadable(workspace: Workspace, doubted: Collection[Digest]) -> set[Digest]:
    """The chunks among these that are damaged in their containers. Sound ones are recorded as read."""
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
