"""Tables of one line for each row, on a screen of any width: columns are cut, then left out, the least wanted first."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from casstore.late_classes import dataclass

_GAP = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A column: aligned to the `right`; `flexible`, so that a part of it may be shown, which "…" ends.

    `steps`: (rank, width), what it is cut to where the screen is too narrow, 0 for leaving it out. The steps of all
    columns are taken in the order of their ranks until all fits. Of the first column, which is what a row is about and
    never cut: the room for which others are left out. A cell that needs more than is there has a line of its own.
    """

    right: bool = False
    flexible: bool = True
    steps: tuple[tuple[int, int], ...] = ()


def lines(shapes: Sequence[Shape], rows: Sequence[Sequence[str]], screen: int) -> Iterator[str]:
    """The rows as lines, the headings first. Nothing but a cell of the first column may be wider than the screen."""
    natural = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    widths = _widths(shapes, natural, screen)
    rest = sum(width + _GAP for width in widths[1:] if width)
    widths[0] = min(natural[0], max(0, screen - rest))
    for first, *others in rows:
        tail = "".join(
            " " * _GAP + _padded(text, width, shape)
            for text, width, shape in zip(others, widths[1:], shapes[1:], strict=True)
            if width
        )
        head = _pad(first, widths[0], right=shapes[0].right)
        if tail and cells(first) > widths[0]:
            yield first
            head = " " * widths[0]
        yield (head + tail).rstrip()


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: East Asian characters two, those that combine with another none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _widths(shapes: Sequence[Shape], natural: Sequence[int], screen: int) -> list[int]:
    widths = list(natural)
    wanted = min([natural[0], *(width for _, width in shapes[0].steps)])

    def spare(first: int) -> int:
        return screen - first - sum(width + _GAP for width in widths[1:] if width)

    steps = sorted(
        (rank, column, width) for column, shape in enumerate(shapes) for rank, width in shape.steps if column
    )
    for _, column, width in steps:
        # Others are cut for all that the first column needs, and left out for what it must have.
        if spare(natural[0] if width else wanted) < 0:
            widths[column] = min(widths[column], width)
    first = min(natural[0], wanted + max(0, spare(wanted)))
    for column, shape in enumerate(shapes):
        if column and shape.flexible and widths[column]:
            widths[column] += max(0, min(natural[column] - widths[column], spare(first)))
    return widths


def _padded(text: str, width: int, shape: Shape) -> str:
    if cells(text) > width:
        text = _cut(text, width - 1) + "…" if shape.flexible else _cut(text, width)
    return _pad(text, width, right=shape.right)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if right else text + space


def _cut(text: str, width: int) -> str:
    while cells(text) > width:
        text = text[: max(0, min(len(text) - 1, width))]
    return text
