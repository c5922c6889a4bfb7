"""`models/<name>/latest`: the file that says which version of a name is the newest, as in BentoML."""

from __future__ import annotations

import os
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.storage import files
from casstore.storage.layout import new_id

_MOST_BYTES = 4096  # a version has at most 63 characters; a larger file is something else


def is_stale(workspace: Workspace, name: str) -> bool:
    """Whether the directory models/<name> stands, and its `latest` does not say what the catalog says."""
    newest = workspace.catalog.versions.newest(name)
    path = workspace.layout.latest(name)
    return newest is not None and path.parent.is_dir() and _read(path) != newest.version


def write(workspace: Workspace, name: str) -> None:
    """Make models/<name>/latest say what the catalog says. The name's lock must be held."""
    newest = workspace.catalog.versions.newest(name)
    path = workspace.layout.latest(name)
    said = _read(path)
    if said is None and os.path.lexists(path):
        files.move(path, workspace.layout.quarantine / f"{name}.{new_id()}.{path.name}")
    if newest is None:
        files.remove_file(path)
        files.remove_empty_directory(path.parent)
    elif said != newest.version and path.parent.is_dir():
        # Not written beside it, since other tools read models/. The name's lock makes the fixed name ours.
        temporary = workspace.on_device_of(path.parent, workspace.layout.locks / f"{name}.{path.name}")
        # Writable by its owner, unlike other files: BentoML writes into it when it saves or deletes a version.
        files.write_file(path, newest.version.encode(), 0o666 & ~workspace.mask, temporary=temporary)


def _read(path: Path) -> str | None:
    """The version in a `latest` file; None if there is no such file, or it is something else."""
    try:
        return files.read_file(path, _MOST_BYTES, follow=False).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
