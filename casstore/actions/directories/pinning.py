"""Pins: versions whose directories gc never takes away."""

from __future__ import annotations

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import TagNotFound


def set_pinned(workspace: Workspace, row: VersionRow, pinned: bool) -> None:
    """Pin a version, or take the pin away; twice is as good as once. Raises TagNotFound when it has been deleted."""
    if is_pinned(workspace, row) != pinned and not workspace.catalog.directories.set_pinned(row.id, pinned):
        raise _deleted(row)


def is_pinned(workspace: Workspace, row: VersionRow) -> bool:
    """Whether the version is pinned now. Raises TagNotFound when it has been deleted."""
    pinned = workspace.catalog.directories.is_pinned(row.id)
    if pinned is None:
        raise _deleted(row)
    return pinned


def _deleted(row: VersionRow) -> TagNotFound:
    return TagNotFound(f"{row.tag} has been deleted meanwhile")
