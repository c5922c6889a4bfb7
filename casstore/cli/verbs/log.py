"""casstore log"""

from __future__ import annotations

import click

from casstore.cli import lineages
from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, say, show_json

_EXAMPLES = """\b
Examples:
  casstore log bert:v7                         what it came from, and what came from it
  casstore log bert:v7 --graph                 the same as a tree
  casstore log bert:v7 --format mermaid        for a README: a drawn graph
  casstore log bert:v7 --format dot | dot -Tsvg > bert.svg
  casstore log bert:v7 --json | jq '.ancestors[] | [.relation, .tag // .uri]'
"""
DEPTH, LIMIT = 20, 1000


@click.command(short_help="Show what a version came from, and what came from it.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.option("--graph", is_flag=True, help="Draw a tree.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "mermaid", "dot"]),
    default="text",
    show_default=True,
    help="The language of the answer; mermaid and dot are drawn by other programs.",
)
@click.option("--depth", type=click.IntRange(1), default=DEPTH, show_default=True, help="How many generations to show.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 100_000),
    default=LIMIT,
    show_default=True,
    help="How many ancestors, and how many descendants, to show at most.",
)
@common_options
@pass_options
def log(options: Options, tag: str, *, graph: bool, form: str, depth: int, limit: int) -> None:
    """Show what a version came from, and what came from it.

    Parents are what --parent of `casstore save` says, the base, and what an adapter_config.json or a model card among
    the files says. With each stands how many of the child's tensors differ from the parent's, which is told without
    reading them. A parent that was deleted is shown as such, even where its tag has been used again.

    In a pipe without --graph: a line for each, with tabs: generation (0 is TAG, -1 a parent, 1 a child), tag or URI,
    relation, what it hangs on, share changed, tensors changed, tensors, "tensors" or "chunks" (of versions without
    tensors), state (here, gone, elsewhere, outside), time.
    """
    with options.open_store() as store:
        lineage = store.lineage(tag, depth=depth, limit=limit)
    if form == "json" or options.json:
        show_json(lineages.document(lineage))
    elif form in ("mermaid", "dot"):
        for line in (lineages.mermaid if form == "mermaid" else lineages.dot)(lineage):
            click.echo(line)
    elif graph:
        lineages.show_tree(lineage)
    else:
        lineages.show_list(lineage)
    if not (lineage.is_whole or options.quiet or options.json):
        say("note: there are more; see --depth and --limit")
    if not lineage.ancestors:
        hint(options, f"nothing is known of where it came from; `casstore lineage --infer {lineage.tag}` guesses")
