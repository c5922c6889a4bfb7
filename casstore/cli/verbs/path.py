"""casstore path"""

from __future__ import annotations

import os

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import file_name, is_screen, printable, show_json

_EXAMPLES = """\b
Examples:
  ls "$(casstore path bert)"
  python predict.py --model "$(casstore path bert:v1)"
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@common_options
@pass_options
def path(options: Options, tag: str) -> None:
    """Print the directory of a version.

    It is made ready first if need be. Its files are read-only and shared with the store; `casstore checkout` makes a
    copy that you may change.
    """
    with options.open_store() as store:
        model = store.get(tag)
        directory = model.path
    if options.json:
        show_json({"tag": str(model.tag), "path": file_name(directory)})
    else:
        click.echo(printable(file_name(directory)) if is_screen() else os.fsencode(directory))
