"""How errors and warnings reach the user: one line each on stderr, or one JSON document each with --json."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any, TextIO

import click

import casstore
from casstore.cli.exits import as_document, message
from casstore.cli.options import Options
from casstore.cli.output import printable, say, styled, with_home


def report_error(error: BaseException, *, as_json: bool, home: str | None = None) -> None:
    """Tell of an error. A usage error also says where the help is. `home`: as given with `--home`."""
    text = with_home(message(error), home)
    if as_json:
        say(json.dumps({"error": {**as_document(error), "message": text}}))
        return
    lines = text.split("\n") if isinstance(error, casstore.InvalidQuery) else [text]  # a caret below an expression
    say(styled("error: ", fg="red", bold=True) + "\n".join(map(printable, lines)))
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say(f"see `{error.ctx.command_path} --help`")


def show_warnings(*, as_json: bool) -> None:
    """Have the library's warnings shown, each text once, without the place in the code where they arose."""
    seen: set[str] = set()
    log = logging.getLogger("casstore")
    log.handlers = [_Log(as_json=as_json)]
    log.setLevel(logging.WARNING)  # until --verbose asks for more
    logging.getLogger("casstore.actions.registry.policies").setLevel(
        logging.INFO
    )  # what goes without being asked for is always said

    def show(
        message: Warning | str,
        category: type[Warning],  # noqa: ARG001 - the signature is that of warnings.showwarning
        filename: str,  # noqa: ARG001
        lineno: int,  # noqa: ARG001
        file: TextIO | None = None,  # noqa: ARG001
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        text = str(message)
        if text in seen:
            return
        seen.add(text)
        _show_warning(text, as_json=as_json)

    warnings.filterwarnings("always", category=UserWarning)
    warnings.showwarning = show


class _Log(logging.Handler):
    """What the library logs: warnings shown as such, the rest, which --verbose asks for, as notes."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        context = click.get_current_context(silent=True)
        options = None if context is None else context.find_object(Options)
        if getattr(record, "is_hint", False) and (options is None or not options.may_hint):
            return
        if record.levelno >= logging.WARNING:
            _show_warning(record.getMessage(), as_json=self._as_json)
        elif options is None or options.verbose or not options.quiet:
            kind = "debug" if record.levelno < logging.INFO else "note"
            _show(kind, record.getMessage(), as_json=self._as_json, dim=True)


def _show_warning(text: str, *, as_json: bool) -> None:
    _show("warning", text, as_json=as_json, fg="yellow", bold=True)


def _show(kind: str, text: str, *, as_json: bool, **style: Any) -> None:
    if as_json:
        say(json.dumps({kind: text}))
    else:
        say(styled(f"{kind}: ", **style) + printable(text))
