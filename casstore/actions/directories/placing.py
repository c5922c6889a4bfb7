"""Putting a saved version's directory in place under models/, and the catalog's record of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgpack

from casstore.actions.directories import latest
from casstore.actions.directories.changed import parents
from casstore.actions.sources import source as sources
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import DirectoryRow
from casstore.errors import InvalidSource
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.names import as_stored
from casstore.tag import Tag


def directory_row(
    workspace: Workspace, directory: Path, stamps: Mapping[str, FileStamp], empty: Collection[str], *,
    stands_as: sources.Source | None = None,
) -> DirectoryRow:  # fmt: skip
    """The row that describes a version's directory: its inode, the stamp of every file in it, and the modification
    times of the directories below it, which show where nothing has been added. `empty`: the empty ones among them.

    `stands_as`: another directory, to which the files of `directory` are about to be moved; its times will differ.
    """
    entries: list[Any] = [[as_stored(path), stamp.inode, stamp.size, stamp.mtime_ns] for path, stamp in stamps.items()]
    rendered = FileStamp.of(os.lstat(directory / DESCRIPTOR_NAME))
    entries.append([DESCRIPTOR_NAME, rendered.inode, rendered.size, rendered.mtime_ns])
    if stands_as is None:
        folders = ("", *sorted(parents((*stamps, *(f"{path}/" for path in empty)))))
        entries.append({as_stored(path): os.lstat(directory / path).st_mtime_ns for path in folders})
    root = directory if stands_as is None else stands_as.root
    return DirectoryRow(os.lstat(root).st_ino, workspace.catalog.boot_id, msgpack.packb(entries))


def publish(workspace: Workspace, tag: Tag, manifest_id: str, draft: Path | None) -> None:
    """Give a committed version's directory and manifest their final names. The name's lock must be held.

    The manifest comes last: until it has its name, a missing directory does not count as removed.
    """
    if draft is not None:
        target = workspace.layout.model(tag)
        files.make_directory(target.parent)
        files.set_directory_mode(draft, 0o777 & ~workspace.mask)
        files.share_directories(draft, workspace.layout.home)
        files.rename(draft, target)
    workspace.file_pending_manifest(tag, manifest_id)
    latest.write(workspace, tag.name)


def settle(workspace: Workspace, tag: Tag, draft: Path, standing: sources.Source) -> None:
    """Make the directory that stands in a version's place its own, by moving the files made in `draft` over its files.

    A file that is the same in both stays. A file that is no longer as it was found, since it was written to a moment
    ago, goes to quarantine; added files are left alone. The name's lock must be held.
    """
    found = {file.disk_path: file.status for file in standing.files}
    if standing.descriptor_status is not None:
        found[str(standing.descriptor)] = standing.descriptor_status
    links = {link for link in standing.links if os.path.islink(link)}
    for link in links:
        if os.path.isdir(link):
            files.remove_file(link)  # its target has been copied
    for directory, folders, names in os.walk(draft):
        below = os.path.relpath(directory, draft)
        if (standing.root / below).is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "a link stands in its place", str(standing.root / below))
        for folder in folders:
            files.make_directory(standing.root / below / folder)
        for name in names:
            path = name if below == "." else f"{below}/{name}"
            mine, theirs = f"{draft}/{path}", f"{standing.root}/{path}"
            if os.path.lexists(theirs):
                now = os.lstat(theirs)
                if os.path.samestat(now, os.lstat(mine)):
                    continue
                if theirs not in links and not sources.is_unchanged(now, found.get(theirs)):
                    files.move(theirs, workspace.quarantined(tag, name))
            # Checked once more when it is out of the way: until then another process may write to it.
            if files.swap_into(mine, theirs):
                if theirs in links or sources.is_unchanged(os.lstat(mine), found.get(theirs)):
                    files.remove_file(mine)
                else:
                    files.move(mine, workspace.quarantined(tag, name))
    files.share_directories(standing.root, workspace.layout.home)


def check_replaceable(standing: sources.Source) -> None:
    """Raise InvalidSource unless this user can replace every file of a directory."""
    parents = {os.path.dirname(file.disk_path) for file in standing.files if file.is_direct}
    for directory in sorted({str(standing.root), *parents}):
        if not os.access(directory, os.W_OK | os.X_OK):
            raise InvalidSource(f"{directory} cannot be written to by this user; mend its permissions, and try again")
