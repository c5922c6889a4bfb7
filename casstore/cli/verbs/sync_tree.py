"""casstore sync-tree"""

from __future__ import annotations

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, printable, show_json
from casstore.cli.progress import progress_bar
from casstore.cli.verbs.adopt import refusals_as_json, show_refusals

_EXAMPLES = """\b
Examples:
  casstore sync-tree --dry-run                 what BentoML has done to models/
  casstore sync-tree                           adopt what it saved there
  casstore sync-tree --prune                   and delete what it deleted
  casstore sync-tree --restore bert:v1         bring back what --prune has deleted
"""


@click.command("sync-tree", short_help="Take up what others did to models/.", epilog=_EXAMPLES)
@click.option("--prune", is_flag=True, help="Delete the versions whose directories were removed.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--restore",
    "tags",
    multiple=True,
    metavar="TAG",
    help="Only bring back a version that --prune has deleted, as `casstore undelete` does. May be repeated.",
)
@common_options
@pass_options
@click.pass_context
def sync_tree(context: click.Context, options: Options, prune: bool, dry_run: bool, tags: tuple[str, ...]) -> None:
    """Take up what other tools, such as BentoML, have done to the store's models/.

    Versions that they saved there are adopted. A version whose directory they removed is reported, and deleted with
    --prune only: without, it can still be read, and its directory be made again. With the setting materialize at all,
    every version that lacks a directory is given one.
    """
    if tags:
        if prune or dry_run:
            raise click.UsageError("--restore goes with neither --prune nor --dry-run", context)
        _restore(options, tags)
        return
    with options.open_store() as store, progress_bar(options) as progress:
        report = store.sync_tree(prune=prune, dry_run=dry_run, progress=progress)
    if options.json:
        show_json(_as_json(report))
    else:
        _show(options, report, prune)
    if report.refused:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _restore(options: Options, tags: tuple[str, ...]) -> None:
    with options.open_store() as store:
        restored = [str(store.restore_pruned(tag).tag) for tag in tags]
    if options.json:
        show_json({"restored_tags": restored})
        return
    for tag in restored:
        click.echo(f"restored: {tag}")


def _as_json(report: casstore.SyncReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "adopted": list(report.adopted),
        "refused": refusals_as_json(report.refused),
        "missing_tags": list(report.missing),
        "deleted_tags": list(report.deleted),
        "made_tags": list(report.made),
        "notes": list(report.notes),
    }


def _show(options: Options, report: casstore.SyncReport, prune: bool) -> None:
    words = ("would adopt", "would delete", "would make") if report.dry_run else ("adopted", "deleted", "made")
    for word, each in zip(words, (report.adopted, report.deleted, report.made), strict=True):
        for text in each:
            click.echo(f"{word}: {printable(text)}")
    missing = [tag for tag in report.missing if tag not in report.deleted and tag not in report.made]
    for tag in missing:
        click.echo(f"missing: {tag}")
    show_refusals(report.refused)
    if options.quiet:
        return
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    if not (report.adopted or report.deleted or report.made or missing or report.refused):
        click.echo("models/ and the catalog agree")
    if report.deleted and not report.dry_run:
        hint(options, "`casstore sync-tree --restore TAG` brings a deleted version back, while it is in the trash")
    if missing and not prune:
        hint(
            options, "`casstore path TAG` makes a directory again; `casstore sync-tree --prune` deletes these versions"
        )
