"""SQL that deletes versions, and over the tombstones that they leave until their files are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

from casstore.catalog import decoding
from casstore.catalog.aliases import drop_aliases
from casstore.catalog.connection import Connections
from casstore.catalog.events import DELETED, Noted, note_event
from casstore.catalog.index import Fingerprint, insert_fingerprints
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.trash import put_in_trash
from casstore.catalog.trust import fill_untrusted
from casstore.catalog.upkeep import note_deleted
from casstore.catalog.versions import VersionRow, Versions
from casstore.digest import Digest
from casstore.errors import TagNotFound
from casstore.tag import Tag

Judged = Mapping[Tag, tuple[int, str | None]]
"""Of versions that may go, since none is pinned: their row ids, and what had been said of them after their saves."""


class Deletions:
    """Deletes versions, and keeps their tombstones."""

    def __init__(self, connections: Connections, versions: Versions) -> None:
        self._connections = connections
        self._versions = versions

    def delete(
        self, directory_inodes: Mapping[Tag, int | None], event: Noted = DELETED, *, for_good: bool,
        with_aliases: bool = False, judged: Judged | None = None,
    ) -> list[VersionRow]:  # fmt: skip
        """Remove the rows of versions in one transaction, or put the versions into the trash unless it is `for_good`,
        and leave tombstones for their manifests and directories. `event`: what is noted of each.

        `directory_inodes`: the tags of the versions, each with the inode of its directory. `with_aliases`: their
        aliases go too. Raises TagNotFound, with nothing removed, if one of the versions is gone, or is not as `judged`,
        and otherwise VersionAliased if one has aliases; AliasProtected.
        """
        with self._connections.write() as connection:
            rows = []
            for tag in directory_inodes:
                row = self._versions.find(tag)
                if row is None:
                    raise TagNotFound(f"{tag} is not in this store, or has been deleted meanwhile")
                if judged is not None and not _is_as_judged(connection, row, judged):
                    raise TagNotFound(f"{tag} is no longer what was to be forgotten: it has been changed meanwhile")
                rows.append(row)
            drop_aliases(connection, rows, are_doomed=with_aliases)
            fill_untrusted(connection)  # while the rows of these versions are still there
            for row in rows:
                connection.execute(
                    "INSERT OR REPLACE INTO tombstone(manifest_id, name, version, inode) VALUES (?,?,?,?)",
                    (row.manifest_id, row.name, row.version, directory_inodes[row.tag]),
                )
                if for_good:
                    connection.execute("DELETE FROM version WHERE id = ?", (row.id,))
                else:
                    put_in_trash(connection, row)
                details = {"for_good": for_good, "size_bytes": row.size, **event.details}
                note_event(connection, event.kind, row.tag, **details)
            if for_good:
                note_deleted(connection, sum(row.size for row in rows))
            return rows

    def is_deleted_directory(self, tag: Tag, inode: int) -> bool:
        """Whether the directory with this inode was made for a version of this tag that has been deleted since."""
        # The directory of the tag's present version may have got the inode number of the deleted version's directory.
        sql = (
            "SELECT 1 FROM tombstone AS t WHERE name = ?1 AND version = ?2 AND inode = ?3 AND NOT EXISTS (SELECT 1"
            " FROM directory JOIN version ON id = version_id WHERE name = ?1 AND version = ?2 AND inode = ?3)"
        )
        with translated_errors(self._connections.path):
            found = self._connections.get().execute(sql, (tag.name, tag.version, inode))
            return found.fetchone() is not None

    def tombstones(self) -> list[tuple[str, Tag]]:
        """The manifest ids and tags of deleted versions whose files may not all be removed."""
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute("SELECT manifest_id, name, version FROM tombstone").fetchall()
        return [(decoding.typed(row[0], str, "an id"), decoding.tag(row[1], row[2])) for row in rows]

    def forget_tombstones(self, manifest_ids: Iterable[str], noted: Mapping[Fingerprint, Digest]) -> None:
        """Drop tombstones whose manifests are certainly gone, and record the content of files."""
        with self._connections.write() as connection:
            insert_fingerprints(connection, noted)
            connection.executemany("DELETE FROM tombstone WHERE manifest_id = ?", ((each,) for each in manifest_ids))


def _is_as_judged(connection: apsw.Connection, row: VersionRow, judged: Judged) -> bool:
    is_pinned = bool(connection.execute("SELECT pinned FROM version WHERE id = ?", (row.id,)).get)
    return judged[row.tag] == (row.id, row.annotated) and not is_pinned
