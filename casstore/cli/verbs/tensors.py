"""casstore tensors"""

from __future__ import annotations

from contextlib import ExitStack

import click

import casstore
from casstore.cli import describe
from casstore.cli.arguments import complete_place, files_below, split_place
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, file_name, hint, human_bytes, is_screen, plural, show_json, show_table
from casstore.cli.remotes import remote_option

_EXAMPLES = """\b
Examples:
  casstore tensors bert:v1
  casstore tensors bert --match 'encoder.layer.0.*'
  casstore tensors bert:v1/optimizer.pt        those of one file
  casstore tensors bert:v7 --remote            without pulling it
  casstore tensors bert --json | jq '[.tensors[].size_bytes] | add'
"""
_COLUMNS = (
    Column("NAME", whole=True), Column("DTYPE", fixed=True), Column("SHAPE", fixed=True),
    Column("SIZE", right=True, fixed=True), Column("FILE"),
)  # fmt: skip


@click.command(short_help="List the tensors of a version.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG[/FILE]", shell_complete=complete_place)
@click.option("--match", metavar="PATTERN", help="Only tensors whose names match, as a shell's patterns do.")
@remote_option("From a remote, whether the version is here or not.")
@common_options
@pass_options
def tensors(options: Options, tag: str, match: str | None, remote: str | None) -> None:
    """List the tensors of a version: name, dtype, shape, size and file.

    They are known from the catalog, so that no weights are read: in safetensors, GGUF, npz and what torch.save writes,
    there by the names of parameters. In a pipe a digest follows, equal where the bytes are. In Python,
    model.tensor(NAME) reads one.
    """
    tag, file = split_place(tag)
    with options.open_store() as store, ExitStack() as opened:
        model: casstore.Model | casstore.RemoteModel
        if remote is None:
            model = opened.enter_context(store.look(tag))
        else:
            model = opened.enter_context(store.remote(remote or None)).get(tag)
        files_below(model, file)
        found = model.tensors(match, file=file or None)
    if options.json:
        show_json({"tag": str(model.tag), "tensors": describe.tensors(found)})
        return
    rows = []
    for each in found:
        shape = "?" if each.shape is None else "x".join(map(str, each.shape)) or "-"
        row = [each.name, each.dtype or "?", shape, Bytes(each.size), file_name(each.file)]
        rows.append(row if is_screen() else [*row, each.digest])
    if rows:
        show_table(_COLUMNS, rows, may_page=True)
        total = human_bytes(sum(each.size for each in found))
        hint(options, f"{plural(len(rows), 'tensor')}, {total}")
    else:
        hint(options, "no tensor matches" if match else f"{model.tag} has no file whose tensors are known")
