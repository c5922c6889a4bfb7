"""Writing to disk while hashing: what a sync at the end waits for is on its way there by then.

Nothing here makes anything durable; the fsync that a promise stands on comes later, and is not left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from casstore.digest import Digest
from casstore.storage import files
from casstore.storage.descriptors import Descriptor, duplicate

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# Smaller files take no longer to sync than a thread takes to start. It is also from here on that hashing uses two.
FROM_BYTES = 8 << 20
# How far hashing is ahead of the disk at least, and what an interrupt waits for at most.
STEP_BYTES = 16 << 20
# Files that are kept open, since a kernel may forget an error of writing with the file that nobody has open.
_MOST_OPEN = 16
_MOST_AHEAD = 64
# As in the plan of a save, which puts the new chunks of what is mostly known into a pack: such a file is not synced.
_MOSTLY_KNOWN_SHARE = 0.25
_SAMPLE = 64

Follow = Callable[[int, Sequence[Digest]], None]
"""Is told, in order, how many bytes more of a file are ready to be written, and of which chunks they are."""


def unfollowed(length: int, digests: Sequence[Digest]) -> None:
    """Is told of a file that is not to be written yet."""


class WriteBack:
    """Starts to write files to disk, in a thread of its own, for one save; ended by leaving the `with` block.

    `known`: which of these chunks are stored already. What mostly consists of such is not written, since nothing will
    sync it. An error that the kernel meets is raised by `check`, which comes after the files have been synced: to
    whichever descriptor it was reported, it is not lost.
    """

    def __init__(self, known: Callable[[Collection[Digest]], Collection[Digest]]) -> None:
        self._known = known
        self._pool: ThreadPoolExecutor | None = None
        self._begun: deque[Descriptor] = deque()
        self._done: deque[Descriptor] = deque()
        self._error: OSError | None = None

    def __enter__(self) -> WriteBack:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(is_done=False)
        while self._begun or self._done:
            (self._begun or self._done).pop().close()

    def follow(self, descriptor: int, size: int) -> Follow:
        """What is to be told of an open file of this size as its bytes are ready. The caller may close the file."""
        if size < FROM_BYTES or len(self._begun) >= _MOST_AHEAD:  # then the disk has enough to do
            return unfollowed
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # takes time that most commands do not need

            self._pool = ThreadPoolExecutor(1, "casstore-write-back")
        # Of the same open file: the kernel tells it of all errors since that was opened.
        held = duplicate(descriptor)
        self._begun.append(held)
        return _Following(self._pool, self._step, held, size).advance

    def is_mostly_known(self, digests: Sequence[Digest]) -> bool:
        """Whether so many of these chunks are stored, by a sample of them, that the new ones will go into a pack."""
        sample = set(digests[:: 1 + len(digests) // _SAMPLE])
        return len(sample - set(self._known(sample))) < len(sample) * _MOSTLY_KNOWN_SHARE

    def check(self) -> None:
        """Raise the OSError that the kernel met when it wrote one of these files, if it met one."""
        self._stop(is_done=True)  # of files that have been synced nothing is left to write
        for held in (*self._begun, *self._done):
            self._call(files.await_writeback, held)
        if self._error is not None:
            raise self._error

    def _step(self, held: Descriptor, offset: int, length: int, digests: Sequence[Digest], is_end: bool) -> None:
        try:
            if not (digests and self.is_mostly_known(digests)):
                self._call(partial(files.start_writeback, offset=offset, size=length), held)
        finally:
            if is_end:
                self._begun.remove(held)
                self._done.append(held)
                if len(self._done) > _MOST_OPEN:
                    oldest = self._done.popleft()
                    self._call(files.await_writeback, oldest)
                    oldest.close()

    def _call(self, call: Callable[[int], None], held: Descriptor) -> None:
        try:
            call(held.fileno())
        except OSError as error:
            self._error = self._error or error

    def _stop(self, *, is_done: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=not is_done)
            self._pool = None


class _Following:
    """Makes steps of what is told of one file."""

    def __init__(self, pool: ThreadPoolExecutor, step: Callable[..., None], held: Descriptor, size: int) -> None:
        self._pool = pool
        self._step = step
        self._held = held
        self._size = size
        self._begin = self._end = 0
        self._sample: list[Digest] = []

    def advance(self, length: int, digests: Sequence[Digest]) -> None:
        self._end += length
        self._sample += digests[:1]
        is_end = self._end >= self._size
        if self._end - self._begin >= STEP_BYTES or is_end:
            self._pool.submit(self._step, self._held, self._begin, self._end - self._begin, self._sample, is_end)
            self._begin, self._sample = self._end, []
