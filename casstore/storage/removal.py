"""Removing a directory with all it holds: without recursion, without long paths, and without leaving it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable

from casstore.late_classes import dataclass
from casstore.storage.descriptors import OPEN_DIRECTORY, OpenDirectory

NO_LINK = OPEN_DIRECTORY | os.O_NOFOLLOW


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name, what tells it from another, and the directories in it still to be gone
    through."""

    name: str
    identity: tuple[int, int]
    folders: list[str]


class Removal:
    """One removal of a tree, with one directory open at a time: down by name, up by `..`.

    `open_directory(name, within)` opens a directory, in another that is open, so that it can be changed.
    `error`: the first of what was met, with the path, when all has been tried.
    """

    def __init__(self, root: str, open_directory: Callable[[str, int | None], OpenDirectory]) -> None:
        self.error: OSError | None = None
        self._open_directory = open_directory
        self._root = root
        self._levels: list[_Level] = []
        self._here: OpenDirectory | None = None
        self._mount: object = None

    def run(self) -> bool:
        """Remove what can be; False where another process has moved or removed what this one was in: try again."""
        try:
            if not self._enter(self._root):
                return True
            while len(self._levels) > 1 or self._levels[0].folders:
                level = self._levels[-1]
                if level.folders:
                    self._enter(level.folders.pop())
                elif not self._leave():
                    return False
        finally:
            if self._here is not None:
                self._here.close()
        self._attempt(functools.partial(os.rmdir, self._root), "")
        return True

    def _enter(self, name: str) -> bool:
        """Go into a directory and unlink its files; False for what is not one, or may not be entered."""
        within = self._here[0] if self._levels and self._here is not None else None
        try:
            entered = self._open_directory(name, within)
        except FileNotFoundError:
            return False
        except OSError as error:
            place = "" if within is None else name
            if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a file or a link from the start, or put there just now
                self._attempt(functools.partial(os.unlink, name, dir_fd=within), place)
            else:
                self._note(error, place)
            return False
        try:
            if within is None:
                self._mount = _mount_above(self._root)
            if _mount_of(entered[0]) != self._mount:
                raise OSError(errno.EBUSY, "a file system is mounted there")
            os.stat("..", dir_fd=entered[0])  # or there would be no way back
        except OSError as error:
            entered.close()
            if not isinstance(error, FileNotFoundError):
                self._note(error, "" if within is None else name)
            return False
        self._move_to(entered)
        descriptor = entered[0]
        status = os.fstat(descriptor)
        level = _Level(name, (status.st_dev, status.st_ino), [])
        self._levels.append(level)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        level.folders.append(entry.name)
                    else:
                        self._attempt(functools.partial(os.unlink, entry.name, dir_fd=descriptor), entry.name)
        except OSError as error:
            self._note(error, "")
        return True

    def _leave(self) -> bool:
        """Go up, and remove the directory that is empty now; False where what is above is not what was."""
        try:
            parent = OpenDirectory("..", NO_LINK, None if self._here is None else self._here[0])
        except FileNotFoundError:
            return False
        self._move_to(parent)
        above = parent[0]
        level = self._levels.pop()
        status = os.fstat(above)
        if (status.st_dev, status.st_ino) != self._levels[-1].identity:
            return False
        self._attempt(functools.partial(os.rmdir, level.name, dir_fd=above), level.name)
        return True

    def _move_to(self, directory: OpenDirectory) -> None:
        left, self._here = self._here, directory
        if left is not None:
            left.close()

    def _attempt(self, remove: Callable[[], None], name: str) -> None:
        try:
            remove()
        except FileNotFoundError:
            pass  # another process may be removing the same tree
        except OSError as error:
            # Of a directory that something was left in, that has been noted.
            if self.error is None or error.errno != errno.ENOTEMPTY:
                self._note(error, name)

    def _note(self, error: OSError, name: str) -> None:
        """Keep the first error, with the whole path of what it was met at."""
        if self.error is None:
            path = os.path.join(self._root, *(level.name for level in self._levels[1:]), name).rstrip("/")
            self.error = OSError(error.errno, error.strerror, path)


def _mount_above(path: str) -> object:
    above = OpenDirectory(os.path.dirname(path) or ".")
    try:
        return _mount_of(above[0])
    finally:
        above.close()


def _mount_of(descriptor: int) -> object:
    """The mount that a directory is on, which also differs for bind mounts: mnt_id in fdinfo of proc(5)."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return line
    return os.fstat(descriptor).st_dev
