"""The exit status of a process whose last versions could not be saved, which shows when the program itself has ended.

A hook of atexit cannot set it: an exception that it raises is printed and forgotten, and os._exit would leave out what
comes after it. Python has two ways to end in another status after everything else, by which it tells of its own errors.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any


class _Unflushed:
    """Standard error, of which the last flush fails: the status is 120 then, as where output was lost
    (https://docs.python.org/3/library/sys.html#sys.exit)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()
        if sys.is_finalizing():  # Python's own, of which nothing is printed
            raise OSError("not everything was saved")


def fail() -> None:
    """Have this process end in status 120, or in 1 if an exception has ended it. For a hook of atexit."""
    if getattr(sys, "last_type", None) is None:
        sys.stderr = _Unflushed(sys.stderr)


def be_interrupted() -> None:
    """Have this process end by SIGINT, as after Ctrl-C, so that a shell's loop ends too. For a hook of atexit.

    After sys.exit the status is 120.
    """
    # Python notes an interrupt that ends source text, as it would that of the program (bpo-1054041).
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102
    fail()
