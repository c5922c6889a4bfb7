"""The `casstore` command: its verbs, and how every run ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from gc import freeze, set_threshold
from importlib import import_module
from typing import Any, cast

import click

import casstore
from casstore.cli.exits import ExitCode, Interrupted, exit_code
from casstore.cli.options import COMPLETE_VARIABLE, PROGRAM, Options, common_options
from casstore.cli.report import report_error, show_warnings
from casstore.cli.streams import open_missing
from casstore.cli.verbs import completion
from casstore.cli.words import ALIASES, advice

_EPILOG = """\b
Examples:
  casstore demo                                a minute's tour, in a store of its own
  casstore save bert:v1 out/ -l stage=dev      keep a directory as a version
  casstore list bert                           what there is, newest first
  python predict.py "$(casstore path bert)"    use the newest version
  casstore delete bert:v1                      for some days, casstore undelete brings it back
  casstore clone s3://bucket/models            a store of what a team shares
  casstore help save                           all about a verb, with examples

\b
Results go to stdout; hints and progress go to stderr, and only to a terminal. In a pipe, tables are lines with
tabs, bytes are plain numbers and times are UTC. With --json the result is one JSON document on stdout, and an
error is one on stderr: {"error": {"type": ..., "message": ..., "exit_code": ...}}.

\b
Exit codes:
    0  done                          11  locked by another process, or an alias has moved
    1  failed, or damage was found   12  no such version, alias, file, store or remote
    2  wrong use, an invalid tag     13  the tag is taken, and saved versions never change
    3  partly done                  130  interrupted
"""


# In the order in which a user meets them, and the module of those whose name is not its own.
_VERBS = (
    *["save", "drafts", "list", "count", "show", "diff", "log", "lineage", "ls", "cat", "tensors", "path", "checkout"],
    *["export", "import", "adopt", "watch", "sync-tree", "annotate", "alias", "pin", "unpin", "delete", "undelete"],
    *["forget", "policy", "gc", "remote", "push", "pull", "clone", "status", "evict", "backup", "mount"],
    *["hf-cache", "events", "sign", "verify", "repair", "stats", "config", "init", "demo", "completion"],
)
_MODULES = {"import": "import_", "unpin": "pin", "clone": "pull"}


class _LateCommands(Mapping[str, click.Command]):
    """The commands of all verbs, each imported when it is asked for: a run needs one of them."""

    def __getitem__(self, verb: str) -> click.Command:
        if verb not in _VERBS:
            raise KeyError(verb)
        module = import_module(f"casstore.cli.verbs.{_MODULES.get(verb, verb).replace('-', '_')}")
        return next(each for each in vars(module).values() if isinstance(each, click.Command) and each.name == verb)

    def __iter__(self) -> Iterator[str]:
        return iter(_VERBS)

    def __len__(self) -> int:
        return len(_VERBS)


class Verbs(click.Group):
    """Verbs in the order in which a user meets them; an unknown word is answered with what to type."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("dict[str, click.Command]", _LateCommands())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        unlisted = _UNLISTED.get(cmd_name)
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name)) if unlisted is None else unlisted

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        command = self.get_command(ctx, verb)
        if command is None and not verb.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(advice(verb, self.commands))
        name, command, rest = super().resolve_command(ctx, args)
        return (name if command is None else command.name), command, rest


@click.command("help")
@click.argument("words", metavar="[VERB]...", nargs=-1)
@click.pass_context
def _help(context: click.Context, words: tuple[str, ...]) -> None:
    """Explain a verb, or list all; as --help does."""
    above = context.find_root()
    command: click.Command = above.command
    for word in words:
        if not isinstance(command, click.Group):
            break
        name, found, _ = command.resolve_command(above, [word])
        if found is None:  # pragma: no cover - resolve_command fails first
            break
        above = click.Context(found, info_name=name, parent=above)
        command = found
    click.echo(command.get_help(above))


@click.command("version")
def _version() -> None:
    """Print the version of casstore, as --version does."""
    _show_version()


def _show_version() -> None:
    click.echo(f"{PROGRAM}, version {casstore.__version__}, kernels {casstore.kernels_in_use()}")


def _version_wanted(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        _show_version()
        context.exit()


_UNLISTED = {"help": _help, "version": _version}


@click.group(
    cls=Verbs,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version_wanted,
    help="Show the version and exit.",
)
@common_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Keep trained models under name:version tags: atomic, immutable, verified, and each byte stored once."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        raise click.exceptions.Exit(ExitCode.USAGE)


_GARBAGE_EVERY = 20_000  # objects


def main() -> None:
    """Run the command line of this process, and exit."""
    open_missing()
    # Nor is there much garbage in what a command imports, through which Python would look at every 700 objects.
    set_threshold(_GARBAGE_EVERY)
    code = run(sys.argv[1:])
    # To look through all modules for garbage on the way out takes a tenth of the time of a short command.
    freeze()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Only bugs raise."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not fit the encoding
    options = Options()
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        return completion.complete(cli, options, instruction)
    # Whether an error is wanted as JSON must be known before the arguments are understood.
    as_json = "--json" in arguments
    show_warnings(as_json=as_json)
    try:
        with cli.make_context(PROGRAM, list(arguments), obj=options) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return _flushed(end.exit_code)
    except BrokenPipeError:
        return _reader_gone()
    except (KeyboardInterrupt, click.Abort):
        report_error(Interrupted("interrupted"), as_json=as_json)
        return ExitCode.INTERRUPTED
    except (click.ClickException, casstore.CasstoreError, OSError) as error:
        report_error(error, as_json=as_json, home=options.home)
        return exit_code(error)
    return ExitCode.DONE


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    return code


def _reader_gone() -> int:
    """End quietly, as `casstore list | head -1` should; what Python still holds for the reader goes nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.READER_GONE
