"""Cuts a file into chunks and hashes it, in one pass and bounded memory.

The cuts are a pure function of the file's bytes. Known tensor formats are cut on a grid that starts again at
each tensor; anything else of more than one chunk by FastCDC (Xia et al., "The Design of Fast Content-Defined
Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 31(9), 2020).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol

import pyfastcdc
from blake3 import blake3

from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.elements import Segment, find_segments, may_have_segments
from casstore.storage.write_back import Follow, unfollowed

MAX_CHUNK = 1 << 20
GRID_BYTES = MAX_CHUNK
# A minimum as large as the average makes chunks of 80 KiB on average, and three times faster than a quarter of it
# does, since nothing below the minimum is looked at; it shares as much (benchmarks/chunk_size.py).
FASTCDC_AVERAGE_BYTES = 64 << 10
FASTCDC_MINIMUM_BYTES = 64 << 10
FASTCDC_NORMALIZATION: Literal[2] = 2
# Raised whenever a rule changes that moves a cut. It is recorded in every recipe.
PLAN_VERSION = 1
# A window is what one thread reads, cuts and hashes at a time; benchmarks/chunking.py compares sizes.
WINDOW_BYTES = 4 << 20
HASH_THREADS = 2

# Below this a second thread costs more than it saves.
_THREADS_FROM_BYTES = 2 * WINDOW_BYTES

if not pyfastcdc.FastCDC.__module__.startswith("pyfastcdc.cy"):
    raise ImportError(
        "pyfastcdc runs in its pure Python form here, some hundred times too slow to use; "
        "install a compiled wheel of it: pip install --only-binary=:all: --force-reinstall pyfastcdc"
    )


_SHORTER = "the file became shorter while it was read"


def scan_file(
    descriptor: int, advance: Callable[[int], None] = lambda _: None, size: int | None = None,
    follow: Follow = unfollowed,
) -> Recipe:  # fmt: skip
    """Cut and hash the open file. Peak memory is a few windows for a file of any size.

    `advance` is told of bytes as they are done, from several threads; `size` is the file's where the caller
    knows it. `follow` is told, in the order of the file, of so many bytes and the digests of their chunks; not of a
    file that may be one chunk. Raises OSError, and EOFError when the file turns out shorter than its size said.
    """
    size = os.fstat(descriptor).st_size if size is None else size
    if size <= MAX_CHUNK:
        data = os.pread(descriptor, size, 0)
        if len(data) < size:
            raise EOFError(_SHORTER)
        advance(size)
        return scan_bytes(data)
    found = find_segments(lambda offset, length: os.pread(descriptor, length, offset), size)
    if found is None:
        return _Pass(descriptor, _ContentDefined(descriptor, size), advance, follow).run(
            size, f"fastcdc/{PLAN_VERSION}", [Segment(0, size)]
        )
    kind, segments = found
    return _Pass(descriptor, _Grid(segments), advance, follow).run(size, f"{kind}/{PLAN_VERSION}", segments)


def scan_bytes(data: bytes) -> Recipe:
    """The recipe of a file of at most `MAX_CHUNK` bytes that is in memory; the same that `scan_file` gives."""
    size = len(data)
    if size > MAX_CHUNK:
        raise ValueError(f"{size} bytes are more than one chunk holds")
    digest = Digest.of(data)
    found = None
    if may_have_segments(data):
        found = find_segments(lambda offset, length: data[offset : offset + length], size)
    if found is None:
        return Recipe.of_one_chunk(digest, size)
    kind, segments = found
    rows = []
    for segment in segments:
        piece = data[segment.offset : segment.offset + segment.length]
        chunks = ((Digest.of(piece), segment.length),)
        rows.append(RecipeSegment(chunks, segment.name, segment.dtype, segment.shape))
    recipe = Recipe(digest, size, f"{kind}/{PLAN_VERSION}", tuple(rows))
    return recipe if recipe.is_stored else Recipe.of_one_chunk(digest, size)


def _read_into(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.preadv(descriptor, [view], offset)
        if not done:
            raise EOFError(_SHORTER)
        view, offset = view[done:], offset + done


@dataclass(slots=True)
class _Window:
    """Consecutive cuts that one thread hashes: (segment number, length) each."""

    number: int
    offset: int
    length: int
    cuts: list[tuple[int, int]]
    is_read: bool


class _Cutter(Protocol):
    def take(self, buffer: memoryview) -> _Window | None:
        """The next window, in order; None at the end. Called by one thread at a time. May fill `buffer`."""


class _Grid:
    """Cuts each segment on a grid of its own; knows all cuts before a byte is read."""

    def __init__(self, segments: list[Segment]) -> None:
        self._cuts = (
            (number, min(GRID_BYTES, segment.length - start))
            for number, segment in enumerate(segments)
            for start in range(0, segment.length, GRID_BYTES)
        )
        self._number = 0
        self._offset = 0
        self._held: tuple[int, int] | None = None

    def take(self, buffer: memoryview) -> _Window | None:
        cuts: list[tuple[int, int]] = []
        length = 0
        while (cut := self._held or next(self._cuts, None)) is not None:
            self._held = cut
            if length + cut[1] > len(buffer):
                break
            self._held = None
            cuts.append(cut)
            length += cut[1]
        if not cuts:
            return None
        window = _Window(self._number, self._offset, length, cuts, is_read=False)
        self._number += 1
        self._offset += length
        return window


class _ContentDefined:
    """Cuts by FastCDC. A window begins at a cut, so cutting window by window gives the cuts of the whole file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._number = 0
        self._offset = 0
        self._cdc = pyfastcdc.FastCDC(
            FASTCDC_AVERAGE_BYTES,
            min_size=FASTCDC_MINIMUM_BYTES,
            max_size=MAX_CHUNK,
            normalized_chunking=FASTCDC_NORMALIZATION,
        )

    def take(self, buffer: memoryview) -> _Window | None:
        length = min(len(buffer), self._size - self._offset)
        if length <= 0:
            return None
        view = buffer[:length]
        _read_into(self._descriptor, view, self._offset)
        lengths = [chunk.length for chunk in self._cdc.cut_buf(view)]
        if self._offset + length < self._size:
            # The window's end, not the content, made the last cut: that chunk is cut again in the next window.
            lengths.pop()
        window = _Window(self._number, self._offset, sum(lengths), [(0, cut) for cut in lengths], is_read=True)
        self._number += 1
        self._offset += window.length
        return window


