"""casstore show"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

import casstore
from casstore.cli.arguments import complete_tag
from casstore.cli.describe import annotation, everything
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, as_text, file_name, is_screen, show_fields, show_json, show_table
from casstore.cli.remotes import remote_option, show_remote_model, show_there
from casstore.cli.usage import usage_document, usage_fields, version_fields

_EXAMPLES = """\b
Examples:
  casstore show bert                           the newest version
  casstore show bert:v1
  casstore show bert@prod                      what an alias means; bert@prod~1 is what it meant before
  casstore show bert:v1 --json | jq .metadata
  casstore show bert:v1 --remote
"""
_COLUMNS = (Column("FILE"), Column("SIZE", right=True), Column("BLAKE3"), Column(""))
# A vector in the metadata would push everything else off the screen; --json has it whole.
_MAX_SCREEN_CHARACTERS = 300


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@remote_option("What a remote has under this tag.")
@common_options
@pass_options
def show(options: Options, tag: str, remote: str | None) -> None:
    """Show all about one version.

    Its files with their digests, labels, metadata, context, aliases and base; what it takes, as `casstore stats --help`
    explains, and what deleting it would free. Labels and metrics that `casstore annotate` has changed since the save
    stand once more after all others, with when and by whom. Signatures are named as they stand there, by the keys that
    they claim; `casstore verify --signatures` checks them. TAG is name:version, a unique beginning of a version, a
    name alone for its newest version, or an alias.
    """
    if remote is not None:
        show_there(options, remote, tag)
        return
    with options.open_store() as store, store.look(tag) as model:
        if not isinstance(model, casstore.Model):
            show_remote_model(options, model, is_here=False)
            return
        is_damaged = str(model.tag) in store.damaged_tags()
        usage = store.stats(model.tag)
        if options.json:
            held = {"materialized": usage.materialized, "pinned": usage.pinned, "aliases": list(model.aliases)}
            said: dict[str, Any] = {"annotations": [annotation(each) for each in store.annotations(model.tag)]}
            said["signed_by"] = [{"key": each.key, "hash": each.hash} for each in store.signatures(model.tag)]
            state = {**held, "is_damaged": is_damaged, "usage": usage_document(usage), **said}
            show_json({**everything(model), **state})
            return
        mark = {"damaged": "bytes are gone or written over; see `casstore verify`"} if is_damaged else {}
        signed = {f"signed.{each.key[:16]}": f"{each.hash}, not checked here" for each in store.signatures(model.tag)}
        show_fields({**_fields(model, usage), **signed, **mark, **_annotated(model, store.annotations(model.tag))})
        rows = [(file_name(f.path), Bytes(f.size), f.digest, "executable" if f.executable else "") for f in model.files]
    if is_screen():
        click.echo()
        show_table(_COLUMNS, rows)
    else:
        show_table((), [("file", *row[:3]) for row in rows])


def _fields(model: casstore.Model, usage: casstore.Usage) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "tag": model.tag,
        "size": Bytes(model.size),
        "files": model.file_count,
        "created": model.created_at,
        "digest": model.digest,
        "aliases": ", ".join(model.aliases) or None,
        "base": None if model.base is None else model.base.tag,
        "parents": "; ".join(f"{each} ({each.relation})" for each in model.parents) or None,
        "module": model.module or None,
        "casstore": model.casstore_version,
        **usage_fields(usage),
        **version_fields(usage),
    }
    del fields["logical"]  # which `size` says already
    for name, values in (
        ("label", model.labels),
        ("metadata", _as_json(model.metadata)),
        ("signature", _as_json(model.signatures)),
        ("option", _as_json(model.options)),
        ("context", _as_json(model.context)),
    ):
        fields.update({f"{name}.{key}": value for key, value in values.items()})
    return fields


def _annotated(model: casstore.Model, annotations: Sequence[casstore.Annotation]) -> dict[str, str]:
    """What was said last of each label and metric after the save, and what had been saved."""
    metrics = model.saved_metadata.get("metrics")
    saved = {"label": model.saved_labels, "metric": metrics if isinstance(metrics, dict) else {}}
    found = {}
    for said in annotations:
        before = saved[said.kind].get(said.key)
        parts = [
            "removed" if said.value is None else str(said.value),
            *([] if before is None else [f"saved as {before}"]),
            as_text(said.annotated_at, for_screen=is_screen()),
            f"by {said.actor}",
        ]
        found[f"annotated.{said.kind}.{said.key}"] = ", ".join(parts)
    return found


def _as_json(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _cut(value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()}


def _cut(text: str) -> str:
    if is_screen() and len(text) > _MAX_SCREEN_CHARACTERS:
        return text[:_MAX_SCREEN_CHARACTERS] + "…"
    return text
