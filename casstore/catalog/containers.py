"""SQL that inserts containers and the chunks whose home they become, inside a write transaction."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Collection, Iterable
from typing import Any

import apsw

from casstore.catalog.index import LIVE, TRUSTED, next_container_id
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.digest import Digest
from casstore.storage.container import MAX_DELTA_LINKS, Container


class ChunkVanished(Exception):
    """Between look-up and commit gc removed a chunk that the version relies on. Store it again and retry."""


def insert_with_chunks(connection: apsw.Connection, new: NewContainer, boot_id: str, lost: Collection[Digest]) -> None:
    """Insert a container that was just written, and make it the container of its chunks.

    `lost`: chunks whose present home is lost. Raises ChunkVanished if a delta among the chunks has lost its base.
    """
    # Its bytes were hashed as they were written.
    container_id = insert_container(connection, new, boot_id, time.time_ns())
    # Another save may have stored the chunk meanwhile. That home stays, unless only ours is certainly on disk, or
    # that container, or that of a base it needs, was found to be lost.
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

    shared = {"is_synced": new.synced, "boot": boot_id, "container": container_id}

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


def drop_lost(connection: apsw.Connection, lost_containers: Collection[int]) -> None:
    """Drop the rows of containers whose files are gone or damaged, unless chunks are in them."""
    connection.execute(
        "DELETE FROM container WHERE id IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.container = container.id)",
        (json.dumps(sorted(lost_containers)),),
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
    return bool(connection.execute(sql, (chunk.digest, chunk.base, chunk.grouping, MAX_DELTA_LINKS)).get)
