"""SQL of automatic gc: when it was last considered, and from what has changed since the last gc, what another is worth.

All of it must be cheap beside a save, so it estimates from sums over versions and containers, and walks no references.
"""

from __future__ import annotations

from dataclasses import dataclass

from casstore.catalog.connection import Connections, translated_errors
from casstore.catalog.index import LIVE
from casstore.errors import StoreLocked

_CONSIDERED_AT, _LAST_VERSION, _LOGICAL_BYTES, _LEFT_BYTES = (
    "auto_gc_at", "gc_last_version", "gc_logical_bytes", "gc_left_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Growth:
    """What has gathered since the last gc. `deleted_bytes`: of the files of deleted versions, as if they had shared
    nothing, estimated for those that were also saved since. `left_bytes`: what could have been evicted after that gc,
    and was not. `loose_bytes`, `stored_bytes`: of loose files, and of all containers."""

    deleted_bytes: int
    left_bytes: int
    loose_bytes: int
    stored_bytes: int


class Upkeep:
    """A few rows of the table `store`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _value(self, key: str, default: int) -> int:
        with translated_errors(self._connections.path):
            row = self._connections.get().execute("SELECT value FROM store WHERE key = ?", (key,)).fetchone()
        return default if row is None else int(row[0])

    def considered_at_ns(self) -> int:
        """When some process last considered whether gc is due; 0 for never."""
        return self._value(_CONSIDERED_AT, 0)

    def claim(self, seen_ns: int, now_ns: int) -> bool:
        """Be the one to consider it now, where `considered_at_ns` still is what was seen; does not wait for anybody."""
        connection = self._connections.get()
        timeout_ms = connection.pragma("busy_timeout")
        connection.set_busy_timeout(0)
        try:
            with self._connections.write() as connection:
                if self._value(_CONSIDERED_AT, 0) != seen_ns:
                    return False
                connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_CONSIDERED_AT, now_ns))
                return True
        except StoreLocked:
            return False
        finally:
            connection.set_busy_timeout(timeout_ms)

    def growth(self) -> Growth:
        """What has gathered since the last gc, in one pass over versions and one over containers."""
        last = self._value(_LAST_VERSION, 0)
        with self._connections.read() as connection:
            old_bytes, new_count, new_bytes = connection.execute(
                "SELECT coalesce(sum(size) FILTER (WHERE id <= ?1), 0), count(*) FILTER (WHERE id > ?1),"
                " coalesce(sum(size) FILTER (WHERE id > ?1), 0) FROM version",
                (last,),
            ).get
            # Row ids are never used again, so the gaps above `last` are versions that have been saved and deleted.
            saved = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'version'").get or 0
            loose, stored = connection.execute(
                "SELECT coalesce(sum(size) FILTER (WHERE digest IS NOT NULL), 0), coalesce(sum(size), 0)"
                f" FROM container WHERE state = {LIVE}"
            ).get
        gone = max(0, saved - last - new_count)
        # What is gone was as large as what stayed; where nothing stayed, all loose bytes are what is left of it.
        gone_bytes = gone * new_bytes // new_count if new_count else loose * bool(gone)
        deleted = max(0, self._value(_LOGICAL_BYTES, 0) - old_bytes) + gone_bytes
        return Growth(deleted, self._value(_LEFT_BYTES, 0), loose, stored)

    def snapshot(self) -> tuple[int, int]:
        """The newest version's row id, and the bytes of all versions' files."""
        with translated_errors(self._connections.path):
            sql = "SELECT coalesce(max(id), 0), coalesce(sum(size), 0) FROM version"
            last_version, logical_bytes = self._connections.get().execute(sql).get
        return last_version, logical_bytes

    def note_collected(self, snapshot: tuple[int, int], left_bytes: int) -> None:
        """Record that gc has run: the snapshot taken when it began, and how much it could have evicted and did not."""
        with self._connections.write() as connection:
            for key, value in zip((_LAST_VERSION, _LOGICAL_BYTES, _LEFT_BYTES), (*snapshot, left_bytes), strict=True):
                if self._value(key, 0) != value:  # gc with nothing to do writes nothing
                    connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (key, value))
