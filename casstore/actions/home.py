"""Opening a store, and making one where none is."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

from casstore.actions.collect import standing_manifests
from casstore.actions.leasing import Leasing
from casstore.actions.workspace import Workspace
from casstore.catalog.catalog import Catalog
from casstore.errors import CatalogDamaged, StoreError, StoreUnwritable
from casstore.storage import files, reserve
from casstore.storage.layout import Layout
from casstore.storage.objects import Objects

HOME_VARIABLE = "CASSTORE_HOME"
_OWNER_ONLY = 0o700
# What BentoML 1.4 keeps in its home beside models/ (bentoml/_internal/configuration/containers.py, and client_id of
# utils/analytics/schemas.py): a store may be made around it.
_OF_BENTOML = {"bentos", "envs", "tmp", ".yatai.yaml", "client_id"}
_RESULTS_OF_BENTOML = "task_result.db"  # and what SQLite puts beside it


def open_workspace(home: str | os.PathLike[str] | None, auto_gc: bool = True) -> Workspace:
    """Open the store at `home`, making it if need be.

    Raises StoreUnwritable, StoreTooNew, SQLiteTooOld, CatalogDamaged where versions stand and no catalog, and
    StoreError for a directory full of other things.
    """
    layout = layout_of(home)
    network = files.network_file_system(layout.home)
    if network is not None:
        warnings.warn(
            f"{layout.home} is on a network file system ({network}), where locks and the catalog's log cannot be "
            "relied on: keep the store on a local disk, and never use it from two machines",
            RuntimeWarning,
            stacklevel=4,
        )
    try:
        if not layout.catalog.exists() or not layout.catalog.stat().st_size:
            _make(layout)
        catalog = Catalog(layout.catalog, files.boot_id(), layout.open_lock)
    except OSError as error:
        if isinstance(error, StoreError) or error.errno in reserve.FULL:
            raise
        raise StoreUnwritable(
            f"the store {layout.home} cannot be made or written to: {error.strerror}; "
            f"choose another with --home or {HOME_VARIABLE}, or mend its permissions"
        ) from error
    objects = Objects(layout, catalog.index.locate)
    return Workspace(layout, catalog, objects, Leasing(layout, catalog.leases), files.umask(), auto_gc)


def layout_of(home: str | os.PathLike[str] | None) -> Layout:
    """The paths of the store at `home`, by default that of the environment."""
    if home is None:
        # The one place that reads the environment: Python and the command line must mean the same store.
        home = os.environ.get(HOME_VARIABLE) or Path.home() / ".casstore"
    return Layout(Path(os.path.abspath(home)))


def _make(layout: Layout) -> None:
    if layout.home.is_dir():
        own = {"objects", "manifests", "models", "sessions", "quarantine", "locks"}
        # SQLite's own files begin with the catalog's name; another process may be making the catalog right now.
        databases = (layout.catalog.name, _RESULTS_OF_BENTOML)
        strangers = sorted(
            path.name
            for path in layout.home.iterdir()
            if path.name not in own | _OF_BENTOML and not path.name.startswith(databases)
        )
        if strangers:
            raise StoreError(
                f"{layout.home} is no casstore store and holds other things, such as {strangers[0]!r}; "
                "choose an empty or new directory, or a home of BentoML"
            )
    else:
        missing = [path for path in layout.home.parents if not path.exists()]
        files.make_directory(layout.home.parent, parents=True)
        files.make_directory(layout.home, _OWNER_ONLY)
        for path in missing:
            files.sync_directory(path.parent)
    with contextlib.suppress(PermissionError):  # a parent that may be entered and not read
        files.sync_directory(layout.home.parent)  # before there is a catalog, which tells others that all is made
    if layout.manifests.is_dir() and any(standing_manifests(layout)):
        raise CatalogDamaged(
            f"{layout.catalog} is gone, and versions stand beside it; `casstore repair --rebuild-catalog` makes it anew"
        )
    directories = layout.directories()
    for directory in directories:
        files.make_directory(directory)
    for parent in sorted({directory.parent for directory in directories}):
        files.sync_directory(parent)
    # SQLite would make it 0644 whatever the umask allows, and gives its other files the catalog's mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(layout.catalog, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
