"""Descriptors that no interrupt can leak.

A number has no owner between the instruction that opens a file and the one that notes the number, and a signal's
handler may raise there. So C code, which nothing interrupts, does both: it opens, and gives an object that closes.
"""

from __future__ import annotations

import fcntl
import functools
import io
import os
from collections import deque

from casstore.storage.uncopied import Uncopied

StrPath = str | os.PathLike[str]


class Descriptor(Uncopied, io.FileIO):
    """An open file, as a number to its `with` block; closed at the end of that, or when nothing refers to it.

    The end of the block is C code as well: an interrupt comes before it or after it. `holder`: of one that holds a
    lock, the lock's path and the thread that has taken it.
    """

    holder: tuple[str, int] | None = None
    __enter__ = io.FileIO.fileno  # type: ignore[assignment]

    def __del__(self) -> None:
        self.close()  # FileIO itself would warn of what was not closed


def opened(path: StrPath, flags: int, mode: int = 0o777) -> Descriptor:
    """Open a file as open(2) does, closed on exec. Raises OSError, IsADirectoryError for any directory."""
    try:
        file = next(map(Descriptor, map(os.open, (path,), (flags | os.O_CLOEXEC,), (mode,))))
        return file if file.fileno() >= _FIRST_OWN else _moved_up(file)
    except IsADirectoryError as error:
        if isinstance(error.filename, int):  # it has been opened, and is not taken over
            os.close(error.filename)
        raise IsADirectoryError(error.errno, error.strerror, os.fspath(path)) from error


def in_memory() -> Descriptor:
    """A new file that is nowhere but in memory, of Linux alone: memfd_create(2). Raises OSError."""
    return next(map(Descriptor, map(os.memfd_create, ("casstore",), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,))))


# Where a standard stream is closed, a file would get its number, and with it whatever any library or child process
# writes to standard output or error.
_FIRST_OWN = 3


def _moved_up(file: Descriptor) -> Descriptor:
    """The open file under another number, which is not that of a standard stream."""
    try:
        return duplicate(file.fileno())
    finally:
        file.close()


def duplicate(descriptor: int) -> Descriptor:
    """Another descriptor of the same open file, closed on exec. Raises OSError."""
    return next(map(Descriptor, map(fcntl.fcntl, (descriptor,), (fcntl.F_DUPFD_CLOEXEC,), (_FIRST_OWN,))))


OPEN_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)


class OpenDirectory(Uncopied, list[int]):
    """The descriptor of a directory, which `Descriptor` cannot hold, as its only item."""

    def __init__(self, path: StrPath, flags: int = OPEN_DIRECTORY, dir_fd: int | None = None) -> None:
        """Raises OSError."""
        super().__init__()
        self.extend(map(functools.partial(os.open, dir_fd=dir_fd), (path,), (flags,)))
        if self[0] < _FIRST_OWN:
            self.extend(map(fcntl.fcntl, (self[0],), (fcntl.F_DUPFD_CLOEXEC,), (_FIRST_OWN,)))
            deque(map(os.close, map(list.pop, (self,), (0,))), maxlen=0)

    def close(self) -> None:
        if self:
            # In C as well, or it might be closed twice.
            deque(map(os.close, map(list.pop, (self,) * len(self))), maxlen=0)

    def __del__(self) -> None:
        self.close()
