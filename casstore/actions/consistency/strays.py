"""Strays: files under objects/ that no row of the catalog explains. They go to quarantine before they go for good,
since a catalog that was copied at another moment than the files does not explain what versions need either."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from casstore.actions import keeping
from casstore.actions.workspace import Workspace
from casstore.storage import files, sessions
from casstore.storage.layout import Layout, is_container_name, is_fan_out
from casstore.storage.sessions import session_of

_FULL = {errno.ENOSPC, errno.EDQUOT}


def file_id(path: Path) -> str:
    """The random part of a container's name: `<id>.pack` or `<digest>.<id>`."""
    return path.stem if path.suffix == ".pack" else path.suffix.removeprefix(".")


def unnamed_files(workspace: Workspace) -> Iterator[Path]:
    """The files under objects/ that no row names and no living session is writing.

    Directories are listed first, sessions second, and the catalog is read last.
    """
    layout = workspace.layout
    for directory in _container_directories(layout):
        listed = [path for path in directory.iterdir() if _is_container(path)]
        if not listed:
            continue
        alive = sessions.live_ids(layout)
        idle = [path for path in listed if session_of(file_id(path)) not in alive]
        named = workspace.catalog.index.named({file_id(path) for path in idle})
        yield from (path for path in idle if file_id(path) not in named)


def foreign_files(layout: Layout) -> list[Path]:
    """What stands beside the containers, as desktops leave it there, and is not casstore's."""
    own = _container_directories(layout)
    standing = set(own)
    found = [path for path in _listed(layout.loose) if path not in standing]
    found += [path for directory in own for path in directory.iterdir() if not _is_container(path)]
    return sorted(path for path in found if os.path.lexists(path))


def _container_directories(layout: Layout) -> list[Path]:
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(layout.loose) as entries:
        names = sorted(entry.name for entry in entries if is_fan_out(entry.name) and entry.is_dir())
    fan_out = [layout.loose / name for name in names]
    return [layout.packs, *fan_out] if layout.packs.is_dir() else fan_out


def _listed(directory: Path) -> list[Path]:
    """What is in a directory; nothing where that is missing, which others tell of."""
    return list(directory.iterdir()) if directory.is_dir() else []


def _is_container(path: Path) -> bool:
    return is_container_name(path) and path.is_file() and not path.is_symlink()


def quarantined_files(layout: Layout) -> list[Path]:
    """The strays that an earlier gc has moved to quarantine."""
    return [path for directory in keeping.kept(layout.quarantined_strays) for path in sorted(directory.iterdir())]


def place_of(layout: Layout, path: Path) -> Path | None:
    """Where a file of that name stands under objects/; None for a name that no container has."""
    if path.suffix == ".pack":
        return layout.packs / path.name
    directory = layout.loose / path.name[:2]
    return directory / path.name if directory.is_dir() else None


class StrayShelf:
    """The directory in quarantine/ that takes the strays of one gc; made when the first comes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.directory: Path | None = None

    def take(self, path: Path) -> bool:
        """Move a stray there. False where it stays, for the disk is too full; gc then goes on and gives space back.

        Raises FileNotFoundError for one that is gone, OSError.
        """
        try:
            if self.directory is None:
                self.directory = keeping.new_directory(self._layout.quarantined_strays)
            files.move(path, self.directory / path.name)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        return True
