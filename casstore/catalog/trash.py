"""SQL over the trash: deleted versions that can be brought back.

Such a version keeps its rows but for its directory's, so that gc takes nothing away that it needs. In `version` it has
no name, and so leaves its tag free; what it was called stands in `trash`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.events import note_event
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.trust import fill_untrusted
from casstore.catalog.upkeep import note_deleted
from casstore.catalog.versions import VersionRow, version_row
from casstore.errors import TagExists, TagNotFound
from casstore.storage.machine import who
from casstore.tag import Tag

_LOOKED_AT = "trash_looked_at"
# A clock that has moved by more between two looks at the trash has been set: nobody knows how long it really was.
MOST_BETWEEN_LOOKS_NS = 180 * 24 * 3600 * 1_000_000_000
_ROWS = """
SELECT number, deleted_at, counted_from, actor, version_id, trash.name, trash.version, manifest_id, digest, size,
       file_count, created_at, description, directories, base_name, base_version, base_digest, casstore_version,
       opened_at, annotated
FROM trash JOIN version ON version.id = version_id
"""


class TrashRow(NamedTuple):
    """A deleted version. `number`: its place in the order of deletions. `version`: its row, under the tag that it had.
    Times are UTC nanoseconds; `counted_from`: from when its days in the trash count."""

    number: int
    version: VersionRow
    deleted_at_ns: int
    counted_from_ns: int
    actor: str


@dataclass(frozen=True, slots=True)
class Due:
    """The versions whose days in the trash are over, by row id, with their names; and by how much the clock has been
    set since the last look, 0 for a clock that has gone on as it should. After that nothing is due."""

    versions: tuple[tuple[int, str], ...]
    size: int
    clock_moved_ns: int


def put_in_trash(connection: apsw.Connection, row: VersionRow) -> None:
    """Take a version's name from it. To be called in the transaction that deletes it."""
    note_in_trash(connection, row.id, row.tag)
    for table in ("directory", "lease"):
        connection.execute(f"DELETE FROM {table} WHERE version_id = ?", (row.id,))
    connection.execute("UPDATE version SET name = '', version = manifest_id WHERE id = ?", (row.id,))


def note_in_trash(connection: apsw.Connection, version_id: int, tag: Tag) -> None:
    """Note what a version was called that is in the trash from now on."""
    now_ns = time.time_ns()
    _look(connection, now_ns)
    connection.execute(
        "INSERT INTO trash(version_id, name, version, ordered_at, deleted_at, counted_from, actor)"
        " SELECT id, ?2, ?3, ordered_at, ?4, ?4, ?5 FROM version WHERE id = ?1",
        (version_id, tag.name, tag.version, now_ns, who()),
    )


def _since_look(connection: apsw.Connection, now_ns: int) -> int:
    """How long ago the last look was, by the clock as it is set now."""
    row = connection.execute("SELECT value FROM store WHERE key = ?", (_LOOKED_AT,)).fetchone()
    return 0 if row is None else now_ns - decoding.typed(row[0], int, "a time")


def _moved(connection: apsw.Connection, now_ns: int) -> int:
    """By how much the clock has been set since the last look; 0 if it seems to have gone on as it should."""
    moved = _since_look(connection, now_ns)
    return moved if abs(moved) > MOST_BETWEEN_LOOKS_NS else 0


def _look(connection: apsw.Connection, now_ns: int) -> None:
    """Note the time, and where the clock has been set, have the days of all that is in the trash count from now."""
    if _moved(connection, now_ns):
        connection.execute("UPDATE trash SET counted_from = ?", (now_ns,))
    elif _since_look(connection, now_ns) < 0:  # and never from a time to come
        connection.execute("UPDATE trash SET counted_from = ?1 WHERE counted_from > ?1", (now_ns,))
    connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_LOOKED_AT, now_ns))


