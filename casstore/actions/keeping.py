"""What is kept for a while before it goes, in quarantine/ and drafts/: directories named by when they were made."""

from __future__ import annotations

import calendar
import contextlib
import re
import time
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.storage import files
from casstore.storage.layout import new_id

_DAY_NS = 24 * 3600 * 1_000_000_000
_TIME = "%Y%m%dT%H%M%S"
_NAME = re.compile(r"(\d{8}T\d{6})\.(\d{6})Z-[0-9a-z]+")


def keep_ns(workspace: Workspace) -> int:
    """How long things are kept: the setting keep_days."""
    return int(workspace.catalog.setting("keep_days")) * _DAY_NS


def trash_ns(workspace: Workspace) -> int:
    """How long deleted versions can be brought back: the setting trash_days; 0 where delete takes them at once."""
    return int(workspace.catalog.setting("trash_days")) * _DAY_NS


def new_directory(parent: Path) -> Path:
    """Make a directory below `parent`, a part of quarantine/, that says in its name when that was. Raises OSError.

    The time stands in the name and not in its times, so that it survives a copy of the store.
    """
    files.make_directory(parent)
    path = parent / new_name()
    files.make_directory(path)
    return path


def new_name(ending: str = "") -> str:
    """A name that says that it is now, and ends in `ending`, by default in 8 random characters."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime(_TIME, time.gmtime(seconds))}.{rest // 1000:06}Z-{ending or new_id()[:8]}"


def kept(parent: Path) -> list[Path]:
    """The directories below `parent` that `new_directory` has made, oldest first."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in parent.iterdir() if made_at_ns(path) is not None and path.is_dir())
    return []


def overdue(parent: Path, keep_ns: int) -> list[Path]:
    """The directories below `parent` that have been kept for `keep_ns`, oldest first."""
    now_ns = time.time_ns()
    return [path for path in kept(parent) if now_ns - (made_at_ns(path) or 0) >= keep_ns]


def mend_clocks(parent: Path, keep_ns: int) -> None:
    """Have the time of what comes from the far future begin now: a clock was wrong, and it would be kept for ever.

    Raises OSError.
    """
    now_ns = time.time_ns()
    for path in kept(parent):
        if now_ns - (made_at_ns(path) or 0) < -keep_ns - _DAY_NS:
            files.rename(path, parent / new_name(path.name.rpartition("-")[2]))


def made_at_ns(path: Path) -> int | None:
    """When a directory was made that `new_directory` names so, to the microsecond; None for any other."""
    match = _NAME.fullmatch(path.name)
    with contextlib.suppress(ValueError):  # digits that are not a time
        if match:
            return calendar.timegm(time.strptime(match[1], _TIME)) * 1_000_000_000 + int(match[2]) * 1000
    return None
