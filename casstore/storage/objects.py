"""From digest to bytes: the one reading path. Every chunk is checked against its digest, every time."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from blake3 import blake3

from casstore.digest import Digest
from casstore.errors import IntegrityError, RemoteError, UnsupportedFormat
from casstore.late import LateModule
from casstore.storage import files, pack
from casstore.storage.chunk_sequence import ChunkSequence, Locations, decode_threads
from casstore.storage.coding import codec
from casstore.storage.coding import delta as deltas
from casstore.storage.container import MAX_DELTA_LINKS, Container, Location
from casstore.storage.layout import Layout
from casstore.storage.readable import OpenFile, Readable
from casstore.storage.recipe import MAX_CHUNK_BYTES, Chunk, Recipe
from casstore.storage.stretches import Part, parts, stretches
from casstore.storage.uncopied import Uncopied

if TYPE_CHECKING:
    from concurrent import futures

    from _typeshed import WriteableBuffer
else:
    futures = LateModule("concurrent.futures")

_MAX_OPEN_CONTAINERS = 64
_READ_THREADS = 2
_CHUNKS_AHEAD = 16  # chunks read during the first write: at most 16 MiB, or 256 MiB at the format's hard limit
_STRETCHES_AHEAD = 6  # decoded and not yet asked for
_STRETCHES_PLANNED = 16  # whose results are small
_LOCATE_BATCH = 2000
_FIRST_BATCH = 500  # so that decoding begins soon
_Result = TypeVar("_Result")
_ADVICE = "`casstore verify` names every file that is damaged"


class Locate(Protocol):
    """Looks up where chunks are now, in the catalog, at each call."""

    def __call__(self, digests: Collection[Digest]) -> Mapping[Digest, Location]: ...


Rescue = Callable[[Digest, Digest | None], bytes | None]
"""Candidates for the bytes of a chunk, from other copies, given its digest and a blob that contains it."""

Records = Mapping[Digest, memoryview]
"""Records of packs that have been read already, not yet checked in any way."""

_NOTHING_READ: Records = MappingProxyType({})

OpenContainer = Callable[[Container], Readable]
"""Opens a container, which is closed when the last reference to it is dropped. Raises FileNotFoundError, OSError."""


def _chain(digest: Digest, locations: Mapping[Digest, Location]) -> list[tuple[Digest, Location]]:
    """A chunk, its base, the base's base and so on, as far as locations are known and chains may reach."""
    chain: list[tuple[Digest, Location]] = []
    following: Digest | None = digest
    while following is not None and following in locations and len(chain) <= MAX_DELTA_LINKS:
        chain.append((following, locations[following]))
        following = locations[following].base
    return chain


def _groupings(chain: list[tuple[Digest, Location]], locations: Mapping[Digest, Location]) -> set[Digest]:
    """The chunks by which the elements of a chain's deltas are grouped, as far as locations are known."""
    named = {location.grouping for _, location in chain if location.base is not None}
    return {grouping for grouping in named if grouping is not None and grouping in locations}


class _Open(Uncopied, OpenFile):
    """An open container of this store; closed when the last reference is dropped."""

    def __init__(self, path: str) -> None:
        self._file = files.open_regular(path)
        super().__init__(self._file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _open_file(layout: Layout, container: Container) -> Readable:
    return _Open(container.path(layout))


_all: weakref.WeakSet[Objects] = weakref.WeakSet()


def _unlock_in_child() -> None:
    """Replace the lock in a forked child: another thread of the parent may have held it."""
    for objects in list(_all):
        objects._lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock_in_child)


