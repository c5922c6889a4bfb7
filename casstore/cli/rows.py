"""Fields that were asked for by name, as columns: what `list --columns` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from casstore.cli.describe import finite
from casstore.cli.options import Options
from casstore.cli.output import Bytes, Column, is_screen, show_json, show_table, utc

_NARROW = 12  # characters of a column, on a screen that has no room for all
_JSON_NAMES = {"size": "size_bytes", "files": "file_count", "created": "created_at", "opened": "opened_at"}


def show_rows(options: Options, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Show a table whose columns are those of the rows; as JSON with what else is told of it."""
    if options.json:
        versions = [{_JSON_NAMES.get(key, key): _for_json(value) for key, value in row.items()} for row in rows]
        show_json({**more, "versions": versions})
    elif rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        heads = [
            Column(
                name if "." in name else name.upper(), narrow=((place, _NARROW),),
                right=all(isinstance(row.get(name), int | float | None) for row in rows),
            )
            for place, name in enumerate(names)
        ]  # fmt: skip
        show_table(heads, [[_cell(name, row.get(name)) for name in names] for row in rows], may_page=True)


def _cell(name: str, value: Any) -> Any:
    """A value as a table shows it."""
    if name == "size":
        return Bytes(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and is_screen():
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ",".join(str(_cell("", each)) for each in value)
    return json.dumps(finite(value)) if isinstance(value, dict) else value


def _for_json(value: Any) -> Any:
    return utc(value) if isinstance(value, datetime) else finite(value)
