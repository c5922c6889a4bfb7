"""Automatic gc: when saves start it, when they do not, and that no save waits for it or fails through it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

import casstore
from casstore.actions.gc import autogc
from casstore.catalog import upkeep
from casstore.storage.locks import Lock
from tests.kit import Age, Sql, contents, noise, plant, script

# The fixture of all tests that keeps saves from starting gc replaces the name in the module.
START_IF_DUE = autogc.start_if_due
MIB = 1 << 20
TEN_MINUTES_NS = 600 * 10**9
pytestmark = pytest.mark.usefixtures("no_trash")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The homes for which saves have started gc; none really runs. A MiB is much here."""
    homes: list[Path] = []
    monkeypatch.setattr(autogc, "start_if_due", START_IF_DUE)
    monkeypatch.setattr(autogc, "start", homes.append)
    monkeypatch.setattr(autogc, "SOME_BYTES", MIB)
    return homes


@pytest.fixture
def save(store: casstore.Store, sql: Sql):
    """save(tag, size): a version of that size, long after another was saved."""

    def run(tag: str, size: int = 1000, into: casstore.Store = store, *, soon: bool = False) -> casstore.Model:
        if not soon:
            sql("UPDATE store SET value = value - ? WHERE key = 'auto_gc_at'", (TEN_MINUTES_NS,))
        with into.create(tag, durability="relaxed") as draft:
            plant(draft.path, {"w.bin": noise(size, hash(tag) % 1000)})
        return draft.model

    return run


def waste(store: casstore.Store, save: Callable[..., casstore.Model]) -> None:
    save("waste:1", 2 * MIB)
    store.delete("waste:1")


def test_a_save_that_leaves_little_starts_nothing(store: casstore.Store, save, started) -> None:
    save("m:1", 2 * MIB)
    save("m:2", 2 * MIB)
    assert started == []


def test_deleted_versions_are_worth_it(store: casstore.Store, save, started, home: Path) -> None:
    waste(store, save)
    save("m:2")
    assert started == [home]


def test_deleted_versions_that_an_earlier_gc_had_seen_are_worth_it(
    store: casstore.Store, save, started, home: Path
) -> None:
    save("m:1", 2 * MIB)
    store.gc()
    store.delete("m:1")
    save("m:2")
    assert started == [home]
    store.gc()
    save("m:3")
    assert started == [home], "gc has taken it"


def test_what_is_little_beside_the_store_is_not_worth_it(store: casstore.Store, save, started) -> None:
    save("m:1", 12 * MIB)
    store.gc()
    waste(store, save)
    save("m:2")
    assert started == []


def test_what_is_much_is_worth_it_in_any_store(
    store: casstore.Store, save, started, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autogc, "MUCH_BYTES", MIB)
    save("m:1", 12 * MIB)
    store.gc()
    waste(store, save)
    save("m:2")
    assert started == [home]


def test_idle_directories_are_worth_it(store: casstore.Store, save, started, home: Path, age: Age) -> None:
    save("m:1", 2 * MIB)
    save("m:2", 2 * MIB)
    age(30)
    save("n:1")
    assert started == [home]
    store.gc()
    save("n:2")
    assert started == [home]


@pytest.mark.parametrize("keep", ["pin", "path", "keep_days", "materialize"])
def test_directories_that_must_stay_are_not(store: casstore.Store, save, started, age: Age, keep) -> None:
    save("m:1", 2 * MIB)
    save("m:2", 2 * MIB)
    if keep == "pin":
        store.pin("m:1")
    elif keep == "path":
        assert store.get("m:1").path
    else:
        store.set_setting(keep, {"keep_days": "100", "materialize": "all"}[keep])
    age(30)
    save("n:1")
    assert started == []


def test_what_gc_could_not_take_is_not_worth_another(
    store: casstore.Store, save, started, age: Age, home: Path
) -> None:
    save("m:1", 2 * MIB)
    save("m:2", 2 * MIB)
    (home / "models/m/1/notes.txt").write_bytes(b"mine")
    age(30)
    save("n:1")
    assert started == [home]
    assert store.gc(auto=True).altered == (casstore.Tag("m", "1"),)
    save("n:2")
    assert started == [home]
    assert store.gc(auto=True).steps == ()


def test_it_can_be_switched_off(store: casstore.Store, save, started, home: Path) -> None:
    store.set_setting("auto_gc", "off")
    waste(store, save)
    save("m:1")
    assert started == []
    assert store.gc(auto=True).steps == ()
    with casstore.Store(home, auto_gc=True) as other:
        save("m:2", into=other)
    assert started == []
    store.set_setting("auto_gc", None)
    with casstore.Store(home, auto_gc=False) as other:
        save("m:3", into=other)
        assert other.gc(auto=True).steps == ()
    assert started == []
    save("m:4")
    assert started == [home]


def test_it_is_considered_once_in_ten_minutes(store: casstore.Store, save, started, home: Path, sql: Sql) -> None:
    waste(store, save)
    save("m:1")
    assert started == [home]
    for number in range(2, 5):
        save(f"m:{number}", soon=True)
    assert started == [home]
    save("m:5")
    assert started == [home, home]
    sql("UPDATE store SET value = value + ? WHERE key = 'auto_gc_at'", (100 * TEN_MINUTES_NS,))
    save("m:6", soon=True)
    assert started == [home, home, home], "a clock that was set back does not put it off for good"


