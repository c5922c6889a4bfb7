"""Temporary tables that belong to one value, so that no other work on the same connection can change them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw

from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors

_numbers = itertools.count(1)


class Tables:
    """A few temporary tables of this thread's connection, for one `with` block.

    SQL calls them `temp.NAME`; here each gets a name that is unique in the process. So a callback in the middle of gc
    may ask for statistics, which need tables of the same names. SQLite keeps them in a file once they outgrow its
    cache, so memory stays bounded for any number of rows.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection = connections.get()
        self._prefix = f"temp.own{next(_numbers)}_"
        self._names: list[str] = []

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop(*self._names)

    def of(self, sql: str) -> str:
        """The statement with the names of these tables."""
        return sql.replace("temp.", self._prefix)

    @property
    def connection(self) -> apsw.Connection:
        """The connection that holds the tables. Raises StoreError if another thread has closed the store."""
        return self._connections.get()

    def translated_errors(self) -> contextlib.AbstractContextManager[None]:
        """A `with` block for work on `connection` itself. Raises StoreError, OSError, CatalogDamaged."""
        return translated_errors(self._connections.path)

    def create(self, name: str, columns: str) -> None:
        """Add an empty table. `columns`: its columns in parentheses, and options. Raises StoreError, OSError."""
        with self.translated_errors():
            self.connection.execute(self.of(f"CREATE TABLE temp.{name}{columns}"))
        self._names.append(name)

    def drop(self, *names: str) -> None:
        """Remove some of the tables, as far as SQLite permits it; the rest end with the connection."""
        if self._connections.has(self._connection):  # a forked child does not have it, and must not touch it
            for name in names:
                with contextlib.suppress(apsw.Error):  # another statement of this thread may not have ended
                    self._connection.execute(self.of(f"DROP TABLE temp.{name}"))
        self._names = [name for name in self._names if name not in names]

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run statements; returns how many rows the last one changed. Raises StoreError, OSError, CatalogDamaged."""
        with self.translated_errors():
            connection = self.connection
            connection.execute(self.of(sql), parameters)
            return connection.changes()

    def add_all(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row. Raises StoreError, OSError, CatalogDamaged."""
        with self.translated_errors():
            self.connection.executemany(self.of(sql), rows)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, one by one. Raises StoreError, OSError, CatalogDamaged."""
        with self.translated_errors():
            yield from self.connection.execute(self.of(sql), parameters)
