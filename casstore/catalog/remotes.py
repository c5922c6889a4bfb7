"""SQL over what is known of remotes: documents that have been read, and pushes that have not ended.

All of it can be lost: then it is read again, or a push begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from casstore.catalog import decoding
from casstore.catalog.events import Noted, note_event
from casstore.catalog.sqlite_errors import translated_errors
from casstore.digest import Digest
from casstore.storage import pack as packs

if TYPE_CHECKING:
    from casstore.catalog.connection import Connections
    from casstore.tag import Tag

# Documents larger than this are of versions, and the oldest of them go: refs are small, and all are kept.
_LARGE_BYTES = 4096
_MOST_LARGE_BYTES = 64 << 20
_BATCH = 500


class PushedPack(NamedTuple):
    """A pack that a push has written, or was about to: its key, size in bytes, digest, and what is in it."""

    key: str
    size: int
    digest: Digest
    entries: list[packs.PackEntry]


class Elsewhere(NamedTuple):
    """A version whose bytes were given up here, since a remote has them.

    Attributes
    ----------
    tag
        The version's tag.
    remote
        What this store calls the remote that has it.
    digest
        As `Model.digest`.
    size
        Of its files, in bytes.
    created_at_ns
        When it was saved: nanoseconds since 1970, UTC.
    """

    tag: Tag
    remote: str
    digest: Digest
    size: int
    created_at_ns: int


class Remotes:
    """The rows of the tables whose names begin with `remote_`, and of `elsewhere`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def objects(self, remote: str, keys: Collection[str]) -> dict[str, bytes]:
        """Those of these documents that have been read before."""
        found: dict[str, bytes] = {}
        wanted = list(keys)
        with translated_errors(self._connections.path):
            connection = self._connections.get()
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                marks = ",".join("?" * len(batch))
                sql = f"SELECT key, body FROM remote_object WHERE remote = ? AND key IN ({marks})"
                for key, body in connection.execute(sql, (remote, *batch)):
                    found[decoding.typed(key, str, "a key")] = decoding.typed(body, bytes, "a document of a remote")
        return found

    def keep(self, remote: str, objects: Mapping[str, bytes]) -> None:
        """Keep documents that have been read; of the large ones, the last. Does nothing in a read-only store."""
        if not objects or self._connections.read_only:
            return
        now_ns = time.time_ns()
        with self._connections.write() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO remote_object(remote, key, body, read_at) VALUES (?, ?, ?, ?)",
                ((remote, key, body, now_ns) for key, body in objects.items()),
            )
            connection.execute(
                "DELETE FROM remote_object WHERE (remote, key) IN (SELECT remote, key FROM (SELECT remote, key, "
                "sum(length(body)) OVER (ORDER BY read_at DESC, remote, key) AS newer FROM remote_object "
                "WHERE length(body) > ?) WHERE newer > ?)",
                (_LARGE_BYTES, _MOST_LARGE_BYTES),
            )

    def forget_at(self, url: str) -> None:
        """Drop all that is known of remotes that have stood at a URL: that is what their ids end in."""
        with self._connections.write() as connection:
            for table in ("remote_object", "remote_push"):
                connection.execute(f"DELETE FROM {table} WHERE substr(remote, instr(remote, ' ') + 1) = ?", (url,))

    def begun(self, remote: str, content: Digest) -> list[str]:
        """The ids of pushes of that content that were begun, and have not ended."""
        sql = "SELECT id FROM remote_push WHERE remote = ? AND content = ? ORDER BY id"
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (remote, content)).fetchall()
        return [decoding.typed(push_id, str, "a push's id") for (push_id,) in rows]

    def begin(self, remote: str, push_id: str, content: Digest) -> None:
        """Note that a push begins."""
        if self._connections.read_only:
            return  # what is cut short then begins again from nothing
        with self._connections.write() as connection:
            connection.execute("INSERT INTO remote_push VALUES (?, ?, ?)", (push_id, remote, content))

    def end(self, push_id: str, tag: Tag | None = None, event: Noted | None = None) -> None:
        """Note that a push has ended, however that was; `event`: what it has done, to be noted of that tag."""
        if self._connections.read_only:
            return  # what is cut short then begins again from nothing
        with self._connections.write() as connection:
            connection.execute("DELETE FROM remote_push WHERE id = ?", (push_id,))
            if event is not None:
                note_event(connection, event.kind, tag, **event.details)

    def packs(self, push_id: str) -> list[PushedPack]:
        """What a push has written, or was about to."""
        with translated_errors(self._connections.path):
            rows = (
                self._connections.get()
                .execute("SELECT key, size, digest, entries FROM remote_pack WHERE push = ?", (push_id,))
                .fetchall()
            )
        return [
            PushedPack(
                decoding.typed(key, str, "a key"),
                decoding.typed(size, int, "a size"),
                decoding.digest(digest),
                list(_entries(decoding.typed(entries, bytes, "the index of a pack"))),
            )
            for key, size, digest, entries in rows
        ]

    def add_pack(self, push_id: str, pack: PushedPack) -> None:
        """Note a pack before it is written, unless another process of this store has ended the push meanwhile."""
        rows = [[*entry] for entry in pack.entries]
        if self._connections.read_only:
            return  # what is cut short then begins again from nothing
        with self._connections.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO remote_pack SELECT id, ?, ?, ?, ? FROM remote_push WHERE id = ?",
                (pack.key, pack.size, pack.digest, msgpack.packb(rows), push_id),
            )

    def elsewhere(self, name: str | None = None) -> list[Elsewhere]:
        """The versions that only remotes have, by tag, all or those of one name."""
        sql = "SELECT name, version, remote, digest, size, created_at FROM elsewhere"
        where, parameters = ("", ()) if name is None else (" WHERE name = ?", (name,))
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(f"{sql}{where} ORDER BY name, version", parameters).fetchall()
        return [
            Elsewhere(
                decoding.tag(name, version),
                decoding.typed(remote, str, "a remote"),
                decoding.digest(digest),
                decoding.typed(size, int, "a size"),
                decoding.typed(created_at, int, "a time"),
            )
            for name, version, remote, digest, size, created_at in rows
        ]

    def put_elsewhere(self, version: Elsewhere, write: Callable[[Sequence[Elsewhere]], object]) -> None:
        """Note that only a remote will have a version, before it is deleted here. `write` gets all, and comes first."""
        tag, *rest = version
        with self._connections.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO elsewhere VALUES (?, ?, ?, ?, ?, ?)", (tag.name, tag.version, *rest)
            )
            write(self.elsewhere())

    def rename_elsewhere(self, before: str, after: str, write: Callable[[Sequence[Elsewhere]], object]) -> None:
        """Note that the store calls a remote something else now. `write` gets all versions, and comes first."""
        with self._connections.write() as connection:
            connection.execute("UPDATE elsewhere SET remote = ? WHERE remote = ?", (after, before))
            write(self.elsewhere())

    def forget_elsewhere(self, tag: Tag, write: Callable[[Sequence[Elsewhere]], object]) -> None:
        """Note that a version is here again, or gone for good. `write` gets those that are left, and comes first."""
        with self._connections.write() as connection:
            connection.execute("DELETE FROM elsewhere WHERE name = ? AND version = ?", (tag.name, tag.version))
            write(self.elsewhere())


def _entries(packed: bytes) -> Iterable[packs.PackEntry]:
    for digest, offset, length, raw_bytes, encoding, base, grouping in msgpack.unpackb(packed):
        yield packs.PackEntry(
            Digest(digest),
            offset,
            length,
            raw_bytes,
            encoding,
            None if base is None else Digest(base),
            None if grouping is None else Digest(grouping),
        )
