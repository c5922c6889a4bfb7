"""SQL for a store whose files differ from its catalog: new containers for chunks, and chunks that are known to be
lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import apsw

from casstore.catalog.connection import Connections
from casstore.catalog.containers import insert_container, may_be_delta
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.digest import DIGEST_BYTES, Digest

_LOST = "lost_chunks"


class Mending:
    """Records new containers and lost chunks. Its methods are called with gc's lock held."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def known_lost(self) -> set[Digest]:
        """The needed chunks that the last repair, or rebuilding of the catalog, has not found anywhere."""
        with translated_errors(self._connections.path):
            row = self._connections.get().execute("SELECT value FROM store WHERE key = ?", (_LOST,)).fetchone()
        joined = b"" if row is None or not isinstance(row[0], bytes) else row[0]
        whole = range(0, len(joined) - DIGEST_BYTES + 1, DIGEST_BYTES)
        return {Digest(joined[start : start + DIGEST_BYTES]) for start in whole}

    def note_lost(self, digests: Collection[Digest]) -> None:
        """Record which needed chunks are lost, so that gc no longer waits for them."""
        if set(digests) == self.known_lost():
            return
        with self._connections.write() as connection:
            connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (_LOST, b"".join(sorted(digests))))

    def take_up(
        self,
        containers: Sequence[NewContainer],
        chunks: Sequence[tuple[str, NewChunk]],
        lost_in: Mapping[Digest, int],
    ) -> set[Digest]:
        """Insert containers, and make them the containers of chunks whose own containers are lost; returns those
        chunks.

        `chunks`: each with the file id of its container; what a delta needs comes before the delta. `lost_in`: the
        former containers of the chunks; a chunk that was in none has no entry. A chunk that a save has stored meanwhile
        stays where it is, and so does a delta that may not be one here: see `may_be_delta`.
        """
        with self._connections.write() as connection:
            ids = {new.file_id: insert_container(connection, new, self._boot_id) for new in containers}
            before: dict[Digest, Any] = {}
            for _, chunk in chunks:  # all of them first, so that none counts as a delta that needs another
                row = connection.execute("SELECT * FROM chunk WHERE digest = ?", (chunk.digest,)).fetchone()
                container = connection.execute(_CONTAINER, (chunk.digest,)).fetchone()
                if container is None or container[0] == lost_in.get(chunk.digest):
                    before[chunk.digest] = row
                    connection.execute("DELETE FROM chunk WHERE digest = ?", (chunk.digest,))
            taken = set()
            for file_id, chunk in chunks:
                if chunk.digest not in before:
                    continue
                if chunk.base is None or may_be_delta(connection, chunk):
                    _insert(connection, ids[file_id], chunk)
                    taken.add(chunk.digest)
                elif before[chunk.digest] is not None:
                    places = ",".join("?" * len(before[chunk.digest]))
                    connection.execute(f"INSERT INTO chunk VALUES ({places})", before[chunk.digest])
            return taken


_CONTAINER = "SELECT container FROM chunk WHERE digest = ?"


def _insert(connection: apsw.Connection, container_id: int, chunk: NewChunk) -> None:
    sql = (
        "INSERT INTO chunk(digest, container, offset, length, raw_bytes, encoding, base, grouping, generation, depth)"
        " VALUES (:digest, :container, :offset, :length, :raw_bytes, :encoding, :base, :grouping, :generation,"
        " coalesce((SELECT depth + 1 FROM chunk WHERE digest = :base), 0))"
    )
    connection.execute(sql, {**chunk._asdict(), "container": container_id})
