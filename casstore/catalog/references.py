"""SQL that follows references: which versions, files and containers need what. `marks` holds the only full walk."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.index import DEAD, LIVE
from casstore.catalog.marks import Marks
from casstore.catalog.schema import IS_HERE
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.tables import Tables
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind
from casstore.storage.manifest import FileEntry, entry_path, file_entry
from casstore.storage.recipe import Recipe
from casstore.tag import Tag


class References:
    """Queries from versions to blobs, chunks and containers, and back."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @contextlib.contextmanager
    def marked(self, leaving: Collection[int] = ()) -> Iterator[Marks]:
        """Mark what the present versions need, those in the trash too, for a `with` block in this thread.

        `leaving`: versions, by row id, that are treated as gone.

        Nothing else can change the marks, not even other marks. A child that is forked meanwhile may not use the store.
        If another thread closes the store, the work ends with StoreError.
        """
        with self._connections.keeping(), Tables(self._connections) as tables:
            with translated_errors(self._connections.path):
                newest = int(self._connections.get().execute("SELECT coalesce(max(id), 0) FROM version").get)
            yield Marks(self._connections, tables, newest, leaving)

    def drop_unreferenced_blobs(self) -> int:
        """Delete the recipes that no file of any version names, and their SHA-256; returns how many recipes."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM sha256 WHERE digest NOT IN (SELECT digest FROM file)")
            connection.execute("DELETE FROM blob WHERE digest NOT IN (SELECT digest FROM file)")
            return connection.changes()

    def has_unexplained_chunks(self, recipes: Mapping[Digest, Recipe]) -> bool:
        """Whether a loose file of one of these blobs is the container of a chunk that is named by the recipe given
        here, but not by a version's recipe of that blob."""
        with self._connections.read() as connection:
            return has_unexplained_chunks(connection, recipes)

    def has_orphans(self) -> bool:
        """Whether some loose file that no longer belongs to a version is the container of a chunk."""
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
            # Condemning a container deletes these rows in the same transaction, so one that has them is damage.
            stored = self._connections.get().execute(
                f"SELECT 1 FROM chunk WHERE container IN (SELECT id FROM container WHERE state = {DEAD}) LIMIT 1"
            )
            if stored.fetchone() is not None:
                raise decoding.malformed("chunks stand in a container that is to be removed")
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
        """Drop the fingerprints of files outside the store that were last seen before `before_ns`."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM fingerprint WHERE recorded_at < ?", (before_ns,))

    def containers(self) -> list[tuple[Container, int]]:
        """All live containers, with their sizes, in the order of their commits."""
        sql = f"SELECT id, file_id, kind, digest, executable, size FROM container WHERE state = {LIVE} ORDER BY id"
        return self._containers(sql)

    def newest_containers(self) -> list[tuple[Container, int]]:
        """Some of the newest synced containers that are the container of a chunk, with their sizes.

        This takes microseconds, however many redundant containers came after them.
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
        """The chunks in this container, in their order in it, each with the bytes it takes there."""
        with translated_errors(self._connections.path):
            sql = "SELECT digest, length FROM chunk WHERE container = ? ORDER BY offset"
            rows: Iterable[Any] = self._connections.get().execute(sql, (container.id,)).fetchall()
        return [(decoding.digest(digest), decoding.typed(length, int, "a length")) for digest, length in rows]

    def missing_chunks(self) -> list[Digest]:
        """The chunks that some version needs and that are in no container, which is damage."""
        with self.marked() as marks:
            return marks.unplaced()

    def recipes_with(self, chunks: set[Digest]) -> list[Recipe]:
        """The stored recipes that name one of these chunks."""
        with self._connections.read() as connection:
            return list(_recipes_with(connection, chunks))

    def files_of(self, blobs: set[Digest]) -> list[tuple[Tag, FileEntry]]:
        """The files of all versions whose content is one of these blobs."""
        sql = (
            "SELECT name, version, path, executable, file.size, file.digest FROM file JOIN version ON id = version_id"
            f" WHERE {IS_HERE} ORDER BY 1, 2, 3"
        )
        with self._connections.read() as connection:
            found: Iterable[Any] = connection.execute(sql)
            return [
                (decoding.tag(name, version), _file_entry(path, executable, size, digest))
                for name, version, path, executable, size, digest in found
                if digest in blobs
            ]

    def standing_copies(self, blob: Digest) -> list[tuple[Tag, str, int]]:
        """The files in versions' directories that should hold this blob, as (tag, path, size)."""
        sql = (
            "SELECT name, version, path, file.size FROM file JOIN version ON id = file.version_id"
            " JOIN directory ON directory.version_id = id WHERE file.digest = ?"
        )
        with translated_errors(self._connections.path):
            rows: list[Any] = self._connections.get().execute(sql, (blob,)).fetchall()
        return [(decoding.tag(name, version), _path(path), size) for name, version, path, size in rows]

    def dependents(
        self, chunks: set[Digest], blobs: set[Digest], *, deleted: bool = False
    ) -> list[tuple[Tag, str]]:  # fmt: skip
        """The (tag, path) of every file that needs one of these chunks, or holds one of these blobs. `deleted`: those
        of versions in the trash instead."""
        with self._connections.read() as connection:
            rows: list[Any] = connection.execute(
                "SELECT digest, base, grouping FROM chunk WHERE base IS NOT NULL"
            ).fetchall()
            affected = set(chunks)
            while more := {decoding.digest(row[0]) for row in rows if not affected.isdisjoint(row[1:])} - affected:
                affected |= more
            damaged = affected | blobs | {recipe.blob for recipe in _recipes_with(connection, affected)}
            versions = "trash USING (version_id)" if deleted else f"version ON id = version_id AND {IS_HERE}"
            sql = f"SELECT name, version, path, file.digest FROM file JOIN {versions} ORDER BY 1, 2, 3"
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
    stored = (
        "SELECT chunk.digest FROM container JOIN chunk ON chunk.container = container.id"
        f" WHERE container.digest = ? AND state = {LIVE}"
    )
    known = f"SELECT recipe FROM blob WHERE digest = ?1 AND EXISTS ({_OF_A_VERSION.format('?1')})"
    for blob, recipe in recipes.items():
        chunks = {decoding.digest(row[0]) for row in connection.execute(stored, (blob,))}.intersection(recipe.digests)
        told = connection.execute(known, (blob,)).get if chunks else None
        if chunks - set(() if told is None else Recipe.unpack(blob, told).digests):
            return True
    return False
