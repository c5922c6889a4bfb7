"""What gives space back works on a full disk, in the room that the store has kept for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from casstore.actions.workspace import Workspace
from casstore.storage import reserve

_Result = TypeVar("_Result")


def in_any_room(workspace: Workspace, action: Callable[[], _Result]) -> _Result:
    """Run the action; on a full disk give up the reserve and run it again. `action` may be interrupted anywhere."""
    try:
        return action()
    except OSError as error:
        if error.errno not in reserve.FULL or not reserve.give_up(workspace.layout.reserve):
            raise
    try:
        return action()
    finally:
        reserve.take_back(workspace.layout.reserve)
