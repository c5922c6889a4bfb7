"""What notebooks show of casstore's objects: small HTML tables, every value escaped, no scripts and no styles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from casstore.late import LateModule

if TYPE_CHECKING:
    import html
else:
    html = LateModule("html")

_MOST_ITEMS = 10  # of one value
MOST_ROWS = 50
_MOST_CHARACTERS = 200  # of one text
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Size(int):
    """A number of bytes, shown with a unit and in full."""


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], count: int | None = None) -> str:
    """Rows under headings; the first of them where there are many, of `count` in all."""
    count = len(rows) if count is None else count
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    shown = rows[:MOST_ROWS]
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in shown)
    more = f"<p>and {count - len(shown):,} more</p>" if count > len(shown) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<p>{html.escape(text)}</p>"


def fields(title: str, values: Mapping[str, Any]) -> str:
    """One thing, as names with their values; what is None or empty is left out."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{_cell(value)}</td></tr>"
        for name, value in values.items()
        if value is not None and value != "" and value != () and value != {}
    )
    return f"<table><thead><tr><th colspan=2>{html.escape(title)}</th></tr></thead><tbody>{rows}</tbody></table>"


class Shown:
    """Gives a dataclass an HTML table of its properties and fields, for notebooks."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def _repr_html_(self) -> str:
        names = [name for name, member in vars(type(self)).items() if isinstance(member, property)]
        names += [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names if not name.startswith("_")}
        sized = {
            name: Size(value) if name.endswith("_bytes") and isinstance(value, int) else value
            for name, value in values.items()
        }
        return fields(type(self).__name__, sized)


def _cell(value: Any) -> str:
    return html.escape(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, Size):
        return _size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _items(f"{key}={_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return _items(map(_text, value))
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _items(texts: Iterable[str]) -> str:
    listed = list(texts)
    more = [f"and {len(listed) - _MOST_ITEMS:,} more"] if len(listed) > _MOST_ITEMS else []
    return ", ".join([*listed[:_MOST_ITEMS], *more])


def _size(count: int) -> str:
    size, unit = float(count), 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{count:,} B" if unit == 0 else f"{size:.4g} {_UNITS[unit]} ({count:,} B)"
