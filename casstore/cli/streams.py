"""The standard streams of a process that was started without some of them, as by cron, systemd or `2>&-`."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_missing() -> None:
    """Open /dev/null for each standard stream that is closed: what would be written there goes nowhere.

    To be called before any file is opened. The next one would get the number of the stream that is missing, and what
    some library or child process writes to that stream would go into the file.
    """
    for number in range(len(_STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            # open(2) gives the lowest number that is free, and those below are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            # By its name: an import may have opened a file of its own under the number.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
