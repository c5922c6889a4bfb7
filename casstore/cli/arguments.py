"""Arguments that several verbs take: tags with their completion, and K=V pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

import casstore
from casstore.cli.options import Options
from casstore.late import LateModule

if TYPE_CHECKING:
    from click import shell_completion
else:
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
