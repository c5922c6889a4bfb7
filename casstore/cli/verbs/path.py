"""casstore path"""

from __future__ import annotations

import os

import click

from casstore.cli.arguments import complete_place, files_below, split_place
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import file_name, is_screen, printable, show_json

_EXAMPLES = """\b
Examples:
  ls "$(casstore path bert)"
  python predict.py --model "$(casstore path bert:v1)"
  llama-cli -m "$(casstore path llama/model.gguf)"
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG[/FILE]", shell_complete=complete_place)
@common_options
@pass_options
def path(options: Options, tag: str) -> None:
    """Print the directory of a version, or the path of a file in it.

    It is made ready first if need be. Its files are read-only and shared with the store; `casstore checkout` makes a
    copy that you may change.
    """
    with options.open_store() as store:
        tag, inner = split_place(tag)
        model = store.get(tag)
        if inner != "model.yaml":
            files_below(model, inner)
        found = os.path.join(model.path, inner) if inner else model.path
    if options.json:
        show_json({"tag": str(model.tag), "path": file_name(found)})
    else:
        click.echo(printable(file_name(found)) if is_screen() else os.fsencode(found))
