"""What FUSE asks of a mounted store, answered from its file system."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import casstore

_log = logging.getLogger("casstore")
_NS = 10**9


class Mounted:
    """The operations of one mount, as fusepy calls them: one at a time. What there is none of here is not implemented,
    and nothing writes.

    `system` is a file system of fsspec; `ready` is called once it is mounted.
    """

    use_ns = True  # times are given in nanoseconds

    def __init__(self, system: Any, ready: Callable[[], None]) -> None:
        self._system = system
        self._ready = ready
        self._since_ns = time.time_ns()
        self._open: dict[int, BinaryIO] = {}
        self._handles = itertools.count(1)

    def __call__(self, operation: str, *arguments: Any) -> Any:
        """Do what FUSE asks. Raises OSError, whose number the program is told that asked."""
        try:
            return getattr(self, operation)(*arguments)
        except casstore.CasstoreError as error:
            is_missing = isinstance(error, casstore.TagNotFound)
            if not is_missing:
                _log.error("%s", error)
            raise OSError(errno.ENOENT if is_missing else errno.EIO, str(error)) from error
        except OSError as error:
            if error.errno:
                raise
            raise OSError(errno.EIO, str(error)) from error

    def init(self, _: str) -> None:
        self._ready()

    def destroy(self, _: str) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def getattr(self, path: str, _: int | None = None) -> dict[str, int]:
        info = self._system.info(path)
        is_file = info["type"] == "file"
        changed_ns = int(info["mtime"] * _NS) if "mtime" in info else self._since_ns
        return {
            "st_mode": info["mode"] | (stat.S_IFREG if is_file else stat.S_IFDIR),
            "st_nlink": 1 if is_file else 2,
            "st_size": info["size"],
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), changed_ns),
        }

    def readdir(self, path: str, _: int) -> list[str]:
        return [".", "..", *(os.path.basename(name) for name in self._system.ls(path, detail=False))]

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        handle = next(self._handles)
        self._open[handle] = self._system.open(path, "rb")
        return handle

    def read(self, _: str, size: int, offset: int, handle: int) -> bytes:
        file = self._open[handle]
        file.seek(offset)
        return file.read(size)

    def release(self, _: str, handle: int) -> None:
        self._open.pop(handle).close()