class Trash:
    """The rows of deleted versions that can be brought back."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _select(self, clause: str, parameters: Sequence[Any] = ()) -> list[TrashRow]:
        with translated_errors(self._connections.path):
            found = self._connections.get().execute(_ROWS + clause, tuple(parameters)).fetchall()
        return list(map(_trash_row, found))

    def select(self, name: str | None = None) -> list[TrashRow]:
        """The deleted versions of a name, or all, the last deleted first."""
        if name is None:
            return self._select(" ORDER BY number DESC")
        return self._select(" WHERE trash.name = ? ORDER BY number DESC", (name,))

    def with_prefix(self, name: str, prefix: str) -> list[TrashRow]:
        """The deleted versions of a name whose version part begins with `prefix`, the last deleted first."""
        where = " WHERE trash.name = ? AND trash.version >= ? AND trash.version < ? ORDER BY number DESC"
        return self._select(where, (name, prefix, prefix + "\x7f"))

    def has(self, name: str, version: str) -> bool:
        """Whether a deleted version of this tag is in the trash."""
        with translated_errors(self._connections.path):
            sql = "SELECT 1 FROM trash WHERE name = ? AND version = ? LIMIT 1"
            return self._connections.get().execute(sql, (name, version)).fetchone() is not None

    def by_number(self, number: int) -> TrashRow | None:
        return next(iter(self._select(" WHERE number = ?", (number,))), None)

    def count(self) -> int:
        with translated_errors(self._connections.path):
            return int(self._connections.get().execute("SELECT count(*) FROM trash").get)

    def holds(self, manifest_ids: Collection[str]) -> set[str]:
        """Which of these are manifests of versions in the trash."""
        sql = "SELECT 1 FROM version WHERE name = '' AND version = ?"  # there its version is its manifest's id
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            return {each for each in manifest_ids if connection.execute(sql, (each,)).fetchone()}

    def due(self, now_ns: int, keep_ns: int, *, everything: bool = False) -> Due:
        """What gc should take from the trash now; with `everything`, all that is in it."""
        with self._connections.read() as connection:
            moved = 0 if everything else _moved(connection, now_ns)
            last = now_ns if everything or moved else now_ns - keep_ns
            rows: list[Any] = connection.execute(
                "SELECT version_id, trash.name, size FROM trash JOIN version ON version.id = version_id"
                " WHERE ?1 OR (NOT ?2 AND counted_from <= ?3) ORDER BY trash.name, number",
                (everything, bool(moved), last),
            ).fetchall()
        return Due(tuple((row[0], decoding.name(row[1])) for row in rows), sum(row[2] for row in rows), moved)

    def look(self, now_ns: int) -> None:
        """Note that the trash is looked at now. Nothing is written for an empty one."""
        if self.count():
            with self._connections.write() as connection:
                _look(connection, now_ns)

    def empty(self, version_ids: Collection[int]) -> list[tuple[str, Tag]]:
        """Delete versions that are in the trash for good, in one transaction, and leave tombstones for their manifests;
        returns the manifests' ids, and the tags. What has been brought back meanwhile stays. The name's lock must be
        held."""
        with self._connections.write() as connection:
            fill_untrusted(connection)
            rows: list[Any] = connection.execute(
                "SELECT version_id, manifest_id, trash.name, trash.version, size FROM trash"
                " JOIN version ON version.id = version_id WHERE version_id IN (SELECT value FROM json_each(?))",
                (json.dumps([*version_ids]),),
            ).fetchall()
            for version_id, manifest_id, name, version, _ in rows:
                _bury(connection, manifest_id, decoding.tag(name, version))
                connection.execute("DELETE FROM version WHERE id = ?", (version_id,))
            note_deleted(connection, sum(row[4] for row in rows))
            for name in dict.fromkeys(row[2] for row in rows):
                tags = [f"{row[2]}:{row[3]}" for row in rows if row[2] == name]
                note_event(connection, "emptied trash", None, name=name, versions=len(tags), tags=tags[:100])
        return [(decoding.typed(row[1], str, "an id"), decoding.tag(row[2], row[3])) for row in rows]

    def begin_return(self, manifest_id: str, tag: Tag) -> None:
        """Leave a tombstone for the manifest that is about to be put where that of `tag` stands: until the version is
        brought back, it is none of a version."""
        with self._connections.write() as connection:
            _bury(connection, manifest_id, tag)

    def bring_back(self, number: int, tag: Tag, manifest_id: str) -> None:
        """Give a version in the trash a name, and the manifest that has been put in its place.

        Its former manifest, if that is another, gets a tombstone. Raises TagNotFound if it is no longer in the trash,
        TagExists; then nothing has changed.
        """
        with self._connections.write() as connection:
            found = connection.execute("SELECT version_id, name, version FROM trash WHERE number = ?", (number,))
            row: Any = found.fetchone()
            if row is None:
                raise gone_meanwhile(tag)
            version_id, was = row[0], decoding.tag(*row[1:])
            for table in ("version", "elsewhere"):
                taken = f"SELECT 1 FROM {table} WHERE name = ? AND version = ?"
                if connection.execute(taken, (tag.name, tag.version)).fetchone():
                    raise taken_meanwhile(tag)
            former = str(connection.execute("SELECT manifest_id FROM version WHERE id = ?", (version_id,)).get)
            connection.execute(
                "UPDATE version SET name = ?, version = ?, manifest_id = ?, opened_at = ? WHERE id = ?",
                (tag.name, tag.version, manifest_id, time.time_ns(), version_id),
            )
            connection.execute("DELETE FROM trash WHERE number = ?", (number,))
            connection.execute("DELETE FROM tombstone WHERE manifest_id = ?", (manifest_id,))
            if former != manifest_id:
                _bury(connection, former, was)
            note_event(connection, "undeleted", tag, was=str(was))


def gone_meanwhile(tag: Tag) -> TagNotFound:
    """The error for a version that is no longer in the trash."""
    return TagNotFound(f"{tag} is no longer in the trash: it has been brought back, or gc has taken it for good")


def taken_meanwhile(tag: Tag) -> TagExists:
    """The error for a tag that another version has."""
    return TagExists(
        f"{tag} is taken by another version, and saved versions never change; bring the deleted one back under another "
        f"tag: `casstore undelete {tag} --as {tag.name}:VERSION` (in Python: as_=...)"
    )


def _bury(connection: apsw.Connection, manifest_id: str, tag: Tag) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO tombstone(manifest_id, name, version) VALUES (?,?,?)",
        (manifest_id, tag.name, tag.version),
    )


def _trash_row(row: Any) -> TrashRow:
    number, deleted_at_ns, counted_from_ns, actor, *columns = row
    return TrashRow(
        decoding.typed(number, int, "the number of a deletion"),
        version_row(tuple(columns)),
        decoding.typed(deleted_at_ns, int, "the time of a deletion"),
        decoding.typed(counted_from_ns, int, "a time"),
        decoding.typed(actor, str, "the user of a deletion"),
    )
