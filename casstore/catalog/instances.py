"""SQL over which copy of a store this is, and over records that are valid only in the copy that made them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection
from typing import NamedTuple

import apsw

from casstore.catalog.boots import NoBoot
from casstore.catalog.connection import Connections
from casstore.catalog.index import LIVE
from casstore.catalog.sqlite_errors import translated_errors
from casstore.storage.container import Kind

_INSTANCE = "instance"
_NO_ENTRIES = b"\x90"  # msgpack: an empty array


class Instance(NamedTuple):
    """Which copy of a store this is: a random id, and the identity that its file had when it was written."""

    id: str
    device: int
    inode: int
    ctime_ns: int
    boot_id: str


class Instances:
    """The row of the store's instance."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def recorded(self) -> Instance | None:
        """The last recorded instance; None if there is none, or the record is damaged."""
        with translated_errors(self._connections.path):
            return _recorded(self._connections.get())

    def note(self, instance: Instance) -> None:
        """Record where the instance's file is now."""
        with self._connections.write() as connection:
            _note(connection, instance)

    def renew(
        self, make: Callable[[], Instance], is_same: Callable[[Instance | None], bool], ended: Collection[str]
    ) -> None:
        """Make this copy of the store an instance of its own, unless another process has just done so.

        One transaction removes what is valid only in the copy that recorded it: fingerprints, the inodes of loose files
        and directories, the times at which containers were last read, and leases of `ended` sessions. `make` writes the
        new instance's file.
        """
        with self._connections.write() as connection:
            if is_same(_recorded(connection)):
                return
            _forget_places(connection)
            connection.executemany("DELETE FROM lease WHERE session = ?", ((session,) for session in ended))
            _note(connection, make())

    def has_containers(self) -> bool:
        return self._any("SELECT 1 FROM container LIMIT 1")

    def has_versions(self) -> bool:
        return self._any("SELECT 1 FROM version LIMIT 1")

    def needs_packs(self) -> bool:
        """Whether a pack is some chunk's container."""
        return self._any(_WITH_CHUNKS.format(Kind.PACK))

    def needs_loose_files(self) -> bool:
        """Whether a loose file is some chunk's container."""
        return self._any(_WITH_CHUNKS.format(Kind.LOOSE))

    def forget_directories(self) -> None:
        """Drop the rows of all directories, when models/ is gone as a whole."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM directory")

    def _any(self, sql: str) -> bool:
        with translated_errors(self._connections.path):
            return self._connections.get().execute(sql).fetchone() is not None


_WITH_CHUNKS = (
    f"SELECT 1 FROM container JOIN chunk ON chunk.container = container.id WHERE state = {LIVE} AND kind = {{}} LIMIT 1"
)


def _recorded(connection: apsw.Connection) -> Instance | None:
    row = connection.execute("SELECT value FROM store WHERE key = ?", (_INSTANCE,)).fetchone()
    with contextlib.suppress(ValueError, TypeError):
        name, device, inode, ctime_ns, boot_id = json.loads("null" if row is None else row[0])
        return Instance(str(name), int(device), int(inode), int(ctime_ns), str(boot_id))
    return None


def _note(connection: apsw.Connection, instance: Instance) -> None:
    connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_INSTANCE, json.dumps(instance)))


def _forget_places(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM fingerprint")
    # Size and bytes are compared before anything relies on such a file, as with files from another boot.
    connection.execute("UPDATE container SET inode = 0, mtime_ns = 0 WHERE kind = ?", (Kind.LOOSE,))
    connection.execute("UPDATE container SET read_at = NULL")
    connection.execute(
        "UPDATE directory SET inode = 0, boot_id = ?, entries = ?, synced = 0", (NoBoot.INHERITED, _NO_ENTRIES)
    )
    # Another directory may have this inode number here, and would be deleted.
    connection.execute("UPDATE tombstone SET inode = NULL")
    # Pushes go on in the copy that began them.
    connection.execute("DELETE FROM remote_push")
