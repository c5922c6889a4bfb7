"""Connections to the catalog: one a thread, none shared with a forked child, one helper for write transactions."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import apsw

from casstore.catalog.schema import check_is_newest, check_sqlite, migrate
from casstore.errors import CatalogDamaged, StoreError, StoreLocked, StoreUnwritable
from casstore.storage.files import Lock

_BUSY_TIMEOUT_MS = 60_000
SIDE_FILES = ("-wal", "-shm")  # what SQLite keeps beside a database, by their endings
# A connection that a forked child inherits must be neither used nor closed there
# (https://www.sqlite.org/howtocorrupt.html, 2.6), so the child keeps it here for good.
_inherited: list[object] = []
# Nor may the child open one anew while its parent had some: SQLite notes in memory, by inode, what this process has
# locked, and the kernel gives a child none of these locks. So what is idle is closed before a fork, and a child of a
# process that had others open may not use these catalogs.
_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_unusable: set[str] = set()


class Connections:
    """The calling thread's connection, opened when first asked for.

    `read_only`: the catalog, or the directory that it is in, cannot be written to. Nothing can be locked there, so
    while no log stands beside it, it is read as a file that nobody changes, and opened anew when somebody has.
    """

    def __init__(self, path: Path, open_lock: Path | None = None) -> None:
        check_sqlite()
        self.path = path
        self._open_lock = None if open_lock is None else Lock(open_lock, shared=True)
        self.read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        self._reset()
        _all.add(self)
        try:
            with translated_errors(path):
                if self.read_only:
                    check_is_newest(self.get())
                else:
                    migrate(self.get())
        except BaseException:
            self.close()
            raise

    def _reset(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        # Strong references: a forked child drops other threads' state at once, and must not close their connections.
        self._open: dict[threading.Thread, apsw.Connection] = {}

    def get(self) -> apsw.Connection:
        """This thread's connection. Raises StoreUnwritable, StoreError."""
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None or (self.read_only and self._local.version != self._version()):
            if _unusable and os.path.realpath(self.path) in _unusable:
                raise StoreError(
                    f"this process was forked while other threads used {self.path}; close the store before forking, "
                    "or start processes with the method spawn or forkserver"
                )
            with self._lock:  # a fork waits for it
                self._show_that_it_is_open()
                with translated_errors(self.path):
                    self._local.version = self._version()
                    connection = self._connect()
                self._local.connection = connection
                for thread in [thread for thread in self._open if not thread.is_alive()]:
                    self._open.pop(thread).close()
                self._open[threading.current_thread()] = connection
        return connection

    def _show_that_it_is_open(self) -> None:
        """So that nobody puts another catalog in its place meanwhile."""
        lock = None if self.read_only else self._open_lock
        with contextlib.suppress(FileNotFoundError):  # a catalog without a store around it
            if lock is not None and not lock.is_held and not lock.try_acquire():
                raise StoreLocked(f"{self.path} is being made anew; try again when it is done")

    def close(self) -> None:
        """Close all threads' connections. No thread may be using one."""
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()
            if self._open_lock is not None:
                self._open_lock.release()
        self._local = threading.local()

    def before_fork(self) -> None:
        """Close what is idle for certain: connections of threads that have ended, and this thread's own."""
        self._lock.acquire()
        for thread in [*self._open]:
            connection = self._open[thread]
            is_own = thread is threading.current_thread() and not connection.in_transaction
            if not thread.is_alive() or is_own:
                with contextlib.suppress(apsw.Error):
                    connection.close()
                    del self._open[thread]
                    if is_own:
                        del self._local.connection

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        if self._open:
            _unusable.add(os.path.realpath(self.path))
            _inherited.append((self._local, self._open))
        self._reset()

    def _version(self) -> object:
        """What differs when somebody has written to a catalog that is only read here."""
        if not self.read_only:
            return None
        status = os.stat(self.path)
        return status.st_ino, status.st_size, status.st_mtime_ns, self._has_log()

    def _has_log(self) -> bool:
        try:
            return os.stat(f"{self.path}-wal").st_size > 0
        except FileNotFoundError:
            return False

    def _connect(self) -> apsw.Connection:
        if self.read_only:
            uri = f"{self.path.absolute().as_uri()}?mode=ro" + ("" if self._has_log() else "&immutable=1")
            connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            _distrust(connection)
            return connection
        connection = apsw.Connection(str(self.path))
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: apsw.Connection) -> None:
        _distrust(connection)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        # FULL: with NORMAL a power cut could bring back a reference to a file that gc has unlinked since.
        deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
        # SQLite does not wait by itself where two connections turn a new database to WAL at once.
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                break
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
            "PRAGMA cache_size = -32768; PRAGMA temp_store = FILE; PRAGMA cell_size_check = ON"
        ).fetchall()  # a statement that answers with a row holds up those after it until the row is fetched

    @contextlib.contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """A write transaction (BEGIN IMMEDIATE): committed when the block ends, rolled back on any exception.

        Raises StoreLocked when another process writes for too long, and OSError (ENOSPC) on a full disk.
        """
        connection = self.get()
        with translated_errors(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, a full disk among them.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """Several reads of one snapshot."""
        connection = self.get()
        with translated_errors(self.path):
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")


def _distrust(connection: apsw.Connection) -> None:
    """A stranger's catalog may hold more than tables: triggers of its own do not run, and no view is read."""
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)


class _Fork:
    """What is done about connections around a fork; of two threads that fork at once, one waits for the other."""

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


@contextlib.contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into casstore's, saying what to do."""
    try:
        yield
    except apsw.BusyError as error:
        raise StoreLocked(f"{path} is being written to by another process; try again") from error
    except apsw.FullError as error:
        raise OSError(errno.ENOSPC, "no space left on the device for the catalog", str(path)) from error
    except apsw.IOError as error:
        reason = f"the catalog cannot be read or written ({error}); check the disk, and any quota on it"
        raise OSError(errno.EIO, reason, str(path)) from error
    except apsw.CantOpenError as error:
        try:
            with contextlib.ExitStack() as opened:
                for _ in ("", *SIDE_FILES):  # SQLite does not tell why, and has closed again what it could open
                    opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise StoreUnwritable(f"{path} cannot be opened for writing ({error}); check who owns it") from error
    except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise StoreUnwritable(f"{path} cannot be opened for writing ({error}); check who owns it") from error
    # Every statement fits the schema, and every text is UTF-8, unless the pages that say so are damaged.
    except (
        apsw.NotADBError,
        apsw.CorruptError,
        apsw.SQLError,
        apsw.MismatchError,
        apsw.ConstraintError,
        UnicodeDecodeError,
    ) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> CatalogDamaged:
    """The error for a catalog whose pages cannot be trusted."""
    return CatalogDamaged(
        f"{path} is damaged ({reason}); `casstore repair --rebuild-catalog` makes it anew from the files beside it"
    )
