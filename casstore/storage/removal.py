"""Removing a directory with all it holds: without recursion, without long paths, and without leaving it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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

    def __init__(self, root: str, open_directory: Callable[[str, int | None], int]) -> None:
        self.error: OSError | None = None
        self._open_directory = open_directory
        self._root = root
        self._levels: list[_Level] = []
        self._descriptor = -1
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
            if self._descriptor >= 0:
                os.close(self._descriptor)
        self._attempt(functools.partial(os.rmdir, self._root), "")
        return True

    def _enter(self, name: str) -> bool:
        """Go into a directory and unlink its files; False for what is not one, or may not be entered."""
        within = self._descriptor if self._levels else None
        try:
            descriptor = self._open_directory(name, within)
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
            if _mount_of(descriptor) != self._mount:
                raise OSError(errno.EBUSY, "a file system is mounted there")
            os.stat("..", dir_fd=descriptor)  # or there would be no way back
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, FileNotFoundError):
                self._note(error, "" if within is None else name)
            return False
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
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
            above = os.open("..", OPEN_DIRECTORY, dir_fd=self._descriptor)
        except FileNotFoundError:
            return False
        os.close(self._descriptor)
        self._descriptor = above
        level = self._levels.pop()
        status = os.fstat(above)
        if (status.st_dev, status.st_ino) != self._levels[-1].identity:
            return False
        self._attempt(functools.partial(os.rmdir, level.name, dir_fd=above), level.name)
        return True

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
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _mount_of(descriptor)
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> object:
    """What differs where another file system, or a part of the same one, is mounted: proc(5), fdinfo, mnt_id."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return line
    return os.fstat(descriptor).st_dev
