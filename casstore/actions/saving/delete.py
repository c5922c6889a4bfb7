"""Deleting a version: rows first, then the directory; the bytes go with the next gc."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping

from casstore.actions.consistency.deleted import keep
from casstore.actions.directories import latest
from casstore.actions.directories.leavings import take_away
from casstore.actions.directories.standing import Standing, unpacked_entries
from casstore.actions.workspace import Workspace
from casstore.errors import TagNotFound
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.sessions import Session
from casstore.tag import Tag

_log = logging.getLogger(__name__)


def delete(workspace: Workspace, tag: Tag) -> list[str]:
    """Delete one version. Raises TagNotFound. What fails after the commit is named in the log, and gc finishes it.

    Returns the paths in quarantine/ of what somebody has put into its directory, or changed there.
    """
    with workspace.session() as session, workspace.name_lock(tag.name):
        row = workspace.catalog.versions.find(tag)
        standing = None if row is None else Standing(workspace, row)
        row = workspace.catalog.versions.delete(tag, None if standing is None else standing.inode())
        if row is None:
            raise TagNotFound(f"{tag} is not in this store, or has been deleted meanwhile")
        recorded = None if standing is None else standing.recorded
        stamps = {} if recorded is None else unpacked_entries(recorded)
        try:
            return sweep(workspace, session, row.manifest_id, tag, stamps)
        except OSError as error:
            with contextlib.suppress(OSError):
                latest.write(workspace, tag.name)
            reason = f"{error.filename}: {error.strerror}" if error.filename else error
            _log.warning(
                "%s is deleted, but not all that it left could be taken away (%s); `casstore gc` takes the rest away "
                "when that is mended",
                tag, reason,
            )  # fmt: skip
            return []


def sweep(
    workspace: Workspace, session: Session, manifest_id: str, tag: Tag, recorded: Mapping[str, FileStamp] | None = None
) -> list[str]:
    """Take away what a deleted version left: directory, manifest, tombstone. The name's lock must be held.

    Returns the paths in quarantine/ of what was in the directory and not the version's. `recorded`: the stamps of its
    files, where they are known still. Raises OSError.
    """
    directory = workspace.layout.model(tag)
    kept: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        if workspace.catalog.versions.is_deleted_directory(tag, os.lstat(directory).st_ino):
            kept = take_away(workspace, session, tag, manifest_id, recorded or {})
    latest.write(workspace, tag.name)
    # The tombstone may only go once neither directory nor manifest can come back.
    files.sync_directory(directory.parent if directory.parent.exists() else workspace.layout.models)
    keep(workspace.layout, tag, manifest_id)
    workspace.catalog.versions.forget_tombstone(manifest_id)
    return kept
