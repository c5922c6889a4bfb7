"""SQL over leases: which sessions use which versions' directories. A lease is worth what its session's lock is."""

from __future__ import annotations

import time
from collections.abc import Iterable

from casstore.catalog import decoding
from casstore.catalog.connection import Connections, translated_errors


class Leases:
    """The rows of leases. They are not taken back: those of sessions that have ended count for nothing."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def take(self, version_id: int, session: str, *, ended: Iterable[str], opened: bool) -> None:
        """Record that a session uses a version's directory; nothing if the version is gone.

        In the same transaction the version's leases of `ended` sessions are dropped, so that opening one over and
        over leaves one row, and with `opened` its time of last use is set to now.
        """
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM lease WHERE version_id = ? AND session = ?", ((version_id, old) for old in ended)
            )
            connection.execute(
                "INSERT OR IGNORE INTO lease(version_id, session) SELECT id, ? FROM version WHERE id = ?",
                (session, version_id),
            )
            if opened:
                connection.execute("UPDATE version SET opened_at = ? WHERE id = ?", (time.time_ns(), version_id))

    def sessions(self, version_id: int | None = None) -> list[str]:
        """The sessions, also ended ones, that have leased this version, or any."""
        condition, parameters = ("", ()) if version_id is None else (" WHERE version_id = ?", (version_id,))
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute("SELECT DISTINCT session FROM lease" + condition, parameters)
            return [decoding.typed(session, str, "a session") for (session,) in rows]

    def versions(self, sessions: Iterable[str]) -> set[int]:
        """The row ids of the versions that these sessions have leased."""
        found = set()
        with translated_errors(self._connections.path):
            for session in sessions:
                rows = self._connections.get().execute("SELECT version_id FROM lease WHERE session = ?", (session,))
                found |= {version_id for (version_id,) in rows}
        return found

    def drop(self, sessions: Iterable[str]) -> None:
        """Drop all leases of sessions that have ended."""
        with self._connections.write() as connection:
            connection.executemany("DELETE FROM lease WHERE session = ?", ((session,) for session in sessions))
