"""Whether a path is a part of a store, this one or any other: what only casstore writes and takes away."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from casstore.errors import InvalidSource
from casstore.storage.layout import Layout
from casstore.storage.working import check_working_directory

_MODELS, _SESSIONS, _DRAFTS = "models", "sessions", "drafts"
_PARTS = {
    *(_MODELS, _SESSIONS, _DRAFTS, "objects", "manifests", "quarantine", "locks", "aliases", "annotations"),
    *("remotes.toml", "elsewhere.json", "policies.log", "catalog.db", "instance", ".instance", "unfinished-backup"),
}


def is_home(directory: str | os.PathLike[str]) -> bool:
    """Whether a store stands here, also one whose catalog is gone, or of which empty directories were not copied."""
    path = os.fspath(directory)
    # By names alone: closing a catalog that this process has open elsewhere would take SQLite's locks away.
    if not os.path.isfile(f"{path}/catalog.db"):
        return all(os.path.isdir(f"{path}/{part}") for part in ("objects/packs", "objects/loose", "manifests"))
    return os.path.isdir(f"{path}/objects") or os.path.isdir(f"{path}/manifests")


def check_target(path: Path) -> None:
    """Raise InvalidSource for a path that is to be written to and is in a store, through whatever links."""
    check_working_directory(path)
    for home, parts in homes_above(path):
        # Beside the store's own directories there may be others, as in a home of BentoML's.
        if len(parts) < 2 or _is_own(parts[0]):
            raise InvalidSource(
                f"{path} is inside the store {home}, whose files only casstore writes; name a path outside of it"
            )


def check_source(layout: Layout, path: Path, *, take: bool) -> None:
    """Raise InvalidSource for a path that is to be saved and is a store, holds this one, or is a part of one."""
    check_working_directory(path)
    own, real = Path(os.path.realpath(layout.home)), Path(os.path.realpath(path))
    if real == own or real in own.parents or is_home(real):
        home = real if is_home(real) else layout.home
        raise InvalidSource(
            f"{path} holds the store {home}; save another directory, or carry versions over with `casstore export` and "
            "`casstore import`"
        )
    check_part(layout, path, take=take)


def check_part(layout: Layout, path: Path, *, take: bool) -> None:
    """Raise InvalidSource for a path that is to be saved and is a part of a store.

    What stands under models/, and a draft, may be copied. With `take`, which takes it away, nothing but this store's
    own drafts may.
    """
    check_working_directory(path)
    own, real = Path(os.path.realpath(layout.home)), Path(os.path.realpath(path))
    for home, parts in homes_above(real):
        is_file_of_home = len(parts) == 1 and not os.path.isdir(real)
        if not parts or not (_is_own(parts[0]) or is_file_of_home):
            continue
        if parts[0] not in (_MODELS, _SESSIONS, _DRAFTS):
            raise InvalidSource(
                f"{path} is a working part of the store {home}; save a version of it from its directory, as in "
                '`casstore save NAME "$(casstore path TAG)"`, or carry it over with `casstore export` and '
                "`casstore import`"
            )
        if take and not (parts[0] in (_SESSIONS, _DRAFTS) and home == own):
            raise InvalidSource(
                f"{path} belongs to the store {home}, from which nothing is moved away; copy it: leave out --move (in "
                "Python: move=True)"
            )


def check_holds_none(root: Path, paths: Iterable[str]) -> None:
    """Raise InvalidSource where one of these paths below `root` is a part of a store that stands there."""
    seen: set[str] = set()
    for path in paths:
        if "catalog.db" not in path and "objects/" not in path:
            continue
        for mark in ("/catalog.db", "/objects/"):
            above, found, _ = f"/{path}".partition(mark)
            if not found or above in seen:
                continue
            seen.add(above)
            if is_home(f"{root}{above}"):
                raise InvalidSource(f"{root} holds the store {root}{above}; save another directory")


def homes_above(path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Every store that a path is in, innermost first, and the names that lead to the path from there."""
    real = Path(os.path.realpath(path))
    for directory in [real, *real.parents]:
        if is_home(directory):
            yield directory, real.relative_to(directory).parts


def _is_own(name: str) -> bool:
    return name in _PARTS or name.startswith("catalog.db")
