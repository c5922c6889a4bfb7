"""Where an archive is: a file, an open stream, or a URL that `fsspec` knows."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from casstore.errors import InvalidSource
from casstore.storage import files
from casstore.storage.layout import new_id

Location = str | os.PathLike[str] | BinaryIO


def name_of(location: Location) -> str:
    """What messages call it."""
    return (
        os.fspath(location) if isinstance(location, str | os.PathLike) else str(getattr(location, "name", "the stream"))
    )


def is_url(location: Location) -> bool:
    return isinstance(location, str) and "://" in location


def local_path(location: Location) -> Path | None:
    """The path of a file or directory on this machine; None for a stream or a URL."""
    if not isinstance(location, str | os.PathLike):
        return None
    text = os.fspath(location)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if is_url(text) else Path(text).expanduser()


@contextlib.contextmanager
def reading(location: Location) -> Iterator[tuple[BinaryIO, int | None]]:
    """The bytes at a location, and how many there are where that is known. Raises InvalidSource, OSError."""
    path = local_path(location)
    if path is not None:
        try:
            file = open(path, "rb")  # noqa: SIM115 - the with block is below, with what only opening can raise above
        except FileNotFoundError as error:
            raise InvalidSource(f"{path} does not exist") from error
        except IsADirectoryError as error:
            raise InvalidSource(f"{path} is a directory; give its format as folder to import it") from error
        with file:
            status = os.fstat(file.fileno())
            yield file, status.st_size if stat.S_ISREG(status.st_mode) else None
    elif isinstance(location, str):
        with _url_errors(location), _fsspec().open(location, "rb") as remote:
            yield remote, getattr(remote, "size", None)
    else:
        yield location, None  # type: ignore[misc]  # what local_path has left is a stream


@contextlib.contextmanager
def writing(location: Location, mode: int) -> Iterator[BinaryIO]:
    """A stream whose bytes are at the location once the block has ended, and not at all when it raises.

    Of a stream that is given, and some file systems behind URLs, what was written stays. Raises InvalidSource, OSError.
    """
    path = local_path(location)
    if path is not None:
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(path.parent))
        unfinished = path.with_name(f".{new_id()}.part")
        try:
            with files.create_file(unfinished) as descriptor:
                with open(descriptor, "wb", closefd=False) as file:
                    yield file
                files.set_mode(descriptor, mode)
            files.rename(unfinished, path)
        except BaseException:
            files.remove_file(unfinished)
            raise
    elif isinstance(location, str):
        with _url_errors(location):
            system, target = _fsspec().core.url_to_fs(location)
            remote = system.open(target, "wb")
            try:
                yield remote
            except BaseException:
                _discard(remote)
                raise
            remote.close()
    else:
        yield location  # type: ignore[misc]
        location.flush()  # type: ignore[union-attr]


def peeked(stream: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """The first `size` bytes, or all there are, and a stream that still begins with them. Raises OSError."""
    if stream.seekable():
        start = stream.tell()
        head = _read_up_to(stream, size)
        stream.seek(start)
        return head, stream
    head = _read_up_to(stream, size)
    return head, io.BufferedReader(_Continued(head, stream))


def _read_up_to(stream: BinaryIO, size: int) -> bytes:
    head = b""
    while len(head) < size and (more := stream.read(size - len(head))):
        head += more
    return head


class _Continued(io.RawIOBase):
    """A stream of which the first bytes have been read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _discard(remote: Any) -> None:
    """Drop an upload that is not complete, as far as the file system behind it can."""
    with contextlib.suppress(Exception):  # the error that led here says more
        remote.discard()
    remote.closed = True  # or collecting it as garbage would complete the upload


@contextlib.contextmanager
def _url_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError) as error:
        if isinstance(error, InvalidSource):
            raise
        raise InvalidSource(f"{url} cannot be opened: {error}") from error


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise InvalidSource("URLs need the package fsspec: pip install fsspec, and what it needs for yours") from error
    return fsspec
