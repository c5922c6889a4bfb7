"""SQL that adds up bytes: what versions hold, what that takes, what sharing saves, and what deleting would free."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any, NamedTuple, cast

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.index import DEAD, LIVE
from casstore.catalog.marks import IS_LINKED, UNREFERENCED, begin_marks, mark, mark_manifests
from casstore.catalog.schema import IS_HERE
from casstore.catalog.tables import Tables
from casstore.catalog.versions import VersionRow
from casstore.errors import TagNotFound
from casstore.late_classes import dataclass
from casstore.notebook import Shown
from casstore.storage.coding.encodings import Encoding
from casstore.storage.container import Kind
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Recipe

BLOCK_BYTES = 4096  # usual file systems allocate files in multiples of this


class EncodingUsage(NamedTuple):
    """The chunks of one encoding.

    Attributes
    ----------
    chunks
        How many.
    raw_bytes
        Their bytes as they are read.
    encoded_bytes
        Their bytes as they are stored.
    """

    chunks: int
    raw_bytes: int
    encoded_bytes: int


@dataclass(frozen=True, slots=True)
class Usage(Shown):
    """Bytes of a store, of a model, or of versions.

    Each of these counts the same content in fewer bytes than the one before: `copied_bytes`, `logical_bytes`,
    `distinct_file_bytes`, `unique_bytes`, `encoded_bytes`. The `share_by_...` say what each step saves, as shares of
    `logical_bytes`; together with `share_needed`, what is left, they add up to 1. For a store, `stored_bytes` is the
    sum of `encoded_bytes`, `redundant_bytes`, `dead_bytes`, `trapped_bytes`, `overhead_bytes`,
    `trash_bytes` and `kept_bytes`.
    Manifests, the catalog and small files' copies in directories are not counted anywhere.

    Attributes
    ----------
    versions
        How many versions this is about.
    logical_bytes
        All files of all versions.
    copied_bytes
        Plain copies of every version's directory on a disk with blocks of 4096 bytes, `model.yaml` among the files.
    distinct_file_bytes
        All files, equal ones counted once.
    unique_bytes
        All chunks, equal ones counted once.
    encoded_bytes
        These chunks as they are stored, and the bases that deltas among them need.
    stored_bytes
        For a store, the size of all files under objects/. For a model or version, `encoded_bytes`, whether or not
        other models use these chunks too.
    loose_bytes, packs_bytes
        The parts of `stored_bytes` in loose files, and in packs.
    redundant_bytes
        Bytes in loose files that are also stored elsewhere. For a model or version: such bytes of its own files, not
        included in `stored_bytes`.
    dead_bytes
        Containers that no version needs, which the next gc unlinks.
    trapped_bytes
        Bytes that no version needs, in containers that also hold needed chunks. They come back when gc rewrites packs,
        and packs what loose files hold.
    overhead_bytes
        What packs hold besides chunks, and records in them whose chunks are in another container.
    trash_versions
        How many deleted versions `undelete` can bring back; 0 for a model or versions.
    trash_bytes
        Chunks that these alone need. They become dead or trapped when gc takes them from the trash.
    kept_bytes
        Chunks that are needed only by versions that `sync-tree --prune` has deleted and that may be restored; they
        become dead or trapped `keep_days` later.
    encodings
        The chunks by encoding.
    frees_bytes
        For versions: how much deleting them reduces the store's `stored_bytes`. None otherwise.
    frees_at_rewrite_bytes
        For versions: the part of `frees_bytes` that is in packs which also hold needed chunks, and comes back when gc
        rewrites these; the rest comes back with the next gc. What gc saves besides, by packing what other versions
        need of a loose file, is not included. None otherwise.
    materialized, pinned
        For one version: its state. None otherwise.
    """

    versions: int
    logical_bytes: int
    copied_bytes: int
    distinct_file_bytes: int
    unique_bytes: int
    encoded_bytes: int
    stored_bytes: int
    loose_bytes: int
    packs_bytes: int
    redundant_bytes: int = 0
    dead_bytes: int = 0
    trapped_bytes: int = 0
    overhead_bytes: int = 0
    trash_versions: int = 0
    trash_bytes: int = 0
    kept_bytes: int = 0
    encodings: Mapping[str, EncodingUsage] = field(default_factory=dict)
    frees_bytes: int | None = None
    frees_at_rewrite_bytes: int | None = None
    materialized: bool | None = None
    pinned: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Logical bytes divided by stored bytes; None if nothing is stored."""
        return self.logical_bytes / self.stored_bytes if self.stored_bytes else None

    @property
    def share_by_file(self) -> float:
        """The share of the logical bytes that storing equal files once saves."""
        return self._share(self.logical_bytes - self.distinct_file_bytes)

    @property
    def share_by_chunk(self) -> float:
        """The share of the logical bytes that storing equal chunks of different files once saves."""
        return self._share(self.distinct_file_bytes - self.unique_bytes)

    @property
    def share_by_encoding(self) -> float:
        """The share of the logical bytes that encoding saves; below 0 if the records' headers take more than that."""
        return self._share(self.unique_bytes - self.encoded_bytes)

    @property
    def share_needed(self) -> float:
        """The share of the logical bytes that is left: what the encoded chunks take."""
        return self._share(self.encoded_bytes)

    def _share(self, count: int) -> float:
        return count / self.logical_bytes if self.logical_bytes else 0.0


