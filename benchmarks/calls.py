"""How many SQL statements and lstat calls do saving, getting, reading and deleting make?

    python benchmarks/calls.py [DIRECTORY]

The version: 26 files, six of them of 1.5 MB. Each verb runs in a store opened again. Statements are what SQLite runs,
on whatever thread, BEGIN and COMMIT included; lstat calls are those of `os.lstat`, and of `os.stat` without following
links.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

import casstore

LARGE_BYTES, SMALL_BYTES = 1_500_000, 2_000
TAG = "counted:1"


class Counts:
    """What has been called since the last `start`."""

    def __init__(self) -> None:
        self.statements = self.lstats = 0
        apsw.connection_hooks.append(self._trace)
        self._count("lstat", lambda _: True)
        self._count("stat", lambda arguments: arguments.get("follow_symlinks") is False)

    def start(self) -> None:
        self.statements = self.lstats = 0

    def _trace(self, connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, self._add_statement)

    def _add_statement(self, event: dict[str, Any]) -> None:
        self.statements += not event.get("trigger", False)

    def _count(self, name: str, is_counted: Callable[[dict[str, Any]], bool]) -> None:
        real = getattr(os, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.lstats += is_counted(named)
            return real(*arguments, **named)

        setattr(os, name, counted)


def _create(store: casstore.Store) -> None:
    generator = random.Random(1)
    with store.create(TAG) as draft:
        for number in range(26):
            size = LARGE_BYTES if number < 6 else SMALL_BYTES
            (Path(draft.path) / f"{number:02}.bin").write_bytes(generator.randbytes(size))


def _read(store: casstore.Store, files: int) -> None:
    model = store.get(TAG)
    for file in model.files[:files]:
        with model.open(file.path) as stream:
            stream.read()


def measure(directory: str) -> list[tuple[str, int, int]]:
    """(verb, statements, lstat calls) of each, in a store below the directory."""
    counts = Counts()
    steps: list[tuple[str, Callable[[casstore.Store], Any]]] = [
        ("create and commit", _create),
        ("get", lambda store: store.get(TAG)),
        ("get().path", lambda store: store.get(TAG).path),
        ("get().path, twice", lambda store: (store.get(TAG).path, store.get(TAG).path)),
        ("get().open() and read one file", lambda store: _read(store, 1)),
        ("get().open() and read 26 files", lambda store: _read(store, 26)),
        ("delete", lambda store: store.delete(TAG)),
    ]
    home = Path(directory) / "store"
    casstore.Store(home).close()
    found = []
    for name, step in steps:
        with casstore.Store(home) as store:
            store.names()  # so that what opening costs is not counted
            counts.start()
            step(store)
            found.append((name, counts.statements, counts.lstats))
    return found


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=where) as directory:
        rows = measure(directory)
    print(f"{'':34}{'SQL':>6}{'lstat':>7}")
    for name, statements, lstats in rows:
        print(f"{name:34}{statements:6}{lstats:7}")


if __name__ == "__main__":
    main()
