"""SQL over aliases: where each stands, and all that was done to them. Each change is one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, NamedTuple

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.events import note_event
from casstore.catalog.sqlite_errors import translated_errors
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import AliasMoved, AliasProtected, TagNotFound, VersionAliased
from casstore.late_classes import dataclass
from casstore.storage.machine import who
from casstore.tag import AliasName, Anywhere, Tag

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# How a deletion puts it that the aliases of a version go with it.
_DROPPED = "its version was deleted"


class Action(str, Enum):
    """What can be done to an alias."""

    SET = "set"
    ROLLBACK = "rollback"
    IMPORT = "import"
    DELETE = "delete"
    PROTECT = "protect"
    UNPROTECT = "unprotect"


_MOVES = frozenset({Action.SET, Action.ROLLBACK, Action.IMPORT})


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias, and where it stands.

    Attributes
    ----------
    name, alias
        Of `name@alias`, which `str(...)` gives.
    tag
        The version that it means now.
    is_protected
        Whether it moves only by force.
    moved_at_ns
        When it was last moved, protected or unprotected: nanoseconds since 1970, UTC.
    actor
        Who did that, as `user@host`.
    reason
        What they said of it; may be empty.
    """

    name: str
    alias: str
    tag: Tag
    is_protected: bool
    moved_at_ns: int
    actor: str
    reason: str

    @property
    def moved_at(self) -> datetime:
        """When it was last moved, protected or unprotected, in UTC."""
        return moment(self.moved_at_ns)

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"


class AliasMove(NamedTuple):
    """Something that was done to an alias, and what the alias was from then on.

    Attributes
    ----------
    name, alias
        Of `name@alias`.
    number
        1, 2, ... of each name: these tell the order, whatever clocks said.
    action
        "set", "rollback", "import", "delete", "protect" or "unprotect".
    version
        The version that it meant from then on; None from when it was deleted.
    digest
        Of that version's content, since another may have got its tag; None as `version`.
    is_protected
        Whether it was protected from then on.
    moved_at_ns
        When: nanoseconds since 1970, UTC, as the clock said.
    actor
        Who did it, as `user@host`.
    reason
        What they said of it; may be empty.
    """

    name: str
    number: int
    alias: str
    action: str
    version: str | None
    digest: Digest | None
    is_protected: bool
    moved_at_ns: int
    actor: str
    reason: str

    @property
    def tag(self) -> Tag | None:
        """The version that it meant from then on; None from when it was deleted."""
        return None if self.version is None else Tag.of_checked(self.name, self.version)

    @property
    def moved_at(self) -> datetime:
        """When, in UTC, as the clock said."""
        return moment(self.moved_at_ns)


class _Standing(NamedTuple):
    """The row of an alias, with the version that it stands at."""

    version_id: int
    is_protected: bool
    version: str
    digest: Digest


_MOVE_COLUMNS = "name, number, alias, action, version, digest, protected, moved_at, actor, reason"
_ALIASES = (
    "SELECT a.name, a.alias, v.name, v.version, a.protected, coalesce(m.moved_at, 0), coalesce(m.actor, ''),"
    " coalesce(m.reason, '') FROM alias AS a JOIN version AS v ON v.id = a.version_id"
    " LEFT JOIN alias_move AS m ON m.name = a.name AND m.number = a.move"
)


