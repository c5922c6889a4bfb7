"""casstore drafts"""

from __future__ import annotations

import shlex
from typing import Any

import click

import casstore
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, human_bytes, is_screen, plural, show_json, show_table, utc

_EXAMPLES = """\b
Examples:
  casstore drafts
  casstore save bert:v4 --draft 0k3f9w2d5m     save one of them after all
  casstore drafts --remove 0k3f9w2d5m          give its space back now
"""
_COLUMNS = (
    Column("ID", fixed=True),
    Column("KEPT SINCE", fixed=True),
    Column("SIZE", right=True),
    Column("TAG"),
    Column("REASON"),
)


@click.command(epilog=_EXAMPLES)
@click.option("--remove", "doomed", metavar="ID", multiple=True, help="Remove this draft for good. Repeatable.")
@common_options
@pass_options
def drafts(options: Options, doomed: tuple[str, ...]) -> None:
    """List drafts that could not be saved.

    They are kept, oldest first. What a program has written inside `with store.create(...)` is kept when the saving
    fails: metadata that cannot be recorded, a tag that was taken meanwhile, a full disk, Ctrl-C. `casstore save TAG
    --draft ID` saves it after all, with the labels and metadata that could be kept. gc removes it after some days (the
    setting keep_days).

    In a pipe: id, UTC time, bytes, tag and reason. With --json also where its files are, and what of its labels and
    metadata could not be kept.
    """
    with options.open_store() as store:
        if doomed:
            removed = [store.remove_draft(draft_id) for draft_id in doomed]
            _show_removed(options, removed)
            return
        kept = store.drafts()
        if options.json:
            show_json({"drafts": [_document(draft) for draft in kept]})
        elif kept:
            show_table(_COLUMNS, [_row(draft) for draft in kept])
            home = f" --home {shlex.quote(options.home)}" if options.home else ""
            tag = str(kept[-1].tag)
            is_free = kept[-1].tag is not None and tag not in store.tags()
            hint(options, f"save one with `casstore save {tag if is_free else 'TAG'} --draft {kept[-1].id}{home}`")
        else:
            hint(options, "no draft is kept: every draft was saved, or discarded by its program")


def _show_removed(options: Options, removed: list[casstore.KeptDraft]) -> None:
    if options.json:
        show_json({"removed": [_document(draft) for draft in removed]})
        return
    for draft in removed:
        if is_screen():
            click.echo(f"removed {draft.id}: {plural(draft.file_count, 'file')}, {human_bytes(draft.size)}")
        else:
            click.echo(draft.id)


def _row(draft: casstore.KeptDraft) -> tuple[Any, ...]:
    return draft.id, draft.kept_at, Bytes(draft.size), draft.tag, draft.reason


def _document(draft: casstore.KeptDraft) -> dict[str, Any]:
    return {
        "id": draft.id,
        "path": draft.path,
        "kept_at": utc(draft.kept_at),
        "size_bytes": draft.size,
        "file_count": draft.file_count,
        "tag": None if draft.tag is None else str(draft.tag),
        "reason": draft.reason,
        "left_out": list(draft.left_out),
    }
