"""casstore events"""

from __future__ import annotations

import contextlib
import json
import re
import select
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, as_text, hint, human_bytes, is_screen, show_json, show_table, utc

_EXAMPLES = """\b
Examples:
  casstore events
  casstore events --since 2d                   of the last two days
  casstore events --since 2026-11-01 | grep deleted
  casstore events --follow                     the last ten, and then each as it comes
  casstore events --follow -n 0 --json | jq -r 'select(.kind == "saved") | .tag'
"""
_COLUMNS = (
    Column("TIME", fixed=True, narrow=((3, 16),)),
    Column("WHO", narrow=((1, 12), (4, 0))),
    Column("WHAT", fixed=True),
    Column("OF", narrow=((5, 24),)),
    Column("MORE", narrow=((2, 30), (6, 0))),
)
_MOST_ON_SCREEN = 100
_BEFORE_FOLLOWING = 10
_LOOK_S = 0.5  # how often to see whether the reader of a pipe is still there
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(\d{1,9})([smhdw])")


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | timedelta | None:
    """A time, or an age such as 7d."""
    if value is None:
        return None
    age = _AGE.fullmatch(value.strip())
    if age is not None:
        return timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value.strip()))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is neither an age, such as 90m, 12h, 7d or 2w, nor a time, such as 2026-11-01 or "
            "2026-11-01T09:30", ctx, param,
        ) from error  # fmt: skip


@click.command(epilog=_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on, with each event as it comes, until Ctrl-C.")
@click.option("--since", metavar="TIME|AGE", callback=_since, help="Only what came later: 2026-11-01, 12h, 7d ...")
@click.option("-n", "limit", metavar="N", type=click.IntRange(min=0), help="Only the newest N.")
@common_options
@pass_options
def events(options: Options, follow: bool, since: datetime | timedelta | None, limit: int | None) -> None:
    """Tell what has been done to the store, by whom and when.

    Versions that were saved, imported, pulled, pushed, annotated, deleted, brought back; aliases that moved, policies
    that were set; each gc and repair that found something to do. The newest come last, and 100,000 are kept. Times
    without a zone are local.

    In a pipe: UTC time, user@host, what was done, the tag, and what else is known as key=value; on a terminal at most
    100 of them unless -n says otherwise. With --json what is known in full; with --follow too, one event a line.
    """
    with options.open_store() as store:
        if follow:
            if limit is None and since is None:
                limit = _BEFORE_FOLLOWING
            _follow(options, store, since, limit)
            return
        most = _MOST_ON_SCREEN + 1 if is_screen() and limit is None and not options.json else limit
        found = list(store.events(since, limit=most))
    if options.json:
        show_json({"events": [_document(event) for event in found]})
        return
    if limit is None and is_screen() and len(found) > _MOST_ON_SCREEN:
        del found[:-_MOST_ON_SCREEN]
        hint(options, f"the newest {_MOST_ON_SCREEN}; `casstore events -n 1000` shows more")
    if found:
        show_table(_COLUMNS, [_row(event) for event in found])
    else:
        hint(options, "nothing has been done" if since is None else "nothing has been done since then")


def _follow(options: Options, store: casstore.Store, since: datetime | timedelta | None, limit: int | None) -> None:
    last = store.events(limit=1)
    after = last[-1].number if last else 0
    with contextlib.suppress(KeyboardInterrupt):
        for event in store.events(since, limit=limit):
            _say(options, event)
            after = max(after, event.number)
        while True:
            for event in store.follow_events(after=after, timeout=_LOOK_S):
                _say(options, event)
                after = event.number
            if _is_reader_gone():
                raise BrokenPipeError
    raise click.exceptions.Exit(ExitCode.INTERRUPTED)


def _say(options: Options, event: casstore.Event) -> None:
    if options.json:
        text = json.dumps(_document(event))
    elif is_screen():
        text = "  ".join(as_text(value, for_screen=True) for value in _row(event))
    else:
        text = "\t".join(as_text(value, for_screen=False) for value in _row(event))
    click.echo(text)
    sys.stdout.flush()


def _is_reader_gone() -> bool:
    """Whether nobody reads the pipe, or looks at the terminal, that the results go to."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file
        return False
    return bool(poll.poll(0))


def _row(event: casstore.Event) -> tuple[Any, ...]:
    return event.happened_at, event.actor, event.kind, event.tag, _flat(event.details)


def _flat(details: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """What is known, by dotted names, without what is empty; sizes on a screen with their units."""
    flat: dict[str, Any] = {}
    for key, value in details.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{key}.")
        elif isinstance(value, list):
            flat |= {f"{above}{key}": " ".join(map(str, value))} if value else {}
        elif is_screen() and key.endswith("_bytes") and isinstance(value, int):
            flat[f"{above}{key.removesuffix('_bytes')}"] = human_bytes(value)
        elif isinstance(value, bool):
            flat[f"{above}{key}"] = str(value).lower()
        elif value not in (None, ""):
            flat[f"{above}{key}"] = value
    return flat


def _document(event: casstore.Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "happened_at": utc(event.happened_at),
        "actor": event.actor,
        "kind": event.kind,
        "tag": event.tag,
        "details": event.details,
    }
