"""Aliases: moved in one transaction of the catalog, and in their log before the call returns."""

from __future__ import annotations

from datetime import datetime, timezone

from casstore.actions import resolve
from casstore.actions.consistency import alias_log
from casstore.actions.workspace import Workspace
from casstore.catalog import aliases as rows
from casstore.catalog.aliases import Action, Alias, AliasMove
from casstore.catalog.versions import VersionRow
from casstore.errors import AliasMoved, InvalidMetadata, InvalidTag, TagNotFound
from casstore.plain_json import checked_text
from casstore.tag import AliasName, Anywhere, Tag, TagQuery

ANYWHERE = Anywhere.ANYWHERE
_MOST_REASON_CHARACTERS = 4096


def set_alias(
    workspace: Workspace, alias: str, tag: str | Tag, expected: str | Tag | Anywhere | None, reason: str, *,
    force: bool = False,
) -> Alias:  # fmt: skip
    """Have an alias mean a version; where it does already, nothing changes.

    `expected`: the version that it must mean until then, None if there must be no such alias. Raises AliasMoved where
    that is not so, AliasProtected unless `force`, TagNotFound, AmbiguousTag, InvalidTag, InvalidMetadata.
    """
    name = AliasName.parse(alias)
    target = resolve.find(workspace.catalog, _of_name(name, tag, "the version"))
    where = _expected(workspace, name, expected)
    reason = _checked(reason)
    with alias_log.changing(workspace, name.name):
        return workspace.catalog.aliases.move(name, target, where, reason, force=force)


def import_alias(workspace: Workspace, name: AliasName, row: VersionRow, reason: str) -> Alias:
    """Have an alias mean a version that has come with it. Raises AliasProtected, TagNotFound."""
    with alias_log.changing(workspace, name.name):
        return workspace.catalog.aliases.move(name, row, ANYWHERE, reason, action=Action.IMPORT)


def roll_back(
    workspace: Workspace, alias: str, steps: int, to: datetime | None, reason: str, *, force: bool = False
) -> Alias:
    """Have an alias mean what it meant so many moves before, or at a time. Raises TagNotFound, AliasProtected."""
    name = AliasName.parse(alias)
    if steps < 1:
        raise InvalidTag(f"{alias} can be rolled back by one step or more, not by {steps}")
    at_ns = None if to is None else nanoseconds(to)
    reason = _checked(reason)
    with alias_log.changing(workspace, name.name):
        return workspace.catalog.aliases.roll_back(name, steps, at_ns, (reason, force))


def set_protected(workspace: Workspace, alias: str, is_protected: bool, reason: str) -> Alias:
    """Protect an alias, or take its protection away. Raises TagNotFound."""
    name = AliasName.parse(alias)
    reason = _checked(reason)
    with alias_log.changing(workspace, name.name):
        return workspace.catalog.aliases.set_protected(name, is_protected, reason)


def delete(workspace: Workspace, alias: str, reason: str, *, force: bool = False) -> Tag:
    """Delete an alias, but not its history; returns where it stood. Raises TagNotFound, AliasProtected."""
    name = AliasName.parse(alias)
    reason = _checked(reason)
    with alias_log.changing(workspace, name.name):
        return workspace.catalog.aliases.delete(name, reason, force=force)


def standing(workspace: Workspace, name: str | None) -> list[Alias]:
    """Where aliases stand, of one name or of all."""
    return workspace.catalog.aliases.standing(None if name is None else resolve.name(name))


def history(workspace: Workspace, alias: str, at: datetime | None) -> list[AliasMove]:
    """What was done to an alias, the newest first; with `at`, only the one that held then. Raises TagNotFound."""
    name = AliasName.parse(alias)
    moves = workspace.catalog.aliases.history(name)
    if not moves:
        raise rows.no_alias(name, moves)
    return moves[::-1] if at is None else [rows.at(name, moves, nanoseconds(at))]


def nanoseconds(moment: datetime) -> int:
    """UTC nanoseconds since 1970; a time without a zone is local. Raises InvalidMetadata."""
    if not isinstance(moment, datetime):
        raise InvalidMetadata(f"a time is a datetime, not {type(moment).__name__}")
    since = moment.astimezone(timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _of_name(alias: AliasName, tag: str | Tag, what: str) -> TagQuery:
    query = TagQuery.parse(tag)
    if query.name != alias.name:
        hint = f"; if that is a version, write {alias.name}:{query.name}" if query.is_name else ""
        raise InvalidTag(f"{alias} means versions of {alias.name}, and {what} {tag} is one of {query.name}{hint}")
    return query


def _expected(
    workspace: Workspace, alias: AliasName, expected: str | Tag | Anywhere | None
) -> VersionRow | Anywhere | None:
    if expected is None or isinstance(expected, Anywhere):
        return expected
    try:
        return resolve.find(workspace.catalog, _of_name(alias, expected, "what is expected,"))
    except TagNotFound as error:  # then the alias cannot be there
        found = workspace.catalog.aliases.find(alias)
        state = f"there is no {alias}" if found is None else f"{alias} stands at {found.tag}"
        raise AliasMoved(
            f"{state}, and it was expected at {expected}, which is not in this store; nothing was moved",
            str(alias), None if found is None else str(found.tag),
        ) from error  # fmt: skip


def _checked(reason: str) -> str:
    if not isinstance(reason, str):
        raise InvalidMetadata(f"a reason is text, not {type(reason).__name__}")
    checked_text("reason", reason)
    if len(reason) > _MOST_REASON_CHARACTERS:
        raise InvalidMetadata(f"the reason has {len(reason):,} characters; at most {_MOST_REASON_CHARACTERS:,} fit")
    return reason
