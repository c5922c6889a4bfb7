"""gc counts what it has removed, and in a dry run what it would; not what stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import casstore
from casstore.actions import keeping
from casstore.actions.saving import drafts as drafts_action
from tests.kit import Child, noise

BYTES = 100_000


@pytest.fixture
def figures(store: casstore.Store):
    """figures(step, ...): what gc counts in that step, and the bytes."""

    def run(name, **options):
        report = store.gc(**options)
        [step] = [step for step in report.steps if step.name == name]
        return step.count, step.freed_bytes, report.quarantine_bytes

    return run


@pytest.fixture
def overdue(store: casstore.Store):
    """overdue(seed): a kept draft whose time is up."""

    def run(seed):
        with contextlib.suppress(casstore.InvalidMetadata), store.create("m:v1") as draft:
            Path(draft.path, "w").write_bytes(noise(BYTES, seed))
            draft.metadata["loss"] = object()
        directory = store.drafts()[-1].directory
        (directory / "draft.json").unlink()
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 8 * 24 * 3600))
        directory.rename(directory.with_name(f"{moment}.{seed:06}Z-{directory.name[-8:]}"))
        return store.drafts()[seed]

    return run


@pytest.fixture
def immutable():
    """with immutable(path): a file that nobody can remove."""

    @contextlib.contextmanager
    def run(path):
        chattr = shutil.which("chattr")
        if chattr is None or subprocess.run([chattr, "+i", path], capture_output=True, check=False).returncode:
            pytest.skip("needs chattr")
        try:
            yield
        finally:
            for at in Path(path).parents[2].rglob(Path(path).name):
                subprocess.run([chattr, "-i", at], check=True)

    return run


def test_a_draft_that_another_process_has_is_not_removed(store: casstore.Store, overdue, figures) -> None:
    mine, _ = overdue(0), overdue(1)
    with drafts_action.held(store._workspace, mine):
        assert figures("quarantine", dry_run=True) == (1, BYTES, BYTES)
        assert figures("quarantine") == (1, BYTES, BYTES)
        assert figures("quarantine") == (0, 0, BYTES)
        assert store.drafts() == [mine]
    assert figures("quarantine", dry_run=True) == (1, BYTES, 0)
    assert figures("quarantine") == (1, BYTES, 0)
    assert [name for name in os.listdir(store.home / "locks") if "draft" in name] == []


def test_a_lock_that_nobody_holds_keeps_no_draft(store: casstore.Store, overdue, figures) -> None:
    """As a process leaves it that is killed while it saves one."""
    kept = overdue(0)
    lock = store.home / "locks" / f".draft-{kept.id}.lock"
    lock.touch()
    assert figures("quarantine", dry_run=True) == (1, BYTES, 0)
    assert store.drafts() == [kept]
    lock.touch()
    assert figures("quarantine") == (1, BYTES, 0)
    assert not lock.exists()


def test_a_file_that_cannot_be_removed_from_quarantine(store: casstore.Store, figures, immutable) -> None:
    parent = store.home / "quarantine/strays"
    parent.mkdir(parents=True, exist_ok=True)
    old = parent / keeping.new_name()
    old = old.with_name("20200101T000000" + old.name[15:])
    old.mkdir()
    (old / "goes").write_bytes(noise(BYTES, 1))
    (old / "stays").write_bytes(noise(BYTES, 2))
    with immutable(old / "stays"):
        assert figures("quarantine", dry_run=True) == (2, 2 * BYTES, 0)
        assert figures("quarantine") == (1, BYTES, BYTES)
        assert figures("quarantine") == (0, 0, BYTES)
    assert figures("quarantine") == (1, BYTES, 0)


def test_a_session_that_cannot_be_reaped(store: casstore.Store, home: Path, figures, immutable) -> None:
    def die():
        session = casstore.Store(home)._workspace.session()
        (session.path / "goes").write_bytes(noise(BYTES, 1))
        (session.path / "stays").write_bytes(noise(BYTES, 2))
        os._exit(0)

    before = set((home / "sessions").iterdir())
    assert Child(die).wait() == 0
    [path] = {path for path in set((home / "sessions").iterdir()) - before if path.is_dir()}
    with immutable(path / "stays"):
        assert figures("dead sessions", dry_run=True)[:2] == (1, 2 * BYTES)
        assert figures("dead sessions")[:2] == (0, BYTES)
        assert figures("dead sessions")[:2] == (0, 0)
    assert figures("dead sessions")[:2] == (1, BYTES)
