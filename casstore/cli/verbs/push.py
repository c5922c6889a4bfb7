"""casstore push"""

from __future__ import annotations

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, hint, human_bytes, is_screen, plural, show_json, show_table
from casstore.cli.progress import progress_bar
from casstore.cli.remotes import complete_remote

_EXAMPLES = """\b
Examples:
  casstore push bert:v1
  casstore push bert                           every version of bert
  casstore push 'bert:run7-*' --to nas
  casstore push --all --dry-run                what is not there
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tags", metavar="[TAG|NAME|GLOB]...", nargs=-1, shell_complete=complete_tag)
@click.option("--all", "everything", is_flag=True, help="Every version of the store.")
@click.option(
    "--to",
    "name",
    metavar="REMOTE",
    shell_complete=complete_remote,
    help="Where to.  [default: the store's default remote]",
)
@click.option("--dry-run", is_flag=True, help="Only say which versions are not there.")
@common_options
@pass_options
@click.pass_context
def push(
    context: click.Context, options: Options, tags: tuple[str, ...], everything: bool, name: str | None, dry_run: bool
) -> None:
    """Bring versions to a remote; only what it lacks travels.

    Chunks that it has, from whatever version, are not sent, and trained weights travel as compressed differences to the
    version before. A version is there wholly or not at all. A push that was cut short goes on with what has arrived
    when it is run again. A version that is there already is no error; another one under its tag is. Signatures go
    along, also those that were made since a version was pushed.
    """
    if not tags and not everything:
        raise click.UsageError("say what to push: a TAG, a NAME or a GLOB, or --all", context)
    with options.open_store() as store, store.remote(name) as there, progress_bar(options) as progress:
        pushed = there.push(None if everything else tags, dry_run=dry_run, progress=progress)
    if options.json:
        rows = [
            {"tag": str(each.tag), "is_new": each.is_new, "sent_bytes": each.sent_bytes, "packs": each.packs,
             "signatures": each.signatures}
            for each in pushed
        ]  # fmt: skip
        show_json({"pushed": rows, "dry_run": dry_run})
        return
    for each in pushed:
        signed = f", and {plural(each.signatures, 'signature')} brought" if each.signatures else ""
        if not is_screen():
            show_table((), [(str(each.tag), Bytes(each.sent_bytes), "new" if each.is_new else "present")])
        elif not each.is_new:
            click.echo(f"{each.tag} is there already{signed}")
        elif dry_run:
            click.echo(f"{each.tag} would be pushed")
        else:
            sent = f"{human_bytes(each.sent_bytes)} sent in {plural(each.packs, 'pack')}"
            click.echo(f"pushed {each.tag}: {sent}{signed}")
    if not pushed:
        hint(options, "the store is empty; fill it with `casstore save NAME:VERSION PATH`")
