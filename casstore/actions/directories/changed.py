"""Files in a version's directory that are not as they were saved: they go to quarantine/changed/, are named in the log,
and are kept there for `keep_days`, since they may be a user's work."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from casstore.actions import keeping
from casstore.actions.workspace import Workspace
from casstore.errors import StoreError
from casstore.storage import files
from casstore.storage.layout import Layout
from casstore.tag import Tag

_log = logging.getLogger(__name__)
_MOST_NAMED = 5  # files named in one line of the log; quarantine has them all


def parents(paths: Iterable[str]) -> set[str]:
    """Every directory above these `/`-separated relative paths, without the root itself, which is ""."""
    found: set[str] = set()
    for path in paths:
        above = path.rpartition("/")[0]
        while above and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def additions(root: Path, own_files: Collection[str], own_directories: Collection[str]) -> list[str]:
    """The relative paths below `root` that do not belong to the version; an added directory counts as one path.

    This includes anything other than a directory in the place of one of the version's directories, but not what stands
    in the place of one of its files. What cannot be looked at does not count.
    """
    found, pending = [], [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(f"{root}/{below}") as entries:
                listed = [(f"{below}{entry.name}", entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            continue
        for path, is_directory in listed:
            if is_directory and path in own_directories:
                pending.append(f"{path}/")
            elif path not in own_files:
                found.append(path)
    return sorted(found)


class ChangedShelf:
    """The directory in quarantine/ for what one mending finds; it is made when first needed.

    `kept`: the paths in quarantine/ of what it holds.
    """

    def __init__(self, workspace: Workspace, tag: Tag) -> None:
        self._workspace = workspace
        self._tag = tag
        self._directories: list[Path] = []
        self.kept: list[str] = []
        self._taken: list[str] = []
        self._stuck: list[str] = []

    def take(self, standing: Path, path: str, *, stays: bool = False) -> None:
        """Move what stands at `standing`, from `path` in the version's directory, to quarantine.

        An empty directory is removed. With `stays` a file may be left standing, with another link in quarantine, until
        the saved one replaces it: readers then find one or the other. Raises OSError.
        """
        status = os.lstat(standing)
        if stat.S_ISDIR(status.st_mode) and files.remove_empty_directory(standing):
            return
        target = self._place(path)
        if not (stays and stat.S_ISREG(status.st_mode) and files.try_link(standing, target)):
            files.move(standing, target)
        if path not in self._taken:
            self._taken.append(path)
        self.kept.append(str(target))

    def take_addition(self, root: Path, path: str) -> None:
        """Move away what was added. If this user may not move it, it stays, and the version is served all the same."""
        try:
            self.take(root / path, path)
        except (OSError, StoreError):
            if os.path.lexists(root / path):
                self._stuck.append(path)

    def _place(self, path: str) -> Path:
        if self._directories:
            with contextlib.suppress(FileExistsError, NotADirectoryError):  # it has been changed again
                return _place_in(self._directories[-1], path)
        made = keeping.new_directory(self._workspace.layout.changed_files)
        self._directories.append(made / f"{self._tag.name}.{self._tag.version}")
        files.make_directory(self._directories[-1])
        return _place_in(self._directories[-1], path)

    def tell(self) -> None:
        """Name in the log what was moved, where it is now, and what could not be moved."""
        if self._taken:
            days = self._workspace.catalog.setting("keep_days")
            _log.warning(
                "%s was written to in its directory: %s moved to %s, kept for %s days; the directory holds what was "
                "saved. To keep a change, save it under another tag: casstore save NAME:VERSION PATH",
                self._tag, _named(self._taken), ", ".join(map(str, self._directories)), days,
            )  # fmt: skip
        if self._stuck:
            _log.warning(
                "%s has in its directory what was not saved with it and cannot be moved away: %s",
                self._tag, _named(self._stuck),
            )  # fmt: skip


def _place_in(directory: Path, path: str) -> Path:
    for above in reversed(PurePosixPath(path).parents[:-1]):
        files.make_directory(directory / above)
    target = directory / path
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "something is kept there", str(target))
    return target


def _named(paths: list[str]) -> str:
    rest = len(paths) - _MOST_NAMED
    return ", ".join(paths[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def kept_files(layout: Layout) -> list[Path]:
    """The directories of changed files that are kept, oldest first: one for each version and time."""
    return [path for each in keeping.kept(layout.changed_files) for path in sorted(each.iterdir())]
