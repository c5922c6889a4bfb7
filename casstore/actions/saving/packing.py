"""What a save puts into packs: its smaller files, and the chunks of larger ones that are not kept as files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from casstore.actions.packs.bases import choose_base, encode_chunk, predecessors
from casstore.actions.packs.builder import ENCODE_THREADS, PackBuilder
from casstore.actions.saving.staging import StagedFile
from casstore.actions.saving.unchanged import changed, open_as_found
from casstore.actions.workspace import Workspace
from casstore.catalog.index import DeltaLink
from casstore.digest import Digest
from casstore.storage.pack import EncodedChunk
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import BYTES, Element, element_of

# Chunks being encoded, or encoded and not written yet: some 16 MiB, 256 at the format's hard limit.
_CHUNKS_AHEAD = 16
_NOT_WORTH_A_THREAD_BYTES = 64 << 10


class SavePacker:
    """Puts one save's chunks into packs, in the order in which they come. What is worth a thread is encoded in one.

    Leaving it as a context manager writes what is still being encoded; on an error it drops that. `base_files` are the
    files of the version that this one came from, looked at when first needed. `unstored` are the chunks that the save
    stores: none of them is a base, not even where an older container of it can be read still.
    """

    def __init__(
        self,
        workspace: Workspace,
        packs: PackBuilder,
        base_files: Callable[[], list[tuple[str, Recipe]]],
        unstored: Set[Digest],
    ) -> None:
        self._workspace = workspace
        self._packs = packs
        self._find_base_files = base_files
        self._unstored = unstored
        self._base_files: list[tuple[str, Recipe]] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[Future[EncodedChunk] | EncodedChunk, int]] = deque()

    def __enter__(self) -> SavePacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._ahead:
                self._write_next()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def add(self, file: StagedFile, wanted: set[Digest], advance: Callable[[int], None]) -> None:
        """Encode the wanted chunks of the staged file, each once. Raises FileChanged, OSError."""
        recipe = file.recipe
        if file.content is not None and not recipe.is_stored:
            self._put(recipe.blob, file.content, BYTES, None, 0)
            advance(recipe.size)
            return
        before, chains = self._possible_bases(file, wanted)
        opened, _ = open_as_found(file.disk_path, is_direct=False)
        with opened as descriptor:
            offset = 0
            for segment in recipe.segments:
                element = element_of(segment.dtype)
                for digest, length in segment.chunks:
                    if digest in wanted:
                        wanted.discard(digest)
                        raw = os.pread(descriptor, length, offset)
                        if Digest.of(raw) != digest:
                            raise changed(file.disk_path)
                        predecessor = before.get(digest)
                        link = None if predecessor is None else choose_base(predecessor, chains)
                        generation = chains[predecessor].generation + 1 if predecessor in chains else 0
                        self._put(digest, raw, element, link, generation)
                    offset += length
                    advance(length)

    def _possible_bases(
        self, file: StagedFile, wanted: set[Digest]
    ) -> tuple[dict[Digest, Digest], dict[Digest, DeltaLink]]:
        if all(segment.name is None for segment in file.recipe.segments):
            return {}, {}
        if self._base_files is None:
            self._base_files = self._find_base_files()
        before = predecessors([(file.path, file.recipe)], self._base_files)
        # What deltas stand on already stays whole, also where its container is lost and it is stored anew.
        whole = self._workspace.catalog.index.with_dependents(wanted)
        before = {
            digest: base
            for digest, base in before.items()
            if digest in wanted and digest not in whole and base not in self._unstored
        }
        return before, self._workspace.catalog.index.chains(set(before.values()))

    def _put(self, digest: Digest, raw: bytes, element: Element, link: DeltaLink | None, generation: int) -> None:
        if len(raw) < _NOT_WORTH_A_THREAD_BYTES:
            encoded = encode_chunk(self._workspace, digest, raw, element, link)
            if not self._ahead:
                self._packs.add(encoded, generation)
                return
            self._ahead.append((encoded, generation))
        else:
            self._pool = self._pool or ThreadPoolExecutor(ENCODE_THREADS)
            future = self._pool.submit(encode_chunk, self._workspace, digest, raw, element, link)
            self._ahead.append((future, generation))
        if len(self._ahead) >= _CHUNKS_AHEAD:
            self._write_next()

    def _write_next(self) -> None:
        chunk, generation = self._ahead.popleft()
        self._packs.add(chunk if isinstance(chunk, EncodedChunk) else chunk.result(), generation)
