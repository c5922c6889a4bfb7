"""Which directories under models/ are certainly on disk. A save does not sync their names, so a power cut may take away
one that nobody removed. gc and sync-tree sync them later; after that, a missing directory was removed."""

from __future__ import annotations

import os
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.catalog.directories import Unsynced
from casstore.catalog.versions import DirectoryRow
from casstore.storage import files
from casstore.storage.locks import Lock


def was_certain(workspace: Workspace, recorded: DirectoryRow) -> bool:
    """Whether the directory of this row was certainly on disk, so that its absence means that it was removed."""
    return recorded.synced or recorded.boot_id == workspace.catalog.boot_id


def settle_directories(workspace: Workspace) -> None:
    """Sync the names of directories that have not been synced since they were made, and forget the directories that a
    power cut has taken away. Raises OSError."""
    directories = workspace.catalog.directories
    unsynced = directories.unsynced()
    if not unsynced or not workspace.layout.models.is_dir():  # its disk may not be mounted
        return
    standing: dict[Path, list[Unsynced]] = {}
    for each in unsynced:
        path = workspace.layout.model(each.tag)
        if inode_of(path) == each.inode:
            standing.setdefault(path.parent, []).append(each)
        elif each.boot_id != workspace.catalog.boot_id and not os.path.lexists(path):
            _forget(workspace, each)
    synced = [each for parent, several in standing.items() if _sync(parent) for each in several]
    if synced and _sync(workspace.layout.models):
        directories.note_synced(synced)


def _sync(path: Path) -> bool:
    """fsync a directory; False if it is gone or this user may not read it. Raises OSError."""
    try:
        files.sync_directory(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def _forget(workspace: Workspace, lost: Unsynced) -> None:
    """Drop the row of a directory that a power cut has taken away, unless a process is making it now."""
    lock = Lock(workspace.layout.name_lock(lost.name))
    if lock.try_acquire():
        with lock:
            recorded = workspace.catalog.directories.find(lost.version_id)
            if recorded is not None and not (recorded.evicting or was_certain(workspace, recorded)):
                workspace.catalog.directories.forget(lost.version_id)


def inode_of(path: Path) -> int | None:
    """The inode number of what stands at a path; None if nothing does. Raises OSError."""
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None
