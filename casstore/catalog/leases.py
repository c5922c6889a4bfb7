"""SQL over leases: which sessions use which versions' directories. A lease counts while its session's lock is held."""

from __future__ import annotations

import time
from collections.abc import Iterable

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.schema import IS_HERE
from casstore.catalog.sqlite_errors import translated_errors


class Leases:
    """The rows of leases. They are not given back: a lease of a session that has ended does not count."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def take(self, version_id: int, session: str, *, ended: Iterable[str], opened: bool) -> None:
        """Record that a session uses a version's directory; do nothing if the version is gone.

        The same transaction drops the version's leases of `ended` sessions, so that opening a version repeatedly
        leaves one row. With `opened` it sets the version's time of last use to now.
        """
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM lease WHERE version_id = ? AND session = ?", ((version_id, old) for old in ended)
            )
            connection.execute(
                "INSERT OR IGNORE INTO lease(version_id, session) SELECT id, ? FROM version WHERE id = ?"
                f" AND {IS_HERE}",
                (session, version_id),
            )
            if opened:
                connection.execute("UPDATE version SET opened_at = ? WHERE id = ?", (time.time_ns(), version_id))

    def sessions(self, version_id: int | None = None) -> list[str]:
        """The sessions, ended ones included, that have leased this version; None for any version."""
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