def test_of_many_savers_one_starts_it(
    store: casstore.Store, save, started, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waste(store, save)
    save("m:0")
    started.clear()
    seen = store._workspace.catalog.upkeep.considered_at_ns()
    barrier = threading.Barrier(4)
    claims = []

    def claim():
        with casstore.Store(home) as other:
            barrier.wait()
            claims.append(other._workspace.catalog.upkeep.claim(seen, seen + 1))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == [False, False, False, True] or not any(claims)
    # Those that met another writer gave up rather than wait; nobody has claimed what another had.
    assert sum(claims) == (store._workspace.catalog.upkeep.considered_at_ns() == seen + 1)


def test_a_claim_waits_for_no_other_writer(store: casstore.Store, save, started, home: Path) -> None:
    waste(store, save)
    seen = store._workspace.catalog.upkeep.considered_at_ns()
    other = apsw.Connection(str(home / "catalog.db"))
    other.execute("BEGIN IMMEDIATE")
    assert not store._workspace.catalog.upkeep.claim(seen, seen + 1)
    other.execute("ROLLBACK")
    other.close()
    assert store._workspace.catalog.upkeep.claim(seen, seen + 1)
    assert not store._workspace.catalog.upkeep.claim(seen, seen + 2)


@pytest.mark.parametrize("failing", [(autogc, "start"), (upkeep.Upkeep, "growth"), (upkeep.Upkeep, "considered_at_ns")])
@pytest.mark.parametrize("error", [OSError(11, "no process can be had"), casstore.StoreLocked("busy")])
def test_a_save_does_not_fail_through_it(
    store: casstore.Store, save, started, monkeypatch: pytest.MonkeyPatch, failing, error
) -> None:
    owner, name = failing
    waste(store, save)
    tried = []

    def fail(*_):
        tried.append(name)
        raise error

    monkeypatch.setattr(owner, name, fail)
    assert contents(save("m:1", 5000))
    assert tried == [name]


def test_only_a_saved_version_starts_it(store: casstore.Store, save, started) -> None:
    waste(store, save)
    started.clear()
    with pytest.raises(casstore.TagExists):
        save("m:1") and save("m:1")
    started.clear()
    with pytest.raises(RuntimeError), store.create("m:2"):
        raise RuntimeError
    assert started == []


def test_auto_looks_again_whether_it_is_due(store: casstore.Store, save, started) -> None:
    assert store.gc(auto=True).steps == ()
    waste(store, save)
    assert store.gc(auto=True).freed_bytes >= 2 * MIB
    assert store.gc(auto=True).steps == ()


def test_two_never_run_at_once(store: casstore.Store, save, started, home: Path) -> None:
    waste(store, save)
    lock = Lock(home / "locks/.gc.lock")
    assert lock.try_acquire()
    assert store.gc(auto=True).steps == (), "quietly, where gc raises StoreLocked"
    with pytest.raises(casstore.StoreLocked):
        store.gc()
    lock.release()
    assert store.gc(auto=True).steps != ()


def test_the_process_that_is_started_is_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Process:
        def __init__(self, command, **options):
            calls.append((command, options))

        def poll(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(autogc, "_started", [])
    autogc.start(home)
    [(command, options)] = calls
    assert command == [sys.executable, "-m", "casstore.cli", "gc", "--auto", "--home", str(home)]
    assert options["start_new_session"] is True
    assert options["cwd"] == "/"
    assert {options[stream] for stream in ("stdin", "stdout", "stderr")} == {subprocess.DEVNULL}


@pytest.mark.parametrize("executable", ["", "/opt/app/app", None])
def test_a_program_with_python_built_in_is_not_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, executable
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    autogc.start(home)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    autogc.start(home)


SAVE_AND_LEAVE = """
import sys, casstore
from casstore.actions.gc import autogc
with casstore.Store(sys.argv[1]) as store:
    store.save("m:1", sys.argv[2], durability="relaxed")
print(len(autogc._started))
"""


def test_a_save_starts_a_gc_that_outlives_its_process(home: Path, tmp_path: Path) -> None:
    """With nothing replaced: what is deleted is a hole of 300 MiB, which costs no disk here."""
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(300 * MIB)
    (tmp_path / "small").write_bytes(b"small")
    with casstore.Store(home) as store:
        store.save("zeros:1", tmp_path / "zeros", move=True, durability="relaxed")
        store.delete("zeros:1")
    loose = [path for path in (home / "objects/loose").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in loose) >= 300 * MIB
    done = script(SAVE_AND_LEAVE, home, tmp_path / "small", before=("env",))
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    deadline = time.monotonic() + 300
    while any(path.exists() for path in loose) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in loose)
    lock = Lock(home / "locks/.gc.lock")
    lock.acquire("gc")  # until it has ended
    lock.release()
    with casstore.Store(home) as store:
        assert store.tags() == ["m:1"]
        assert store.verify().is_sound
    assert os.listdir(home / "sessions") == []