class UsageReport:
    """Adds up the bytes of the store, of a model, or of versions, each in one read transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def of_store(self, kept: Iterable[Manifest] = ()) -> Usage:
        """Bytes of the whole store. `kept`: the manifests of deleted versions that may be restored."""
        with self._marking() as tables:
            mark(tables, IS_HERE, ())
            usage = _usage(tables, IS_HERE)
            (trashed,) = _row(tables, "SELECT count(*) FROM trash")
            if trashed:
                mark(tables, f"NOT {IS_HERE}", ())
            (with_trash,) = _row(tables, _NEEDED)
            mark_manifests(tables, kept)
            (needed,) = _row(tables, _NEEDED)
            stored, loose, packs, redundant, dead, trapped, overhead = _row(tables, _CONTAINERS)
            return replace(
                usage,
                stored_bytes=stored,
                loose_bytes=loose,
                packs_bytes=packs,
                redundant_bytes=redundant,
                dead_bytes=dead,
                trapped_bytes=trapped,
                overhead_bytes=overhead,
                trash_versions=trashed,
                trash_bytes=with_trash - usage.encoded_bytes,
                kept_bytes=needed - with_trash,
            )

    def of_model(self, name: str) -> Usage:
        """Bytes of all versions of one name."""
        with self._marking() as tables:
            mark(tables, "name = ?", (name,))
            return _usage(tables, "name = ?", name)

    def of_version(self, row: VersionRow, kept: Iterable[Manifest]) -> Usage:
        """Bytes of one version, and what deleting it would free. Raises TagNotFound if it has been deleted.

        `kept`: the manifests of deleted versions that may be restored; what these need is not freed.
        """
        with self._marking() as tables:
            usage = _usage_and_freed(tables, [row], kept)
            materialized, pinned = _row(tables, _STATE, row.id)
            return replace(usage, materialized=bool(materialized), pinned=bool(pinned))

    def of_versions(self, rows: Collection[VersionRow], kept: Iterable[Manifest]) -> Usage:
        """Bytes of some versions together, and what deleting them all would free. Raises TagNotFound.

        `kept`: the manifests of deleted versions that may be restored; what these need is not freed.
        """
        with self._marking() as tables:
            return _usage_and_freed(tables, {row.id: row for row in rows}.values(), kept)

    @contextlib.contextmanager
    def _marking(self) -> Iterator[Tables]:
        """Empty marks, and one read transaction in which to fill and query them, for a `with` block."""
        with self._connections.read(), Tables(self._connections) as tables:
            begin_marks(tables)
            yield tables


def _usage_and_freed(tables: Tables, rows: Collection[VersionRow], kept: Iterable[Manifest]) -> Usage:
    ids = json.dumps([row.id for row in rows])
    mark(tables, _AMONG, (ids,))
    usage = _usage(tables, _AMONG, ids)
    if usage.versions < len(rows):
        raise TagNotFound(f"{', '.join(str(row.tag) for row in rows)}: deleted meanwhile")
    at_once, at_rewrite = _freed(tables, ids, kept)
    return replace(usage, frees_bytes=at_once + at_rewrite, frees_at_rewrite_bytes=at_rewrite)


def _row(tables: Tables, sql: str, *parameters: Any) -> tuple[int, ...]:
    return cast("tuple[int, ...]", tables.connection.execute(tables.of(sql), parameters).fetchone())


def _usage(tables: Tables, condition: str, *parameters: Any) -> Usage:
    """The bytes of the versions that meet `condition` and have been marked."""
    versions, logical = _row(
        tables, f"SELECT count(*), coalesce(sum(size), 0) FROM version WHERE {condition}", *parameters
    )
    files = f"FROM file WHERE version_id IN (SELECT id FROM version WHERE {condition})"
    (blocks,) = _row(
        tables,
        f"SELECT coalesce(sum((size + {BLOCK_BYTES - 1}) / {BLOCK_BYTES}), 0) {files}",
        *parameters,
    )
    (distinct,) = _row(
        tables, f"SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size {files})", *parameters
    )
    loose = 0
    encodings = {}
    for encoding, chunks, raw, encoded, encoded_loose in tables.rows(_ENCODINGS):
        encodings[_ENCODING_NAMES.get(encoding, f"encoding {encoding}")] = EncodingUsage(chunks, raw, encoded)
        loose += encoded_loose
    encoded = sum(usage.encoded_bytes for usage in encodings.values())
    (redundant,) = _row(tables, _REDUNDANT)
    return Usage(
        versions=versions,
        logical_bytes=logical,
        copied_bytes=(blocks + versions) * BLOCK_BYTES,
        distinct_file_bytes=distinct,
        unique_bytes=sum(usage.raw_bytes for usage in encodings.values()) - _raw_bytes_of_mere_bases(tables),
        encoded_bytes=encoded,
        stored_bytes=encoded,
        loose_bytes=loose,
        packs_bytes=encoded - loose,
        redundant_bytes=redundant,
        encodings=encodings,
    )


def _raw_bytes_of_mere_bases(tables: Tables) -> int:
    """Raw bytes of the marked chunks that are in none of the marked blobs: only deltas need them."""
    tables.create("mere_base", "(digest BLOB PRIMARY KEY) WITHOUT ROWID")
    for column in _DELTA_LINKS:
        tables.execute(
            f"INSERT OR IGNORE INTO temp.mere_base SELECT {column} FROM temp.needed CROSS JOIN chunk USING (digest)"
            f" WHERE +{column} IN (SELECT digest FROM temp.needed)"
        )
    if not any(tables.rows("SELECT 1 FROM temp.mere_base LIMIT 1")):
        return 0
    tables.execute("DELETE FROM temp.mere_base WHERE digest IN (SELECT digest FROM temp.needed_blob)")
    for digest, recipe in tables.rows("SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)"):
        tables.add_all(
            "DELETE FROM temp.mere_base WHERE digest = ?",
            ((chunk,) for chunk in Recipe.unpack(decoding.digest(digest), recipe).digests),
        )
    return _row(tables, "SELECT coalesce(sum(raw_bytes), 0) FROM chunk JOIN temp.mere_base USING (digest)")[0]


def _freed(tables: Tables, ids: str, kept: Iterable[Manifest]) -> tuple[int, int]:
    """The bytes that deleting the marked versions frees at the next gc, and those when it rewrites packs."""
    find_freed(tables, ids, kept)
    (loose,) = _row(tables, f"SELECT coalesce(sum(freed), 0) FROM ({FREED_LOOSE})")
    (dead_packs,) = _row(tables, f"SELECT coalesce(sum(size), 0) FROM ({DEAD_PACKS})")
    (in_packs,) = _row(tables, _FREED_IN_PACKS)
    return loose + dead_packs, in_packs


def find_freed(tables: Tables, ids: str, kept: Iterable[Manifest]) -> None:
    """Of the marked versions, find the chunks that they alone need (`own`), and the containers of all that they need
    (`touched`), of which some were linked to by directories.

    Marking what all other versions need would tell, but takes a second in a store of 100,000 chunks. So this asks
    instead which other versions need what stands in the containers that these versions use.
    """
    tables.create("own", "(digest BLOB PRIMARY KEY) WITHOUT ROWID")
    tables.create("touched", "(id INTEGER PRIMARY KEY, was_linked INTEGER NOT NULL)")
    tables.create("asked", "(digest BLOB PRIMARY KEY) WITHOUT ROWID")
    tables.execute(_BEGIN_FREED)
    _until_unchanged(tables, *_ADD_DEPENDENTS)
    tables.execute(_OTHERS_BLOBS, (ids,))
    for digest, recipe in tables.rows("SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)"):
        tables.add_all(
            _NEED_IF_ASKED,
            ((chunk,) for chunk in Recipe.unpack(decoding.digest(digest), recipe).digests),
        )
    for manifest in kept:
        for file in manifest.files:
            tables.add_all(_NEED_IF_ASKED, ((chunk,) for chunk in manifest.recipe_of(file).digests))
    _until_unchanged(tables, *_ADD_BASES)
    tables.execute("DELETE FROM temp.own WHERE digest IN (SELECT digest FROM temp.needed)")
    tables.execute("INSERT INTO temp.leaving SELECT value FROM json_each(?)", (ids,))


def _until_unchanged(tables: Tables, *statements: str) -> None:
    while True:
        before = tables.connection.total_changes()
        for statement in statements:
            tables.execute(statement)
        if tables.connection.total_changes() == before:
            return


_AMONG = f"id IN (SELECT value FROM json_each(?)) AND {IS_HERE}"
# The columns of a chunk that name other chunks without which it cannot be decoded.
_DELTA_LINKS = ("base", "grouping")
_ENCODING_NAMES = {int(encoding): encoding.name.lower() for encoding in Encoding}
# CROSS JOIN and a plus before a column keep SQLite from going through an index of all chunks, once or for each marked
# chunk, which its planner prefers to looking the marked ones up by their digests.
_ENCODINGS = f"""
SELECT encoding, count(*), sum(raw_bytes), sum(length),
       coalesce(sum(length) FILTER (WHERE kind = {Kind.LOOSE}), 0)
