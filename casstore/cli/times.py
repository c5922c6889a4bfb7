"""Times as users type them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import click

_AGE = re.compile(r"([0-9]{1,9}) ?(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """The callback of an option that takes a date, a date and time, or an age. Raises click.BadParameter."""
    if value is None:
        return None
    try:
        return parse_moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def parse_moment(text: str) -> datetime:
    """A moment, with its zone: what is typed without one is local time, as tables show it. Raises ValueError."""
    text = text.strip()
    try:
        age = _AGE.fullmatch(text)
        if age is not None:
            return datetime.now(timezone.utc) - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
        # Before Python 3.11 `fromisoformat` knows no Z.
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{text!r} is not a time; write 2026-11-01, '2026-11-01 12:00', 2026-11-01T12:00:00Z, or an age such as "
            "90m, 6h, 3d or 2w"
        ) from error
