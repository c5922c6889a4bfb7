"""casstore ls"""

from __future__ import annotations

import click

from casstore.cli.arguments import complete_place, files_below, split_place
from casstore.cli.describe import files
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import file_name, hint, human_bytes, is_screen, printable, show_json
from casstore.cli.verbs.list import list_versions

_EXAMPLES = """\b
Examples:
  casstore ls bert:v1
  casstore ls bert                             the files of the newest version
  casstore ls bert:v1/tokenizer                those in a directory
  casstore ls bert:v1 | sort -n | tail -1      its largest file
  casstore ls                                  the versions, as `casstore list`
"""
_SIZE_CHARACTERS = len("1023 MiB")


@click.command(short_help="List the files of a version.", epilog=_EXAMPLES)
@click.argument("tag", metavar="[TAG[/DIR]]", shell_complete=complete_place, required=False)
@common_options
@pass_options
@click.pass_context
def ls(context: click.Context, options: Options, tag: str | None) -> None:
    """List the files of a version, or of a directory in it: size and path. Without TAG, list versions, as `casstore
    list` does.

    In a pipe: one file per line, a tab between bytes and path. `casstore cat TAG/FILE` writes one of them to stdout.
    """
    if tag is None:
        context.invoke(list_versions, name=None, labels=())
        return
    tag, path = split_place(tag)
    with options.open_store() as store, store.look(tag) as model:
        found = files_below(model, path)
        if options.json:
            show_json({"tag": str(model.tag), "files": files(found)})
            return
        for each in found:
            # Long paths are left to the terminal to break, which it puts together again when they are copied.
            if is_screen():
                click.echo(f"{human_bytes(each.size):>{_SIZE_CHARACTERS}}  {printable(file_name(each.path))}")
            else:
                click.echo(f"{each.size}\t{printable(file_name(each.path))}")
        if ":" not in tag and not path:
            hint(options, f"these are the files of {model.tag}; `casstore list {model.tag.name}` lists its versions")
