"""A version as a directory of the caller's own: writable, sharing no file with the store, there as a whole or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.directories.materialize import materialize
from casstore.actions.exchange.exporting import Filling, fill_folder
from casstore.actions.picking import picked
from casstore.actions.sources.homes import check_target
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import InvalidSource
from casstore.progress import Progress
from casstore.storage import files, unfinished
from casstore.storage.container import LINK_FROM_BYTES
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.working import check_working_directory


def checkout(
    workspace: Workspace, row: VersionRow, target: Path, progress: Progress, *, link: bool,
    only: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """Make `target` a directory with the version's files and its `model.yaml`, or with the files of `only` these paths,
    directories or patterns; returns its absolute path.

    The files are the caller's: writable, with one link each, sharing blocks with the store where the file system can.
    With `link` they are read-only hardlinks of those in the version's directory. Each byte is checked on its way.
    Raises FileExistsError for what is there already, unless it is an empty directory, InvalidSource for a place inside
    a store and where no hardlinks can be had, FileNotFoundError for a pattern that fits no file, TagNotFound,
    IntegrityError, OSError; then nothing is left at `target`.
    """
    check_working_directory(target)
    path = Path(os.path.realpath(target))
    check_target(path)
    with _appearing(path) as part:
        if link:
            _link_all(workspace, row, part, progress, only)
        else:
            cloner = _Cloner(workspace, part)
            fill_folder(workspace, row, part, progress, Filling("checkout", cloner.clone, only))
    return path


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A new directory that is at `path` when the block has ended, and nowhere where that raises."""
    for place in (path, path.parent):
        unfinished.remove_leftovers(place)
    is_there = os.path.lexists(path)
    if is_there and (not path.is_dir() or any(path.iterdir())):
        what = "it is not empty" if path.is_dir() else "a file stands there"
        raise FileExistsError(errno.EEXIST, f"{what}; name a directory that is new, or an empty one", str(path))
    # What is mounted, as in a container, cannot be renamed over, and a shell would be left in a directory that is gone.
    is_kept = is_there and (os.path.ismount(path) or os.path.samefile(path, os.curdir))
    with unfinished.directory_in(path if is_kept else path.parent) as part:
        try:
            yield part
            if is_kept:
                _move_up(part, path)
            else:
                if is_there:
                    files.set_directory_mode(part, path.stat().st_mode & 0o7777)
                files.rename(part, path)
        except BaseException:
            files.remove_tree(part)
            raise


def _move_up(part: Path, path: Path) -> None:
    moved: list[Path] = []
    try:
        for each in sorted(part.iterdir()):
            if os.path.lexists(path / each.name):
                raise FileExistsError(errno.EEXIST, "it has come meanwhile", str(path / each.name))
            files.rename(each, path / each.name)
            moved.append(path / each.name)
        files.remove_empty_directory(part)
    except BaseException:
        for each in moved:
            files.remove_tree(each)
        raise


class _Cloner:
    """Makes files that share the blocks of the store's loose files, where these and the file system allow it."""

    def __init__(self, workspace: Workspace, directory: Path) -> None:
        self._workspace = workspace
        home = workspace.layout.sessions
        is_near = os.path.isdir(home) and os.stat(home).st_dev == os.stat(directory).st_dev
        self._may_clone = is_near and not workspace.catalog.read_only and files.has_reflinks(home)

    def clone(self, file: FileEntry, path: Path) -> bool:
        """False where the file has to be written. Raises OSError."""
        if not self._may_clone or file.size < LINK_FROM_BYTES:
            return False
        candidates = loose_files.find(self._workspace, file.digest, file.executable)
        return loose_files.reflink(self._workspace, candidates, path) is not None


def _link_all(
    workspace: Workspace, row: VersionRow, directory: Path, progress: Progress, only: Sequence[str] | None
) -> None:
    wanted = [file.path for file in picked(workspace.catalog.versions.files(row.id), only, str(row.tag))]
    workspace.leasing.take(row)
    standing = materialize(workspace, row, progress)
    if only is None:
        wanted.insert(0, DESCRIPTOR_NAME)
        for each in row.directory_paths():
            files.make_directory(directory / each, parents=True)
    for path in wanted:
        files.make_directory((directory / path).parent, parents=True)
        if not files.try_link(standing / path, directory / path):
            raise InvalidSource(
                f"no hardlinks can be had from {standing} to {directory.parent}, as on another file system; leave out "
                "--link (in Python: link=True) for a copy"
            )
