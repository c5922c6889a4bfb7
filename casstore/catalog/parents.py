"""SQL over parents: what versions came from, and what came from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors
from casstore.digest import Digest
from casstore.storage.parents import Parent
from casstore.tag import Tag

_RECIPES_AT_ONCE = 64  # of a thousand tensors each takes some 100 kB


def insert_parents(connection: apsw.Connection, version_id: int, parents: Iterable[Parent]) -> None:
    """Insert, in a write transaction, what a version came from."""
    connection.executemany(
        "INSERT INTO parent(version_id, number, relation, name, version, digest, uri) VALUES (?,?,?,?,?,?,?)",
        (
            (
                version_id, number, each.relation, None if each.tag is None else each.tag.name,
                None if each.tag is None else each.tag.version, each.digest, each.uri,
            )
            for number, each in enumerate(parents)
        ),
    )  # fmt: skip


def parents_of(connections: Connections, version_id: int) -> tuple[Parent, ...]:
    """What a version came from, in order. Raises CatalogDamaged."""
    sql = "SELECT relation, name, version, digest, uri FROM parent WHERE version_id = ? ORDER BY number"
    with translated_errors(connections.path):
        return tuple(map(_parent, connections.get().execute(sql, (version_id,)).fetchall()))


class Parents:
    """Reads what versions came from, and all that likeness goes by: which version has which recipes."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with translated_errors(self._connections.path):
            return self._connections.get().execute(sql, parameters).fetchall()

    def of(self, version_id: int) -> tuple[Parent, ...]:
        """What a version came from, in order."""
        return parents_of(self._connections, version_id)

    def children(self, tag: Tag, digest: Digest, limit: int) -> list[tuple[int, str]]:
        """Row ids of the versions that came from this one, and their relations, in the order of their commits."""
        sql = (
            "SELECT version_id, relation FROM parent JOIN version ON version.id = version_id WHERE parent.name = ?"
            " AND parent.version = ? AND parent.digest = ? AND version.name <> ''"
            " ORDER BY version_id, parent.number LIMIT ?"
        )
        rows = self._rows(sql, (tag.name, tag.version, digest, limit))
        return [(row_id, decoding.typed(relation, str, "a relation")) for row_id, relation in rows]

    def recipes_of(self, version_id: int) -> list[tuple[Digest, bytes | None]]:
        """Each file's blob and its packed recipe; None where it is one chunk, or empty."""
        sql = (
            "SELECT file.digest, recipe FROM file LEFT JOIN blob ON blob.digest = file.digest WHERE version_id = ?"
            " AND file.size > 0"
        )
        return [(decoding.digest(digest), recipe) for digest, recipe in self._rows(sql, (version_id,))]

    def recipes(self, blobs: Collection[Digest] | None = None) -> Iterator[tuple[Digest, bytes]]:
        """The packed recipe of every blob, or of each of these, a few at a time: all of them may take gigabytes."""
        if blobs is not None:
            yield from self._recipes_of(list(blobs))
            return
        last = -1
        sql = "SELECT rowid, digest, recipe FROM blob WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._rows(sql, (last, _RECIPES_AT_ONCE)):
            for last, digest, recipe in rows:  # noqa: B007 - the last one is where it goes on
                yield decoding.digest(digest), recipe

    def _recipes_of(self, blobs: list[Digest]) -> Iterator[tuple[Digest, bytes]]:
        for start in range(0, len(blobs), _RECIPES_AT_ONCE):
            some = tuple(blobs[start : start + _RECIPES_AT_ONCE])
            for digest, recipe in self._rows(f"SELECT digest, recipe FROM blob WHERE digest IN ({_marks(some)})", some):
                yield decoding.digest(digest), recipe

    def recipe_bytes(self) -> int:
        """How many bytes all recipes have."""
        return int(self._rows("SELECT coalesce(sum(length(recipe)), 0) FROM blob")[0][0])

    def descendants(self, version_id: int) -> set[int]:
        """The row ids of a version and of all that came from it, however far, as long as each step is still here."""
        sql = (
            "WITH RECURSIVE line(id) AS (VALUES(?) UNION SELECT parent.version_id FROM line JOIN version USING (id)"
            " JOIN parent ON parent.name = version.name AND parent.version = version.version"
            " AND parent.digest = version.digest) SELECT id FROM line"
        )
        return {row[0] for row in self._rows(sql, (version_id,))}

    def blobs_of_versions(self, name: str | None) -> Iterator[tuple[int, bytes]]:
        """The row id of each version, or of each of a name, with the blob of each of its files, by version."""
        last = -1
        named = "" if name is None else " AND name = :name"
        some = f"SELECT id FROM version WHERE id > :last AND name <> ''{named} ORDER BY id LIMIT 1000"
        # A version at a time is too slow, all at once may be too much.
        sql = (
            f"SELECT file.version_id, file.digest FROM ({some}) AS some JOIN file ON file.version_id = some.id"
            " ORDER BY file.version_id"
        )
        while True:
            with translated_errors(self._connections.path):
                connection = self._connections.get()
                end = connection.execute(f"SELECT max(id) FROM ({some})", {"last": last, "name": name}).get
                rows: list[Any] = connection.execute(sql, {"last": last, "name": name}).fetchall()
            if end is None:
                return
            yield from rows
            last = end


def _marks(values: tuple[Any, ...]) -> str:
    return ",".join("?" * len(values))


def _parent(row: Any) -> Parent:
    relation, name, version, digest, uri = row
    said = decoding.typed(relation, str, "a relation")
    if name is None:
        return Parent(said, uri=decoding.typed(uri, str, "what a version came from"))
    return Parent(said, decoding.tag(name, version), decoding.digest(digest))
