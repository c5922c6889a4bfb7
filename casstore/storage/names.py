"""Names of files in versions: UTF-8 in everything that is stored, whatever the locale makes of them in this process.

A name is bytes to the file system. Python makes text of them by the locale's encoding, and only such text leads back to
the file: where the encoding is not UTF-8, it is not what the name says. In memory names are as Python has them, and all
of `os` takes them; what is stored, exported or shown is their bytes as UTF-8.
"""

from __future__ import annotations

import os
import sys

IS_UTF8 = sys.getfilesystemencoding().lower() in ("utf-8", "utf8")


def as_stored(name: str) -> str:
    """A name, or a path, as it is stored, of the one that this process opens it by.

    Raises UnicodeError for a name that is not UTF-8, where the encoding of the locale is another.
    """
    return name if IS_UTF8 or name.isascii() else os.fsencode(name).decode("utf-8")


def as_opened(name: str) -> str:
    """A name, or a path, as this process opens it, of the one that is stored. Raises UnicodeError for no Unicode."""
    return name if IS_UTF8 or name.isascii() else os.fsdecode(name.encode("utf-8"))
