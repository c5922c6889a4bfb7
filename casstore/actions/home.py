"""Opening a store, and making one if there is none."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.actions.consistency import rescuing
from casstore.actions.consistency.moments import glance
from casstore.actions.instance import check_only_name, settle_instance
from casstore.actions.leasing import Leasing
from casstore.actions.missing import make_missing
from casstore.actions.workspace import Workspace
from casstore.catalog.catalog import Catalog
from casstore.catalog.connection import check_file, sqlite_name
from casstore.errors import CatalogDamaged, StoreError, StoreNotFound, StoreUnwritable
from casstore.late import LateModule
from casstore.storage import access, denials, files, machine, reserve
from casstore.storage.layout import Layout
from casstore.storage.objects import Objects
from casstore.storage.working import check_working_directory

if TYPE_CHECKING:
    import shlex
else:
    shlex = LateModule("shlex")

HOME_VARIABLE = "CASSTORE_HOME"
_DEFAULT_HOME = "~/.casstore"
_OWNER_ONLY = 0o700
# What BentoML 1.4 keeps in its home beside models/ (bentoml/_internal/configuration/containers.py, and client_id of
# utils/analytics/schemas.py): a store may be made around it.
_OF_BENTOML = {"bentos", "envs", "tmp", ".yatai.yaml", "client_id"}
_RESULTS_OF_BENTOML = "task_result.db"  # and what SQLite puts beside it


def open_workspace(home: str | os.PathLike[str] | None, auto_gc: bool = True, *, create: bool = True) -> Workspace:
    """Open the store at `home`. If there is none, make it, unless `create` is false.

    Raises StoreNotFound if there is none and none is to be made, CatalogDamaged if versions stand without a catalog,
    StoreError for a directory that holds other things, StoreUnwritable, StoreTooNew, SQLiteTooOld.
    """
    layout = layout_of(home)
    network = machine.network_file_system(layout.home)
    if network is not None:
        warnings.warn(
            f"{layout.home} is on a network file system ({network}), where locks and the catalog's log cannot be "
            "relied on: keep the store on a local disk, and never use it from two machines",
            RuntimeWarning,
            stacklevel=4,
        )
    try:
        if not layout.catalog.exists() or not layout.catalog.stat().st_size:
            _make(layout, create=create)
        elif not layout.locks.is_dir() and os.access(layout.catalog, os.W_OK):
            # Checked before any directory of ours is made beside it.
            check_file(layout.catalog)
        if os.access(layout.catalog, os.W_OK):
            check_only_name(layout)
        catalog = Catalog(layout.catalog, machine.boot_id(), layout.open_lock)
        made = [] if catalog.read_only else _settled(layout, catalog)
    except OSError as error:
        if isinstance(error, StoreError) or error.errno in reserve.FULL:
            raise
        raise StoreUnwritable(
            f"the store {layout.home} cannot be made or written to: {error.strerror}; {_what_to_do(layout, error)}"
        ) from error
    amiss = glance(layout, catalog)
    if amiss:
        warnings.warn(amiss, RuntimeWarning, stacklevel=4)
    objects = Objects(layout, catalog.index.locate, lambda digest, blob: rescuing.Copies(layout, catalog)(digest, blob))
    return Workspace(layout, catalog, objects, Leasing(layout, catalog.leases), machine.umask(), auto_gc, made)


def _settled(layout: Layout, catalog: Catalog) -> list[str]:
    """Make the directories that a copy of a store lacks, and forget what is true of the original only; returns the
    directories that were made again."""
    try:
        made = make_missing(layout, catalog, models=True)
        settle_instance(layout, catalog)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return []  # reading must not need room
        catalog.close()
        raise
    return made


def layout_of(home: str | os.PathLike[str] | None) -> Layout:
    """The paths of the store at `home`, by default the store of the environment; `~` is the user's home directory.

    Raises StoreError if no store is known, if `home` is relative to a directory that is gone, or if SQLite could not
    open a catalog there.
    """
    layout = Layout(Path(place_of(home)))
    try:
        sqlite_name(layout.catalog)
    except UnicodeError as error:
        raise StoreError(
            f"{os.fspath(layout.home)!r} is not UTF-8, which SQLite requires of the path of a catalog; choose another "
            f"place with --home or {HOME_VARIABLE}"
        ) from error
    access.follow(layout.home)
    return layout


def place_of(home: str | os.PathLike[str] | None) -> str:
    """The absolute path of the store at `home`, as `layout_of` has it. Raises StoreError."""
    if home is None:
        # The only place that reads the environment, so that Python and the command line mean the same store.
        home = os.environ.get(HOME_VARIABLE) or _DEFAULT_HOME
    if not os.fspath(home):
        raise StoreError("the path of the store is empty; give a path, or None for the store of the environment")
    expanded = _expanded(os.fspath(home))
    try:
        check_working_directory(expanded)
    except FileNotFoundError as error:
        raise StoreError(
            f"where {os.fspath(home)} is cannot be told: the directory that this process works in is gone; `cd` to a "
            f"directory that exists, or give the absolute path of the store with --home or {HOME_VARIABLE}"
        ) from error
    return os.path.abspath(expanded)


def _expanded(home: str) -> str:
    expanded = os.path.expanduser(home)
    if not expanded.startswith("~"):
        return expanded
    user = expanded.partition("/")[0]
    if user == "~":
        raise StoreError(
            f"where {home} is cannot be told: HOME is not set, and the system's list of users does not have this one; "
            f"set {HOME_VARIABLE} to the store's directory, or give it with --home"
        )
    raise StoreError(f"there is no user {user[1:]!r}, as {home} says; a directory of that name is ./{home}")


def is_of_bentoml(name: str) -> bool:
    """Whether BentoML keeps something of that name in its home."""
    return name in _OF_BENTOML or name.startswith(_RESULTS_OF_BENTOML)


def _what_to_do(layout: Layout, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return denials.advice(layout.home, error.filename or layout.catalog)
    return f"choose another with --home or {HOME_VARIABLE}"


def _make(layout: Layout, *, create: bool) -> None:
    if layout.unfinished_backup.exists():
        raise StoreError(
            f"{layout.home} is an unfinished backup; run `casstore backup {layout.home}` again with the original "
            "store; if that is lost, `casstore repair --rebuild-catalog` makes a store of what was copied here"
        )
    if layout.home.is_dir():
        own = {"objects", "manifests", "models", "sessions", "quarantine", "locks"}
        own |= {layout.instance.name, layout.next_instance.name, layout.drafts.name}
        own |= {layout.remotes.name, layout.elsewhere.name}
        # SQLite's own files begin with the catalog's name; another process may be making the catalog right now.
        databases = (layout.catalog.name, _RESULTS_OF_BENTOML)
        strangers = sorted(
            path.name
            for path in layout.home.iterdir()
            if path.name not in own | _OF_BENTOML and not path.name.startswith(databases)
        )
        if strangers and not create:
            raise StoreNotFound(
                f"{layout.home} is not a casstore store and holds other things, such as {strangers[0]!r}; "
                f"check --home and {HOME_VARIABLE}"
            )
        if strangers:
            raise StoreError(
                f"{layout.home} is not a casstore store and holds other things, such as {strangers[0]!r}; "
                "choose an empty or new directory, or a home of BentoML"
            )
    elif not create:
        raise _none_at(layout)
    else:
        missing = [path for path in layout.home.parents if not path.exists()]
        files.make_directory(layout.home.parent, parents=True)
        files.make_directory(layout.home, _OWNER_ONLY)
        access.follow(layout.home)
        for path in missing:
            files.sync_directory(path.parent)
    if layout.manifests.is_dir() and (any(layout.standing_manifests()) or layout.trashed_ids()):
        raise CatalogDamaged(
            f"{layout.catalog} is gone, and versions stand beside it; `casstore repair --rebuild-catalog` rebuilds it"
        )
    kept = next((path for path in layout.loose.parent.glob("*/**/*") if path.is_file()), None)
    if kept is not None and not layout.catalog.exists():  # another process may be saving already
        raise StoreError(
            f"{layout.catalog} and the manifests are gone, and {kept.parent} holds files that belonged to them: put "
            f"them back from a backup, or move {layout.loose.parent} away to begin a new store here"
        )
    if not create:
        raise _none_at(layout)
    with contextlib.suppress(PermissionError):  # a parent that may be entered but not read
        files.sync_directory(layout.home.parent)  # before the catalog, which tells others that it is made
    directories = layout.directories()
    for directory in directories:
        files.make_directory(directory)
    for parent in sorted({directory.parent for directory in directories}):
        files.sync_directory(parent)
    # SQLite would create it with mode 0644 whatever the umask, and gives its other files the catalog's mode.
    files.make_file(layout.catalog)


def _none_at(layout: Layout) -> StoreNotFound:
    option = f" --home {shlex.quote(str(layout.home))}"
    with contextlib.suppress(StoreError):
        option = "" if layout.home == layout_of(None).home else option
    return StoreNotFound(
        f"there is no store at {layout.home}: check --home and {HOME_VARIABLE}, or make one there with "
        f"`casstore init{option}` or `casstore save{option} NAME PATH`"
    )
