"""The options that every verb takes, before or after its name."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

import casstore
from casstore.late_classes import dataclass

PROGRAM = "casstore"
AUTO_GC_VARIABLE = "CASSTORE_AUTO_GC"
COMPLETE_VARIABLE = "_CASSTORE_COMPLETE"


@dataclass(slots=True)
class Options:
    """How to run: which store, and how to answer."""

    home: str | None = None
    json: bool = False
    quiet: bool = False
    no_progress: bool = False
    verbose: int = 0

    def open_store(self, *, create: bool = False) -> casstore.Store:
        """The store that the options mean; with `create`, for verbs that save, it is made if there is none.

        Raises StoreNotFound, and what casstore.Store raises.
        """
        return casstore.Store(self.home, auto_gc=os.environ.get(AUTO_GC_VARIABLE) != "0", create=create)

    @property
    def may_hint(self) -> bool:
        """Whether a user is there to read hints."""
        return not self.quiet and not self.json and sys.stderr.isatty()

    @property
    def may_show_progress(self) -> bool:
        return not self.quiet and not self.no_progress and sys.stderr.isatty()


pass_options = click.make_pass_decorator(Options, ensure=True)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def common_options(function: _Function) -> _Function:
    """Give a command the common options, such as `--home`, `--json` and `--quiet`; the one given last counts."""
    for decorator in reversed(_COMMON):
        function = decorator(function)
    return function


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # A verb's option that is not given must not undo the one given before the verb.
    if parameter.name == "home" and value == "":
        raise click.BadParameter("a path is empty; is a variable unset?", context, parameter)
    if not value or parameter.name is None:
        return
    options = context.ensure_object(Options)
    if parameter.name == "verbose":
        value += options.verbose  # before and after the verb add up
        logging.getLogger("casstore").setLevel(logging.INFO if value == 1 else logging.DEBUG)
    setattr(options, parameter.name, value)


def _common(*names: str, **rest: Any) -> Callable[[_Function], _Function]:
    return click.option(*names, callback=_note, expose_value=False, is_eager=True, **rest)


_COMMON = (
    _common(
        "--home",
        metavar="DIR",
        type=click.Path(file_okay=False, readable=False),  # else click says it, without the remedy
        help="The store's directory.  [default: $CASSTORE_HOME, else ~/.casstore]",
    ),
    _common("--json", is_flag=True, help="Answer with one JSON document."),
    _common("-q", "--quiet", is_flag=True, help="No hints, no progress, only the result."),
    _common("--no-progress", is_flag=True, help="No progress bars."),
    _common("-v", "--verbose", count=True, help="Say what happens unasked, such as a copy; -vv: all that is noted."),
)
