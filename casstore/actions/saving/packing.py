"""What a save puts into packs: its smaller files, and the chunks of larger ones that are not kept as files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import NamedTuple

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

# Neighbours that are read and encoded at once: handing each of 80 KiB to another thread takes as long as encoding it.
_RUN_BYTES = 1 << 20
# Runs being encoded, or encoded and not written yet: some 16 MiB, 256 at the format's hard limit.
_RUNS_AHEAD = 16
_NOT_WORTH_A_THREAD_BYTES = 64 << 10


class _Wanted(NamedTuple):
    """A chunk to be encoded. `generation`: that of the delta which it may become against `link`."""

    digest: Digest
    length: int
    link: DeltaLink | None
    generation: int


_Run = list[tuple[EncodedChunk, int]]  # chunks that follow one another in a pack, each with its generation


class PackQueue:
    """Puts chunks into packs, in the order in which they come. What is worth a thread is encoded in one, and written in
    another.

    Leaving it as a context manager waits until all is written; on an error it drops what is not.
    """

    def __init__(self, workspace: Workspace, packs: PackBuilder) -> None:
        self.workspace = workspace
        self._packs = packs
        self._pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._ahead: deque[Future[None]] = deque()
        self._is_ended = False

    def __enter__(self) -> PackQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._ahead:
                self._ahead.popleft().result()
        finally:
            self._is_ended = True  # also where a second interrupt ends the wait: nothing may come into a dropped pack
            for pool in self._pools or ():
                pool.shutdown(cancel_futures=True)

    def put(self, chunk: EncodedChunk) -> None:
        """Append a chunk that is encoded already. Raises OSError, and what the encoding of earlier ones has raised."""
        self._write_here([(chunk, 0)])

    def encode(self, length: int, encode: Callable[[], _Run]) -> None:
        """Append what `encode` gives for so many bytes. Raises what `put` does."""
        if length < _NOT_WORTH_A_THREAD_BYTES:
            self._write_here(encode())
            return
        if self._pools is None:
            self._pools = ThreadPoolExecutor(ENCODE_THREADS), ThreadPoolExecutor(1)
        self._hand_over(self._pools[1], self._pools[0].submit(encode).result)

    def _write_here(self, run: _Run) -> None:
        """Write a small run in this thread, unless others that come before it have still to be written."""
        while self._ahead and self._ahead[0].done():
            self._ahead.popleft().result()
        if self._pools is None or not self._ahead:
            self._add(lambda: run)
        else:
            self._hand_over(self._pools[1], lambda: run)

    def _hand_over(self, writer: ThreadPoolExecutor, encoded: Callable[[], _Run]) -> None:
        self._ahead.append(writer.submit(self._add, encoded))
        if len(self._ahead) >= _RUNS_AHEAD:
            self._ahead.popleft().result()

    def _add(self, encoded: Callable[[], _Run]) -> None:
        for chunk, generation in encoded():
            if not self._is_ended:
                self._packs.add(chunk, generation)


class SavePacker:
    """Puts one save's chunks into packs.

    `base_files` are the files of the version that this one came from, looked at when first needed. `unstored` are the
    chunks that the save stores: none of them is a base, not even where an older container of it can be read still.
    """

    def __init__(
        self, queue: PackQueue, base_files: Callable[[], list[tuple[str, Recipe]]], unstored: Set[Digest]
    ) -> None:
        self._workspace = queue.workspace
        self._queue = queue
        self._find_base_files = base_files
        self._unstored = unstored
        self._base_files: list[tuple[str, Recipe]] | None = None

    def add(self, file: StagedFile, wanted: set[Digest], advance: Callable[[int], None]) -> None:
        """Encode the wanted chunks of the staged file, each once. Raises FileChanged, OSError."""
        recipe = file.recipe
        if file.content is not None and not recipe.is_stored:
            self._queue.put(encode_chunk(self._workspace, recipe.blob, file.content, BYTES, None))
            advance(recipe.size)
            return
        before, chains = self._possible_bases(file, wanted)
        opened, _ = open_as_found(file.disk_path, is_direct=False)
        with opened as descriptor:
            end = 0
            for segment in recipe.segments:
                element = element_of(segment.dtype)
                run: list[_Wanted] = []
                for digest, length in segment.chunks:
                    if run and (digest not in wanted or sum(each.length for each in run) + length > _RUN_BYTES):
                        self._read(file, descriptor, end, run, element)
                        run = []
                    if digest in wanted:
                        wanted.discard(digest)
                        run.append(_wanted(digest, length, before, chains))
                    end += length
                    advance(length)
                if run:
                    self._read(file, descriptor, end, run, element)

    def _read(self, file: StagedFile, descriptor: int, end: int, run: Sequence[_Wanted], element: Element) -> None:
        """Read and encode chunks that stand one after the other, up to `end`."""
        length = sum(each.length for each in run)
        raw = os.pread(descriptor, length, end - length)
        self._queue.encode(length, partial(_encoded, self._workspace, file.disk_path, raw, run, element))

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


def _encoded(workspace: Workspace, path: str, raw: bytes, run: Sequence[_Wanted], element: Element) -> _Run:
    """The chunks of a run, encoded. Raises FileChanged if its bytes are not theirs."""
    encoded = []
    start, view = 0, memoryview(raw)
    for digest, length, link, generation in run:
        piece = raw if length == len(raw) else view[start : start + length]
        if Digest.of(piece) != digest:
            raise changed(path)
        encoded.append((encode_chunk(workspace, digest, piece, element, link), generation))
        start += length
    return encoded


def _wanted(
    digest: Digest, length: int, before: Mapping[Digest, Digest], chains: Mapping[Digest, DeltaLink]
) -> _Wanted:
    predecessor = before.get(digest)
    if predecessor is None:
        return _Wanted(digest, length, None, 0)
    generation = chains[predecessor].generation + 1 if predecessor in chains else 0
    return _Wanted(digest, length, choose_base(predecessor, chains), generation)
