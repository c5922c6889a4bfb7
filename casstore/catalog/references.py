"""SQL that follows references: which versions, files and containers need what. The one walk of them is in `marks`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections, translated_errors
from casstore.catalog.index import DEAD, LIVE
from casstore.catalog.marks import Marks
from casstore.catalog.tables import Tables
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind
from casstore.storage.manifest import FileEntry, entry_path, file_entry
from casstore.storage.recipe import Recipe
from casstore.tag import Tag


class References:
    """Walks from versions to blobs, chunks and containers."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @contextlib.contextmanager
    def marked(self) -> Iterator[Marks]:
        """Mark what the versions need that there are now; the marks last as long as the block, in this thread.

        Nothing else can touch them, not even other marks. A child that is forked meanwhile may not use the store.
        Where another thread closes it, the work ends with StoreError.
        """
        with self._connections.keeping(), Tables(self._connections) as tables:
            with translated_errors(self._connections.path):
                newest = int(self._connections.get().execute("SELECT coalesce(max(id), 0) FROM version").get)
            yield Marks(self._connections, tables, newest)

    def drop_unreferenced_blobs(self) -> int:
        """Delete the recipes that no file of any version names; returns how many."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM blob WHERE digest NOT IN (SELECT digest FROM file)")
            return connection.changes()

    def has_unexplained_chunks(self, recipes: Mapping[Digest, Recipe]) -> bool:
        """Whether a loose file of one of these blobs is the home of a chunk that its recipe names, and no version's
        recipe of that blob does."""
        with self._connections.read() as connection:
            return has_unexplained_chunks(connection, recipes)

    def has_orphans(self) -> bool:
        """Whether a chunk is at home in a loose file that is no version's any more."""
        sql = (
            f"SELECT 1 FROM container WHERE state = {LIVE} AND kind = {Kind.LOOSE}"
            " AND EXISTS (SELECT 1 FROM chunk WHERE chunk.container = container.id)"
            f" AND NOT EXISTS ({_OF_A_VERSION.format('container.digest')}) LIMIT 1"
        )
        with self._connections.read() as connection:
            return connection.execute(sql).fetchone() is not None

    def dead_containers(self) -> list[tuple[Container, int]]:
        """Condemned containers, with their sizes, whose files may still stand. Raises CatalogDamaged."""
        with translated_errors(self._connections.path):
            # The transaction that condemns one deletes these rows: what still has them was condemned by nobody.
            homed = self._connections.get().execute(
                f"SELECT 1 FROM chunk WHERE container IN (SELECT id FROM container WHERE state = {DEAD}) LIMIT 1"
            )
            if homed.fetchone() is not None:
                raise decoding.malformed("chunks are at home in a container that is to be removed")
        return self._containers(
            f"SELECT id, file_id, kind, digest, executable, size FROM container WHERE state = {DEAD}"
        )

    def forget_containers(self, containers: Iterable[Container]) -> None:
        """Drop the rows of dead containers whose files are gone."""
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM container WHERE id = ? AND state = ?", ((c.id, DEAD) for c in containers)
            )

    def forget_old_fingerprints(self, before_ns: int) -> None:
        """Drop what is known of files outside the store that have not been seen since."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM fingerprint WHERE recorded_at < ?", (before_ns,))

    def containers(self) -> list[tuple[Container, int]]:
        """All live containers, with their sizes, in the order they were committed."""
        sql = f"SELECT id, file_id, kind, digest, executable, size FROM container WHERE state = {LIVE} ORDER BY id"
        return self._containers(sql)

    def newest_homes(self) -> list[tuple[Container, int]]:
        """Some of the newest containers, with their sizes, that have been synced and that are the home of a chunk.

        They cost some microseconds, however many redundant ones came after them.
        """
        newest = f"SELECT * FROM container WHERE state = {LIVE} ORDER BY id DESC LIMIT 64"
        return self._containers(
            f"SELECT id, file_id, kind, digest, executable, size FROM ({newest}) AS newest WHERE synced"
            " AND EXISTS (SELECT 1 FROM chunk WHERE chunk.container = newest.id) LIMIT 8"
        )

    def _containers(self, sql: str) -> list[tuple[Container, int]]:
        with translated_errors(self._connections.path):
            rows: list[Any] = self._connections.get().execute(sql).fetchall()
        return list(map(decoding.sized_container, rows))

    def chunks_of(self, container: Container) -> list[tuple[Digest, int]]:
        """The chunks whose home this is, in the order they stand in it, each with the bytes it takes there."""
        with translated_errors(self._connections.path):
            sql = "SELECT digest, length FROM chunk WHERE container = ? ORDER BY offset"
            rows: Iterable[Any] = self._connections.get().execute(sql, (container.id,)).fetchall()
        return [(decoding.digest(digest), decoding.typed(length, int, "a length")) for digest, length in rows]

    def missing_chunks(self) -> list[Digest]:
        """Chunks that some version needs and that have no home. That is damage."""
        with self.marked() as marks:
            return marks.homeless()

    def recipes_with(self, chunks: set[Digest]) -> list[Recipe]:
        """The stored recipes that name one of these chunks."""
        with self._connections.read() as connection:
            return list(_recipes_with(connection, chunks))

    def files_of(self, blobs: set[Digest]) -> list[tuple[Tag, FileEntry]]:
        """Every version's files that are one of these blobs."""
        sql = (
            "SELECT name, version, path, executable, file.size, file.digest FROM file JOIN version ON id = version_id"
            " ORDER BY 1, 2, 3"
        )
        with self._connections.read() as connection:
            found: Iterable[Any] = connection.execute(sql)
            return [
                (decoding.tag(name, version), _file_entry(path, executable, size, digest))
                for name, version, path, executable, size, digest in found
                if digest in blobs
            ]

    def standing_copies(self, blob: Digest) -> list[tuple[Tag, str, int]]:
        """The files in versions' directories that should be this blob, as (tag, path, size)."""
        sql = (
            "SELECT name, version, path, file.size FROM file JOIN version ON id = file.version_id"
            " JOIN directory ON directory.version_id = id WHERE file.digest = ?"
        )
        with translated_errors(self._connections.path):
            rows: list[Any] = self._connections.get().execute(sql, (blob,)).fetchall()
        return [(decoding.tag(name, version), _path(path), size) for name, version, path, size in rows]

    def dependents(self, chunks: set[Digest], blobs: set[Digest]) -> list[tuple[Tag, str]]:
        """The (tag, path) of every file that needs one of these chunks or is one of these blobs."""
        with self._connections.read() as connection:
            rows: list[Any] = connection.execute(
                "SELECT digest, base, grouping FROM chunk WHERE base IS NOT NULL"
            ).fetchall()
            affected = set(chunks)
            while more := {decoding.digest(row[0]) for row in rows if not affected.isdisjoint(row[1:])} - affected:
                affected |= more
            damaged = affected | blobs | {recipe.blob for recipe in _recipes_with(connection, affected)}
            sql = "SELECT name, version, path, file.digest FROM file JOIN version ON id = version_id ORDER BY 1, 2, 3"
            found: Iterable[Any] = connection.execute(sql)
            return [
                (decoding.tag(name, version), _path(path)) for name, version, path, digest in found if digest in damaged
            ]


