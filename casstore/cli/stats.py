"""casstore stats"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

import casstore
from casstore.cli.arguments import complete_name
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, show_fields, show_json, show_table

_EXAMPLES = """\b
Examples:
  casstore stats
  casstore stats --by-model
  casstore stats bert --json
"""
_MODEL_FIELDS = ("versions", "logical_bytes", "unique_bytes")
_COLUMNS = (
    Column("MODEL"),
    Column("VERSIONS", right=True),
    Column("LOGICAL", right=True),
    Column("UNIQUE", right=True),
    Column("RATIO", right=True),
)


@click.command(epilog=_EXAMPLES)
@click.argument("name", metavar="[NAME]", shell_complete=complete_name, required=False)
@click.option("--by-model", is_flag=True, help="One line per model.")
@common_options
@pass_options
@click.pass_context
def stats(context: click.Context, options: Options, name: str | None, by_model: bool) -> None:
    """Show what the versions hold and what they take.

    \b
    logical    all files of all versions, as plain copies would take
    unique     their distinct bytes
    stored     what the store's objects take now: loose files and packs
    redundant  loose files whose bytes stand elsewhere too, kept for fast opening
    dead       what no version needs; `casstore gc` frees it
    ratio      logical to unique: how many times the sharing pays
    """
    if name is not None and by_model:
        raise click.UsageError("give NAME or --by-model, not both", context)
    with options.open_store() as store:
        if by_model:
            _show_models(options, {name: store.stats(name) for name in store.names()})
            return
        usage = store.stats(name)
        home = store.home
    if options.json:
        show_json({"name": name, **_model(usage)} if name else {"home": str(home), **_everything(usage)})
        return
    fields: dict[str, Any] = {"model": name} if name else {"store": home}
    for field, value in (_model(usage) if name else _everything(usage)).items():
        fields[field.removesuffix("_bytes")] = Bytes(value) if field.endswith("_bytes") else value
    fields["ratio"] = _ratio_text(usage)
    show_fields(fields)
    if usage.dead_bytes:
        hint(options, "`casstore gc` frees what is dead")


def _show_models(options: Options, usages: dict[str, casstore.Usage]) -> None:
    if options.json:
        show_json({"models": [{"name": name, **_model(usage)} for name, usage in usages.items()]})
        return
    rows = [
        (name, usage.versions, Bytes(usage.logical_bytes), Bytes(usage.unique_bytes), _ratio_text(usage))
        for name, usage in usages.items()
    ]
    show_table(_COLUMNS, rows)


def _everything(usage: casstore.Usage) -> dict[str, Any]:
    return {**dataclasses.asdict(usage), "ratio": _ratio(usage)}


def _model(usage: casstore.Usage) -> dict[str, Any]:
    return {**{field: getattr(usage, field) for field in _MODEL_FIELDS}, "ratio": _ratio(usage)}


def _ratio(usage: casstore.Usage) -> float | None:
    return round(usage.logical_bytes / usage.unique_bytes, 3) if usage.unique_bytes else None


def _ratio_text(usage: casstore.Usage) -> str | None:
    ratio = _ratio(usage)
    return None if ratio is None else f"{ratio:.2f}"