def moment(nanoseconds: int) -> datetime:
    """UTC nanoseconds since 1970 as a datetime; what no datetime can say becomes the nearest that one can."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return (datetime.max if nanoseconds > 0 else datetime.min).replace(tzinfo=timezone.utc)


class Aliases:
    """Finds and moves aliases, and keeps what was done to them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with translated_errors(self._connections.path):
            return self._connections.get().execute(sql, tuple(parameters)).fetchall()

    def standing(self, name: str | None = None) -> list[Alias]:
        """Where aliases stand, those of one name or all, in order."""
        where, parameters = ("", ()) if name is None else (" WHERE a.name = ?", (name,))
        return [_alias(row) for row in self._rows(f"{_ALIASES}{where} ORDER BY a.name, a.alias", parameters)]

    def find(self, alias: AliasName) -> Alias | None:
        rows = self._rows(f"{_ALIASES} WHERE a.name = ? AND a.alias = ?", (alias.name, alias.alias))
        return next(map(_alias, rows), None)

    def of_version(self, version_id: int) -> list[str]:
        """The aliases of a version, without its name, in order."""
        rows = self._rows("SELECT alias FROM alias WHERE version_id = ? ORDER BY alias", (version_id,))
        return [decoding.name(row[0]) for row in rows]

    def history(self, alias: AliasName) -> list[AliasMove]:
        """What was done to an alias, the oldest first."""
        sql = f"SELECT {_MOVE_COLUMNS} FROM alias_move WHERE name = ? AND alias = ? ORDER BY number"
        return list(map(_move, self._rows(sql, (alias.name, alias.alias))))

    def moves(self, name: str, after: int = 0) -> list[AliasMove]:
        """What was done to all aliases of a name after that number, the oldest first."""
        sql = f"SELECT {_MOVE_COLUMNS} FROM alias_move WHERE name = ? AND number > ? ORDER BY number"
        return list(map(_move, self._rows(sql, (name, after))))

    def moved_names(self) -> list[str]:
        """The names that have, or had, aliases."""
        return [decoding.name(row[0]) for row in self._rows("SELECT DISTINCT name FROM alias_move ORDER BY name")]

    def move(
        self, alias: AliasName, target: VersionRow, expected: VersionRow | Anywhere | None, reason: str, *,
        action: Action = Action.SET, force: bool = False,
    ) -> Alias:  # fmt: skip
        """Have an alias mean a version; where it does already, nothing changes.

        Raises AliasMoved where it is not as `expected`, AliasProtected unless `force`, TagNotFound when the version has
        been deleted meanwhile.
        """
        with self._connections.write() as connection:
            standing = _standing(connection, alias)
            if expected is not Anywhere.ANYWHERE:
                _check_expected(alias, standing, expected)
            # In the trash a version has no name, and another may have got its tag.
            sql = "SELECT 1 FROM version WHERE id = ? AND name = ? AND version = ?"
            if connection.execute(sql, (target.id, target.name, target.version)).fetchone() is None:
                raise TagNotFound(f"{target.tag} has been deleted meanwhile")
            moved = _put(connection, alias, standing, target.tag, _Change(action, reason, force))
        return self._found(alias) if moved is None else moved

    def roll_back(self, alias: AliasName, steps: int, at_ns: int | None, change: tuple[str, bool]) -> Alias:
        """Have an alias mean what it meant so many moves before, not counting those that were rolled back; or at a
        time. `change`: the reason, and whether it moves by force.

        Raises TagNotFound where there is no such alias or no such move, or its version is gone; AliasProtected.
        """
        with self._connections.write() as connection:
            standing = _standing(connection, alias)
            moves = _history(connection, alias)
            if standing is None:
                raise no_alias(alias, moves)
            target = _earlier(alias, moves, steps) if at_ns is None else at(alias, moves, at_ns)
            tag = target.tag
            if tag is None or _version_of(connection, target) is None:
                raise gone(alias, target)
            moved = _put(connection, alias, standing, tag, _Change(Action.ROLLBACK, *change))
        return self._found(alias) if moved is None else moved

    def set_protected(self, alias: AliasName, is_protected: bool, reason: str) -> Alias:
        """Protect an alias, or take the protection away; twice is as good as once. Raises TagNotFound."""
        with self._connections.write() as connection:
            standing = _standing(connection, alias)
            if standing is None:
                raise no_alias(alias, _history(connection, alias))
            if standing.is_protected != is_protected:
                action = Action.PROTECT if is_protected else Action.UNPROTECT
                after = standing._replace(is_protected=is_protected)
                number = _note(connection, alias, action, after, reason).number
                connection.execute(
                    "UPDATE alias SET protected = ?, move = ? WHERE name = ? AND alias = ?",
                    (is_protected, number, alias.name, alias.alias),
                )
        return self._found(alias)

    def delete(self, alias: AliasName, reason: str, *, force: bool = False) -> Tag:
        """Delete an alias; its history stays. Returns where it stood. Raises TagNotFound, AliasProtected."""
        with self._connections.write() as connection:
            standing = _standing(connection, alias)
            if standing is None:
                raise no_alias(alias, _history(connection, alias))
            if standing.is_protected and not force:
                raise _protected(alias, "deleted")
            _remove(connection, alias, reason)
            return Tag.of_checked(alias.name, standing.version)

    def restore(self, name: str, moves: Iterable[AliasMove]) -> list[AliasMove]:
        """Take in what a log says of the aliases of a name, in its order; returns the last of each alias that cannot be
        made, since its version is gone."""
        lost, number = [], 0
        last: dict[str, AliasMove] = {}
        with self._connections.write() as connection:
            for each in moves:
                number = max(each.number, number + 1)
                move = each._replace(name=name, number=number)
                _insert(connection, move)
                last[move.alias] = move
            for move in last.values():
                found = _version_of(connection, move)
                if found is not None:
                    connection.execute(
                        "INSERT INTO alias(name, alias, version_id, move, protected) VALUES (?,?,?,?,?)",
                        (name, move.alias, found, move.number, move.is_protected),
                    )
                elif move.version is not None:
                    lost.append(move)
        return lost

    def _found(self, alias: AliasName) -> Alias:
        found = self.find(alias)
        if found is None:
            raise TagNotFound(f"{alias} has been deleted meanwhile")
        return found


