"""The working directory of this process, which may have been removed under it."""

from __future__ import annotations

import errno
import os

GONE = "the directory that this process works in is gone; `cd` to a directory that exists, or give an absolute path"


def check_working_directory(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError, with what to do, where a path is relative to a directory that is gone.

    Without it os.path.abspath and os.path.realpath say that nothing was found, and not what.
    """
    if not os.path.isabs(path):
        try:
            os.getcwd()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, GONE, os.fspath(path)) from error
