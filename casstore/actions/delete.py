"""Deleting a version: rows first, then the directory; the bytes go with the next gc."""

from __future__ import annotations

import contextlib
import os

from casstore.actions.materialize import directory_inode
from casstore.actions.workspace import Workspace
from casstore.catalog.sessions import Session
from casstore.errors import TagNotFound
from casstore.storage import files
from casstore.tag import Tag


def delete(workspace: Workspace, tag: Tag) -> None:
    """Delete one version. Raises TagNotFound. What fails after the commit, gc finishes."""
    with workspace.session() as session, workspace.name_lock(tag.name):
        row = workspace.catalog.versions.find(tag)
        inode = None if row is None else directory_inode(workspace, row)
        row = workspace.catalog.versions.delete(tag, inode)
        if row is None:
            raise TagNotFound(f"{tag} is not in this store, or has been deleted meanwhile")
        with contextlib.suppress(OSError):
            sweep(workspace, session, row.manifest_id, tag)


def sweep(workspace: Workspace, session: Session, manifest_id: str, tag: Tag) -> None:
    """Take away what a deleted version left: directory, manifest, tombstone. The name's lock must be held."""
    directory = workspace.layout.model(tag)
    with contextlib.suppress(FileNotFoundError):
        if workspace.catalog.versions.is_deleted_directory(tag, os.lstat(directory).st_ino):
            workspace.remove_directory(directory, session)
    workspace.write_latest(tag.name)
    # The tombstone may only go once neither directory nor manifest can come back.
    files.sync_directory(directory.parent if directory.parent.exists() else workspace.layout.models)
    manifest = workspace.layout.manifest(tag, manifest_id)
    files.remove_file(workspace.layout.pending_manifest(manifest_id))
    files.remove_file(manifest)
    if manifest.parent.exists():  # also where it was gone already: whoever removed it may have been cut short
        files.sync_directory(manifest.parent)
        files.remove_empty_directory(manifest.parent)
    files.sync_directory(workspace.layout.pending_manifests)
    workspace.catalog.versions.forget_tombstone(manifest_id)
