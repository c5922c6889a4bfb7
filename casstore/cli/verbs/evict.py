"""casstore evict"""

from __future__ import annotations

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, show_json
from casstore.cli.remotes import complete_remote

_EXAMPLES = """\b
Examples:
  casstore evict bert:v1 bert:v2 --to-remote && casstore gc
  casstore evict bert:v1 --to-remote nas
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tags", metavar="TAG...", nargs=-1, required=True, shell_complete=complete_tag)
@click.option(
    "--to-remote",
    "name",
    metavar="[REMOTE]",
    is_flag=False,
    flag_value="",
    required=True,
    shell_complete=complete_remote,
    help="The remote that has them; without a name the store's default remote.",
)
@common_options
@pass_options
def evict(options: Options, tags: tuple[str, ...], name: str) -> None:
    """Leave versions to a remote, but for their names.

    All that they need is looked for there first. Whatever asks for such a version, as `casstore path TAG` does, pulls
    it again. The newest version of a name, one that is pinned or aliased, and one in use by a process stay. The next
    `casstore gc` gives the space back.
    """
    with options.open_store() as store:
        given_up = store.evict(tags, to_remote=name or None)
    if options.json:
        show_json({"evicted": given_up})
        return
    for tag in given_up:
        click.echo(f"{tag} is in the remote alone now" if is_screen() else tag)
    hint(options, "`casstore gc` gives their space back")
