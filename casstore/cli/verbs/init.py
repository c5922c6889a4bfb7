"""casstore init"""

from __future__ import annotations

import click

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import plural, printable, say, show_json

_EXAMPLES = """\b
Examples:
  casstore init --home /srv/models                      a store of your own
  casstore init --shared --group ml --home /srv/models  one that the members of the group ml share
  casstore init --shared                                open the store that stands to its directory's group
  casstore init --shared=all                            so that moreover everybody may read
"""
_WITH = {"group": "shared with the group {}", "all": "shared with the group {}, and everybody may read"}


@click.command(epilog=_EXAMPLES)
@click.option(
    "--shared",
    is_flag=False,
    flag_value="group",
    type=click.Choice(["group", "all"]),
    help="Let others use the store: the members of its group, or with =all everybody, who then may read.",
)
@click.option("--group", metavar="NAME", help="The group that shares it.  [default: that of its directory]")
@common_options
@pass_options
def init(options: Options, shared: str | None, group: str | None) -> None:
    """Make a store, or share the one that stands.

    No other verb needs it: a store is made when it is first used, and is its user's own. What is made in a shared
    store follows its directory's owner, group and mode, not the umask of any process. Doing it twice is fine.
    """
    if group is not None and shared is None:
        shared = "group"
    report = casstore.Store.init(options.home, shared=shared, group=group)
    if options.json:
        show_json(
            {
                "home": str(report.home),
                "is_new": report.is_new,
                "shared": report.shared,
                "group": report.group,
                "opened": report.opened,
                "left": list(report.left),
            }
        )
    else:
        _show(report)
    if report.left:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _show(report: casstore.InitReport) -> None:
    what = "a new store" if report.is_new else "a store"
    how = "for its owner" if report.shared is None else _WITH[report.shared].format(report.group)
    click.echo(f"{printable(str(report.home))} is {what}, {how}")
    if report.opened and not report.is_new:
        click.echo(f"opened {plural(report.opened, 'file or directory').replace('directorys', 'directories')} to them")
    for path in report.left:
        say(f"{printable(path)} belongs to another user, who has to run this command too, or root")
