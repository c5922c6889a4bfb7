"""SQL over untrusted Python objects: they came in archives, and the user has not said that they may be trusted."""

from __future__ import annotations

import apsw

from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors
from casstore.digest import Digest

_OBJECTS_NAME = "custom_objects.pkl"
# A row with this key says that the table also covers versions from before the table existed.
_FILLED = "untrusted_filled"


class Trust:
    """Digests of pickled objects that are not unpickled without consent, in whatever versions they are or were."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def is_untrusted(self, objects: Digest) -> bool:
        """Whether these bytes are untrusted. Also True if a read-only catalog is too old to say."""
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            if not _is_filled(connection):
                if self._connections.read_only:
                    return True
                with self._connections.write() as writing:
                    fill_untrusted(writing)
            return connection.execute("SELECT 1 FROM untrusted WHERE digest = ?", (objects,)).fetchone() is not None

    def give(self, objects: Digest) -> None:
        """Trust these bytes from now on, in whatever versions they are."""
        with self._connections.write() as connection:
            note_trusted(connection, objects)


def note_untrusted(connection: apsw.Connection, objects: Digest) -> None:
    """Record, in a write transaction, bytes that are not trusted."""
    connection.execute("INSERT OR IGNORE INTO untrusted(digest) VALUES (?)", (objects,))


def note_trusted(connection: apsw.Connection, objects: Digest) -> None:
    """Record, in a write transaction, bytes that are trusted."""
    fill_untrusted(connection)  # otherwise `fill_untrusted` would take the trust away later
    connection.execute("DELETE FROM untrusted WHERE digest = ?", (objects,))


def _is_filled(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM store WHERE key = ?", (_FILLED,)).fetchone() is not None


def fill_untrusted(connection: apsw.Connection) -> None:
    """Record, in a write transaction, the untrusted objects of versions that are older than this table."""
    if _is_filled(connection):
        return
    connection.execute(
        "INSERT OR IGNORE INTO untrusted(digest)"
        " SELECT file.digest FROM version JOIN file ON version_id = version.id AND path = ?"
        " WHERE json_valid(description) AND json_extract(description, '$.untrusted')",
        (_OBJECTS_NAME,),
    )
    connection.execute("INSERT OR IGNORE INTO store(key, value) VALUES (?, 1)", (_FILLED,))
