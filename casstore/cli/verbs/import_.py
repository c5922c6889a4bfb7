"""casstore import"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

import casstore
import casstore.integrations.hugging_face as hugging_face
from casstore.cli.describe import summary
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, hint, human_bytes, is_screen, plural, printable, say, show_json, show_table
from casstore.cli.progress import progress_bar
from casstore.cli.verbs.export import FORMATS

_EXAMPLES = """\b
Examples:
  casstore import bert.bentomodel              from BentoML, or casstore
  casstore import runs.casmodel                every version in it
  casstore import bert.tar --as bert:other     under another tag
  casstore import oci:models:v1                from an OCI layout
  casstore import hf://sentence-transformers/all-MiniLM-L6-v2@main --include '*.safetensors' --include '*.json'
                                               from the Hugging Face hub, as sentence-transformers--all-minilm-l6-v2
  ssh host casstore export bert:v1 - --format casmodel | casstore import -
"""


@click.command("import", short_help="Save the versions of an archive.", epilog=_EXAMPLES)
@click.argument("path", metavar="PATH")
@click.option("--as", "as_tag", metavar="TAG", help="The tag to save it under, instead of the one it comes with.")
@click.option("--format", "archive_format", type=FORMATS, help="[default: what the content says]")
@click.option(
    "--trust",
    is_flag=True,
    help="You trust its author: it may expand to more than 1 GiB and 100 times its size, and its Python objects "
    "may be unpickled when a program asks for them.",
)
@click.option("--no-materialize", is_flag=True, help="Make no directory until one is asked for; pack it at once.")
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Of hf://, download these files alone: '*.safetensors'. Repeatable.",
)
@click.option("--aliases", is_flag=True, help="Move aliases to what they meant where it was made, if it says so.")
@common_options
@pass_options
def import_archive(
    options: Options,
    /,
    path: str,
    as_tag: str | None,
    archive_format: str | None,
    include: tuple[str, ...],
    **wishes: bool,
) -> None:
    """Save the version that an archive holds, or every version of a .casmodel.

    PATH is an archive of any format that `casstore export` or `bentoml models export` writes, a directory with a
    model.yaml, oci:DIR[:REF] for an OCI layout with a model of casstore's, CNCF ModelPack, KitOps or Docker, a URL if
    the Python package fsspec is installed, or - for stdin. A version keeps its tag, labels, metadata and creation time,
    and takes its place among the versions of its name by that time. The very same version imported twice is not an
    error; another one under a tag that is taken is, and changes nothing. With --aliases an alias that is here moves,
    unless it is protected.

    Nothing is unpacked outside the store, and what an archive claims is checked: one that would write elsewhere,
    expands out of proportion or is damaged is refused, and with the setting require_signature one that has no valid
    signature by those keys. A .casmodel whose import was cut short goes on from there when
    it is imported again.

    hf://ORG/NAME, or hf://ORG/NAME@REVISION, is a repository of the Hugging Face hub: it is downloaded by
    huggingface_hub (pip install 'casstore[huggingface]') straight into the store, and saved as ORG--NAME and the first
    12 digits of its commit. With the setting require_signature it is refused: the hub has no signatures by keys.
    """
    if path.startswith("hf://") and not hugging_face.names_file(path):
        _check_for_hub(archive_format, wishes)
        with options.open_store(create=True) as store:
            quiet = options.quiet or options.json or not is_screen()
            model, is_new = hugging_face.import_repository(store, path, as_tag=as_tag, include=include, quiet=quiet)
        _show_all(options, [casstore.Imported(model, is_new, ())])
        return
    if include:
        raise click.UsageError("--include goes with hf://ORG/NAME", click.get_current_context())
    with options.open_store(create=True) as store, progress_bar(options) as progress:
        imported = store.import_archive(
            sys.stdin.buffer if path == "-" else path,
            format=archive_format,
            as_tag=as_tag,
            trust=wishes["trust"],
            materialize=not wishes["no_materialize"],
            aliases=wishes["aliases"],
            progress=progress,
        )
    _show_all(options, imported)


def _check_for_hub(archive_format: str | None, wishes: Mapping[str, bool]) -> None:
    if archive_format is not None or any(wishes.values()):
        raise click.UsageError(
            "with hf:// go --as and --include; leave out --format, --trust, --no-materialize and --aliases",
            click.get_current_context(),
        )


def _show_all(options: Options, imported: Sequence[casstore.Imported]) -> None:
    if options.json:
        show_json([{**summary(each.model), "is_new": each.is_new, "notes": list(each.notes)} for each in imported])
        return
    for each in imported:
        _show(options, each)
    for note in (f"{each.model.tag}: {note}" for each in imported for note in each.notes):
        say(f"note: {printable(note)}")
    if any(each.model.is_untrusted for each in imported):
        hint(options, "its Python objects are not unpickled unless a program says so, or it is imported with --trust")


def _show(options: Options, each: casstore.Imported) -> None:
    model = each.model
    if options.quiet:
        click.echo(str(model.tag))
    elif not is_screen():
        show_table((), [(str(model.tag), Bytes(model.size), model.file_count, "new" if each.is_new else "present")])
    elif each.is_new:
        click.echo(f"imported {model.tag}: {plural(model.file_count, 'file')}, {human_bytes(model.size)}")
    else:
        click.echo(f"{model.tag} is saved already, the very same; nothing was changed")
