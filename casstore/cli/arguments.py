"""Arguments that several verbs take: tags with their completion, and K=V pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click
from click import shell_completion

import casstore
from casstore.cli.options import Options


def complete_tag(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Tags of the store that begin like `incomplete`, for a shell's completion."""
    return _completions(ctx, incomplete, names_only=False)


def complete_name(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Names of models, likewise."""
    return _completions(ctx, incomplete, names_only=True)


def complete_file(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Files of the version whose tag stands before."""
    try:
        home = _home(ctx)
        if not os.path.isdir(home):
            return []
        with casstore.Store(home) as store:
            paths = [file.path for file in store.get(str(ctx.params.get("tag"))).files]
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(path) for path in paths if path.startswith(incomplete)]


def _home(ctx: click.Context) -> str:
    options = ctx.ensure_object(Options)
    return options.home or os.environ.get("CASSTORE_HOME") or os.path.expanduser("~/.casstore")


def _completions(ctx: click.Context, incomplete: str, *, names_only: bool) -> list[shell_completion.CompletionItem]:
    """What begins like `incomplete`; nothing when the store cannot say, for a shell shows no errors here."""
    try:
        home = _home(ctx)
        if not os.path.isdir(home):
            return []  # opening would make a store
        with casstore.Store(home) as store:
            # Names first; versions once a name is complete, so that ten thousand of them do not fill the screen.
            names = store.names()
            near = [name for name in names if name.startswith(incomplete)]
            if not names_only and (":" in incomplete or len(near) == 1):
                near = [tag for tag in store.tags() if tag.startswith(incomplete)]
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(value) for value in near]


def parse_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """K=V as given to `option`, each key once. Raises click.UsageError."""
    parsed: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{option} takes KEY=VALUE, not {pair!r}", click.get_current_context())
        if key in parsed:
            raise click.UsageError(f"{option} gives {key!r} twice", click.get_current_context())
        parsed[key] = value
    return parsed
