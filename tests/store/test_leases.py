"""Leases: who has been given a directory keeps gc away from it, for as long as its process lives."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.storage import sessions
from tests.kit import Child, Picture, Sql, plant, script

FILES = {"a.txt": b"a", "w.bin": b"w" * 100_000}


@pytest.fixture
def model(store: casstore.Store):
    with store.create("m:1") as draft:
        plant(draft.path, FILES)
    return draft.model


@pytest.fixture
def evict(home: Path):
    """evict(): take away what may go; returns how many directories went."""

    def run():
        with casstore.Store(home) as other:
            return {step.name: step.count for step in other.gc(evict_all=True).steps}["idle directories"]

    return run


@pytest.fixture
def leases(sql: Sql):
    return lambda: sql("SELECT version_id, session FROM lease")


def test_a_path_that_was_handed_out_is_held_until_the_store_is_closed(
    store: casstore.Store, model, evict, leases
) -> None:
    assert leases() == []
    path = model.path
    assert len(leases()) == 1
    assert evict() == 0
    assert os.path.exists(path)
    store.close()
    assert evict() == 1
    assert not os.path.exists(path)
    assert leases() == []
    assert model.path == path, "a closed store can be used again"
    assert evict() == 0


def test_only_paths_are_leased(store: casstore.Store, model, evict, leases) -> None:
    assert store.get("m:1").files
    with store.get("m:1").open("a.txt") as file:
        assert file.read() == b"a"
        assert leases() == []
        assert evict() == 1


def test_a_repeated_path_writes_nothing(store: casstore.Store, model, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = apsw.Connection.execute

    class Connection(apsw.Connection):
        def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            if statements.startswith("BEGIN IMMEDIATE"):
                written.append(statements)
            return real(self, statements, *args, **kwargs)

    monkeypatch.setattr(apsw, "Connection", Connection)
    with casstore.Store(store.home) as other:
        assert other.get("m:1").path
        assert len(written) == 1, "the lease and the time of use in one transaction"
        for _ in range(5):
            assert other.get("m:1").path == model.path
        assert len(written) == 1


def test_the_time_of_use_is_recorded_once_an_hour(
    store: casstore.Store, model, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened():
        return sql("SELECT opened_at FROM version")[0][0]

    hour = 3600 * 10**9
    start = time.time_ns()
    now = [start]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    assert opened() is None
    assert model.path
    assert opened() == start
    for minutes, expected in ((30, start), (61, start + 61 * hour // 60), (100, start + 61 * hour // 60)):
        now[0] = start + minutes * hour // 60
        assert model.path, "with what it knew when it was got"
        assert opened() == expected
    now[0] = start - 1000 * hour
    assert model.path
    assert opened() == now[0], "a time far ahead of the clock is put right"


def test_a_use_that_another_process_recorded_is_not_recorded_again(store: casstore.Store, model, sql: Sql) -> None:
    assert model.path
    before = sql("SELECT opened_at FROM version")
    with casstore.Store(store.home) as other:
        assert other.get("m:1").path
    assert sql("SELECT opened_at FROM version") == before


def test_stores_of_one_process_share_a_session(store: casstore.Store, model, home: Path, leases) -> None:
    others = [casstore.Store(home) for _ in range(5)]
    for each in (store, *others):
        assert each.get("m:1").path
    assert len(leases()) == 1
    assert len(os.listdir(home / "sessions")) == 2, "a directory and its lock"
    for each in others:
        each.close()
    assert len(os.listdir(home / "sessions")) == 2
    store.close()
    assert os.listdir(home / "sessions") == []


def test_a_store_that_is_never_closed_holds_on(home: Path, model, evict, store: casstore.Store) -> None:
    """As in `path = Store().get("m").path`: the store is gone at once, the path in use."""
    for _ in range(50):
        assert casstore.Store(home).get("m:1").path
    store.close()
    assert evict() == 0
    assert len(os.listdir("/proc/self/fd")) < 50 + 40
    sessions._process.begin()  # the process ends, as far as this store is concerned
    run = script(
        "import casstore, sys, os\n"
        "for _ in range(200): path = casstore.Store(sys.argv[1]).get('m:1').path\n"
        "assert len(os.listdir('/proc/self/fd')) < 40\n"
        "import subprocess\n"
        "gc = [sys.executable, '-m', 'casstore.cli', 'gc', '--evict-all', '--home', sys.argv[1]]\n"
        "subprocess.run(gc, check=True)\n"
        "assert os.path.exists(path)\n",
        home,
    )
    assert run.returncode == 0, run.stderr


def test_a_killed_process_holds_nothing(store: casstore.Store, model, home: Path, reader, evict, leases) -> None:
    holder = reader("m:1", FILES)
    holder.wait_for_path()
    assert evict() == 0
    assert len(leases()) == 1
    assert holder.kill() == -9
    assert evict() == 1
    assert leases() == []
    assert os.listdir(home / "sessions") == []


def test_a_dry_run_knows_dead_leases_and_drops_none(
    store: casstore.Store, model, reader, picture: Picture, leases
) -> None:
    holder = reader("m:1", FILES)
    holder.wait_for_path()
    holder.kill()
    before = picture()
    plan = store.gc(dry_run=True, evict_all=True)
    assert {step.name: step.count for step in plan.steps}["idle directories"] == 1
    assert picture() == before


def test_opening_over_and_over_leaves_one_row(home: Path, model, leases) -> None:
    for _ in range(5):
        with casstore.Store(home) as other:
            assert other.get("m:1").path
    assert len(leases()) == 1


def test_a_forked_child_has_leases_of_its_own(store: casstore.Store, model, home: Path, evict, leases) -> None:
    path = model.path
    (mine,) = leases()

    def work():
        assert store.get("m:1").path == path
        rows = [row for row in leases() if row != mine]
        assert len(rows) == 1
        store.close()
        assert not (home / "sessions" / f"{rows[0][1]}.lock").exists()

    assert Child(work).wait() == 0
    assert (home / "sessions" / f"{mine[1]}.lock").exists(), "a child does not end what is its parent's"
    assert evict() == 0
    assert Child(store.close).wait() == 0
    assert evict() == 0
    store.close()
    assert evict() == 1


def test_a_child_that_was_forked_while_a_thread_takes_a_lease(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other thread has locked stays locked in the child, SQLite's own locks among it: it is told so."""
    for number in range(2):
        with store.create(f"m:{number}") as draft:
            plant(draft.path, FILES)
    inside, go_on = threading.Event(), threading.Event()
    real = sessions.join

    def join(layout, user):
        with sessions._process.guard:
            inside.set()
            assert go_on.wait(120)
        return real(layout, user)

    monkeypatch.setattr(sessions, "join", join)
    with ThreadPoolExecutor() as pool:
        held = pool.submit(lambda: store.get("m:0").path)
        assert inside.wait(120)
        monkeypatch.setattr(sessions, "join", real)

        def read():
            with pytest.raises(casstore.StoreError, match="close the store before forking"):
                store.get("m:1")

        forked = Child(read)
        code = None
        deadline = time.monotonic() + 120
        while code is None and time.monotonic() < deadline:
            pid, status = os.waitpid(forked.pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if pid else None
            time.sleep(0.01)
        go_on.set()
        assert held.result()
    if code is None:
        forked.kill()
    assert code == 0


def test_many_threads_take_leases_at_once(store: casstore.Store, evict, leases) -> None:
    for number in range(4):
        with store.create(f"m:{number}", durability="relaxed") as draft:
            plant(draft.path, FILES)
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda number: store.get(f"m:{number % 4}").path, range(64)))
    assert len(set(paths)) == len(leases()) == 4
    assert len({session for _, session in leases()}) == 1
    assert evict() == 0
    assert all(map(os.path.exists, paths))


