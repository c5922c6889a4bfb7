"""The chunks of one blob, for a reader that mostly goes forward: looked up many at a time and read ahead by threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from casstore.digest import Digest
from casstore.late import LateModule
from casstore.storage import machine
from casstore.storage.container import Location
from casstore.storage.recipe import Chunk

if TYPE_CHECKING:
    from concurrent import futures
else:
    futures = LateModule("concurrent.futures")

Locations = Mapping[Digest, Location]

# Each takes some 15 MiB, and so many decode faster than a disk takes, or gives, what they do.
_MOST_THREADS = 8
_CHUNKS_AHEAD = 8  # at most 8 MiB, 128 at the format's hard limit
_SMALLEST_AHEAD_BYTES = 32 << 10  # to hand a smaller chunk to a thread takes longer than to read it
# How many chunks one look-up covers: few after a jump, since they may be all that is read there.
_FIRST_LOOK_UP = 16
_LARGEST_LOOK_UP = 512


def decode_threads() -> int:
    """How many threads decode chunks for one reader."""
    return max(2, min(_MOST_THREADS, machine.usable_cores()))


class ChunkSequence:
    """The chunks of one blob by their number, each read when it is asked for or, in a run of them, before.

    Threads run only while chunks are read one after the other; they end with the last chunk, or at `close`. One thread
    at a time may ask. A forked child may go on with a sequence of its parent's.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        locate: Callable[[Collection[Digest]], Locations],
        read: Callable[[Digest, Locations], bytes],
        locations: Locations | None = None,
    ) -> None:
        """`locations`: of all the chunks, where they have been looked up already."""
        self._chunks = chunks
        self._locate = locate
        self._read = read
        self._locations = locations or {}
        # The numbers of the chunks that `_locations` was asked for.
        self._located = range(0 if locations is None else len(chunks))
        self._last = -2  # so that the first chunk begins no run
        self._ahead: dict[int, futures.Future[bytes]] = {}
        self._pool: futures.ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def get(self, number: int) -> bytes:
        """One chunk's raw bytes. Raises what the given `read` raises for it; a chunk read ahead raises only here."""
        self._leave_to_parent()
        is_run = number == self._last + 1
        if not is_run:
            self._cancel()
        self._last = number
        if is_run:
            self._read_ahead(number)
        ahead = self._ahead.get(number)
        try:
            raw = (
                self._read(self._chunks[number].digest, self._locations_of(number)) if ahead is None else ahead.result()
            )
        finally:
            self._ahead.pop(number, None)
        if self._pool is not None and number + 1 == len(self._chunks):
            self._pool.shutdown()
            self._pool = None
        return raw

    def close(self) -> None:
        """Stop reading ahead. A read that is in progress runs to its end, and is not waited for: the
        garbage collector may be closing the reader, in a thread that holds a lock which reading takes."""
        self._leave_to_parent()
        self._cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's threads, which do not run here."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._ahead = {}
            self._pool = None

    def _cancel(self) -> None:
        for future in self._ahead.values():
            future.cancel()
        self._ahead = {}

    def _locations_of(self, number: int) -> Locations:
        if number not in self._located:
            count = _FIRST_LOOK_UP
            if self._located.start <= self._last <= self._located.stop:
                count = max(count, min(2 * len(self._located), _LARGEST_LOOK_UP))
            # From where the reader stands, since not all from there on may have been read ahead.
            self._located = range(self._last, min(number + count, len(self._chunks)))
            self._locations = self._locate({self._chunks[each].digest for each in self._located})
        return self._locations

    def _read_ahead(self, number: int) -> None:
        for following in range(number + 1, min(number + 1 + _CHUNKS_AHEAD, len(self._chunks))):
            chunk = self._chunks[following]
            if following in self._ahead or chunk.length < _SMALLEST_AHEAD_BYTES:
                continue
            locations = self._locations_of(following)
            try:
                if self._pool is None:
                    self._pool = futures.ThreadPoolExecutor(decode_threads())
                self._ahead[following] = self._pool.submit(self._read, chunk.digest, locations)
            except RuntimeError:  # the interpreter is shutting down, or no thread is to be had
                return
