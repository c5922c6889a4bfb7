"""Where an archive is: a file, an open stream, or a URL that `fsspec` knows."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from casstore.errors import CasstoreError, InvalidSource
from casstore.storage import files, unfinished

# Of directories that may be written to and not read, and of file systems that sync no directories.
_NO_DIRECTORY_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOTSUP}

Endpoint = str | os.PathLike[str] | BinaryIO


def name_of(endpoint: Endpoint) -> str:
    """What messages call it."""
    name = endpoint if isinstance(endpoint, str | os.PathLike) else getattr(endpoint, "name", None)
    return os.fspath(name) if isinstance(name, str | os.PathLike) else "the stream"  # of a descriptor it is a number


def is_url(endpoint: Endpoint) -> bool:
    return isinstance(endpoint, str) and "://" in endpoint


def local_path(endpoint: Endpoint) -> Path | None:
    """The path of a file or directory on this machine; None for a stream or a URL."""
    if not isinstance(endpoint, str | os.PathLike):
        return None
    text = os.fspath(endpoint)
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return Path(text.removeprefix(scheme))
    return None if is_url(text) else Path(os.path.expanduser(text))


def _stream(endpoint: Endpoint) -> BinaryIO:
    """The error for a value that is neither a path nor a URL."""
    return cast("BinaryIO", endpoint)


@contextlib.contextmanager
def reading(endpoint: Endpoint) -> Iterator[tuple[BinaryIO, int | None]]:
    """The bytes at an endpoint, and how many there are where that is known. Raises InvalidSource, OSError."""
    path = local_path(endpoint)
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
    elif isinstance(endpoint, str):
        system, target = _file_system(endpoint)
        with _open_url(endpoint, system, target, "rb") as remote:
            yield remote, getattr(remote, "size", None)
    else:
        yield _stream(endpoint), None


@contextlib.contextmanager
def writing(endpoint: Endpoint, mode: int) -> Iterator[BinaryIO]:
    """A stream whose bytes are at the endpoint once the block has ended, and not at all when it raises.

    Of a stream that is given, and some file systems behind URLs, what was written stays. Raises InvalidSource, OSError.
    """
    path = local_path(endpoint)
    if path is not None:
        with _writing_file(path, mode) as file:
            yield file
    elif isinstance(endpoint, str):
        system, target = _file_system(endpoint)
        was_there = _exists(system, target)
        remote = _open_url(endpoint, system, target, "wb")
        try:
            yield remote
        except BaseException:
            _discard(remote)
            if not was_there:
                with contextlib.suppress(Exception):  # the error that led here says more
                    system.rm_file(target)
            raise
        remote.close()
    else:
        stream = _stream(endpoint)
        yield stream
        stream.flush()


@contextlib.contextmanager
def _writing_file(path: Path, mode: int) -> Iterator[BinaryIO]:
    if is_device(path):
        with open(path, "wb") as device:
            yield device
        return
    path = Path(os.path.realpath(path))  # nor shall it replace a link
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(path.parent))
    unfinished.remove_leftovers(path.parent)
    part, created = unfinished.file_in(path.parent)
    try:
        with created as descriptor:
            with open(descriptor, "wb", closefd=False) as file:
                yield file
            files.set_mode(descriptor, mode)
            # The file that it replaces, or the version itself, may be gone by the time the power is.
            files.sync_descriptor(descriptor)
            files.rename(part, path)
    except BaseException as error:
        files.remove_file(part)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            error.filename = str(path)  # it is not the store's disk that is full
        raise
    try:
        files.sync_directory(path.parent)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def is_device(path: Path) -> bool:
    """Whether a special file stands there, such as a pipe or a terminal, to be written to and not replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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

    def readinto(self, buffer: Any, /) -> int:
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _discard(remote: Any) -> None:
    """Drop an upload that is not complete, as far as the file system behind it can."""
    with contextlib.suppress(Exception):  # the error that led here says more
        remote.discard()
    with contextlib.suppress(AttributeError):  # of what is kept in memory
        remote.closed = True  # or collecting it as garbage would complete the upload


def _file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL names, and the path in it."""
    fsspec = _fsspec()
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (OSError, CasstoreError):
        raise
    except Exception as error:  # whatever a file system raises
        raise _not_opened(url, error) from error
    return system, path


def _open_url(url: str, system: Any, path: str, mode: str) -> Any:
    try:
        return system.open(path, mode)
    except FileNotFoundError as error:
        cause = error.__cause__
        # fsspec says so of whatever goes wrong with a request.
        if url.startswith(("http://", "https://")) and not isinstance(cause, FileNotFoundError | None):
            raise _not_opened(url, cause) from error
        raise InvalidSource(f"{url} does not exist") from error
    except (OSError, CasstoreError):
        raise
    except Exception as error:  # whatever a file system raises
        raise _not_opened(url, error) from error


def _not_opened(url: str, error: BaseException) -> InvalidSource:
    return InvalidSource(f"{url} cannot be opened: {str(error) or type(error).__name__}")


def _exists(system: Any, path: str) -> bool:
    """Whether something is there, or may be."""
    try:
        return bool(system.exists(path))
    except Exception:  # noqa: BLE001 - whatever a file system raises; writing will say so
        return True


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise InvalidSource("URLs need the package fsspec: pip install fsspec, and what it needs for yours") from error
    return fsspec
