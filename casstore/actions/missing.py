"""Directories of a store that are not there: those that hold nothing of their own are made again, others are missed.

Empty directories are not carried by git or by the sync of an object store, and `models/` is often left out of backups.
"""

from __future__ import annotations

import os
from pathlib import Path

from casstore.catalog.catalog import Catalog
from casstore.errors import StoreError
from casstore.storage import files
from casstore.storage.layout import Layout
from casstore.storage.reserve import FULL

_FAN_OUT = tuple(f"{byte:02x}" for byte in range(256))


def is_complete(layout: Layout) -> bool:
    """Whether every directory stands that a store has from the start. It takes some microseconds."""
    if not all(map(os.path.isdir, layout.rooms)):
        return False
    # Most file systems count a directory for each in it, beside its own two names; to list 256 takes ten times as long.
    loose = layout.rooms[0]
    return os.stat(loose).st_nlink == len(_FAN_OUT) + 2 or not set(_FAN_OUT).difference(os.listdir(loose))


def what_is_gone(layout: Layout, catalog: Catalog) -> str | None:
    """Says, in words for the user, which directory is missing that versions need what was in of; None for none."""
    for directory in (layout.loose.parent, layout.loose, layout.packs, layout.manifests):
        if not os.path.isdir(directory) and _is_needed(directory, layout, catalog):
            advice = "`casstore repair --from DIRECTORY` looks for their bytes elsewhere, and says what is lost"
            if directory == layout.manifests:
                advice = "`casstore repair` makes the manifests again from the catalog"
            return (
                f"{directory} is gone, and saved versions need what was in it: put it back from a backup; or {advice}"
            )
    return None


def check_nothing_gone(layout: Layout, catalog: Catalog) -> None:
    """Raise StoreError where a directory is missing, and versions need what was in it."""
    gone = what_is_gone(layout, catalog)
    if gone is not None:
        raise StoreError(gone)


def make_missing(layout: Layout, catalog: Catalog, *, models: bool, even_needed: bool = False) -> list[str]:
    """Make what is missing of the store's directories and holds nothing of its own; returns what was made.

    Where `models/` is gone as a whole, no version counts as having a directory any more; without `models` it is left
    as it is. `even_needed`: also those that versions need what was in them of. Raises OSError, StoreLocked.
    """
    objects = layout.loose.parent
    made: list[Path] = []
    later = {layout.deleted_manifests, layout.trashed_manifests}  # which earlier releases did not make
    for directory in (
        *(objects, layout.loose, layout.packs, layout.manifests, layout.pending_manifests, layout.deleted_manifests),
        *(layout.trashed_manifests, layout.sessions, layout.quarantine, layout.locks),
        *([layout.models] if models else []),
    ):
        # Anything else there, such as a link to a disk that is not mounted, is reported by the action that needs it.
        if os.path.lexists(directory) or not directory.parent.is_dir():
            continue
        if not even_needed and _is_needed(directory, layout, catalog):
            continue
        if directory == layout.models:
            catalog.instances.forget_directories()
        try:
            files.make_directory(directory)
        except OSError as error:
            if directory not in later or error.errno not in FULL:
                raise
            continue  # in a store of an earlier release on a full disk: a deletion that frees room goes without it
        made.append(directory)
    if layout.loose.is_dir():
        missing = set(_FAN_OUT).difference(os.listdir(layout.loose))
        for name in sorted(missing):
            files.make_directory(layout.loose / name)
            made.append(layout.loose / name)
    for parent in sorted({directory.parent for directory in made}):
        files.sync_directory(parent)  # or a power cut could take away what is saved there
    # Of the 256 in it, the one that they are in is named. In stores of earlier releases those two were not missing.
    told = [each for each in made if each not in later]
    named = dict.fromkeys(layout.loose if each.parent == layout.loose else each for each in told)
    return [f"{directory.relative_to(layout.home)}/" for directory in named]


def _is_needed(directory: Path, layout: Layout, catalog: Catalog) -> bool:
    rows = catalog.instances
    if directory == layout.loose.parent:
        return rows.needs_packs() or rows.needs_loose_files()
    if directory == layout.loose:
        return rows.needs_loose_files()
    if directory == layout.packs:
        return rows.needs_packs()
    return directory == layout.manifests and rows.has_versions()
