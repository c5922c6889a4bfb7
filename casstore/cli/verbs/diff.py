"""casstore diff"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

import casstore
from casstore import Change
from casstore.cli.arguments import complete_tag
from casstore.cli.comparison import document_of, plain
from casstore.cli.exits import ExitCode
from casstore.cli.narrow import cells
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.order import tag_first
from casstore.cli.output import (
    Bytes,
    Column,
    Share,
    as_text,
    file_name,
    hint,
    is_screen,
    percent,
    plural,
    printable,
    say,
    show_json,
    show_table,
    styled,
)
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore diff bert:v1 bert:v2
  casstore diff bert:v1 bert:v2 --stat         one line a layer
  casstore diff bert:v1 bert:v2 --values       reads what changed: by how much?
  casstore diff bert:v1 bert:v2 --values --tensors 'encoder.layer.1*'
  casstore diff bert:v1 out/ --exit-code       a directory that is not saved yet
  casstore diff bert:v1 bert:v2 --json | jq -r '.metrics[] | [.path, .change] | @tsv'
"""
# Of one document, and of files, metrics or tensors, on a terminal; a pipe gets all.
_MOST_VALUES, _MOST_ROWS = 20, 200
_MOST_CHARACTERS = 60  # of a value
_COLOURS = {Change.ADDED: "green", Change.REMOVED: "red"}
_CHANGE_WIDTH = max(len(change.value) for change in Change)
_NAME_WIDTH = 48  # longer names stand out of line
_OTHERS = (Change.RENAMED, Change.RESHAPED, Change.DTYPE, Change.UNKNOWN)
_STAT = (
    Column("LAYER"),
    Column("TENSORS", right=True),
    Column("SAME", right=True),
    Column("CHANGED", right=True),
    Column("ADDED", right=True),
    Column("REMOVED", right=True),
    Column("OTHER", right=True),
    Column("NEW BYTES", right=True),
)


@click.command(short_help="Tell what differs between two versions.", epilog=_EXAMPLES)
@click.argument("old", metavar="A", shell_complete=complete_tag)
@click.argument("new", metavar="B|DIR", shell_complete=complete_tag)
@click.option("--stat", is_flag=True, help="Only one line for each layer in which tensors differ.")
@click.option("--tensors", metavar="GLOB", help="Only tensors whose names match, such as 'encoder.layer.1*'.")
@click.option("--values", is_flag=True, help="Read the tensors that changed, and tell by how much.")
@click.option("--exit-code", is_flag=True, help="End with 1 where anything differs.")
@common_options
@pass_options
def diff(options: Options, /, old: str, new: str, **wanted: Any) -> None:
    """Tell what differs between two versions, or a version and files that are not saved.

    Files; of JSON and YAML files the values in them; labels, metadata and metrics; and tensors, by name and layer. No
    content of tensors is read unless with --values: then each that changed has the largest |d|, the root of the mean
    of d² (rms), the norm of d by that of the old numbers (rel), the cosine between old and new, the share of elements
    that changed, and how many are NaN or infinite now. DIR is hashed as `casstore save` would, and nothing is stored;
    a name that is both a tag and a directory is the tag, `./NAME` the directory.

    In a pipe: one change per line, tabs between; first what it is of (file, document, label, metadata, metric, tensor),
    then what became of it. What is damaged is named on stderr, and the exit code is 1.
    """
    context = click.get_current_context()
    with options.open_store() as store, progress_bar(options) as progress, tag_first(context, store, old, new):
        found = store.diff(old, new, values=wanted["values"], tensors=wanted["tensors"], progress=progress)
    tensors_only = wanted["stat"] or wanted["tensors"] is not None
    if options.json:
        show_json(document_of(found))
    elif wanted["stat"]:
        _show_stat(found, values=wanted["values"])
    elif is_screen():
        _show(options, found, tensors_only=tensors_only, values=wanted["values"])
    else:
        show_table((), [*([] if tensors_only else _lines(found)), *_tensor_lines(found, values=wanted["values"])])
    for line in found.damage:
        say(f"damaged: {printable(line)}")
    if found.damage:
        hint(options, "`casstore verify` names every file that is damaged, and `casstore repair` heals what can be")
    if found.damage or (wanted["exit_code"] and _differs(found, by_tensors=wanted["tensors"] is not None)):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _differs(found: casstore.Diff, *, by_tensors: bool) -> bool:
    return any(each is not Change.SAME for each in found.counts) if by_tensors else not found.is_same


