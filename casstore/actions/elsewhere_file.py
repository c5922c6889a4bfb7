"""`elsewhere.json`: the versions whose bytes only a remote has, for a catalog that has to be made again.

Nothing else in the store names them. The catalog is what counts; the file is written from it, before its transaction
ends: cut short, it names a version that is here still, or lacks one that was about to be forgotten.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from casstore.actions.workspace import Workspace
from casstore.catalog.remotes import Elsewhere
from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.plain_json import canonical_json
from casstore.storage import files
from casstore.storage.layout import Layout
from casstore.tag import Tag

_FORMAT = 1
_MOST_BYTES = 256 << 20


def note(workspace: Workspace, version: Elsewhere) -> None:
    """Note that only a remote will have a version, before it is deleted here: on disk when this returns.

    Raises StoreLocked, OSError.
    """
    with workspace.session() as session:
        workspace.catalog.remotes.put_elsewhere(version, lambda all_: _write(workspace, all_, session.new_path()))


def rename_remote(workspace: Workspace, before: str, after: str) -> None:
    """Note that the store calls a remote something else now. Raises StoreLocked, OSError."""
    with workspace.session() as session:
        known = workspace.catalog.remotes
        known.rename_elsewhere(before, after, lambda all_: _write(workspace, all_, session.new_path()))


def forget(workspace: Workspace, tag: Tag) -> None:
    """Note that a version is here again, or gone for good. Raises StoreLocked, OSError."""
    with workspace.session() as session:
        workspace.catalog.remotes.forget_elsewhere(tag, lambda all_: _write(workspace, all_, session.new_path()))


def _write(workspace: Workspace, versions: Sequence[Elsewhere], temporary: Path) -> None:
    rows = [
        {"tag": str(each.tag), "remote": each.remote, "digest": str(each.digest), "size": each.size,
         "created_at": each.created_at_ns}
        for each in versions
    ]  # fmt: skip
    said = {"format": _FORMAT, "versions": rows}
    data = canonical_json({**said, "check": _check(said)}).encode("utf-8")
    files.write_file(workspace.layout.elsewhere, data, 0o666 & ~workspace.mask, temporary=temporary, durable=True)


def _check(said: Mapping[str, Any]) -> str:
    return str(Digest.of(canonical_json(said).encode("utf-8")))


def read(layout: Layout) -> list[Elsewhere]:
    """What the file says; nothing where there is none.

    Raises IntegrityError where it is damaged, UnsupportedFormat, OSError.
    """
    path = layout.elsewhere
    try:
        said = json.loads(files.read_file(path, _MOST_BYTES))
        check = said.pop("check")
        if check != _check(said):
            raise ValueError("it does not match its own digest")
        if said["format"] != _FORMAT:
            raise UnsupportedFormat(f"{path} was written by a newer casstore; upgrade this one")
        return [
            Elsewhere(
                Tag.parse(row["tag"]), str(row["remote"]), Digest.parse(row["digest"]), int(row["size"]),
                int(row["created_at"]),
            )
            for row in said["versions"]
        ]  # fmt: skip
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"it is damaged: {error}") from error


def copy(source: Layout, target: Layout, temporary: Path) -> None:
    """Have a backup know them too. Raises OSError."""
    try:
        data = files.read_file(source.elsewhere, _MOST_BYTES)
        mode = stat.S_IMODE(source.elsewhere.stat().st_mode)
    except FileNotFoundError:
        files.remove_file(target.elsewhere)
        return
    files.write_file(target.elsewhere, data, mode, temporary=temporary, durable=True)
