"""A lineage as a list, a tree, JSON, and in the languages of programs that draw graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

import casstore
from casstore.cli.output import Column, Share, as_text, is_screen, percent, plural, printable, show_table, styled, utc

_COLUMNS = (
    Column("GENERATION", right=True),
    Column("VERSION", fixed=True),
    Column("RELATION"),
    Column("OF"),
    Column("CHANGED"),
    Column("CREATED", fixed=True),
)


class _Edge(NamedTuple):
    """An edge of the graph, from what came first; both ends by their keys."""

    older: tuple[str, str]
    newer: tuple[str, str]
    label: str


def document(lineage: casstore.Lineage) -> dict[str, Any]:
    """A lineage for `--json`."""
    return {
        "tag": str(lineage.tag),
        "digest": str(lineage.digest),
        "created_at": utc(lineage.created_at),
        "ancestors": [_document(*each) for each in _hung(lineage, lineage.ancestors)],
        "descendants": [_document(*each) for each in _hung(lineage, lineage.descendants)],
        "is_whole": lineage.is_whole,
    }


def _hung(lineage: casstore.Lineage, relatives: Sequence[casstore.Relative]) -> Iterator[tuple[casstore.Relative, str]]:
    """Each relative, and what it hangs on."""
    path = [str(lineage.tag)]
    for each in relatives:
        del path[each.depth :]
        yield each, path[-1]
        path.append(str(each))


def _document(relative: casstore.Relative, of: str) -> dict[str, Any]:
    return {
        "depth": relative.depth,
        "relation": relative.relation,
        "of": of,
        "tag": None if relative.tag is None else str(relative.tag),
        "digest": None if relative.digest is None else str(relative.digest),
        "uri": relative.uri,
        "state": relative.state,
        "created_at": None if relative.created_at is None else utc(relative.created_at),
        "changed": relative.changed,
        "changed_count": relative.changed_count,
        "total": relative.total,
        "unit": relative.unit,
        "is_repeated": relative.is_repeated,
    }


def show_list(lineage: casstore.Lineage) -> None:
    """A line for each: descendants, the youngest generation first, the version as generation 0, and its ancestors."""
    below = sorted(_hung(lineage, lineage.descendants), key=lambda pair: -pair[0].depth)
    above = sorted(_hung(lineage, lineage.ancestors), key=lambda pair: pair[0].depth)
    if is_screen():
        itself: list[Any] = ["0", lineage.tag, None, None, None, lineage.created_at]
        show_table(_COLUMNS, [*(_row(1, *each) for each in below), itself, *(_row(-1, *each) for each in above)])
    else:
        itself = [0, lineage.tag, *[None] * 6, "here", lineage.created_at]
        show_table((), [*(_line(1, *each) for each in below), itself, *(_line(-1, *each) for each in above)])


def _row(sign: int, each: casstore.Relative, of: str) -> list[Any]:
    changed = _changed(each) if each.changed is None else percent(each.changed)
    return [f"{sign * each.depth:+d}", each, each.relation, of, changed or None, each.created_at]


def _line(sign: int, each: casstore.Relative, of: str) -> list[Any]:
    share = None if each.changed is None else Share(each.changed)
    unit = None if each.changed is None else each.unit
    what: list[Any] = [sign * each.depth, each, each.relation, of]
    return [*what, share, each.changed_count, each.total, unit, each.state, each.created_at]


def show_tree(lineage: casstore.Lineage) -> None:
    """The two trees that hang on a version, one line for each relative."""
    click.echo(f"{styled(str(lineage.tag), bold=True)}  {as_text(lineage.created_at, for_screen=is_screen())}")
    for title, relatives in (("came from", lineage.ancestors), ("led to", lineage.descendants)):
        if relatives:
            click.echo(title)
            for line in tree(relatives):
                click.echo(line)


def tree(relatives: Sequence[casstore.Relative]) -> Iterator[str]:
    """The lines of a tree, in characters that every terminal has."""
    follows = [False] * len(relatives)  # whether a sister comes later
    open_depths: set[int] = set()
    for number in range(len(relatives) - 1, -1, -1):
        depth = relatives[number].depth
        follows[number] = depth in open_depths
        open_depths = {each for each in open_depths if each <= depth} | {depth}
    bars: list[bool] = []
    for has_sister, each in zip(follows, relatives, strict=True):
        del bars[each.depth - 1 :]
        indent = "".join("|  " if bar else "   " for bar in bars)
        bars.append(has_sister)
        note = _changed(each)
        more = "; see above" if each.is_repeated else ""
        text = f"{each.relation}  {printable(str(each))}"
        yield f"{indent}{'|' if has_sister else '`'}- {text}{f'  ({note}{more})' if note or more else ''}"


def _changed(each: casstore.Relative) -> str:
    if each.state == "gone":
        return "deleted since"
    if each.state == "elsewhere":
        return "in a remote"
    if each.changed is None or each.changed_count is None or each.total is None:
        return ""
    return f"{percent(each.changed)} changed, {each.changed_count:,} of {plural(each.total, each.unit[:-1])}"


def mermaid(lineage: casstore.Lineage) -> Iterator[str]:
    """A flowchart of Mermaid, which code hosts show in Markdown: https://mermaid.js.org/syntax/flowchart.html"""
    nodes, edges = _graph(lineage)
    yield "flowchart TD"
    for key, (name, label) in nodes.items():
        yield f'  {name}["{_in_mermaid(label)}"]' if key[0] else f'  {name}(["{_in_mermaid(label)}"])'
    for edge in edges:
        yield f'  {nodes[edge.older][0]} -->|"{_in_mermaid(edge.label)}"| {nodes[edge.newer][0]}'
    yield "  style n0 stroke-width:3px"


def dot(lineage: casstore.Lineage) -> Iterator[str]:
    """A graph for Graphviz: https://graphviz.org/doc/info/lang.html"""
    nodes, edges = _graph(lineage)
    yield "digraph lineage {"
    yield "  node [shape=box];"
    for key, (name, label) in nodes.items():
        style = "" if key[0] else ", shape=ellipse"
        yield f'  {name} [label="{_in_dot(label)}"{style}{", penwidth=3" if name == "n0" else ""}];'
    for edge in edges:
        yield f'  {nodes[edge.older][0]} -> {nodes[edge.newer][0]} [label="{_in_dot(edge.label)}"];'
    yield "}"


def _graph(lineage: casstore.Lineage) -> tuple[dict[tuple[str, str], tuple[str, str]], list[_Edge]]:
    """The nodes by tag and digest, or by URI, with a name and a label for each, and the edges, each once."""
    start = (str(lineage.tag), str(lineage.digest))
    nodes = {start: ("n0", str(lineage.tag))}
    edges: dict[_Edge, None] = {}
    for relatives, is_older in ((lineage.ancestors, True), (lineage.descendants, False)):
        path = [start]
        for each in relatives:
            del path[each.depth :]
            key = ("", str(each.uri)) if each.tag is None else (str(each.tag), str(each.digest))
            gone = " (deleted)" if each.state == "gone" else ""
            nodes.setdefault(key, (f"n{len(nodes)}", f"{each}{gone}"))
            share = "" if each.changed is None else f", {percent(each.changed)} changed"
            ends = (key, path[-1]) if is_older else (path[-1], key)
            edges[_Edge(*ends, f"{each.relation}{share}")] = None
            path.append(key)
    return nodes, list(edges)


def _in_mermaid(text: str) -> str:
    return "".join(each if each.isalnum() or each in " :/@._-%,()+=" else f"#{ord(each)};" for each in printable(text))


def _in_dot(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
