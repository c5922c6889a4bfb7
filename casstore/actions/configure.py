"""Changing settings, where what one asks for may be out of the file system's reach."""

from __future__ import annotations

import os
from pathlib import Path

from casstore.actions.signatures import OFF, REQUIRED
from casstore.actions.workspace import Workspace
from casstore.archive.model_signing import read_public_keys
from casstore.errors import InvalidSetting
from casstore.settings import check_setting
from casstore.storage import files


def set_setting(workspace: Workspace, key: str, value: str | None) -> None:
    """Set a setting; None takes it back to its default. Raises InvalidSetting, also for what cannot be had here, and
    InvalidSource for keys that cannot be read."""
    if value is not None and check_setting(key, value) in ("hardlink", "reflink") and not _can(workspace, value):
        raise InvalidSetting(
            f"the file system of {workspace.layout.home} has no {value}s; keep link_mode at auto, or set it to copy"
        )
    if key == REQUIRED and value is not None and check_setting(key, value) != OFF:
        value = os.path.abspath(os.path.expanduser(value))
        read_public_keys([Path(value)])  # or nothing could be imported any more
    workspace.catalog.set_setting(key, value)


def _can(workspace: Workspace, link_mode: str) -> bool:
    """Try it with two files of our own."""
    with workspace.session() as session:
        original, copy = session.new_path(), session.new_path()
        files.write_new_file(original, b"probe", 0o600)
        if link_mode == "hardlink":
            return files.try_link(original, copy)
        with open(original, "rb") as source, files.create_file(copy) as target:
            return files.try_reflink(source.fileno(), target)
