"""Which files of a version are meant."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

from casstore.late import LateModule
from casstore.storage.manifest import FileEntry

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")


def picked(files: Sequence[FileEntry], patterns: Sequence[str] | None, name: str) -> list[FileEntry]:
    """The files that are meant by paths, directories or patterns, all where nothing is said, in their order.

    `name` is what errors call the version. Raises FileNotFoundError for a pattern that fits none.
    """
    if patterns is None:
        return list(files)
    found: set[str] = set()
    for pattern in patterns:
        fitting = [file.path for file in files if _fits(file.path, pattern)]
        if not fitting:
            raise FileNotFoundError(_not_there([file.path for file in files], pattern, name))
        found.update(fitting)
    return [file for file in files if file.path in found]


def _fits(path: str, pattern: str) -> bool:
    directory = pattern.rstrip("/") + "/"
    return path == pattern or path.startswith(directory) or fnmatch.fnmatchcase(path, pattern)


def _not_there(paths: Sequence[str], pattern: str, name: str) -> str:
    by_name = {path.rpartition("/")[2]: path for path in reversed(paths)}
    near = difflib.get_close_matches(pattern, paths, n=3)
    near += [by_name[each] for each in difflib.get_close_matches(pattern.rpartition("/")[2], by_name, n=3)]
    names = list(dict.fromkeys(near))[:3]
    advice = f"did you mean {' or '.join(names)}?" if names else f"it has {', '.join(paths[:3]) or 'none'}"
    more = f" and {len(paths) - 3:,} more" if not names and len(paths) > 3 else ""
    return f"no file of {name} is called {pattern!r}; {advice}{more}"
