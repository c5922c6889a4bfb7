"""The logs of aliases, `aliases/<name>.log`: what the catalog knows of them, for when it must be made again.

The catalog is the truth while it stands. A change is committed there first, and is in the log before the call returns.
Whatever a log lacks, since a crash or a full disk came between, is added by the next change of that name, or by gc.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casstore.actions.workspace import Workspace
from casstore.catalog.aliases import Action, AliasMove
from casstore.catalog.catalog import Catalog
from casstore.digest import Digest
from casstore.storage import append_log, files
from casstore.storage.layout import Layout, new_id
from casstore.storage.locks import Lock
from casstore.tag import is_part

_log = logging.getLogger(__name__)
_LOCK_TIMEOUT_S = 60.0
_SUFFIX = ".log"
_ACTIONS = {action.value for action in Action}


@dataclass(frozen=True, slots=True)
class Found:
    """What a log says, in order, and how many of its lines are damaged."""

    moves: list[AliasMove]
    damaged: int


@contextlib.contextmanager
def changing(workspace: Workspace, name: str) -> Iterator[None]:
    """For a block that changes aliases of a name in the catalog: whatever their log lacks is added at its end.

    Where that fails, the change stands all the same, and a warning says so. Raises StoreLocked, StoreUnwritable.
    """
    workspace.check_writable()
    with _locked(workspace.layout, name):
        yield
        try:
            _catch_up(workspace.layout, workspace.catalog, name)
        except OSError as error:
            _log.warning(
                "what was done to the aliases of %s is done, but could not be added to %s (%s); the next change of "
                "one of them adds it, or `casstore gc`",
                name, workspace.layout.alias_log(name), error.strerror or error,
            )  # fmt: skip


def behind(workspace: Workspace) -> list[str]:
    """The names whose log lacks something that the catalog knows, as far as its end tells. Raises OSError."""
    layout, catalog = workspace.layout, workspace.catalog
    return [name for name in catalog.aliases.moved_names() if _lacking(layout, catalog, name)]


def catch_up(workspace: Workspace, name: str) -> None:
    """Add to the log of a name what it lacks. Raises OSError, StoreLocked."""
    with _locked(workspace.layout, name):
        _catch_up(workspace.layout, workspace.catalog, name)


def faults(workspace: Workspace, names: Iterable[str] | None = None) -> dict[str, str]:
    """By path of a log, what is wrong with it: damaged lines, and what only it or only the catalog says."""
    layout, found = workspace.layout, {}
    for name in sorted({*workspace.catalog.aliases.moved_names(), *logged_names(layout)} if names is None else names):
        with contextlib.nullcontext() if workspace.catalog.read_only else _locked(layout, name):
            fault = _fault(layout, workspace.catalog, name)
        if fault:
            found[str(layout.alias_log(name))] = fault
    return found


def write_again(workspace: Workspace, name: str) -> list[Path] | None:
    """Write the log of a name again from the catalog, where it is damaged or lacks something.

    Returns where in quarantine/ the old one is, if there was one; None where it was left alone, as one is that says
    more than the catalog. Raises OSError, StoreLocked.
    """
    layout, path = workspace.layout, workspace.layout.alias_log(name)
    with _locked(layout, name), workspace.session() as session:
        known = workspace.catalog.aliases.moves(name)
        if not _fault(layout, workspace.catalog, name) or _unknown(read(layout, name), known):
            return None
        kept = []
        with contextlib.suppress(FileNotFoundError):
            kept = [layout.quarantine / f"{new_id()}.{path.name}"]
            files.write_file(
                kept[0], _bytes(path), workspace.file_mode(executable=False), temporary=session.new_path(),
                durable=True,
            )  # fmt: skip
        files.make_directory(path.parent)
        files.make_file(path)
        mode = os.stat(path).st_mode & 0o777
        text = append_log.written(map(_document, known))
        files.write_file(path, text, mode, temporary=session.new_path(), durable=True)
        return [each for each in kept if each.exists()]


def copy(moves: Iterable[AliasMove], target: Layout, temporary: Path) -> None:
    """Have a backup hold the logs of these moves, and no others. Raises OSError."""
    texts: dict[str, list[AliasMove]] = {}
    for move in moves:
        texts.setdefault(move.name, []).append(move)
    for name, told in texts.items():
        path, text = target.alias_log(name), append_log.written(map(_document, told))
        if not path.exists() or _bytes(path) != text:
            files.make_directory(path.parent)
            files.make_file(path)
            mode = os.stat(path).st_mode & 0o777
            files.write_file(path, text, mode, temporary=temporary, durable=True)
            files.sync_directory(target.home)
    for name in logged_names(target) - texts.keys():
        files.remove_file(target.alias_log(name))


def logged_names(layout: Layout) -> set[str]:
    """The names that have a log."""
    paths = layout.aliases.glob(f"*{_SUFFIX}") if layout.aliases.is_dir() else ()
    return {path.name.removesuffix(_SUFFIX) for path in paths if is_part(path.name.removesuffix(_SUFFIX))}


def read(layout: Layout, name: str) -> Found:
    """What the log of a name says; a line that says what cannot be counts as damaged. Raises OSError."""
    lines = append_log.read(layout.alias_log(name))
    moves = [_parsed(name, document) for document in lines.documents]
    sound = [move for move in moves if move is not None]
    # What was added twice, since it was not known whether it had been, counts once.
    return Found(list({_said(move): move for move in sound}.values()), lines.damaged + len(moves) - len(sound))


def _locked(layout: Layout, name: str) -> Lock:
    lock = Lock(layout.alias_lock(name))
    what = f"what was done to the aliases of {name!r}"
    lock.check_not_mine(what)
    lock.acquire(what, timeout_s=_LOCK_TIMEOUT_S)
    return lock


def _catch_up(layout: Layout, catalog: Catalog, name: str) -> None:
    lacking = _lacking(layout, catalog, name)
    if lacking:
        append_log.append(layout.alias_log(name), map(_document, lacking))


def _lacking(layout: Layout, catalog: Catalog, name: str) -> list[AliasMove]:
    """What the catalog knows and the log lacks. Where the end of the log is as expected, no more of it is read."""
    last = append_log.last(layout.alias_log(name))
    end = None if last is None else _parsed(name, last)
    if end is not None:
        after = catalog.aliases.moves(name, end.number - 1)
        if after[:1] == [end]:
            return after[1:]
    known = catalog.aliases.moves(name)
    there = {_said(move) for move in read(layout, name).moves}
    return [move for move in known if _said(move) not in there]


def _fault(layout: Layout, catalog: Catalog, name: str) -> str:
    path = layout.alias_log(name)
    try:
        found = read(layout, name)
    except OSError as error:
        files.raise_unless_damage(error)
        return (
            f"{path} cannot be read: {error.strerror}; the catalog says what it said, and `casstore repair` writes it"
        )
    known = catalog.aliases.moves(name)
    there = {_said(move) for move in found.moves}
    unknown, lacking = _unknown(found, known), sum(_said(move) not in there for move in known)
    told = [
        *([f"{found.damaged:,} damaged lines"] if found.damaged else []),
        *([f"lacks {lacking:,} of what was done to aliases of {name}"] if lacking else []),
    ]
    if unknown:
        more = f"{unknown:,} lines that the catalog does not know, as where an older one was put back"
        return f"{path} has {' and '.join([*told, more])}; `casstore repair --rebuild-catalog` takes them in"
    return (
        f"{path} has {' and '.join(told)}; `casstore repair` writes it again".replace("has lacks", "lacks")
        if told
        else ""
    )


def _unknown(found: Found, known: Iterable[AliasMove]) -> int:
    """How many lines of a log say what the catalog does not know."""
    in_catalog = {_said(move) for move in known}
    return sum(_said(move) not in in_catalog for move in found.moves)


def _said(move: AliasMove) -> AliasMove:
    """What a move says, without its number: a new catalog may count otherwise where some are lost."""
    return move._replace(number=0)


def _document(move: AliasMove) -> dict[str, Any]:
    return {
        "number": move.number,
        "alias": move.alias,
        "action": move.action,
        "version": move.version,
        "digest": None if move.digest is None else move.digest.hex(),
        "protected": move.is_protected,
        "moved_at": move.moved_at_ns,
        "actor": move.actor,
        "reason": move.reason,
    }


def _parsed(name: str, document: Mapping[str, Any]) -> AliasMove | None:
    """The move that a line tells of; None where it tells of none."""
    try:
        digest = document["digest"]
        move = AliasMove(
            name, document["number"], document["alias"], document["action"], document["version"],
            None if digest is None else Digest.parse(digest), document["protected"], document["moved_at"],
            document["actor"], document["reason"],
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    is_sound = (
        type(move.number) is int
        and 0 < move.number < 1 << 62
        and type(move.moved_at_ns) is int
        and abs(move.moved_at_ns) < 1 << 63
        and is_part(move.alias)
        and move.action in _ACTIONS
        and (move.version is None or is_part(move.version))
        and (move.version is None) == (move.digest is None)
        and type(move.is_protected) is bool
        and type(move.actor) is type(move.reason) is str
    )
    return move if is_sound else None


def _bytes(path: Path) -> bytes:
    return path.read_bytes()
