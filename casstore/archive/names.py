"""What a member of an archive may be called."""

from __future__ import annotations

import re
import unicodedata

from casstore.errors import UnsafeArchive

_MAX_COMPONENT_BYTES = 255  # NAME_MAX of Linux's and macOS's file systems
_MAX_PATH_BYTES = 4096  # PATH_MAX of Linux
_MAX_DEPTH = 200  # as of a directory that is saved
_MAX_SHOWN = 120


def show(name: str | bytes) -> str:
    """A name for a message: quoted, and not longer than a line."""
    return repr(name) if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]!r}..."


def decode(name: bytes) -> str:
    """Raises UnsafeArchive unless the name is UTF-8."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnsafeArchive(
            f"the name of {show(name)} is not UTF-8; pack the archive again with UTF-8 names"
        ) from error


def clean(name: str) -> str:
    """The path that a member's name stands for, `/`-separated below the root; "" for the root itself.

    Raises UnsafeArchive for a name that leads elsewhere, or that means different things on different systems.
    """
    if not name:
        raise UnsafeArchive("a member of the archive has an empty name")
    fault = _fault(name)
    if fault:
        raise UnsafeArchive(f"{show(name)} in the archive {fault}")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _fault(name: str) -> str | None:
    if "\0" in name:
        return "has a NUL in its name"
    if name.startswith("/"):
        return "is an absolute path; pack the archive again with relative ones"
    if "\\" in name:
        return "has a backslash in its name, which Windows takes for a separator; rename it"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts and re.match("[A-Za-z]:", parts[0]):
        return "begins with a drive letter; rename it"
    if ".." in parts:
        return "leads out of the archive with '..'"
    if len(parts) > _MAX_DEPTH:
        return f"is nested more than {_MAX_DEPTH} directories deep"
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_COMPONENT_BYTES for part in parts):
        return f"has a name of more than {_MAX_COMPONENT_BYTES} bytes"
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES:
        return f"has a path of more than {_MAX_PATH_BYTES} bytes"
    return None


def fold(path: str) -> str:
    """What a file system that knows no case, or that normalizes Unicode, may make of a path."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
