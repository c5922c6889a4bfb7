"""casstore save"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

import casstore
from casstore.cli.arguments import complete_tag, parse_pairs
from casstore.cli.describe import summary
from casstore.cli.exits import ExitCode, Interrupted
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.order import path_after_tag
from casstore.cli.output import Bytes, hint, human_bytes, is_screen, plural, printable, show_json, show_table, styled
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore save bert out/                      a generated version
  casstore save bert:v1 out/ -l stage=dev -m accuracy=0.93 -m 'tags=["en"]'
  casstore save bert:v2 out/ --base bert:v1 --move
  casstore save run out/ --no-materialize      a checkpoint of many: packed at once
  casstore save tiny:v1 model.gguf             a single file
  casstore save minilm --from-hf ~/.cache/huggingface/hub/models--org--minilm/snapshots/c9745ed...
  casstore save bert out/ --exclude '*.log' --exclude 'checkpoint-*/'
  tag=$(casstore save -q bert out/)            for scripts: the tag alone
"""
_MOST_NAMED = 5


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path), required=False)
@click.option("-l", "--label", "labels", metavar="K=V", multiple=True, help="A label, text to text. Repeatable.")
@click.option(
    "-m",
    "--metadata",
    metavar="K=V",
    multiple=True,
    help="A metadata entry; V is read as JSON if it is JSON, else as text. Repeatable.",
)
@click.option(
    "--metadata-file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="Metadata from a JSON object in a file, - for stdin; -m adds to it.",
)
@click.option("--module", metavar="M", default="", help="The Python module that loads it, such as transformers.")
@click.option(
    "--framework",
    "frameworks",
    metavar="NAME=VERSION",
    multiple=True,
    help="A package it was made with; the first is the framework. Repeatable.",
)
@click.option(
    "--base",
    metavar="TAG",
    shell_complete=complete_tag,
    help="The version it comes from: what changed since is stored as the difference.  "
    "[default: the newest of that name]",
)
@click.option(
    "--no-materialize",
    is_flag=True,
    help="Make no directory until one is asked for; all that is new is encoded and packed at once, as gc would later.",
)
@click.option(
    "--move",
    is_flag=True,
    help="Take the files over instead of copying them: they are removed from PATH, and PATH too if nothing else is in "
    "it. What links lead to stays, and so does a model.yaml. Refused where files may not be removed.",
)
@click.option(
    "--from-hf",
    is_flag=True,
    help="PATH is a snapshot in the cache of huggingface_hub (.../models--ORG--NAME/snapshots/REVISION): its links are "
    "followed, and repository and revision go into the metadata.",
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Leave out what matches, as in a .gitignore: '*.log', 'checkpoints/', '/top.txt'. Repeatable.",
)
@click.option(
    "--no-ignore",
    is_flag=True,
    help="Leave out only what --exclude names, not .git, __pycache__, .cache/huggingface and what PATH/.casstoreignore "
    "names.",
)
@click.option("--allow-empty", is_flag=True, help="Save a directory without files, for its metadata alone.")
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    help="full: survives a power cut once saved; relaxed: faster.  [default: the store's setting]",
)
@common_options
@pass_options
def save(
    options: Options,
    tag: str,
    path: Path | None,
    labels: tuple[str, ...],
    metadata: tuple[str, ...],
    metadata_file: IO[str] | None,
    module: str,
    frameworks: tuple[str, ...],
    base: str | None,
    no_materialize: bool,
    move: bool,
    from_hf: bool,
    exclude: tuple[str, ...],
    no_ignore: bool,
    allow_empty: bool,
    durability: str | None,
) -> None:
    """Save the directory or file at PATH as TAG.

    TAG is name:version, or a name alone for a generated version. A saved version never changes: saving a tag
    that exists is an error. Either everything is saved or nothing is. Exit code 3: it is saved, and --move has left
    files where they were.

    Left out of a directory, and named, are .git, __pycache__, .cache/huggingface, and what the patterns in its
    .casstoreignore match, which are those of a .gitignore.
    """
    path = path_after_tag(click.get_current_context(), tag, path)
    parsed_labels = parse_pairs("--label", labels)
    parsed_metadata = {**_read_metadata(metadata_file), **_parse_metadata(metadata)}
    context = _context(frameworks)
    with options.open_store() as store, progress_bar(options) as progress:
        draft = store.create(
            tag,
            labels=parsed_labels,
            metadata=parsed_metadata,
            context=context,
            module=module,
            base=base,
            durability=durability,
            materialize=not no_materialize,
            progress=progress,
        )
        try:
            with draft:
                draft.take_from(
                    path, move=move, allow_empty=allow_empty, from_hf=from_hf, exclude=exclude, ignore=not no_ignore
                )
        except KeyboardInterrupt as error:
            # It may have come just after the one moment from which on the version is there.
            if str(draft.tag) in store.tags():
                raise Interrupted(f"interrupted, but {draft.tag} was saved already") from error
            raise Interrupted("interrupted; nothing was saved") from error
        model = draft.model
    _show(options, model, draft, path if move else None)
    if draft.left_behind:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _show(options: Options, model: casstore.Model, draft: casstore.Draft, moved: Path | None) -> None:
    if options.json:
        show_json({**summary(model), "new_bytes": draft.new_bytes, **_not_in(draft)})
    elif options.quiet:
        click.echo(str(model.tag))
    elif is_screen():
        new = f", {human_bytes(draft.new_bytes) if draft.new_bytes else 'none'} of it new" if model.size else ""
        where = "" if moved is None or draft.left_behind else f"; taken over, and gone from {printable(str(moved))}"
        click.echo(f"saved {model.tag}: {plural(model.file_count, 'file')}, {human_bytes(model.size)}{new}{where}")
    else:
        show_table((), [(str(model.tag), Bytes(model.size), model.file_count)])
    if draft.left_behind and not options.json:
        text = f"saved, but not taken away, and still there: {_first(draft.left_behind)}"
        click.echo(styled("warning: ", fg="yellow", bold=True) + text, err=True)
    if draft.left_out and not (options.json or options.quiet):
        click.echo(f"note: left out {_first(draft.left_out)} (see --exclude and --no-ignore)", err=True)
    hint(
        options,
        f'open it with `casstore path {model.tag}`, or in Python: casstore.Store().get("{model.tag}").path',
    )


def _not_in(draft: casstore.Draft) -> dict[str, list[str]]:
    return {"left_out": list(draft.left_out), "left_behind": list(draft.left_behind)}


def _first(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED:,} more" if len(paths) > _MOST_NAMED else ""
    return printable(", ".join(paths[:_MOST_NAMED])) + more


def _read_metadata(file: IO[str] | None) -> dict[str, Any]:
    if file is None:
        return {}
    context = click.get_current_context()
    try:
        document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--metadata-file {file.name} is not JSON: {error}", context) from error
    if not isinstance(document, dict):
        raise click.UsageError(f"--metadata-file {file.name} holds no JSON object, such as {{...}}", context)
    return document


def _parse_metadata(pairs: tuple[str, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for key, text in parse_pairs("--metadata", pairs).items():
        try:
            metadata[key] = json.loads(text)
        except (ValueError, RecursionError):
            metadata[key] = text
    return metadata


def _context(frameworks: tuple[str, ...]) -> dict[str, Any]:
    versions = parse_pairs("--framework", frameworks)
    return {"framework_name": next(iter(versions)), "framework_versions": versions} if versions else {}
