"""One file of a version under a path, without its directory: where it stands anyway, or in memory for a while."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.directories.exposure import guard
from casstore.actions.directories.standing import Standing
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import IntegrityError
from casstore.storage import files, machine
from casstore.storage.descriptors import in_memory
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe

_ON_LINUX = sys.platform == "linux"
# Of the memory that is available, a file may take this share; a larger one goes to a temporary file.
_MEMORY_SHARE = 0.5


def standing_file(workspace: Workspace, row: VersionRow, path: str) -> str | None:
    """The path of a file in the version's directory, if that stands whole and is leased from now on; else None."""
    if not Standing(workspace, row).counts:
        return None
    workspace.leasing.take(row)  # before looking whether the directory stands
    standing = Standing(workspace, row)
    if not standing.is_whole():
        return None
    if row.id not in workspace.guarded:
        guard(workspace, row, standing)
    return str(standing.path / path)


@contextlib.contextmanager
def lent_file(workspace: Workspace, file: FileEntry, recipe: Recipe, name: str) -> Iterator[str]:
    """A path of a file that is read-only, and gone with the block: of its loose file, or else of a copy of its bytes.

    Raises IntegrityError, OSError.
    """
    if _ON_LINUX and workspace.may_link() and not workspace.catalog.read_only:
        candidates = loose_files.find(workspace, file.digest, file.executable)
        loose = loose_files.open_one(workspace, candidates)
        if loose is not None:
            with loose as descriptor, _named(descriptor, file.path) as path:
                yield path
            return

    def write(descriptor: int) -> None:
        try:
            workspace.objects.write_blob(recipe, descriptor)
        except IntegrityError as error:
            raise unreadable(name, error) from error

    with copied_file(file.path, file.size, write) as path:
        yield path


@contextlib.contextmanager
def copied_file(name: str, size: int, write: Callable[[int], object]) -> Iterator[str]:
    """A path of a new file that `write` fills through its descriptor. Raises OSError, and what `write` raises."""
    if not _ON_LINUX:
        with tempfile.TemporaryDirectory(prefix="casstore-") as directory:
            path = Path(directory, os.path.basename(name))
            with files.create_file(path) as descriptor:
                write(descriptor)
                files.set_mode(descriptor, 0o400)
            yield str(path)
        return
    with contextlib.ExitStack() as opened:
        if size <= _MEMORY_SHARE * machine.available_memory():
            descriptor = opened.enter_context(in_memory())
            write(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        else:
            descriptor = opened.enter_context(tempfile.TemporaryFile(prefix="casstore-")).fileno()
            write(descriptor)
        files.set_mode(descriptor, 0o400)
        yield opened.enter_context(_named(descriptor, name))


@contextlib.contextmanager
def _named(descriptor: int, name: str) -> Iterator[str]:
    """A path of an open file that ends in the file's name, by which some loaders know its format: a link in a directory
    for it, or where none can be made, what Linux calls the file.

    Other processes may use it while this one lives and holds the file open.
    """
    target = f"/proc/{os.getpid()}/fd/{descriptor}"
    with contextlib.ExitStack() as opened:
        path = target
        with contextlib.suppress(OSError):
            directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="casstore-"))
            link = os.path.join(directory, os.path.basename(name))
            os.symlink(target, link)
            path = link
        yield path


def descriptor_file(content: bytes) -> contextlib.AbstractContextManager[str]:
    """A path of the version's `model.yaml`."""
    return copied_file(DESCRIPTOR_NAME, len(content), lambda descriptor: files.write_all(descriptor, content, 0))