def _show(options: Options, found: casstore.Diff, *, tensors_only: bool, values: bool) -> None:
    """For people."""
    click.echo(styled(f"{printable(found.old)} -> {printable(file_name(found.new))}", bold=True))
    if not tensors_only:
        _show_files(found)
        for document in found.documents:
            _show_document(document)
        for title, changes in (("labels", found.labels), ("metadata", found.metadata)):
            _show_values(title, changes, len(changes))
        _show_metrics(found.metrics)
    if found.tensors:
        counts = ", ".join(f"{count:,} {_word(change)}" for change, count in found.counts.items())
        click.echo(f"tensors: {counts}")
        _show_tensors(options, found)
        may_read = any(change in found.counts for change in (Change.CHANGED, Change.UNKNOWN, Change.DTYPE))
        if may_read and not values:
            hint(options, f"`casstore diff {found.old} {file_name(found.new)} --values` tells by how much")


def _show_files(found: casstore.Diff) -> None:
    if not found.files:
        click.echo(f"files: {'all ' if found.same_files else ''}{found.same_files:,} the same")
        return
    counts: dict[Change, int] = {}
    for each in found.files:
        counts[each.change] = counts.get(each.change, 0) + 1
    said = [f"{counts[change]:,} {_word(change)}" for change in Change if change in counts]
    click.echo(f"files: {', '.join([*said, f'{found.same_files:,} the same'])}")
    rows: list[tuple[Change | None, str, str]] = []
    for each in found.files[:_MOST_ROWS]:
        path = printable(file_name(each.path))
        if each.change is Change.RENAMED and each.old_path is not None:
            path = f"{printable(file_name(each.old_path))} -> {path}"
        rows.append((each.change, path, _sizes(each)))
    _show_rows(rows)
    _tell_more(len(found.files) - _MOST_ROWS)


def _sizes(file: casstore.FileChange) -> str:
    old, new = (
        None if size is None else as_text(Bytes(size), for_screen=True) for size in (file.old_size, file.new_size)
    )
    if old is None or new is None:
        return old or new or ""
    said = old if file.old_size == file.new_size else f"{old} -> {new}"
    if file.change is Change.CHANGED and file.share:
        said += f", {percent(file.share)} of it new"
    if file.old_executable != file.new_executable:
        said += ", now executable" if file.new_executable else ", no longer executable"
    return said


def _show_document(document: casstore.DocumentChange) -> None:
    title = printable(file_name(document.path))
    if document.problem:
        click.echo(f"{title}: not compared, {printable(document.problem)}")
    elif document.changes:
        _show_values(title, document.changes, len(document.changes) + document.more)
    else:
        click.echo(f"{title}: the same values, written in another way")


def _show_values(title: str, changes: Sequence[casstore.ValueChange], count: int) -> None:
    if changes:
        click.echo(styled(title, bold=True))
    rows: list[tuple[Change | None, str, str]] = []
    for each in changes[:_MOST_VALUES]:
        sides = [_shown(each.old)] * (each.change is not Change.ADDED)
        sides += [_shown(each.new)] * (each.change is not Change.REMOVED)
        rows.append((each.change, printable(each.path), " -> ".join(sides)))
    _show_rows(rows)
    _tell_more(count - _MOST_VALUES)


def _tell_more(count: int) -> None:
    if count > 0:
        click.echo(f"  and {count:,} more, which a pipe and --json get")


def _show_metrics(metrics: Sequence[casstore.Metric]) -> None:
    if metrics:
        click.echo(styled("metrics", bold=True))
    rows: list[tuple[Change | None, str, str]] = []
    for each in metrics[:_MOST_ROWS]:
        change = "" if each.change is None else f"  {each.change:+.6g}"
        sides = " -> ".join("-" if number is None else f"{number:.6g}" for number in (each.old, each.new))
        rows.append((None, printable(each.path), sides + change))
    _show_rows(rows)
    _tell_more(len(metrics) - _MOST_ROWS)


def _show_tensors(options: Options, found: casstore.Diff) -> None:
    shown = 0
    for layer in found.layers:
        differing = [each for each in layer.tensors if each.change is not Change.SAME]
        if not differing:
            continue
        if shown >= _MOST_ROWS:
            hint(options, "there are more; --stat gives one line a layer, --tensors GLOB picks some, a pipe gets all")
            return
        click.echo(styled(printable(layer.name) or "(no layer)", bold=True))
        start = len(layer.name) + 1 if layer.name else 0
        _show_rows([(each.change, printable(each.name[start:]), _told(each)) for each in differing])
        shown += len(differing)


def _told(tensor: casstore.TensorChange) -> str:
    """What is to be said of a tensor, for people."""
    parts = []
    old, new = (
        None if info is None else f"{printable(info.dtype or '?')} {_shape(info)}" for info in (tensor.old, tensor.new)
    )
    parts.append(f"{old} -> {new}" if old and new and old != new else new or old or "")
    if tensor.change is Change.RENAMED and tensor.old is not None:
        parts.append(f"was {printable(tensor.old.name)}")
    if tensor.values is not None:
        parts += [f"{name} {text}" for name, text in _figures(tensor.values)]
    elif tensor.share is not None and tensor.change is not Change.RENAMED:
        parts.append(f"{percent(tensor.share)} of its bytes in new chunks")
    if tensor.problem:
        parts.append(printable(tensor.problem))
    return "  ".join(parts)