@dataclass(frozen=True, slots=True)
class _Change:
    action: Action
    reason: str
    force: bool


def drop_aliases(connection: apsw.Connection, rows: Iterable[VersionRow], *, are_doomed: bool) -> None:
    """Delete the aliases of versions that are being deleted, in that transaction, if `are_doomed`.

    Raises VersionAliased if not, AliasProtected.
    """
    for row in rows:
        sql = "SELECT alias, protected FROM alias WHERE version_id = ? ORDER BY alias"
        found = [(AliasName(row.name, str(each[0])), bool(each[1])) for each in connection.execute(sql, (row.id,))]
        if found and not are_doomed:
            raise aliased(row.tag, [alias for alias, _ in found])
        for alias, is_protected in found:
            if is_protected:
                raise _protected(alias, f"deleted with {row.tag}", "")
            _remove(connection, alias, _DROPPED)


def aliased(tag: Tag, aliases: Sequence[AliasName]) -> VersionAliased:
    """The error for a version that was to go, and that these aliases name."""
    names = [str(alias) for alias in aliases]
    what = "the alias" if len(names) == 1 else "the aliases"
    return VersionAliased(
        f"{tag} is what {what} {', '.join(names)} {'means' if len(names) == 1 else 'mean'}, so it stays; move "
        f"{'it' if len(names) == 1 else 'them'} with `casstore alias set {names[0]} TAG`, or delete both with "
        f"`casstore delete --drop-aliases {tag}` (in Python: drop_aliases=True)",
        names,
    )


def no_alias(alias: AliasName, moves: Sequence[AliasMove]) -> TagNotFound:
    """The error for an alias that is not there, of which that is known."""
    last = next((move for move in reversed(moves) if move.version is not None), None)
    if last is None:
        return TagNotFound(f"there is no alias {alias} in this store; `casstore alias list {alias.name}` shows others")
    if moves[-1].version is not None:  # as where a catalog was made again, and its version was gone
        return TagNotFound(f"{alias} meant {last.tag}, which is gone; `casstore alias set {alias} TAG` makes it again")
    return TagNotFound(
        f"{alias} has been deleted; it last meant {last.tag}, and `casstore alias log {alias}` has the rest"
    )


def steps_back(moves: Iterable[AliasMove]) -> list[AliasMove]:
    """Each move to another version, the newest first; deletions are passed over."""
    found: list[AliasMove] = []
    for move in moves:
        if move.action in _MOVES and not (found and _is_same(found[-1], move)):
            found.append(move)
    return found[::-1]


