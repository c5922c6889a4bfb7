"""What is being written beside the place where it will stand, outside of a store: hidden, and locked while its process
lives. So what a killed process has left is told from what another one is at, and the next that writes there removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from casstore.storage import files, locks, machine
from casstore.storage.descriptors import Descriptor, OpenDirectory
from casstore.storage.layout import new_id

_NAME = re.compile(r"\.casstore-[0-9a-z]{16}\.part")
_ANY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def file_in(directory: Path) -> tuple[Path, Descriptor]:
    """A new file in `directory`, open, and locked until it is closed. Raises OSError."""
    while True:
        path = _new_path(directory)
        file = files.create_file(path)
        if locks.try_lock(file.fileno()) is not False and path.exists():
            return path, file
        file.close()  # taken for a leftover, before it was locked


@contextlib.contextmanager
def directory_in(directory: Path) -> Iterator[Path]:
    """A new directory below `directory`, which is made if need be; locked until the block ends. Raises OSError."""
    while True:
        path = _new_path(directory)
        files.make_directory(path, parents=True)
        try:
            lock = OpenDirectory(path)
        except FileNotFoundError:
            continue
        try:
            if locks.try_lock(lock[0]) is not False and path.exists():
                yield path
                return
        finally:
            lock.close()


def _new_path(directory: Path) -> Path:
    return directory / f".casstore-{new_id()}.part"


def remove_leftovers(directory: Path) -> None:
    """Remove what killed processes have left in `directory`. What cannot be looked at, or locked, stays."""
    with contextlib.suppress(OSError):
        found = [name for name in os.listdir(directory) if _NAME.fullmatch(name)]
        if found and machine.network_file_system(directory) is None:  # where locks may not reach other machines
            for name in found:
                _remove_if_left(directory / name)


def _remove_if_left(path: Path) -> None:
    with contextlib.suppress(OSError):
        opened = OpenDirectory(path, _ANY)
        try:
            if locks.try_lock(opened[0]):
                files.remove_tree(path)
        finally:
            opened.close()
