"""Changing settings, where what one asks for may be out of the file system's reach."""

from __future__ import annotations

from casstore.actions.workspace import Workspace
from casstore.errors import InvalidSetting
from casstore.settings import check_setting
from casstore.storage import files


def set_setting(workspace: Workspace, key: str, value: str | None) -> None:
    """Set a setting; None takes it back to its default. Raises InvalidSetting, also for what cannot be had here."""
    if value is not None and check_setting(key, value) in ("hardlink", "reflink") and not _can(workspace, value):
        raise InvalidSetting(
            f"the file system of {workspace.layout.home} has no {value}s; keep link_mode at auto, or set it to copy"
        )
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
