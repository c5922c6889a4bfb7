"""The packs that one save writes."""

from __future__ import annotations

import os

from casstore.actions.staging import StagedFile
from casstore.actions.workspace import Workspace
from casstore.catalog.sessions import Session
from casstore.catalog.versions import NewContainer
from casstore.digest import Digest
from casstore.storage import files
from casstore.storage.pack import PackWriter
from casstore.storage.tensors import element_bytes

MAX_PACK_BYTES = 1 << 30


class Packing:
    """The packs of one save: a new one is begun when the last is full.

    Each new pack's path is appended to `paths` before it exists, and its row to `containers` once it is finished.
    """

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        durable: bool,
        paths: list[files.StrPath],
        containers: list[NewContainer],
    ) -> None:
        self._workspace = workspace
        self._session = session
        self._durable = durable
        self._paths = paths
        self._containers = containers
        self._writer: PackWriter | None = None
        self._file_id = ""

    def add(self, file: StagedFile, path: str, wanted: set[Digest]) -> None:
        """Encode the wanted chunks of the staged file, which stands at `path`, each once."""
        recipe = file.recipe
        if file.content is not None and not recipe.is_stored:
            self._current().add(recipe.blob, file.content)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = 0
            for segment in recipe.segments:
                width = element_bytes(segment.dtype)
                for digest, length in segment.chunks:
                    if digest in wanted:
                        wanted.discard(digest)
                        self._current().add(digest, os.pread(descriptor, length, offset), width)
                    offset += length
        finally:
            os.close(descriptor)

    def _current(self) -> PackWriter:
        if self._writer is not None and self._writer.size >= MAX_PACK_BYTES:
            self.finish()
        if self._writer is None:
            self._file_id = self._session.new_file_id()
            path = self._workspace.layout.pack(self._file_id)
            self._paths.append(path)
            self._writer = PackWriter(path)
        return self._writer

    def finish(self) -> None:
        """Complete the pack that is being written, if there is one. Raises OSError."""
        if self._writer is None:
            return
        size = self._writer.finish(self._workspace.file_mode(executable=False), durable=self._durable)
        chunks = [
            (entry.digest, entry.offset, entry.length, entry.raw_bytes, int(entry.encoding), entry.base)
            for entry in self._writer.entries
        ]
        self._containers.append(NewContainer(self._file_id, None, False, size, self._durable, None, chunks))
        self._writer = None

    def abort(self) -> None:
        """Remove the pack that is being written, if there is one."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
