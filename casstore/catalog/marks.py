"""Marks: what versions need, down to the last base of a delta. gc, verify, repair and stats all walk through here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from casstore.catalog import decoding
from casstore.catalog.columns import Columns
from casstore.catalog.connection import Connections
from casstore.catalog.index import DEAD, LIVE
from casstore.catalog.schema import IS_HERE
from casstore.catalog.tables import Tables
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Recipe

_CONDEMN_BATCH = 1000  # containers per transaction: other writers wait a few milliseconds at most


class SparsePack(NamedTuple):
    """A pack, its size, and the number and bytes of its records that are needed."""

    container: Container
    size: int
    needed_chunks: int
    needed_bytes: int


class ColdFile(NamedTuple):
    """A loose file that no standing directory links to: its container's row id and size, and the bytes of the needed
    chunks that it contains."""

    id: int
    size: int
    needed_bytes: int


class Marks:
    """Chunks and blobs that the versions up to row id `newest` need, and what follows from that.

    Made by `References.marked`. What is saved later is not marked until `condemn` looks; what is deleted stays marked.
    """

    def __init__(self, connections: Connections, tables: Tables, newest: int, leaving: Collection[int] = ()) -> None:
        self._connections = connections
        self._tables = tables
        self._newest = newest
        begin_marks(tables)
        with tables.translated_errors():
            mark(tables, "id <= ? AND id NOT IN (SELECT value FROM json_each(?))", (newest, json.dumps([*leaving])))

    def leave(self, version_ids: Iterable[int]) -> None:
        """From now on, treat the directories of these versions as gone."""
        self._tables.add_all("INSERT OR IGNORE INTO temp.leaving VALUES (?)", ((each,) for each in version_ids))

    def hold(self, manifests: Iterable[Manifest]) -> None:
        """Mark also what deleted versions that may be restored need, given by their manifests."""
        with self._tables.translated_errors():
            mark_manifests(self._tables, manifests)

    def needed(self, chunks: Iterable[Digest]) -> set[Digest]:
        """The marked chunks among these."""
        with self._tables.translated_errors():
            connection = self._tables.connection
            sql = self._tables.of("SELECT 1 FROM temp.needed WHERE digest = ?")
            return {digest for digest in chunks if connection.execute(sql, (digest,)).fetchone()}

    def needed_in(self, container: Container) -> list[Digest]:
        """The marked chunks of a container, in the order in which they stand there."""
        sql = "SELECT digest FROM chunk JOIN temp.needed USING (digest) WHERE container = ? ORDER BY offset"
        return [decoding.digest(row[0]) for row in self._tables.rows(sql, (container.id,))]

    def needed_containers(self) -> list[tuple[Container, int]]:
        """The containers, with their sizes, that are the container of a marked chunk."""
        return self._containers(
            "SELECT id, file_id, kind, digest, executable, size FROM container WHERE EXISTS"
            " (SELECT 1 FROM chunk JOIN temp.needed USING (digest) WHERE chunk.container = container.id) ORDER BY id"
        )

    def unplaced(self) -> list[Digest]:
        """Marked chunks that have no row."""
        sql = (
            "SELECT digest FROM temp.needed AS needed"
            " WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.digest = needed.digest) AND digest != ?"
        )
        empty = Digest.of(b"")  # an empty blob has no chunk
        return [decoding.digest(row[0]) for row in self._tables.rows(sql, (empty,))]

    def unreferenced(self) -> list[tuple[Container, int]]:
        """Containers, with their sizes, that no marked chunk and no file of any version needs."""
        return self._containers(UNREFERENCED)

    def unneeded(self, containers: Iterable[Container]) -> list[Container]:
        """The live containers among these that no marked chunk and no file of any version needs."""
        with self._tables.translated_errors():
            connection = self._tables.connection
            sql = self._tables.of(UNREFERENCED + " AND container.id = ?")
            return [each for each in containers if connection.execute(sql, (each.id,)).fetchone()]

    def condemn(self, containers: Sequence[Container], held: Callable[[], Iterable[Manifest]]) -> int:
        """Make unreferenced containers dead, so that their files may be unlinked; returns how many were.

        Each step is one transaction. It marks what has been committed since these marks were made, and what the
        manifests returned by `held` need. It deletes the chunk rows of containers that are still unreferenced, and of
        deltas elsewhere that need these chunks. It raises gc_epoch.
        """
        condemned = 0
        unneeded = self._tables.of(UNREFERENCED + " AND container.id = ?")
        for start in range(0, len(containers), _CONDEMN_BATCH):
            with self._connections.write() as connection:
                mark(self._tables, "id > ?", (self._newest,))
                mark_manifests(self._tables, held())
                for container in containers[start : start + _CONDEMN_BATCH]:
                    if not connection.execute(unneeded, (container.id,)).fetchone():
                        continue
                    connection.execute(_DELETE_CHUNKS, (container.id,))
                    connection.execute("UPDATE container SET state = ? WHERE id = ?", (DEAD, container.id))
                    condemned += 1
                connection.execute("UPDATE store SET value = value + 1 WHERE key = 'gc_epoch'")
        return condemned

    def packs(self) -> list[SparsePack]:
        """Every live pack that holds a marked chunk, by size."""
        sql = (
            "SELECT container.id, file_id, kind, NULL, executable, size, count(*), sum(length)"
            " FROM container JOIN chunk ON container = container.id"
            " JOIN temp.needed AS needed ON needed.digest = chunk.digest"
            f" WHERE state = {LIVE} AND kind = {Kind.PACK} GROUP BY container.id ORDER BY size"
        )
        return [SparsePack(decoding.container(*row[:5]), *row[5:]) for row in self._tables.rows(sql)]

    def cold(self) -> list[ColdFile]:
        """The cold loose files that are the containers of marked chunks."""
        sql = (
            "SELECT container.id, container.size, sum(raw_bytes)"
            " FROM chunk JOIN temp.needed USING (digest) JOIN container ON container.id = container"
            f" WHERE container.id IN ({_COLD}) GROUP BY container.id"
        )
        return [ColdFile(*row) for row in self._tables.rows(sql)]

    @contextlib.contextmanager
    def columns(self, files: Iterable[ColdFile]) -> Iterator[Columns]:
        """The marked chunks in some of the cold loose files, to be put in the order of packing. Only one at a time."""
        try:
            yield Columns(self._tables, _COLD, (file.id for file in files))
        finally:
            self._tables.drop(*Columns.NAMES)

    def _containers(self, sql: str) -> list[tuple[Container, int]]:
        return list(map(decoding.sized_container, self._tables.rows(sql)))


_IS_ITS_FILE = f"file.digest = container.digest AND file.size >= {LINK_FROM_BYTES}"
# Whether a loose file serves a version whose directory stands and hardlinks to it. A directory that a killed gc has
# marked as evicting may still stand, and counts until that is settled.
IS_LINKED = (
    "EXISTS (SELECT 1 FROM file JOIN directory ON directory.version_id = file.version_id"
    f" WHERE file.digest = container.digest AND file.size >= {LINK_FROM_BYTES}"
    " AND directory.version_id NOT IN (SELECT id FROM temp.leaving))"
)
# Deltas that need these chunks are unneeded as well. If left in a pack that holds other chunks, they would count as
# stored when their content is saved again.
_DELETE_CHUNKS = """
WITH RECURSIVE doomed(digest) AS (
  SELECT digest FROM chunk WHERE container = ?
  UNION SELECT chunk.digest FROM doomed JOIN chunk ON chunk.base = doomed.digest
  UNION SELECT chunk.digest FROM doomed JOIN chunk ON chunk.grouping = doomed.digest
)
DELETE FROM chunk WHERE digest IN (SELECT digest FROM doomed)
"""
UNREFERENCED = f"""
SELECT container.id, file_id, kind, container.digest, executable, container.size FROM container
WHERE state = {LIVE}
  AND NOT EXISTS (SELECT 1 FROM chunk JOIN temp.needed USING (digest) WHERE chunk.container = container.id)
  AND NOT (kind = {Kind.LOOSE} AND {IS_LINKED})
