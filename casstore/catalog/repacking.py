"""SQL for moving chunks between containers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from casstore.catalog.connection import Connections
from casstore.catalog.containers import insert_container, mark_synced, may_be_delta
from casstore.catalog.versions import NewContainer
from casstore.digest import Digest
from casstore.storage.container import Container

_MOVE = "UPDATE chunk SET container = :container, offset = :offset, length = :length"


class Repacking:
    """Makes packs the containers of chunks that stood elsewhere."""

    def __init__(self, connections: Connections, boot_id: str) -> None:
        self._connections = connections
        self._boot_id = boot_id

    def move(
        self,
        new: NewContainer,
        containers: Mapping[Digest, int],
        synced_containers: Iterable[Container],
        *,
        verbatim: bool,
    ) -> None:
        """Make a new pack the container of its chunks, each only if it still is where it was read.

        A delta moves only if the chunks it needs are stored and no chunk needs it (see `may_be_delta`). Of a chunk
        copied `verbatim` only the place changes. Other chunks stay where they are. `synced_containers`: the containers
        that have been fsynced for this move.
        """
        with self._connections.write() as connection:
            mark_synced(connection, synced_containers)
            container_id = insert_container(connection, new, self._boot_id, time.time_ns())
            for chunk in new.chunks:
                parameters = {**chunk._asdict(), "container": container_id, "left": containers[chunk.digest]}
                if verbatim:
                    connection.execute(f"{_MOVE} WHERE digest = :digest AND container = :left", parameters)
                elif chunk.base is None or may_be_delta(connection, chunk):
                    connection.execute(
                        f"{_MOVE}, encoding = :encoding, base = :base, grouping = :grouping, generation = :generation,"
                        " depth = coalesce((SELECT depth + 1 FROM chunk WHERE digest = :base), 0)"
                        " WHERE digest = :digest AND container = :left",
                        parameters,
                    )

    def repoint(self, new: NewContainer) -> None:
        """Make a new pack the container of its chunks, wherever they were. None of them may be a delta."""
        with self._connections.write() as connection:
            container_id = insert_container(connection, new, self._boot_id, time.time_ns())
            connection.executemany(
                "INSERT INTO chunk(digest, container, offset, length, raw_bytes, encoding) VALUES (?,?,?,?,?,?)"
                " ON CONFLICT(digest) DO UPDATE SET container = excluded.container, offset = excluded.offset,"
                " length = excluded.length, raw_bytes = excluded.raw_bytes, encoding = excluded.encoding,"
                " base = NULL, grouping = NULL, generation = 0, depth = 0",
                ((c.digest, container_id, c.offset, c.length, c.raw_bytes, c.encoding) for c in new.chunks),
            )

    def give_up(self, chunks: Mapping[Digest, Container], containers: Iterable[Container]) -> None:
        """Forget chunks whose bytes are lost, given with their former containers, and those of the containers that are
        then the container of nothing. A save that brings such a chunk stores it again; a chunk that has been stored
        again meanwhile stays."""
        with self._connections.write() as connection:
            connection.executemany(
                "DELETE FROM chunk WHERE digest = ? AND container = ?",
                ((digest, container.id) for digest, container in chunks.items()),
            )
            connection.executemany(
                "DELETE FROM container WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM chunk WHERE container = ?1)",
                ((container.id,) for container in containers),
            )
            connection.execute("UPDATE store SET value = value + 1 WHERE key = 'gc_epoch'")
