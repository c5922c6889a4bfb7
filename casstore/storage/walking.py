"""Going through a directory that may be of any depth: without recursion, and following no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator


def walk(root: str, failed: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `root` by relative path, each directory before what is in it, with what lstat says.

    What cannot be looked at, or has too long a path, is handed to `failed`; without that its OSError is raised.
    """
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(f"{root}/{below}") as entries:
                listed = list(entries)
        except OSError as error:
            _report(error, failed)
            continue
        for entry in listed:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                _report(error, failed)
                continue
            yield f"{below}{entry.name}", status
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{below}{entry.name}/")


def _report(error: OSError, failed: Callable[[OSError], None] | None) -> None:
    if failed is None:
        raise error
    failed(error)


def holds_a_file(root: str) -> bool:
    """Whether anything but directories is below `root`; also where that cannot be told."""
    try:
        return any(not stat.S_ISDIR(status.st_mode) for _, status in walk(root))
    except OSError:
        return True
