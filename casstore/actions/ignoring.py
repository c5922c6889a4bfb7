"""What a save of a directory leaves out: tools' own files, and what its `.casstoreignore` or the caller names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.errors import InvalidSource
from casstore.storage import files

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".casstoreignore"
# Both say the same. Names are compared where there are no other patterns, which spares loading a library for them.
DEFAULT_PATTERNS = (".git", "__pycache__", "**/.cache/huggingface")
_NAMES = frozenset((".git", "__pycache__"))
_MOST_BYTES = 1 << 20  # of an IGNORE_FILE
_MOST_NAMED = 3


@dataclass(slots=True)
class Rules:
    """Patterns as in a .gitignore, of which the last that matches decides: the defaults, those in the directory's
    `.casstoreignore`, and those in `exclude`. Without `ignore` the last alone.

    `left_out`: what has been left out so far, directories with a "/" at the end and not what is in them.
    """

    exclude: tuple[str, ...] = ()
    ignore: bool = True
    left_out: list[str] = field(default_factory=list)
    _spec: GitIgnoreSpec | None = None

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
            self._spec = _compiled([*defaults, *patterns, *self.exclude], root)

    def leaves_out(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Whether to leave out what stands at `prefix`, which is empty or ends in "/"; notes it then."""
        if self._spec is None:
            is_out = self.ignore and (entry.name in _NAMES or _is_huggingface(entry.name, prefix))
        else:
            is_out = self._spec.match_file(_path(entry, prefix))
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


def _compiled(patterns: list[str], root: Path) -> GitIgnoreSpec:
    # Imported where there are patterns: it takes 40 ms to load.
    from pathspec import GitIgnoreSpec

    for pattern in patterns:
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            raise InvalidSource(
                f"{pattern!r} is not a pattern that says what to leave out of {root}; patterns are those of a "
                ".gitignore, such as '*.log' or 'checkpoints/'"
            ) from error
    return GitIgnoreSpec.from_lines(patterns)


def _is_huggingface(name: str, prefix: str) -> bool:
    return name == "huggingface" and f"/{prefix}".endswith("/.cache/")


def _path(entry: os.DirEntry[str], prefix: str) -> str:
    """Its path, with a "/" at the end for a directory, or a link to one."""
    try:
        is_directory = entry.is_dir()
    except OSError:  # for whoever looks at it to say
        is_directory = False
    return f"{prefix}{entry.name}{'/' if is_directory else ''}"
