"""Writing an archive to a stream that is never sought in: equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from casstore.archive import compression
from casstore.archive.compression import Output, Sink
from casstore.archive.formats import Format
from casstore.archive.names import clean, show
from casstore.errors import IntegrityError

_COPY_BYTES = 1 << 20
# What a zip's times can say: DOS counts from 1980, in seven bits.
_FIRST_ZIP_TIME_S = 315_532_800
_LAST_ZIP_TIME_S = 4_354_819_198
_UNIX = 3


class Content(Protocol):
    """A member's bytes, read once from front to back: at most `size` at a time, none at the end."""

    def read(self, size: int, /) -> bytes: ...


class ArchiveWriter(Protocol):
    """Takes the members of an archive, each path once. Paths are relative and `/`-separated.

    `add_file` raises IntegrityError where `content` has not the `size` bytes that were announced. Both ways of adding
    raise UnsafeArchive for a path that no archive should hold, and whatever the sink raises.
    """

    def add_directory(self, path: str) -> None: ...

    def add_file(self, path: str, size: int, executable: bool, content: Content) -> None: ...

    def close(self) -> None:
        """Complete the archive; harmless when it is."""


@contextlib.contextmanager
def open_writer(format: Format, sink: BinaryIO, *, mtime_s: int = 0) -> Iterator[ArchiveWriter]:
    """Write an archive to `sink`, of which only `write` is used; it is not closed.

    Every member has the time `mtime_s`, owner 0, and mode 0755 (directories and executables) or 0644.
    Leaving the block completes the archive; an exception leaves it incomplete, for the caller to remove.
    Raises ValueError for FOLDER and CASMODEL, which are not archives, and what the sink raises.
    """
    output = Output(sink)
    if format is Format.ZIP:
        writer: _ZipWriter | _TarWriter = _ZipWriter(output, mtime_s)
    elif format in _COMPRESS:
        writer = _TarWriter(_COMPRESS[format](output), mtime_s)
    else:
        raise ValueError(f"{format.value} is not an archive to write")
    try:
        yield writer
        writer.close()
    except BaseException:
        output.abandon()
        writer.abandon()
        raise


_COMPRESS: dict[Format, Callable[[Output], Sink]] = {
    Format.BENTOMODEL: compression.compress_xz,
    Format.TAR: lambda output: output,
    Format.GZ: compression.compress_gz,
    Format.XZ: compression.compress_xz,
    Format.BZ2: compression.compress_bz2,
    Format.ZST: compression.compress_zst,
}


class _TarWriter:
    def __init__(self, sink: Sink, mtime_s: int) -> None:
        self._sink = sink
        self._mtime_s = mtime_s
        self._position = 0
        self._is_closed = False

    def add_directory(self, path: str) -> None:
        info = self._info(path, 0o755)
        info.type = tarfile.DIRTYPE
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))

    def add_file(self, path: str, size: int, executable: bool, content: Content) -> None:
        info = self._info(path, 0o755 if executable else 0o644)
        info.size = size
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        for data in _exactly(content, path, size):
            self._write(data)
        self._pad(tarfile.BLOCKSIZE)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._write(bytes(2 * tarfile.BLOCKSIZE))
            self._pad(tarfile.RECORDSIZE)
            self._sink.finish()

    def abandon(self) -> None:
        self._sink.abandon()

    def _info(self, path: str, mode: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(clean(path))
        info.mode = mode
        info.mtime = self._mtime_s
        return info

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self._position += len(data)

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._position % unit))


class _ZipWriter:
    def __init__(self, output: Output, mtime_s: int) -> None:
        moment = time.gmtime(min(max(mtime_s, _FIRST_ZIP_TIME_S), _LAST_ZIP_TIME_S))
        self._time = moment[:6]
        # Without `seekable` it writes sizes behind the members, as to a pipe.
        self._archive = zipfile.ZipFile(output, "w")  # type: ignore[call-overload]  # for a `close`, which it never calls

    def add_directory(self, path: str) -> None:
        info = self._info(f"{path}/", stat.S_IFDIR | 0o755, zipfile.ZIP_STORED)
        info.external_attr |= 0x10  # DOS's bit for a directory
        self._archive.writestr(info, b"")

    def add_file(self, path: str, size: int, executable: bool, content: Content) -> None:
        info = self._info(path, stat.S_IFREG | (0o755 if executable else 0o644), zipfile.ZIP_DEFLATED)
        info.file_size = size
        with self._archive.open(info, "w") as member:
            for data in _exactly(content, path, size):
                member.write(data)

    def close(self) -> None:
        self._archive.close()

    def abandon(self) -> None:
        self._archive.close()

    def _info(self, path: str, mode: int, method: int) -> zipfile.ZipInfo:
        clean(path)
        info = zipfile.ZipInfo(path, self._time)
        info.compress_type = method
        info.create_system = _UNIX
        info.external_attr = mode << 16
        return info


def _exactly(content: Content, path: str, size: int) -> Iterator[bytes]:
    """All pieces of content that has to have the size that was announced."""
    left = size
    while left:
        data = content.read(min(left, _COPY_BYTES))
        if not data:
            raise IntegrityError(f"{show(path)} has {left:,} bytes fewer than its size of {size:,}")
        left -= len(data)
        yield data
    if content.read(1):
        raise IntegrityError(f"{show(path)} has more bytes than its size of {size:,}")