def not_so_far(alias: AliasName, steps: int, known: int) -> TagNotFound:
    """The error for an alias that has not been moved so often."""
    moves = {0: "no earlier move", 1: "one earlier move"}.get(known, f"{known:,} earlier moves")
    return TagNotFound(f"{alias} has {moves} to go back to, not {steps:,}; `casstore alias log {alias}` lists all")


def at(alias: AliasName, moves: Sequence[AliasMove], at_ns: int) -> AliasMove:
    """What an alias was at a time: its last move that was not later by the clock. Raises TagNotFound."""
    found = next((move for move in reversed(moves) if move.moved_at_ns <= at_ns), None)
    when = f"{moment(at_ns):%Y-%m-%d %H:%M:%S} UTC"
    if found is None:
        raise TagNotFound(f"{alias} did not exist at {when}; `casstore alias log {alias}` lists all moves")
    if found.version is None:
        raise TagNotFound(f"{alias} was deleted at {when}; `casstore alias log {alias}` lists all moves")
    return found


def gone(alias: AliasName, move: AliasMove) -> TagNotFound:
    """The error for a version that an alias meant once, and that has been deleted."""
    return TagNotFound(
        f"{alias} meant {move.tag} then, which has been deleted; `casstore alias log {alias}` lists all moves"
    )


def _earlier(alias: AliasName, moves: Sequence[AliasMove], steps: int) -> AliasMove:
    """Where to roll back to: what was rolled back from does not count, so that twice is two steps back."""
    stack: list[AliasMove] = []
    for move in moves:
        if move.action == Action.ROLLBACK:
            below = next((n for n in range(len(stack) - 2, -1, -1) if _is_same(stack[n], move)), None)
            stack = [*(stack if below is None else stack[:below]), move]
        elif move.action in _MOVES and not (stack and _is_same(stack[-1], move)):
            stack.append(move)
    if steps >= len(stack):
        raise not_so_far(alias, steps, max(0, len(stack) - 1))
    return stack[-1 - steps]


def _is_same(one: AliasMove, other: AliasMove) -> bool:
    return (one.version, one.digest) == (other.version, other.digest)


def _standing(connection: apsw.Connection, alias: AliasName) -> _Standing | None:
    sql = (
        "SELECT v.id, protected, v.version, v.digest FROM alias AS a JOIN version AS v ON v.id = a.version_id"
        " WHERE a.name = ? AND a.alias = ?"
    )
    row = connection.execute(sql, (alias.name, alias.alias)).fetchone()
    if row is None:
        return None
    return _Standing(decoding.typed(row[0], int, "an id"), bool(row[1]), decoding.name(row[2]), decoding.digest(row[3]))


def _check_expected(alias: AliasName, standing: _Standing | None, expected: VersionRow | None) -> None:
    if (None if standing is None else standing.version_id) == (None if expected is None else expected.id):
        return
    current = None if standing is None else f"{alias.name}:{standing.version}"
    wanted = "it was not to exist" if expected is None else f"it was expected at {expected.tag}"
    if current is None:
        raise AliasMoved(
            f"there is no {alias}, and {wanted}; to make it: --if none (in Python: expected=None)", str(alias)
        )
    raise AliasMoved(
        f"{alias} stands at {current}, and {wanted}, so it was not moved; `casstore alias log {alias}` says by whom",
        str(alias), current,
    )  # fmt: skip


def _put(
    connection: apsw.Connection, alias: AliasName, standing: _Standing | None, tag: Tag, change: _Change
) -> Alias | None:
    """Move an alias to a version; None where it stands there already. Raises TagNotFound, AliasProtected."""
    sql = "SELECT id, digest FROM version WHERE name = ? AND version = ?"
    found = connection.execute(sql, (tag.name, tag.version)).fetchone()
    if found is None:
        raise TagNotFound(f"{tag} has been deleted meanwhile")
    version_id, digest = decoding.typed(found[0], int, "an id"), decoding.digest(found[1])
    if standing is not None and standing.version_id == version_id:
        return None
    is_protected = standing is not None and standing.is_protected
    if is_protected and not change.force:
        raise _protected(alias, "moved")
    after = _Standing(version_id, is_protected, tag.version, digest)
    move = _note(connection, alias, change.action, after, change.reason)
    connection.execute(
        "INSERT OR REPLACE INTO alias(name, alias, version_id, move, protected) VALUES (?,?,?,?,?)",
        (alias.name, alias.alias, version_id, move.number, is_protected),
    )
    was = None if standing is None else standing.version
    note_event(connection, "alias moved", alias, version=tag.version, was=was, reason=change.reason)
    return Alias(alias.name, alias.alias, tag, is_protected, move.moved_at_ns, move.actor, move.reason)


