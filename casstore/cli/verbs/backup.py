"""casstore backup"""

from __future__ import annotations

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, hint, printable, show_fields, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore backup /mnt/disk/models             the first time everything, later what is new
  casstore --home /mnt/disk/models verify      check it
  casstore --home /mnt/disk/models list        use it as it stands
  casstore --home /mnt/disk/models backup ~/.casstore
                                               restore it to a new place
"""


@click.command(short_help="Copy the whole store, while it is in use.", epilog=_EXAMPLES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--copy", is_flag=True, help="Copy every new byte, where files could share them with the store's too.")
@common_options
@pass_options
def backup(options: Options, directory: str, copy: bool) -> None:
    """Make DIR a copy of the whole store, or bring an earlier backup there up to date.

    DIR is new, empty, or a backup of this store. Others may save, delete and run gc meanwhile: the backup is the store
    of one moment. Only new files travel, and what the store has deleted goes from DIR too. On the store's own file
    system they are reflinks or hardlinks, which take no space, and do not help when the disk fails. Cut short, DIR is
    what it was before, and the next run goes on.

    DIR is a store itself, without directories in models/. Exit code 3 when something in the store is missing or
    damaged; all else has been copied then, and nothing removed.
    """
    with options.open_store() as store, progress_bar(options) as progress:
        report = store.backup(directory, copy=copy, progress=progress)
    if options.json:
        show_json(
            {
                "directory": report.directory,
                "versions": report.versions,
                "containers": report.containers,
                "stored_bytes": report.stored_bytes,
                "new_containers": report.new_containers,
                "copied_bytes": report.copied_bytes,
                "linked_bytes": report.linked_bytes,
                "removed": report.removed,
                "removed_bytes": report.removed_bytes,
                "damaged": list(report.damaged),
            }
        )
    else:
        _show(options, report)
    if report.damaged:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _show(options: Options, report: casstore.BackupReport) -> None:
    show_fields(
        {
            "versions": report.versions,
            "files": report.containers,
            "stored": Bytes(report.stored_bytes),
            "new files": report.new_containers,
            "copied": Bytes(report.copied_bytes),
            "linked": Bytes(report.linked_bytes),
            "removed files": report.removed,
            "removed": Bytes(report.removed_bytes),
        }
    )
    for reason in report.damaged:
        click.echo(f"damaged: {printable(reason)}")
    if report.damaged:
        hint(options, "nothing was removed from the backup; `casstore verify` tells what is damaged in the store")
    elif report.linked_bytes:
        hint(options, "linked files share their bytes with the store's; a backup on another disk helps when this fails")
    hint(options, f"`casstore --home {report.directory} verify` reads the backup and checks it")
