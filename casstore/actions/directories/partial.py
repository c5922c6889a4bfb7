"""Some files of a version in a directory of this process's own: the version's own place is for whole ones alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.contents import Contents
from casstore.actions.picking import picked
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import IntegrityError, StoreUnwritable
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import LINK_FROM_BYTES
from casstore.storage.objects import unreadable


def materialize_some(
    workspace: Workspace, row: VersionRow, contents: Contents, patterns: Sequence[str], progress: Progress
) -> Path:
    """A directory with the files that are meant, read-only, until the store is closed or the process ends.

    They are hardlinks of loose files where there are such. Raises FileNotFoundError for a pattern that fits none,
    StoreUnwritable, IntegrityError, OSError.
    """
    if workspace.catalog.read_only:
        raise StoreUnwritable(
            f"{workspace.layout.home} can only be read, so there is no place in it for some files of {row.tag}: "
            "store.checkout(TAG, DIR, only=...) puts them into a directory of yours, and model.as_file(PATH) gives one "
            "of them a path"
        )
    wanted = picked(contents.files, patterns, str(row.tag))
    recipes = contents.recipes(wanted)

    def fill(directory: Path) -> None:
        files.make_directory(directory)
        progress.start("materialize", sum(file.size for file in wanted))
        try:
            for file in wanted:
                target = directory / file.path
                files.make_directory(target.parent, parents=True)
                if workspace.may_link() and file.size >= LINK_FROM_BYTES:
                    candidates = loose_files.find(workspace, file.digest, file.executable)
                    if loose_files.link(workspace, candidates, target) is not None:
                        progress.advance(file.size)
                        continue
                try:
                    workspace.write_file(recipes[file.digest], file.executable, target, progress.advance)
                except IntegrityError as error:
                    raise unreadable(f"{file.path} of {row.tag}", error) from error
        finally:
            progress.finish()

    return workspace.leasing.directory((row.id, tuple(file.path for file in wanted)), fill)
