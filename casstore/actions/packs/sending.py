"""Sending a version: which of its chunks are written, and whether each is copied as it stands, whole, or as a delta."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from casstore.actions.packs.bases import encode_chunk, predecessors
from casstore.actions.packs.chains import Chains
from casstore.actions.workspace import Workspace
from casstore.catalog.index import DeltaLink
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import Location
from casstore.storage.objects import unreadable
from casstore.storage.pack import EncodedChunk, PackEntry
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import Element, element_of

_CHUNKS_AHEAD = 16  # as in packing: some 16 MiB, 256 at the format's hard limit
_LOCATE_BATCH = 2000

Files = list[tuple[str, Recipe]]
# A chunk ready to be written: encoded now, or a pack's record as it stands.
_Ready = EncodedChunk | bytes


class Sink(Protocol):
    """Where records are written to, one after the other: a `PackStream` or a `PackWriter`."""

    def add(self, chunk: EncodedChunk) -> PackEntry:
        """Write a chunk. Raises OSError."""

    def copy(self, record: bytes) -> PackEntry:
        """Write a pack's record as it stands. Raises IntegrityError, OSError."""


@dataclass(slots=True)
class Sending:
    """Writes the chunks of several versions, each chunk once: as it stands in the store's packs, or encoded again.

    A chunk is a delta only against chunks that were written before it, or that `chains` has from the start, so the
    receiver, which has those, needs nothing else.
    """

    workspace: Workspace
    sink: Sink
    pool: ThreadPoolExecutor
    progress: Progress
    chains: Chains = field(default_factory=Chains)
    _begun: set[Digest] = field(init=False)
    _files: Files = field(default_factory=list)
    _ahead: deque[tuple[Future[_Ready], Digest | None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._begun = set(self.chains.links)

    def add(self, files: Files, base_files: Files) -> None:
        """Write the chunks of a version that have not been written yet.

        `base_files`: the files of the version that it came from, if that has been written. Raises IntegrityError,
        OSError.
        """
        self._files = files
        before = predecessors(files, base_files)
        pending: dict[Digest, Element] = {}
        for _, recipe in files:
            for segment in recipe.segments:
                element = element_of(segment.dtype)
                for digest, length in segment.chunks:
                    if digest in self._begun:
                        self.progress.advance(length)
                    else:
                        self._begun.add(digest)
                        pending[digest] = element
                if len(pending) >= _LOCATE_BATCH:
                    self._submit(pending, before)
                    pending = {}
            self._submit(pending, before)
            pending = {}
        # The next version's deltas are against the chunks as written here.
        while self._ahead:
            self._write_next()

    def _submit(self, chunks: Mapping[Digest, Element], before: Mapping[Digest, Digest]) -> None:
        locations = self.workspace.catalog.index.locate(chunks.keys()) if chunks else {}
        for digest, element in chunks.items():
            predecessor = before.get(digest)
            link = None if predecessor is None else self.chains.link(predecessor)
            location = locations.get(digest)
            task = partial(self._encode, digest, element, link, location if self._may_copy(location, link) else None)
            self._ahead.append((self.pool.submit(task), predecessor))
            if len(self._ahead) >= _CHUNKS_AHEAD:
                self._write_next()

    def _encode(self, digest: Digest, element: Element, link: DeltaLink | None, copied: Location | None) -> _Ready:
        try:
            raw = self.workspace.objects.read_chunk(digest)  # which also checks chunks that are copied
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            try:
                raw, copied = self.workspace.objects.serve_chunk(digest), None
            except IntegrityError as lost:
                raise unreadable(self._file_of(digest), lost) from lost
        if copied is not None:
            with contextlib.suppress(IntegrityError, FileNotFoundError):  # gc has moved it meanwhile
                return self.workspace.objects.copy_record(digest, copied)
        return encode_chunk(self.workspace, digest, raw, element, link)

    def _file_of(self, wanted: Digest) -> str:
        return next(
            path
            for path, recipe in self._files
            if any(digest == wanted for segment in recipe.segments for digest, _ in segment.chunks)
        )

    def _may_copy(self, location: Location | None, link: DeltaLink | None) -> bool:
        """Whether the record in the store can be sent as it stands."""
        if location is None or not location.container.is_pack:
            return False
        if location.base is None:
            return link is None  # a chunk with a base here takes less when it is encoded again
        return location.grouping is not None and self.chains.takes(location.base, location.grouping, location.length)

    def _write_next(self) -> None:
        future, predecessor = self._ahead.popleft()
        ready = future.result()
        entry = self.sink.copy(ready) if isinstance(ready, bytes) else self.sink.add(ready)
        self.chains.note(entry, predecessor)
        self.progress.advance(entry.raw_bytes)
