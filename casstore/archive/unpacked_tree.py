"""The directory that an archive is unpacked into: each member is checked against those before it, then created."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from casstore.archive import limits
from casstore.archive.links import ArchiveLink
from casstore.archive.names import clean, show
from casstore.archive.pathset import PathSet
from casstore.errors import UnsafeArchive
from casstore.storage import files
from casstore.storage.names import as_opened

DESCRIPTOR_NAME = "model.yaml"
# Written to disk while what follows is unpacked: with 128 MB the sync after it then takes 0.02 s instead of 0.08.
_WRITEBACK_BYTES = 8 << 20
# What a file system says of a name that it cannot hold.
_NO_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


class UnpackedTree:
    """Creates members below `directory`, which nothing else writes to. Links are only noted.

    Every method raises UnsafeArchive for a member that cannot be, and OSError.
    """

    def __init__(self, directory: Path, budget: limits.Budget, *, will_be_synced: bool = False) -> None:
        self._will_be_synced = will_be_synced
        self._directory = str(directory)
        self._budget = budget
        self.links: dict[str, ArchiveLink] = {}
        self.descriptor: bytes | None = None
        self.file_count = 0
        self.size = 0
        self._link_bytes = 0
        self._taken = PathSet()
        self._taken.add(DESCRIPTOR_NAME)
        self._entered = ""

    def disk_path(self, path: str) -> str:
        return f"{self._directory}/{as_opened(path)}" if path else self._directory

    def add_directory(self, name: str) -> None:
        """Fine if it is there as a directory."""
        self._enter(clean(name))

    def add_file(self, name: str, is_executable: bool, pieces: Iterable[bytes | memoryview]) -> None:
        """A top-level model.yaml becomes `descriptor`, every other file is written."""
        path = clean(name)
        if not path:
            raise UnsafeArchive(f"{show(name)} in the archive is a file and names the archive's root")
        if path == DESCRIPTOR_NAME:
            self._keep_descriptor(pieces)
            return
        self._claim(path)
        self.write(path, is_executable, pieces)

    def add_link(self, name: str, target: str, is_hard: bool) -> None:
        """A link, or with `is_hard` another name of a file, to be replaced by what it leads to when all is there."""
        path = clean(name)
        if path in ("", DESCRIPTOR_NAME):
            raise UnsafeArchive(f"{show(name)} in the archive is a link; pack the archive again without links")
        self._claim(path)
        self._link_bytes += len(path) + len(target)
        if self._link_bytes > limits.MAX_LINK_BYTES:
            raise UnsafeArchive(f"the links of the archive take more than {limits.MAX_LINK_BYTES:,} bytes of paths")
        self.links[path] = ArchiveLink(target, is_hard)

    def write(self, path: str, is_executable: bool, pieces: Iterable[bytes | memoryview]) -> None:
        """A file at a path that is known to be free."""
        with self.create(path) as descriptor:
            written = begun = 0
            for piece in pieces:
                files.write_all(descriptor, piece)
                written += len(piece)
                if self._will_be_synced and written - begun >= _WRITEBACK_BYTES:
                    files.start_writeback(descriptor, begun, written - begun)
                    begun = written
            self.size += written
            if is_executable:
                files.set_mode(descriptor, 0o700)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[int]:
        """A descriptor of a new file."""
        with _naming(path):
            created = files.create_file(self.disk_path(path))
        with created as descriptor:
            self.file_count += 1
            yield descriptor

    def make_directory(self, path: str) -> None:
        with _naming(path):
            os.mkdir(self.disk_path(path), 0o700)

    def kind(self, path: str) -> str | None:
        """What stands at a path: "directory", "file" or nothing. Links are not there yet."""
        try:
            mode = os.lstat(self.disk_path(path)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            is_descriptor = path == DESCRIPTOR_NAME and self.descriptor is not None
            return "file" if is_descriptor else None
        except OSError as error:
            if error.errno in _NO_NAME:
                return None
            raise
        return "directory" if stat.S_ISDIR(mode) else "file"

    def _keep_descriptor(self, pieces: Iterable[bytes | memoryview]) -> None:
        if self.descriptor is not None:
            raise UnsafeArchive(f"the archive has {DESCRIPTOR_NAME!r} twice; pack it again")
        self._budget.add_member()
        found = bytearray()
        for piece in pieces:
            if len(found) + len(piece) > limits.MAX_DESCRIPTOR_BYTES:
                raise UnsafeArchive(f"{DESCRIPTOR_NAME!r} has more than {limits.MAX_DESCRIPTOR_BYTES:,} bytes")
            found += piece
        self.descriptor = bytes(found)

    def _claim(self, path: str) -> None:
        """Take a path for a file or link, and make the directories above it."""
        self._enter(path.rpartition("/")[0])
        if not self._take(path):
            kind = self.kind(path)
            if kind == "directory":
                raise UnsafeArchive(f"{show(path)} in the archive is both a directory and a file or link")
            raise UnsafeArchive(f"{show(path)} is in the archive twice; pack it again")

    def _enter(self, directory: str) -> None:
        if directory == self._entered:
            return
        parts = directory.split("/") if directory else []
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            if self._entered.startswith(path + "/"):
                continue
            if self._take(path):
                self.make_directory(path)
            elif path in self.links:
                raise UnsafeArchive(f"{show(directory)} in the archive leads through the link {show(path)}")
            elif self.kind(path) != "directory":
                what = "the descriptor's name" if path == DESCRIPTOR_NAME else "a file"
                raise UnsafeArchive(f"{show(path)} in the archive is {what} and a directory at once")
        self._entered = directory

    def _take(self, path: str) -> bool:
        """False if it is taken. Raises UnsafeArchive if a path that many file systems take for the same is."""
        found = self._taken.find(path)
        if found is None:
            self._budget.add_member()
            self._taken.add(path)
            return True
        if found == "alike":
            raise UnsafeArchive(
                f"{show(path)} and another member of the archive differ only by case or Unicode form, "
                "and many file systems hold only one of them; rename one"
            )
        return False


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which member's name it is that the file system cannot hold."""
    try:
        yield
    except FileExistsError as error:
        raise UnsafeArchive(f"{show(path)} in the archive stands where another file does") from error
    except OSError as error:
        if error.errno in _NO_NAME:
            raise UnsafeArchive(f"{show(path)} in the archive cannot be created here: {error.strerror}") from error
        raise
