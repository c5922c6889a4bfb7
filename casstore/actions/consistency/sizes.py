"""Whether a container is as long as it must be."""

from __future__ import annotations

import os

from casstore.storage import files


def what_is_wrong(path: str, size: int) -> str:
    """What stat says is wrong with a container; empty where it is there and not cut short. Raises OSError."""
    try:
        standing = os.stat(path).st_size
    except OSError as error:
        files.raise_unless_damage(error)
        return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    return "" if standing >= size else f"has {standing:,} bytes and should have {size:,}"
