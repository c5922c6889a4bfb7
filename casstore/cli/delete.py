"""casstore delete"""

from __future__ import annotations

import sys

import click

import casstore
from casstore.cli import exits
from casstore.cli.arguments import complete_name, complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, plural, printable, show_json
from casstore.cli.report import report_error

_EXAMPLES = """\b
Examples:
  casstore delete bert:v1
  casstore delete bert:v1 bert:v2 --yes
  casstore delete --all-versions-of bert --yes && casstore gc
"""
_MAX_LISTED = 10


@click.command(epilog=_EXAMPLES)
@click.argument("tags", metavar="[TAG]...", shell_complete=complete_tag, nargs=-1)
@click.option(
    "--all-versions-of", "name", metavar="NAME", shell_complete=complete_name, help="Every version of this model."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal to ask on.")
@common_options
@pass_options
@click.pass_context
def delete(context: click.Context, options: Options, tags: tuple[str, ...], name: str | None, yes: bool) -> None:
    """Delete versions, each by its full tag.

    Their directories go at once, their bytes at the next `casstore gc`. A version that others share bytes with
    can be deleted: the others keep what they need. Exit code 3: some were deleted and some were not.
    """
    if not tags and name is None:
        raise click.UsageError("say what to delete: a TAG or more, or --all-versions-of NAME", context)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("delete asks first, and here is no terminal to ask on; add --yes", context)
    with options.open_store() as store:
        doomed = list(dict.fromkeys([*tags, *_versions_of(store, name)]))
        if not yes and not _confirm(doomed):
            raise click.ClickException("nothing was deleted")
        deleted, quarantined, failures = _delete(store, doomed)
    if options.json:
        failed = [{"tag": tag, **exits.as_document(error)} for tag, error in failures.items()]
        show_json({"deleted": deleted, "quarantined": quarantined, "failed": failed})
    else:
        for tag in deleted:
            click.echo(f"deleted {printable(tag)}" if is_screen() else tag)
        for error in failures.values():
            report_error(error, as_json=False)
    for path in quarantined:
        hint(options, f"kept in {path}, since it was not the version's own")
    if deleted:
        hint(options, "`casstore gc` gives their space back")
    if failures:
        codes = {exits.exit_code(error) for error in failures.values()}
        alone = codes.pop() if len(codes) == 1 else exits.ExitCode.FAILED
        raise click.exceptions.Exit(exits.ExitCode.PARTLY_DONE if deleted else alone)


def _versions_of(store: casstore.Store, name: str | None) -> list[str]:
    if name is None:
        return []
    models = store.list(name)
    if not models:
        store.get(name)  # raises TagNotFound with the nearest name
    return [str(model.tag) for model in models]


def _confirm(tags: list[str]) -> bool:
    for tag in tags[:_MAX_LISTED]:
        click.echo(f"  {printable(tag)}", err=True)
    if len(tags) > _MAX_LISTED:
        click.echo(f"  and {len(tags) - _MAX_LISTED:,} more", err=True)
    return click.confirm(f"Delete {'this version' if len(tags) == 1 else f'these {len(tags):,} versions'}?", err=True)


def _delete(store: casstore.Store, tags: list[str]) -> tuple[list[str], list[str], dict[str, Exception]]:
    deleted: list[str] = []
    quarantined: list[str] = []
    failures: dict[str, Exception] = {}
    try:
        for tag in tags:
            try:
                quarantined += store.delete(tag)
                deleted.append(tag)
            except (casstore.CasstoreError, OSError) as error:
                failures[tag] = error
    except KeyboardInterrupt as error:
        raise exits.Interrupted(f"interrupted; {plural(len(deleted), 'version')} of {len(tags)} deleted") from error
    return deleted, quarantined, failures
