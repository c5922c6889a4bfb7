"""SQLite's errors as casstore's, which say what happened and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw

from casstore.catalog.schema import SIDE_FILES, SIDE_FILES_BYTES
from casstore.errors import CatalogDamaged, StoreError, StoreLocked, StoreUnwritable
from casstore.storage import denials, reserve

_CLOSED = (apsw.ConnectionClosedError, apsw.CursorClosedError, apsw.ThreadingViolationError, apsw.InterruptError)
# Another process was faster, in a case in which SQLite does not wait by itself.
_OVERTAKEN = (apsw.BusyError, apsw.ProtocolError, apsw.SchemaChangeError)
# Every statement fits the schema, keeps its constraints and reads UTF-8, unless pages are damaged.
_DAMAGE = (apsw.NotADBError, apsw.CorruptError, apsw.MismatchError, apsw.ConstraintError, UnicodeDecodeError)
# SQLite has one error class for everything wrong with a statement. These messages are about a schema that is not as it
# was made, or about the content of rows; others, such as too many variables, are about the statement alone. Temporary
# tables are not in the file. It is compiled when there is an error.
_MISFIT = (
    r"no such (table|column|index): (?!temp\.)|has no column|has \d+ columns but|already exists|duplicate column|"
    r"malformed|integer overflow|access to view|is a view"
)


@contextlib.contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Raise casstore's errors, which say what to do, in place of SQLite's, for a `with` block."""
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        if (ours := translated(path, error)) is None:
            raise
        raise ours from error


def translated(path: Path, error: BaseException) -> Exception | None:
    """casstore's error for an error of SQLite's; None for any other error."""
    if isinstance(error, _OVERTAKEN):
        return StoreLocked(f"{path} is being written to by another process; try again")
    if isinstance(error, apsw.FullError):
        return OSError(errno.ENOSPC, _full(path), str(path))
    # On a full disk SQLite reports only that it cannot map or create a file.
    if isinstance(error, apsw.IOError | apsw.CantOpenError) and (
        lacking := reserve.shortage(path, SIDE_FILES_BYTES, len(SIDE_FILES))
    ):
        return OSError(errno.ENOSPC, lacking, str(path))
    if isinstance(error, apsw.IOError):
        reason = f"the catalog cannot be read or written ({error}); check the disk, and any quota on it"
        return OSError(errno.EIO, reason, str(path))
    if isinstance(error, apsw.CantOpenError):
        try:
            with contextlib.ExitStack() as opened:
                for _ in ("", *SIDE_FILES):  # SQLite does not say why, and has closed what it could open
                    opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as reason:
            return OSError(reason.errno, reason.strerror, str(path))
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return _unwritable(path, error)
    if isinstance(error, _CLOSED):
        return closed(path)
    if isinstance(error, apsw.NoMemError):
        return OSError(errno.ENOMEM, "not enough memory for this query of the catalog", str(path))
    if isinstance(error, apsw.LockedError):
        return nested(path)
    if isinstance(error, _DAMAGE) or (isinstance(error, apsw.SQLError) and re.search(_MISFIT, str(error))):
        return damaged(path, str(error))
    if isinstance(error, apsw.Error):
        return StoreError(
            f"SQLite could not run a statement on {path} ({type(error).__name__}: {error}). Nothing was changed, "
            "and there is no sign that the catalog is damaged; if it happens again, please report it with this message"
        )
    return None


def nested(path: Path) -> StoreError:
    return StoreError(
        f"{path} is in the middle of a transaction of this thread, so this call from a signal handler or a callback "
        "saved nothing; let the handler set a flag, and use the store after the transaction"
    )


def _full(path: Path) -> str:
    # Free space does not show what a quota withholds from a user.
    return reserve.shortage(path, sys.maxsize) or f"no space left on the file system of {path}"


def closed(path: Path) -> StoreError:
    return StoreError(
        f"the store of {path} was closed by another thread while this one used it; open it again, and close it when "
        "all threads are done with it"
    )


def _unwritable(path: Path, error: apsw.Error) -> StoreUnwritable:
    advice = denials.advice(path.parent, path, *(f"{path}{suffix}" for suffix in SIDE_FILES))
    return StoreUnwritable(f"{path} cannot be opened for writing ({error}); {advice}")


def damaged(path: Path, reason: str) -> CatalogDamaged:
    """The error for a catalog whose pages cannot be trusted."""
    return CatalogDamaged(
        f"{path} is damaged ({reason}); `casstore repair --rebuild-catalog` makes it again from the files beside it"
    )
