"""TAG comes first, before PATH or FILE: says so, in the user's own words, where they stand the other way round."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import casstore


def path_after_tag(context: click.Context, tag: str, path: Path | None) -> Path:
    """The path to be saved as `tag`. Raises click.UsageError where it is missing, or where the two are swapped."""
    if path is None:
        if os.path.lexists(tag):
            raise _tag_first(context, _name_for(tag), tag)
        raise click.UsageError(f"Missing argument 'PATH': casstore save {tag} PATH", context)
    is_there = os.path.lexists(tag)
    may_be_swapped = (is_there and not _is_tag(tag)) or (not path.exists() and (is_there or _looks_like_path(tag)))
    if may_be_swapped and _is_tag(str(path)):
        raise _tag_first(context, str(path), tag)
    return path


@contextmanager
def tag_first(context: click.Context, store: casstore.Store, tag: str, other: str) -> Iterator[None]:
    """Where `tag` is not found and `other` would be, the error says how to write it. Raises click.UsageError."""
    try:
        yield
    except (casstore.TagNotFound, casstore.InvalidTag) as error:
        if other and _is_tag(other) and store.exists(other):
            raise _tag_first(context, other, tag) from error
        raise


def _tag_first(context: click.Context, tag: str, path: str) -> click.UsageError:
    return click.UsageError(f"TAG comes first: casstore {context.info_name} {tag} {_quoted(path)}", context)


def _quoted(path: str) -> str:
    # Imported when something went wrong: it takes longer than most of what is imported.
    import shlex

    return shlex.quote(path)


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.startswith((".", "~"))


def _name_for(path: str) -> str:
    """A name that a directory or file may be saved under: its own, if that can be one."""
    name = ""
    with contextlib.suppress(FileNotFoundError):  # the working directory, which may be gone
        name = os.path.basename(os.path.abspath(path)).lower()
    return name if _is_tag(name) and ":" not in name else "NAME"


def _is_tag(text: str) -> bool:
    """Whether it can be a name, or a name and a version."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            casstore.Tag.parse(text if ":" in text else f"{text}:v1")
    except casstore.InvalidTag:
        return False
    return True
