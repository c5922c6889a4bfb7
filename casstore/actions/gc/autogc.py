"""Automatic gc: a save after which gc could free much starts `casstore gc --auto`, and does not wait for it."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from casstore.actions.directories.evict import eviction_rule, unleased
from casstore.actions.registry import trash
from casstore.actions.workspace import Workspace

# A check costs a commit and, with 10,000 versions, some milliseconds; a gc may as well come ten minutes later.
_CHECK_EVERY_NS = 600 * 1_000_000_000
# A gc reads and compresses what it packs, for seconds per GiB. That is worthwhile if it frees much, or much of a small
# store; below a quarter of a GiB it never matters to a disk.
MUCH_BYTES = 1 << 30
SOME_BYTES = 256 << 20
SHARE = 0.2

_log = logging.getLogger(__name__)
_started: list[subprocess.Popen[bytes]] = []


def is_on(workspace: Workspace) -> bool:
    """Whether gc may run by itself: both the setting and the caller that opened the store must allow it."""
    return workspace.auto_gc and workspace.catalog.setting("auto_gc") == "on"


def start_if_due(workspace: Workspace) -> None:
    """Start gc in a process of its own if it is on, is worthwhile, and was not considered in the last ten minutes.

    To be called after a commit. Waits for nothing. Raises OSError and CasstoreError; then nothing has changed.
    """
    _started[:] = [process for process in _started if process.poll() is None]
    if not workspace.auto_gc:
        return
    seen, now = workspace.catalog.upkeep.considered_at_ns(), time.time_ns()
    is_due = abs(now - seen) >= _CHECK_EVERY_NS
    if is_due and is_on(workspace) and workspace.catalog.upkeep.claim(seen, now) and is_worthwhile(workspace):
        _log.info("much space can be given back: gc is started in the background")
        start(workspace.layout.home)


def is_worthwhile(workspace: Workspace) -> bool:
    """Whether gc could give much back: an upper estimate, since versions share and packing only compresses."""
    growth = workspace.catalog.upkeep.growth()
    # What the last gc could have evicted and did not, the next will not evict either: mostly altered directories.
    evictable = max(0, _evictable_bytes(workspace) - growth.left_bytes)
    deleted_bytes = growth.deleted_bytes + trash.due(workspace).size
    reclaimable = min(deleted_bytes, growth.stored_bytes) + min(evictable, growth.loose_bytes)
    return reclaimable >= MUCH_BYTES or reclaimable >= max(SOME_BYTES, SHARE * growth.stored_bytes)


def note_collected(workspace: Workspace, deleted_bytes: int) -> None:
    """Record that gc has run, for the next estimate. `deleted_bytes`: `upkeep.deleted_bytes()` when it began."""
    workspace.catalog.upkeep.note_collected(deleted_bytes, _evictable_bytes(workspace))


def _evictable_bytes(workspace: Workspace) -> int:
    """The bytes of the versions whose directories gc would take away now, as if they shared nothing with others."""
    rule = eviction_rule(workspace, evict_all=False)
    if rule is None:
        return 0
    return sum(candidate.size for candidate in unleased(workspace, workspace.catalog.directories.candidates(rule)))


def start(home: Path) -> None:
    """Start `casstore gc --auto` detached: without a terminal, in another directory, and without waiting for it."""
    # If Python is embedded in another program, sys.executable is that program, or empty.
    if getattr(sys, "frozen", False) or not os.path.basename(sys.executable or "").startswith(("python", "pypy")):
        return
    _started.append(
        subprocess.Popen(
            [sys.executable, "-m", "casstore.cli", "gc", "--auto", "--home", str(home)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", start_new_session=True,
        )
    )  # fmt: skip


@atexit.register
def _leave_to_init() -> None:
    """Forget the gc processes that still run: they may outlive this process, of which Popen would warn."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0