"""
# What a version in the trash alone has is not worth packing: it goes soon, or comes back as it is.
_OF_TRASH_ALONE = (
    f"(EXISTS (SELECT 1 FROM file JOIN trash USING (version_id) WHERE {_IS_ITS_FILE})"
    f" AND NOT EXISTS (SELECT 1 FROM file JOIN version ON version.id = version_id WHERE {IS_HERE} AND {_IS_ITS_FILE}))"
)
_COLD = (
    f"SELECT id FROM container WHERE state = {LIVE} AND kind = {Kind.LOOSE} AND NOT {IS_LINKED}"
    f" AND NOT {_OF_TRASH_ALONE}"
)


def begin_marks(tables: Tables) -> None:
    """Make the tables that hold marks: needed (chunks), needed_blob and leaving."""
    tables.create("needed", "(digest BLOB PRIMARY KEY) WITHOUT ROWID")
    tables.create("needed_blob", "(digest BLOB PRIMARY KEY) WITHOUT ROWID")
    tables.create("leaving", "(id INTEGER PRIMARY KEY)")


def mark(tables: Tables, condition: str, parameters: Sequence[Any]) -> None:
    """Mark what the versions that meet `condition` need.

    This is the only walk of references: files to blobs, blobs to chunks, deltas to their bases. Raises apsw.Error.
    """
    connection = tables.connection
    connection.execute(
        tables.of(
            "INSERT OR IGNORE INTO temp.needed_blob SELECT DISTINCT digest FROM file"
            f" WHERE version_id IN (SELECT id FROM version WHERE {condition})"
        ),
        parameters,
    )
    # A blob without a recipe is one chunk of the same digest.
    connection.execute(
        tables.of(
            "INSERT OR IGNORE INTO temp.needed SELECT digest FROM temp.needed_blob AS n"
            " WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = n.digest)"
        )
    )
    need = tables.of("INSERT OR IGNORE INTO temp.needed VALUES (?)")
    recipes = tables.of("SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)")
    for digest, recipe in connection.execute(recipes):
        chunks = Recipe.unpack(decoding.digest(digest), recipe).digests
        connection.executemany(need, ((chunk,) for chunk in chunks))
    _mark_bases(tables)


def mark_manifests(tables: Tables, manifests: Iterable[Manifest]) -> None:
    """Mark what the versions of these manifests need, known to the catalog or not. Raises apsw.Error."""
    is_any = False
    for manifest in manifests:
        is_any = True
        for file in manifest.files:
            tables.execute("INSERT OR IGNORE INTO temp.needed_blob VALUES (?)", (file.digest,))
            chunks = ((chunk,) for chunk in manifest.recipe_of(file).digests)
            tables.add_all("INSERT OR IGNORE INTO temp.needed VALUES (?)", chunks)
    if is_any:
        _mark_bases(tables)


def _mark_bases(tables: Tables) -> None:
    """Mark what the marked deltas need, directly and indirectly."""
    while tables.execute(
        "INSERT OR IGNORE INTO temp.needed"
        " SELECT base FROM chunk JOIN temp.needed USING (digest) WHERE base IS NOT NULL"
        " UNION ALL SELECT grouping FROM chunk JOIN temp.needed USING (digest) WHERE grouping IS NOT NULL"
    ):
        pass
