"""Warnings for users who may write to read-only files, such as root: hardlinks in directories lead to stored bytes."""

from __future__ import annotations

import logging
from pathlib import Path

from casstore.actions.directories.materialize import unshare
from casstore.actions.directories.standing import Standing
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.progress import SILENT
from casstore.storage import access

_log = logging.getLogger(__name__)
_told: set[Path] = set()  # homes of stores about which this process has been warned


def guard(workspace: Workspace, row: VersionRow, standing: Standing) -> None:
    """Check a directory that is being handed out, once, after it was found whole: replace hardlinks by copies if the
    setting `link_mode` wants no hardlinks; otherwise warn, once per process, what a write by this user would do. Raises
    as `materialize` does."""
    workspace.guarded.add(row.id)
    home = workspace.layout.home
    is_linking = workspace.may_link()
    if (is_linking and (home in _told or not access.ignores_modes())) or not standing.linked():
        return
    if not is_linking:
        if not workspace.catalog.read_only:
            unshare(workspace, row, SILENT)
        return
    _told.add(home)
    _log.warning(
        "this user may write to read-only files, and those in %s share their bytes with the store: a write into one "
        "can destroy %s. Write to a copy (casstore checkout %s DIR), or have directories made of copies "
        "(casstore config set link_mode protect)",
        standing.path, row.tag, row.tag, extra={"is_hint": True},
    )  # fmt: skip
