"""Sessions: private directories of running work, each guarded by a lock that dies with its process.

Whatever a session puts under objects/ carries the session's id in its name. So a file there without a row is
garbage exactly when its session's lock is free, and no name needs to be registered before the file exists.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import field
from pathlib import Path

from casstore.late_classes import dataclass
from casstore.storage import access, files
from casstore.storage.layout import Layout, is_session_id, new_id
from casstore.storage.locks import Lock
from casstore.storage.uncopied import Uncopied


class Session(Uncopied):
    """A running piece of work. Close it; what it left is otherwise reaped by gc once the process is gone."""

    def __init__(self, layout: Layout, begin: str = "") -> None:
        """`begin`: what its id is to begin with, by which others tell what it was for."""
        access.follow(layout.home)  # again: a process that runs for days sees that the store has been shared since
        self.id = begin + new_id()[len(begin) :]
        self.path = layout.session(self.id)
        self._pid = os.getpid()
        # A child goes on using the directories that its parent has leased.
        self._lock = Lock(layout.session_lock(self.id), is_shared_with_children=True)
        self._count = 0
        try:
            self._lock.acquire(f"session {self.id}")
            files.make_directory(self.path)
        except BaseException:
            self._lock.release(remove=True)
            raise

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a forked child of the one that opened the session, which must leave it alone."""
        return os.getpid() != self._pid

    @property
    def is_standing(self) -> bool:
        """Whether its lock is still to be found by others."""
        return self._lock.path.exists()

    def new_path(self) -> Path:
        """A path in the session's directory that nothing has yet."""
        self._count += 1
        return self.path / str(self._count)

    def new_file_id(self) -> str:
        """The random part of the name of a new container; it tells the session."""
        self._count += 1
        return f"{self.id}-{self._count}"

    def close(self) -> None:
        """Remove the session's directory and lock. In a forked child only forget them.

        What cannot be removed is left to gc, which says so.
        """
        if self.is_inherited:
            self._lock.abandon()
            return
        try:
            with contextlib.suppress(OSError):
                files.remove_tree(self.path)
        finally:
            self._lock.release(remove=True)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class SharedSession:
    """A session of the whole process, and what stands for each open store that uses it: see `join` and `leave`."""

    session: Session
    users: set[object] = field(default_factory=set)


class _Process:
    """The shared sessions of this process, by the store's home."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start without any, as a forked child must: what it has inherited is its parent's to end."""
        self.guard = threading.RLock()
        self.shared: dict[Path, SharedSession] = {}


_process = _Process()
os.register_at_fork(after_in_child=_process.begin)


def join(layout: Layout, user: object) -> SharedSession:
    """The session that stands for this process in the store, opened if need be. It ends when all users have left it.

    Stores of one process share it, so that one which is never closed, as in `Store().get("bert").path`, keeps what
    it has handed out for the life of the process and yet costs one descriptor, however often that is done.
    """
    with _process.guard:
        shared = _process.shared.get(layout.home)
        # The lock is gone when the store was removed and another was made.
        if shared is None or not shared.session.is_standing:
            shared = _process.shared[layout.home] = SharedSession(Session(layout))
        shared.users.add(user)
        return shared


def leave(layout: Layout, user: object, joined: SharedSession | None) -> None:
    """Undo a `join`, also one that was interrupted before it returned, in the process that joined."""
    with _process.guard:
        current = _process.shared.get(layout.home)
        for shared in [joined] if joined is current else [joined, current]:
            if shared is not None:
                shared.users.discard(user)
                if not shared.users:
                    if current is shared:
                        del _process.shared[layout.home]
                    shared.session.close()


def session_of(file_id: str) -> str:
    """The id of the session that made the container of that name."""
    return file_id.partition("-")[0]


def is_live(layout: Layout, session_id: str) -> bool:
    """Whether the session has not ended: it has a lock, and some process holds that."""
    if not is_session_id(session_id):  # of a catalog that is damaged, or a stranger's
        return False
    return layout.session_lock(session_id).exists() and not _is_dead(layout, session_id)


def live_ids(layout: Layout) -> set[str]:
    """The ids of sessions whose process lives."""
    return {session_id for session_id in _ids(layout) if not _is_dead(layout, session_id)}


def dead_ids(layout: Layout) -> list[str]:
    """The ids of sessions whose process is gone and which have left something."""
    return [session_id for session_id in _ids(layout) if _is_dead(layout, session_id)]


def reap(layout: Layout, session_id: str) -> bool:
    """Remove what a dead session left; False when it lives after all. Safe to do twice or at once.

    Raises OSError when something in it cannot be removed; all else is gone then.
    """
    with Lock(layout.session_lock(session_id)) as lock:
        if not lock.try_acquire():
            return False
        try:
            files.remove_tree(layout.session(session_id))
        finally:
            lock.release(remove=True)
    return True


def _ids(layout: Layout) -> list[str]:
    names = {entry.name.removesuffix(".lock") for entry in layout.sessions.iterdir()}
    return sorted(filter(is_session_id, names))


def _is_dead(layout: Layout, session_id: str) -> bool:
    with Lock(layout.session_lock(session_id)) as lock:
        if not lock.try_acquire():
            return False
        lock.release(remove=not layout.session(session_id).exists())
    return True
