"""Connections to the catalog: one a thread, none shared with a forked child, one helper for write transactions."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from casstore.catalog.schema import check_is_newest, check_sqlite, migrate
from casstore.errors import CatalogDamaged, StoreLocked, StoreUnwritable

_BUSY_TIMEOUT_MS = 60_000
SIDE_FILES = ("-wal", "-shm")  # what SQLite keeps beside a database, by their endings
# A connection that a forked child inherits must be neither used nor closed there
# (https://www.sqlite.org/howtocorrupt.html, 2.6), so the child keeps it here for good.
_inherited: list[object] = []


class Connections:
    """The calling thread's connection, opened when first asked for.

    `read_only`: the catalog, or the directory that it is in, cannot be written to. Nothing can be locked there, so
    while no log stands beside it, it is read as a file that nobody changes, and opened anew when somebody has.
    """

    def __init__(self, path: Path) -> None:
        check_sqlite()
        self.path = path
        self.read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        self._reset()
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
        self._pid = os.getpid()
        self._local = threading.local()
        self._lock = threading.Lock()
        # Strong references: a forked child drops other threads' state at once, and must not close their connections.
        self._open: dict[threading.Thread, apsw.Connection] = {}

    def get(self) -> apsw.Connection:
        """This thread's connection. Raises StoreUnwritable, StoreError."""
        if self._pid != os.getpid():
            _inherited.append((self._local, self._open))
            self._reset()
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None or (self.read_only and self._local.version != self._version()):
            with translated_errors(self.path):
                self._local.version = self._version()
                connection = self._connect()
            self._local.connection = connection
            with self._lock:
                for thread in [thread for thread in self._open if not thread.is_alive()]:
                    self._open.pop(thread).close()
                self._open[threading.current_thread()] = connection
        return connection

    def close(self) -> None:
        """Close all threads' connections. No thread may be using one."""
        if self._pid != os.getpid():
            return
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()
        self._local = threading.local()

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
            return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        connection = apsw.Connection(str(self.path))
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: apsw.Connection) -> None:
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
            "PRAGMA cache_size = -32768; PRAGMA temp_store = FILE; PRAGMA trusted_schema = OFF"
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
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
        raise StoreUnwritable(f"{path} cannot be opened for writing ({error}); check who owns it") from error
    # Every statement fits the schema, and every text is UTF-8, unless the pages that say so are damaged.
    except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError, apsw.MismatchError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> CatalogDamaged:
    """The error for a catalog whose pages cannot be trusted."""
    return CatalogDamaged(
        f"{path} is damaged ({reason}); `casstore repair --rebuild-catalog` makes it anew from the files beside it"
    )
