"""The store that calls without `_model_store` mean: opened once in a process for each home."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from casstore import Store


class _Process:
    def __init__(self) -> None:
        self.stores: dict[Path, Store] = {}
        self.begin()

    def begin(self) -> None:
        """A forked child goes on with its parent's stores, but not with a lock that another thread may have held."""
        self.guard = threading.RLock()  # a signal's handler may come here, too


_process = _Process()
os.register_at_fork(after_in_child=_process.begin)


def store_at_home() -> Store:
    """The store at `$CASSTORE_HOME`, or at its default. It stays open until the process ends."""
    home = Store.default_home()
    with _process.guard:
        if home not in _process.stores:
            _process.stores[home] = Store(home)
        return _process.stores[home]
