"""SQL that follows references: which chunks are needed by what. gc, verify and stats all walk through here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections, translated_errors
from casstore.catalog.index import DEAD, LIVE
from casstore.digest import Digest
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind
from casstore.storage.manifest import FileEntry, Manifest, entry_path, file_entry
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

_CONDEMN_BATCH = 1000  # containers of one transaction: other writers wait some milliseconds at the most


class References:
    """Walks from versions to blobs, chunks and containers."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def last_version_id(self) -> int:
        """The newest version's row id, 0 without any: what gc's snapshot covers."""
        with translated_errors(self._connections.path):
            return int(self._connections.get().execute("SELECT coalesce(max(id), 0) FROM version").get)

    def mark(self, last_id: int, leaving: Iterable[int] = ()) -> None:
        """Begin a marking: note every chunk that the versions up to `last_id` need. The note is this thread's own.

        The directories of the versions in `leaving` do not count from then on, as if they were gone (for a dry run).
        """
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            mark(connection, "id <= ?", (last_id,), fresh=True)
        self.leave(leaving)

    def leave(self, version_ids: Iterable[int]) -> None:
        """See the directories of these versions too, from now on, as if they were gone."""
        with translated_errors(self._connections.path):
            self._connections.get().executemany(
                "INSERT INTO temp.leaving VALUES (?)", ((version_id,) for version_id in version_ids)
            )

    def hold(self, manifests: Iterable[Manifest]) -> None:
        """Note also what versions need that are deleted and may be brought back, by their manifests."""
        with translated_errors(self._connections.path):
            mark_manifests(self._connections.get(), manifests)

    def unreferenced(self) -> list[tuple[Container, int]]:
        """Containers, with their sizes, that no marked chunk and no file of any version needs."""
        return self._containers(UNREFERENCED)

    def unneeded(self, containers: Iterable[Container]) -> list[Container]:
        """Those of the containers that are live, and that no marked chunk and no file of any version needs."""
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            sql = UNREFERENCED + " AND container.id = ?"
            return [each for each in containers if connection.execute(sql, (each.id,)).fetchone()]

    def condemn(self, containers: Sequence[Container], last_id: int, held: Callable[[], Iterable[Manifest]]) -> int:
        """Make unreferenced containers dead, so that their files may be unlinked; returns how many still were.

        Each step is one transaction: mark what has been committed since the snapshot, and what the manifests need that
        have been `held` since the last call of it, delete the chunk rows of
        containers that are still unreferenced, and of the deltas elsewhere that need these, raise gc_epoch.
        """
        condemned = 0
        for start in range(0, len(containers), _CONDEMN_BATCH):
            with self._connections.write() as connection:
                mark(connection, "id > ?", (last_id,), fresh=False)
                mark_manifests(connection, held())
                for container in containers[start : start + _CONDEMN_BATCH]:
                    if not connection.execute(UNREFERENCED + " AND container.id = ?", (container.id,)).fetchone():
                        continue
                    connection.execute(_DELETE_CHUNKS, (container.id,))
                    connection.execute("UPDATE container SET state = ? WHERE id = ?", (DEAD, container.id))
                    condemned += 1
                connection.execute("UPDATE store SET value = value + 1 WHERE key = 'gc_epoch'")
        return condemned

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
        return [
            (decoding.container(row_id, file_id, kind, digest, executable), decoding.typed(size, int, "a size"))
            for row_id, file_id, kind, digest, executable, size in rows
        ]

    def chunks_of(self, container: Container) -> list[tuple[Digest, int]]:
        """The chunks whose home this is, in the order they stand in it, each with the bytes it takes there."""
        with translated_errors(self._connections.path):
            sql = "SELECT digest, length FROM chunk WHERE container = ? ORDER BY offset"
            rows: Iterable[Any] = self._connections.get().execute(sql, (container.id,)).fetchall()
        return [(decoding.digest(digest), decoding.typed(length, int, "a length")) for digest, length in rows]

    def missing_chunks(self) -> list[Digest]:
        """Chunks that some version needs and that have no home. That is damage."""
        self.mark(self.last_version_id())
        return self.homeless()

    def homeless(self) -> list[Digest]:
        """Marked chunks that have no home."""
        sql = (
            "SELECT digest FROM temp.needed"
            " WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.digest = needed.digest) AND digest != ?"
        )
        return self._digests(sql, (Digest.of(b""),))  # an empty blob has no chunk

    def needed_containers(self) -> list[tuple[Container, int]]:
        """Containers, with their sizes, in which a marked chunk is at home."""
        return self._containers(
            "SELECT id, file_id, kind, digest, executable, size FROM container WHERE EXISTS"
            " (SELECT 1 FROM chunk JOIN temp.needed USING (digest) WHERE chunk.container = container.id) ORDER BY id"
        )

    def _digests(self, sql: str, parameters: Sequence[Any] = ()) -> list[Digest]:
        with translated_errors(self._connections.path):
            rows: list[Any] = self._connections.get().execute(sql, parameters).fetchall()
        return [decoding.digest(row[0]) for row in rows]

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

    def needed(self, chunks: Iterable[Digest]) -> set[Digest]:
        """Those of the chunks that are marked as needed."""
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            sql = "SELECT 1 FROM temp.needed WHERE digest = ?"
            return {digest for digest in chunks if connection.execute(sql, (digest,)).fetchone()}

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


