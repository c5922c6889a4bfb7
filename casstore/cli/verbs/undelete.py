"""casstore undelete"""

from __future__ import annotations

import click
from click import shell_completion

import casstore
from casstore.cli.arguments import begins_like
from casstore.cli.describe import summary
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, plural, printable, show_json

_EXAMPLES = """\b
Examples:
  casstore list --deleted                      what there is to be brought back
  casstore undelete bert:v1
  casstore undelete bert:v1 --as bert:v1-old   where bert:v1 has been saved again meanwhile
  casstore undelete bert:v1 --id 3f2a9c        of several that had this tag
"""


def _complete(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    return begins_like(ctx, incomplete, lambda store: [str(each.tag) for each in store.deleted()])


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=_complete)
@click.option("--as", "as_", metavar="TAG", help="Another tag for it.")
@click.option(
    "--id", "which", metavar="ID", help="The beginning of its id or digest, as `casstore list --deleted` has it."
)
@common_options
@pass_options
def undelete(options: Options, tag: str, as_: str | None, which: str | None) -> None:
    """Bring a deleted version back.

    All of it comes back: files, labels, metadata, its time and its place among the versions, so that it is the newest
    again if it was. Aliases stay where they are. Of several that had the same tag, the last deleted comes back.
    TAG may be the beginning of a version that only one deleted version has.
    """
    with options.open_store() as store:
        model = store.undelete(tag, as_=as_, which=which)
        if options.json:
            show_json(summary(model))
        else:
            click.echo(f"{printable(str(model.tag))} is back" if is_screen() else str(model.tag))
        _hint_at_others(options, store, model)


def _hint_at_others(options: Options, store: casstore.Store, model: casstore.Model) -> None:
    more = sum(each.tag == model.tag for each in store.deleted(model.tag.name))
    if more:
        hint(options, f"{plural(more, 'more deleted version')} had this tag; `casstore list --deleted` names them")
