"""What is in the trash, as a table or a document."""

from __future__ import annotations

from typing import Any

import casstore
from casstore.cli.options import Options
from casstore.cli.output import Bytes, Column, hint, is_screen, show_json, show_table, utc

# Where the screen is narrow: FILES goes, then who, the time of day, the size, the id.
_COLUMNS = (
    Column("TAG", narrow=((0, 48),)),
    Column("SIZE", right=True, narrow=((6, 0),)),
    Column("FILES", right=True, narrow=((1, 0),)),
    Column("DELETED", fixed=True, narrow=((3, 16), (4, 10))),
    Column("BY", narrow=((2, 0),)),
    Column("GOES", fixed=True, narrow=((3, 16), (4, 10), (5, 0))),
    Column("ID", narrow=((7, 0),)),
)


def list_deleted(options: Options, name: str | None) -> None:
    """Show what is in the trash, the last deleted first."""
    with options.open_store() as store:
        found = store.deleted(name)
        days = store.settings()["trash_days"]
    if options.json:
        show_json({"deleted": [_document(each) for each in found]})
        return
    if not found:
        hint(options, "the trash is empty" if name is None else f"nothing of {name} is in the trash")
        return
    rows = [
        (each.tag, Bytes(each.size), each.file_count, each.deleted_at, each.deleted_by, each.goes_at,
         each.digest[:12] if is_screen() else each.id)
        for each in found
    ]  # fmt: skip
    show_table(_COLUMNS, rows)
    hint(options, f"`casstore undelete TAG` brings one back; GOES: gc may take it from then on (trash_days {days})")


def _document(each: casstore.DeletedVersion) -> dict[str, Any]:
    return {
        "tag": str(each.tag),
        "id": each.id,
        "digest": each.digest,
        "size_bytes": each.size,
        "file_count": each.file_count,
        "created_at": utc(each.created_at),
        "deleted_at": utc(each.deleted_at),
        "deleted_by": each.deleted_by,
        "goes_at": utc(each.goes_at),
        "labels": each.labels,
    }
