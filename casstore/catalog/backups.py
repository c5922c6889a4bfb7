"""SQL for backups: a copy of the catalog as it is at one moment, adapted to the place that the copy is for."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.aliases import AliasMove, all_moves
from casstore.catalog.connection import Connections, sqlite_name
from casstore.catalog.index import TRUSTED
from casstore.catalog.references import has_unexplained_chunks
from casstore.catalog.schema import APPLICATION_ID, IS_HERE, migrate
from casstore.catalog.sqlite_errors import damaged, translated_errors
from casstore.digest import Digest
from casstore.errors import StoreError
from casstore.storage.container import Container, Kind
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

_PAGES = 2048  # copied at once: an interrupt is heeded after some milliseconds
# Rows of the table `store` in a backup's catalog: the instance that it is a copy of, and the newest version in it.
_OF, _LAST = "backup_of", "backup_last"

# What is true of one place only is removed: directories, who uses them, files outside the store, unfinished deletions,
# inode numbers; and containers in which there is no chunk: files still to be unlinked, and redundant copies.
_MAKE_TRUE = f"""
DELETE FROM directory; DELETE FROM lease; DELETE FROM fingerprint; DELETE FROM tombstone;
DELETE FROM container WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.container = container.id);
UPDATE container SET read_at = NULL;
UPDATE container SET inode = 0, mtime_ns = 0 WHERE kind = {Kind.LOOSE};
"""
# Versions that another catalog has and this one lacks, except those deleted here since that one was copied from this,
# and those that were brought back under another tag, which gave them another manifest.
_FOREIGN = """
SELECT name, version FROM other.version AS o
WHERE name != '' AND manifest_id NOT IN (SELECT manifest_id FROM main.version)
  AND NOT (:is_own AND id <= :last AND NOT EXISTS (SELECT 1 FROM main.version AS m WHERE m.id = o.id AND NOT (
             m.digest = o.digest AND m.created_at = o.created_at))
           AND id <= (SELECT coalesce(max(seq), 0) FROM main.sqlite_sequence WHERE name = 'version'))
ORDER BY id LIMIT 1
"""


class Backups:
    """Makes copies of the catalog, which other processes may change meanwhile."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def copy(self, path: Path, boot_id: str) -> CatalogCopy:
        """Copy the catalog as it is now to the empty file at `path`, and remove what is true of this place only.

        Raises CatalogDamaged if pages of the catalog are damaged; OSError.
        """
        target = apsw.Connection(sqlite_name(path))
        try:
            with self._connections.read() as source:
                source.execute("SELECT count(*) FROM store").fetchall()  # with which the read transaction begins
                _copy_pages(source, target, path)
            with translated_errors(self._connections.path):
                said = str(target.execute("PRAGMA quick_check(1)").get)
            if said != "ok":
                raise damaged(self._connections.path, said)
            return CatalogCopy(target, path, boot_id)
        except BaseException:
            target.close()
            raise


def _copy_pages(source: apsw.Connection, target: apsw.Connection, path: Path) -> None:
    try:
        with target.backup("main", source, "main") as copying:
            while not copying.done:
                copying.step(_PAGES)
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, "no space left on the device for the catalog", str(path)) from error


