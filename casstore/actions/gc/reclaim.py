"""Removing containers that nothing needs: condemned in the catalog, and unlinked once that is durable."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from casstore.actions.consistency.held import Held
from casstore.actions.gc.redundancy import Redundancy
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import Marks
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.container import Container

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reclaim:
    """Unlinks containers, and counts them. `marks`: what is needed. `held`: the manifests that the marks hold besides.
    `redundancy`: which copies may go."""

    workspace: Workspace
    marks: Marks
    redundancy: Redundancy
    held: Held
    containers: int = 0
    freed_bytes: int = 0

    def condemn(self, candidates: Collection[Container], progress: Progress = SILENT) -> None:
        """Condemn the containers among these that nothing needs, and unlink all that are condemned."""
        references = self.workspace.catalog.references
        removable = self.redundancy.removable(self.marks, candidates, progress)
        for kept in set(candidates) - set(removable):
            _log.debug("%s: kept, it is needed, or a chunk of it is damaged elsewhere", kept.file_id)
        self.marks.condemn(removable, self.held.unseen)
        dead = references.dead_containers()
        gone = []
        progress.start("unlink", sum(size for _, size in dead))
        try:
            for container, size in dead:
                if files.remove_file(container.path(self.workspace.layout)):
                    self.freed_bytes += size
                    _log.info("%s: removed, nothing needs it any more (%d bytes)", container.file_id, size)
                gone.append(container)
                progress.advance(size)
        finally:
            progress.finish()
            self.workspace.objects.close()  # a file that is held open keeps its room
        references.forget_containers(gone)
        self.containers += len(gone)

    def condemn_rows(self, row_ids: Collection[int]) -> None:
        """Condemn and unlink the containers among these that nothing needs, given by row id."""
        self.condemn([container for container, _ in self.workspace.catalog.index.containers(row_ids)])
