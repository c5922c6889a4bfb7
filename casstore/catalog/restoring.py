"""SQL that fills a new catalog from the files of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from casstore.annotated import Annotation
from casstore.catalog.boots import NoBoot
from casstore.catalog.commits import Place, insert_annotations, insert_version
from casstore.catalog.connection import Connections
from casstore.catalog.containers import insert_container
from casstore.catalog.trash import note_in_trash
from casstore.catalog.versions import DirectoryRow, NewChunk, NewContainer
from casstore.storage.manifest import Manifest
from casstore.tag import Tag


class Restoring:
    """Fills a catalog that no other process has open yet."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def add_containers(self, containers: Iterable[tuple[NewContainer, Iterable[tuple[NewChunk, int]]]]) -> None:
        """Insert containers, and their chunks with the depths of their chains, in one transaction."""
        with self._connections.write() as connection:
            for new, chunks in containers:
                container_id = insert_container(connection, new, NoBoot.UNKNOWN)
                connection.executemany(
                    "INSERT INTO chunk(digest, container, offset, length, raw_bytes, encoding, base, grouping,"
                    " generation, depth) VALUES (?,?,?,?,?,?,?,?,?,?)",
                    ((c.digest, container_id, *c[1:], depth) for c, depth in chunks),
                )

    def add_version(
        self,
        manifest: Manifest,
        manifest_id: str,
        directory: DirectoryRow | None,
        annotations: Sequence[Annotation] = (),
        *,
        is_deleted: bool = False,
    ) -> None:
        """Insert a version as the newest of its name. `is_deleted`: put it into the trash; its days there begin now."""
        with self._connections.write() as connection:
            place = Place.LAST_IN_TRASH if is_deleted else Place.LAST
            version_id = insert_version(connection, manifest, manifest_id, manifest.created_at_ns, place)
            if annotations:
                insert_annotations(connection, version_id, manifest.description, annotations)
            if is_deleted:
                note_in_trash(connection, version_id, manifest.tag)
            connection.executemany(
                "INSERT OR IGNORE INTO blob(digest, size, recipe) VALUES (?,?,?)",
                ((digest, recipe.size, recipe.pack()) for digest, recipe in manifest.recipes.items()),
            )
            if directory is not None:
                connection.execute(
                    "INSERT INTO directory(version_id, inode, boot_id, entries) VALUES (?,?,?,?)",
                    (version_id, directory.inode, directory.boot_id, directory.entries),
                )

    def add_tombstones(self, manifests: Iterable[tuple[str, Tag]]) -> None:
        """Add tombstones for manifests that a deletion has left, by id: a later version has their tag."""
        with self._connections.write() as connection:
            connection.executemany(
                "INSERT INTO tombstone(manifest_id, name, version) VALUES (?,?,?)",
                ((manifest_id, tag.name, tag.version) for manifest_id, tag in manifests),
            )
