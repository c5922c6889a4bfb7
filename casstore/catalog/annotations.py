"""SQL over annotations: what was said of versions after their saves."""

from __future__ import annotations

from collections.abc import Iterable

from casstore.annotated import LABEL, Annotation
from casstore.catalog import decoding
from casstore.catalog.commits import ANNOTATIONS, annotation, insert_annotations
from casstore.catalog.connection import Connections
from casstore.catalog.events import note_event
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.versions import VersionRow, Versions


class Annotations:
    """Reads annotations, and adds to them."""

    def __init__(self, connections: Connections, versions: Versions) -> None:
        self._connections = connections
        self._versions = versions

    def of(self, version_id: int, *, after: int = 0) -> list[Annotation]:
        """The annotations of a version after that number, the oldest first."""
        sql = f"{ANNOTATIONS} WHERE version_id = ? AND number > ? ORDER BY number"
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (version_id, after)).fetchall()
        return [each for each in map(annotation, rows) if each is not None]

    def names(self) -> list[str]:
        """The names that have annotated versions."""
        sql = "SELECT DISTINCT name FROM version WHERE id IN (SELECT version_id FROM annotation) AND name <> ''"
        with translated_errors(self._connections.path):
            return [decoding.name(row[0]) for row in self._connections.get().execute(sql).fetchall()]

    def annotated(self, name: str, *, after: int = 0) -> list[VersionRow]:
        """The versions of a name that have annotations after that number."""
        sql = (
            "SELECT id FROM version WHERE name = ?"
            " AND EXISTS (SELECT 1 FROM annotation WHERE version_id = version.id AND number > ?)"
        )
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (name, after)).fetchall()
        ids = [decoding.typed(row[0], int, "the id of a version") for row in rows]
        return [row for row in (self._versions.by_id(each) for each in ids) if row is not None]

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
