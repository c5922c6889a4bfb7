"""From digest to bytes: the one reading path. Every chunk is checked against its digest, every time."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage import files, pack
from casstore.storage.container import Container, Location
from casstore.storage.layout import Layout
from casstore.storage.recipe import Chunk, Recipe

_MAX_OPEN_CONTAINERS = 64
_READ_THREADS = 2
_CHUNKS_AHEAD = 16  # read while the first is still being written: at most 16 MiB, 256 at the format's hard limit
_MAX_BASES = 8
_LOCATE_BATCH = 2000


class Locate(Protocol):
    """Where chunks are now: a fresh look at the catalog at each call."""

    def __call__(self, digests: Collection[Digest]) -> Mapping[Digest, Location]: ...


class _Open:
    """An open container; closed when the last reference goes."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Objects:
    """Reads chunks and blobs of a store. Threads may share it."""

    def __init__(self, layout: Layout, locate: Locate) -> None:
        self._layout = layout
        self._locate = locate
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the containers that are held open."""
        with self._lock:
            self._open.clear()

    def read_chunk(self, digest: Digest) -> bytes:
        """One chunk's raw bytes. Raises IntegrityError when they are missing or damaged."""
        return self._read(digest, self._locate([digest]).get(digest), _MAX_BASES)

    def _read(self, digest: Digest, location: Location | None, bases: int) -> bytes:
        while True:
            if location is None:
                raise IntegrityError(f"chunk {digest} is missing from the store")
            try:
                return self._read_at(digest, location, bases)
            except (IntegrityError, OSError) as error:
                is_other_trouble = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
                if is_other_trouble or isinstance(error, UnsupportedFormat):
                    raise
                with self._lock:
                    self._open.pop(location.container.file_id, None)
                # gc may have moved the chunk since it was looked up; the same home twice is damage.
                again = self._locate([digest]).get(digest)
                if again is None or again == location:
                    path = location.container.path(self._layout)
                    raise IntegrityError(f"chunk {digest} in {path} is damaged or missing: {error}") from error
                location = again

    def _read_at(self, digest: Digest, location: Location, bases: int) -> bytes:
        if location.base is not None and bases == 0:
            raise IntegrityError(f"chunk {digest} stands at the end of too long a chain of deltas")
        container = self._container(location.container)
        if location.container.is_pack:
            entry, encoded = pack.read_record(container.descriptor, location.offset, location.length)
            if entry.digest != digest:
                raise IntegrityError(f"another chunk stands where {digest} should be")
            return pack.decode_record(entry, encoded)
        raw = os.pread(container.descriptor, location.raw_bytes, location.offset)
        if Digest.of(raw) != digest:
            raise IntegrityError(f"its bytes do not match the digest {digest}")
        return raw

    def _container(self, container: Container) -> _Open:
        with self._lock:
            found = self._open.get(container.file_id)
            if found is not None:
                self._open.move_to_end(container.file_id)
                return found
        opened = _Open(container.path(self._layout))
        with self._lock:
            self._open[container.file_id] = opened
            while len(self._open) > _MAX_OPEN_CONTAINERS:
                self._open.popitem(last=False)
        return opened

    def read_blob(self, recipe: Recipe) -> Iterator[bytes]:
        """The blob's chunks in order, read and checked ahead by a few threads. Memory is bounded.

        Raises IntegrityError.
        """
        chunks = list(recipe.chunks())
        for chunk, future in zip(chunks, self.read_ahead([chunk.digest for chunk in chunks]), strict=True):
            yield _checked_length(future.result(), chunk)

    def read_ahead(self, digests: Sequence[Digest]) -> Iterator[Future[bytes]]:
        """A future of each chunk in turn, done or soon to be; its result raises IntegrityError for a damaged one."""
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            ahead: deque[Future[bytes]] = deque()
            try:
                for start in range(0, len(digests), _LOCATE_BATCH):
                    batch = digests[start : start + _LOCATE_BATCH]
                    homes = self._locate(set(batch))
                    for digest in batch:
                        ahead.append(pool.submit(self._read, digest, homes.get(digest), _MAX_BASES))
                        if len(ahead) >= _CHUNKS_AHEAD:
                            yield ahead.popleft()
                while ahead:
                    yield ahead.popleft()
            finally:
                for future in ahead:
                    future.cancel()

    def write_blob(self, recipe: Recipe, descriptor: int, advance: Callable[[int], None] = lambda _: None) -> None:
        """Write a blob into an empty open file. Raises IntegrityError, OSError."""
        if recipe.size <= _SMALL_BYTES:
            for chunk in recipe.chunks():
                files.write_all(descriptor, _checked_length(self.read_chunk(chunk.digest), chunk))
            advance(recipe.size)
            return
        for raw in self.read_blob(recipe):
            files.write_all(descriptor, raw)
            advance(len(raw))

    def open_blob(self, recipe: Recipe) -> io.BufferedReader:
        """A seekable binary reader over a blob; each chunk is checked before a byte of it is handed out."""
        return io.BufferedReader(BlobReader(self, recipe), buffer_size=_READER_BUFFER_BYTES)


_SMALL_BYTES = 1 << 20  # not worth a thread
_READER_BUFFER_BYTES = 64 << 10


def _checked_length(raw: bytes, chunk: Chunk) -> bytes:
    """A chunk that is sound by itself and is not of the length that the recipe counts on is damage too."""
    if len(raw) != chunk.length:
        raise IntegrityError(f"chunk {chunk.digest} has {len(raw)} bytes where the recipe says {chunk.length}")
    return raw


class BlobReader(io.RawIOBase):
    """The raw stream under `Objects.open_blob`: holds the chunk it stands in. One thread at a time."""

    def __init__(self, objects: Objects, recipe: Recipe) -> None:
        self._objects = objects
        self._size = recipe.size
        self._chunks = list(recipe.chunks())
        self._offsets = [chunk.offset for chunk in self._chunks]
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"cannot seek with whence={whence}")
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}, before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        self._checkClosed()
        if self._position >= self._size:
            return 0
        number = bisect_right(self._offsets, self._position) - 1
        if self._held[0] != number:
            chunk = self._chunks[number]
            self._held = (number, _checked_length(self._objects.read_chunk(chunk.digest), chunk))
        start = self._position - self._offsets[number]
        piece = memoryview(self._held[1])[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)
