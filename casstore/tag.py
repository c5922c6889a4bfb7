"""Tags: `name:version`, and what a user may type to mean one."""

from __future__ import annotations

import os
import re
import threading
import time
import unicodedata
import warnings
from enum import Enum
from typing import TYPE_CHECKING

from casstore.errors import InvalidTag
from casstore.late import LateModule
from casstore.late_classes import dataclass

if TYPE_CHECKING:
    import hashlib
else:
    hashlib = LateModule("hashlib")  # brings OpenSSL

LATEST = "latest"
MAX_PART_CHARACTERS = 63
_PART = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
_NO_PART = re.compile(r"[^-._a-z0-9]")
_NO_ENDS = re.compile(r"^[-._]+|[-._]+$")
_DIGEST_CHARACTERS = 8
# What registries count versions with: as an alias it would be taken for one.
_NUMBERED = re.compile(r"v[0-9]+")
_MOST_MOVES_DIGITS = 9
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: reserved with any extension, so a store
# that is copied to Windows keeps all its directories.
WINDOWS_DEVICE = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.[^:]*)?"
_WINDOWS_DEVICE = re.compile(WINDOWS_DEVICE)


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A complete, valid tag, `name:version`. Tags sort by name, then by version.

    Parameters
    ----------
    name, version
        Letters, digits, `-`, `_` and `.`, at most 63 characters each, beginning and ending with a letter or digit.
        Capital letters become small ones, with a warning.

    Raises
    ------
    InvalidTag
        A part does not follow these rules, or is reserved.

    Examples
    --------
    >>> casstore.Tag.parse("bert:v1").version
    'v1'
    >>> str(casstore.Tag("bert", "v1"))
    'bert:v1'
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _part("name", self.name))
        object.__setattr__(self, "version", _part("version", self.version))
        if self.version == LATEST:
            raise InvalidTag("'latest' always means the newest version and cannot be a version's own name")

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read `name:version`.

        Parameters
        ----------
        text
            The tag as text.

        Returns
        -------
        Tag
            The tag.

        Raises
        ------
        InvalidTag
            A part is missing or invalid.
        """
        query = TagQuery.parse(text)
        if query.alias is not None:
            raise InvalidTag(f"{text!r} is an alias, which moves; write the version itself, as {query.name}:VERSION")
        if query.version is None:
            raise InvalidTag(f"{text!r} names no version; write it as {query.name}:VERSION")
        return cls(query.name, query.version)

    @classmethod
    def of_checked(cls, name: str, version: str) -> Tag:
        """Make a tag of parts that are known to be valid, without looking at them again.

        Parameters
        ----------
        name, version
            Parts of a tag that exists.

        Returns
        -------
        Tag
            The tag.
        """
        made = object.__new__(cls)
        object.__setattr__(made, "name", name)
        object.__setattr__(made, "version", version)
        return made

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True, order=True)
class AliasName:
    """`name@alias`: a word for a version of a name, which moves."""

    name: str
    alias: str

    @classmethod
    def parse(cls, text: str | AliasName) -> AliasName:
        """Read `name@alias`. Raises InvalidTag."""
        if isinstance(text, AliasName):
            return text
        query = TagQuery.parse(text)
        if query.alias is None:
            raise InvalidTag(f"{text!r} is not an alias; an alias is written {query.name}@ALIAS, such as bert@prod")
        if query.back:
            raise InvalidTag(f"{text!r} is where an alias stood; the alias itself is {query.name}@{query.alias}")
        return cls(query.name, query.alias)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"


class Anywhere(Enum):
    """Stands for an alias that may be moved wherever it stands."""

    ANYWHERE = "anywhere"


@dataclass(frozen=True, slots=True)
class TagQuery:
    """What a user typed to mean a version: a name, and perhaps a version, a prefix of one, or `latest`; or an alias,
    and how many moves to go `back` from where it stands."""

    name: str
    version: str | None = None
    alias: str | None = None
    back: int = 0

    @classmethod
    def parse(cls, text: str | Tag) -> TagQuery:
        """Read `name`, `name:version`, `name:prefix`, `name:latest`, `name@alias` or `name@alias~n`.

        Raises InvalidTag.
        """
        if isinstance(text, Tag):
            return cls(text.name, text.version)
        if not isinstance(text, str):
            raise InvalidTag(f"a tag is text such as 'bert:v1', not {type(text).__name__}")
        name, at, alias = text.partition("@")
        if at and ":" not in name:
            return cls._aliased(name, alias, text)
        name, colon, version = text.partition(":")
        if colon and not version:
            raise InvalidTag(f"{text!r} ends in ':'; write {name!r} for the newest version of it")
        return cls(_part("name", name, text), _part("version", version, text) if colon else None)

    @classmethod
    def _aliased(cls, name: str, text: str, whole: str) -> TagQuery:
        alias, tilde, moves = text.partition("~")
        if tilde and not (moves.isascii() and moves.isdigit() and len(moves) <= _MOST_MOVES_DIGITS):
            raise InvalidTag(f"{whole!r}: after '~' stands a number of moves, such as {name}@{alias}~1")
        if ":" in alias:
            raise InvalidTag(f"{whole!r} names both an alias and a version; write {whole.rpartition(':')[0]!r}")
        checked = _part("alias", alias)
        if checked == LATEST:
            raise InvalidTag(f"'latest' always means the newest version ({name}:latest) and cannot be an alias")
        if _NUMBERED.fullmatch(checked):
            raise InvalidTag(f"{alias!r} reads like a version and cannot be an alias; take a word, such as 'prod'")
        return cls(_part("name", name), alias=checked, back=int(moves or 0))

    @property
    def wants_newest(self) -> bool:
        return self.alias is None and (self.version is None or self.version == LATEST)

    @property
    def is_name(self) -> bool:
        """Whether it is a name alone."""
        return self.version is None and self.alias is None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}" + (f"~{self.back}" if self.back else "")
        return self.name if self.version is None else f"{self.name}:{self.version}"


def slug(text: str) -> str:
    """Return the tag, or the name, that is nearest to any text.

    What stands before the first colon becomes the name, the rest the version. A slash becomes two hyphens, as in the
    cache of huggingface_hub, and any other character that a tag cannot have becomes one. What is too long is cut, and
    ends in a digest of all of it, so that different texts stay different. A valid tag stays what it is.

    Parameters
    ----------
    text
        Any text, such as the name of a repository on a hub.

    Returns
    -------
    str
        A valid tag or name.

    Raises
    ------
    InvalidTag
        Nothing is left.

    Examples
    --------
    >>> casstore.slug("meta-llama/Llama-3:v1.0+cu118")
    'meta-llama--llama-3:v1.0-cu118'
    """
    if not isinstance(text, str):
        raise InvalidTag(f"a tag is text such as 'bert:v1', not {type(text).__name__}")
    name, colon, version = text.partition(":")
    return f"{_slug('name', name)}:{_slug('version', version)}" if colon and version else _slug("name", name)


def _slug(what: str, text: str) -> str:
    lowered = text.lower()
    if is_part(lowered):
        return lowered
    # Accents go, and letters of other scripts.
    plain = unicodedata.normalize("NFKD", lowered).encode("ascii", "ignore").decode("ascii").lower()
    made = _NO_ENDS.sub("", _NO_PART.sub("-", plain.replace("/", "--")))
    if not made:
        raise InvalidTag(f"nothing in {text!r} can stand in a {what}: use letters a to z, digits, '-', '_' and '.'")
    if _WINDOWS_DEVICE.fullmatch(made):
        made = f"x-{made}"
    if len(made) > MAX_PART_CHARACTERS:
        ending = "-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
        made = made[: MAX_PART_CHARACTERS - len(ending)] + ending
    return made


def _suggestion(text: str) -> str | None:
    """What would be accepted in place of an invalid tag; None where there is nothing like it."""
    try:
        return slug(text)
    except InvalidTag:
        return None


def _part(what: str, text: str, whole: str | None = None) -> str:
    """A name, a version or an alias, checked; `whole` is the tag that it was typed in. Raises InvalidTag."""
    lowered = text.lower() if text.isascii() else text
    such = f"an {what}" if what == "alias" else f"a {what}"
    if len(lowered) > MAX_PART_CHARACTERS:
        raise _invalid(f"the {what} {text!r} has {len(lowered)} characters; at most {MAX_PART_CHARACTERS} fit", whole)
    if _PART.fullmatch(lowered) is None:
        raise _invalid(
            f"{text!r} cannot be {such}: use letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit",
            whole,
        )
    if _WINDOWS_DEVICE.fullmatch(lowered):
        raise _invalid(f"{text!r} cannot be {such}: Windows reserves it for a device", whole)
    if lowered != text:
        # The level points at the caller of the public method on most paths; the text is what matters.
        warnings.warn(f"the {what} {text!r} is kept in lower case, as {lowered!r}", stacklevel=4)
    return lowered


def _invalid(message: str, text: str | None) -> InvalidTag:
    """The error for an invalid tag, with the nearest that would be accepted."""
    near = None if text is None else _suggestion(text)
    if near is None:
        return InvalidTag(message)
    return InvalidTag(f"{message}; {near!r} would do (casstore.slug() makes it, as does `casstore save --slug`)", near)


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
    candidate = (milliseconds << _RANDOM_BITS) | (int.from_bytes(os.urandom(5), "big") >> 5)
    with _generated_lock:
        # Within one millisecond, or when the clock steps back, count on from the last value.
        _last_generated = value = max(candidate, _last_generated + 1)
    return "".join(_BASE32[(value >> shift) & 31] for shift in range(_TIME_BITS + _RANDOM_BITS - 5, -1, -5))
