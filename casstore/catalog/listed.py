"""Searches among versions that are in no catalog, such as those of a remote: the same SQL, in a catalog in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import apsw

from casstore.catalog.schema import MIGRATIONS
from casstore.catalog.search import Search, ids_of
from casstore.digest import Digest
from casstore.tag import Tag

FIELDS = ("tag", "name", "version", "size", "created", "digest", "labels")
"""What is known of such a version, and can be asked for."""


class Listed(Protocol):
    """A version of which no more is known than what a list of versions says."""

    @property
    def tag(self) -> Tag: ...
    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...
    @property
    def created_at_ns(self) -> int: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


def found(versions: Sequence[Listed], search: Search) -> list[int]:
    """The numbers, from 0, of those of these versions that are wanted, in the wanted order. They have one tag each, and
    those that come later count as newer."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute("".join(MIGRATIONS))
        with connection:
            connection.executemany(
                "INSERT INTO version(id, name, version, manifest_id, digest, size, file_count, created_at, ordered_at,"
                " description, directories, casstore_version) VALUES (?,?,?,'',?,?,0,?,?,'','','')",
                (
                    (number, each.tag.name, each.tag.version, each.digest, each.size, each.created_at_ns, number)
                    for number, each in enumerate(versions)
                ),
            )
            connection.executemany(
                "INSERT INTO label(version_id, key, value) VALUES (?,?,?)",
                ((number, *label) for number, each in enumerate(versions) for label in each.labels.items()),
            )
        return ids_of(connection, search)
    finally:
        connection.close()
