"""SQL over annotations: what was said of versions after their saves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from casstore.annotated import LABEL, Annotation
from casstore.catalog import decoding
from casstore.catalog.commits import ANNOTATIONS, annotation, insert_annotations
from casstore.catalog.connection import Connections
from casstore.catalog.events import note_event
from casstore.catalog.schema import IS_HERE
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.versions import VersionRow, Versions


class Said(NamedTuple):
    """An annotation, with what tells which version it is about."""

    annotation: Annotation
    version: str
    created_at_ns: int
    digest: bytes


class Annotations:
    """Reads annotations, and adds to them."""

    def __init__(self, connections: Connections, versions: Versions) -> None:
        self._connections = connections
        self._versions = versions

    def of(self, version_id: int) -> list[Annotation]:
        """The annotations of a version, the oldest first."""
        sql = f"{ANNOTATIONS} WHERE version_id = ? ORDER BY number"
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (version_id,)).fetchall()
        return [each for each in map(annotation, rows) if each is not None]

    def names(self) -> list[str]:
        """The names that have annotated versions, here or in the trash."""
        sql = (
            f"SELECT name FROM version WHERE id IN (SELECT version_id FROM annotation) AND {IS_HERE}"
            " UNION SELECT name FROM trash WHERE EXISTS (SELECT 1 FROM annotation WHERE version_id = trash.version_id)"
        )
        with translated_errors(self._connections.path):
            return [decoding.name(row[0]) for row in self._connections.get().execute(sql).fetchall()]

    def of_name(self, name: str, *, after: int = 0) -> list[Said]:
        """The annotations of all versions of a name after that number, the oldest first; also of those in the trash."""
        sql = (
            "SELECT number, kind, key, value, annotated_at, actor, version, created_at, digest FROM ("
            "SELECT id, version, created_at, digest FROM version WHERE name = ?2 UNION ALL"
            " SELECT version.id, trash.version, created_at, digest FROM trash JOIN version ON version.id = version_id"
            " WHERE trash.name = ?2) AS v JOIN annotation ON version_id = v.id AND number > ?1 ORDER BY number"
        )
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (after, name)).fetchall()
        return [Said(each, *_version(row)) for row in rows if (each := annotation(row[:6])) is not None]

    def add(self, row: VersionRow, new: Iterable[Annotation]) -> VersionRow | None:
        """Add annotations, whose numbers are larger than those of the name; returns the row as it is now.

        None, with nothing added, if the version is gone.
        """
        added = list(new)
        with self._connections.write() as connection:
            if self._versions.by_id(row.id) is None:
                return None
            insert_annotations(connection, row.id, row.described(), added)
            note_event(connection, "annotated", row.tag, **_as_details(added))
            return self._versions.by_id(row.id)


def _version(row: tuple[object, ...]) -> tuple[str, int, bytes]:
    *_, version, created_at_ns, digest = row
    return (
        decoding.typed(version, str, "a version"),
        decoding.typed(created_at_ns, int, "the time of a version"),
        decoding.typed(digest, bytes, "the digest of a version"),
    )


def _as_details(added: Iterable[Annotation]) -> dict[str, object]:
    labels, metrics, removed = {}, {}, []
    for each in added:
        if each.value is None:
            removed.append(f"{each.kind}s.{each.key}")
        elif each.kind == LABEL:
            labels[each.key] = each.value
        else:
            metrics[each.key] = each.value if each.value == each.value else str(each.value)
    found = {"labels": labels, "metrics": metrics, "removed": removed}
    return {name: said for name, said in found.items() if said}