def _figures(values: casstore.Values) -> Iterator[tuple[str, str]]:
    yield "max|d|", f"{values.max_abs:.3g}"
    yield "rms", f"{values.rms:.3g}"
    yield "rel", "-" if values.relative is None else f"{values.relative:.3g}"
    yield "cos", "-" if values.cosine is None else f"{values.cosine:.6f}"
    yield "changed", percent(values.changed)
    if values.new_nan:
        yield "new NaN", f"{values.new_nan:,}"
    if values.new_inf:
        yield "new Inf", f"{values.new_inf:,}"


def _shape(info: casstore.TensorInfo) -> str:
    return "[?]" if info.shape is None else f"[{', '.join(map(str, info.shape))}]"


def _show_stat(found: casstore.Diff, *, values: bool) -> None:
    rows: list[list[Any]] = []
    for layer in found.layers:
        counts = layer.counts
        if set(counts) == {Change.SAME}:
            continue
        plain_counts = [counts.get(each, 0) for each in (Change.SAME, Change.CHANGED, Change.ADDED, Change.REMOVED)]
        others = sum(counts.get(each, 0) for each in _OTHERS)
        row = [
            layer.name or ("(no layer)" if is_screen() else ""),
            len(layer.tensors),
            *plain_counts,
            others,
            Share(layer.share),
        ]
        rows.append([*row, *([_number(layer.relative)] if values else [])])
    show_table((*_STAT, *[Column("REL", right=True)][: bool(values)]), rows)
    if is_screen():
        click.echo(f"{plural(len(rows), 'layer')} of {len(found.layers):,} with other tensors")


def _number(number: float | None) -> str | None:
    return None if number is None else f"{number:.3g}" if is_screen() else repr(number)


def _lines(found: casstore.Diff) -> Iterator[list[Any]]:
    """For a pipe: all but tensors."""
    for file in found.files:
        before = None if file.old_path is None else file_name(file.old_path)
        yield ["file", file.change.value, file_name(file.path), before, file.old_size, file.new_size, _full(file.share)]
    for document in found.documents:
        for each in document.changes:
            yield ["document", each.change.value, file_name(document.path), each.path, *_both(each)]
        if document.problem:
            yield ["document", "problem", file_name(document.path), document.problem]
    for kind, changes in (("label", found.labels), ("metadata", found.metadata)):
        for each in changes:
            yield [kind, each.change.value, each.path, *_both(each)]
    for metric in found.metrics:
        change = Change.ADDED if metric.old is None else Change.REMOVED if metric.new is None else Change.CHANGED
        yield ["metric", change.value, metric.path, metric.old, metric.new, metric.change]


def _tensor_lines(found: casstore.Diff, *, values: bool) -> Iterator[list[Any]]:
    for each in found.tensors:
        if each.change is Change.SAME:
            continue
        sides: list[Any] = []
        for info in (each.old, each.new):
            sides += ["", "", ""] if info is None else [info.name, info.dtype, _shape(info)]
        figures: list[Any] = []
        if values:
            figures = [""] * 7
            if (told := each.values) is not None:
                numbers = (told.max_abs, told.rms, told.relative, told.cosine, told.changed)
                figures = [*map(_full, numbers), told.new_nan, told.new_inf]
        yield ["tensor", each.change.value, each.name, *sides, _full(each.share), *figures, *([each.problem] * values)]


def _full(number: float | None) -> str | None:
    return None if number is None else repr(number)


def _both(change: casstore.ValueChange) -> tuple[str, str]:
    old = "" if change.change is Change.ADDED else _as_json(change.old)
    new = "" if change.change is Change.REMOVED else _as_json(change.new)
    return old, new


def _as_json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def _shown(value: Any) -> str:
    text = printable(_as_json(value))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _word(change: Change) -> str:
    words = {Change.SAME: "the same", Change.DTYPE: "of another dtype", Change.UNKNOWN: "perhaps changed"}
    return words.get(change, change.value)


def _marked(change: Change) -> str:
    text = f"{change.value:<{_CHANGE_WIDTH}}"
    return styled(text, fg=_COLOURS[change]) if change in _COLOURS else text


def _show_rows(rows: Sequence[tuple[Change | None, str, str]]) -> None:
    """Write what became of a thing, its name, and more of it; names of one width, but for those that are very long."""
    width = min(max((cells(name) for _, name, _ in rows), default=0), _NAME_WIDTH)
    for change, name, rest in rows:
        mark = "" if change is None else f"{_marked(change)}  "
        click.echo(f"  {mark}{name}{' ' * (width - cells(name))}  {rest}".rstrip())
