"""SQL over the SHA-256 of contents: by it registries and signatures know what the store knows by its BLAKE3.

It is derived: what is missing, as in a catalog that was made again, is computed when it is next asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors
from casstore.digest import Digest

SHA256_BYTES = 32


class Sha256:
    """What has been computed, by the digest of the content."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def known(self, digests: Collection[Digest]) -> dict[Digest, bytes]:
        """Those of these contents that are known. Raises CatalogDamaged."""
        sql = "SELECT digest, sha256 FROM sha256 WHERE digest IN (SELECT unhex(value) FROM json_each(?))"
        with translated_errors(self._connections.path):
            asked = json.dumps([digest.hex() for digest in digests])
            rows = self._connections.get().execute(sql, (asked,)).fetchall()
        found = {decoding.digest(digest): decoding.typed(sha256, bytes, "a SHA-256") for digest, sha256 in rows}
        for sha256 in found.values():
            if len(sha256) != SHA256_BYTES:
                raise decoding.malformed(f"a SHA-256 is {sha256!r:.60}")
        return found

    def note(self, computed: Mapping[Digest, bytes]) -> None:
        """Keep what has been computed; nothing where the catalog can only be read."""
        if computed and not self._connections.read_only:
            with self._connections.write() as connection:
                connection.executemany("INSERT OR REPLACE INTO sha256(digest, sha256) VALUES (?,?)", computed.items())
