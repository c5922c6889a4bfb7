"""Writing packs: one at a time, a new one begun when the last is full. A row is given out of what is on disk only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.storage import files
from casstore.storage.container import Kind
from casstore.storage.pack import EncodedChunk, PackEntry, PackWriter
from casstore.storage.sessions import Session

MAX_PACK_BYTES = 1 << 30
ENCODE_THREADS = 2


class PackBuilder:
    """Writes one pack after another, each of up to `most_bytes`. Leaving it as a context manager finishes the pack that
    is being written, and on an error removes it.

    The row of each complete pack is handed to `done`, which has to see to it that a transaction names the pack; if the
    builder is `durable`, the pack and its name are on disk by then. The path of each pack is handed to `announce`
    before the pack exists. What `done` and `announce` raise comes out of `add`, `copy` and `finish`.
    """

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        done: Callable[[NewContainer], None],
        *,
        durable: bool,
        announce: Callable[[files.StrPath], None] = lambda _: None,
        most_bytes: int | None = None,
    ) -> None:
        self._most_bytes = MAX_PACK_BYTES if most_bytes is None else most_bytes
        self._workspace = workspace
        self._session = session
        self._done = done
        self._durable = durable
        self._announce = announce
        self._writer: PackWriter | None = None
        self._file_id = ""
        self._chunks: list[NewChunk] = []

    def __enter__(self) -> PackBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._abort()

    def add(self, chunk: EncodedChunk, generation: int = 0) -> None:
        """Append a chunk. Raises OSError."""
        writer = self._current()
        self._note(writer, writer.add(chunk), generation)

    def copy(self, record: bytes, generation: int = 0) -> None:
        """Append a record of another pack as it stands. Raises IntegrityError, OSError."""
        writer = self._current()
        self._note(writer, writer.copy(record), generation)

    def finish(self) -> None:
        """Complete the pack that is being written, if there is one. Raises OSError."""
        if self._writer is None:
            return
        size = self._writer.finish(self._workspace.file_mode(executable=False), durable=self._durable)
        self._writer = None
        if self._durable:
            files.sync_directory(self._workspace.layout.packs)
        self._done(NewContainer(self._file_id, Kind.PACK, None, False, size, self._durable, None, self._chunks))

    @property
    def unfinished(self) -> tuple[str, Sequence[NewChunk]] | None:
        """The id of the pack that is being written, and what it holds so far, to be read; None where there is none."""
        if self._writer is None:
            return None
        self._writer.flush()
        return self._file_id, self._chunks

    @property
    def on_disk(self) -> int:
        """How many chunks of the pack that is being written are in its file, wholly, also after an error."""
        return 0 if self._writer is None else self._writer.on_disk

    def keep(self, count: int) -> None:
        """Drop all but the first `count` chunks of the pack that is being written; they are on disk. Raises OSError."""
        if not count:
            self._abort()
        elif self._writer is not None:
            self._writer.keep(count)
            del self._chunks[count:]

    def _current(self) -> PackWriter:
        if self._writer is None:
            self._file_id = self._session.new_file_id()
            path = self._workspace.layout.pack(self._file_id)
            self._announce(path)
            self._chunks = []
            self._writer = PackWriter(path, will_be_synced=self._durable)
        return self._writer

    def _note(self, writer: PackWriter, entry: PackEntry, generation: int) -> None:
        self._chunks.append(_new_chunk(entry, generation))
        if writer.size >= self._most_bytes:
            self.finish()

    def _abort(self) -> None:
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
