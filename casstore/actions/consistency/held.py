"""The manifests of versions that `sync-tree --prune` has deleted and that may be brought back: gc takes nothing away
that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from pathlib import Path

from casstore.actions import keeping
from casstore.actions.workspace import Workspace
from casstore.errors import IntegrityError
from casstore.storage import files
from casstore.storage.manifest import Manifest


class Held:
    """The manifests that are kept, each handed out once. `overdue`: directories whose time is up."""

    def __init__(self, workspace: Workspace, overdue: Set[Path]) -> None:
        self._workspace = workspace
        self._seen = set(overdue)

    def unseen(self) -> Iterator[Manifest]:
        """The manifests that have come since the last call."""
        for path, manifest in held_manifests(self._workspace, self._seen):
            self._seen.add(path.parent)
            yield manifest


def kept_manifests(workspace: Workspace) -> Iterator[Manifest]:
    """The manifests that a gc would keep now, as far as this user may read them."""
    with contextlib.suppress(PermissionError):
        overdue = keeping.overdue(workspace.layout.pruned_manifests, keeping.keep_ns(workspace))
        for _, manifest in held_manifests(workspace, set(overdue)):
            yield manifest


def held_manifests(workspace: Workspace, but: Set[Path] = frozenset()) -> Iterator[tuple[Path, Manifest]]:
    """The kept manifests with their paths, oldest first, but those in some directories."""
    for directory in keeping.kept(workspace.layout.pruned_manifests):
        for path in sorted(directory.iterdir()) if directory not in but else ():
            try:
                yield path, Manifest.unpack(path.read_bytes())
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