FROM temp.needed CROSS JOIN chunk USING (digest) JOIN container ON container.id = chunk.container
GROUP BY encoding ORDER BY encoding
"""
_NEEDED = "SELECT coalesce(sum(length), 0) FROM temp.needed CROSS JOIN chunk USING (digest)"
# A loose file need not be the container of all of its chunks: some may have been stored before it.
_NOT_OWN = "size - (SELECT coalesce(sum(length), 0) FROM chunk WHERE chunk.container = container.id)"
_REDUNDANT = f"""
SELECT coalesce(sum({_NOT_OWN}), 0) FROM temp.needed_blob CROSS JOIN container USING (digest) WHERE state = {LIVE}
"""
# Every container is in one of three states. Nothing of it is needed and no directory links to it: it is dead. Its own
# blob is needed (a loose file): the bytes that are no chunk's container are redundant. Some of its chunks are needed:
# the others are trapped, and so are the bytes of a loose file that are no chunk's container.
_CONTAINERS = f"""
WITH held AS (
  SELECT container AS id, sum(length) AS own, coalesce(sum(length) FILTER (WHERE n.digest IS NOT NULL), 0) AS needed
  FROM chunk LEFT JOIN temp.needed AS n USING (digest) GROUP BY container
), part AS (
  SELECT size, kind = {Kind.LOOSE} AS is_loose,
         coalesce(own, 0) AS own, coalesce(needed, 0) AS needed, b.digest IS NOT NULL AS is_needed_blob,
         state = {DEAD} OR (coalesce(needed, 0) = 0 AND NOT {IS_LINKED}) AS is_dead
  FROM container LEFT JOIN held USING (id) LEFT JOIN temp.needed_blob AS b ON b.digest = container.digest
)
SELECT coalesce(sum(size), 0),
       coalesce(sum(size) FILTER (WHERE is_loose), 0),
       coalesce(sum(size) FILTER (WHERE NOT is_loose), 0),
       coalesce(sum(size - own) FILTER (WHERE NOT is_dead AND is_needed_blob), 0),
       coalesce(sum(size) FILTER (WHERE is_dead), 0),
       coalesce(sum(iif(is_loose, size, own) - needed) FILTER (WHERE NOT is_dead AND NOT is_needed_blob), 0),
       coalesce(sum(size - own) FILTER (WHERE NOT is_dead AND NOT is_loose), 0)
