"""Finishing saves that were interrupted after their commit: the name of the manifest, the directory, `latest`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from casstore.actions.directories import latest
from casstore.actions.directories.materialize import mend
from casstore.actions.workspace import Workspace
from casstore.errors import IntegrityError, StoreError, TagNotFound
from casstore.progress import SILENT
from casstore.storage import files, sessions
from casstore.storage.layout import is_file_id
from casstore.storage.sessions import session_of
from casstore.tag import Tag


def unfinished_saves(workspace: Workspace) -> list[str]:
    """The ids of the manifests that dead sessions have left without a name. Raises OSError."""
    # Listed before the sessions, so that later manifests are not in it.
    listed = [path for path in workspace.layout.pending_manifests.iterdir() if is_file_id(path.name)]
    alive = sessions.live_ids(workspace.layout)
    return [path.name for path in listed if session_of(path.name) not in alive]


def without_directory(workspace: Workspace, manifest_ids: Iterable[str]) -> list[int]:
    """The row ids of the versions of these manifests whose directories, by stat, were never put in place."""
    committed = workspace.catalog.versions.by_manifest(manifest_ids)
    rows = {manifest_id: workspace.catalog.versions.find(tag) for manifest_id, tag in committed.items()}
    return [
        row.id
        for manifest_id, row in rows.items()
        if row is not None and row.manifest_id == manifest_id and not os.path.lexists(workspace.layout.model(row.tag))
    ]


def finish_saves(workspace: Workspace, manifest_ids: Iterable[str]) -> None:
    """Finish the saves of manifests that dead sessions have left without a name (see `unfinished_saves`).

    A manifest of no version is removed. A directory that was never put in place loses its record, so that it does not
    count as removed by a user. A directory that stands is made what was recorded.
    """
    pending = list(manifest_ids)
    committed = workspace.catalog.versions.by_manifest(pending)
    trashed = workspace.catalog.trash.holds(pending)
    for manifest_id in pending:
        if manifest_id in committed:
            _finish(workspace, committed[manifest_id], manifest_id)
        elif manifest_id not in trashed or workspace.layout.trashed_manifest(manifest_id).exists():
            files.remove_file(workspace.layout.pending_manifest(manifest_id))


def _finish(workspace: Workspace, tag: Tag, manifest_id: str) -> None:
    with workspace.name_lock(tag.name):
        row = workspace.catalog.versions.find(tag)
        if row is not None and row.manifest_id == manifest_id and not os.path.lexists(workspace.layout.model(tag)):
            workspace.catalog.directories.forget(row.id)
    if row is not None:
        # Other verbs report what is damaged or in the way.
        with contextlib.suppress(TagNotFound, IntegrityError, StoreError):
            mend(workspace, row, SILENT)
    with workspace.name_lock(tag.name), contextlib.suppress(FileNotFoundError):
        workspace.file_pending_manifest(tag, manifest_id)
        latest.write(workspace, tag.name)
