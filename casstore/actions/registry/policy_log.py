"""The log of policies, `policies.log`: what the catalog knows of them, for when it must be made again.

The catalog is the truth while it stands. A change is committed there first, and is in the log before the call returns.
Each line says what all policies are from then on. So a damaged line brings no policy back that was replaced or taken
away after it was written: where the last line is damaged, none is known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casstore.actions.workspace import Workspace
from casstore.storage import append_log, files, machine
from casstore.storage.layout import Layout, new_id
from casstore.storage.locks import Lock

_log = logging.getLogger(__name__)
_LOCK_TIMEOUT_S = 60.0
_MOST_BYTES = 1 << 30
Policies = dict[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Told:
    """What the log says: the policies by pattern, None where that cannot be told, and how many lines are damaged."""

    policies: Policies | None
    damaged: int


@contextlib.contextmanager
def changing(workspace: Workspace) -> Iterator[None]:
    """For a block that changes policies in the catalog: they are in the log at its end.

    Where that fails, the change stands all the same, and a warning says so. Raises StoreLocked, StoreUnwritable.
    """
    workspace.check_writable()
    with _locked(workspace.layout):
        yield
        try:
            _catch_up(workspace)
        except OSError as error:
            _log.warning(
                "the policies are changed, but %s does not say so (%s); the next change of one adds that, or "
                "`casstore gc`",
                workspace.layout.policies, error.strerror or error,
            )  # fmt: skip


def catch_up(workspace: Workspace) -> None:
    """Add what the log lacks, since a crash or a full disk came between. Raises OSError, StoreLocked."""
    if not _is_current(workspace):
        with _locked(workspace.layout):
            _catch_up(workspace)


def read(layout: Layout) -> Told:
    """What the log says; no policies where there is none. Raises OSError."""
    lines = append_log.read(layout.policies)
    found = [policies for each in lines.documents if (policies := _parsed(each)) is not None]
    damaged = lines.damaged + len(lines.documents) - len(found)
    if damaged and not _is_last_sound(layout.policies, lines.documents):
        return Told(None, damaged)
    return Told(found[-1] if found else {}, damaged)


def fault(workspace: Workspace) -> str:
    """What is wrong with the log, in words; empty where nothing is."""
    path = workspace.layout.policies
    try:
        told = read(workspace.layout)
    except OSError as error:
        files.raise_unless_damage(error)
        return f"{path} cannot be read: {error.strerror}; `casstore repair` writes it from the catalog"
    if told.damaged:
        return f"{path} has {told.damaged:,} damaged lines; `casstore repair` writes it again"
    return "" if _is_current(workspace) else f"{path} does not say what the policies are; `casstore repair` adds that"


def write_again(workspace: Workspace) -> Path | None:
    """Write the log again from the catalog where it is damaged, and add what it lacks.

    Returns where in quarantine/ a damaged one is. Raises OSError, StoreLocked.
    """
    layout = workspace.layout
    with _locked(layout):
        kept = None
        if _is_damaged(layout):
            kept = layout.quarantine / f"{new_id()}.{layout.policies.name}"
            files.rename(layout.policies, kept)
        _catch_up(workspace)
        return kept


def _is_damaged(layout: Layout) -> bool:
    try:
        return read(layout).damaged > 0
    except OSError as error:
        files.raise_unless_damage(error)
        return True


def copy(source: Layout, target: Layout, temporary: Path) -> None:
    """Have a backup hold the log of its store. Raises OSError."""
    try:
        text = files.read_file(source.policies, _MOST_BYTES)
        mode = stat.S_IMODE(os.stat(source.policies).st_mode)
    except FileNotFoundError:
        files.remove_file(target.policies)
        return
    files.write_file(target.policies, text, mode, temporary=temporary, durable=True)


def _locked(layout: Layout) -> Lock:
    lock = Lock(layout.policies_lock)
    lock.acquire("the policies", timeout_s=_LOCK_TIMEOUT_S)
    return lock


def _known(workspace: Workspace) -> Policies:
    return dict(workspace.catalog.retention.policies())


def _is_current(workspace: Workspace) -> bool:
    known = _known(workspace)
    return (not known and not workspace.layout.policies.exists()) or read(workspace.layout).policies == known


def _catch_up(workspace: Workspace) -> None:
    if not _is_current(workspace):
        document = {"policies": _known(workspace), "set_at": time.time_ns(), "actor": machine.who()}
        append_log.append(workspace.layout.policies, [document])


def _parsed(document: Mapping[str, Any]) -> Policies | None:
    policies = document.get("policies")
    is_sound = isinstance(policies, dict) and all(isinstance(rules, dict) for rules in policies.values())
    return policies if is_sound else None


def _is_last_sound(path: Path, documents: list[dict[str, Any]]) -> bool:
    """Whether the last line of a log with damaged lines is not one of them."""
    last = files.read_file(path, _MOST_BYTES).rstrip(b"\n").rpartition(b"\n")[2]
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(last)
        if isinstance(said, dict) and documents and _parsed(documents[-1]) is not None:
            said.pop("check", None)
            return said == documents[-1]
    return False
