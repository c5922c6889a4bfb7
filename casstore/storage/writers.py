"""Which process holds a file open for writing, in words: asked only when it is known that one does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR


def open_here() -> frozenset[tuple[int, int]]:
    """Every file that this process holds open for writing, by (device, inode); none where the system does not tell."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # of the listing itself, closed by now
                if fcntl.fcntl(int(name), fcntl.F_GETFL) & _WRITING:
                    status = os.fstat(int(name))
                    found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def writer_of(status: os.stat_result) -> str:
    """The process that holds this file open for writing, this one first; "some process" where nothing tells."""
    wanted = (status.st_dev, status.st_ino)
    if wanted in open_here():
        return "this process"
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and wanted in _written_by(name):
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{name}/comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"process {name} ({command})"
    return "some process"


def _written_by(process: str) -> set[tuple[int, int]]:
    found = set()
    with contextlib.suppress(OSError):  # another user's, or gone
        for name in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                said = Path(f"/proc/{process}/fdinfo/{name}").read_text(encoding="ascii")
                flags = next(line for line in said.splitlines() if line.startswith("flags:"))
                if int(flags.split()[1], 8) & _WRITING:
                    status = os.stat(f"/proc/{process}/fd/{name}")
                    found.add((status.st_dev, status.st_ino))
    return found
