"""SQL for the order in which cold chunks are packed: by columns. A column is one place in versions of one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from casstore.catalog import decoding
from casstore.catalog.tables import Tables
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES


class PlannedChunk(NamedTuple):
    """A chunk to be packed. Chunks of one `column` stand at one place in versions that came from one another.

    `predecessor` is the chunk at that place in the version before. `is_base`: a delta needs it already, so it must
    not become one.
    """

    column: int
    number: int
    digest: Digest
    dtype: str | None
    predecessor: Digest | None
    container: int
    is_base: bool


Kind = tuple[str | None, bool]
"""The dtype of a chunk to be packed, and whether it has a predecessor."""


class Columns:
    """The marked chunks in some cold loose files, by row id. `cold` selects the ids of all of them, whose versions say
    the order. See `Marks.columns`."""

    NAMES = ("plan", "cold", "unplanned")

    def __init__(self, tables: Tables, cold: str, files: Iterable[int]) -> None:
        self._tables = tables
        tables.create(
            "plan",
            "(number INTEGER PRIMARY KEY, place INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE, dtype TEXT,"
            " predecessor BLOB, home INTEGER NOT NULL, UNIQUE (place, number))",
        )
        tables.create("cold", "(id INTEGER PRIMARY KEY)")
        tables.create("unplanned", "(digest BLOB PRIMARY KEY, home INTEGER NOT NULL) WITHOUT ROWID")
        tables.execute(f"INSERT INTO temp.cold {cold}")
        tables.add_all(
            "INSERT INTO temp.unplanned SELECT digest, container FROM chunk JOIN temp.needed USING (digest)"
            " WHERE container = ?",
            ((each,) for each in files),
        )

    def versions(self) -> list[int]:
        """The ids of the versions that a cold loose file belongs to, in the order of their commits."""
        sql = (
            "SELECT DISTINCT version_id FROM temp.cold JOIN container USING (id)"
            f" JOIN file ON file.digest = container.digest AND file.size >= {LINK_FROM_BYTES} ORDER BY version_id"
        )
        return [row[0] for row in self._tables.rows(sql)]

    def add(self, places: Iterable[tuple[Digest, str | None, Digest | None]]) -> None:
        """Plan the given chunks, as (digest, dtype, predecessor), if they are cold and not planned yet."""
        insert = (
            "INSERT INTO temp.plan(place, digest, dtype, predecessor, home) SELECT"
            " coalesce((SELECT place FROM temp.plan WHERE digest = ?3),"
            " (SELECT coalesce(max(number), 0) + 1 FROM temp.plan)), digest, ?2, ?3, home"
            " FROM temp.unplanned WHERE digest = ?1"
        )
        insert, delete = map(self._tables.of, (insert, "DELETE FROM temp.unplanned WHERE digest = ?"))
        with self._tables.translated_errors():
            connection = self._tables.connection
            for place in places:
                connection.execute(insert, place)
                if connection.changes():
                    connection.execute(delete, (place[0],))

    def unplanned(self) -> bool:
        """Whether some needed cold chunks belong to no version with a cold file."""
        return any(self._tables.rows("SELECT 1 FROM temp.unplanned LIMIT 1"))

    def needed_recipes(self) -> Iterator[tuple[Digest, bytes]]:
        """All recipes of files of versions."""
        sql = "SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)"
        for digest, recipe in self._tables.rows(sql):
            yield decoding.digest(digest), recipe

    def add_rest(self) -> None:
        """Plan the remaining chunks, whose places are unknown."""
        self._tables.execute(
            "INSERT INTO temp.plan(place, digest, home) SELECT 0, digest, home FROM temp.unplanned;"
            "DELETE FROM temp.unplanned; UPDATE temp.plan SET place = number WHERE place = 0"
        )

    def count(self) -> int:
        """How many columns there are."""
        return int(next(self._tables.rows("SELECT count(DISTINCT place) FROM temp.plan"))[0])

    def kinds(self) -> dict[Kind, tuple[int, int]]:
        """How many planned chunks there are of each kind, and their bytes."""
        sql = (
            "SELECT plan.dtype, plan.predecessor IS NOT NULL, count(*), sum(raw_bytes)"
            " FROM temp.plan AS plan CROSS JOIN chunk USING (digest) GROUP BY 1, 2"
        )
        return {(row[0], bool(row[1])): (row[2], row[3]) for row in self._tables.rows(sql)}

    def planned(self, after: tuple[int, int], limit: int) -> list[PlannedChunk]:
        """The next planned chunks, column by column, each column in the order of the versions."""
        sql = (
            "SELECT place, number, digest, dtype, predecessor, home,"
            " EXISTS (SELECT 1 FROM chunk WHERE base = plan.digest)"
            " OR EXISTS (SELECT 1 FROM chunk WHERE grouping = plan.digest)"
            " FROM temp.plan AS plan WHERE (place, number) > (?, ?) ORDER BY place, number LIMIT ?"
        )
        return [
            PlannedChunk(
                place,
                number,
                decoding.digest(digest),
                dtype,
                before and decoding.digest(before),
                container,
                bool(is_base),
            )
            for place, number, digest, dtype, before, container, is_base in self._tables.rows(sql, (*after, limit))
        ]
