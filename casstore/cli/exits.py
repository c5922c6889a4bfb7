"""What ends a command: exit codes, and the one line that says what went wrong."""

from __future__ import annotations

import errno
import os
import re
from enum import IntEnum
from typing import Any

import click

import casstore


class ExitCode(IntEnum):
    """What the process returns. Scripts rely on these numbers; `casstore --help` lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTLY_DONE = 3
    LOCKED = 11  # or an alias did not stand where it was expected: look again, and decide again
    NOT_FOUND = 12
    EXISTS = 13
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it
    READER_GONE = 141  # 128 + SIGPIPE, as for any program of a pipe whose reader has left


class Interrupted(click.ClickException):
    """Ctrl-C, with a message that says in what state it left things."""


class NotFound(click.ClickException):
    """A version has no such file."""


_NEWLINE = re.compile(r"\s*\n\s*")
_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (Interrupted, ExitCode.INTERRUPTED),
    (click.UsageError, ExitCode.USAGE),
    (casstore.InvalidTag, ExitCode.USAGE),
    (casstore.InvalidSetting, ExitCode.USAGE),
    (casstore.InvalidQuery, ExitCode.USAGE),
    (casstore.InvalidMetadata, ExitCode.USAGE),
    (casstore.InvalidPolicy, ExitCode.USAGE),
    (casstore.StoreLocked, ExitCode.LOCKED),
    (casstore.AliasMoved, ExitCode.LOCKED),
    (NotFound, ExitCode.NOT_FOUND),
    (casstore.TagNotFound, ExitCode.NOT_FOUND),
    (casstore.TagExists, ExitCode.EXISTS),
    (casstore.AmbiguousTag, ExitCode.NOT_FOUND),
    (casstore.StoreNotFound, ExitCode.NOT_FOUND),
    (casstore.NoRemote, ExitCode.NOT_FOUND),
    (casstore.RemoteNotFound, ExitCode.NOT_FOUND),
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that an error stands for."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def message(error: BaseException) -> str:
    """What to tell the user; says what to do next."""
    if isinstance(error, click.ClickException):
        return _NEWLINE.sub(" ", error.format_message())  # click lists choices on lines of their own
    if isinstance(error, OSError) and not isinstance(error, casstore.CasstoreError):
        return _os_message(error)
    return str(error)


def as_document(error: BaseException) -> dict[str, Any]:
    """An error for `--json`: type, message, exit code, and what else the error says, such as a suggestion."""
    document: dict[str, Any] = {"type": type(error).__name__, "message": message(error), "exit_code": exit_code(error)}
    if isinstance(error, casstore.TagNotFound | casstore.InvalidTag | casstore.InvalidQuery):
        document["suggestion"] = error.suggestion
    if isinstance(error, casstore.AmbiguousTag):
        document["candidates"] = list(error.candidates)
    if isinstance(error, casstore.AliasMoved):
        document["current"] = error.current
    if isinstance(error, casstore.VersionAliased):
        document["aliases"] = list(error.aliases)
    return document


def _os_message(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    text = f"{error.filename}: {what}" if error.filename is not None else what
    number = error.errno or 0
    is_of_url = number == errno.EROFS and what != os.strerror(number)  # which is no disk, and says itself what to do
    advice = None if is_of_url else _ADVICE.get(number)
    return f"{text}; {advice}" if advice else text


_ADVICE = {
    errno.ENOSPC: "free some space there (`casstore gc --empty-trash` may help if it is the store), then run the "
    "command again",
    errno.EDQUOT: "your quota on the store's disk is used up; free some of it (`casstore gc --empty-trash` may help)",
    errno.EROFS: "the disk is mounted read-only; choose another store with --home",
    errno.EACCES: "check its permissions, and whose it is",
    errno.EPERM: "check its permissions, and whose it is",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n`",
    errno.EIO: "the disk reports an error; check it, then run `casstore verify`",
}
