"""Drafts that are set aside to be saved in the background: they stand in drafts/, and this process holds their locks.

So another process that asks for one is told that it is being saved, gc leaves it alone, and when this process is killed
it is a draft that is kept, like any other.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from casstore.actions.reserved import in_any_room
from casstore.actions.saving import drafts, unsaved
from casstore.actions.workspace import Workspace
from casstore.errors import CasstoreError, StoreLocked
from casstore.storage import files
from casstore.storage.locks import Lock


class Aside:
    """One draft, moved to drafts/ when this is made. Raises OSError, StoreLocked; it may have been moved even then."""

    def __init__(self, workspace: Workspace, moving: unsaved.Moving) -> None:
        self._workspace = workspace
        self._moving = moving
        self._lock = Lock(workspace.layout.draft_lock(self.id))
        try:
            if not self._lock.try_acquire():
                raise StoreLocked(f"another process is saving or removing the draft {self.id}")
            moving.run(lambda move: in_any_room(workspace, move))
        except BaseException:
            self._lock.release(remove=True)
            raise

    @property
    def path(self) -> Path:
        """The directory with its files."""
        return self._moving.target / drafts.FILES

    @property
    def id(self) -> str:
        return drafts.id_of(self._moving.target)

    def remove(self) -> None:
        """Remove what is left of the draft, now that the version is saved; what cannot be is left to gc."""
        with contextlib.suppress(OSError, CasstoreError):
            drafts.remove(self._workspace, self._moving.target)

    def keep(self, error: BaseException, *, save_as: str) -> None:
        """Note why it is not saved, and have the error say where it is and how to save it."""
        self._moving.unshare()  # where the commit is unsure the save leaves its links to stored files
        record = replace(self._moving.record, reason=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            path = self._moving.target / drafts.RECORD
            text = json.dumps(record.document()).encode()
            files.write_file(path, text, 0o600, temporary=path.with_name(f".{path.name}"))
        unsaved.tell(error, unsaved.kept_in(self._workspace, self._moving, save_as))

    def release(self) -> None:
        """Let others have the draft, if it is still there."""
        with contextlib.suppress(OSError):
            self._lock.release(remove=True)
