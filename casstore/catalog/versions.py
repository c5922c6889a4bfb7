"""SQL over versions: finding, listing, committing and deleting them."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

import apsw
import msgpack

from casstore.catalog import decoding
from casstore.catalog.connection import Connections, damaged, translated_errors
from casstore.catalog.index import LIVE, TRUSTED, Fingerprint, insert_fingerprints, next_container_id
from casstore.catalog.trust import fill_untrusted, note_trusted, note_untrusted
from casstore.catalog.upkeep import note_deleted
from casstore.description import Description
from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import IntegrityError, TagExists, TagNotFound
from casstore.storage.container import MAX_LINKS, Container, FileStamp, Kind
from casstore.storage.manifest import (
    Base,
    FileEntry,
    Manifest,
    entry_path,
    file_entry,
    files_section,
)
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.tag import LATEST, WINDOWS_DEVICE, Tag


class VersionRow(NamedTuple):
    """The row of a committed version, without its files. `description` is JSON; times are UTC nanoseconds."""

    id: int
    name: str
    version: str
    manifest_id: str
    digest: bytes
    size: int
    file_count: int
    created_at_ns: int
    description: str
    directories: str
    base_name: str | None
    base_version: str | None
    base_digest: bytes | None
    casstore_version: str
    opened_at_ns: int | None

    @property
    def tag(self) -> Tag:
        return Tag.of_checked(self.name, self.version)

    def described(self) -> Description:
        """The description. Raises IntegrityError if the catalog's record of it is damaged."""
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Description.of(json.loads(self.description))
        raise self.damage()

    def checked_description(self) -> Description:
        """The description, checked enough to make a manifest or a `model.yaml` of it. Raises IntegrityError."""
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Description.parse(self.description)
        raise self.damage()

    def directory_paths(self) -> list[str]:
        """The empty directories. Raises IntegrityError if the catalog's record of them is damaged."""
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            parsed = json.loads(self.directories)
            if isinstance(parsed, list):
                return [entry_path(path) for path in parsed]
        raise self.damage()

    def damage(self) -> IntegrityError:
        """The error for a version whose row has impossible values."""
        return IntegrityError(
            f"the catalog's record of {self.name}:{self.version} is damaged; `casstore repair` writes it again"
        )


class NewChunk(NamedTuple):
    """A chunk's home to be committed, as in `container.Location`. A delta's generation counts the changes before it."""

    digest: Digest
    offset: int
    length: int
    raw_bytes: int
    encoding: int = 0
    base: Digest | None = None
    grouping: Digest | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class NewContainer:
    """A container to be committed: its row, and the chunks whose home it becomes."""

    file_id: str
    kind: Kind
    digest: Digest | None
    executable: bool
    size: int
    synced: bool
    stamp: FileStamp | None
    chunks: Sequence[NewChunk]


@dataclass(frozen=True, slots=True)
class DirectoryRow:
    """The record of a version's directory under models/, and of each file's (path, inode, size, mtime_ns).

    `evicting`: gc is about to remove the directory, or a process is about to put it there; it does not count as
    standing. If that was interrupted, gc or the next process that makes the directory settles it. `synced`: its name
    is on disk.
    """

    inode: int
    boot_id: str
    entries: bytes
    evicting: bool = False
    synced: bool = False


