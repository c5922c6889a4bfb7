"""Room that a store keeps for a full disk: what gives space back needs some first, and so does opening the catalog."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from casstore.storage import files

FULL = (errno.ENOSPC, errno.EDQUOT)
# A deletion, or the first steps of gc, write some pages to the catalog's log, and need inodes for sessions and locks.
_PIECES, _PIECE_BYTES = 16, 32 << 10
PIECES_TO_OPEN = 4  # -shm takes 32 KiB, and -wal a few pages
# It is made where it is little of what is free; on a tiny file system only what opening takes.
_SHARE_OF_BYTES, _SHARE_OF_FILES = 4, 64


def make(directory: Path) -> None:
    """Take the room, unless it is taken already, or there is too little. A store works without it as well."""
    if directory.is_dir():
        return
    with contextlib.suppress(OSError):
        status = os.statvfs(directory.parent)
        for pieces in (_PIECES, PIECES_TO_OPEN):
            is_scarce = status.f_files > 0 and status.f_favail < _SHARE_OF_FILES * pieces
            if status.f_bavail * status.f_frsize >= _SHARE_OF_BYTES * pieces * _PIECE_BYTES and not is_scarce:
                take_back(directory, pieces)
                break


def take_back(directory: Path, pieces: int = _PIECES) -> None:
    """Reserve again the space that was given up, as far as there is room."""
    with contextlib.suppress(OSError):
        files.make_directory(directory)
        for number in range(pieces):
            _make_piece(directory / str(number))


def _make_piece(path: Path) -> None:
    if path.exists():
        return
    try:
        with files.create_file(path) as descriptor:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, _PIECE_BYTES)
            else:
                files.write_all(descriptor, bytes(_PIECE_BYTES))
    except FileExistsError:  # another process is at it
        return
    except OSError:
        files.remove_file(path)
        raise


def give_up(directory: Path, pieces: int = _PIECES) -> bool:
    """Let so much of the room go; False where there was none."""
    with contextlib.suppress(OSError):
        standing = sorted(directory.iterdir())[:pieces]
        for path in standing:
            files.remove_file(path)
        return bool(standing)
    return False


def shortage(path: Path, needed_bytes: int = 0, needed_files: int = 0) -> str | None:
    """A message about what is lacking on the file system of `path`; None if that many bytes and files are free."""
    standing = path if path.exists() else path.parent
    try:
        status = os.statvfs(standing)
    except OSError:
        return None
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        return f"no space left on the file system of {path} ({free} bytes free)"
    if status.f_files > 0 and status.f_favail < needed_files:
        return f"no inodes left on the file system of {path}: it has as many files as it can hold"
    return None
