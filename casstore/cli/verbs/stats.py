"""casstore stats"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

import casstore
from casstore.cli.arguments import complete_name
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, human_bytes, is_screen, plural, show_fields, show_json, show_table
from casstore.cli.usage import usage_document, usage_fields, version_fields

_EXAMPLES = """\b
Examples:
  casstore stats
  casstore stats --by-model
  casstore stats bert --json
  casstore stats bert:v1
"""
# What is left out of them first, where the screen is narrow, is what saved the bytes.
_COLUMNS = (
    Column("MODEL", narrow=((0, 16),)),
    Column("VERS", right=True, narrow=((6, 0),)),
    Column("LOGICAL", right=True),
    Column("COPIED", right=True, narrow=((4, 0),)),
    Column("STORED", right=True),
    Column("RATIO", right=True, narrow=((5, 0),)),
    Column("FILE", right=True, narrow=((3, 0),)),
    Column("CHUNK", right=True, narrow=((2, 0),)),
    Column("ENC", right=True, narrow=((1, 0),)),
)
_WHOLE_STORE = "(whole store)"
_PART_COLUMNS = (Column("ON DISK"), Column("SIZE", right=True), Column(""))
_MEANINGS = {
    "needed": "chunks that versions need, as they are stored",
    "redundant": "in loose files, stored elsewhere too, for fast opening",
    "dead": "what no version needs; `casstore gc` frees it",
    "trapped": "the same, beside needed chunks; freed when gc rewrites those",
    "overhead": "headers and indexes of packs",
    "trash": "what only deleted versions need; `casstore gc` frees it in time",
    "kept": "what sync-tree --prune has deleted and can bring back",
}


@click.command(epilog=_EXAMPLES)
@click.argument("name", metavar="[NAME]", shell_complete=complete_name, required=False)
@click.option("--by-model", is_flag=True, help="The lines of the models alone.")
@common_options
@pass_options
@click.pass_context
def stats(context: click.Context, options: Options, name: str | None, by_model: bool) -> None:
    """Show what versions hold and take, and what sharing saves.

    For each model and the whole store; for one model; or, NAME being a tag, for one version.

    \b
    logical    all files of all versions
    copied     what plain copies would take on disk, in blocks of 4096 bytes
    stored     of a model or version: the chunks it needs, as they are stored,
               and the other versions' chunks that differences are against;
               of the store: all loose files and packs
    ratio      logical to stored
    FILE, CHUNK, ENC (saved.file, saved.chunk, saved.encoding)
               the shares of logical saved by storing equal files once, equal
               chunks once, and by encoding; needed is what they leave
    needed     chunks that versions need, as they are stored
    redundant  in loose files, stored elsewhere too, for fast opening
    dead       what no version needs; `casstore gc` frees it
    trapped    the same, in packs and files that hold needed chunks too: free
               when gc rewrites them
    overhead   headers and indexes of packs
    trash      if any: what only deleted versions need that `casstore undelete`
               can bring back; gc frees it once trash_days have passed
    kept       if any: what only versions need that sync-tree --prune has
               deleted, and can bring back for the days of keep_days
    frees      what deleting the version frees in all, and later: of that, what
               stays in packs with needed chunks until gc rewrites them
    kernels    compiled, or numpy where casstore was installed without a
               compiler, which packs and reads packs more slowly
    held       materialized: its directory stands; packed: all its bytes are in
               packs; not materialized: neither

    What the store has stored is the sum of needed, redundant, dead, trapped,
    overhead, trash and kept. Models share chunks, so theirs may add up to more than needed.
    """
    if name is not None and by_model:
        raise click.UsageError("give NAME or --by-model, not both", context)
    with options.open_store() as store:
        if name is not None:
            _show_one(options, name, store.stats(name))
            return
        models = {model: store.stats(model) for model in store.names()}
        if by_model:
            _show_models(options, models)
            return
        usage = store.stats()
        home = store.home
    if options.json:
        document = {"home": str(home), "kernels": casstore.kernels_in_use(), **usage_document(usage)}
        show_json({**document, "models": _documents(models)})
        return
    if is_screen():
        show_table(_COLUMNS, [*_rows(models), *_rows({_WHOLE_STORE: usage})])
        click.echo()
        show_table(_PART_COLUMNS, _explained_parts(usage))
        if casstore.kernels_in_use() == "numpy":
            hint(options, "packs are written and read in numpy; installed with a compiler, casstore is faster at it")
        hint(options, "FILE, CHUNK, ENC: what equal files, equal chunks and encoding save of LOGICAL")
    else:
        files = {"loose": Bytes(usage.loose_bytes), "packs": Bytes(usage.packs_bytes)}
        fields = {"store": home, "versions": usage.versions, **usage_fields(usage), **_parts(usage), **files}
        show_fields({**fields, "kernels": casstore.kernels_in_use()})
        show_table((), [("model", *row) for row in _rows(models)])
    if usage.dead_bytes:
        hint(options, "`casstore gc` frees what is dead")
    if usage.trash_versions:
        what = f"{plural(usage.trash_versions, 'deleted version')}, {human_bytes(usage.trash_bytes)}"
        hint(options, f"in the trash: {what}; `casstore gc --empty-trash` frees it at once")


def _show_one(options: Options, name: str, usage: casstore.Usage) -> None:
    is_version = usage.frees_bytes is not None
    if options.json:
        state = {"materialized": usage.materialized, "pinned": usage.pinned} if is_version else {}
        show_json({"tag" if is_version else "name": name, **usage_document(usage), **state})
        return
    fields: dict[str, Any] = {"tag" if is_version else "model": name, "versions": usage.versions, **usage_fields(usage)}
    show_fields({**fields, **(version_fields(usage) if is_version else {"redundant": Bytes(usage.redundant_bytes)})})


def _show_models(options: Options, models: Mapping[str, casstore.Usage]) -> None:
    if options.json:
        show_json({"models": _documents(models)})
        return
    show_table(_COLUMNS, _rows(models))


def _documents(models: Mapping[str, casstore.Usage]) -> list[dict[str, Any]]:
    return [{"name": name, **usage_document(usage)} for name, usage in models.items()]


def _rows(usages: Mapping[str, casstore.Usage]) -> list[tuple[Any, ...]]:
    return [(name, usage.versions, *usage_fields(usage).values()) for name, usage in usages.items()]


def _parts(usage: casstore.Usage) -> dict[str, Bytes]:
    """What the stored bytes of a store are the sum of."""
    return {
        "needed": Bytes(usage.encoded_bytes),
        "redundant": Bytes(usage.redundant_bytes),
        "dead": Bytes(usage.dead_bytes),
        "trapped": Bytes(usage.trapped_bytes),
        "overhead": Bytes(usage.overhead_bytes),
        **({"trash": Bytes(usage.trash_bytes)} if usage.trash_versions else {}),
        **({"kept": Bytes(usage.kept_bytes)} if usage.kept_bytes else {}),
    }


def _explained_parts(usage: casstore.Usage) -> list[tuple[str, Bytes, str]]:
    files = f"loose files {human_bytes(usage.loose_bytes)}, packs {human_bytes(usage.packs_bytes)}; of which"
    parts = [(part, size, _MEANINGS[part]) for part, size in _parts(usage).items()]
    return [("stored", Bytes(usage.stored_bytes), files), *parts]
