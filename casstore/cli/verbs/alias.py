"""casstore alias"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

import casstore
from casstore.cli.arguments import as_text, complete_alias, complete_name, complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, hint, is_screen, printable, say, show_json, show_table, utc
from casstore.cli.times import moment
from casstore.late import LateModule

if TYPE_CHECKING:
    from casstore.integrations import hugging_face
else:
    hugging_face = LateModule("casstore.integrations.hugging_face")

_EXAMPLES = """\b
Examples:
  casstore alias set bert@prod bert:v7 -m "F1 0.934, approved by ana"
  casstore path bert@prod                      wherever a tag is taken, so is an alias
  casstore show bert@prod~1                    what it meant before the last move
  casstore alias log bert@prod
  casstore alias rollback bert@prod -m "timeouts"
"""
_SET_EXAMPLES = """\b
Examples:
  casstore alias set bert@prod bert:v7 --if bert:v6 -m "F1 0.934"
  casstore alias set bert@prod bert:v7 --if none     only if it does not exist
  casstore alias set bert@prod bert@staging          what staging means now

\b
Exit code 11: the alias does not mean what --if says; the message names what it means.
"""
_LOG_EXAMPLES = """\b
Examples:
  casstore alias log bert@prod
  casstore alias log bert@prod --at 2026-11-01       what was in production then
  casstore alias log bert@prod --json | jq -r '.moves[].reason'
"""
_ROLLBACK_EXAMPLES = """\b
Examples:
  casstore alias rollback bert@prod
  casstore alias rollback bert@prod --steps 2
  casstore alias rollback bert@prod --to '2026-11-01 12:00' -m "before the outage"
