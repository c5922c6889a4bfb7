"""SQL that tells what each of several versions frees when all of them are deleted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.marks import begin_marks, mark
from casstore.catalog.tables import Tables
from casstore.catalog.usage import DEAD_PACKS, FREED_LOOSE, find_freed
from casstore.storage.container import Kind
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Recipe


class Freed(NamedTuple):
    """What deleting versions together frees: in all, the part of it that comes back when gc rewrites packs, and by row
    id what each adds to those before it."""

    bytes: int
    at_rewrite_bytes: int
    by_version: dict[int, int]


class FreedReport:
    """Tells what versions free."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def by_each(self, version_ids: Sequence[int], kept: Iterable[Manifest]) -> Freed:
        """What deleting these versions frees. What several of them need counts with the last of those.

        `kept`: the manifests of deleted versions that may be restored; what these need is not freed.
        """
        if not version_ids:
            return Freed(0, 0, {})
        ids = json.dumps([*version_ids])
        with self._connections.read(), Tables(self._connections) as tables:
            begin_marks(tables)
            mark(tables, "id IN (SELECT value FROM json_each(?))", (ids,))
            tables.create("last_blob", "(digest BLOB PRIMARY KEY, place INTEGER NOT NULL) WITHOUT ROWID")
            tables.execute(_LAST_BLOBS, (ids,))
            find_freed(tables, ids, kept)
            _find_last_users(tables)
            return _shared_out(tables, version_ids)


def _find_last_users(tables: Tables) -> None:
    """Of each chunk that is freed, the last of the versions that need it, directly or as the base of a delta."""
    tables.create("last_chunk", "(digest BLOB PRIMARY KEY, place INTEGER NOT NULL) WITHOUT ROWID")
    tables.execute("INSERT INTO temp.last_chunk SELECT digest, place FROM temp.own JOIN temp.last_blob USING (digest)")
    recipes = "SELECT digest, place, recipe FROM temp.last_blob CROSS JOIN blob USING (digest)"
    for digest, place, recipe in tables.rows(recipes):
        chunks = Recipe.unpack(decoding.digest(digest), recipe).digests
        tables.add_all(_LAST_CHUNK, ((chunk, place) for chunk in chunks))
    while sum(tables.execute(statement) for statement in _LAST_OF_BASES):
        pass  # once for each link of the longest chain of deltas


def _shared_out(tables: Tables, version_ids: Sequence[int]) -> Freed:
    """What each container gives back, in parts for its last users."""
    by_place = [0] * len(version_ids)
    whole = {row[0]: (row[1], row[2]) for row in tables.rows(_WHOLE)}
    counted = dict.fromkeys(whole, 0)
    last = dict.fromkeys(whole, 0)
    at_rewrite = 0
    for container, kind, place, length in tables.rows(_OWN_CHUNKS):
        if container in whole:
            counted[container] += length
            last[container] = max(last[container], place)
        elif kind == Kind.PACK:
            at_rewrite += length
        else:
            continue  # a directory of a version that stays links to it
        by_place[place] += length
    for container, (freed, place) in whole.items():
        # What is no chunk's location, such as the head of a pack, goes with the last version that needs any of it.
        by_place[last[container] if place is None else place] += freed - counted[container]
    at_once = sum(freed for freed, _ in whole.values())
    return Freed(at_once + at_rewrite, at_rewrite, dict(zip(version_ids, by_place, strict=True)))


_LAST_BLOBS = """
INSERT INTO temp.last_blob
SELECT file.digest, max(each.key) FROM json_each(?) AS each CROSS JOIN file ON version_id = each.value
GROUP BY file.digest
"""
_LAST_CHUNK = """
INSERT INTO temp.last_chunk SELECT digest, ?2 FROM temp.own WHERE digest = ?1
ON CONFLICT DO UPDATE SET place = excluded.place WHERE excluded.place > place
"""
_LAST_OF_BASES = tuple(
    f"""
INSERT INTO temp.last_chunk
SELECT {column}, max(place) FROM temp.last_chunk CROSS JOIN chunk USING (digest)
WHERE +{column} IN (SELECT digest FROM temp.own) GROUP BY {column}
ON CONFLICT DO UPDATE SET place = excluded.place WHERE excluded.place > place
"""
    for column in ("base", "grouping")
)
# Containers that are freed but for what others need of them: by row id, the bytes, and of a loose file its last user.
_WHOLE = f"""
SELECT id, freed, place FROM ({FREED_LOOSE}) LEFT JOIN temp.last_blob USING (digest)
UNION ALL SELECT id, size, NULL FROM ({DEAD_PACKS})
"""
_OWN_CHUNKS = """
SELECT container.id, kind, place, sum(length) FROM temp.last_chunk CROSS JOIN chunk USING (digest)
JOIN container ON container.id = chunk.container GROUP BY container.id, place
"""