# Whether a loose file serves a version whose directory stands, which hardlinks to it. One that a gc which was killed
# has marked as evicting may stand still, and counts until that is settled.
IS_LINKED = (
    "EXISTS (SELECT 1 FROM file JOIN directory ON directory.version_id = file.version_id"
    f" WHERE file.digest = container.digest AND file.size >= {LINK_FROM_BYTES}"
    " AND directory.version_id NOT IN (SELECT id FROM temp.leaving))"
)
# Smaller files have no loose files, and no entry in the index.
_OF_A_VERSION = f"SELECT 1 FROM file WHERE file.digest = {{}} AND file.size >= {LINK_FROM_BYTES}"
# Deltas that need these chunks are unneeded as well. Left behind in a pack that holds something else, they would pass
# for stored when their content is saved again.
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


def mark(connection: apsw.Connection, condition: str, parameters: Sequence[Any], *, fresh: bool) -> None:
    """Add what the versions that meet `condition` need to the temporary tables needed (chunks) and needed_blob.

    This is the one walk of references: files to blobs, blobs to chunks, deltas to their bases. SQLite keeps the
    tables in a file once they outgrow its cache, so memory stays bounded for any number of chunks.
    """
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS needed(digest BLOB PRIMARY KEY) WITHOUT ROWID;"
        "CREATE TEMP TABLE IF NOT EXISTS needed_blob(digest BLOB PRIMARY KEY) WITHOUT ROWID;"
        "CREATE TEMP TABLE IF NOT EXISTS leaving(id INTEGER PRIMARY KEY)"
    )
    if fresh:
        connection.execute("DELETE FROM temp.needed; DELETE FROM temp.needed_blob; DELETE FROM temp.leaving")
    connection.execute(
        "INSERT OR IGNORE INTO temp.needed_blob SELECT DISTINCT digest FROM file"
        f" WHERE version_id IN (SELECT id FROM version WHERE {condition})",
        parameters,
    )
    # A blob without a recipe is one chunk of the same digest.
    connection.execute(
        "INSERT OR IGNORE INTO temp.needed SELECT digest FROM temp.needed_blob AS n"
        " WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = n.digest)"
    )
    for digest, recipe in connection.execute("SELECT digest, recipe FROM blob JOIN temp.needed_blob USING (digest)"):
        connection.executemany(
            "INSERT OR IGNORE INTO temp.needed VALUES (?)",
            ((chunk,) for chunk in Recipe.unpack(decoding.digest(digest), recipe).digests),
        )
    _mark_bases(connection)


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


def mark_manifests(connection: apsw.Connection, manifests: Iterable[Manifest]) -> None:
    """Add what the versions of these manifests need, whether or not the catalog knows them."""
    is_any = False
    for manifest in manifests:
        is_any = True
        for file in manifest.files:
            connection.execute("INSERT OR IGNORE INTO temp.needed_blob VALUES (?)", (file.digest,))
            chunks = ((chunk,) for chunk in manifest.recipe_of(file).digests)
            connection.executemany("INSERT OR IGNORE INTO temp.needed VALUES (?)", chunks)
    if is_any:
        _mark_bases(connection)


def _mark_bases(connection: apsw.Connection) -> None:
    """Add what the marked deltas need, and what that needs."""
    while True:
        connection.execute(
            "INSERT OR IGNORE INTO temp.needed"
            " SELECT base FROM chunk JOIN temp.needed USING (digest) WHERE base IS NOT NULL"
            " UNION ALL SELECT grouping FROM chunk JOIN temp.needed USING (digest) WHERE grouping IS NOT NULL"
        )
        if not connection.changes():
            return