def test_a_lease_stands_before_the_directory_is_looked_at(
    store: casstore.Store, model, monkeypatch: pytest.MonkeyPatch, leases
) -> None:
    from casstore.actions.directories.standing import Standing

    seen = []
    real = Standing.is_whole
    monkeypatch.setattr(Standing, "is_whole", lambda *args: seen.append(leases()) or real(*args))
    assert model.path
    assert seen
    assert all(len(rows) == 1 for rows in seen)


def test_a_deleted_version_takes_its_leases_along(store: casstore.Store, model, leases) -> None:
    assert model.path
    store.delete("m:1")
    assert leases() == []
    with pytest.raises(casstore.TagNotFound):
        _ = model.path
    assert leases() == []


def test_a_store_made_anew_at_the_same_place(home: Path, evict, leases) -> None:
    """What was held of the old one is nothing to the new."""
    import shutil

    held = []
    for _ in range(2):
        held.append(casstore.Store(home))
        with held[-1].create("m:1") as draft:
            plant(draft.path, FILES)
        assert Path(draft.model.path, "a.txt").exists()
        assert evict() == 0
        held[0]._workspace.catalog.close()
        if len(held) == 1:
            shutil.rmtree(home)
    for each in held:
        each.close()
    assert evict() == 1


def test_a_full_disk_does_not_keep_a_standing_directory_from_being_read(
    store: casstore.Store, model, monkeypatch: pytest.MonkeyPatch, leases
) -> None:
    def take(*_args, **_kwargs):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("casstore.catalog.leases.Leases.take", take)
    assert Path(model.path, "a.txt").read_bytes() == b"a"
    monkeypatch.undo()
    assert leases() == []
    assert model.path
    assert len(leases()) == 1, "it is taken as soon as there is room"
