"""casstore cat"""

from __future__ import annotations

import sys

import click

import casstore
from casstore.cli.arguments import complete_file, complete_place, no_file, split_place
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.order import tag_first
from casstore.cli.remotes import remote_option

_EXAMPLES = """\b
Examples:
  casstore cat bert/config.json
  casstore cat bert:v1/config.json | jq .hidden_size
  casstore cat bert:v1/weights.bin > copy.bin
  casstore cat bert:v1 model.yaml              what BentoML reads of it; a blank will do, too
  casstore cat bert:v7/config.json --remote    one file, without pulling the version
"""
_PIECE_BYTES = 1 << 20


@click.command(short_help="Write a file of a version to stdout.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG/FILE", shell_complete=complete_place)
@click.argument("file", metavar="", required=False, shell_complete=complete_file)
@remote_option("From a remote, whether the version is here or not.")
@common_options
@pass_options
def cat(options: Options, tag: str, file: str | None, remote: str | None) -> None:
    """Write one file of a version to stdout, its bytes as they are.

    FILE is its path in the version, as `casstore ls TAG` lists it. It is read straight from the store, every byte
    checked on its way; no directory is made. Of a version that only a remote has, the file alone is fetched.
    """
    context = click.get_current_context()
    if file is None:
        tag, file = split_place(tag)
        if not file:
            raise click.UsageError(f"Missing argument 'FILE': casstore cat {tag}/FILE", context)
    if options.json:
        raise click.UsageError("a file's bytes are not JSON; `casstore ls TAG --json` lists the files", context)
    with options.open_store() as store:
        if remote is not None:
            with store.remote(remote or None) as there:
                _write(context, there.get(tag), file)
            return
        with tag_first(context, store, tag, file), store.look(tag) as model:
            _write(context, model, file)


def _write(context: click.Context, model: casstore.Model | casstore.RemoteModel, file: str) -> None:
    try:
        reader = model.open(file)
    except FileNotFoundError as error:
        raise no_file(model, file) from error
    with reader:
        head = reader.read(_PIECE_BYTES)
        if sys.stdout.isatty() and b"\0" in head:
            raise click.UsageError(
                f"{file} is binary and is not printed to a terminal; redirect it: casstore cat TAG/FILE > COPY",
                context,
            )
        piece = head
        while piece:
            sys.stdout.buffer.write(piece)
            piece = reader.read(_PIECE_BYTES)
