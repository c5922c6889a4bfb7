"""casstore repair"""

from __future__ import annotations

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, plural, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore repair
  casstore repair --from /backup/models        heal from files that stand there, under whatever names
  casstore repair --rebuild-catalog            when catalog.db is damaged or gone
"""


@click.command(epilog=_EXAMPLES)
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True),
    help="Also look for lost bytes in all files below DIR, another store for example. May be repeated.",
)
@click.option(
    "--rebuild-catalog",
    is_flag=True,
    help="First make catalog.db again from packs, loose files and manifests. Nothing may use the store meanwhile.",
)
@common_options
@pass_options
def repair(options: Options, sources: tuple[str, ...], rebuild_catalog: bool) -> None:
    """Read everything, and heal what is damaged.

    What is damaged is made again from whatever holds the same bytes: another copy in the store, a version's directory,
    or files given with --from. Damaged files are moved to quarantine/ and never deleted. No version is ever dropped:
    a file of which no copy is found stays listed, and can be healed later by another repair, or by saving it again.

    A rebuilt catalog has every version with all that was saved with it; settings and pins are back to their defaults.
    Exit code 1 when something stays lost.
    """
    rebuilt = None
    with progress_bar(options) as progress:
        if rebuild_catalog:
            rebuilt = casstore.Store.rebuild_catalog(options.home, progress=progress)
        with options.open_store() as store:
            report = store.repair(sources, progress=progress)
    if options.json:
        show_json(_as_json(report, rebuilt))
    else:
        _show(options, report, rebuilt)
    if report.damage or (rebuilt is not None and rebuilt.unreadable):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _as_json(report: casstore.RepairReport, rebuilt: casstore.RebuildReport | None) -> dict[str, object]:
    answer: dict[str, object] = {
        "healed_files": [{"tag": each.tag, "path": each.path} for each in report.healed],
        "damaged_files": [{"tag": each.tag, "path": each.path} for each in report.damage],
        "restored_tags": list(report.restored),
        "quarantined": list(report.quarantined),
        "healed_chunks": report.healed_chunks,
        "made_directories": list(report.made),
        "taken_up": list(report.taken_up),
        "unread": list(report.unread),
        "alias_logs": list(report.alias_logs),
    }
    if rebuilt is not None:
        answer["rebuilt"] = {
            "tags": list(rebuilt.tags),
            "containers": rebuilt.containers,
            "unreadable": list(rebuilt.unreadable),
            "recovered_tags": list(rebuilt.recovered),
            "lost_aliases": list(rebuilt.lost_aliases),
        }
    return answer


def _show(options: Options, report: casstore.RepairReport, rebuilt: casstore.RebuildReport | None) -> None:
    if rebuilt is not None:
        found = f"{plural(len(rebuilt.tags), 'version')} from {plural(rebuilt.containers, 'container')}"
        click.echo(f"rebuilt the catalog: {found}")
        for tag in rebuilt.recovered:
            click.echo(f"found beside another of its tag: {tag}")
        for line in rebuilt.lost_aliases:
            click.echo(f"alias lost: {printable(line)}")
        for line in rebuilt.unreadable:
            click.echo(f"unreadable: {printable(line)}")
    for directory in report.made:
        click.echo(f"was missing, made again: {printable(directory)}")
    for path in report.taken_up:
        click.echo(f"taken up: {printable(path)}")
    for each in report.healed:
        click.echo(f"healed: {each.tag} {printable(each.path)}")
    for tag in report.restored:
        click.echo(f"restored: {tag}")
    for name in report.alias_logs:
        click.echo(f"log of aliases written again: {name}")
    for path in report.quarantined:
        click.echo(f"in quarantine: {printable(path)}")
    for each in report.damage:
        click.echo(f"lost: {each.tag} {printable(each.path)}")
    for line in report.unread:
        click.echo(f"not searched: {printable(line)}")
    if options.quiet:
        return
    if report.damage:
        click.echo(f"{plural(len(report.damage), 'file')} lost; every other file is whole")
        hint(options, "give a directory that has them with --from, or save their content again under any tag")
    elif report.healed or report.restored or report.quarantined or report.made or report.taken_up or report.alias_logs:
        click.echo("repaired: every version is whole")
    else:
        click.echo("nothing was damaged")
    if rebuilt is not None:
        hint(options, "settings and pins are at their defaults: see `casstore config` and `casstore pin`")
