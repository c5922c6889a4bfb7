"""SQL for automatic gc: when it was last considered, and how much another gc could give back.

This must be cheap beside a save, so it estimates from a few sums, and walks no references.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.index import LIVE
from casstore.catalog.sqlite_errors import translated_errors
from casstore.errors import StoreLocked
from casstore.storage.container import Kind

_CONSIDERED_AT, _DELETED_BYTES, _LEFT_BYTES = "auto_gc_at", "gc_deleted_bytes", "gc_left_bytes"


@dataclass(frozen=True, slots=True)
class Growth:
    """What has accumulated since the last gc. `deleted_bytes`: the bytes of deleted versions' files, as if they had
    shared nothing. `left_bytes`: what that gc could have evicted, and did not. `loose_bytes`, `stored_bytes`: the bytes
    of loose files, and of all containers."""

    deleted_bytes: int
    left_bytes: int
    loose_bytes: int
    stored_bytes: int


def note_deleted(connection: apsw.Connection, size: int) -> None:
    """Count the bytes of a deleted version. To be called in the transaction that deletes it."""
    connection.execute(
        "INSERT INTO store VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = value + ?2", (_DELETED_BYTES, size)
    )


class Upkeep:
    """The rows of the table `store` that automatic gc uses."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _value(self, key: str, default: int) -> int:
        with translated_errors(self._connections.path):
            row = self._connections.get().execute("SELECT value FROM store WHERE key = ?", (key,)).fetchone()
        return default if row is None else decoding.typed(row[0], int, f"the number {key}")

    def considered_at_ns(self) -> int:
        """When some process last considered whether gc is due; 0 for never."""
        return self._value(_CONSIDERED_AT, 0)

    def claim(self, seen_ns: int, now_ns: int) -> bool:
        """Claim the right to consider gc now; False if `considered_at_ns` has changed, or another process writes."""
        try:
            with self._connections.write(is_patient=False) as connection:
                if self._value(_CONSIDERED_AT, 0) != seen_ns:
                    return False
                connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_CONSIDERED_AT, now_ns))
                return True
        except StoreLocked:
            return False

    def growth(self) -> Growth:
        """What has accumulated since the last gc, from one pass over containers."""
        with self._connections.read() as connection:
            loose, stored = connection.execute(
                f"SELECT coalesce(sum(size) FILTER (WHERE kind = {Kind.LOOSE}), 0), coalesce(sum(size), 0)"
                f" FROM container WHERE state = {LIVE}"
            ).get
        return Growth(self.deleted_bytes(), self._value(_LEFT_BYTES, 0), loose, stored)

    def deleted_bytes(self) -> int:
        """The bytes of the files of all versions deleted since the last gc."""
        return self._value(_DELETED_BYTES, 0)

    def note_collected(self, deleted_bytes: int, left_bytes: int) -> None:
        """Record that gc has run: `deleted_bytes` as of its start, and what it could have evicted and did not."""
        with self._connections.write() as connection:
            if deleted_bytes:  # gc with nothing to do writes nothing
                note_deleted(connection, -deleted_bytes)
            if self._value(_LEFT_BYTES, 0) != left_bytes:
                connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_LEFT_BYTES, left_bytes))