FROM part
"""
# The version's own needs move aside, and what others need takes their place, limited to the chunks asked about: all
# chunks in the containers that the version uses, and the deltas that lead to them.
_BEGIN_FREED = f"""
INSERT INTO temp.own SELECT digest FROM temp.needed;
INSERT INTO temp.touched
SELECT id, kind = {Kind.LOOSE} AND {IS_LINKED} FROM container WHERE id IN (
  SELECT container FROM temp.own CROSS JOIN chunk USING (digest)
  UNION SELECT id FROM temp.needed_blob CROSS JOIN container USING (digest) WHERE state = {LIVE});
INSERT INTO temp.asked
SELECT digest FROM temp.own
UNION SELECT digest FROM temp.touched AS touched CROSS JOIN chunk ON container = touched.id;
DELETE FROM temp.needed; DELETE FROM temp.needed_blob;
"""
_ADD_DEPENDENTS = tuple(
    "INSERT OR IGNORE INTO temp.asked SELECT chunk.digest FROM temp.asked AS asked CROSS JOIN chunk"
    f" ON chunk.{column} = asked.digest"
    for column in _DELTA_LINKS
)
_ADD_BASES = tuple(
    f"INSERT OR IGNORE INTO temp.needed SELECT {column} FROM temp.needed CROSS JOIN chunk USING (digest)"
    f" WHERE +{column} IN (SELECT digest FROM temp.asked)"
    for column in _DELTA_LINKS
)
_NEED_IF_ASKED = "INSERT OR IGNORE INTO temp.needed SELECT digest FROM temp.asked WHERE digest = ?"
_OTHERS_BLOBS = """
INSERT INTO temp.needed_blob SELECT DISTINCT digest FROM file WHERE version_id NOT IN (SELECT value FROM json_each(?));
INSERT INTO temp.needed
SELECT digest FROM temp.asked JOIN temp.needed_blob AS n USING (digest)
WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = n.digest)
"""
# gc leaves a loose file whole while a standing directory links to it. From any other it moves what is needed to a pack.
FREED_LOOSE = f"""
SELECT touched.id AS id, container.digest AS digest, iif(was_linked,
  size - (SELECT coalesce(sum(length), 0) FROM chunk JOIN temp.needed USING (digest) WHERE container = touched.id),
  (SELECT coalesce(sum(length), 0) FROM chunk JOIN temp.own USING (digest) WHERE container = touched.id)) AS freed
FROM temp.touched AS touched CROSS JOIN container USING (id) WHERE kind = {Kind.LOOSE} AND NOT {IS_LINKED}
"""
DEAD_PACKS = f"""
{UNREFERENCED} AND kind = {Kind.PACK} AND container.id IN (SELECT id FROM temp.touched)
"""
_FREED_IN_PACKS = f"""
SELECT coalesce(sum(length), 0)
FROM temp.own CROSS JOIN chunk USING (digest) JOIN container ON container.id = chunk.container
WHERE kind = {Kind.PACK} AND container.id NOT IN (SELECT id FROM ({DEAD_PACKS}))
"""
_STATE = """
SELECT EXISTS (SELECT 1 FROM directory WHERE version_id = version.id AND NOT evicting), pinned
FROM version WHERE id = ?
"""
