"""Stores that are opened once in a process for each home, and shared by all that ask for them."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import NamedTuple

from casstore.actions.home import layout_of, place_of
from casstore.store import Store


class _Opened(NamedTuple):
    store: Store
    catalog: str
    identity: tuple[int, int] | None  # of its catalog: another store may come to stand at that home


class _Process:
    def __init__(self) -> None:
        self.stores: dict[str, _Opened] = {}
        self.begin()

    def begin(self) -> None:
        """A forked child goes on with its parent's stores, but not with a lock that another thread may have held."""
        self.guard = threading.RLock()  # a signal's handler may come here, too


_process = _Process()
os.register_at_fork(after_in_child=_process.begin)


def store_at(home: str | os.PathLike[str] | None = None, *, create: bool = True) -> Store:
    """Return the store at `home`, which is opened once in this process and shared by all who ask for it here.

    It stays open until the process ends: leave it open. Threads may share it, and a forked child may go on using it.
    `casstore.models` and `casstore://` URLs use these stores.

    Parameters
    ----------
    home
        The directory of the store. None means `$CASSTORE_HOME` at the time of the call, or else `~/.casstore`.
    create
        Whether to make the store where none stands.

    Returns
    -------
    Store
        The store. Where another has come to stand at `home` since, that one.

    Raises
    ------
    StoreNotFound
        No store stands at `home`, and `create` is false.
    StoreError
        The store cannot be used; `Store` says more.

    Examples
    --------
    >>> casstore.store_at(store.home) is casstore.store_at(store.home)
    True
    """
    place = place_of(home)
    with _process.guard:
        found = _process.stores.get(place)
        # One that is gone says so when it is used.
        if found is None or _identity(found.catalog) not in (None, found.identity):
            catalog = os.fspath(layout_of(place).catalog)
            found = _process.stores[place] = _Opened(Store(place, create=create), catalog, _identity(catalog))
        return found.store


def _identity(path: str) -> tuple[int, int] | None:
    """The device and inode of a file; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None
