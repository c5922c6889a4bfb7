"""SQL over chunks, blobs, containers and fingerprints: where bytes are, and which bytes are known."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import apsw

from casstore.catalog import decoding
from casstore.catalog.boots import NoBoot
from casstore.catalog.connection import Connections
from casstore.catalog.decoding import optional_digest
from casstore.catalog.sqlite_errors import damaged, translated_errors
from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.storage.container import Container, FileStamp, Kind, Location
from casstore.storage.recipe import Recipe

LIVE, DEAD = 1, 2
# Whether a container's content is on disk, or was written in this boot and so is still what was written.
TRUSTED = "(synced OR boot_id = :boot)"
_PLACE_TYPES = [int, int, int, int]  # of offset, length, raw_bytes, encoding
_BATCH = 500  # parameters of one statement: few enough to prepare fast, enough to make the call's cost vanish
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class LooseFile:
    """The row of a loose file: its stamp when it was stored, and whether it is known to be on disk."""

    container: Container
    stamp: FileStamp
    synced: bool
    boot_id: str | None
    read_at_ns: int | None  # when it was last read whole, and had its digest


class DeltaLink(NamedTuple):
    """A stored chunk as a possible base. `depth`: links to decode; `generation`: changes since the chain's start."""

    digest: Digest
    base: Digest | None
    grouping: Digest | None
    depth: int
    generation: int


