"""Eviction: gc takes directories away that nobody uses, never one in use, and nothing that it did not make."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import casstore
from casstore.actions.workspace import Workspace
from casstore.catalog.directories import Directories
from casstore.storage import files as storage_files
from casstore.storage.locks import Lock
from tests.kit import Age, Child, Leftovers, Picture, Sql, contents, counts, known, plant

FILES = {"w.bin": b"weights" * 30_000, "sub/small.txt": b"small", "run": b"#!/bin/sh"}
SMALL_BYTES = len(b"small") + len(b"#!/bin/sh")


@pytest.fixture
def save(store: casstore.Store):
    def run(*tags):
        for tag in tags:
            with store.create(tag) as draft:
                plant(draft.path, {**FILES, "run!": FILES["run"], "hollow": None, "tag": tag.encode()})

    return run


@pytest.fixture
def standing(home: Path):
    """standing(): the tags whose directories stand."""
    return lambda: sorted(f"{p.parent.name}:{p.name}" for p in (home / "models").glob("*/*") if p.is_dir())


@dataclass(frozen=True)
class Idle:
    """A store that saves, gets older, and tells which directories stand and what is left over."""

    save: Callable[..., None]
    age: Age
    standing: Callable[[], list[str]]
    leftovers: Leftovers


@pytest.fixture
def idle(save, age: Age, standing, leftovers: Leftovers) -> Idle:
    return Idle(save, age, standing, leftovers)


def step(report):
    return next(step for step in report.steps if step.name == "idle directories")


def test_old_directories_go_and_versions_stay(
    store: casstore.Store, home: Path, save, age: Age, standing, sql: Sql
) -> None:
    save("m:1", "m:2", "m:3", "n:1")
    age(30)
    before = {tag: contents(store.get(tag)) for tag in ("m:1", "m:2", "m:3")}
    store.close()
    age(30)
    report = store.gc()
    assert step(report).count == 2
    assert standing() == ["m:3", "n:1"]
    assert (home / "models/m/latest").read_text() == "3"
    assert sql("SELECT count(*) FROM directory") == [(2,)]
    assert store.verify().is_sound
    assert {tag: contents(store.get(tag)) for tag in before} == before
    assert standing() == ["m:1", "m:2", "m:3", "n:1"]
    assert (home / "models/m/latest").read_text() == "3"
    assert step(store.gc()).count == 0


def test_opening_and_saving_keep_a_directory_for_some_days(store: casstore.Store, save, age: Age, standing) -> None:
    save("m:1", "m:2", "m:3")
    age(8)
    assert store.get("m:1").path
    store.close()
    store.gc()
    assert standing() == ["m:1", "m:3"]
    age(6.9)
    store.gc()
    assert standing() == ["m:1", "m:3"]
    age(0.2)
    store.gc()
    assert standing() == ["m:3"]


@pytest.mark.parametrize(("days", "age_in_days", "goes"), [("0", 0, True), ("3", 2.9, False), ("3", 3.1, True)])
def test_how_many_days_is_a_setting(store: casstore.Store, days, age_in_days, goes, idle: Idle) -> None:
    idle.save("m:1", "m:2")
    store.set_setting("keep_days", days)
    idle.age(age_in_days)
    store.gc()
    assert idle.standing() == (["m:2"] if goes else ["m:1", "m:2"])


def test_the_longest_time_to_keep_is_no_overflow(store: casstore.Store, save, age: Age, standing) -> None:
    save("m:1", "m:2")
    store.set_setting("keep_days", "36500")
    age(20_000)
    store.gc()
    assert standing() == ["m:1", "m:2"]


@pytest.mark.parametrize(("ahead", "goes"), [(3, False), (1000, True)])
@pytest.mark.parametrize("column", ["created_at", "ordered_at", "opened_at"])
def test_times_ahead_of_the_clock(store: casstore.Store, sql: Sql, column, ahead, goes, idle: Idle) -> None:
    """A clock that was set back a little keeps what is recent; one that was years ahead keeps nothing for good."""
    idle.save("m:1", "m:2")
    idle.age(30)
    moment = time.time_ns() + ahead * 24 * 3600 * 10**9
    sql(f"UPDATE version SET {column} = ? WHERE version = '1'", (moment,))
    sql("UPDATE version SET ordered_at = ? WHERE version = '2'", (moment + 10**15,))
    store.gc()
    assert idle.standing() == (["m:2"] if goes else ["m:1", "m:2"])


def test_all_of_them(store: casstore.Store, home: Path, save, standing, reader) -> None:
    save("m:1", "m:2", "n:1", "n:2")
    store.pin("n:1")
    holder = reader("n:2", FILES)
    holder.wait_for_path()
    assert step(store.gc(evict_all=True)).count == 2
    assert standing() == ["n:1", "n:2"]
    assert (home / "models/m/latest").read_text() == "2"
    holder.end()
    assert contents(store.get("m"))["tag"] == b"m:2"


def test_a_store_that_keeps_all(store: casstore.Store, save, age: Age, standing) -> None:
    store.set_setting("materialize", "all")
    save("m:1", "m:2")
    age(100)
    assert step(store.gc()).count == 0
    assert standing() == ["m:1", "m:2"]
    assert step(store.gc(evict_all=True)).count == 2, "what is asked for is done"
    assert standing() == []


def test_bytes_that_come_back_are_those_without_another_link(store: casstore.Store, save, age: Age, home: Path) -> None:
    save("m:1", "m:2")
    age(30)
    alone = [p for p in (home / "models/m/1").rglob("*") if p.is_file() and p.stat().st_nlink == 1]
    assert {path.name for path in alone} == {"small.txt", "run", "tag", "model.yaml"}
    expected = sum(path.stat().st_size for path in alone)
    assert step(store.gc(dry_run=True)).freed_bytes == expected
    assert step(store.gc()).freed_bytes == expected


def test_bytes_that_come_back_from_copies(store: casstore.Store, save, age: Age) -> None:
    store.set_setting("link_mode", "copy")
    save("m:1", "m:2")
    age(30)
    assert step(store.gc()).freed_bytes > len(FILES["w.bin"])


def test_a_dry_run_changes_nothing(store: casstore.Store, save, age: Age, picture: Picture, reader, home: Path) -> None:
    save("m:1", "m:2", "m:3", "m:4", "m:5", "m:6")
    age(30)
    store.pin("m:2")
    (home / "models/m/3/mine").write_bytes(b"mine")
    holder = reader("m:4", FILES)
    holder.wait_for_path()
    for evict_all, count in ((False, 2), (True, 3)):
        before = picture()
        plan = step(store.gc(dry_run=True, evict_all=evict_all))
        assert picture() == before
        assert (plan.count, plan.skipped) == (count, 1)
    done = step(store.gc(evict_all=True))
    assert (done.count, done.skipped, done.freed_bytes) == (plan.count, plan.skipped, plan.freed_bytes)
    holder.end()


@pytest.mark.usefixtures("no_trash")
def test_a_dry_run_counts_what_a_killed_gc_left_once(store: casstore.Store, save, sql: Sql, picture: Picture) -> None:
    save("m:1", "m:2")
    sql("UPDATE directory SET evicting = 1")
    shutil.rmtree(store.home / "models/m/1")
    before = picture()
    plan = store.gc(dry_run=True, evict_all=True)
    assert picture() == before
    done = store.gc(evict_all=True)
    assert [s.count for s in plan.steps] == [s.count for s in done.steps]
    assert (counts(done)["unfinished work"], counts(done)["idle directories"]) == (2, 1)


def _add_a_file(root):
    (root / "sub/notes.txt").write_bytes(b"mine")


def _add_a_hidden_file(root):
    (root / ".notes").write_bytes(b"mine")


def _add_a_directory(root):
    (root / "hollow/mine").mkdir()


def _add_a_link(root):
    (root / "link").symlink_to("/etc")


def _alter_a_file(root):
    (root / "sub/small.txt").chmod(0o644)
    (root / "sub/small.txt").write_bytes(b"SMALL")


def _replace_a_file(root):
    (root / "run").unlink()
    (root / "run").write_bytes(FILES["run"])


def _replace_a_file_with_a_directory(root):
    (root / "run").unlink()
    (root / "run").mkdir()


def _remove_a_file(root):
    (root / "run").unlink()


def _remove_a_directory(root):
    (root / "hollow").rmdir()


def _alter_the_descriptor(root):
    (root / "model.yaml").chmod(0o644)
    (root / "model.yaml").write_bytes(b"name: other")


def _replace_the_directory(root):
    shutil.copytree(root, root.parent.parent.parent.parent / "copy")
    shutil.rmtree(root)
    shutil.move(root.parent.parent.parent.parent / "copy", root)


def _replace_the_directory_with_a_link(root):
    shutil.move(root, root.parent.parent.parent.parent / "elsewhere")
    root.symlink_to(root.parent.parent.parent.parent / "elsewhere")


def _replace_the_directory_with_a_file(root):
    shutil.rmtree(root)
    root.write_bytes(b"mine")


@pytest.mark.parametrize("evict_all", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        _add_a_file, _add_a_hidden_file, _add_a_directory, _add_a_link, _alter_a_file, _replace_a_file,
        _replace_a_file_with_a_directory, _remove_a_file, _remove_a_directory, _alter_the_descriptor,
        _replace_the_directory, _replace_the_directory_with_a_link, _replace_the_directory_with_a_file,
    ],
)  # fmt: skip
def test_what_somebody_has_changed_is_left_alone(
    store: casstore.Store, save, age: Age, change, evict_all, picture: Picture
) -> None:
    save("m:1", "m:2", "m:3")
    age(30)
    change(store.home / "models/m/1")
    if evict_all:
        shutil.rmtree(store.home / "models/m/3")  # gone already: nothing to evict
    before = picture()[0]
    report = store.gc(evict_all=evict_all)
    assert (step(report).count, step(report).skipped) == (1, 1)
    assert [str(tag) for tag in report.altered] == ["m:1"]
    after = picture()[0]
    gone = {name for name in before if name.startswith("models/m/2")}
    links = {name: (mode, "", digest) for name, (mode, _, digest) in before.items() if name not in gone}
    assert links == {name: (mode, "", digest) for name, (mode, _, digest) in after.items()}
    again = picture()
    assert step(store.gc(evict_all=evict_all)).skipped == 1
    assert picture() == again


def test_a_file_that_comes_between_the_mark_and_the_rename_is_left_alone(
    store: casstore.Store, home: Path, save, age: Age, monkeypatch: pytest.MonkeyPatch, standing
) -> None:
    save("m:1", "m:2")
    age(30)
    real = Directories.begin_eviction

    def begin_eviction(self, *args):
        begun = real(self, *args)
        (home / "models/m/1/just now").write_bytes(b"mine")
        return begun

    monkeypatch.setattr(Directories, "begin_eviction", begin_eviction)
    assert step(store.gc()).skipped == 1
    assert (home / "models/m/1/just now").read_bytes() == b"mine"
    assert store.get("m:1").path
    assert [path.read_bytes() for path in (home / "quarantine").rglob("just now")] == [b"mine"]


def test_directories_that_are_gone_already_are_forgotten(
    store: casstore.Store, home: Path, save, age: Age, sql: Sql
) -> None:
    save("m:1", "m:2")
    age(30)
    shutil.rmtree(home / "models/m")
    assert step(store.gc()).count == 0
    assert sql("SELECT version FROM directory JOIN version ON id = version_id") == [("2",)]
    assert contents(store.get("m:1"))


def test_many_of_one_name_go_in_batches(
    store: casstore.Store, home: Path, age: Age, standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casstore.actions.directories.evict._BATCH", 3)
    for number in range(10):
        with store.create(f"m:{number}", durability="relaxed") as draft:
            plant(draft.path, {"a": b"a"})
    age(30)
    assert step(store.gc(dry_run=True)).count == 9
    assert step(store.gc()).count == 9
    assert standing() == ["m:9"]


def test_a_name_that_is_busy_is_left_to_the_next_gc(store: casstore.Store, save, age: Age, standing) -> None:
    save("m:1", "m:2", "n:1", "n:2")
    age(30)
    lock = Lock(store.home / "locks/m.lock")
    assert lock.try_acquire()
    assert step(store.gc()).count == 1  # waiting for it would take an hour
    assert standing() == ["m:1", "m:2", "n:2"]
    lock.release()
    store.gc()
    assert standing() == ["m:2", "n:2"]


def test_a_models_directory_on_another_device(
    store: casstore.Store, home: Path, save, age: Age, standing, elsewhere: Path
) -> None:
    (home / "models").rmdir()
    (home / "models").symlink_to(elsewhere)
    save("m:1", "m:2")
    assert standing() == [], "no rename leads from a draft to another device"
    assert all(os.listdir(store.get(tag).path) for tag in ("m:1", "m:2"))
    store.close()
    age(30)
    assert step(store.gc()).count == 1
    assert os.listdir(home / "models/m") in (["2", "latest"], ["latest", "2"])
    assert contents(store.get("m:1"))["tag"] == b"m:1"


# Where gc can be met, or killed, while it evicts.
POINTS = (
    (Directories, "begin_eviction", "before"),
    (Directories, "begin_eviction", "after"),
    (Workspace, "set_aside", "before"),
    (Workspace, "set_aside", "after"),
    (Directories, "end_evictions", "before"),
    (Directories, "end_evictions", "after"),
    (storage_files, "remove_tree", "before"),
)
IDS = [f"{moment} {name}" for _, name, moment in POINTS]


def at_point(monkeypatch, point, action):
    """Have `action` called once, when gc comes to that point."""
    owner, name, moment = point
    real = getattr(owner, name)
    pending = [action]

    def wrapped(*args, **kwargs):
        if moment == "before" and pending:
            pending.pop()()
        result = real(*args, **kwargs)
        if moment == "after" and pending:
            pending.pop()()
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("then", ["gc", "get", "path", "delete"])
@pytest.mark.parametrize("point", POINTS, ids=IDS)
def test_a_gc_that_is_killed_while_it_evicts(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, point, then, sql: Sql, idle: Idle
) -> None:
    idle.save("m:1", "m:2")
    idle.age(30)

    def run():
        at_point(monkeypatch, point, lambda: os.kill(os.getpid(), 9))
        with casstore.Store(store.home) as other:
            other.gc()

    assert Child(run).wait() == -9
    assert "m:2" in idle.standing()
    if then == "delete":
        store.delete("m:1")
    elif then == "get":
        store.get("m:1")
    elif then == "path":
        assert contents(store.get("m:1"))["tag"] == b"m:1"
    store.close()
    idle.age(30)
    store.gc()
    assert idle.standing() == ["m:2"]
    assert sql("SELECT evicting FROM directory") == [(0,)]
    assert idle.leftovers() == []
    assert {s.count for s in store.gc().steps} == {0}
    if then != "delete":
        assert contents(store.get("m:1"))["tag"] == b"m:1"
    assert store.verify().is_sound


@pytest.mark.parametrize("point", POINTS, ids=IDS)
def test_a_reader_that_comes_while_gc_evicts(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, point, reader, idle: Idle
) -> None:
    """It gets a whole directory, which stays as long as it holds it."""
    idle.save("m:1", "m:2")
    idle.age(30)
    readers = []

    def come():
        readers.append(reader("m:1", FILES))
        if point[1:] == ("begin_eviction", "before"):
            readers[0].wait_for_path()
        else:
            time.sleep(0.05)  # it comes to wait for the name's lock, or finds all as it was

    at_point(monkeypatch, point, come)
    store.gc()
    readers[0].wait_for_path()
    assert idle.standing() == ["m:1", "m:2"]
    assert step(store.gc(evict_all=True)).count == 1
    assert idle.standing() == ["m:1"]
    readers[0].end()
    assert step(store.gc(evict_all=True)).count == 1
    assert idle.leftovers() == []


def test_a_pin_that_comes_after_gc_has_listed_candidates(
    store: casstore.Store, home: Path, save, age: Age, monkeypatch: pytest.MonkeyPatch, standing
) -> None:
    save("m:1", "m:2", "m:3")
    age(30)

    def come():
        with casstore.Store(home) as other:
            other.pin("m:1")
            other.delete("m:3")  # and m:2 becomes the newest

    at_point(monkeypatch, (Directories, "candidates", "after"), come)
    assert step(store.gc()).count == 0
    assert standing() == ["m:1", "m:2"]


def test_get_makes_no_directory_that_gc_has_just_taken(
    store: casstore.Store, home: Path, save, age: Age, monkeypatch: pytest.MonkeyPatch, standing
) -> None:
    save("m:1", "m:2")
    age(30)
    getters = []

    def get():
        with casstore.Store(home) as other:
            other.get("m:1")

    at_point(monkeypatch, POINTS[1], lambda: (getters.append(Child(get)), time.sleep(0.1)))
    store.gc()
    assert getters[0].wait() == 0
    assert standing() == ["m:2"]


def test_a_check_after_a_reboot_does_not_undo_a_mark(store: casstore.Store, save, sql: Sql) -> None:
    """It writes the row without holding the name's lock."""
    save("m:1")
    directories = store._workspace.catalog.directories
    row = known(directories.find(1))
    sql("UPDATE directory SET evicting = 1")
    directories.confirm(1, row)
    assert known(directories.find(1)).evicting