def _remove(connection: apsw.Connection, alias: AliasName, reason: str) -> None:
    _note(connection, alias, Action.DELETE, None, reason)
    connection.execute("DELETE FROM alias WHERE name = ? AND alias = ?", (alias.name, alias.alias))
    note_event(connection, "alias deleted", alias, reason=reason)


def _note(
    connection: apsw.Connection, alias: AliasName, action: Action, after: _Standing | None, reason: str
) -> AliasMove:
    """Add to the history of an alias."""
    sql = "SELECT coalesce(max(number), 0) FROM alias_move WHERE name = ?"
    number = 1 + decoding.typed(connection.execute(sql, (alias.name,)).get, int, "the number of a move")
    version, digest = (None, None) if after is None else (after.version, after.digest)
    is_protected = after is not None and after.is_protected
    move = AliasMove(
        alias.name, number, alias.alias, action.value, version, digest, is_protected, time.time_ns(), who(), reason
    )  # fmt: skip
    _insert(connection, move)
    if action in (Action.PROTECT, Action.UNPROTECT):
        note_event(connection, f"alias {action.value}ed", alias, reason=reason)
    return move


def _insert(connection: apsw.Connection, move: AliasMove) -> None:
    connection.execute(f"INSERT INTO alias_move({_MOVE_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", move)


def _history(connection: apsw.Connection, alias: AliasName) -> list[AliasMove]:
    sql = f"SELECT {_MOVE_COLUMNS} FROM alias_move WHERE name = ? AND alias = ? ORDER BY number"
    return list(map(_move, connection.execute(sql, (alias.name, alias.alias)).fetchall()))


def _version_of(connection: apsw.Connection, move: AliasMove) -> int | None:
    """The row id of the version that a move was to, unless it is gone."""
    sql = "SELECT id FROM version WHERE name = ? AND version = ? AND digest = ?"
    found = connection.execute(sql, (move.name, move.version, move.digest)).fetchone()
    return None if found is None else decoding.typed(found[0], int, "an id")


def _protected(
    alias: AliasName, verb: str, by_force: str = ", or do it with --force (in Python: force=True)"
) -> AliasProtected:
    return AliasProtected(
        f"{alias} is protected, so it was not {verb}; `casstore alias unprotect {alias}` first{by_force}"
    )


def _alias(row: Any) -> Alias:
    name, alias, model, version, protected, moved_at_ns, actor, reason = row
    return Alias(
        decoding.name(name), decoding.name(alias), decoding.tag(model, version), bool(protected),
        decoding.typed(moved_at_ns, int, "the time of a move"), decoding.typed(actor, str, "who moved an alias"),
        decoding.typed(reason, str, "the reason of a move"),
    )  # fmt: skip


def _move(row: Any) -> AliasMove:
    name, number, alias, action, version, digest, protected, moved_at_ns, actor, reason = row
    return AliasMove(
        decoding.name(name), decoding.typed(number, int, "the number of a move"), decoding.name(alias),
        decoding.typed(action, str, "what was done to an alias"), None if version is None else decoding.name(version),
        decoding.optional_digest(digest), bool(protected), decoding.typed(moved_at_ns, int, "the time of a move"),
        decoding.typed(actor, str, "who moved an alias"), decoding.typed(reason, str, "the reason of a move"),
    )  # fmt: skip


def all_moves(connection: apsw.Connection) -> Iterator[AliasMove]:
    """All that was done to aliases, by name and in order."""
    yield from map(_move, connection.execute(f"SELECT {_MOVE_COLUMNS} FROM alias_move ORDER BY name, number"))