class CatalogCopy:
    """A copied catalog that is being prepared; no other process uses it. Close it before it is moved.

    `unsynced`: row ids of the containers that were not known to be on disk where the catalog was copied from.
    `deleted`: the tags of versions whose deletion was not finished there, by the ids of their manifests.
    """

    def __init__(self, connection: apsw.Connection, path: Path, boot_id: str) -> None:
        self._connection = connection
        self.path = path
        with translated_errors(path):
            # If interrupted, the copy is made again: until `finish` nothing of it needs to reach the disk.
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
            connection.execute("PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF").fetchall()
            migrate(connection)  # the catalog of a read-only store may be older
            self.unsynced = {row[0] for row in connection.execute("SELECT id FROM container WHERE NOT synced")}
            found = connection.execute("SELECT manifest_id, name, version FROM tombstone").fetchall()
            self.deleted = {decoding.typed(row[0], str, "an id"): decoding.tag(*row[1:]) for row in found}
            with connection:
                connection.execute(_MAKE_TRUE)
                # They are synced once copied, but what an earlier boot left unsynced may be torn.
                connection.execute(
                    f"UPDATE container SET synced = 1, boot_id = NULL WHERE {TRUSTED}", {"boot": boot_id}
                )

    def foreign_version(self, other: Path, instance: str) -> Tag | None:
        """The tag of a version that only the catalog at `other` has, and that replacing it by this copy would lose.

        `instance`: the instance of the store that this is a copy of. Versions deleted there since it was copied to
        `other` do not count. Raises StoreError if `other` is not a catalog, CatalogDamaged.
        """
        with translated_errors(other):
            self._connection.execute("ATTACH ? AS other", (str(other),))
            try:
                if self._connection.execute("PRAGMA other.application_id").get != APPLICATION_ID:
                    raise StoreError(f"{other} is not a catalog of casstore; choose an empty or new directory")
                rows = dict(self._connection.execute("SELECT key, value FROM other.store"))
                bindings = {"is_own": rows.get(_OF) == instance, "last": int(rows.get(_LAST, 0))}
                found = self._connection.execute(_FOREIGN, bindings).fetchall()
            finally:
                self._connection.execute("DETACH other")
        return decoding.tag(*found[0]) if found else None

    def containers(self) -> list[tuple[Container, int]]:
        """Every container that is the container of a chunk, with its size."""
        sql = "SELECT id, file_id, kind, digest, executable, size FROM container ORDER BY id"
        return [(decoding.container(*row[:5]), row[5]) for row in self._rows(sql)]

    def manifests(self) -> dict[str, Tag]:
        """The tag of every version, by the id of its manifest."""
        sql = f"SELECT manifest_id, name, version FROM version WHERE {IS_HERE}"
        return {row[0]: decoding.tag(*row[1:]) for row in self._rows(sql)}

    def trashed(self) -> dict[str, Tag]:
        """The tag of every version in the trash, by the id of its manifest."""
        sql = "SELECT manifest_id, trash.name, trash.version FROM version JOIN trash ON version_id = version.id"
        return {row[0]: decoding.tag(*row[1:]) for row in self._rows(sql)}

    def alias_moves(self) -> list[AliasMove]:
        """All that was done to aliases, by name and in order."""
        with translated_errors(self.path):
            return list(all_moves(self._connection))

    def has_unexplained_chunks(self, recipes: Mapping[Digest, Recipe]) -> bool:
        """See `References.has_unexplained_chunks`."""
        with translated_errors(self.path):
            return has_unexplained_chunks(self._connection, recipes)

    def _rows(self, sql: str) -> list[Any]:
        with translated_errors(self.path):
            return list(self._connection.execute(sql))

    def finish(self, instance: str, tombstones: Iterable[tuple[str, Tag]]) -> None:
        """Record whose copy this is, and close it. The caller syncs the file.

        `tombstones`: the manifests at the copy's destination that are to be removed.
        """
        with translated_errors(self.path), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO store SELECT ?, ? UNION ALL SELECT ?, coalesce(max(id), 0) FROM version",
                (_OF, instance, _LAST),
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO tombstone(manifest_id, name, version) VALUES (?,?,?)",
                ((manifest_id, tag.name, tag.version) for manifest_id, tag in tombstones),
            )
        self.close()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> CatalogCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fold_log(path: Path) -> None:
    """Move what the log beside a catalog still holds into the catalog, and remove the log.

    No process may have the catalog open. Raises CatalogDamaged, OSError.
    """
    _alone(path, "SELECT count(*) FROM sqlite_schema")


def drop_tombstones(path: Path) -> None:
    """Drop the tombstones of a catalog that no process has open, once what they stand for is certainly gone."""
    _alone(path, "DELETE FROM tombstone")


def _alone(path: Path, statement: str) -> None:
    with translated_errors(path):
        connection = apsw.Connection(sqlite_name(path))
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            connection.execute("PRAGMA synchronous = FULL").fetchall()
            connection.execute(statement).fetchall()
        finally:
            connection.close()
