"""casstore status"""

from __future__ import annotations

import click

from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, plural, show_json
from casstore.cli.remotes import complete_remote

_EXAMPLES = """\b
Examples:
  casstore status
  casstore status nas --json | jq -r '.here[]'
"""
_MAX_LISTED = 20


@click.command(epilog=_EXAMPLES)
@click.argument("name", metavar="[REMOTE]", required=False, shell_complete=complete_remote)
@common_options
@pass_options
def status(options: Options, name: str | None) -> None:
    """Compare the store with a remote.

    It tells what is only here, what is only there, and what differs under one tag.

    In a pipe: one version per line, a tab, and `here`, `there` or `different`.
    """
    with options.open_store() as store, store.remote(name) as there:
        found = there.status()
    if options.json:
        show_json({
            "here": list(found.here), "there": list(found.there), "different": list(found.different),
            "same": found.same,
        })  # fmt: skip
        return
    parts = (("here", "only here", found.here), ("there", "only there", found.there),
             ("different", "different, under one tag", found.different))  # fmt: skip
    for word, meaning, tags in parts:
        if not is_screen():
            for tag in tags:
                click.echo(f"{tag}\t{word}")
        elif tags:
            click.echo(f"{meaning}: {plural(len(tags), 'version')}")
            for tag in tags[:_MAX_LISTED]:
                click.echo(f"  {tag}")
            if len(tags) > _MAX_LISTED:
                click.echo(f"  and {len(tags) - _MAX_LISTED:,} more")
    if is_screen():
        click.echo(f"the same: {plural(found.same, 'version')}")
    if found.here:
        hint(options, "`casstore push --all` brings there what is only here")
    if found.there:
        hint(options, "`casstore pull --all` fetches what is only there")