class Place(Enum):
    """The place of a new version among the versions of its name; the last is the latest."""

    LAST = auto()
    BY_CREATION = auto()


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything that one save makes visible at once."""

    manifest: Manifest
    manifest_id: str
    containers: Sequence[NewContainer]
    recipes: Mapping[Digest, Recipe]
    relied_on: Collection[Digest]
    gc_epoch: int
    durable: bool
    synced_homes: Sequence[Container]
    lost_homes: Collection[int]
    lost_chunks: Collection[Digest]
    directory: DirectoryRow | None
    fingerprints: Mapping[Fingerprint, Digest] = field(default_factory=dict)
    place: Place = Place.LAST
    # The version's Python objects, if they are not trusted, or if these bytes are to be trusted from now on.
    untrusted: Digest | None = None
    trusted: Digest | None = None


class ChunkVanished(Exception):
    """Between look-up and commit gc removed a chunk that the version relies on. Store it again and retry."""


_COLUMNS = (
    "SELECT id, name, version, manifest_id, digest, size, file_count, created_at, description, directories,"
    " base_name, base_version, base_digest, casstore_version, opened_at FROM version"
)
# A name, a version and the id of a manifest: all checks that `Tag` makes of the parts of a tag, in one match.
_PART = rf"(?=[^:]{{1,63}}:)(?!{WINDOWS_DEVICE}:)[a-z0-9](?:[-._a-z0-9]*[a-z0-9])?"
_IDENTITY = re.compile(f"{_PART}:(?!{LATEST}:){_PART}:[0-9a-z]{{16}}(?:-[0-9]{{1,20}})?")
_NEWEST_FIRST = " ORDER BY ordered_at DESC, id DESC"


class Versions:
    """The versions of a store: their names, tags, files and rows."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        with translated_errors(self._connections.path):
            return iter(self._connections.get().execute(sql, tuple(parameters)).fetchall())

    def find(self, tag: Tag) -> VersionRow | None:
        """The version of exactly this tag; None if there is none."""
        row = next(self._select(" WHERE name = ? AND version = ?", (tag.name, tag.version)), None)
        return None if row is None else self._confirmed(row)

    def newest(self, name: str) -> VersionRow | None:
        row = next(self._select(" WHERE name = ?" + _NEWEST_FIRST + " LIMIT 1", (name,)), None)
        return None if row is None else self._confirmed(row)

    def last_committed(self) -> VersionRow | None:
        """The version that was committed last."""
        return next(self._select(" ORDER BY id DESC LIMIT 1"), None)

    def _confirmed(self, row: VersionRow) -> VersionRow:
        """The row, if the table agrees with the index through which it was found. Raises CatalogDamaged."""
        again = self.by_id(row.id)
        if again is not None and (again.name, again.version) != (row.name, row.version):
            raise damaged(self._connections.path, f"an index leads from {row.name}:{row.version} to another version")
        return row

    def by_id(self, version_id: int) -> VersionRow | None:
        return next(self._select(" WHERE id = ?", (version_id,)), None)

    def base_of(self, row: VersionRow) -> VersionRow | None:
        """The version that this one came from; if that is gone, the one committed before it under the same name."""
        found = None
        if row.base_name is not None and row.base_version is not None:
            found = self.find(decoding.tag(row.base_name, row.base_version))
        if found is not None and found.id < row.id:
            return found
        return next(self._select(" WHERE name = ? AND id < ? ORDER BY id DESC LIMIT 1", (row.name, row.id)), None)

    def with_prefix(self, name: str, prefix: str) -> list[VersionRow]:
        """The versions of a name whose version part begins with `prefix`, newest first."""
        where = " WHERE name = ? AND version >= ? AND version < ?" + _NEWEST_FIRST
        return list(self._select(where, (name, prefix, prefix + "\x7f")))

    def select(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> Iterator[VersionRow]:
        """Versions by name, newest first. `name` and `labels` limit them to one name, and to those with all labels."""
        conditions, parameters = [], []
        if name is not None:
            conditions.append("name = ?")
            parameters.append(name)
        if labels:
            # The first label by its index; the others in one condition, since SQLite takes at most 1,000 of them.
            conditions.append("id IN (SELECT version_id FROM label WHERE key = ? AND value = ?)")
            parameters += [*next(iter(labels.items()))]
        if labels and len(labels) > 1:
            conditions.append(
                "NOT EXISTS (SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS (SELECT 1 FROM label"
                " WHERE version_id = version.id AND label.key = wanted.key AND label.value = wanted.value))"
            )
            parameters.append(json.dumps(labels))
        where = " WHERE " + " AND ".join(conditions) if conditions else ""
        return self._select(where + " ORDER BY name, ordered_at DESC, id DESC", parameters)

    def names(self) -> list[str]:
        return [decoding.name(row[0]) for row in self._rows("SELECT DISTINCT name FROM version ORDER BY name")]

    def counts(self) -> dict[str, int]:
        """How many versions each name has."""
        rows = self._rows("SELECT name, count(*) FROM version GROUP BY name ORDER BY name")
        return {decoding.name(row[0]): row[1] for row in rows}

    def tags(self) -> list[str]:
        """Every tag as text, for suggestions and shell completion; newest first."""
        return [f"{row[0]}:{row[1]}" for row in self._rows("SELECT name, version FROM version" + _NEWEST_FIRST)]

    def files(self, version_id: int) -> list[FileEntry]:
        """The version's files, sorted by path. Raises IntegrityError for rows that cannot be, such as unsafe paths."""
        sql = "SELECT path, executable, size, digest FROM file WHERE version_id = ? ORDER BY path"
        rows = list(self._rows(sql, (version_id,)))
        try:
            return [file_entry(*row) for row in rows]
        except (TypeError, ValueError) as error:
            row = self.by_id(version_id)
            raise decoding.malformed(str(error)) if row is None else row.damage() from error

    def checked_files(self, row: VersionRow) -> list[FileEntry]:
        """The version's files, compared with its digest; none if it has been deleted. Raises IntegrityError."""
        try:
            files = self.files(row.id)
            is_sound = Digest.of(msgpack.packb(files_section(files, row.directory_paths()))) == row.digest
        except (TypeError, ValueError, IntegrityError):
            is_sound = False
        if is_sound:
            return files
        if self.by_id(row.id) is None:
            return []
        raise row.damage()

    def is_deleted_directory(self, tag: Tag, inode: int) -> bool:
        """Whether the directory with this inode was made for a version of this tag that has been deleted since."""
        # The directory of the tag's present version may have got the inode number of the deleted version's directory.
        sql = (
            "SELECT 1 FROM tombstone AS t WHERE name = ?1 AND version = ?2 AND inode = ?3 AND NOT EXISTS (SELECT 1"
            " FROM directory JOIN version ON id = version_id WHERE name = ?1 AND version = ?2 AND inode = ?3)"
        )
        return any(self._rows(sql, (tag.name, tag.version, inode)))

    def tombstones(self) -> list[tuple[str, Tag]]:
        """The manifest ids and tags of deleted versions whose files may not all be removed."""
        rows = self._rows("SELECT manifest_id, name, version FROM tombstone")
        return [(decoding.typed(row[0], str, "an id"), decoding.tag(row[1], row[2])) for row in rows]

    def commit(self, new: Commit) -> int:
        """The only commit point: the version, its files and its bytes appear together. Returns its row id.

        Raises TagExists, and ChunkVanished if the caller has to store chunks again; then nothing has changed.
        """
        with self._connections.write() as connection:
            tag = new.manifest.tag
            if connection.execute("SELECT 1 FROM version WHERE name = ? AND version = ?", _parts(tag)).fetchone():
                raise TagExists(f"{tag} is already saved, and saved versions never change; choose another version")
            mark_synced(connection, new.synced_homes)
            for container_row in new.containers:
                self._insert_container(connection, container_row, new.lost_chunks)
            _drop_lost(connection, new.lost_homes)
            epoch = connection.execute("SELECT value FROM store WHERE key = 'gc_epoch'").get
            if epoch != new.gc_epoch and not _all_stored(connection, new.relied_on, new.durable):
                raise ChunkVanished
            connection.executemany(
                "INSERT OR IGNORE INTO blob(digest, size, recipe) VALUES (?,?,?)",
                ((digest, recipe.size, recipe.pack()) for digest, recipe in new.recipes.items()),
            )
            version_id = insert_version(connection, new.manifest, new.manifest_id, time.time_ns(), new.place)
            if new.directory is not None:
                row = new.directory
                connection.execute(
                    "INSERT INTO directory(version_id, inode, boot_id, entries) VALUES (?,?,?,?)",
                    (version_id, row.inode, row.boot_id, row.entries),
                )
            insert_fingerprints(connection, new.fingerprints)
            if new.untrusted is not None:
                note_untrusted(connection, new.untrusted)
            if new.trusted is not None:
                note_trusted(connection, new.trusted)
            return version_id

    def _insert_container(self, connection: apsw.Connection, new: NewContainer, lost: Collection[Digest]) -> None:
        # Its bytes were hashed as they were written.
        container_id = insert_container(connection, new, self._boot_id, time.time_ns())
        # Another save may have stored the chunk meanwhile. That home stays, unless only ours is certainly on disk, or
        # that home, or the home of a base it needs, was found to be lost.
        is_replaced = (
            "EXISTS (SELECT 1 FROM container WHERE id = chunk.container AND NOT synced"
            f" AND (:is_synced OR NOT {TRUSTED})) OR :is_lost"
        )
        insert = (
            "INSERT INTO chunk"
            "(digest, container, offset, length, raw_bytes, encoding, base, grouping, generation, depth)"
            " VALUES (:digest, :container, :offset, :length, :raw_bytes, :encoding, :base, :grouping, :generation,"
            " coalesce((SELECT depth + 1 FROM chunk WHERE digest = :base), 0))"
            " ON CONFLICT(digest) DO UPDATE SET container = excluded.container, offset = excluded.offset,"
            " length = excluded.length, encoding = excluded.encoding, base = excluded.base,"
            " grouping = excluded.grouping, generation = excluded.generation, depth = excluded.depth"
            f" WHERE {is_replaced}"
        )

        shared = {"is_synced": new.synced, "boot": self._boot_id, "container": container_id}

        def parameters(chunk: NewChunk) -> dict[str, Any]:
            return {**chunk._asdict(), **shared, "is_lost": chunk.digest in lost}

        for is_delta, chunks in itertools.groupby(new.chunks, lambda chunk: chunk.base is not None):
            if not is_delta:
                connection.executemany(insert, map(parameters, chunks))
                continue
            for chunk in chunks:  # one by one: a delta's base may come before it in the same container
                if not may_be_delta(connection, chunk):
                    raise ChunkVanished
                connection.execute(insert, parameters(chunk))

    def store(
        self, containers: Iterable[NewContainer], lost_chunks: Collection[Digest], lost_homes: Collection[int]
    ) -> None:
        """Record containers that no version needs yet. Raises ChunkVanished if a delta in them has lost its base."""
        with self._connections.write() as connection:
            for each in containers:
                self._insert_container(connection, each, lost_chunks)
            _drop_lost(connection, lost_homes)

    def restore(self, version_id: int, manifest: Manifest) -> None:
        """Write the rows of a version again from its manifest."""
        with self._connections.write() as connection:
            connection.execute(
                "UPDATE version SET digest = :digest, size = :size, file_count = :file_count, created_at = :created_at,"
                " description = :description, directories = :directories, base_name = :base_name,"
                " base_version = :base_version, base_digest = :base_digest, casstore_version = :casstore_version"
                " WHERE id = :id",
                {**_columns(manifest), "id": version_id},
            )
            for table in ("file", "label", "metadata"):
                connection.execute(f"DELETE FROM {table} WHERE version_id = ?", (version_id,))
            _insert_parts(connection, version_id, manifest)
            connection.executemany(
                "INSERT OR REPLACE INTO blob(digest, size, recipe) VALUES (?,?,?)",
                ((digest, recipe.size, recipe.pack()) for digest, recipe in manifest.recipes.items()),
            )

    def delete(self, directory_inodes: Mapping[Tag, int | None]) -> list[VersionRow]:
        """Remove the rows of versions in one transaction, and leave tombstones for their manifests and directories.

        `directory_inodes`: the tags of the versions, each with the inode of its directory. Raises TagNotFound, with
        nothing removed, if one of the versions is gone.
        """
        with self._connections.write() as connection:
            rows = []
            for tag in directory_inodes:
                row = self.find(tag)
                if row is None:
                    raise TagNotFound(f"{tag} is not in this store, or has been deleted meanwhile")
                rows.append(row)
            fill_untrusted(connection)  # while the rows of these versions are still there
            for row in rows:
                connection.execute(
                    "INSERT OR REPLACE INTO tombstone(manifest_id, name, version, inode) VALUES (?,?,?,?)",
                    (row.manifest_id, row.name, row.version, directory_inodes[row.tag]),
                )
                connection.execute("DELETE FROM version WHERE id = ?", (row.id,))
            note_deleted(connection, sum(row.size for row in rows))
            return rows

    def note_synced(self, containers: Iterable[Container]) -> None:
        """Record that these containers have been fsynced since they were committed."""
        with self._connections.write() as connection:
            mark_synced(connection, containers)

    def by_manifest(self, manifest_ids: Iterable[str]) -> dict[str, Tag]:
        """The tags of the versions that have these manifests."""
        sql = "SELECT name, version FROM version WHERE manifest_id = ?"
        return {manifest: decoding.tag(*row) for manifest in manifest_ids for row in self._rows(sql, (manifest,))}

    def forget_tombstones(self, manifest_ids: Iterable[str]) -> None:
        """Drop tombstones whose manifests are certainly gone."""
        with self._connections.write() as connection:
            connection.executemany("DELETE FROM tombstone WHERE manifest_id = ?", ((each,) for each in manifest_ids))

    def manifest(self, row: VersionRow, recipes: Mapping[Digest, Recipe]) -> Manifest:
        """The version's manifest, made from its rows. Raises IntegrityError, CatalogDamaged."""
        base = None
        if row.base_name is not None and row.base_version is not None and row.base_digest is not None:
            base = Base(decoding.tag(row.base_name, row.base_version), decoding.digest(row.base_digest))
        return Manifest(
            tag=row.tag,
            created_at_ns=row.created_at_ns,
            files=tuple(self.files(row.id)),
            directories=tuple(row.directory_paths()),
            recipes=recipes,
            description=row.checked_description(),
            base=base,
            casstore_version=row.casstore_version,
        )

    def _select(self, clause: str, parameters: Sequence[Any] = ()) -> Iterator[VersionRow]:
        return map(_version_row, self._rows(_COLUMNS + clause, parameters))


def _version_row(row: tuple[Any, ...]) -> VersionRow:
    made = VersionRow._make(row)
    try:
        # Lists of tens of thousands pass here. Joining the texts, and combining the numbers, fails for any other type.
        is_sound = (
            _IDENTITY.fullmatch(made.name + ":" + made.version + ":" + made.manifest_id) is not None
            and len(made.digest) == DIGEST_BYTES
            and made.digest >= b""
            and (made.size | made.file_count) >= 0
            and type(made.created_at_ns | (made.opened_at_ns or 0)) is int
        )
    except TypeError:
        is_sound = False
    if not is_sound:
        raise decoding.malformed(f"its record of {made.name!r:.40}:{made.version!r:.40} has impossible values")
    return made


def _drop_lost(connection: apsw.Connection, lost_homes: Collection[int]) -> None:
    """Drop the rows of containers whose files are gone or damaged, unless they are the home of a chunk."""
    connection.execute(
        "DELETE FROM container WHERE id IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.container = container.id)",
        (json.dumps(sorted(lost_homes)),),
    )


def insert_container(
    connection: apsw.Connection, new: NewContainer, boot_id: str, read_at_ns: int | None = None
) -> int:
    """Insert the row of a container, without the rows of its chunks; returns its id."""
    stamp = new.stamp
    container_id = next_container_id(connection)
    connection.execute(
        "INSERT INTO container(id, file_id, kind, digest, executable, size, state, synced, boot_id, inode, mtime_ns,"
        " read_at) VALUES (:id, :file_id, :kind, :digest, :executable, :size, :state, :synced, :boot, :inode,"
        " :mtime_ns, :read_at)",
        {
            "id": container_id, "file_id": new.file_id, "kind": new.kind, "digest": new.digest,
            "executable": new.executable, "size": new.size, "state": LIVE, "synced": new.synced,
            "boot": None if new.synced else boot_id, "inode": None if stamp is None else stamp.inode,
            "mtime_ns": None if stamp is None else stamp.mtime_ns, "read_at": read_at_ns,
        },
    )  # fmt: skip
    return container_id


def mark_synced(connection: apsw.Connection, containers: Iterable[Container]) -> None:
    """Record that these containers have been fsynced."""
    connection.executemany(
        "UPDATE container SET synced = 1, boot_id = NULL WHERE id = ?", ((container.id,) for container in containers)
    )


def may_be_delta(connection: apsw.Connection, chunk: NewChunk) -> bool:
    """Whether the chunks that a delta needs are stored, the chain is short enough, and no other delta needs the chunk.

    The last keeps chains free of circles, and keeps chains that end in this chunk from becoming longer.
    """
    sql = (
        "SELECT (SELECT depth < ?4 FROM chunk WHERE digest = ?2)"
        " AND EXISTS (SELECT 1 FROM chunk WHERE digest = ?3 AND base IS NULL)"
        " AND NOT EXISTS (SELECT 1 FROM chunk WHERE base = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM chunk WHERE grouping = ?1)"
    )
    return bool(connection.execute(sql, (chunk.digest, chunk.base, chunk.grouping, MAX_LINKS)).get)


def _parts(tag: Tag) -> tuple[str, str]:
    return (tag.name, tag.version)


def _all_stored(connection: apsw.Connection, digests: Iterable[Digest], durable: bool) -> bool:
    sql = "SELECT 1 FROM chunk JOIN container ON id = container WHERE chunk.digest = ? AND synced >= ?"
    return all(connection.execute(sql, (digest, durable)).fetchone() for digest in digests)


def insert_version(
    connection: apsw.Connection, manifest: Manifest, manifest_id: str, now_ns: int, place: Place = Place.LAST
) -> int:
    """Insert a version's rows; returns its row id."""
    # The clock may step back, but a later commit must stay later.
    last = connection.execute("SELECT max(ordered_at) FROM version WHERE name = ?", (manifest.tag.name,)).get
    ordered_at, opened_at = max(now_ns, (last or 0) + 1), None
    if place is Place.BY_CREATION:
        # An old version that has just arrived is in use: gc must not treat its directory as unused.
        ordered_at, opened_at = manifest.created_at_ns, now_ns
    connection.execute(
        "INSERT INTO version(name, version, manifest_id, digest, size, file_count, created_at, ordered_at, description,"
        " directories, base_name, base_version, base_digest, casstore_version, opened_at)"
        " VALUES (:name, :version, :manifest_id, :digest, :size, :file_count, :created_at, :ordered_at, :description,"
        " :directories, :base_name, :base_version, :base_digest, :casstore_version, :opened_at)",
        {
            **_columns(manifest), "name": manifest.tag.name, "version": manifest.tag.version,
            "manifest_id": manifest_id, "ordered_at": ordered_at, "opened_at": opened_at,
        },
    )  # fmt: skip
    version_id = connection.last_insert_rowid()
    _insert_parts(connection, version_id, manifest)
    return version_id


def _columns(manifest: Manifest) -> dict[str, Any]:
    """The columns of a version's row that describe its content."""
    base = manifest.base
    return {
        "digest": manifest.digest,
        "size": manifest.size,
        "file_count": len(manifest.files),
        "created_at": manifest.created_at_ns,
        "description": manifest.description.text,
        "directories": json.dumps([as_stored(path) for path in manifest.directories]),
        "base_name": None if base is None else base.tag.name,
        "base_version": None if base is None else base.tag.version,
        "base_digest": None if base is None else base.digest,
        "casstore_version": manifest.casstore_version,
    }


def _insert_parts(connection: apsw.Connection, version_id: int, manifest: Manifest) -> None:
    """Insert the rows that a version has in other tables."""
    connection.executemany(
        "INSERT INTO file(version_id, path, executable, size, digest) VALUES (?,?,?,?,?)",
        ((version_id, as_stored(f.path), f.executable, f.size, f.digest) for f in manifest.files),
    )
    connection.executemany(
        "INSERT INTO label VALUES (?,?,?)",
        ((version_id, key, value) for key, value in manifest.description.labels.items()),
    )
    connection.executemany(
        "INSERT INTO metadata VALUES (?,?,?)",
        ((version_id, path, value) for path, value in _scalars("", manifest.description.numbers)),
    )


def _scalars(path: str, value: Any) -> Iterator[tuple[str, str | int | float | None]]:
    """Each scalar in nested metadata with its dotted path; the items of a list share the list's path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _scalars(f"{path}.{key}" if path else key, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _scalars(path, item)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield path, str(value)
    else:
        yield path, value
