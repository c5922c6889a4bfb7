"""casstore pull, casstore clone"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import casstore
from casstore.cli.describe import summary
from casstore.cli.exits import NotFound
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import (
    Bytes,
    file_name,
    hint,
    human_bytes,
    is_screen,
    plural,
    printable,
    say,
    show_json,
    show_table,
)
from casstore.cli.progress import progress_bar
from casstore.cli.remotes import complete_remote
from casstore.cli.verbs.remote import reaching

_EXAMPLES = """\b
Examples:
  casstore pull bert                           every version of bert
  casstore pull bert:v7
  casstore pull bert:v7 --as bert:candidate
  casstore pull --all --from nas
  casstore pull bert:v7 --file 'onnx/*' --file config.json
                                               some files alone, as ./bert-v7/onnx/... and ./bert-v7/config.json
  casstore pull bert:v7 --file model.onnx -o serve/ --replace
"""
_CLONE_EXAMPLES = """\b
Examples:
  casstore clone s3://bucket/models
  casstore clone /media/usb/models models
  casstore clone s3://bucket/models --none     set up, and pull what is needed later
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tags", metavar="[TAG|NAME|GLOB]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every version of the remote.")
@click.option(
    "--from",
    "name",
    metavar="REMOTE",
    shell_complete=complete_remote,
    help="Where from.  [default: the store's default remote]",
)
@click.option("--as", "as_tag", metavar="TAG", help="Save the one version under this tag.")
@click.option("--trust", is_flag=True, help="Its Python objects may be unpickled when a program asks for them.")
@click.option("--no-materialize", is_flag=True, help="Make no directory until one is asked for.")
@click.option(
    "--file",
    "files",
    metavar="GLOB",
    multiple=True,
    help="Write these files of the one version into a directory, and save nothing. Repeatable.",
)
@click.option("-o", "--output", metavar="DIR", help="With --file: the directory.  [default: ./NAME-VERSION]")
@click.option("--replace", is_flag=True, help="With --file: replace files in DIR that have other content.")
@common_options
@pass_options
def pull(
    options: Options,
    /,
    tags: tuple[str, ...],
    everything: bool,
    name: str | None,
    as_tag: str | None,
    **how: Any,
) -> None:
    """Fetch what the store lacks from a remote.

    Every chunk is checked against its digest as it comes. A pull that was cut short goes on with what has come when it
    is run again. A version that is here already is no error; another one under its tag is. Signatures come along, and
    with the setting require_signature a version that has no valid one by those keys is refused.

    With --file only what the files that fit are made of is fetched, as far as the store lacks it. They are written
    below DIR, where what has the same content stays; the version is not saved in the store. GLOB is a path, a
    directory or a pattern, of which * also stands for /.
    """
    if how["files"] or how["output"] is not None or how["replace"]:
        is_whole = everything or as_tag is not None or how["trust"] or how["no_materialize"]
        _check_for_files(tags, how["files"], is_whole=is_whole)
        _pull_files(options, tags[0], name, how)
        return
    if not tags and not everything:
        raise click.UsageError("say what to pull: a TAG, a NAME or a GLOB, or --all", click.get_current_context())
    with options.open_store(create=True) as store, store.remote(name) as there, progress_bar(options) as progress:
        pulled = there.pull(
            None if everything else tags, as_tag=as_tag, trust=how["trust"],
            materialize=not how["no_materialize"], progress=progress,
        )  # fmt: skip
    _show(options, pulled)


def _check_for_files(tags: Sequence[str], patterns: Sequence[str], *, is_whole: bool) -> None:
    context = click.get_current_context()
    if not patterns:
        raise click.UsageError(
            "-o and --replace go with --file, which says which files; `casstore checkout` copies all", context
        )
    if len(tags) != 1 or is_whole:
        raise click.UsageError(
            "--file is about one version, which is not saved: give one TAG, or a NAME for its newest version, and no "
            "--all, --as, --trust or --no-materialize",
            context,
        )


def _pull_files(options: Options, text: str, name: str | None, how: Mapping[str, Any]) -> None:
    with options.open_store(create=True) as store, store.remote(name) as there, progress_bar(options) as progress:
        model = there.get(text)
        directory = how["output"] or f"{model.tag.name}-{model.tag.version}"
        try:
            done = model.checkout(directory, how["files"], replace=how["replace"], progress=progress)
        except FileNotFoundError as error:
            raise error if error.errno else NotFound(str(error)) from error
    if options.json:
        show_json({
            "tag": str(model.tag), "path": done.directory, "received_bytes": done.received_bytes,
            "written": [file_name(path) for path in done.written], "present": [file_name(path) for path in done.left],
        })  # fmt: skip
        return
    rows = {**dict.fromkeys(done.written, "new"), **dict.fromkeys(done.left, "present")}
    if not is_screen():
        show_table((), [(f"{done.directory}/{path}", rows[path]) for path in sorted(rows)])
        return
    for path in sorted(done.left):
        click.echo(f"{printable(f'{done.directory}/{path}')} is there already")
    for path in done.written:
        click.echo(printable(f"{done.directory}/{path}"))
    if done.written:
        click.echo(f"{plural(len(done.written), 'file')} of {model.tag}: {human_bytes(done.received_bytes)} received")


@click.command(epilog=_CLONE_EXAMPLES)
@click.argument("url", metavar="URL")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@reaching
@click.option("--none", "only_set_up", is_flag=True, help="Pull nothing yet.")
@click.option("--trust", is_flag=True, help="Python objects in the versions may be unpickled.")
@common_options
@pass_options
def clone(
    options: Options,
    /,
    url: str,
    directory: Path | None,
    only_set_up: bool,
    trust: bool,
    **reach: Any,
) -> None:
    """Make a store of what is in a remote.

    It becomes the store's remote `origin`. The store is made in DIR, or else where --home and CASSTORE_HOME say. One
    that stands there is taken, as long as it has no other `origin`: a clone that was cut short goes on.
    """
    if directory is not None and options.home is not None:
        raise click.UsageError("say where to once: DIR or --home", click.get_current_context())
    if directory is not None:
        options.home = str(directory)
    with options.open_store(create=True) as store, progress_bar(options) as progress:
        is_known = store.remotes().get("origin") in (url, os.path.abspath(url))
        with store.remote("origin") if is_known else store.add_remote("origin", url, make=False, **reach) as there:
            pulled = [] if only_set_up else there.pull(trust=trust, progress=progress)
        home = store.home
    _show(options, pulled)
    if is_screen() and not options.json:
        click.echo(f"{home} has {plural(len(pulled), 'version')} of {printable(url)}")


def _show(options: Options, pulled: Sequence[casstore.Pulled]) -> None:
    if options.json:
        rows = [
            {**summary(each.model), "is_new": each.is_new, "received_bytes": each.received_bytes,
             "notes": list(each.notes)} for each in pulled
        ]  # fmt: skip
        show_json({"pulled": rows})
        return
    for each in pulled:
        tag = each.model.tag
        if not is_screen():
            show_table((), [(str(tag), Bytes(each.received_bytes), "new" if each.is_new else "present")])
        elif each.is_new:
            click.echo(f"pulled {tag}: {human_bytes(each.received_bytes)} received, {human_bytes(each.model.size)}")
        else:
            click.echo(f"{tag} is here already")
    for note in (note for each in pulled for note in each.notes):
        say(f"note: {printable(note)}")
    if any(each.is_new and each.model.is_untrusted for each in pulled):
        hint(
            options,
            "their Python objects are not unpickled unless a program says so, or they are pulled with --trust",
        )
