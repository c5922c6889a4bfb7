"""Some files of a version that is in a remote, as plain files in a directory of the caller's: nothing is saved."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from casstore.actions.exchange.arriving_manifests import checked_manifest
from casstore.actions.picking import picked
from casstore.actions.sources.homes import check_target
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.late import LateModule
from casstore.progress import Progress
from casstore.remote.fetching import Fetching
from casstore.remote.reading import RemoteVersion
from casstore.remote.transfers import workers
from casstore.storage import files, machine, unfinished
from casstore.storage.descriptors import opened
from casstore.storage.manifest import FileEntry, Manifest
from casstore.storage.working import check_working_directory
from casstore.tag import Tag

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

_READERS = 16
# What has to be asked for again where this is cut short. A larger file is asked for by itself.
_GROUP_BYTES = 64 << 20
_GROUP_FILES = 1000
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PulledFiles:
    """Files of a version that were written into a directory: see `RemoteModel.checkout`.

    Attributes
    ----------
    directory
        Its absolute path.
    written
        The files that were written, by their paths in the version.
    left
        Those that stood there already, with the same content.
    received_bytes
        What travelled.
    """

    directory: str
    written: Sequence[str]
    left: Sequence[str]
    received_bytes: int


def pull_files(
    version: RemoteVersion, directory: Path, patterns: Sequence[str] | None, progress: Progress, *, replace: bool
) -> PulledFiles:
    """Write these files of a version below `directory`, each when all of it has come and is what its digest says.

    What is there already with the same content stays. With `replace` other content gives way, once all has come.
    Raises FileNotFoundError where no file fits, FileExistsError, before anything is asked for, for other content and
    for links on the way, InvalidSource for a place inside a store, IntegrityError, TagNotFound, RemoteError, OSError.
    """
    origin = f"{version.ref.segment} in {version.bucket.name}"
    manifest = checked_manifest(version.manifest, origin)
    wanted = picked(manifest.files, patterns, str(manifest.tag))
    check_working_directory(directory)
    root = Path(os.path.realpath(directory))
    check_target(root)
    lacking = [file for file in wanted if not _stands(root, file, replace=replace)]
    writing = _Writing(manifest, root, origin, progress, replace)
    is_new = not root.exists()
    with workers(_READERS) as pool:
        fetching = Fetching(version, pool)
        progress.start("pull", sum(file.size for file in lacking))
        try:
            for group in _groups(lacking):
                writing.write(group, fetching)
        except BaseException:
            if is_new:  # it was made for what did not come
                with contextlib.suppress(OSError):
                    files.remove_empty_directory(root)
            raise
        finally:
            progress.finish()
    written = {file.path for file in lacking}
    left = [file.path for file in wanted if file.path not in written]
    return PulledFiles(str(root), [file.path for file in lacking], left, fetching.received_bytes)


def _stands(root: Path, file: FileEntry, *, replace: bool) -> bool:
    """Whether that file is there with the same content. Raises FileExistsError for what has to give way and may not."""
    above = root
    for name in file.path.split("/")[:-1]:
        above = above / name
        if os.path.lexists(above) and (above.is_symlink() or not above.is_dir()):
            what = "a symbolic link" if above.is_symlink() else "a file"
            raise FileExistsError(
                errno.EEXIST, f"{what} stands where {file.path} needs a directory; name another directory", str(above)
            )
    path = root / file.path
    if not os.path.lexists(path):
        return False
    if path.is_dir() and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, f"a directory stands where {file.path} goes", str(path))
    if not path.is_symlink() and path.is_file() and path.stat().st_size == file.size and _digest(path) == file.digest:
        return True
    if not replace:
        raise FileExistsError(
            errno.EEXIST,
            f"it is not the {file.path} of the version; have it replaced: --replace (in Python: replace=True), or "
            "name another directory",
            str(path),
        )
    return False


def _digest(path: Path) -> Digest:
    hasher = blake3()
    with files.open_regular(path) as file:
        while piece := os.read(file, _PIECE_BYTES):
            hasher.update(piece)
    return Digest(hasher.digest())


def _groups(wanted: Sequence[FileEntry]) -> Iterator[list[FileEntry]]:
    """The files, those of the same content together, so many at a time as are asked for at once."""
    same: dict[Digest, list[FileEntry]] = {}
    for file in wanted:
        same.setdefault(file.digest, []).append(file)
    group: list[FileEntry] = []
    size = 0
    for alike in same.values():
        if group and (size + alike[0].size > _GROUP_BYTES or len(group) >= _GROUP_FILES):
            yield group
            group, size = [], 0
        group += alike
        size += alike[0].size
    if group:
        yield group


@dataclass(slots=True)
class _Writing:
    """Writes files into a hidden directory below `root`, and moves each to its place when it is complete."""

    manifest: Manifest
    root: Path
    origin: str
    progress: Progress
    replace: bool
    _umask: int = field(default_factory=machine.umask)

    @property
    def _tag(self) -> Tag:
        return self.manifest.tag

    def write(self, group: Sequence[FileEntry], fetching: Fetching) -> None:
        unfinished.remove_leftovers(self.root)
        with unfinished.directory_in(self.root) as part:
            try:
                paths = [part / str(number) for number in range(len(group))]
                places: dict[Digest, list[tuple[Path, int, int]]] = {}
                for file, path in zip(group, paths, strict=True):
                    files.create_file(path).close()
                    for chunk in self.manifest.recipe_of(file).chunks():
                        places.setdefault(chunk.digest, []).append((path, chunk.offset, chunk.length))

                def take(digest: Digest, raw: bytes) -> None:
                    for path, offset, length in places[digest]:
                        if len(raw) != length:
                            raise IntegrityError(f"{self.origin} says {length:,} bytes for a chunk of {len(raw):,}")
                        with opened(path, os.O_WRONLY) as target:
                            files.write_all(target, raw, offset)
                        self.progress.advance(length)

                fetching.fetch(places, take)
                for file, path in zip(group, paths, strict=True):
                    self._finish(file, path)
            finally:
                with contextlib.suppress(OSError):
                    files.remove_tree(part)

    def _finish(self, file: FileEntry, path: Path) -> None:
        if path.stat().st_size != file.size or _digest(path) != file.digest:
            raise IntegrityError(f"{file.path} of {self._tag} is not what its digest says, by {self.origin}")
        with opened(path, os.O_WRONLY) as target:
            files.set_mode(target, (0o777 if file.executable else 0o666) & ~self._umask)
        if not _stands(self.root, file, replace=self.replace):  # it may have come meanwhile
            files.make_directory((self.root / file.path).parent, parents=True)
            files.rename(path, self.root / file.path)
