"""casstore lineage"""

from __future__ import annotations

import click

import casstore
from casstore.cli.arguments import complete_name, complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, Share, hint, is_screen, show_json, show_table
from casstore.cli.progress import progress_bar
from casstore.cli.verbs.log import DEPTH, LIMIT, log

_EXAMPLES = """\b
Examples:
  casstore lineage --infer bert:v7             which versions it most likely came from
  casstore lineage --infer bert:v7 --in bert   among the versions of one name
  casstore lineage bert:v7                     what is known, as `casstore log --graph`
"""
_COLUMNS = (Column("VERSION", fixed=True), Column("SAME", right=True), Column(""))


@click.command(short_help="Guess what a version came from.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.option("--infer", is_flag=True, help="Compare it with every version, and list those it most likely came from.")
@click.option("--in", "name", metavar="NAME", shell_complete=complete_name, help="Only versions of this name.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many to list at most."
)
@common_options
@pass_options
@click.pass_context
def lineage(context: click.Context, options: Options, tag: str, *, infer: bool, name: str | None, limit: int) -> None:
    """List the versions that TAG most likely came from, by how many of its tensors stand in them just the same.

    The likeliest comes first, and of those that are equally like it the last before it. What is known to have come
    from TAG is left out. A training that has changed every tensor leaves nothing to go by. Every recipe of the store is
    looked at once and no content is read: for 100,000 versions of 100 tensors each that takes about a quarter of a
    minute.

    In a pipe: a line for each, with tabs: tag, share, equal, tensors, "tensors" or "chunks". Without --infer: what is
    known, as `casstore log --graph TAG` shows it.
    """
    if not infer:
        context.invoke(log, tag=tag, graph=True, form="text", depth=DEPTH, limit=LIMIT)
        return
    with options.open_store() as store, progress_bar(options) as progress:
        model = store.get(tag)
        found = store.likely_parents(model.tag, name=name, limit=limit, progress=progress)
    if options.json:
        show_json({"tag": str(model.tag), "likely": [_document(each) for each in found]})
    elif is_screen() and found:
        show_table(_COLUMNS, [(each.tag, Share(each.share), _words(each)) for each in found])
    else:
        show_table((), [(each.tag, Share(each.share), each.equal, each.total, each.unit) for each in found])
    if found:
        hint(options, f"`casstore save TAG PATH --parent {found[0].tag}=finetune` records it of a version to come")
    else:
        hint(options, f"no version has anything in common with {model.tag} that it could come from")


def _words(each: casstore.LikelyParent) -> str:
    return f"{each.equal:,} of {each.total:,} {each.unit}"


def _document(each: casstore.LikelyParent) -> dict[str, object]:
    return {
        "tag": str(each.tag),
        "digest": str(each.digest),
        "share": each.share,
        "equal": each.equal,
        "total": each.total,
        "unit": each.unit,
    }
