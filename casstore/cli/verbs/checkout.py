"""casstore checkout"""

from __future__ import annotations

from pathlib import Path

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.exits import NotFound
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import is_screen, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore checkout bert work/                 the newest version, to change and to save again
  casstore save bert:v2 work/
  casstore checkout bert:v1 /models/bert       a volume of a container, if it is empty
  casstore checkout bert:v1 serve/ --link      takes no space; to be read only
  casstore checkout bert serve/ --only '*.safetensors' --only config.json
"""


@click.command(short_help="Copy a version's files into a directory of your own.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--link", is_flag=True, help="Read-only hardlinks, on the store's own file system.")
@click.option("--only", metavar="PATTERN", multiple=True, help="Only these files, directories, or patterns.")
@common_options
@pass_options
def checkout(options: Options, tag: str, directory: str, link: bool, only: tuple[str, ...]) -> None:
    """Copy a version's files into a directory of your own, to change them or to carry them away.

    DIR is new or empty, and is there when it is complete. The files can be written to and share nothing with the store
    that a write could harm: they share blocks with it where the file system can, and are full copies elsewhere. Every
    byte is checked on its way. With --link they are hardlinks of the store's own files: a write into one, as
    root may do, destroys the version.
    """
    with options.open_store() as store, progress_bar(options) as progress:
        model = store.get(tag)
        try:
            path = store.checkout(model.tag, directory, only=only or None, link=link, progress=progress)
        except FileNotFoundError as error:
            if only and error.errno is None:  # no file fits
                raise NotFound(str(error)) from error
            raise
    if options.json:
        written = [each for each in Path(path).rglob("*") if each.is_file()] if only else []
        size = sum(each.stat().st_size for each in written) if only else model.size
        count = len(written) if only else model.file_count
        show_json({"tag": str(model.tag), "path": path, "size_bytes": size, "file_count": count})
    else:
        click.echo(printable(path) if is_screen() else path)
