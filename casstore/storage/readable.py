"""The bytes of an open container, wherever it stands."""

from __future__ import annotations

import os
from typing import Protocol


class Readable(Protocol):
    """An open container, as all that reads chunks sees it.

    What an implementation must do:

    - `pread` gives the `length` bytes that stand from `offset` on: fewer only where the container ends before them,
      none from its end on. Neither is an error here; the caller compares what it gets with its digest.
    - `size` is how many bytes there are. A container never changes, and so neither does what the two give.
    - FileNotFoundError says that the container is gone, and makes the caller look up again where its chunk stands. Any
      other OSError says that the bytes could not be read, as after an error of a disk or a network. It is never
      IntegrityError.
    - Several threads may call it at once, and a forked child may go on with it.
    """

    def pread(self, offset: int, length: int) -> bytes: ...

    @property
    def size(self) -> int: ...


class OpenFile:
    """A local file, by a descriptor that its owner closes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def will_need(self, offset: int, length: int) -> None:
        """Have the system begin to read these bytes, where it can."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)
