"""How results look: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from casstore.cli import narrow
from casstore.cli.narrow import Shape
from casstore.cli.options import Options
from casstore.late import LateModule
from casstore.late_classes import dataclass

if TYPE_CHECKING:
    import shlex
    import shutil
else:
    shlex = LateModule("shlex")
    shutil = LateModule("shutil")

_ANY_WIDTH = 1 << 20  # columns of a terminal
_AT_ONCE = 1000  # lines that are written together
_MAX_NAME_CHARACTERS = 32  # longer ones stand out of line rather than push all values to the right
_COMMAND = re.compile("`casstore ([^`]+`)")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Bytes(int):
    """A number of bytes: "1.5 MiB" on a terminal, the plain number in a pipe."""


class Share(float):
    """A part of a whole: "12%" or "3.4%" on a terminal, "0.123400" in a pipe."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `right` aligns it to the right, `fixed` keeps it whole while others fold, and `whole` even
    where the screen is too narrow for it: the terminal wraps the lines then, and what is copied is one word.

    A table in which a column says how it may be made `narrow` has one line for each row: see casstore.cli.narrow.
    """

    title: str
    right: bool = False
    fixed: bool = False
    whole: bool = False
    narrow: tuple[tuple[int, int], ...] = ()


def human_bytes(count: int) -> str:
    """`count` with a unit and three digits, such as "1.50 MiB"."""
    size = float(count)
    for unit in _UNITS:
        if abs(size) < 999.5 or unit == _UNITS[-1]:
            break
        size /= 1024
    decimals = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{decimals}f} {unit}"


def percent(share: float) -> str:
    """`share` of 1 as "45%", "3.4%" or "-0.1%"."""
    hundredths = round(100 * share, 1) + 0.0  # which makes -0.0 0.0
    return f"{hundredths:.{0 if abs(hundredths) >= 10 else 1}f}%"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """The count and the noun, such as "1 version"; `nouns` where more of them are not called by an added s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or f'{noun}s'}"


def printable(text: str) -> str:
    """`text` on one line with whatever could steer a terminal escaped: control, direction and unassigned characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def file_name(path: str) -> str:
    """The path of a file as what it says, whatever the encoding of the locale, by which Python has read it."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def utc(moment: datetime) -> str:
    """ISO-8601 in UTC, ending in Z, to the microsecond."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


_AGES = (("day", 86_400), ("hour", 3600), ("minute", 60))


def age(moment: datetime) -> str:
    """How long ago that was: "just now", "3 hours ago", "12 days ago"; "in 2 days" where a clock was ahead."""
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    for unit, size in _AGES:
        if abs(seconds) >= size:
            span = plural(int(abs(seconds) // size), unit)
            return f"{span} ago" if seconds > 0 else f"in {span}"
    return "just now"


def styled(text: str, **style: Any) -> str:
    """`text` in a colour or weight, unless the user wants none (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def is_screen() -> bool:
    """Whether results go to a terminal."""
    return sys.stdout.isatty()


def as_text(value: Any, *, for_screen: bool) -> str:
    """One cell of a table, or one value of a list of fields."""
    if value is None:
        return "-" if for_screen else ""
    if isinstance(value, Bytes):
        return human_bytes(value) if for_screen else str(int(value))
    if isinstance(value, Share):
        return percent(value) if for_screen else f"{value:.6f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S") if for_screen else utc(value)
    if isinstance(value, Mapping):
        return printable((", " if for_screen else ",").join(f"{key}={text}" for key, text in value.items()))
    if isinstance(value, int) and for_screen:
        return f"{value:,}"
    return printable(str(value))


def show_json(document: Any) -> None:
    """Write one JSON document. Pure ASCII, so that no character of a label can steer a terminal."""
    click.echo(json.dumps(document, indent=2 if is_screen() else None))


def show_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, for_people: bool = False, may_page: bool = False
) -> None:
    """Write rows: a table on a terminal, else one line per row, tabs between, numbers in full and no heading.

    `for_people`: readable columns in a pipe too. `may_page`: a table of one line for each row is shown in a pager where
    it is longer than the screen.
    """
    if is_screen() and any(column.narrow for column in columns):
        _show_narrow(columns, rows, may_page=may_page)
    elif is_screen():
        _show_rich_table(columns, rows)
    elif for_people:
        _show_aligned(columns, rows)
    else:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            click.echo("\n".join("\t".join([as_text(value, for_screen=False) for value in row]) for row in some))


def show_fields(fields: Mapping[str, Any]) -> None:
    """Write names with their values, one a line."""
    if not is_screen():
        show_table((), list(fields.items()))
        return
    names = [printable(name) for name in fields]
    width = min(max(map(len, names), default=0), _MAX_NAME_CHARACTERS)
    for name, value in zip(names, fields.values(), strict=True):
        click.echo(styled(f"{name:<{width}}  ", dim=True) + as_text(value, for_screen=True))


def hint(options: Options, text: str) -> None:
    """Tell a person, if one is there, what may come next. A `casstore ...` in it gets the `--home` that was given."""
    if options.may_hint:
        say(styled(printable(with_home(text, options.home)), dim=True))


def say(text: str) -> None:
    """Write a line to stderr. Where it cannot be written, as on a full disk, the run goes on."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def with_home(text: str, home: str | None) -> str:
    """`text` with `--home` in every command that is to be typed: in backticks, and without one so far."""
    if home is None:
        return text
    option = f"casstore --home {shlex.quote(home)} "
    return _COMMAND.sub(lambda found: found[0] if "--home" in found[0] else option.join(("`", found[1])), text)


def _show_narrow(columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, may_page: bool) -> None:
    texts = [[column.title for column in columns], *([as_text(v, for_screen=True) for v in row] for row in rows)]
    shapes = [Shape(column.right, not column.fixed, column.narrow) for column in columns]
    screen = shutil.get_terminal_size()
    head, *lines = narrow.lines(shapes, texts, screen.columns)
    shown = "\n".join([styled(head, bold=True), *lines])
    if may_page and len(lines) + 2 > screen.lines:  # the next prompt takes a line too
        click.echo_via_pager(shown)
    else:
        click.echo(shown)


def _show_rich_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    # Imported when a table is due: rich takes longer to load than most verbs take to run.
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.right or column.fixed or column.whole,
        )
    for row in rows:
        # Text, not str: rich would read markup such as [red] in a str.
        table.add_row(*(Text(as_text(value, for_screen=True)) for value in row))
    console = Console(highlight=False)
    least = Measurement.get(console, console.options.update_width(_ANY_WIDTH), table).minimum
    if least > console.width and any(column.whole for column in columns):
        _show_aligned(columns, rows)
    else:
        console.print(table)


def _show_aligned(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    texts = [[column.title for column in columns], *([as_text(v, for_screen=True) for v in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        cells = (
            f"{text:>{width}}" if column.right else f"{text:<{width}}"
            for text, width, column in zip(line, widths, columns, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
