"""Keeps the memory that coding uses again and again from going back to the system between two chunks."""

from __future__ import annotations

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Make the C library keep some tens of MiB of freed memory instead of giving it back.

    Coding a chunk takes and frees a dozen buffers of a mebibyte. As glibc begins, each of them comes fresh from the
    system, and mapping its pages takes longer than all that is done with it: decoding whole chunks took 2.5 times as
    long. Freeing one block of nearly 32 MiB, which is never touched, makes it keep blocks up to that size, and twice as
    much in all (mallopt(3), "dynamic mmap threshold"). Elsewhere it does nothing.
    """
    bytes((32 << 20) - (64 << 10))


def give_freed_memory_back() -> None:
    """Make the C library give what it keeps back to the system; for now and then, in work that goes on for minutes.

    Each thread of glibc has memory of its own, and what is freed in one is no use to another: a pull of 10 GB, whose
    bytes go through some twenty threads, held 530 MiB, of which it used less than half.
    """
    with contextlib.suppress(OSError, AttributeError):  # of another C library
        ctypes.CDLL(None).malloc_trim(0)
