"""The directory that a backup goes to: what it may be, and how it is kept for one backup alone."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from casstore.catalog import backups
from casstore.errors import StoreError, StoreLocked
from casstore.storage import files, sessions
from casstore.storage.layout import Layout
from casstore.storage.locks import Lock
from casstore.storage.working import check_working_directory

_OWNER_ONLY = 0o700
_MARK_MODE = 0o644
_OF_FILE_SYSTEMS = {"lost+found"}  # what stands in the root of a new one


@contextlib.contextmanager
def reserved(source: Layout, directory: Path, instance: str) -> Iterator[Layout]:
    """Make `directory` ready for a backup of the store `instance` at `source`; no process opens it meanwhile.

    It is new or empty, or holds a store, or a backup of the same store that was cut short. Raises StoreError for
    anything else and for places in a store, StoreLocked where a process uses it, CatalogDamaged, OSError.
    """
    check_working_directory(directory)
    target = Layout(Path(os.path.abspath(directory)))
    _check_place(source, target)
    if not target.catalog.exists():
        _begin(source, target, instance)
    for each in target.directories():
        files.make_directory(each)
    lock = Lock(target.open_lock)
    if not lock.try_acquire():
        raise StoreLocked(f"{target.home} is in use, by a backup or as a store; try again when that is done")
    with lock:
        if target.catalog.exists():
            backups.fold_log(target.catalog)
        for dead in sessions.dead_ids(target):
            sessions.reap(target, dead)
        yield target


def _check_place(source: Layout, target: Layout) -> None:
    here, there = Path(os.path.realpath(source.home)), Path(os.path.realpath(target.home))
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise StoreError(f"{target.home} is the store {source.home}, in it or around it; choose another directory")
    for parent in there.parents:
        if Layout(parent).catalog.is_file() and Layout(parent).manifests.is_dir():
            raise StoreError(f"{target.home} is in another store, {parent}; choose another directory")


def _begin(source: Layout, target: Layout, instance: str) -> None:
    """Make the directory if need be, and mark it, so that it is not taken for a store before it is one."""
    mark = target.unfinished_backup
    if not target.home.is_dir():
        missing = [path for path in target.home.parents if not path.exists()]
        files.make_directory(target.home.parent, parents=True)
        files.make_directory(target.home, _OWNER_ONLY)
        for path in missing:
            files.sync_directory(path.parent)
        with contextlib.suppress(PermissionError):  # a parent that may be entered and not read
            files.sync_directory(target.home.parent)
    if mark.exists():
        other = _marked(mark)
        if other != instance:
            raise StoreError(
                f"{target.home} is an unfinished backup of another store; choose another directory, or remove it"
            )
        return
    names = {path.name for path in target.home.iterdir()} - _OF_FILE_SYSTEMS
    strangers = sorted(name for name in names if not name.startswith(mark.name))
    if strangers:
        raise StoreError(
            f"{target.home} holds other things, such as {strangers[0]!r}, and no backup; "
            "choose an empty or new directory"
        )
    text = json.dumps({"instance": instance, "home": str(source.home)})
    temporary = mark.with_name(f"{mark.name}.new")
    files.write_file(mark, text.encode(), _MARK_MODE, temporary=temporary, durable=True)


def _marked(mark: Path) -> object:
    try:
        return json.loads(mark.read_bytes())["instance"]
    except (ValueError, TypeError, LookupError):
        return None
