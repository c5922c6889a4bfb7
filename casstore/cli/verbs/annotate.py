"""casstore annotate"""

from __future__ import annotations

from collections.abc import Mapping

import click

import casstore
from casstore.cli.arguments import complete_tag, parse_pairs
from casstore.cli.describe import annotation, summary
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, hint, is_screen, printable, show_json, show_table

_EXAMPLES = """\b
Examples:
  casstore annotate bert:v7 -m f1=0.87 -m latency_ms=12
  casstore annotate bert -l stage=prod         the version that is the newest now
  casstore annotate bert:v7 --remove stage
  casstore annotate bert:v7 --log              what was said when, and by whom
  casstore list bert -l stage=prod             finds it
"""
_COLUMNS = (
    Column("TIME", fixed=True, narrow=((2, 16),)),
    Column("WHO", narrow=((1, 12), (3, 0))),
    Column("WHAT"),
    Column("IS NOW"),
)


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.option("-l", "--label", "labels", metavar="K=V", multiple=True, help="A label to add or change. Repeatable.")
@click.option("-m", "--metric", "metrics", metavar="K=N", multiple=True, help="A metric, a number. Repeatable.")
@click.option("--remove", "doomed", metavar="KEY", multiple=True, help="A label or metric to take away. Repeatable.")
@click.option("--log", "as_log", is_flag=True, help="Show what was said of it after its save, the oldest first.")
@common_options
@pass_options
def annotate(
    options: Options,
    /,
    tag: str,
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    doomed: tuple[str, ...],
    as_log: bool,
) -> None:
    """Add labels and metrics to a saved version.

    The version never changes: its files, its digest and its model.yaml are what was saved, and so is what is exported
    and pushed. `list`, `show` and searches go by what holds now, and `show` tells what was added since. --remove also
    takes away what was saved; labels.KEY and metrics.KEY say which is meant where there are both. What was said stays
    in the log, with time and user.

    In a pipe: the tag; with --log UTC time, user@host, label.KEY or metric.KEY, and the value, empty where it was taken
    away.
    """
    if as_log and (labels or metrics or doomed):
        raise click.UsageError("--log shows, and changes nothing; leave out -l, -m and --remove")
    if not (as_log or labels or metrics or doomed):
        raise click.UsageError("say what: -l KEY=VALUE, -m KEY=NUMBER or --remove KEY; --log shows what was said")
    said, measured = parse_pairs("--label", labels), _numbers(parse_pairs("--metric", metrics))
    with options.open_store() as store:
        if as_log:
            _show_log(options, store, tag)
            return
        model = store.annotate(tag, labels=said, metrics=measured, remove=doomed)
        if options.json:
            show_json(summary(model))
        else:
            name = str(model.tag)
            click.echo(
                f"annotated {printable(name)}; `casstore show {printable(name)}` shows all" if is_screen() else name
            )


def _numbers(pairs: Mapping[str, str]) -> dict[str, float]:
    """The metrics that were typed. Raises click.UsageError."""
    numbers: dict[str, float] = {}
    for name, text in pairs.items():
        try:
            numbers[name] = int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
        except ValueError:
            raise click.UsageError(
                f"--metric takes KEY=NUMBER, such as f1=0.87, not {f'{name}={text}'!r}; text goes into a label: -l"
            ) from None
    return numbers


def _show_log(options: Options, store: casstore.Store, tag: str) -> None:
    model = store.get(tag)
    found = store.annotations(model.tag)
    if options.json:
        show_json({"tag": str(model.tag), "annotations": [annotation(each) for each in found]})
    elif found:
        show_table(_COLUMNS, [(e.annotated_at, e.actor, f"{e.kind}.{e.key}", e.value) for e in found])
    else:
        hint(options, f"nothing was said of {model.tag} after its save")
