"""Tags: `name:version`, and what a user may type to mean one."""

from __future__ import annotations

import re
import secrets
import threading
import time
import warnings
from dataclasses import dataclass

from casstore.errors import InvalidTag

LATEST = "latest"
MAX_PART_CHARACTERS = 63
_PART = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: reserved with any extension, so a store
# that is copied to Windows keeps all its directories.
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A complete, valid tag. Build one with `Tag.parse` or from validated parts."""

    name: str
    version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _part("name", self.name))
        object.__setattr__(self, "version", _part("version", self.version))
        if self.version == LATEST:
            raise InvalidTag("'latest' always means the newest version and cannot be a version's own name")

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read `name:version`. Raises InvalidTag when a part is missing or invalid."""
        query = TagQuery.parse(text)
        if query.version is None:
            raise InvalidTag(f"{text!r} names no version; write it as {query.name}:VERSION")
        return cls(query.name, query.version)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class TagQuery:
    """What a user typed to mean a version: a name, and perhaps a version, a prefix of one, or `latest`."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str | Tag) -> TagQuery:
        """Read `name`, `name:version`, `name:prefix` or `name:latest`. Raises InvalidTag."""
        if isinstance(text, Tag):
            return cls(text.name, text.version)
        if not isinstance(text, str):
            raise InvalidTag(f"a tag is text such as 'bert:v1', not {type(text).__name__}")
        name, colon, version = text.partition(":")
        if colon and not version:
            raise InvalidTag(f"{text!r} ends in ':'; write {name!r} for the newest version of it")
        return cls(_part("name", name), _part("version", version) if colon else None)

    @property
    def wants_newest(self) -> bool:
        return self.version is None or self.version == LATEST

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


def _part(what: str, text: str) -> str:
    lowered = text.lower() if text.isascii() else text
    if len(lowered) > MAX_PART_CHARACTERS:
        raise InvalidTag(f"the {what} {text!r} has {len(lowered)} characters; at most {MAX_PART_CHARACTERS} fit")
    if _PART.fullmatch(lowered) is None:
        raise InvalidTag(
            f"{text!r} cannot be a {what}: use letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )
    if _WINDOWS_DEVICE.fullmatch(lowered):
        raise InvalidTag(f"{text!r} cannot be a {what}: Windows reserves it for a device")
    if lowered != text:
        # The level points at the caller of the public method on most paths; the text is what matters.
        warnings.warn(f"the {what} {text!r} is kept in lower case, as {lowered!r}", stacklevel=4)
    return lowered


def is_part(text: object) -> bool:
    """Whether that can be a name or a version just as it stands."""
    return (
        type(text) is str
        and len(text) <= MAX_PART_CHARACTERS
        and _PART.fullmatch(text) is not None
        and _WINDOWS_DEVICE.fullmatch(text) is None
    )


# Crockford's base32 in lower case: sorts like the number it writes, and has no i, l, o, u to misread.
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_BITS = 45  # milliseconds until the year 3084
_RANDOM_BITS = 35  # together 80 bits, 16 characters
_generated_lock = threading.RLock()  # a signal's handler may save, too
_last_generated = 0


def generate_version() -> str:
    """A new version: 16 base32 characters that sort by time, increasing within a process."""
    global _last_generated
    milliseconds = time.time_ns() // 1_000_000
    candidate = (milliseconds << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    with _generated_lock:
        # Within one millisecond, or when the clock steps back, count on from the last value.
        _last_generated = value = max(candidate, _last_generated + 1)
    return "".join(_BASE32[(value >> shift) & 31] for shift in range(_TIME_BITS + _RANDOM_BITS - 5, -1, -5))
