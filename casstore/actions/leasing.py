"""Leases: a process that has been given a version's directory keeps gc from removing it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from casstore.catalog.leases import Leases
from casstore.catalog.versions import VersionRow
from casstore.errors import StoreUnwritable
from casstore.storage import files, sessions
from casstore.storage.layout import Layout
from casstore.storage.sessions import SharedSession
from casstore.storage.uncopied import Uncopied

# The precision of a version's time of last use: opening a version repeatedly writes once an hour.
_NOTE_OPENED_EVERY_NS = 3600 * 1_000_000_000


class Leasing(Uncopied):
    """The leases of one open store. Threads may share them; a forked child takes leases of its own."""

    def __init__(self, layout: Layout, leases: Leases) -> None:
        self._layout = layout
        self._leases = leases
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._shared: SharedSession | None = None
        self._user = object()
        self._noted: dict[int, int] = {}  # version row id: when its use was last recorded
        self._directories: dict[object, Path] = {}
        self._pid = os.getpid()  # set last: another thread that sees it sees the rest

    def take(self, row: VersionRow) -> None:
        """Lease the version's directory until the store is closed, or the process ends.

        To be called before looking whether the directory stands: gc marks a directory as evicting in a transaction that
        finds no lease, so either gc sees this lease, or the caller sees the mark. Also records that the version is in
        use. Repeating this within the hour costs nothing.
        """
        if self._pid != os.getpid():
            self._begin()  # the lock and the session are the parent's; its descriptor stays open with ours
        now = time.time_ns()
        if self._is_noted(row, now):
            return
        with self._lock:
            if self._is_noted(row, now):
                return
            try:
                self._write(row, now)
            except OSError as error:
                # Reading must not need disk space. gc may then remove the directory under the reader, which is rare,
                # but on a full disk gc is what the user is about to call.
                is_read_only = isinstance(error, StoreUnwritable) or error.errno in (errno.EROFS, errno.EACCES)
                if not is_read_only and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise

    def _is_noted(self, row: VersionRow, now: int) -> bool:
        noted = self._noted.get(row.id)
        return noted is not None and _is_recent(noted, now)

    def _write(self, row: VersionRow, now: int) -> None:
        if self._shared is None:
            self._shared = sessions.join(self._layout, self._user)
        ended = [each for each in self._leases.sessions(row.id) if not sessions.is_live(self._layout, each)]
        is_due = row.id in self._noted or row.opened_at_ns is None or not _is_recent(row.opened_at_ns, now)
        self._leases.take(row.id, self._shared.session.id, ended=ended, opened=is_due)
        # A use that another process recorded earlier is due again an hour after that time, not after now.
        self._noted[row.id] = now if is_due or row.opened_at_ns is None else row.opened_at_ns

    def directory(self, key: object, fill: Callable[[Path], object]) -> Path:
        """A directory of this process's, made by `fill` when it is first asked for by that key, which stands until the
        store is closed or the process ends. Raises what `fill` raises, StoreUnwritable, OSError."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            found = self._directories.get(key)
            if found is not None and found.is_dir():
                return found
            if self._shared is None:
                self._shared = sessions.join(self._layout, self._user)
            made = self._shared.session.new_path()
        try:
            fill(made)
        except BaseException:
            files.remove_tree(made)
            raise
        with self._lock:
            self._directories[key] = made
        return made

    @property
    def session_id(self) -> str | None:
        """The session that holds the leases of this process; None where it has none."""
        shared = self._shared
        return None if shared is None or self._pid != os.getpid() else shared.session.id

    def close(self) -> None:
        """Give the leases back. They last longer if this process has another store open at the same home."""
        if self._pid != os.getpid():
            return
        with self._lock:
            shared, self._shared = self._shared, None
            self._noted.clear()
            self._directories.clear()
            sessions.leave(self._layout, self._user, shared)


def _is_recent(then_ns: int, now_ns: int) -> bool:
    # A time ahead of the clock counts as recent: the clock has been set back.
    return abs(now_ns - then_ns) < _NOTE_OPENED_EVERY_NS
