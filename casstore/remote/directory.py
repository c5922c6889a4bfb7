"""A directory as a remote: a NAS, a USB disk, or a place to try it.

Objects are files, made under a temporary name, synced, and hardlinked to their own name: `link` fails where that is
taken, which is the condition. An object is there whole or not at all, whatever is killed when. On NFS `link` is atomic
too, but listings are cached for up to a minute. A file system without hardlinks is refused when it is written to.

A directory in which nothing is left goes with the last object; who is about to write there makes it again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from casstore.errors import RemoteError
from casstore.remote.backend import MOST_DOCUMENT_BYTES, Entry, KeyMissing, KeyTaken, refusal, too_large
from casstore.remote.keys import MARKER, PROBE
from casstore.storage import files, machine
from casstore.storage.descriptors import Descriptor

_TEMPORARY = ".tmp"  # no key begins with a dot
_TEMPORARY_NAME = re.compile(r"[0-9a-f]{32}")
_FILE_MODE = 0o666
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
# Twice the minute for which a client of NFS keeps a listing at most, unless it is told otherwise (nfs(5), acdirmax).
_NETWORK_DELAY_SECONDS = 120.0
_LEFT_SECONDS = 86_400
_TRIES = 100  # of writing into a directory that others remove meanwhile


class DirectoryBackend:
    """The objects of a remote as files below `root`, which is made when the first is written."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))
        self.name = os.fspath(self._root)

    @property
    def listing_delay_seconds(self) -> float:
        """See Backend."""
        return 0.0 if machine.network_file_system(self._root) is None else _NETWORK_DELAY_SECONDS

    def check_own(self) -> None:
        """See that nothing else is kept in the directory. Raises RemoteError."""
        with self._explained(""), contextlib.suppress(FileNotFoundError):
            names = sorted(name for name in os.listdir(self._root) if not name.startswith("."))
            if names and MARKER not in names and names != [PROBE]:
                raise RemoteError(
                    f"{self.name} holds other things, such as {names[0]!r}; name a directory of its own, which "
                    "may be new"
                )

    def create(self, key: str, body: bytes) -> None:
        """See Backend."""
        with self._explained(key):
            self._write(key, body)

    def put(self, key: str, body: bytes) -> None:
        """See Backend: what stands there already is what was to be written."""
        with contextlib.suppress(KeyTaken):
            self.create(key, body)

    def get(self, key: str) -> bytes:
        """See Backend."""
        with self._explained(key), self._open(key) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > MOST_DOCUMENT_BYTES:
                raise too_large(self.name, key)
            return os.pread(descriptor, size, 0)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Backend."""
        with self._explained(key), self._open(key) as descriptor:
            return os.pread(descriptor, max(0, min(length, os.fstat(descriptor).st_size - start)), start)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See Backend."""
        with self._explained(prefix):
            below = prefix.rstrip("/")
            if below:
                self._check_no_link(self._path(below))
            for entry in self._walk(below):
                if entry.key > after:
                    yield entry

    def delete(self, keys: Sequence[str]) -> None:
        """See Backend."""
        for key in keys:
            with self._explained(key), contextlib.suppress(*_NOT_THERE):
                path = self._path(key)
                os.unlink(path)
                files.sync_directory(path.parent)
                while path.parent != self._root and files.remove_empty_directory(path.parent):
                    path = path.parent

    def tidy(self) -> None:
        """See Backend."""
        kept = self._root / _TEMPORARY
        self._check_no_link(kept)
        with self._explained(_TEMPORARY), contextlib.suppress(*_NOT_THERE):
            names = [name for name in os.listdir(kept) if _TEMPORARY_NAME.fullmatch(name)]
            if not names:
                return
            clock = kept / secrets.token_hex(16)
            files.write_new_file(clock, b"", _FILE_MODE & ~machine.umask())
            now = os.stat(clock).st_mtime  # by the clock of whoever keeps the disk
            files.remove_file(clock)
            for name in names:
                with contextlib.suppress(*_NOT_THERE, PermissionError):  # another user's is left to that user
                    status = os.lstat(kept / name)
                    if stat.S_ISREG(status.st_mode) and now - status.st_mtime >= _LEFT_SECONDS:
                        files.remove_file(kept / name)

    def close(self) -> None:
        """See Backend."""

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") or part.startswith(".") or "\0" in part for part in parts):
            raise ValueError(f"no object can be called {key!r}")
        path = self._root.joinpath(*parts)
        self._check_no_link(path.parent)
        return path

    def _check_no_link(self, path: Path) -> None:
        """Raise RemoteError where a directory between the root and that one is a link, which leads elsewhere."""
        while path != self._root:
            if path.is_symlink():
                raise _linked(path)
            path = path.parent

    def _open(self, key: str) -> Descriptor:
        try:
            return files.open_regular(self._path(key), follow=False)
        except _NOT_THERE as error:
            raise KeyMissing(key) from error
        except PermissionError as error:
            raise refusal(self._said(key, error)) from error

    def _write(self, key: str, body: bytes) -> None:
        target = self._path(key)
        if os.path.lexists(target):
            raise KeyTaken(key)
        self._check_no_link(self._root / _TEMPORARY)
        self._make_directories(self._root / _TEMPORARY)
        temporary = self._root / _TEMPORARY / secrets.token_hex(16)
        try:
            files.write_new_file(temporary, body, _FILE_MODE & ~machine.umask(), durable=True)
            if not self._name(temporary, target):
                raise KeyTaken(key)
            with contextlib.suppress(FileNotFoundError):  # it has been removed again
                files.sync_directory(target.parent)
        finally:
            files.remove_file(temporary)

    def _name(self, temporary: Path, target: Path) -> bool:
        """Link a file to its name, in directories that gc may find empty and remove. False where it is taken."""
        for left in reversed(range(_TRIES)):
            try:
                self._make_directories(target.parent)
                return self._link(temporary, target)
            except FileNotFoundError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _link(self, temporary: Path, target: Path) -> bool:
        """Whether this has given the file its name. On NFS the answer may be lost: then its links are counted."""
        try:
            if files.try_link(temporary, target):
                return True
        except FileExistsError:
            return os.stat(temporary).st_nlink == 2
        if os.stat(temporary).st_nlink == 2:
            return True
        raise RemoteError(
            f"{self.name} is on a file system without hardlinks, where two writers cannot be kept apart; use a disk "
            "with a file system that has them (ext4, XFS, Btrfs, APFS, NTFS), or an object store"
        )

    def _make_directories(self, directory: Path) -> None:
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for each in reversed(missing):
            files.make_directory(each)
            files.sync_directory(each.parent)

    def _walk(self, below: str) -> Iterator[Entry]:
        """The files below a directory, by the order of their keys."""
        try:
            found = list(os.scandir(self._root / below))
        except _NOT_THERE:
            return
        # As an object store would sort them: a directory's keys begin with its name and a slash.
        named = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in found]
        for name, entry in sorted(named, key=lambda pair: pair[0]):
            if name.startswith("."):
                continue
            if entry.is_symlink():
                raise _linked(entry.path)
            key = f"{below}/{entry.name}" if below else entry.name
            if name.endswith("/"):
                yield from self._walk(key)
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(*_NOT_THERE):
                    status = entry.stat(follow_symlinks=False)
                    yield Entry(key, status.st_size, status.st_mtime_ns)

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, RemoteError):
                raise
            raise RemoteError(self._said(key, error)) from error

    def _said(self, key: str, error: OSError) -> str:
        return (
            f"{key} in the remote {self.name}: {error.strerror}; see that the disk is there, has room, and may be read "
            "and written by you"
        )


def _linked(path: str | os.PathLike[str]) -> RemoteError:
    return refusal(
        f"{os.fspath(path)} is a symbolic link, which a remote has none of: what is written would stand elsewhere, and "
        "what is listed would not be all; put in its place what it leads to"
    )
