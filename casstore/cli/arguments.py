"""Arguments that several verbs take: tags with their completion, and K=V pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

import casstore
from casstore.cli.exits import NotFound
from casstore.cli.options import Options
from casstore.late import LateModule

if TYPE_CHECKING:
    import difflib

    from click import shell_completion
else:
    difflib = LateModule("difflib")
    shell_completion = LateModule("click.shell_completion")


def complete_tag(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Tags and aliases of the store that begin like `incomplete`, for a shell's completion."""
    return _completions(ctx, incomplete, names_only=False)


def complete_name(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Names of models, likewise."""
    return _completions(ctx, incomplete, names_only=True)


def complete_alias(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Aliases that there are."""
    try:
        with casstore.Store(_home(ctx), create=False) as store:
            near = [str(each) for each in store.aliases() if str(each).startswith(incomplete)]
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(value) for value in near]


def complete_file(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Files of the version whose tag stands before."""
    try:
        with casstore.Store(_home(ctx), create=False) as store:
            paths = [file.path for file in store.get(str(ctx.params.get("tag")), pull=False).files]
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(path) for path in paths if path.startswith(incomplete)]


def complete_place(
    ctx: click.Context,
    param: click.Parameter,
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Tags and, behind a tag and a slash, the files of the version."""
    tag, slash, _ = incomplete.partition("/")
    if not slash:
        return complete_tag(ctx, param, incomplete)

    def known(store: casstore.Store) -> Iterable[str]:
        return [f"{tag}/{file.path}" for file in store.get(tag, pull=False).files]

    return begins_like(ctx, incomplete, known)


def split_place(text: str) -> tuple[str, str]:
    """The tag and the path in TAG/PATH, without slashes around the path; an empty path for a tag alone."""
    tag, _, path = text.partition("/")
    return tag, path.strip("/")


def files_below(model: casstore.Model | casstore.RemoteModel, path: str) -> list[casstore.FileEntry]:
    """The files in a directory of a version, at any depth, or the one of that path; all for an empty path.

    Raises NotFound where there is none.
    """
    found = [each for each in model.files if not path or each.path == path or each.path.startswith(f"{path}/")]
    if not found and path:
        raise no_file(model, path)
    return found


def no_file(model: casstore.Model | casstore.RemoteModel, path: str) -> NotFound:
    """The error for a path that a version does not have; it names the nearest."""
    paths = [each.path for each in model.files]
    directories = {path[:at] for path in paths for at, character in enumerate(path) if character == "/"}
    near = difflib.get_close_matches(path, [*paths, *sorted(directories)], n=1)
    is_here = isinstance(model, casstore.Model)
    lists = f"casstore ls {model.tag}" if is_here else f"casstore show {model.tag} --remote"
    directory = path.rstrip("/")
    if directory in directories:
        lists = f"{lists}/{directory}" if is_here else lists
        return NotFound(f"{directory} of {model.tag} is a directory; `{lists}` lists its files")
    near = difflib.get_close_matches(path, [*paths, *sorted(directories)], n=1)
    is_here = isinstance(model, casstore.Model)
    lists = f"casstore ls {model.tag}" if is_here else f"casstore show {model.tag} --remote"
    if path.rstrip("/") in directories:
        lists = f"{lists}/{path.rstrip('/')}" if is_here else lists
        return NotFound(f"{path.rstrip(chr(47))} of {model.tag} is a directory; `{lists}` lists its files")
    advice = f"did you mean {near[0]}?" if near else f"`{lists}` lists what it has"
    return NotFound(f"{model.tag} has no file {path}; {advice}")


def _home(ctx: click.Context) -> str | None:
    return ctx.ensure_object(Options).home


def _completions(ctx: click.Context, incomplete: str, *, names_only: bool) -> list[shell_completion.CompletionItem]:
    """What begins like `incomplete`; nothing when the store cannot say, for a shell shows no errors here."""

    def known(store: casstore.Store) -> Sequence[str]:
        # Names first; versions once a name is complete, so that ten thousand of them do not fill the screen.
        names = store.names()
        is_one = sum(name.startswith(incomplete) for name in names) == 1
        if names_only or not (":" in incomplete or "@" in incomplete or is_one):
            return names
        return [*store.tags(), *map(str, store.aliases())]

    return begins_like(ctx, incomplete, known)


def begins_like(
    ctx: click.Context, incomplete: str, known: Callable[[casstore.Store], Iterable[str]]
) -> list[shell_completion.CompletionItem]:
    """What of that which the store knows begins like `incomplete`; nothing when it cannot say."""
    try:
        with casstore.Store(_home(ctx), create=False) as store:
            near = dict.fromkeys(value for value in known(store) if value.startswith(incomplete))
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(value) for value in near]


def as_text(argument: str) -> str:
    """An argument that is text, not a path: UTF-8, or else what the encoding of the locale makes of it."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def parse_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """K=V as given to `option`, each key once. Raises click.UsageError."""
    parsed: dict[str, str] = {}
    for each in pairs:
        pair = as_text(each)
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{option} takes KEY=VALUE, not {pair!r}", click.get_current_context())
        if key in parsed:
            raise click.UsageError(f"{option} gives {key!r} twice", click.get_current_context())
        parsed[key] = value
    return parsed
