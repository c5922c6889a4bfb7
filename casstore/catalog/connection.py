"""Connections to the catalog: one per thread, none shared with a forked child."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import apsw

from casstore.catalog.schema import (
    SIDE_FILES,
    SIDE_FILES_BYTES,
    check_is_catalog,
    check_sqlite,
    migrate,
    read_as_newest,
)
from casstore.catalog.sqlite_errors import closed, translated_errors
from casstore.catalog.transaction import BUSY_PAUSES_S, BUSY_TIMEOUT_MS, State, Transaction
from casstore.errors import StoreError, StoreLocked
from casstore.storage import reserve
from casstore.storage.layout import RESERVE_NAME
from casstore.storage.locks import Lock
from casstore.storage.uncopied import Uncopied

_SHM_STEP_BYTES = 4096
SYNCHRONOUS = "FULL"  # a commit is on disk when it returns; NORMAL would leave it to the next checkpoint
# A connection that a forked child inherits must be neither used nor closed there
# (https://www.sqlite.org/howtocorrupt.html, 2.6), so the child keeps it here for good.
_inherited: list[object] = []
# The child may not open a new one either if its parent had some: SQLite notes in memory, by inode, what this process
# has locked, and the kernel gives a child none of these locks. So idle connections are closed before a fork, and a
# child of a process that had others open may not use these catalogs.
_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_unusable: set[str] = set()


def sqlite_name(path: Path) -> str:
    """A path as SQLite takes it: in UTF-8, whatever the locale makes of names. Raises UnicodeDecodeError."""
    return os.fsencode(path).decode("utf-8")


class Connections(Uncopied):
    """The calling thread's connection, opened when first asked for.

    `read_only`: the catalog or its directory cannot be written to. Nothing can be locked there, so while no log stands
    beside the catalog, it is read as a file that does not change, and opened again once it has changed.
    """

    def __init__(self, path: Path, open_lock: Path | None = None) -> None:
        check_sqlite()
        self.path = path
        self._text = os.fspath(path)
        self._open_lock = None if open_lock is None else Lock(open_lock, shared=True)
        self.read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        self._reserve = None if open_lock is None else open_lock.with_name(RESERVE_NAME)
        self._reset()
        _all.add(self)
        try:
            with translated_errors(path):
                if self.read_only:
                    self.get()
                else:
                    migrate(self.get())
            if self._reserve is not None and not self.read_only:
                reserve.make(self._reserve)
        except BaseException:
            self.close()
            raise

    def _reset(self) -> None:
        self._local = threading.local()
        self._lock = threading.RLock()  # a signal's handler may use the store while this thread opens or closes it
        # Strong references: a forked child drops other threads' state at once, and must not close their connections.
        self._open: dict[threading.Thread, apsw.Connection] = {}
        self._states: dict[threading.Thread, State] = {}
        self._kept: set[threading.Thread] = set()
        self._identity: tuple[int, int] | None = None
        self._owes_room = False

    def get(self) -> apsw.Connection:
        """This thread's connection. Raises StoreUnwritable; StoreError, also if the path names another file now."""
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None or (self.read_only and self._local.version != self._version()):
            if _unusable and os.path.realpath(self.path) in _unusable:
                raise StoreError(
                    f"this process was forked while other threads used {self.path}; close the store before forking, "
                    "or start processes with the method spawn or forkserver"
                )
            if connection is None and threading.current_thread() in self._kept:
                raise closed(self.path)
            return self._opened()
        self.check_is_standing()
        return connection

    def _opened(self) -> apsw.Connection:
        state = State()
        with self._lock:  # a fork waits for this lock
            self._show_that_it_is_open()
            with translated_errors(self.path):
                self._local.version = self._version()
                before = self._named()
                connection = self._connect_in_any_room(state)
            # SQLite does not say which file it has opened; one that was there before and after is the one.
            if not self.read_only and self._identity is None and before in (None, self._named()):
                self._identity = self._named()
            try:
                self.check_is_standing(is_opening=True)
            except BaseException:
                connection.close()
                raise
            for thread in [thread for thread in self._open if not thread.is_alive()]:
                self._open.pop(thread).close()
                self._states.pop(thread, None)
            self._open[threading.current_thread()] = connection
            self._states[threading.current_thread()] = state
            self._local.state = state
            self._local.connection = connection
        return connection

    def has(self, connection: apsw.Connection) -> bool:
        """Whether this is the calling thread's connection at present."""
        return getattr(self._local, "connection", None) is connection

    def with_state(self) -> tuple[apsw.Connection, State]:
        """This thread's connection and its state. Raises StoreError if another thread has closed it."""
        connection, state = self.get(), getattr(self._local, "state", None)
        if state is None:  # closed by another thread just now
            raise closed(self.path)
        return connection, state

    def check_is_standing(self, *, is_opening: bool = False) -> None:
        """Raise StoreError if the path no longer names the file that is open.

        One stat also notices a home that was removed, renamed, restored from a backup or redirected by a link, since
        the catalog's path goes through it. The inode of an open file is not given to another file.
        """
        if self.read_only:  # opened again when it changes
            return
        named, identity = self._named(), self._identity
        if named is None or named != identity:
            if identity is None and not is_opening:  # closed by another thread meanwhile
                raise closed(self.path)
            raise StoreError(
                f"{self.path} {'is gone' if named is None else 'is another file'} since this process opened it: the "
                "store was removed, renamed or replaced under it. Nothing was saved or deleted; see that the right "
                "store stands there, then open it again"
            )

    def _named(self) -> tuple[int, int] | None:
        """The device and inode that the path names now; None where nothing stands there."""
        try:
            status = os.stat(self._text)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino

    def _show_that_it_is_open(self) -> None:
        """Take the shared lock that keeps other processes from replacing the catalog. Raises StoreLocked."""
        lock = None if self.read_only else self._open_lock
        with contextlib.suppress(FileNotFoundError):  # a catalog without a store around it
            if lock is not None and not lock.is_held and not lock.try_acquire():
                raise StoreLocked(f"{self.path} is being rebuilt; try again when it is done")

    def close(self) -> None:
        """Close the connections of all threads. Work of another thread on one of them ends with StoreError."""
        with self._lock:
            while self._open:
                thread, connection = next(iter(self._open.items()))
                try:
                    connection.close()
                except apsw.ThreadingViolationError:  # it is running a statement, or waits for another connection
                    self._states[thread].is_patient = False
                    connection.interrupt()
                    time.sleep(BUSY_PAUSES_S[0])
                else:
                    del self._open[thread]
            self._states.clear()
            self._identity = None
            if self._open_lock is not None:
                self._open_lock.release()
            self._local = threading.local()
            if self._owes_room and self._reserve is not None:
                reserve.take_back(self._reserve)
                self._owes_room = False

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep one connection for the whole of a `with` block, for work that relies on temporary tables.

        A fork leaves the connection open, so the child is told that it cannot use the store. If another thread closes
        the store, the work ends with StoreError.
        """
        self.get()
        thread = threading.current_thread()
        is_outermost = thread not in self._kept
        try:
            self._kept.add(thread)
            yield
        finally:
            if is_outermost:
                self._kept.discard(thread)

    def before_fork(self) -> None:
        """Close the connections that are certainly idle: those of threads that have ended, and this thread's own."""
        self._lock.acquire()
        for thread in [*self._open]:
            connection = self._open[thread]
            is_own = thread is threading.current_thread() and thread not in self._kept and not connection.in_transaction
            if not thread.is_alive() or is_own:
                with contextlib.suppress(apsw.Error):
                    if is_own:
                        self._local.__dict__.pop("connection", None)
                    connection.close()
                    del self._open[thread]

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        if self._open:
            _unusable.add(os.path.realpath(self.path))
            _inherited.append((self._local, self._open))
        self._reset()

    def _version(self) -> object:
        """A value that changes when another process writes to a catalog that this one can only read."""
        if not self.read_only:
            return None
        status = os.stat(self.path)
        return status.st_ino, status.st_size, status.st_mtime_ns, self._has_log()

    def _has_log(self) -> bool:
        try:
            return os.stat(f"{self.path}-wal").st_size > 0
        except FileNotFoundError:
            return False

    def _connect_in_any_room(self, state: State) -> apsw.Connection:
        """Open a connection; on a full disk, in the room that the store has reserved for that. Raises OSError."""
        try:
            with translated_errors(self.path):
                self._check_room()
                return self._connect(state)
        except OSError as error:
            if error.errno not in reserve.FULL or self._reserve is None:
                raise
            if not reserve.give_up(self._reserve, reserve.PIECES_TO_OPEN):
                raise
            self._owes_room = True
            weakref.finalize(self, reserve.take_back, self._reserve)
            self._check_room()
            return self._connect(state)

    def _check_room(self) -> None:
        """Raise OSError if there may be no room for SQLite's other files, before SQLite writes them.

        They are mapped into memory: a write into a hole for which the disk has no room ends the process (SIGBUS).
        """
        if self.read_only or os.path.exists(f"{self._text}-shm"):
            return
        lacking = reserve.shortage(self.path, SIDE_FILES_BYTES, len(SIDE_FILES))
        if lacking is not None:
            raise OSError(errno.ENOSPC, lacking, self._text)

    def _fill_holes(self) -> None:
        """Allocate every block of the mapped file while there is room.

        SQLite writes one byte in each 4 KiB, which leaves holes where blocks are smaller. This uses SQLite's own
        descriptor, since closing another one would drop SQLite's locks (howtocorrupt.html, 2.2).
        """
        if sys.platform != "linux" or os.statvfs(self.path).f_frsize >= _SHM_STEP_BYTES:
            return
        shared = f"{os.path.realpath(self.path)}-shm"
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") == shared:
                    os.posix_fallocate(int(number), 0, os.fstat(int(number)).st_size)

    def _connect(self, state: State) -> apsw.Connection:
        if self.read_only:
            uri = f"{self.path.absolute().as_uri()}?mode=ro" + ("" if self._has_log() else "&immutable=1")
            connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            try:
                _distrust(connection)
                check_is_catalog(connection, self.path)
                read_as_newest(connection)
            except BaseException:
                connection.close()
                raise
            return connection
        connection = apsw.Connection(sqlite_name(self.path))
        try:
            self._set_up(connection, state)
            self._fill_holes()
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: apsw.Connection, state: State) -> None:
        _distrust(connection)
        connection.set_busy_handler(state.wait_within)
        # FULL: with NORMAL a power cut could bring back a reference to a file that gc has unlinked since.
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        # SQLite does not wait by itself when two connections switch a new database to WAL at the same time.
        while True:
            try:
                if self._identity is None:  # the first connection: a file of another program is left as it is
                    check_is_catalog(connection, self.path)
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                break
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute(
            f"PRAGMA synchronous = {SYNCHRONOUS}; PRAGMA foreign_keys = ON;"
            "PRAGMA cache_size = -32768; PRAGMA temp_store = FILE; PRAGMA cell_size_check = ON"
        ).fetchall()  # a statement that answers with a row holds up those after it until the row is fetched

    def write(self, *, is_patient: bool = True) -> Transaction:
        """A write transaction (BEGIN IMMEDIATE): committed when the block ends, rolled back on any exception.

        Raises StoreLocked when another process writes for too long, or at all if not `is_patient`, OSError (ENOSPC)
        on a full disk, and StoreError if the path now names another file.
        """
        return Transaction(self, is_write=True, is_patient=is_patient)

    def read(self) -> Transaction:
        """Several reads of one state of the catalog."""
        return Transaction(self, is_write=False)


def check_file(path: Path) -> None:
    """Raise StoreError if a file of another program stands in the place of a catalog. The file is left as it is."""
    with translated_errors(path):
        connection = apsw.Connection(sqlite_name(path), flags=apsw.SQLITE_OPEN_READWRITE)  # or its log would stay
        try:
            check_is_catalog(connection, path)
        finally:
            connection.close()


def _distrust(connection: apsw.Connection) -> None:
    """Turn triggers and views off: a catalog from an untrusted source may hold more than tables."""
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)


class _Fork:
    """Handles connections around a fork. Of two threads that fork at once, one waits for the other."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._prepared: list[Connections] = []

    def begin(self) -> None:
        self._guard.acquire()
        self._prepared = list(_all)
        for each in self._prepared:
            each.before_fork()

    def end_in_parent(self) -> None:
        for each in self._prepared:
            each.after_fork_in_parent()
        self._guard.release()

    def end_in_child(self) -> None:
        for each in self._prepared:
            each.after_fork_in_child()
        self._guard = threading.Lock()


_fork = _Fork()
os.register_at_fork(before=_fork.begin, after_in_parent=_fork.end_in_parent, after_in_child=_fork.end_in_child)
