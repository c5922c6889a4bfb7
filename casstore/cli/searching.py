"""What `list` and `count` are told of the versions that are wanted: a name or a pattern of names, and an expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

import casstore
from casstore.cli.arguments import as_text, complete_name
from casstore.cli.options import Options
from casstore.cli.output import hint

_Function = TypeVar("_Function", bound=Callable[..., Any])
_EXPRESSION = re.compile(r"[\s=<>~()'\"]")

HELP = """\b
An expression compares fields, and joins comparisons with and, or, not and ( ):
  tag name version size files created opened pinned base digest alias
  labels.KEY  metadata.PATH  metrics.NAME  params.NAME
Comparisons are = != < <= > >= in (a, b), not in (a, b), exists, like 'a%' and ~ 'a*'. Sizes have units (500MB,
1.5GiB), times are ages (created < 7d: younger than a week; s m h d w mo y) or local dates (created >= 2026-11-01).
metrics.acc is metadata.metrics.acc, or metadata.acc. What has blanks, dots or quotes in it is quoted.
"""


def search_options(function: _Function) -> _Function:
    """Give a command the arguments [NAME|GLOB] [EXPR], --where and --label."""
    for decorator in (
        click.option(
            "-l", "--label", "labels", metavar="K=V", multiple=True, help="Only versions with this label. Repeatable."
        ),
        click.option("--where", metavar="EXPR", help="Only versions that this expression fits; as EXPR."),
        click.argument("words", metavar="[NAME|GLOB] [EXPR]", nargs=-1, shell_complete=complete_name),
    ):
        function = decorator(function)
    return function


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of names."""
    return not {"*", "?", "["}.isdisjoint(name)


def name_and_expression(words: Sequence[str], where: str | None) -> tuple[str | None, str | None]:
    """What is typed behind the verb: a name or a pattern, and an expression. Raises click.UsageError."""
    texts = [as_text(word) for word in words]
    name = texts.pop(0) if texts and _EXPRESSION.search(texts[0]) is None else None
    if texts and where is not None:
        raise click.UsageError(f"the expression is given twice, as {texts[0]!r} and with --where; join them with `and`")
    return name, " ".join(texts) if texts else where


def hint_at_unknown(options: Options, store: casstore.Store, wanted: Mapping[str, Any]) -> bool:
    """Where nothing was found: name the fields that no version has. Returns whether there are any."""
    unknown = store.unknown_fields(labels=wanted["labels"], where=wanted["where"]) if options.may_hint else {}
    for field, near in unknown.items():
        hint(options, f"no version has {field}" + ("" if near is None else f"; nearest: {near}"))
    return bool(unknown)
