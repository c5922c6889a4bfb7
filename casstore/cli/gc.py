"""casstore gc"""

from __future__ import annotations

import click

from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, show_json, show_table
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore gc --dry-run                        what would go, changing nothing
  casstore gc
"""


@click.command(epilog=_EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common_options
@pass_options
def gc(options: Options, dry_run: bool) -> None:
    """Give back the space that no version needs.

    Others may save, read and delete meanwhile; interrupting it is safe. In a pipe: step, count and bytes freed.
    """
    with options.open_store() as store, progress_bar(options) as progress:
        report = store.gc(dry_run=dry_run, progress=progress)
    if options.json:
        steps = [{"name": step.name, "count": step.count, "freed_bytes": step.freed_bytes} for step in report.steps]
        show_json({"dry_run": report.dry_run, "freed_bytes": report.freed_bytes, "steps": steps})
        return
    columns = (Column("STEP"), Column("COUNT", right=True), Column("WOULD FREE" if dry_run else "FREED", right=True))
    rows = [(step.name, step.count, Bytes(step.freed_bytes)) for step in report.steps]
    total = ("total", sum(step.count for step in report.steps), Bytes(report.freed_bytes))
    show_table(columns, [*rows, total])
    if dry_run:
        hint(options, "nothing was changed; `casstore gc` does it")
