"""SQL over materialized versions: which directories stand under models/, which must stay, and which may go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.schema import IS_HERE
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.versions import DirectoryRow
from casstore.late_classes import dataclass
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class EvictionRule:
    """Which directories gc may take away. Those of pinned, aliased and leased versions never go.

    `everything`: all others may go. Otherwise a directory may go if its version is not the newest of its name, and was
    not saved or opened within `keep_ns` of `now_ns`, before or after. A time in the near future comes from a clock that
    has been set back a little. One in the far future comes from a wrong clock, and must not keep a directory for good.
    """

    everything: bool
    now_ns: int
    keep_ns: int


class Candidate(NamedTuple):
    """A version whose directory may go. `size`: the bytes of its files, shared with other versions or not."""

    version_id: int
    name: str
    version: str
    size: int

    @property
    def tag(self) -> Tag:
        return Tag(self.name, self.version)


class Unsynced(NamedTuple):
    """A version's directory whose name has not been synced, with the boot in which it was made or checked."""

    version_id: int
    name: str
    version: str
    inode: int
    boot_id: str

    @property
    def tag(self) -> Tag:
        """The version's tag. Raises CatalogDamaged."""
        return decoding.tag(self.name, self.version)


class KeptBy(Enum):
    """The rule by which a version's directory stays; the value says why, "it" being the version."""

    PIN = "it is pinned"
    ALIAS = "an alias names it"
    NEWEST = "it is the newest version of its name"
    RECENT_USE = "it was saved or opened within keep_days"


_NEWEST = "v.id = (SELECT id FROM version AS n WHERE n.name = v.name ORDER BY n.ordered_at DESC, n.id DESC LIMIT 1)"
_ALIASED = "v.id IN (SELECT version_id FROM alias)"
_MAY_GO = f"""
(NOT v.pinned AND NOT {_ALIASED} AND (:everything OR (
  abs(:now - v.created_at) >= :keep AND abs(:now - v.ordered_at) >= :keep
  AND abs(:now - coalesce(v.opened_at, v.created_at)) >= :keep
  AND NOT {_NEWEST})))
"""
_MATERIALIZED = "FROM directory JOIN version AS v ON v.id = directory.version_id"
_CANDIDATES = f"SELECT v.id, v.name, v.version, v.size {_MATERIALIZED} WHERE {_MAY_GO}"
_KEPT = (
    f"SELECT v.name, v.version, v.pinned, {_ALIASED}, {_NEWEST} {_MATERIALIZED} WHERE NOT {_MAY_GO}"
    " ORDER BY v.name, v.id"
)


