"""Chunks of one version out of a remote's packs: which ranges to ask for, and the records in what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.remote.backend import Backend, KeyMissing
from casstore.remote.segment import ChunkPlace, Segment, needed
from casstore.storage.pack import PackEntry, parse_record

# A request takes as long as some hundreds of kilobytes do, so that gaps below this are read and thrown away.
_GAP_BYTES = 256 << 10
_RUN_BYTES = 4 << 20
_AT_ONCE = 8  # each is in memory three times for a moment, while obstore puts it together
_WINDOW_BYTES = 64 << 20


class PackGone(Exception):
    """A pack that a segment names is not there: the version has been repacked or deleted since that was read."""

    digest: Digest | None = None

    def __init__(self, name: str, pack: str) -> None:
        super().__init__(f"{pack} is gone from {name}")
        self.pack = pack


class RecordDamaged(IntegrityError):
    """A chunk cannot be read from a pack; with no digest, none can."""

    def __init__(self, message: str, pack: str, digest: Digest | None = None) -> None:
        super().__init__(message)
        self.pack = pack
        self.digest = digest


@dataclass(frozen=True, slots=True)
class Run:
    """A range of a pack, and the chunks in it that are wanted, by offset."""

    pack: int
    start: int
    end: int
    digests: tuple[Digest, ...]

    @property
    def length(self) -> int:
        return self.end - self.start


def plan(segment: Segment, digests: Iterable[Digest], here: Collection[Digest] = ()) -> list[Run]:
    """The ranges to ask for these chunks and all that decoding them takes, but for what is `here` already.

    What a delta needs comes before it. Chunks come about in the order given, so that what they are pieces of can be
    hashed as they come: in that of packs only among as many as are on their way at once.
    """
    runs: list[Run] = []
    planned, found, found_bytes = set(here), set[Digest](), 0
    for digest in digests:
        new = needed([digest], segment.chunks, planned)
        planned |= new
        found |= new
        found_bytes += sum(segment.chunks[each].length for each in new)
        if found_bytes >= _WINDOW_BYTES:
            runs += _runs(segment, found)
            found, found_bytes = set(), 0
    return runs + _runs(segment, found)


def _runs(segment: Segment, wanted: Collection[Digest]) -> list[Run]:
    depths = segment.depths
    ordered = sorted(wanted, key=lambda digest: (depths[digest], *_at(segment.chunks[digest])))
    runs: list[Run] = []
    depth = -1
    for digest in ordered:
        place = segment.chunks[digest]
        last = runs[-1] if runs and depth == depths[digest] else None
        depth = depths[digest]
        end = place.offset + place.length
        is_near = last is not None and last.pack == place.pack and place.offset - last.end <= _GAP_BYTES
        if last is not None and is_near and end - last.start <= _RUN_BYTES:
            runs[-1] = Run(place.pack, last.start, max(end, last.end), (*last.digests, digest))
        else:
            runs.append(Run(place.pack, place.offset, end, (digest,)))
    return runs


def _at(place: ChunkPlace) -> tuple[int, int]:
    return place.pack, place.offset


@dataclass(slots=True)
class RemoteRecords:
    """The records of these runs, several being on their way at once; see `receiving.Records`.

    `entries` raises RecordDamaged where a chunk is not what the segment says.

    `advance` is told of bytes that have come.
    """

    backend: Backend
    segment: Segment
    runs: Collection[Run]
    pool: Executor
    advance: Callable[[int], None]
    received_bytes: int = 0
    _record: bytes = b""
    _running: deque[tuple[Run, Future[bytes]]] = field(default_factory=deque)

    def entries(self) -> Iterator[PackEntry]:
        """Each chunk's entry. Raises PackGone, IntegrityError, RemoteError."""
        waiting = iter(self.runs)
        while True:
            while len(self._running) < _AT_ONCE and (run := next(waiting, None)) is not None:
                self._running.append((run, self.pool.submit(self._read, run)))
            if not self._running:
                return
            run, future = self._running.popleft()
            data = future.result()
            self.received_bytes += len(data)
            self.advance(len(data))
            for digest in run.digests:
                yield self._entry(digest, run, data)

    def record(self) -> bytes:
        """The record of the entry that came last."""
        return self._record

    def _read(self, run: Run) -> bytes:
        return read_range(self.backend, self.segment.packs[run.pack].key, run.start, run.length)

    def _entry(self, digest: Digest, run: Run, data: bytes) -> PackEntry:
        place = self.segment.chunks[digest]
        start = place.offset - run.start
        self._record = data[start : start + place.length]
        return checked_entry(self.backend.name, self.segment.packs[run.pack].key, digest, place, self._record)


def read_range(backend: Backend, key: str, start: int, length: int) -> bytes:
    """Bytes of a pack. Raises PackGone, RecordDamaged where it ends before them, RemoteError."""
    try:
        data = backend.get_range(key, start, length)
    except KeyMissing as error:
        raise PackGone(backend.name, key) from error
    if len(data) != length:
        raise RecordDamaged(f"{key} in {backend.name} is damaged: it ends before byte {start + length:,}", key)
    return data


def checked_entry(name: str, key: str, digest: Digest, place: ChunkPlace, record: bytes) -> PackEntry:
    """What a record says of itself, where that is what the segment says. Raises RecordDamaged, UnsupportedFormat."""
    try:
        entry = parse_record(record, place.offset)
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{key} in {name}: {error}") from error
    except IntegrityError as error:
        raise RecordDamaged(f"{key} in {name} is damaged at byte {place.offset:,}: {error}", key, digest) from error
    said = (entry.digest, entry.length, entry.raw_bytes, entry.encoding, entry.base, entry.grouping)
    if said != (digest, place.length, place.raw_bytes, place.encoding, place.base, place.grouping):
        raise RecordDamaged(f"{key} in {name} is damaged at byte {place.offset:,}: not chunk {digest}", key, digest)
    return entry


def total_bytes(runs: Collection[Run]) -> int:
    """How many bytes these ranges are."""
    return sum(run.length for run in runs)
