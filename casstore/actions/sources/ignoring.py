"""What a save of a directory leaves out: tools' own files, and what its `.casstoreignore` or the caller names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

from casstore.errors import InvalidSource
from casstore.late_classes import dataclass
from casstore.storage import files

IGNORE_FILE = ".casstoreignore"
# Both say the same. Names are compared where there are no other patterns.
DEFAULT_PATTERNS = (".git", "__pycache__", "**/.cache/huggingface")
_NAMES = frozenset((".git", "__pycache__"))
_MOST_BYTES = 1 << 20  # of an IGNORE_FILE
_MOST_NAMED = 3


class Pattern(NamedTuple):
    """One line of a .gitignore, to be matched with the whole path of an entry: what is below one that is left out is
    not looked at, and what takes a directory in says nothing of what is in it."""

    regex: re.Pattern[str]
    leaves_out: bool
    only_directories: bool


@dataclass(slots=True)
class Rules:
    """Patterns as in a .gitignore (gitignore(5)), of which the last that matches an entry decides: the defaults, those
    in the directory's `.casstoreignore`, and those in `exclude`. Without `ignore` the last alone.

    `left_out`: what has been left out so far, directories with a "/" at the end and not what is in them.
    """

    exclude: tuple[str, ...] = ()
    ignore: bool = True
    left_out: list[str] = field(default_factory=list)
    _patterns: list[Pattern] | None = None

    @classmethod
    def of(cls, exclude: str | Iterable[str], ignore: bool) -> Rules:
        """Rules with the patterns of a caller, who may give one alone."""
        return cls((exclude,) if isinstance(exclude, str) else tuple(exclude), ignore)

    def read(self, root: Path) -> None:
        """Begin with a directory: read what stands in it. Raises InvalidSource."""
        self.left_out.clear()
        patterns = _patterns_in(root / IGNORE_FILE) if self.ignore else []
        if patterns or self.exclude:
            defaults = DEFAULT_PATTERNS if self.ignore else ()
            self._patterns = _compiled([*defaults, *patterns, *self.exclude], root)

    def leaves_out(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Whether to leave out what stands at `prefix`, which is empty or ends in "/"; notes it then."""
        if self._patterns is None:
            is_out = self.ignore and (entry.name in _NAMES or _is_huggingface(entry.name, prefix))
        else:
            is_out = _is_left_out(self._patterns, _path(entry, prefix))
        if is_out:
            self.left_out.append(_path(entry, prefix))
        return is_out

    def __str__(self) -> str:
        """What was left out, in words: its first names, and how many more."""
        more = f" and {len(self.left_out) - _MOST_NAMED:,} more" if len(self.left_out) > _MOST_NAMED else ""
        return ", ".join(self.left_out[:_MOST_NAMED]) + more


def _patterns_in(path: Path) -> list[str]:
    try:
        with files.open_regular(path) as descriptor:
            text = os.pread(descriptor, _MOST_BYTES + 1, 0)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}; mend it, or save with --no-ignore") from error
    if len(text) > _MOST_BYTES:
        raise InvalidSource(f"{path} has more than {_MOST_BYTES:,} bytes; shorten it, or save with --no-ignore")
    lines = os.fsdecode(text.removeprefix(b"\xef\xbb\xbf")).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _compiled(patterns: list[str], root: Path) -> list[Pattern]:
    found = []
    for text in patterns:
        try:
            found.append(translated(text))
        except (ValueError, IndexError, re.error) as error:
            raise InvalidSource(
                f"{text!r} is not a pattern that says what to leave out of {root}; patterns are those of a "
                ".gitignore, such as '*.log' or 'checkpoints/'"
            ) from error
    return found


def _is_left_out(patterns: list[Pattern], path: str) -> bool:
    is_directory, name = path.endswith("/"), path.removesuffix("/")
    for each in reversed(patterns):
        if (is_directory or not each.only_directories) and each.regex.fullmatch(name):
            return each.leaves_out
    return False


def translated(text: str) -> Pattern:
    """The rule in a line of a .gitignore. Raises ValueError, IndexError or re.error for an invalid line."""
    kept = text.rstrip(" ")
    if kept.endswith("\\") and kept != text:
        kept += " "  # the space is meant
    takes_in = kept.startswith("!")
    kept = kept.removeprefix("!")
    only_directories = kept.endswith("/")
    kept = kept.removesuffix("/")
    if not kept:
        raise ValueError("nothing is left of it")
    is_anchored = "/" in kept
    parts = kept.removeprefix("/").split("/")
    regex = "" if is_anchored else "(?:.*/)?"
    for number, part in enumerate(parts, 1):
        is_last = number == len(parts)
        if part == "**" and is_anchored:
            regex += ".+" if is_last else "(?:.*/)?"
        else:
            regex += _translated_name(part) + ("" if is_last else "/")
    return Pattern(re.compile(regex, re.DOTALL), not takes_in, only_directories)


def _translated_name(part: str) -> str:
    regex, at = "", 0
    while at < len(part):
        char, at = part[at], at + 1
        if char == "*":
            regex += "" if regex.endswith("[^/]*") else "[^/]*"
        elif char == "?":
            regex += "[^/]"
        elif char == "\\":
            regex += re.escape(part[at])  # IndexError: nothing is escaped
            at += 1
        elif char == "[":
            characters, at = _translated_set(part, at)
            regex += characters
        else:
            regex += re.escape(char)
    return regex


def _translated_set(part: str, at: int) -> tuple[str, int]:
    """A set such as [a-z], from behind its bracket on; and where it ends."""
    is_negated = part[at : at + 1] in ("!", "^")
    at += is_negated
    regex, begin = "", at
    while part[at : at + 1] != "]" or at == begin:
        char, at = part[at], at + 1
        if char == "\\":
            char, at = part[at], at + 1
            regex += re.escape(char)
        else:
            regex += char if char == "-" else re.escape(char)
    return f"(?!/)[{'^' * is_negated}{regex}]", at + 1


def _is_huggingface(name: str, prefix: str) -> bool:
    return name == "huggingface" and f"/{prefix}".endswith("/.cache/")


def _path(entry: os.DirEntry[str], prefix: str) -> str:
    """Its path, with a "/" at the end for a directory, or a link to one."""
    try:
        is_directory = entry.is_dir()
    except OSError:  # the code that looks at it will say
        is_directory = False
    return f"{prefix}{entry.name}{'/' if is_directory else ''}"
