"""SQL that writes versions: the one transaction of a save, and the rows of a version made again from its manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from enum import Enum, auto
from typing import Any

import apsw

from casstore.annotated import Annotated, Annotation, as_kept, as_said
from casstore.catalog.connection import Connections
from casstore.catalog.containers import ChunkVanished, drop_lost, insert_with_chunks, mark_synced
from casstore.catalog.events import SAVED, Noted, note_event
from casstore.catalog.index import Fingerprint, insert_fingerprints
from casstore.catalog.parents import insert_parents
from casstore.catalog.trust import note_trusted, note_untrusted
from casstore.catalog.versions import DirectoryRow, NewContainer
from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import TagExists
from casstore.late_classes import dataclass
from casstore.storage.container import Container
from casstore.storage.manifest import Manifest
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.tag import Tag


class Place(Enum):
    """The place of a new version among the versions of its name; the last is the latest. One that is in the trash
    keeps its place until it is brought back."""

    LAST = auto()
    BY_CREATION = auto()
    LAST_IN_TRASH = auto()


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
    synced_containers: Sequence[Container]
    lost_containers: Collection[int]
    lost_chunks: Collection[Digest]
    directory: DirectoryRow | None
    fingerprints: Mapping[Fingerprint, Digest] = field(default_factory=dict)
    place: Place = Place.LAST
    # The version's Python objects, if they are not trusted, or if these bytes are to be trusted from now on.
    untrusted: Digest | None = None
    trusted: Digest | None = None
    event: Noted = SAVED
    annotations: Sequence[Annotation] = ()  # of a version that comes back


class Commits:
    """Writes versions, and containers that no version needs yet."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def commit(self, new: Commit) -> int:
        """The only commit point: the version, its files and its bytes appear together. Returns its row id.

        Raises TagExists, and ChunkVanished if the caller has to store chunks again; then nothing has changed.
        """
        with self._connections.write() as connection:
            return _commit(connection, new, self._boot_id)

    def commit_together(self, versions: Iterable[Commit]) -> None:
        """Commit several versions as one: all of them appear, or none. Raises what `commit` raises."""
        with self._connections.write() as connection:
            for new in versions:
                _commit(connection, new, self._boot_id)

    def store(
        self, containers: Iterable[NewContainer], lost_chunks: Collection[Digest], lost_containers: Collection[int]
    ) -> None:
        """Record containers that no version needs yet. Raises ChunkVanished if a delta in them has lost its base."""
        with self._connections.write() as connection:
            for each in containers:
                insert_with_chunks(connection, each, self._boot_id, lost_chunks)
            drop_lost(connection, lost_containers)

    def restore(self, version_id: int, manifest: Manifest) -> None:
        """Write the rows of a version again from its manifest, and what its annotations make together."""
        with self._connections.write() as connection:
            connection.execute(
                "UPDATE version SET digest = :digest, size = :size, file_count = :file_count, created_at = :created_at,"
                " description = :description, directories = :directories, base_name = :base_name,"
                " base_version = :base_version, base_digest = :base_digest, casstore_version = :casstore_version"
                " WHERE id = :id",
                {**_columns(manifest), "id": version_id},
            )
            for table in ("file", "parent"):
                connection.execute(f"DELETE FROM {table} WHERE version_id = ?", (version_id,))
            _insert_content(connection, version_id, manifest)
            write_said(connection, version_id, manifest.description)
            connection.executemany(
                "INSERT OR REPLACE INTO blob(digest, size, recipe) VALUES (?,?,?)",
                ((digest, recipe.size, recipe.pack()) for digest, recipe in manifest.recipes.items()),
            )

    def note_synced(self, containers: Iterable[Container]) -> None:
        """Record that these containers have been fsynced since they were committed."""
        with self._connections.write() as connection:
            mark_synced(connection, containers)


def _commit(connection: apsw.Connection, new: Commit, boot_id: str) -> int:
    tag = new.manifest.tag
    if connection.execute("SELECT 1 FROM version WHERE name = ? AND version = ?", _parts(tag)).fetchone():
        raise TagExists(f"{tag} is already saved, and saved versions never change; choose another version")
    _take_back(connection, tag, new.manifest.digest)
    mark_synced(connection, new.synced_containers)
    for container_row in new.containers:
        insert_with_chunks(connection, container_row, boot_id, new.lost_chunks)
    drop_lost(connection, new.lost_containers)
    epoch = connection.execute("SELECT value FROM store WHERE key = 'gc_epoch'").get
    if epoch != new.gc_epoch and not _all_stored(connection, new.relied_on, new.durable):
        raise ChunkVanished
    connection.executemany(
        "INSERT OR IGNORE INTO blob(digest, size, recipe) VALUES (?,?,?)",
        ((digest, recipe.size, recipe.pack()) for digest, recipe in new.recipes.items()),
    )
    version_id = insert_version(connection, new.manifest, new.manifest_id, time.time_ns(), new.place)
    if new.annotations:
        insert_annotations(connection, version_id, new.manifest.description, new.annotations)
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
    note_event(connection, new.event.kind, tag, size_bytes=new.manifest.size, **new.event.details)
    return version_id


def _parts(tag: Tag) -> tuple[str, str]:
    return (tag.name, tag.version)