class _Pass:
    """One pass over a file: windows are read and their chunks hashed in any order, the blob's hash in file order."""

    def __init__(self, descriptor: int, cutter: _Cutter, advance: Callable[[int], None], follow: Follow) -> None:
        self._descriptor = descriptor
        self._cutter = cutter
        self._advance = advance
        self._follow = follow
        self._taking = threading.Lock()
        self._turn = threading.Condition()
        self._done = 0
        self._failed = False
        self._blob = blake3()
        self._chunks: list[list[tuple[Digest, int]]] = []

    def run(self, size: int, plan: str, segments: list[Segment]) -> Recipe:
        self._chunks = [[] for _ in segments]
        if size < _THREADS_FROM_BYTES:
            self._work(size)
        else:
            with ThreadPoolExecutor(HASH_THREADS) as pool:
                try:
                    for future in [pool.submit(self._work, WINDOW_BYTES) for _ in range(HASH_THREADS)]:
                        future.result()
                except BaseException:
                    self._stop()  # Ctrl-C comes to this thread alone, and leaving the block waits for the others
                    raise
        blob = Digest(self._blob.digest())
        if len(segments) == 1 and len(self._chunks[0]) == 1:
            return Recipe.of_one_chunk(blob, size)
        rows = (
            RecipeSegment(tuple(chunks), segment.name, segment.dtype, segment.shape)
            for segment, chunks in zip(segments, self._chunks, strict=True)
        )
        return Recipe(blob, size, plan, tuple(rows))

    def _work(self, window_bytes: int) -> None:
        buffer = memoryview(bytearray(max(window_bytes, MAX_CHUNK)))
        try:
            while not self._failed:
                with self._taking:
                    window = self._cutter.take(buffer)
                if window is None:
                    return
                self._hash(window, buffer[: window.length])
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        with self._turn:
            self._failed = True
            self._turn.notify_all()

    def _hash(self, window: _Window, view: memoryview) -> None:
        if not window.is_read:
            _read_into(self._descriptor, view, window.offset)
        digests = []
        start = 0
        for _, length in window.cuts:
            digests.append(Digest(blake3(view[start : start + length]).digest()))
            start += length
        with self._turn:
            self._turn.wait_for(lambda: self._done == window.number or self._failed)
        if self._failed:
            return
        self._blob.update(view)
        for digest, (segment, length) in zip(digests, window.cuts, strict=True):
            self._chunks[segment].append((digest, length))
        self._follow(window.length, digests)
        with self._turn:
            self._done += 1
            self._turn.notify_all()
        self._advance(window.length)
