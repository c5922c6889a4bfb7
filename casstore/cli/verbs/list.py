"""casstore list"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import click

import casstore
from casstore.cli.arguments import parse_pairs
from casstore.cli.deleted import list_deleted
from casstore.cli.describe import summary
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, is_screen, plural, show_json, show_table
from casstore.cli.remotes import list_there, remote_option
from casstore.cli.rows import show_rows
from casstore.cli.searching import HELP, hint_at_unknown, is_pattern, name_and_expression, search_options

_EXAMPLES = f"""{HELP}
\b
Examples:
  casstore list
  casstore list bert -l stage=dev
  casstore list 'run-*' 'metrics.acc > 0.9 and created < 7d' --sort -metrics.acc --limit 5
  casstore list --where 'labels.stage = prod and not alias exists' --columns tag,size,metrics.acc,labels.stage
  casstore list bert | head -1 | cut -f1       the newest tag
  casstore list --json 'size > 1GB' | jq -r '.versions[].tag'
  casstore list --deleted                      what `casstore undelete` can bring back
  casstore list bert --remote                  what the default remote has
  casstore list 'run-*' 'labels.stage = prod and created < 7d' --remote origin --sort -size
"""
# Where the screen is narrow: labels are cut, FILES goes, the time of day, labels, the day, and last the size.
_COLUMNS = (
    Column("TAG", narrow=((0, 48),)),
    Column("SIZE", right=True, narrow=((7, 0),)),
    Column("FILES", right=True, narrow=((2, 0),)),
    Column("CREATED", fixed=True, narrow=((3, 16), (4, 10), (6, 0))),
    Column("LABELS", narrow=((1, 12), (5, 0))),
)
_MOST_ON_SCREEN = 100
_ALIASES = Column("ALIASES", narrow=((4, 12), (6, 0)))


@click.command("list", epilog=_EXAMPLES)
@search_options
@click.option(
    "--sort",
    metavar="KEY[,-KEY]",
    multiple=True,
    help="Fields to sort by; -KEY: the largest first.  [default: by time]",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=0), help="At most that many.")
@click.option("--columns", metavar="FIELD,...", multiple=True, help="Fields to show, such as tag,metrics.acc,size.")
@click.option("--all", "every", is_flag=True, help=f"On a terminal, more than the first {_MOST_ON_SCREEN} too.")
@click.option("--deleted", is_flag=True, help="What is in the trash: `casstore undelete TAG` brings it back.")
@remote_option("What is in a remote, and whether it is here.")
@common_options
@pass_options
def list_versions(options: Options, /, every: bool, remote: str | None, columns: tuple[str, ...], **typed: Any) -> None:
    """List versions, newest first: all, by name, by an expression.

    In a pipe: one version per line, tabs between tag, bytes, files, UTC time, labels and, where there are any,
    aliases; nothing cut short. A version whose stored bytes are gone or have been written over is marked as damaged,
    at the end of its line. With --json also digest and metadata, where null stands for NaN and infinities, which JSON
    does not have.

    With --remote: tag, bytes, UTC time, labels, and whether it is here. A remote lists tag, name, version, size,
    created, digest and labels of its versions, and these an expression may compare.

    With --deleted: tag, bytes, files, when it was deleted, by whom, from when gc may take it for good, and its id.
    """
    name, where = name_and_expression(typed["words"], typed["where"])
    labels, sort, limit = parse_pairs("--label", typed["labels"]), typed["sort"], typed["limit"]
    if typed["deleted"]:
        if remote is not None or labels or where is not None or sort or limit is not None or columns:
            raise click.UsageError("--deleted goes with a NAME alone", click.get_current_context())
        list_deleted(options, name)
        return
    if remote is not None:
        ordered = {"name": name, "labels": labels, "where": where, "sort": sort or None, "limit": limit}
        list_there(options, remote, ordered, columns)
        return
    is_cut = is_screen() and not options.json and not every and limit is None
    wanted: dict[str, Any] = {"name": name, "labels": labels, "where": where}
    with options.open_store() as store:
        ordered = {**wanted, "sort": sort, "limit": _MOST_ON_SCREEN if is_cut else limit}
        show = functools.partial(_show_columns, columns=columns) if columns else _show
        count = show(options, store, ordered)
        if is_cut and count == _MOST_ON_SCREEN and (more := store.count(**wanted) - count) > 0:
            hint(options, f"and {plural(more, 'more version')}: --all lists them, and --limit N the first N")


def _check_some(options: Options, store: casstore.Store, wanted: Mapping[str, Any]) -> None:
    """Say why nothing is listed. Raises TagNotFound, with the nearest name, for a name that there is not."""
    name = wanted["name"]
    if name is not None and not is_pattern(name) and not store.exists(name) and not store.elsewhere(name):
        store.get(name, pull=False)
    if name is None and wanted["where"] is None and not wanted["labels"] and wanted["limit"] != 0:
        hint(options, f"the store {store.home} is empty; fill it with `casstore save NAME:VERSION PATH`")
    elif not hint_at_unknown(options, store, wanted):
        hint(options, "no version fits; `casstore list` shows what there is")


def _show(options: Options, store: casstore.Store, wanted: Mapping[str, Any]) -> int:
    """Show versions as they are usually wanted; returns how many."""
    models = store.list(**wanted)
    if not models:
        _check_some(options, store, wanted)
    damaged = set(store.damaged_tags()) if models else set()
    given_up = [] if wanted["labels"] or wanted["where"] is not None else _elsewhere(store, wanted["name"])
    aliases = _aliases(store, wanted["name"]) if models else {}
    if options.json:
        show_json({
            "versions": [
                {**summary(m), "is_damaged": str(m.tag) in damaged, "aliases": aliases.get(str(m.tag), [])}
                for m in models
            ],
            "elsewhere": [{"tag": str(e.tag), "remote": e.remote, "size_bytes": e.size} for e in given_up],
        })  # fmt: skip
        return len(models)
    if given_up:
        remotes = ", ".join(sorted({each.remote for each in given_up}))
        hint(options, f"{plural(len(given_up), 'more version')} in the remote {remotes} alone; --json names them")
    if models:
        # Their column is there where there are any, and the mark stays at the end.
        tags = [str(m.tag) for m in models]
        are_named, is_marked = not aliases.keys().isdisjoint(tags), not damaged.isdisjoint(tags)
        rows = [
            (
                tag, Bytes(m.size), m.file_count, m.created_at, m.labels,
                *[" ".join(aliases.get(tag, []))][:are_named],
                *["damaged" if tag in damaged else ""][: is_marked and (is_screen() or tag in damaged)],
            )
            for tag, m in zip(tags, models, strict=True)
        ]  # fmt: skip
        columns = (*_COLUMNS, *[_ALIASES][:are_named], *[Column("STATE", fixed=True)][:is_marked])
        show_table(columns, rows, may_page=True)
        if damaged:
            hint(options, "`casstore verify` says what is damaged, and `casstore repair` heals what can be")
    return len(models)


def _aliases(store: casstore.Store, name: str | None) -> dict[str, list[str]]:
    """The aliases of each version that has any, by a name or a pattern of names."""
    found: dict[str, list[str]] = {}
    for each in store.aliases(None if name is None or is_pattern(name) else name):
        found.setdefault(str(each.tag), []).append(each.alias)
    return found


def _elsewhere(store: casstore.Store, name: str | None) -> list[casstore.Elsewhere]:
    """The versions that only a remote has, by a name or a pattern of names."""
    if name is None or not is_pattern(name):
        return list(store.elsewhere(name))
    return [each for each in store.elsewhere() if fnmatch.fnmatchcase(each.tag.name, name.lower())]


def _show_columns(options: Options, store: casstore.Store, wanted: Mapping[str, Any], columns: Sequence[str]) -> int:
    """Show the fields that are asked for; returns how many versions there are."""
    rows = store.table(**wanted, columns=columns)
    if not rows:
        _check_some(options, store, wanted)
    show_rows(options, rows)
    return len(rows)