def test_two_gcs_at_once(store: casstore.Store, home: Path, save, age: Age, standing, leftovers: Leftovers) -> None:
    save(*(f"m:{number}" for number in range(8)))
    age(30)

    def run():
        with casstore.Store(home) as other:
            try:
                other.gc()
            except casstore.StoreLocked:
                return 0
        return 0

    for process in [Child(run) for _ in range(4)]:
        assert process.wait() == 0
    assert standing() == ["m:7"]
    assert leftovers() == []


def test_readers_and_evictions_without_pause(store: casstore.Store, home: Path, save, leftovers: Leftovers) -> None:
    """Whoever has a path finds every file under it, whatever gc does meanwhile."""
    tags = [f"m:{number}" for number in range(3)]
    save(*tags)
    done = home.parent / "done"

    def read(seed):
        for _ in range(4):
            with casstore.Store(home) as other:
                for tag in tags[seed % 3 :] + tags[: seed % 3]:
                    path = Path(other.get(tag).path)
                    for _ in range(5):
                        assert {name: (path / name).read_bytes() for name in FILES} == FILES
        return 0

    def evict():
        count = 0
        while not done.exists():
            with casstore.Store(home) as other:
                count += step(other.gc(evict_all=True)).count
        return 0 if count else 1

    evicting = Child(evict)
    readers = [Child(partial(read, seed)) for seed in range(3)]
    assert [process.wait() for process in readers] == [0, 0, 0]
    for tag in tags:
        assert store.get(tag).path
    store.close()
    while any((home / "models/m").glob("[0-9]")):  # nobody keeps one any more
        time.sleep(0.01)
    done.touch()
    assert evicting.wait() == 0
    store.gc(evict_all=True)
    assert leftovers() == []
    for tag in tags:
        assert contents(store.get(tag))["tag"] == tag.encode()
    assert store.verify().is_sound
