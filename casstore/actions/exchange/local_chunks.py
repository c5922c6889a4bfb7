"""What this store has of a version that is in a remote: see `remote.reading.Local`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from casstore.actions.workspace import Workspace
from casstore.digest import Digest


@dataclass(frozen=True, slots=True)
class LocalChunks:
    """The chunks of a store."""

    workspace: Workspace

    def sizes(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """See Local."""
        return {digest: each.raw_bytes for digest, each in self.workspace.catalog.index.locate(digests).items()}

    def read(self, digest: Digest) -> bytes:
        """See Local."""
        return self.workspace.objects.serve_chunk(digest)
