"""Writing packs: one at a time, a new one begun when the last is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.storage import files
from casstore.storage.container import Kind
from casstore.storage.pack import EncodedChunk, PackEntry, PackWriter
from casstore.storage.sessions import Session

MAX_PACK_BYTES = 1 << 30
ENCODE_THREADS = 2


class PackBuilder:
    """Writes one pack after another. The path of each is handed to `announce` before it exists.

    `finish`, `add` and `copy` return the row of a pack that they completed, as when it has grown to `most_bytes`.
    """

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        durable: bool,
        announce: Callable[[files.StrPath], None],
        most_bytes: int | None = None,
    ) -> None:
        self._most_bytes = MAX_PACK_BYTES if most_bytes is None else most_bytes
        self._workspace = workspace
        self._session = session
        self._durable = durable
        self._announce = announce
        self._writer: PackWriter | None = None
        self._file_id = ""
        self._chunks: list[NewChunk] = []

    def add(self, chunk: EncodedChunk, generation: int = 0) -> NewContainer | None:
        """Append a chunk. Raises OSError."""
        entry = self._current().add(chunk)
        self._chunks.append(_new_chunk(entry, generation))
        return self.finish() if self._current().size >= self._most_bytes else None

    def copy(self, record: bytes, generation: int = 0) -> NewContainer | None:
        """Append a record of another pack as it stands. Raises IntegrityError, OSError."""
        entry = self._current().copy(record)
        self._chunks.append(_new_chunk(entry, generation))
        return self.finish() if self._current().size >= self._most_bytes else None

    def _current(self) -> PackWriter:
        if self._writer is None:
            self._file_id = self._session.new_file_id()
            path = self._workspace.layout.pack(self._file_id)
            self._announce(path)
            self._chunks = []
            self._writer = PackWriter(path)
        return self._writer

    @property
    def unfinished(self) -> tuple[str, Sequence[NewChunk]] | None:
        """The id of the pack that is being written, and what it holds so far, to be read; None where there is none."""
        if self._writer is None:
            return None
        self._writer.flush()
        return self._file_id, self._chunks

    def finish(self) -> NewContainer | None:
        """Complete the pack that is being written, if there is one. Raises OSError."""
        if self._writer is None:
            return None
        size = self._writer.finish(self._workspace.file_mode(executable=False), durable=self._durable)
        self._writer = None
        return NewContainer(self._file_id, Kind.PACK, None, False, size, self._durable, None, self._chunks)

    def abort(self) -> None:
        """Remove the pack that is being written, if there is one."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None


def _new_chunk(entry: PackEntry, generation: int) -> NewChunk:
    return NewChunk(
        entry.digest,
        entry.offset,
        entry.length,
        entry.raw_bytes,
        int(entry.encoding),
        entry.base,
        entry.grouping,
        generation if entry.base is not None else 0,
    )