def _take_back(connection: apsw.Connection, tag: Tag, digest: Digest) -> None:
    """Forget that a version is only in a remote, since it is to be here again. Raises TagExists for another one."""
    where = "FROM elsewhere WHERE name = ? AND version = ?"
    left = connection.execute(f"SELECT digest {where}", _parts(tag)).get
    if left is not None and left != digest:
        raise TagExists(left_to_a_remote(tag))
    if left is not None:
        connection.execute(f"DELETE {where}", _parts(tag))


def left_to_a_remote(tag: Tag) -> str:
    """What is said of a tag that another version has, which only a remote has."""
    return (
        f"{tag} is taken: another version of that tag is in a remote alone (files differ), and saved versions never "
        f"change; choose another version, or forget that one here: `casstore delete {tag}`"
    )


def _all_stored(connection: apsw.Connection, digests: Iterable[Digest], durable: bool) -> bool:
    sql = "SELECT 1 FROM chunk JOIN container ON id = container WHERE chunk.digest = ? AND synced >= ?"
    return all(connection.execute(sql, (digest, durable)).fetchone() for digest in digests)


# One in the trash may come back, to the place that it had.
_LAST_ORDERED = """
SELECT max(coalesce((SELECT max(ordered_at) FROM version WHERE name = ?1), 0),
           coalesce((SELECT max(ordered_at) FROM trash WHERE name = ?1), 0))
"""


def insert_version(
    connection: apsw.Connection, manifest: Manifest, manifest_id: str, now_ns: int, place: Place = Place.LAST
) -> int:
    """Insert a version's rows; returns its row id."""
    # The clock may step back, but a later commit must stay later.
    last = connection.execute(_LAST_ORDERED, (manifest.tag.name,)).get
    ordered_at, opened_at = max(now_ns, (last or 0) + 1), None
    if place is Place.BY_CREATION:
        # An old version that has just arrived is in use: gc must not treat its directory as unused.
        ordered_at, opened_at = manifest.created_at_ns, now_ns
    name, version = _parts(manifest.tag)
    if place is Place.LAST_IN_TRASH:
        name, version = "", manifest_id
    connection.execute(
        "INSERT INTO version(name, version, manifest_id, digest, size, file_count, created_at, ordered_at, description,"
        " directories, base_name, base_version, base_digest, casstore_version, opened_at)"
        " VALUES (:name, :version, :manifest_id, :digest, :size, :file_count, :created_at, :ordered_at, :description,"
        " :directories, :base_name, :base_version, :base_digest, :casstore_version, :opened_at)",
        {
            **_columns(manifest), "name": name, "version": version,
            "manifest_id": manifest_id, "ordered_at": ordered_at, "opened_at": opened_at,
        },
    )  # fmt: skip
    version_id = connection.last_insert_rowid()
    _insert_content(connection, version_id, manifest)
    _insert_said(connection, version_id, manifest.description.labels, manifest.description.numbers)
    return version_id


def insert_annotations(
    connection: apsw.Connection, version_id: int, description: Description, annotations: Iterable[Annotation]
) -> None:
    """Insert annotations of a version, and bring up to date what they make together with what was saved."""
    connection.executemany(
        "INSERT INTO annotation(version_id, number, kind, key, value, annotated_at, actor) VALUES (?,?,?,?,?,?,?)",
        (
            (version_id, each.number, each.kind, each.key, as_kept(each.value), each.annotated_at_ns, each.actor)
            for each in annotations
        ),
    )
    write_said(connection, version_id, description)


def write_said(connection: apsw.Connection, version_id: int, description: Description) -> None:
    """Write again what holds now of a version: what was saved, and over it its annotations."""
    rows = connection.execute(f"{ANNOTATIONS} WHERE version_id = ? ORDER BY number", (version_id,)).fetchall()
    annotated = Annotated.of(filter(None, map(annotation, rows)))
    connection.execute("UPDATE version SET annotated = ? WHERE id = ?", (annotated.text, version_id))
    for table in ("label", "metadata"):
        connection.execute(f"DELETE FROM {table} WHERE version_id = ?", (version_id,))
    labels, metadata = annotated.labels_over(description.labels), annotated.metadata_over(description.numbers)
    _insert_said(connection, version_id, labels, metadata)


ANNOTATIONS = "SELECT number, kind, key, value, annotated_at, actor FROM annotation"


def annotation(row: tuple[Any, ...]) -> Annotation | None:
    """The annotation in a row; None for a damaged one."""
    number, kind, key, value, annotated_at_ns, actor = row
    try:
        return Annotation(number, kind, key, as_said(kind, value), annotated_at_ns, actor)
    except ValueError:
        return None


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


def _insert_content(connection: apsw.Connection, version_id: int, manifest: Manifest) -> None:
    """Insert what no annotation changes: files, and what the version came from."""
    connection.executemany(
        "INSERT INTO file(version_id, path, executable, size, digest) VALUES (?,?,?,?,?)",
        ((version_id, as_stored(f.path), f.executable, f.size, f.digest) for f in manifest.files),
    )
    insert_parents(connection, version_id, manifest.came_from)


def _insert_said(
    connection: apsw.Connection, version_id: int, labels: Mapping[str, str], metadata: Mapping[str, Any]
) -> None:
    """Insert the rows by which a version is found."""
    connection.executemany(
        "INSERT INTO label VALUES (?,?,?)", ((version_id, key, value) for key, value in labels.items())
    )
    connection.executemany(
        "INSERT INTO metadata VALUES (?,?,?)",
        ((version_id, path, value) for path, value in _scalars("", metadata)),
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
