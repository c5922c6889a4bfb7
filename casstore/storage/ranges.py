"""Reading parts of a blob straight into memory: only the chunks that they reach into are decoded, on all cores."""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

from casstore.errors import IntegrityError
from casstore.storage.objects import Objects, unreadable
from casstore.storage.recipe import Chunk, Recipe


class Range(NamedTuple):
    """Bytes of a blob from `start` on, and the memory that they are to fill: writable and in one piece, of bytes."""

    start: int
    target: memoryview

    @property
    def stop(self) -> int:
        return self.start + self.target.nbytes


class _Copy(NamedTuple):
    """Part of a chunk, and the address that it goes to."""

    start: int
    stop: int
    address: int


def read_ranges(objects: Objects, recipe: Recipe, ranges: Iterable[Range], name: str) -> Generator[int, None, None]:
    """Fill memory with ranges of a blob, which are in the order of their starts; yields how many are filled, as that
    grows, and lets go of the memory of those.

    `name` is what errors call the blob. Raises ValueError for a range that reaches outside it, IntegrityError, OSError;
    then any of the memory may have been written to.
    """
    plan = _Plan(recipe, name)
    for each in ranges:
        plan.add(each)
    chunks = [plan.chunks[number] for number in sorted(plan.copies)]
    try:
        with contextlib.closing(objects.take_some(recipe, chunks, plan.take)) as taken:
            for number in taken:
                if filled := plan.filled(number):
                    yield filled
    except IntegrityError as error:
        raise unreadable(name, error, objects.advice) from error
    if filled := plan.filled(len(plan.chunks)):
        yield filled


class _Plan:
    """Which parts of which chunks go where."""

    def __init__(self, recipe: Recipe, name: str) -> None:
        self.chunks = list(recipe.chunks())
        self.copies: dict[int, list[_Copy]] = {}  # by the number of the chunk
        self._size = recipe.size
        self._name = name
        self._offsets = [chunk.offset for chunk in self.chunks]
        # Of each range that is not filled yet, the last chunk of it and of those before; and what keeps it in place.
        self._waiting: deque[tuple[int, Any]] = deque()
        self._filled = 0

    def add(self, wanted: Range) -> None:
        import ctypes  # takes some milliseconds that most commands do not need

        start, stop = wanted.start, wanted.stop
        if start < 0 or stop > self._size:
            raise ValueError(f"{self._name} has {self._size:,} bytes; {start:,} to {stop:,} are not all within it")
        last = self._waiting[-1][0] if self._waiting else -1
        memory = None
        if start < stop:
            memory = (ctypes.c_char * (stop - start)).from_buffer(wanted.target)
            address = ctypes.addressof(memory)
            first = bisect_right(self._offsets, start) - 1
            for number in range(first, bisect_left(self._offsets, stop)):
                _, offset, length = self.chunks[number]
                from_, to = max(start, offset), min(stop, offset + length)
                copy = _Copy(from_ - offset, to - offset, address + from_ - start)
                self.copies.setdefault(number, []).append(copy)
                last = max(last, number)
        self._waiting.append((last, memory))

    def take(self, chunk: Chunk, raw: bytes) -> int:
        """Copy what is wanted of a chunk; returns its number."""
        import ctypes

        number = bisect_left(self._offsets, chunk.offset)
        for start, stop, address in self.copies[number]:
            # Assigning to a slice would hold up all other threads; this does not. It checks nothing: `raw` is as long
            # as its chunk, and what goes where was cut to fit both.
            ctypes.memmove(address, raw if stop - start == chunk.length else raw[start:stop], stop - start)
        return number

    def filled(self, number: int) -> int:
        """How many ranges are filled once this chunk is taken; 0 where that is no more than before."""
        before = self._filled
        while self._waiting and self._waiting[0][0] <= number:
            self._waiting.popleft()
            self._filled += 1
        return self._filled if self._filled > before else 0