class Fingerprint(NamedTuple):
    """A file, by what stat said when its content was known: when it was hashed or, for a loose file, also when casstore
    had linked it. A program can put a file's modification time back, but not its change time."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def insert_fingerprints(connection: apsw.Connection, fingerprints: Mapping[Fingerprint, Digest]) -> None:
    """Record, in a write transaction, the content of these files."""
    now_ns = time.time_ns()
    connection.executemany(
        "INSERT OR REPLACE INTO fingerprint(device, inode, size, mtime_ns, ctime_ns, digest, recorded_at)"
        " VALUES (:device, :inode, :size, :mtime_ns, :ctime_ns, :digest, :now)",
        ({**fingerprint._asdict(), "digest": digest, "now": now_ns} for fingerprint, digest in fingerprints.items()),
    )


def next_container_id(connection: apsw.Connection) -> int:
    """A row id that no container has had. To be called in a write transaction."""
    sql = "UPDATE store SET value = value + 1 WHERE key = 'last_container' RETURNING value"
    return decoding.typed(connection.execute(sql).get, int, "the last container's row id")


_LOOSE = "SELECT id, file_id, kind, digest, executable, inode, size, mtime_ns, synced, boot_id, read_at FROM container"


class Index:
    """Reads over the object tables. Every method sees what is committed at its call."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def rows(self, sql: str, parameters: Iterable[Any] = ()) -> Iterator[Any]:
        """Run one statement on this thread's connection."""
        with translated_errors(self._connections.path):
            return iter(self._connections.get().execute(sql, tuple(parameters)).fetchall())

    def _batched(self, sql: str, values: Collection[_Value], *before: str) -> Iterator[Any]:
        """The rows of `sql` for all values; its one `{}` takes the list of placeholders. `before`: the values of the
        parameters that stand before these."""
        ordered = list(values)
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            yield from self.rows(sql.format(",".join("?" * len(batch))), (*before, *batch))

    def gc_epoch(self) -> int:
        """A number that rises each time gc condemns a container. If unchanged, no row of a chunk has been removed."""
        row = next(self.rows("SELECT value FROM store WHERE key = 'gc_epoch'"), (None,))
        return decoding.typed(row[0], int, "gc's epoch")

    def locate(self, digests: Collection[Digest]) -> dict[Digest, Location]:
        """The containers of the chunks, if they are stored."""
        sql = (
            "SELECT chunk.digest, offset, length, raw_bytes, encoding, base, grouping,"
            " container.id, file_id, kind, container.digest, executable"
            " FROM chunk JOIN container ON container.id = chunk.container WHERE chunk.digest IN ({})"
        )
        found: dict[Digest, Location] = {}
        containers: dict[int, Container] = {}  # of each one, checked once
        for digest, *place, base, grouping, row_id, file_id, kind, blob, executable in self._batched(sql, digests):
            container = containers.get(row_id)
            if container is None:
                container = containers[row_id] = decoding.container(row_id, file_id, kind, blob, executable)
            found[decoding.digest(digest)] = _location(container, place, base, grouping)
        return found

    def chains(self, digests: Collection[Digest]) -> dict[Digest, DeltaLink]:
        """The chunks that are stored, their bases, the bases' bases and so on: what a delta could be against."""
        sql = "SELECT digest, base, grouping, depth, generation FROM chunk WHERE digest IN ({})"
        found: dict[Digest, DeltaLink] = {}
        wanted = set(digests)
        while wanted:
            links = [
                DeltaLink(decoding.digest(digest), optional_digest(base), optional_digest(grouping), *_numbers(*steps))
                for digest, base, grouping, *steps in self._batched(sql, wanted)
            ]
            found.update((link.digest, link) for link in links)
            wanted = {link.base for link in links if link.base is not None} - found.keys()
        return found

    def with_dependents(self, digests: Collection[Digest]) -> set[Digest]:
        """The chunks among these that some delta needs. They may not become deltas themselves."""
        return {
            decoding.digest(row[0])
            for column in ("base", "grouping")
            for row in self._batched(f"SELECT DISTINCT {column} FROM chunk WHERE {column} IN ({{}})", digests)
        }

    def bases_of(self, digests: Collection[Digest]) -> set[Digest]:
        """All further chunks that are needed to decode these chunks."""
        if not any(self.rows("SELECT 1 FROM chunk WHERE base IS NOT NULL LIMIT 1")):
            return set()
        sql = "SELECT base, grouping FROM chunk WHERE base IS NOT NULL AND digest IN ({})"
        found: set[Digest] = set()
        wanted = set(digests)
        while wanted:
            wanted = {decoding.digest(digest) for row in self._batched(sql, wanted) for digest in row} - found
            found |= wanted
        return found

    def usable_containers(self, digests: Collection[Digest]) -> dict[Digest, int]:
        """The chunks a new version may rely on, with the row ids of their containers: synced, or written in this
        boot."""
        sql = (
            "SELECT chunk.digest, container.id FROM chunk JOIN container ON container.id = chunk.container"
            f" WHERE {TRUSTED} AND chunk.digest IN ({{}})"
        )
        return {decoding.digest(row[0]): row[1] for row in self._batched(sql, digests, self._boot_id)}

    def containers(self, row_ids: Collection[int]) -> list[tuple[Container, int]]:
        """The containers with these row ids, with their sizes."""
        sql = "SELECT id, file_id, kind, digest, executable, size FROM container WHERE id IN ({})"
        return [(decoding.container(*row[:5]), row[5]) for row in self._batched(sql, row_ids)]

    def read_times(self, row_ids: Collection[int]) -> dict[int, int | None]:
        """When each container was last read whole and found sound, in UTC nanoseconds; None if unknown."""
        return dict(self._batched("SELECT id, read_at FROM container WHERE id IN ({})", row_ids))

    def note_read(self, row_ids: Iterable[int], at_ns: int) -> None:
        """Record that these containers were read whole since `at_ns`, and found sound."""
        with self._connections.write() as connection:
            connection.executemany(
                "UPDATE container SET read_at = max(coalesce(read_at, 0), ?) WHERE id = ?",
                ((at_ns, row_id) for row_id in row_ids),
            )

    def note_read_chunks(self, sound: Collection[Digest], at_ns: int) -> None:
        """Record as read the containers all of whose chunks are `sound`: read in their containers since `at_ns`."""
        in_question = {row[0] for row in self._batched("SELECT container FROM chunk WHERE digest IN ({})", sound)}
        whole = []
        for container, size in self.containers(in_question):
            chunks = list(self.rows("SELECT digest, length FROM chunk WHERE container = ?", (container.id,)))
            is_all = container.is_pack or sum(length for _, length in chunks) == size
            if is_all and all(digest in sound for digest, _ in chunks):
                whole.append(container.id)
        if whole:
            self.note_read(whole, at_ns)

    def blobs_naming(self, chunk: Digest) -> list[Digest]:
        """The blobs of more than one chunk whose recipes may name this chunk. This looks through all recipes."""
        return [
            decoding.digest(row[0]) for row in self.rows("SELECT digest FROM blob WHERE instr(recipe, ?)", (chunk,))
        ]

    def forget_redundant(self, container: Container) -> bool:
        """Drop the row of a loose file that is missing or damaged, unless it is a chunk's container."""
        with self._connections.write() as connection:
            connection.execute(
                "DELETE FROM container WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM chunk WHERE container = ?1)",
                (container.id,),
            )
            return bool(connection.changes())

    def unsynced_containers(self, digests: Collection[Digest]) -> list[Container]:
        """The containers among these chunks' containers that have never been fsynced, without the distrusted ones."""
        sql = (
            "SELECT DISTINCT container.id, file_id, kind, container.digest, executable"
            " FROM chunk JOIN container ON container.id = chunk.container"
            " WHERE NOT synced AND boot_id <> :failed AND chunk.digest IN ({})"
        )
        rows = self._batched(sql, digests, NoBoot.FAILED)
        return list({row[0]: decoding.container(*row) for row in rows}.values())

    def distrusted(self, digests: Collection[Digest]) -> set[Digest]:
        """The chunks among these whose container could not be fsynced."""
        sql = (
            "SELECT chunk.digest FROM chunk JOIN container ON container.id = chunk.container"
            " WHERE NOT synced AND boot_id = :failed AND chunk.digest IN ({})"
        )
        return {decoding.digest(row[0]) for row in self._batched(sql, digests, NoBoot.FAILED)}

    def recipes(self, digests: Collection[Digest]) -> dict[Digest, Recipe]:
        """The stored recipes of these blobs (a blob of one chunk has none)."""
        return {digest: Recipe.unpack(digest, packed) for digest, packed in self._packed_recipes(digests)}

    def _packed_recipes(self, digests: Collection[Digest]) -> Iterator[tuple[Digest, bytes]]:
        # The second query reads the table itself: a damaged index may lead to another blob's recipe.
        sql = "SELECT a.digest, b.digest, b.recipe FROM blob AS a JOIN blob AS b ON b.rowid = a.rowid"
        for digest, stands, packed in self._batched(sql + " WHERE a.digest IN ({})", digests):
            if digest != stands:
                raise damaged(self._connections.path, f"an index leads from blob {decoding.digest(digest)} to another")
            yield decoding.digest(digest), packed

    def as_known(self, recipes: Mapping[Digest, Recipe]) -> dict[Digest, Recipe]:
        """These recipes, with the stored recipe in place of that of each blob that is stored already.

        The stored one may cut the blob into other chunks. The catalog keeps one recipe for each blob, which serves all
        versions.
        """
        known = {}
        for digest, packed in self._packed_recipes(recipes.keys()):
            # The two are nearly always equal, and unpacking a long one takes milliseconds.
            is_same = packed == recipes[digest].pack()
            known[digest] = recipes[digest] if is_same else Recipe.unpack(digest, packed)
        # A blob of one chunk, which has the same digest, has no recipe.
        sql = "SELECT digest, raw_bytes FROM chunk WHERE digest IN ({})"
        cut = [digest for digest, recipe in recipes.items() if recipe.is_stored and digest not in known]
        whole = {
            decoding.digest(row[0]): Recipe.of_one_chunk(decoding.digest(row[0]), row[1])
            for row in self._batched(sql, cut)
        }
        return {**recipes, **whole, **known}

    def loose_files(self, digests: Collection[Digest]) -> dict[tuple[Digest, bool], list[LooseFile]]:
        """The loose files of these blobs, by (digest, executable); those that are containers of chunks come first."""
        found: dict[tuple[Digest, bool], list[LooseFile]] = {}
        sql = _LOOSE + f" WHERE digest IN ({{}}) AND state = {LIVE} AND kind = {Kind.LOOSE} ORDER BY synced DESC, id"
        for row in self._batched(sql, digests):
            file = _loose(row)
            found.setdefault((decoding.digest(row[3]), bool(row[4])), []).append(file)
        return found

    def containers_in_use(self) -> list[LooseFile]:
        """Every live container, packs too, that is the container of a chunk, with its stamp if it has one."""
        is_in_use = "EXISTS (SELECT 1 FROM chunk WHERE container = container.id)"
        return [_loose(row) for row in self.rows(f"{_LOOSE} WHERE state = {LIVE} AND {is_in_use}")]

    def fingerprints(self, inodes: Collection[tuple[int, int]]) -> dict[Fingerprint, Digest]:
        """The known content of the files with these (device, inode) pairs."""
        wanted = set(inodes)
        sql = "SELECT device, inode, size, mtime_ns, ctime_ns, digest FROM fingerprint WHERE inode IN ({})"
        # The key begins with the device, so name it for SQLite if there is only one, which is the usual case.
        devices = {device for device, _ in wanted}
        if len(devices) == 1:
            sql += f" AND device = {int(next(iter(devices)))}"
        rows = self._batched(sql, [inode for _, inode in wanted])
        return {Fingerprint(*row[:5]): decoding.digest(row[5]) for row in rows if (row[0], row[1]) in wanted}

    def remember(self, fingerprints: Mapping[Fingerprint, Digest]) -> None:
        """Record the content of files."""
        if fingerprints:
            with self._connections.write() as connection:
                insert_fingerprints(connection, fingerprints)

    def named(self, file_ids: Collection[str]) -> set[str]:
        """Which of these container names have a row."""
        return {row[0] for row in self._batched("SELECT file_id FROM container WHERE file_id IN ({})", file_ids)}

    def is_live(self, container: Container) -> bool:
        """Whether the container has not been condemned by gc."""
        return any(self.rows(f"SELECT 1 FROM container WHERE id = ? AND state = {LIVE}", (container.id,)))

    def restamp_loose(self, container: Container, stamp: FileStamp) -> None:
        """Record that the bytes of a loose file have been checked in this boot."""
        with self._connections.write() as connection:
            connection.execute(
                "UPDATE container SET inode = :inode, mtime_ns = :mtime_ns, read_at = :now,"
                " boot_id = iif(boot_id = :failed, :failed, :boot) WHERE id = :id",
                {
                    "inode": stamp.inode, "mtime_ns": stamp.mtime_ns, "now": time.time_ns(),
                    "failed": NoBoot.FAILED, "boot": self._boot_id, "id": container.id,
                },
            )  # fmt: skip

    def distrust(self, containers: Iterable[Container]) -> None:
        """Record that containers could not be fsynced, so that what relies on them is stored again."""
        with self._connections.write() as connection:
            connection.executemany(
                "UPDATE container SET boot_id = ? WHERE id = ? AND NOT synced",
                ((NoBoot.FAILED, container.id) for container in containers),
            )

    def add_loose(self, rebuilt: Iterable[tuple[str, Digest, bool, FileStamp]]) -> None:
        """Record redundant loose files that have been rebuilt from chunks: (file id, blob, executable, stamp)."""
        with self._connections.write() as connection:
            connection.executemany(
                "INSERT INTO container(id, file_id, kind, digest, executable, size, state, synced, boot_id,"
                " inode, mtime_ns, read_at) VALUES (:id, :file_id, :kind, :digest, :executable, :size, :state, 0,"
                " :boot, :inode, :mtime_ns, :now)",
                (
                    {
                        "id": next_container_id(connection), "file_id": file_id, "kind": Kind.LOOSE, "digest": digest,
                        "executable": executable, "size": stamp.size, "state": LIVE, "boot": self._boot_id,
                        "inode": stamp.inode, "mtime_ns": stamp.mtime_ns, "now": time.time_ns(),
                    }
                    for file_id, digest, executable, stamp in rebuilt
                ),
            )  # fmt: skip


def _numbers(first: Any, second: Any) -> tuple[int, int]:
    return decoding.typed(first, int, "a number"), decoding.typed(second, int, "a number")


def _location(container: Container, place: list[Any], base: Any, grouping: Any) -> Location:
    """Where a chunk is. The reader checks it against the file, since damage may heal from copies."""
    if [*map(type, place)] != _PLACE_TYPES:
        raise decoding.malformed(f"a chunk stands at {place!r:.80}")
    offset, length, raw_bytes, encoding = place
    if base is None and grouping is None:
        return Location(container, offset, length, raw_bytes, encoding)
    return Location(container, offset, length, raw_bytes, encoding, optional_digest(base), optional_digest(grouping))


def _loose(row: tuple[Any, ...]) -> LooseFile:
    row_id, file_id, kind, digest, executable, inode, size, mtime_ns, synced, boot_id, read_at_ns = row
    # A file without a known stamp is read before it is used.
    stamp = FileStamp(inode, decoding.typed(size, int, "a size"), mtime_ns)
    container = decoding.container(row_id, file_id, kind, digest, executable)
    return LooseFile(container, stamp, bool(synced), boot_id, read_at_ns)