class Objects(Uncopied):
    """Reads chunks and blobs of a store. Threads may share it.

    Chunks are read where their rows say, so that an error means damage. Blobs, which are read to be handed out, are
    served from another copy if a container is damaged, as far as `rescue` finds one.
    """

    def __init__(
        self,
        layout: Layout | None,
        locate: Locate,
        rescue: Rescue | None = None,
        open_container: OpenContainer | None = None,
        advice: str = _ADVICE,
    ) -> None:
        """`open_container`: how a container is opened, by default as a file in the store's own layout. `advice`: how
        errors of readers end.

        Raises ValueError where neither is given.
        """
        if layout is None and open_container is None:
            raise ValueError("nothing says how containers are opened")
        self._layout = layout
        self._locate = locate
        self._rescue = rescue
        self.advice = advice
        self._open_container = open_container or partial(_open_file, cast(Layout, layout))
        self._open: OrderedDict[str, Readable] = OrderedDict()
        self._lock = threading.RLock()
        _all.add(self)

    def close(self) -> None:
        """Close all open containers."""
        with self._lock:
            self._open.clear()

    def read_chunk(self, digest: Digest) -> bytes:
        """One chunk's raw bytes. Raises IntegrityError when they, or a base they need, are missing or damaged."""
        return self._read(digest, self._locate_chains([digest]))

    def serve_chunk(self, digest: Digest, blob: Digest | None = None) -> bytes:
        """One chunk's raw bytes from its container or, if that is damaged, from another copy.

        `blob`: a blob that contains the chunk. Raises IntegrityError, OSError.
        """
        return self._serve(digest, self._locate_chains([digest]), blob)

    def _serve(
        self,
        digest: Digest,
        locations: Mapping[Digest, Location],
        blob: Digest | None,
        records: Records = _NOTHING_READ,
    ) -> bytes:
        try:
            return self._read(digest, locations, records)
        except UnsupportedFormat:
            raise
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            raw = self.rescued(digest, blob)
            if raw is None:
                raise
            return raw

    def rescued(self, digest: Digest, blob: Digest | None = None, links: int = MAX_DELTA_LINKS) -> bytes | None:
        """The bytes of a chunk that is damaged in its container: from another copy, or decoded from its record if what
        that needs, through at most `links` links, can be found. None if they are nowhere.
        """
        raw = None if self._rescue is None else self._rescue(digest, blob)
        if raw is not None and Digest.of(raw) == digest:
            return raw
        location = self._locate([digest]).get(digest)
        if location is None or location.base is None or location.grouping is None or not links:
            return None
        base = self._read_or_rescued(location.base, links - 1)
        grouping = base if location.grouping == location.base else self._read_or_rescued(location.grouping, 0)
        if base is None or grouping is None:
            return None
        try:
            raw = deltas.decode_deltas(base, [self._read_record(digest, location)[1]], grouping)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            return None
        return raw if Digest.of(raw) == digest else None

    def _read_or_rescued(self, digest: Digest, links: int) -> bytes | None:
        try:
            return self.read_chunk(digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            return self.rescued(digest, links=links)

    def _locate_chains(self, digests: Collection[Digest]) -> dict[Digest, Location]:
        """Where these chunks are, and all chunks that are needed to decode them."""
        locations = dict(self._locate(digests))
        wanted: Collection[Location] = locations.values()
        while missing := {
            d for location in wanted for d in (location.base, location.grouping) if d and d not in locations
        }:
            found = self._locate(missing)
            locations.update(found)
            wanted = found.values()
        return locations

    def _read(self, digest: Digest, locations: Mapping[Digest, Location], records: Records = _NOTHING_READ) -> bytes:
        while True:
            try:
                return self._decode(digest, locations, records)
            except (IntegrityError, OSError) as error:
                is_other_trouble = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
                if is_other_trouble or isinstance(error, UnsupportedFormat):
                    raise
                if records:  # whatever they are: what stands there now counts
                    records = _NOTHING_READ
                    continue
                chain = _chain(digest, locations)
                with self._lock:
                    for tried in {link for link, _ in chain} | _groupings(chain, locations):
                        self._open.pop(locations[tried].container.file_id, None)
                # gc may have moved a chunk since it was looked up; if its container is the same again, it is damaged.
                again = self._locate_chains([digest])
                if digest not in again or again == {d: locations[d] for d in again if d in locations}:
                    raise self._damage(digest, locations, error) from error
                locations = again

    def _damage(self, digest: Digest, locations: Mapping[Digest, Location], error: Exception) -> IntegrityError:
        """The error for a chunk that cannot be read. It names the damaged chunk: this one, or one that it needs."""
        chain = _chain(digest, locations)
        if not chain:
            return IntegrityError(f"chunk {digest} is missing from the store")
        # Each of these has a shorter chain, or none, so the recursion ends whatever the catalog says.
        needed = [grouping for grouping in _groupings(chain, locations) if locations[grouping].base is None]
        if len(chain) <= MAX_DELTA_LINKS or chain[-1][1].base is None:
            needed += [base for base, _ in reversed(chain[1:])]
        for other in needed:
            try:
                self.read_chunk(other)
            except IntegrityError as cause:
                return IntegrityError(f"chunk {digest} is a delta that needs another, and {cause}")
        container = chain[0][1].container
        path = container.file_id if self._layout is None else container.path(self._layout)
        return IntegrityError(f"chunk {digest} in {path} is damaged or missing: {error}")

    def _decode(self, digest: Digest, locations: Mapping[Digest, Location], records: Records = _NOTHING_READ) -> bytes:
        chain = _chain(digest, locations)
        if not chain:
            raise IntegrityError("it has no location")
        start, location = chain.pop()
        if location.base is not None:
            raise IntegrityError(f"its base {location.base} is missing, or its chain is too long")
        raw = self._read_whole(start, location, records)
        # Only the last link's result is compared with its digest: only the right bytes lead to it.
        run: list[memoryview] = []
        grouping = run_grouping = start
        grouping_raw = run_base = raw
        for delta, delta_location in reversed(chain):
            entry, encoded = self._read_record(delta, delta_location, records)
            grouping = entry.grouping or start
            if run and grouping != run_grouping:
                run_base, run = deltas.decode_deltas(run_base, run, grouping_raw), []
            if grouping != run_grouping:
                # Usually the start of the chain; another if a chunk in between has been stored whole since.
                grouping_raw = (
                    raw if grouping == start else self._read_whole(grouping, locations.get(grouping), records)
                )
                run_grouping = grouping
            run.append(encoded)
        if run:
            raw = deltas.decode_deltas(run_base, run, grouping_raw)
        if Digest.of(raw) != digest:
            raise IntegrityError(f"its bytes do not match the digest {digest}")
        return raw

    def _read_whole(self, digest: Digest, location: Location | None, records: Records) -> bytes:
        """The bytes of a chunk that is not a delta, not yet compared with its digest."""
        if location is None:
            raise IntegrityError(f"chunk {digest}, which it is grouped by, is missing")
        if location.container.is_pack:
            entry, encoded = self._read_record(digest, location, records)
            return codec.decode(entry.encoding, encoded, entry.raw_bytes)
        if not 0 < location.raw_bytes <= MAX_CHUNK_BYTES or location.offset < 0:
            raise IntegrityError(f"the catalog's record of the place of chunk {digest} is damaged")
        container = self._container(location.container)  # our own reference: another thread may drop it from the cache
        return container.pread(location.offset, location.raw_bytes)

    def _read_record(
        self, digest: Digest, location: Location, records: Records = _NOTHING_READ
    ) -> tuple[pack.PackEntry, memoryview]:
        record = records.get(digest)
        if record is None:
            container = self._container(location.container)
            entry, encoded = pack.read_record(container, location.offset, location.length)
        else:
            entry, encoded = pack.split_record(record, location.offset, location.length)
        if entry.digest != digest or entry.base != location.base:
            raise IntegrityError(f"another chunk is in the place of {digest}")
        return entry, encoded

    def copy_record(self, digest: Digest, location: Location) -> bytes:
        """A pack's record, to be written elsewhere verbatim. Raises IntegrityError, OSError.

        The caller checks that the chunk in it is sound.
        """
        container = self._container(location.container)  # our own reference, as in `_read_whole`
        self._read_record(digest, location)
        return container.pread(location.offset, location.length)

    def _container(self, container: Container) -> Readable:
        with self._lock:
            found = self._open.get(container.file_id)
            if found is not None:
                self._open.move_to_end(container.file_id)
                return found
        opened = self._open_container(container)
        with self._lock:
            self._open[container.file_id] = opened
            while len(self._open) > _MAX_OPEN_CONTAINERS:
                self._open.popitem(last=False)
        return opened

    def read_blob(self, recipe: Recipe, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of the blob's chunks in order, from that of number `start` on. Memory is bounded.

        They are read ahead and checked by a few threads. Raises IntegrityError.
        """
        chunks = itertools.islice(recipe.chunks(), start, None)
        # Closed here: an error's traceback may keep it until one of its own threads collects it, which cannot close it.
        with contextlib.closing(self._each(recipe, chunks, lambda _, raw: raw, _STRETCHES_AHEAD)) as each:
            yield from each

    def is_sound(self, recipe: Recipe) -> bool:
        """Whether the chunks of a recipe, read one after the other, make up its blob."""
        hasher = blake3()
        try:
            for raw in self.read_blob(recipe):
                hasher.update(raw)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            return False
        return hasher.digest() == recipe.blob

    def read_ahead(
        self, digests: Iterable[Digest], threads: int = _READ_THREADS
    ) -> Generator[tuple[Digest, futures.Future[bytes]], None, None]:
        """Each chunk in turn, with a future of its bytes, whose result may raise IntegrityError or OSError."""
        return self._ahead(digests, threads, self._read)

    def in_sequence(self, recipe: Recipe, chunks: Sequence[Chunk], locations: Locations | None = None) -> ChunkSequence:
        """The chunks of a blob, as listed by `recipe`, for a reader that mostly moves forward."""
        return ChunkSequence(chunks, self._locate_chains, self._serving(recipe), locations)

    def _serving(self, recipe: Recipe) -> Callable[[Digest, Mapping[Digest, Location]], bytes]:
        return partial(self._serve, blob=recipe.blob)

    def _ahead(
        self, digests: Iterable[Digest], threads: int, read: Callable[[Digest, Mapping[Digest, Location]], bytes]
    ) -> Generator[tuple[Digest, futures.Future[bytes]], None, None]:
        unread = iter(digests)
        with futures.ThreadPoolExecutor(threads) as pool:
            ahead: deque[tuple[Digest, futures.Future[bytes]]] = deque()
            try:
                while batch := list(itertools.islice(unread, _LOCATE_BATCH)):
                    locations = self._locate_chains(set(batch))
                    for digest in batch:
                        ahead.append((digest, pool.submit(read, digest, locations)))
                        if len(ahead) >= _CHUNKS_AHEAD:
                            yield ahead.popleft()
                while ahead:
                    yield ahead.popleft()
            finally:
                for _, future in ahead:
                    future.cancel()

    def look_up(self, recipes: Iterable[Recipe]) -> Locations:
        """Where the chunks of these blobs are now, for those who read several small ones after one another."""
        return self._locate_chains({digest for recipe in recipes for digest in recipe.digests})

    def write_blob(
        self,
        recipe: Recipe,
        descriptor: int,
        advance: Callable[[int], None] = lambda _: None,
        locations: Locations | None = None,
    ) -> None:
        """Write a blob into an empty open file. `locations`: of all its chunks, as `look_up` gave them.

        Raises IntegrityError, OSError.
        """

        def write(chunk: Chunk, raw: bytes) -> int:
            files.write_all(descriptor, raw, chunk.offset)
            return chunk.length

        self._take_all(recipe, write, advance, locations)

    def read_blob_into(self, recipe: Recipe, target: memoryview, locations: Locations | None = None) -> None:
        """Fill a buffer, as `checked_target` gives it, with a blob. `locations` is as in `write_blob`.

        Raises IntegrityError, OSError; then any part of it may have been written to.
        """
        import ctypes  # takes some milliseconds that most commands do not need

        if recipe.size != target.nbytes:
            raise IntegrityError(f"the recipe of blob {recipe.blob} is for another size than its file has")
        if not recipe.size:
            return
        memory = (ctypes.c_char * recipe.size).from_buffer(target)

        def copy(chunk: Chunk, raw: bytes) -> int:
            # Assigning to a slice would hold up all other threads; this does not. It checks nothing: the pieces of a
            # recipe add up to its size, `raw` is as long as its piece, and what is referred to here is not freed.
            ctypes.memmove(ctypes.byref(memory, chunk.offset), raw, chunk.length)
            return chunk.length

        self._take_all(recipe, copy, lambda _: None, locations)

    def read_small_blobs(self, recipes: Sequence[Recipe]) -> Iterator[bytes]:
        """The bytes of each blob in turn: looked up together and, where their records stand together, read together.

        For a few MiB at a time: all records are held at once. Raises IntegrityError.
        """
        locations = self.look_up(recipes)
        records = self._records(parts([chunk for recipe in recipes for chunk in recipe.chunks()], locations))
        for recipe in recipes:
            yield b"".join(
                [
                    _checked_length(self._serve(chunk.digest, locations, recipe.blob, records), chunk)
                    for chunk in recipe.chunks()
                ]
            )

    def _take_all(
        self,
        recipe: Recipe,
        take: Callable[[Chunk, bytes], int],
        advance: Callable[[int], None],
        locations: Locations | None,
    ) -> None:
        if recipe.size <= _SMALL_BYTES:
            where = self.look_up([recipe]) if locations is None else locations
            for chunk in recipe.chunks():
                take(chunk, _checked_length(self._serve(chunk.digest, where, recipe.blob), chunk))
            advance(recipe.size)
            return
        with contextlib.closing(self._each(recipe, recipe.chunks(), take, _STRETCHES_PLANNED)) as each:
            for length in each:
                advance(length)

    def take_some(
        self, recipe: Recipe, chunks: Sequence[Chunk], take: Callable[[Chunk, bytes], _Result]
    ) -> Generator[_Result, None, None]:
        """What `take` makes of each of these chunks of a blob, in their order; threads call it, as many as pay.

        Raises IntegrityError, OSError.
        """
        if sum(chunk.length for chunk in chunks) <= _SMALL_BYTES:
            locations = self._locate_chains({chunk.digest for chunk in chunks})
            for chunk in chunks:
                yield take(chunk, _checked_length(self._serve(chunk.digest, locations, recipe.blob), chunk))
            return
        with contextlib.closing(self._each(recipe, chunks, take, _STRETCHES_PLANNED)) as each:
            yield from each

    def _each(
        self, recipe: Recipe, chunks: Iterable[Chunk], take: Callable[[Chunk, bytes], _Result], ahead: int
    ) -> Generator[_Result, None, None]:
        """What `take` makes of each chunk, in order: threads call it, for `ahead` stretches of chunks beforehand.

        Raises IntegrityError, OSError, and what `take` raises.
        """

        def work(stretch: list[Chunk], locations: Mapping[Digest, Location], needs: list[Part]) -> list[_Result]:
            records = self._records(needs)
            return [
                take(chunk, _checked_length(self._serve(chunk.digest, locations, recipe.blob, records), chunk))
                for chunk in stretch
            ]

        running: deque[futures.Future[list[_Result]]] = deque()
        with futures.ThreadPoolExecutor(decode_threads()) as pool:
            try:
                for stretch, locations in self._located(chunks):
                    needs = parts(stretch, locations)
                    self._announce(needs)
                    running.append(pool.submit(work, stretch, locations, needs))
                    if len(running) >= ahead:
                        yield from running.popleft().result()
                while running:
                    yield from running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def _located(self, chunks: Iterable[Chunk]) -> Iterator[tuple[list[Chunk], Mapping[Digest, Location]]]:
        unread = iter(chunks)
        size = _FIRST_BATCH
        while batch := list(itertools.islice(unread, size)):
            locations = self._locate_chains({chunk.digest for chunk in batch})
            for stretch in stretches(batch):
                yield stretch, locations
            size = _LOCATE_BATCH

    def _announce(self, needs: Iterable[Part]) -> None:
        """Have the system read parts of packs that will be wanted soon; whoever reads them tells what is wrong."""
        for part in needs:
            with contextlib.suppress(IntegrityError, OSError):
                container = self._container(part.container)
                if isinstance(container, OpenFile):
                    container.will_need(part.start, part.length)

    def _records(self, needs: Iterable[Part]) -> Records:
        """What stands in these parts of packs. What cannot be read is left out, for whoever needs it to say so.

        Raises RemoteError.
        """
        found: dict[Digest, memoryview] = {}
        for part in needs:
            try:
                view = memoryview(self._container(part.container).pread(part.start, part.length))
            except RemoteError:
                raise  # it has been tried again and again already
            except (IntegrityError, OSError):
                continue
            for digest, offset, length in part.records:
                found[digest] = view[offset - part.start : offset - part.start + length]
        return found

    def open_blob(
        self, recipe: Recipe, name: str = "the blob", locations: Locations | None = None
    ) -> io.BufferedReader:
        """A seekable binary reader over a blob. Each chunk is checked before any of its bytes are returned.

        `name`: what its errors call the blob. `locations` is as in `write_blob`.
        """
        return io.BufferedReader(BlobReader(self, recipe, name, locations), buffer_size=_READER_BUFFER_BYTES)


_SMALL_BYTES = 1 << 20  # too small to be worth a thread
_READER_BUFFER_BYTES = 64 << 10


def unreadable(name: str, error: IntegrityError, advice: str = _ADVICE) -> IntegrityError:
    """The error for a blob or file that cannot be read because of `error`."""
    return type(error)(f"{name} cannot be read: {error}; {advice}")


def _checked_length(raw: bytes, chunk: Chunk) -> bytes:
    """The bytes of a sound chunk. Raises IntegrityError if their length is not that in the recipe."""
    if len(raw) != chunk.length:
        raise IntegrityError(f"chunk {chunk.digest} has {len(raw)} bytes where the recipe says {chunk.length}")
    return raw


class BlobReader(Uncopied, io.RawIOBase):
    """The raw stream under `Objects.open_blob`: holds the chunk at its position. For one thread at a time."""

    def __init__(self, objects: Objects, recipe: Recipe, name: str, locations: Locations | None = None) -> None:
        self._name = name
        self._advice = objects.advice
        self._size = recipe.size
        self._chunks = list(recipe.chunks())
        self._offsets = [chunk.offset for chunk in self._chunks]
        self._sequence = objects.in_sequence(recipe, self._chunks, locations)
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def close(self) -> None:
        if not self.closed:
            self._sequence.close()
        super().close()

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

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._checkClosed()
        target = memoryview(buffer).cast("B")
        piece = self._piece()[: len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        self._checkClosed()
        pieces = []
        while piece := self._piece():
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def _piece(self) -> memoryview:
        """The bytes of the current chunk from the reader's position on; empty at the end."""
        if self._position >= self._size:
            return memoryview(b"")
        number = bisect_right(self._offsets, self._position) - 1
        if self._held[0] != number:
            try:
                self._held = (number, _checked_length(self._sequence.get(number), self._chunks[number]))
            except IntegrityError as error:
                raise unreadable(self._name, error, self._advice) from error
        return memoryview(self._held[1])[self._position - self._offsets[number] :]
