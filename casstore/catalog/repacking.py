"""SQL for moving chunks between containers: what is cold, in what order it is packed, and the moves themselves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from casstore.catalog import decoding
from casstore.catalog.connection import Connections, translated_errors
from casstore.catalog.index import LIVE
from casstore.catalog.references import IS_LINKED
from casstore.catalog.versions import NewContainer, insert_container, mark_synced, may_be_delta
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind


class PlannedChunk(NamedTuple):
    """A chunk to be packed. Those of one `column` stand at one place in versions that came from one another.

    `predecessor` is the chunk at that place in the version before. `is_base`: a delta needs it already, so it must
    not become one.
    """

    column: int
    number: int
    digest: Digest
    dtype: str | None
    predecessor: Digest | None
    home: int
    is_base: bool


_MOVE = "UPDATE chunk SET container = :container, offset = :offset, length = :length"


class SparsePack(NamedTuple):
    """A pack, its size, and the number and bytes of its records that are needed."""

    container: Container
    size: int
    needed_chunks: int
    needed_bytes: int


class Repacking:
    """A plan kept in temporary tables, this thread's own; `References.mark` must have been called before."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def _rows(self, sql: str, parameters: Iterable[Any] = ()) -> Iterator[Any]:
        with translated_errors(self._connections.path):
            yield from self._connections.get().execute(sql, tuple(parameters))

    def begin(self) -> tuple[int, int]:
        """Begin a plan: note the cold loose files that hold needed chunks; returns how many, and these bytes."""
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            connection.execute(
                "CREATE TEMP TABLE IF NOT EXISTS plan(number INTEGER PRIMARY KEY, place INTEGER NOT NULL,"
                " digest BLOB NOT NULL UNIQUE, dtype TEXT, predecessor BLOB, home INTEGER NOT NULL);"
                "CREATE INDEX IF NOT EXISTS temp.plan_by_place ON plan(place, number);"
                "CREATE TEMP TABLE IF NOT EXISTS cold(id INTEGER PRIMARY KEY);"
                "CREATE TEMP TABLE IF NOT EXISTS unplanned(digest BLOB PRIMARY KEY, home INTEGER NOT NULL)"
                " WITHOUT ROWID;"
                "DELETE FROM temp.plan; DELETE FROM temp.cold; DELETE FROM temp.unplanned"
            )
            connection.execute(
                f"INSERT INTO temp.cold SELECT id FROM container WHERE state = {LIVE} AND kind = {Kind.LOOSE}"
                f" AND NOT {IS_LINKED}"
            )
            connection.execute(
                "INSERT INTO temp.unplanned SELECT digest, container FROM chunk JOIN temp.cold ON id = container"
                " JOIN temp.needed USING (digest)"
            )
            sql = (
                "SELECT count(DISTINCT home), coalesce(sum(raw_bytes), 0) FROM temp.unplanned JOIN chunk USING (digest)"
            )
            return cast("tuple[int, int]", connection.execute(sql).get)

    def cold_versions(self) -> list[int]:
        """The ids of the versions that a cold loose file belongs to, in the order of their commits."""
        sql = (
            "SELECT DISTINCT version_id FROM temp.cold JOIN container USING (id)"
            f" JOIN file ON file.digest = container.digest AND file.size >= {LINK_FROM_BYTES} ORDER BY version_id"
        )
        return [row[0] for row in self._rows(sql)]

    def add(self, places: Iterable[tuple[Digest, str | None, Digest | None]]) -> None:
        """Plan those of the chunks, given as (digest, dtype, predecessor), that are cold and not planned yet."""
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            insert = (
                "INSERT INTO temp.plan(place, digest, dtype, predecessor, home) SELECT"
                " coalesce((SELECT place FROM temp.plan WHERE digest = ?3),"
                " (SELECT coalesce(max(number), 0) + 1 FROM temp.plan)), digest, ?2, ?3, home"
                " FROM temp.unplanned WHERE digest = ?1"
            )
            for place in places:
                connection.execute(insert, place)
                if connection.changes():
                    connection.execute("DELETE FROM temp.unplanned WHERE digest = ?", (place[0],))

    def unplanned(self) -> bool:
        """Whether cold chunks are needed that no version with a cold file has."""
        return any(self._rows("SELECT 1 FROM temp.unplanned LIMIT 1"))

    def needed_recipes(self) -> Iterator[tuple[Digest, bytes]]:
        """All recipes of files of versions."""
        for digest, recipe in self._rows("SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)"):
            yield decoding.digest(digest), recipe

    def add_rest(self) -> None:
        """Plan what is left, of which nothing is known."""
        with translated_errors(self._connections.path):
            self._connections.get().execute(
                "INSERT INTO temp.plan(place, digest, home) SELECT 0, digest, home FROM temp.unplanned;"
                "DELETE FROM temp.unplanned; UPDATE temp.plan SET place = number WHERE place = 0"
            )

    def planned(self, after: tuple[int, int], limit: int) -> list[PlannedChunk]:
        """The next planned chunks, column by column, of each in the order of the versions."""
        sql = (
            "SELECT place, number, digest, dtype, predecessor, home,"
            " EXISTS (SELECT 1 FROM chunk WHERE base = plan.digest)"
            " OR EXISTS (SELECT 1 FROM chunk WHERE grouping = plan.digest)"
            " FROM temp.plan AS plan WHERE (place, number) > (?, ?) ORDER BY place, number LIMIT ?"
        )
        return [
            PlannedChunk(
                place, number, decoding.digest(digest), dtype, before and decoding.digest(before), home, bool(is_base)
            )
            for place, number, digest, dtype, before, home, is_base in self._rows(sql, (*after, limit))
        ]

    def packs(self) -> list[SparsePack]:
        """Every live pack that holds something needed, by size."""
        sql = (
            "SELECT container.id, file_id, kind, NULL, executable, size, count(*), sum(length)"
            " FROM container JOIN chunk ON container = container.id"
            f" JOIN temp.needed ON needed.digest = chunk.digest WHERE state = {LIVE} AND kind = {Kind.PACK}"
            " GROUP BY container.id ORDER BY size"
        )
        return [SparsePack(decoding.container(*row[:5]), *row[5:]) for row in self._rows(sql)]

    def needed_in(self, container: Container) -> list[Digest]:
        """The needed chunks of a container, in the order they stand there."""
        sql = "SELECT digest FROM chunk JOIN temp.needed USING (digest) WHERE container = ? ORDER BY offset"
        return [decoding.digest(row[0]) for row in self._rows(sql, (container.id,))]

    def move(
        self, new: NewContainer, homes: Mapping[Digest, int], synced_homes: Iterable[Container], *, verbatim: bool
    ) -> None:
        """Make a new pack the home of its chunks, each if it still is where it was read.

        A delta moves only if what it needs stands and nothing needs it (see `may_be_delta`); of a chunk copied
        `verbatim` nothing but the place changes. What does not move stays where it is. `synced_homes` have been
        fsynced for it.
        """
        with self._connections.write() as connection:
            mark_synced(connection, synced_homes)
            container_id = insert_container(connection, new, self._boot_id, time.time_ns())
            for chunk in new.chunks:
                parameters = {**chunk._asdict(), "container": container_id, "left": homes[chunk.digest]}
                if verbatim:
                    connection.execute(f"{_MOVE} WHERE digest = :digest AND container = :left", parameters)
                elif chunk.base is None or may_be_delta(connection, chunk):
                    connection.execute(
                        f"{_MOVE}, encoding = :encoding, base = :base, grouping = :grouping, generation = :generation,"
                        " depth = coalesce((SELECT depth + 1 FROM chunk WHERE digest = :base), 0)"
                        " WHERE digest = :digest AND container = :left",
                        parameters,
                    )

    def rehome(self, new: NewContainer) -> None:
        """Make a new pack the home of its chunks, whatever home they had: none of them is a delta."""
        with self._connections.write() as connection:
            container_id = insert_container(connection, new, self._boot_id, time.time_ns())
            connection.executemany(
                "INSERT INTO chunk(digest, container, offset, length, raw_bytes, encoding) VALUES (?,?,?,?,?,?)"
                " ON CONFLICT(digest) DO UPDATE SET container = excluded.container, offset = excluded.offset,"
                " length = excluded.length, raw_bytes = excluded.raw_bytes, encoding = excluded.encoding,"
                " base = NULL, grouping = NULL, generation = 0, depth = 0",
                ((c.digest, container_id, c.offset, c.length, c.raw_bytes, c.encoding) for c in new.chunks),
            )

    def give_up(self, chunks: Mapping[Digest, Container], containers: Iterable[Container]) -> None:
        """Forget chunks whose bytes are lost, given with the homes they were lost in, so that a save which brings them
        stores them anew (where one has meanwhile, they stay), and those of the containers that are the home of nothing
        any more."""
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM chunk WHERE digest = ? AND container = ?",
                ((digest, home.id) for digest, home in chunks.items()),
            )
            connection.executemany(
                "DELETE FROM container WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM chunk WHERE container = ?1)",
                ((container.id,) for container in containers),
            )
            connection.execute("UPDATE store SET value = value + 1 WHERE key = 'gc_epoch'")
