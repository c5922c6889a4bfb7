"""casstore list"""

from __future__ import annotations

import click

import casstore
from casstore.cli.arguments import complete_name, parse_pairs
from casstore.cli.deleted import list_deleted
from casstore.cli.describe import summary
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, plural, show_json, show_table
from casstore.cli.remotes import list_there, remote_option

_EXAMPLES = """\b
Examples:
  casstore list
  casstore list bert -l stage=dev
  casstore list bert | head -1 | cut -f1       the newest tag
  casstore list --json | jq -r '.versions[] | select(.size_bytes > 1e9) | .tag'
  casstore list bert --json | jq -r '.versions | max_by(.metadata.accuracy).tag'
  casstore list --deleted                      what `casstore undelete` can bring back
  casstore list bert --remote                  what the default remote has
"""
# Where the screen is narrow: labels are cut, FILES goes, the time of day, labels, the day, and last the size.
_COLUMNS = (
    Column("TAG", narrow=((0, 48),)),
    Column("SIZE", right=True, narrow=((7, 0),)),
    Column("FILES", right=True, narrow=((2, 0),)),
    Column("CREATED", fixed=True, narrow=((3, 16), (4, 10), (6, 0))),
    Column("LABELS", narrow=((1, 12), (5, 0))),
)


_MARK = ("damaged",)
_ALIASES = Column("ALIASES", narrow=((4, 12), (6, 0)))


def _aliases(store: casstore.Store, name: str | None) -> dict[str, list[str]]:
    """The aliases of each version that has any."""
    found: dict[str, list[str]] = {}
    for each in store.aliases(name):
        found.setdefault(str(each.tag), []).append(each.alias)
    return found


@click.command("list", epilog=_EXAMPLES)
@click.argument("name", metavar="[NAME]", shell_complete=complete_name, required=False)
@click.option(
    "-l", "--label", "labels", metavar="K=V", multiple=True, help="Only versions with this label. Repeatable."
)
@click.option("--deleted", is_flag=True, help="What is in the trash: `casstore undelete TAG` brings it back.")
@remote_option("What is in a remote, and whether it is here.")
@common_options
@pass_options
@click.pass_context
def list_versions(
    context: click.Context, options: Options, /, name: str | None, labels: tuple[str, ...], remote: str | None,
    deleted: bool,
) -> None:  # fmt: skip
    """List versions, newest first; with NAME, those of one model.

    In a pipe: one version per line, tabs between tag, bytes, files, UTC time, labels and, where there are any,
    aliases; nothing cut short. A version whose stored bytes are gone or have been written over is marked as damaged,
    at the end of its line. With --json also digest and metadata, where null stands for NaN and infinities, which JSON
    does not have.

    With --deleted: tag, bytes, files, when it was deleted, by whom, from when gc may take it for good, and its id.
    """
    wanted = parse_pairs("--label", labels)
    if deleted:
        if remote is not None or labels:
            raise click.UsageError("--deleted goes with neither --remote nor --label", context)
        list_deleted(options, name)
        return
    if remote is not None:
        list_there(options, remote, name, wanted)
        return
    with options.open_store() as store:
        models = store.list(name, labels=wanted)
        if not models and name is not None and not store.exists(name) and not store.elsewhere(name):
            store.get(name, pull=False)  # which raises TagNotFound with the nearest name
        if name is None:
            # By the order in which `latest` goes too: where a clock was ahead, creation times tell another.
            places = {tag: place for place, tag in enumerate(store.tags())}
            models.sort(key=lambda model: places.get(str(model.tag), -1))
        damaged = set(store.damaged_tags()) if models else set()
        aliases = _aliases(store, name)
        given_up = [] if labels else store.elsewhere(name)
        if options.json:
            show_json({
                "versions": [
                    {**summary(m), "is_damaged": str(m.tag) in damaged, "aliases": aliases.get(str(m.tag), [])}
                    for m in models
                ],
                "elsewhere": [{"tag": str(e.tag), "remote": e.remote, "size_bytes": e.size} for e in given_up],
            })  # fmt: skip
            return
        if given_up:
            remotes = ", ".join(sorted({each.remote for each in given_up}))
            hint(options, f"{plural(len(given_up), 'more version')} in the remote {remotes} alone; --json names them")
        if models:
            # Their column is there where there are any, and the mark stays at the end.
            are_named = any(str(m.tag) in aliases for m in models)
            rows = [
                (
                    m.tag, Bytes(m.size), m.file_count, m.created_at, m.labels,
                    *[" ".join(aliases.get(str(m.tag), []))][:are_named], *_MARK[: str(m.tag) in damaged],
                )
                for m in models
            ]  # fmt: skip
            show_table((*_COLUMNS, *[_ALIASES][:are_named], *[Column("STATE", fixed=True)][: bool(damaged)]), rows)
            if damaged:
                hint(options, "`casstore verify` says what is damaged, and `casstore repair` heals what can be")
        elif name is None and not labels:
            hint(options, f"the store {store.home} is empty; fill it with `casstore save NAME:VERSION PATH`")
        else:
            hint(options, "no version fits; `casstore list` shows what there is")