def _file_entry(path: Any, executable: Any, size: Any, digest: Any) -> FileEntry:
    try:
        return file_entry(path, executable, size, digest)
    except (TypeError, ValueError) as error:
        raise decoding.malformed(str(error)) from error


def _path(value: Any) -> str:
    try:
        return entry_path(value)
    except (TypeError, ValueError) as error:
        raise decoding.malformed(str(error)) from error


def _recipes_with(connection: apsw.Connection, chunks: set[Digest]) -> Iterator[Recipe]:
    for digest, packed in connection.execute("SELECT digest, recipe FROM blob"):
        recipe = Recipe.unpack(decoding.digest(digest), packed)
        if not chunks.isdisjoint(recipe.digests):
            yield recipe


# Smaller files have no loose files, and no entry in the index.
_OF_A_VERSION = f"SELECT 1 FROM file WHERE file.digest = {{}} AND file.size >= {LINK_FROM_BYTES}"


def has_unexplained_chunks(connection: apsw.Connection, recipes: Mapping[Digest, Recipe]) -> bool:
    """See `References.has_unexplained_chunks`."""
    homed = (
        "SELECT chunk.digest FROM container JOIN chunk ON chunk.container = container.id"
        f" WHERE container.digest = ? AND state = {LIVE}"
    )
    known = f"SELECT recipe FROM blob WHERE digest = ?1 AND EXISTS ({_OF_A_VERSION.format('?1')})"
    for blob, recipe in recipes.items():
        chunks = {decoding.digest(row[0]) for row in connection.execute(homed, (blob,))}.intersection(recipe.digests)
        told = connection.execute(known, (blob,)).get if chunks else None
        if chunks - set(() if told is None else Recipe.unpack(blob, told).digests):
            return True
    return False
