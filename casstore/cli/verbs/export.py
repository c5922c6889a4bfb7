"""casstore export"""

from __future__ import annotations

import sys

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.order import tag_first
from casstore.cli.output import hint, show_json
from casstore.cli.progress import progress_bar

FORMATS = click.Choice(["bentomodel", "tar", "tar.gz", "tar.xz", "tar.bz2", "tar.zst", "zip", "folder", "casmodel"])
_EXAMPLES = """\b
Examples:
  casstore export bert                         the newest version, as ./bert-VERSION.casmodel
  casstore export bert:v1 /backup/             into a directory
  casstore export bert:v1 bert.tar.zst         the name says the format
  casstore export bert:v1 bert.bentomodel      for BentoML
  casstore export bert runs.casmodel --all     every version, in the least space
  casstore export bert@prod --aliases          with the aliases that mean it
  casstore export bert:v1 oci:models           into an OCI layout, for registries of containers
  casstore export bert:v1 oci:models:prod      under another reference than v1
  casstore export bert:v1 - --format tar | ssh host casstore import -
"""


@click.command(short_help="Write versions to an archive.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.argument("path", metavar="[PATH]", default="")
@click.option("--format", "archive_format", type=FORMATS, help="[default: what PATH's name says, else casmodel]")
@click.option(
    "--with",
    "others",
    metavar="TAG",
    multiple=True,
    shell_complete=complete_tag,
    help="Another version for the same .casmodel. Repeatable.",
)
@click.option("--all", "every", is_flag=True, help="Every version of the name; TAG is a name alone.")
@click.option("--aliases", is_flag=True, help="Put in what aliases mean these versions; a .casmodel alone can hold it.")
@common_options
@pass_options
def export(
    options: Options, /, tag: str, path: str, archive_format: str | None, others: tuple[str, ...], **which: bool
) -> None:
    """Write a version to an archive, which `casstore import` and, but for .casmodel and .tar.zst, BentoML read.

    PATH is a file, a directory (the file in it is named after the version), a URL such as s3://bucket/bert.tar if the
    Python package fsspec is installed, or - for stdout; by default the current directory. A .casmodel holds one or
    several versions, each chunk once, as differences between versions where that takes less, and is the fastest to
    write. A .bentomodel is BentoML's own format, a tar in xz. oci:DIR[:REF] is an OCI layout, in which each version is
    an artifact of CNCF ModelPack and equal files are there once: `skopeo copy oci:DIR:REF docker://...` pushes it to a
    registry. Signatures go along. Every byte that is copied is checked on its way, and so is what an OCI layout has
    already; a file is there once it is complete.
    """
    context = click.get_current_context()
    if path == "-" and sys.stdout.isatty():
        raise click.UsageError(
            "an archive is not written to a terminal; redirect it: casstore export TAG - > FILE", context
        )
    if path == "-" and options.json:
        raise click.UsageError("--json and the archive cannot both go to stdout", context)
    with options.open_store() as store, progress_bar(options) as progress:
        tags = [tag, *others]
        if which["every"]:
            tags = [str(model.tag) for model in store.list(tag)] + list(others)
            if not tags:
                tags = [tag]  # and export says what there is
        target = sys.stdout.buffer if path == "-" else path
        with tag_first(context, store, tag, path):
            written = store.export(tags, target, format=archive_format, aliases=which["aliases"], progress=progress)
    if path == "-":
        return
    if options.json:
        show_json({"path": written, "tags": tags})
    else:
        click.echo(written)
    if written.startswith("oci:") and len(tags) > 1:
        written += ":REF"  # of several one is taken
    hint(options, f"`casstore import {written}` takes it into another store")
