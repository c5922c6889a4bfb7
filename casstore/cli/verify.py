"""casstore verify"""

from __future__ import annotations

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import human_bytes, plural, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore verify
  casstore verify --json | jq -r '.damaged_tags[]'
  casstore verify -q || mail -s "damaged models" ops@example.com
"""


@click.command(epilog=_EXAMPLES)
@common_options
@pass_options
def verify(options: Options) -> None:
    """Read everything and name what is damaged.

    Every stored byte is compared with its digest. Changes nothing. Exit code 1 when there is damage.
    """
    with options.open_store() as store, progress_bar(options) as progress:
        report = store.verify(progress=progress)
    if options.json:
        show_json(
            {
                "is_sound": report.is_sound,
                "chunks": report.chunks,
                "read_bytes": report.read_bytes,
                "damaged_tags": report.damaged_tags,
                "damaged_files": [{"tag": damage.tag, "path": damage.path} for damage in report.damage],
                "damaged_copies": list(report.damaged_copies),
                "reasons": list(report.reasons),
            }
        )
    else:
        _show(options, report)
    if not report.is_sound:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _show(options: Options, report: casstore.VerifyReport) -> None:
    for damage in report.damage:
        click.echo(f"damaged: {damage.tag} {printable(damage.path)}")
    for path in report.damaged_copies:
        click.echo(f"damaged copy, no version is lost: {printable(path)}")
    if options.quiet:
        return
    for reason in report.reasons:
        click.echo(f"reason: {printable(reason)}")
    read = f"{plural(report.chunks, 'chunk')} checked, {human_bytes(report.read_bytes)} read"
    if report.is_sound:
        click.echo(f"sound: {read}")
    elif report.damage:
        tags = report.damaged_tags
        click.echo(f"{plural(len(tags), 'version')} damaged, {plural(len(report.damage), 'file')}; {read}")
    else:
        click.echo(f"{plural(len(report.damaged_copies), 'redundant file')} damaged, every version is whole; {read}")
