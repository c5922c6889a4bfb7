"""What FUSE asks of a mounted store, answered from its file system.

The kernel keeps the pages and the size of a file by its path, for all programs that have it open. So a path must never
have bytes of two versions: what moves, such as `bert@prod` or `bert`, is a symbolic link to the directory of a version.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import casstore

_log = logging.getLogger("casstore")
_NS = 10**9
_DESCRIPTOR = "model.yaml"
_DIGITS = 16  # of a digest, in the name of a directory


@dataclass(frozen=True, slots=True)
class _Opened:
    path: str
    file: BinaryIO
    attributes: dict[str, int]


class Mounted:
    """The operations of one mount, as fusepy calls them with `raw_fi`: one at a time. What there is none of here is not
    implemented, and nothing writes.

    `system` is a file system of fsspec; `ready` is called once it is mounted.
    """

    use_ns = True  # times are given in nanoseconds

    def __init__(self, system: Any, ready: Callable[[], None]) -> None:
        self._system = system
        self._ready = ready
        self._since_ns = time.time_ns()
        self._open: dict[int, _Opened] = {}
        self._handles = itertools.count(1)
        # The content that each tag had when it was first seen. Another under the same tag, after `delete --now` and a
        # save, has a directory of its own, `bert:v1~DIGEST`, and the tag becomes a link to it.
        self._first: dict[str, str] = {}

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
            self._open.popitem()[1].file.close()

    def getattr(self, path: str, info: Any = None) -> dict[str, int]:
        if info is not None:
            return self._open[info.fh].attributes
        try:
            return self._looked_up(path)
        except OSError:
            for opened in self._open.values():  # its tag may be gone by now, or have another content
                if opened.path == path:
                    return opened.attributes
            raise

    def _looked_up(self, path: str) -> dict[str, int]:
        top, inner = _split(path)
        if inner or not top:
            found = self._system.info(_in_system(path))
            self._check(path)
            return self._attributes(found)
        place, version = self._place(top)
        if place == top:
            return self._attributes(version)
        if _tag(top) != top:
            _refuse(errno.ENOENT, path)
        return self._attributes({"type": "link", "mode": 0o777, "size": len(place)})

    def _attributes(self, info: dict[str, Any]) -> dict[str, int]:
        kind = {"file": stat.S_IFREG, "link": stat.S_IFLNK, "directory": stat.S_IFDIR}[info["type"]]
        changed_ns = int(info["mtime"] * _NS) if "mtime" in info else self._since_ns
        return {
            "st_mode": info["mode"] | kind,
            "st_nlink": 2 if kind == stat.S_IFDIR else 1,
            "st_size": info["size"],
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), changed_ns),
        }

    def readlink(self, path: str) -> str:
        return self._place(_split(path)[0])[0]

    def readdir(self, path: str, _: int) -> list[str]:
        names = [os.path.basename(name) for name in self._system.ls(_in_system(path), detail=False)]
        self._check(path)
        return [".", "..", *names]

    def open(self, path: str, info: Any) -> int:
        if info.flags & os.O_ACCMODE != os.O_RDONLY:
            _refuse(errno.EROFS, path)
        attributes = self._attributes(self._system.info(_in_system(path)))
        file = self._system.open(_in_system(path), "rb")
        try:
            self._check(path)
        except OSError:
            file.close()
            raise
        info.fh = next(self._handles)
        if _split(path)[1] == _DESCRIPTOR:
            info.direct_io = True  # it is not of what a digest tells: it may differ where that is the same
        else:
            info.keep_cache = True
        self._open[info.fh] = _Opened(path, file, attributes)
        return 0

    def read(self, _: str, size: int, offset: int, info: Any) -> bytes:
        file = self._open[info.fh].file
        file.seek(offset)
        return file.read(size)

    def release(self, _: str, info: Any) -> None:
        self._open.pop(info.fh).file.close()

    def _place(self, top: str) -> tuple[str, dict[str, Any]]:
        """The directory of the version that a name means, and what is known of it. Raises FileNotFoundError."""
        tag = _tag(top)
        version = self._system.info(tag)
        if version["tag"] != tag:
            return version["tag"], version
        digest = version["digest"]
        return tag if self._first.setdefault(tag, digest) == digest else f"{tag}~{digest[:_DIGITS]}", version

    def _check(self, path: str) -> None:
        """Raises OSError with ESTALE where the version is in another directory by now: then Linux asks for every part
        of the path once more."""
        top, _ = _split(path)
        if top and self._place(top)[0] != top:
            _refuse(errno.ESTALE, path)


def _split(path: str) -> tuple[str, str]:
    top, _, inner = path.strip("/").partition("/")
    return top, inner


def _tag(top: str) -> str:
    """The name of a directory without a digest after it; `bert@prod~1` has none."""
    tag, _, digits = top.partition("~")
    return tag if digits and ":" in tag else top


def _in_system(path: str) -> str:
    """The path in the file system of fsspec."""
    top, inner = _split(path)
    return f"{_tag(top)}/{inner}".strip("/")


def _refuse(number: int, path: str) -> NoReturn:
    raise OSError(number, os.strerror(number), path)
