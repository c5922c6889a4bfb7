"""Transactions of one thread's connection: they end with their `with` block, whatever interrupts it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

import apsw

from casstore.catalog.sqlite_errors import nested, translated, translated_errors
from casstore.storage.uncopied import Uncopied

BUSY_TIMEOUT_MS = 60_000
BUSY_PAUSES_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025, 0.025, 0.05, 0.05, 0.1)  # as SQLite's own


class Owner(Protocol):
    """The connections that a transaction belongs to."""

    path: Path

    def with_state(self) -> tuple[apsw.Connection, State]:
        """This thread's connection and its state. Raises StoreError."""

    def check_is_standing(self) -> None:
        """Raise StoreError if the path no longer names the file that is open."""


class State:
    """The state of one connection: a weak reference to the guard of its open transaction, and how it waits."""

    __slots__ = ("_deadline", "guard", "is_beginning", "is_patient")

    def __init__(self) -> None:
        self.guard: weakref.ref[Guard] | None = None
        self.is_beginning = False
        self.is_patient = True
        self._deadline = 0.0

    def wait_within(self, count: int) -> bool:
        """SQLite's busy handler: whether to go on waiting while another connection has the lock.

        False while a transaction begins: a signal handler that used the connection then would end the transaction.
        """
        return not self.is_beginning and self.wait(count)

    def wait(self, count: int) -> bool:
        """Wait for another connection; False once the timeout has passed. In Python, so that Ctrl-C ends the wait."""
        if not self.is_patient:
            return False
        if count == 0:
            self._deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        time.sleep(BUSY_PAUSES_S[min(count, len(BUSY_PAUSES_S) - 1)])
        return time.monotonic() < self._deadline


class Guard(Uncopied):
    """Rolls back its transaction, if that is still open, when nothing refers to the guard any more."""

    _reference: weakref.ref[Guard] | None = None

    def __init__(self, connection: apsw.Connection, state: State) -> None:
        self._connection = connection
        self._state = state

    def begin(self, sql: str, path: Path, *, is_patient: bool) -> None:
        """Begin the transaction. Raises StoreError inside another transaction of this thread; apsw.Error.

        While this waits for another connection, a signal handler may use this one.
        """
        for count in itertools.count():
            self._check_is_outermost(path)
            self._state.is_patient = is_patient
            self._state.guard = self._reference = weakref.ref(self)
            try:
                self._state.is_beginning = True
                self._connection.execute(sql)
                self._state.guard = self._reference  # a signal handler may have changed it
                return
            except apsw.BusyError:
                if not self._state.wait(count):
                    raise
            finally:
                self._state.is_beginning = False

    def _check_is_outermost(self, path: Path) -> None:
        """Raise StoreError inside another transaction of this thread, which this one would end."""
        if not self._connection.in_transaction:
            return
        if self._state.guard is not None and self._state.guard() is not None:
            raise nested(path)
        _roll_back(self._connection)  # a second interrupt has left it open

    def end(self) -> None:
        """Roll back this transaction if it is still open; do nothing if a later one has begun."""
        if self._reference is not None and self._state.guard is self._reference:
            _roll_back(self._connection)
            self._state.guard = None

    def __del__(self) -> None:
        self.end()


class Transaction(Uncopied):
    """A transaction of this thread's connection for one `with` block, always ended when the block is left.

    A signal handler may raise between any two instructions. `__enter__` undoes its own work then. But the function
    called at the end of the block may be interrupted before its first line, and its frame lives on in the traceback,
    in a notebook for as long as the notebook. So the guard, which rolls back what is left open, is referred to by the
    interpreter alone, and is released when the interpreter has left the block.
    """

    __slots__ = ("_connection", "_guard", "_is_patient", "_is_write", "_owner")

    def __init__(self, owner: Owner, *, is_write: bool, is_patient: bool = True) -> None:
        self._owner = owner
        self._connection, state = owner.with_state()
        self._guard = Guard(self._connection, state)
        self._is_write = is_write
        self._is_patient = is_patient

    def __enter__(self) -> apsw.Connection:
        try:
            with translated_errors(self._owner.path):
                sql = "BEGIN IMMEDIATE" if self._is_write else "BEGIN"
                self._guard.begin(sql, self._owner.path, is_patient=self._is_patient)
            return self._connection
        except BaseException:
            self._guard.end()
            raise

    @property
    def __exit__(self) -> Callable[..., None]:
        """The function that ends the transaction. The interpreter holds it from before `__enter__` until the end."""
        end = functools.partial(_end, self._owner, self._connection, self._is_write)
        end.__dict__["guard"] = self._guard
        return end


def _end(
    owner: Owner,
    connection: apsw.Connection,
    is_write: bool,
    kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    """Commit, or roll back if the block raised. Raises casstore's errors in place of SQLite's."""
    try:
        if is_write and kind is None:
            with translated_errors(owner.path):
                owner.check_is_standing()  # or it would be acknowledged, and be in no store
                connection.execute("COMMIT")
    finally:
        _roll_back(connection)
    if error is not None and (ours := translated(owner.path, error)) is not None:
        raise ours from error


def _roll_back(connection: apsw.Connection) -> None:
    # SQLite has already rolled back after some errors, such as a full disk. An error here must not hide the first one.
    with contextlib.suppress(apsw.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
