"""The options that say which versions are kept, for the verbs that forget the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from casstore.cli.arguments import as_text

_Function = TypeVar("_Function", bound=Callable[..., Any])
_SEVERAL = ("keep_best", "keep_every", "keep_label", "keep_where")


def keep_options(function: _Function) -> _Function:
    """Give a command the options that are rules to keep versions by; `rules_of` makes arguments of them."""
    for decorator in reversed(_OPTIONS):
        function = decorator(function)
    return function


def rules_of(given: dict[str, Any]) -> dict[str, Any]:
    """The rules as arguments of `Store.forget`, taken out of the parameters of a command."""
    names = [name for name in given if name.startswith("keep_") or name == "since_newest"]
    rules = {name: given.pop(name) for name in names}
    return {name: tuple(map(as_text, value)) if name in _SEVERAL else value for name, value in rules.items()}


_NUMBER = click.IntRange(min=1)
_OPTIONS = (
    click.option("--keep-last", type=_NUMBER, metavar="N", help="Keep the newest N."),
    click.option(
        "--keep-best",
        metavar="FIELD:max|min:N",
        multiple=True,
        help="Keep the N with the largest or the least number in their metadata, as metrics.f1:max:3. Repeatable.",
    ),
    *(
        click.option(
            f"--keep-{period}", type=_NUMBER, metavar="N", help=f"Keep the newest of each of the last N {unit}s."
        )
        for period, unit in (
            ("hourly", "hour"), ("daily", "day"), ("weekly", "week"), ("monthly", "month"), ("yearly", "year"),
        )
    ),
    click.option("--keep-within", metavar="TIME", help="Keep what is not older than that: 36h, 14d, 8w, 6mo, 1y6mo."),
    click.option(
        "--since-newest", is_flag=True, help="Count --keep-within from the newest version of the name, not from now."
    ),
    click.option(
        "--keep-every",
        metavar="FIELD:N",
        multiple=True,
        help="Of each N of a number keep the first, as metadata.step:1000. Repeatable.",
    ),
    click.option(
        "--keep-label", metavar="K=V", multiple=True, help="Keep what has this label; K alone: any value. Repeatable."
    ),
    click.option(
        "--keep-where", metavar="EXPR", multiple=True, help="Keep what fits, as 'metrics.acc > 0.9'. Repeatable."
    ),
)  # fmt: skip