class Directories:
    """The rows of directories, and the pins of versions."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def _rows(self, sql: str, parameters: Any = ()) -> Iterator[Any]:
        with translated_errors(self._connections.path):
            return iter(self._connections.get().execute(sql, parameters).fetchall())

    def find(self, version_id: int) -> DirectoryRow | None:
        """The record of the version's directory; None if the version is not materialized."""
        sql = "SELECT inode, boot_id, entries, evicting, synced FROM directory WHERE version_id = ?"
        rows = self._rows(sql, (version_id,))
        return next((_directory_row(*row) for row in rows), None)

    def record(self, version_id: int, row: DirectoryRow) -> None:
        """Record a directory that has been made or mended; do nothing if the version is gone."""
        with self._connections.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO directory(version_id, inode, boot_id, entries, evicting, synced)"
                f" SELECT id, ?, ?, ?, ?, ? FROM version WHERE id = ? AND {IS_HERE}",
                (row.inode, row.boot_id, row.entries, row.evicting, row.synced, version_id),
            )

    def unsynced(self) -> list[Unsynced]:
        """The directories whose names have not been synced since they were made."""
        sql = (
            "SELECT id, name, version, inode, boot_id FROM directory JOIN version ON id = version_id"
            " WHERE NOT synced AND NOT evicting ORDER BY name, id"
        )
        return [Unsynced(*row) for row in self._rows(sql)]

    def note_synced(self, directories: Iterable[Unsynced]) -> None:
        """Record that these names have been synced, except those of directories that have been made again since."""
        with self._connections.write() as connection:
            connection.executemany(
                "UPDATE directory SET synced = 1 WHERE version_id = ? AND inode = ? AND boot_id = ? AND NOT evicting",
                ((each.version_id, each.inode, each.boot_id) for each in directories),
            )

    def forget(self, version_id: int) -> None:
        """Drop the row of a directory that is gone. The name's lock must be held."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM directory WHERE version_id = ?", (version_id,))

    def confirm(self, version_id: int, row: DirectoryRow) -> None:
        """Record that the bytes of a directory have been checked in this boot, unless its row has changed since."""
        with self._connections.write() as connection:
            connection.execute(
                "UPDATE directory SET boot_id = ? WHERE version_id = ? AND inode = ? AND entries = ? AND NOT evicting",
                (self._boot_id, version_id, row.inode, row.entries),
            )

    def candidates(self, rule: EvictionRule) -> list[Candidate]:
        """The directories that may go by this rule, without regard to leases; those of one name together."""
        return [_candidate(*row) for row in self._rows(_CANDIDATES + " ORDER BY v.name, v.id", _bindings(rule))]

    def kept(self, rule: EvictionRule) -> list[tuple[Tag, KeptBy]]:
        """The directories that stay by this rule, leases aside, each with the first reason. Raises CatalogDamaged."""
        return [
            (decoding.tag(*row[:2]), next(why for holds, why in zip((*row[2:], True), KeptBy, strict=True) if holds))
            for row in self._rows(_KEPT, _bindings(rule))
        ]

    def begin_eviction(
        self, version_ids: Iterable[int], rule: EvictionRule, is_alive: Callable[[str], bool]
    ) -> list[int]:
        """Mark the directories that may still go, and that no living session leases, as evicting; returns them.

        This is one transaction, so a lease is either seen here, or taken by a process that will see the mark. The
        names' locks must be held.
        """
        begun = []
        with self._connections.write() as connection:
            for version_id in version_ids:
                may_go = connection.execute(
                    _CANDIDATES + " AND v.id = :id", {**_bindings(rule), "id": version_id}
                ).fetchone()
                leases = connection.execute("SELECT session FROM lease WHERE version_id = ?", (version_id,)).fetchall()
                if may_go and not any(is_alive(str(session)) for (session,) in leases):
                    connection.execute("UPDATE directory SET evicting = 1 WHERE version_id = ?", (version_id,))
                    begun.append(version_id)
        return begun

    def evicting(self) -> list[Candidate]:
        """The directories that an interrupted gc was about to take away."""
        sql = "SELECT id, name, version, size FROM directory JOIN version ON id = version_id WHERE evicting"
        return [_candidate(*row) for row in self._rows(sql)]

    def end_evictions(self, version_ids: Sequence[int]) -> None:
        """Drop the rows of directories that are gone, unless they have been made again meanwhile."""
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM directory WHERE version_id = ? AND evicting", ((each,) for each in version_ids)
            )

    def undo_evictions(self, version_ids: Sequence[int]) -> None:
        """Clear the mark of directories that still stand. The names' locks must be held."""
        with self._connections.write() as connection:
            connection.executemany(
                "UPDATE directory SET evicting = 0 WHERE version_id = ?", ((each,) for each in version_ids)
            )

    def set_pinned(self, version_id: int, pinned: bool) -> bool:
        """Pin or unpin a version; False if the version is gone."""
        with self._connections.write() as connection:
            connection.execute(f"UPDATE version SET pinned = ? WHERE id = ? AND {IS_HERE}", (pinned, version_id))
            return bool(connection.changes())

    def is_pinned(self, version_id: int) -> bool | None:
        """Whether a version is pinned; None if it is gone."""
        rows = self._rows(f"SELECT pinned FROM version WHERE id = ? AND {IS_HERE}", (version_id,))
        return next((bool(row[0]) for row in rows), None)


def _directory_row(inode: Any, boot_id: Any, entries: Any, evicting: Any, synced: Any) -> DirectoryRow:
    typed = decoding.typed
    return DirectoryRow(
        typed(inode, int, "an inode"), typed(boot_id, str, "a boot"), typed(entries, bytes, "a list"),
        bool(evicting), bool(synced),
    )  # fmt: skip


def _candidate(version_id: Any, name: Any, version: Any, size: Any) -> Candidate:
    decoding.tag(name, version)
    return Candidate(version_id, name, version, decoding.typed(size, int, "a size"))


def _bindings(rule: EvictionRule) -> dict[str, int]:
    return {"everything": rule.everything, "now": rule.now_ns, "keep": rule.keep_ns}