"""
_COLUMNS = (
    Column("ALIAS", fixed=True), Column("TAG", narrow=((0, 48),)),
    Column("MOVED", fixed=True, narrow=((3, 16), (4, 10), (6, 0))), Column("BY", narrow=((2, 0),)),
    Column("REASON", narrow=((1, 12), (5, 0))), Column(""),
)  # fmt: skip
_LOG_COLUMNS = (
    Column("NO", right=True), Column("ACTION", fixed=True), Column("TAG", narrow=((0, 48),)),
    Column("WHEN", fixed=True, narrow=((3, 16), (4, 10), (6, 0))), Column("BY", narrow=((2, 0),)),
    Column("REASON", narrow=((1, 12), (5, 0))),
)  # fmt: skip

_ALIAS = click.argument("alias", metavar="NAME@ALIAS", shell_complete=complete_alias)
_REASON = click.option("-m", "--reason", metavar="TEXT", default="", help="Why; it is kept in the log.")
_FORCE = click.option("--force", is_flag=True, help="Even if it is protected.")


@click.group(epilog=_EXAMPLES, subcommand_metavar="[set|list|log|rollback|protect|unprotect|delete] ...")
@common_options
def alias() -> None:
    """Give versions names that move, such as bert@prod.

    An alias means one version of its name until it is moved. Every move is kept, with the time, who made it and why.
    A version that an alias means is not deleted, and its directory stays. An alias is written as a name is; it is
    neither `latest` nor v and a number. It belongs to this store: push and pull do not carry it. What `casstore
    hf-cache link` has made follows when an alias is moved here.
    """


@alias.command("set", epilog=_SET_EXAMPLES)
@_ALIAS
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.option(
    "--if",
    "expected",
    metavar="TAG|none",
    shell_complete=complete_tag,
    help="Only if it means this version now; none: only if it does not exist.",
)
@_REASON
@_FORCE
@common_options
@pass_options
def set_alias(options: Options, alias: str, tag: str, expected: str | None, reason: str, force: bool) -> None:
    """Have an alias mean a version, and make it if need be.

    Where it means that version already, nothing is changed or logged. With --if, of several that try at once one
    moves it, and the others fail.
    """
    terms: dict[str, Any] = {} if expected is None else {"expected": None if expected == "none" else expected}
    with options.open_store() as store:
        moved = store.set_alias(alias, tag, reason=as_text(reason), force=force, **terms)
        _answer(options, moved)
        _refresh_caches(store, moved.tag)


@alias.command("list", epilog="\b\nExamples:\n  casstore alias list\n  casstore alias list bert --json\n")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_name)
@common_options
@pass_options
def list_aliases(options: Options, name: str | None) -> None:
    """List aliases, of one name or of all, and what they mean.

    In a pipe: one alias per line, tabs between alias, tag, UTC time of the last move, who made it, the reason, and
    "protected" where it is.
    """
    with options.open_store() as store:
        found = store.aliases(name)
        if not found and name is not None:
            store.get(name)  # which raises TagNotFound with the nearest name
    if options.json:
        show_json({"aliases": list(map(_as_json, found))})
    elif found:
        are_protected = any(each.is_protected for each in found)
        rows = [
            (str(a), a.tag, a.moved_at, a.actor, a.reason, *["protected" if a.is_protected else ""][:are_protected])
            for a in found
        ]
        show_table(_COLUMNS[: 5 + are_protected], rows)
    else:
        hint(options, f"there is no alias; `casstore alias set {name or 'NAME'}@prod {name or 'TAG'}` makes one")


@alias.command("log", epilog=_LOG_EXAMPLES)
@_ALIAS
@click.option(
    "--at",
    metavar="TIME",
    callback=moment,
    help="Only what it was then: a date, a date and time, or an age as 3d.",
)
@common_options
@pass_options
def log(options: Options, alias: str, at: datetime | None) -> None:
    """List what was done to an alias, newest first, also to one that was deleted.

    In a pipe: one line each, tabs between number, action, tag, UTC time, who did it, and the reason. The numbers count
    what was done to all aliases of the name, and tell the order where a clock was wrong.
    """
    with options.open_store() as store:
        moves = store.alias_history(alias, at=at)
    if options.json:
        show_json({"alias": alias.lower(), "moves": [_move_as_json(move) for move in moves]})
        return
    show_table(_LOG_COLUMNS, [(m.number, m.action, m.tag, m.moved_at, m.actor, m.reason) for m in moves])


@alias.command("rollback", epilog=_ROLLBACK_EXAMPLES)
@_ALIAS
@click.option("--steps", metavar="N", type=click.IntRange(min=1), help="So many moves.  [default: 1]")
@click.option(
    "--to",
    metavar="TIME",
    callback=moment,
    help="What it meant then: a date, a date and time, or an age as 3d.",
)
@_REASON
@_FORCE
@common_options
@pass_options
def rollback(options: Options, /, alias: str, steps: int | None, to: datetime | None, reason: str, force: bool) -> None:
    """Have an alias mean again what it meant before.

    What was rolled back from does not count: rolled back twice, it is two moves back, and not where it began. The log
    keeps all of it; `casstore alias set` goes forward again.
    """
    if steps is not None and to is not None:
        raise click.UsageError("say --steps or --to, not both", click.get_current_context())
    with options.open_store() as store:
        moved = store.rollback_alias(alias, steps=steps or 1, to=to, reason=as_text(reason), force=force)
        _answer(options, moved)
        _refresh_caches(store, moved.tag)


@alias.command("protect", epilog="\b\nExample:\n  casstore alias protect bert@prod -m 'ask ana first'\n")
@_ALIAS
@_REASON
@common_options
@pass_options
def protect(options: Options, alias: str, reason: str) -> None:
    """Let an alias be moved or deleted only with --force.

    `casstore alias unprotect` takes that back. A protected alias also keeps its version from `delete --drop-aliases`,
    and is not moved by `import --aliases`.
    """
    with options.open_store() as store:
        _answer(options, store.protect_alias(alias, reason=as_text(reason)))


@alias.command("unprotect", epilog="\b\nExample:\n  casstore alias unprotect bert@prod\n")
@_ALIAS
@_REASON
@common_options
@pass_options
def unprotect(options: Options, alias: str, reason: str) -> None:
    """Let an alias be moved and deleted again."""
    with options.open_store() as store:
        _answer(options, store.unprotect_alias(alias, reason=as_text(reason)))


@alias.command("delete", epilog="\b\nExample:\n  casstore alias delete bert@staging\n")
@_ALIAS
@_REASON
@_FORCE
@common_options
@pass_options
def delete(options: Options, alias: str, reason: str, force: bool) -> None:
    """Delete an alias; the version stays, and so does the log."""
    with options.open_store() as store:
        tag = store.delete_alias(alias, reason=as_text(reason), force=force)
        if options.json:
            show_json({"deleted": alias.lower(), "tag": str(tag)})
        else:
            shown = printable(alias.lower())
            click.echo(f"deleted {shown}; {tag} stays" if is_screen() else shown)
        _refresh_caches(store, tag)


def _refresh_caches(store: casstore.Store, tag: casstore.Tag) -> None:
    """Have what `hf-cache link` has made follow. The alias has moved: what fails here is told, and no more."""
    if store.settings()["hf_caches"] != "off":
        _, problems = hugging_face.refresh(store, tag.name)
        for problem in problems:
            say(f"{printable(problem)}; then `casstore hf-cache refresh {tag.name}`")


def _answer(options: Options, found: casstore.Alias) -> None:
    if options.json:
        show_json(_as_json(found))
    elif is_screen():
        click.echo(f"{found} means {found.tag}{', and is protected' if found.is_protected else ''}")
    else:
        click.echo(f"{found}\t{found.tag}")


def _as_json(found: casstore.Alias) -> dict[str, Any]:
    return {
        "alias": str(found),
        "tag": str(found.tag),
        "is_protected": found.is_protected,
        "moved_at": utc(found.moved_at),
        "actor": found.actor,
        "reason": found.reason,
    }


def _move_as_json(move: casstore.AliasMove) -> dict[str, Any]:
    return {
        "number": move.number,
        "action": move.action,
        "tag": None if move.tag is None else str(move.tag),
        "digest": None if move.digest is None else str(move.digest),
        "is_protected": move.is_protected,
        "moved_at": utc(move.moved_at),
        "actor": move.actor,
        "reason": move.reason,
    }
