"""sync_tree(prune=True): an absence counts only where the presence was certain, and what goes can be brought back."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import sync_tree as sync
from casstore.catalog.marks import Marks
from casstore.storage import machine
from tests.kit import Check, Child, Save, Sql, bento, checkpoint, contents, counts, noise, streamed

BIG = 1_300_000
pytestmark = pytest.mark.usefixtures("quiet", "no_trash")


@pytest.fixture
def models(home: Path):
    return home / "models"


@pytest.fixture
def days_later(monkeypatch: pytest.MonkeyPatch):
    """days_later(days): from now on it is so many days later."""
    real = time.time_ns

    def run(days):
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(days * 24 * 3600 * 1e9))

    return run


@pytest.fixture
def rebooted(store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch):
    """rebooted(): the store, opened after the machine has started again."""
    opened = []

    def run():
        store.close()
        monkeypatch.setattr(machine, "boot_id", lambda: "the boot after")
        opened.append(casstore.Store(home, auto_gc=False))
        return opened[-1]

    yield run
    for each in opened:
        each.close()


def kept(home):
    return sorted(path.name for path in (home / "quarantine/pruned").glob("*/*"))


def test_a_directory_that_a_power_cut_has_taken_deletes_nothing(
    store: casstore.Store, models, save: Save, sql: Sql, rebooted
) -> None:
    for number in range(2):
        save(f"m:{number}", {"w": b"%d" % number})
    shutil.rmtree(models / "m/1")
    store = rebooted()
    assert store.verify().missing_directories == ()
    for dry_run in (True, False):
        report = store.sync_tree(prune=True, dry_run=dry_run)
        assert (report.missing, report.deleted) == ((), ())
    assert sql("SELECT count(*) FROM directory") == [(1,)], "it is as if it had never been made"
    assert contents(store.get("m:1")) == {"w": b"1"}


@pytest.mark.parametrize("by", ["gc", "sync_tree"])
def test_a_directory_whose_name_was_synced_and_that_is_gone_was_removed(
    store: casstore.Store, models, save: Save, sql: Sql, rebooted, by
) -> None:
    for number in range(2):
        save(f"m:{number}", {"w": b"%d" % number})
    assert sql("SELECT synced FROM directory") == [(0,), (0,)]
    getattr(store, by)(dry_run=True)
    assert sql("SELECT synced FROM directory") == [(0,), (0,)]
    getattr(store, by)()
    assert sql("SELECT synced FROM directory") == [(1,), (1,)]
    shutil.rmtree(models / "m/1")
    store = rebooted()
    assert store.verify().missing_directories == ("m:1",)
    assert store.sync_tree(prune=True).deleted == ("m:1",)


def test_a_directory_that_was_made_again_has_to_be_synced_again(
    store: casstore.Store, models, save: Save, sql: Sql
) -> None:
    save("m:1", {"w": b"1"})
    store.gc()
    shutil.rmtree(models / "m/1")
    assert contents(store.get("m:1")) == {"w": b"1"}
    assert sql("SELECT synced FROM directory") == [(0,)]
    store.gc()
    assert sql("SELECT synced FROM directory") == [(1,)]


def test_another_directory_in_the_place_of_one_that_a_power_cut_has_taken(
    store: casstore.Store, models, save: Save, rebooted
) -> None:
    save("m:1", {"w": b"old"})
    shutil.rmtree(models / "m/1")
    bento(models, "m:1", {"w": b"new"})
    store = rebooted()
    report = store.sync_tree(prune=True)
    assert (report.deleted, report.missing, len(report.refused)) == ((), (), 1)
    assert store.tags() == ["m:1"]


def test_gc_forgets_what_a_power_cut_has_taken(store: casstore.Store, models, save: Save, sql: Sql, rebooted) -> None:
    save("m:1", {"w": b"1"})
    shutil.rmtree(models / "m/1")
    store = rebooted()
    store.gc()
    assert sql("SELECT count(*) FROM directory") == [(0,)]
    shutil.rmtree(models)
    assert set(counts(store.gc()).values()) == {0}


def test_what_was_pruned_comes_back(store: casstore.Store, home: Path, models, save: Save, settled: Check) -> None:
    expected = {"w.bin": noise(BIG), "mid": noise(90_000, 1), "few": b"few", "run!": b"#!", "empty": b""}
    save("m:1", expected, labels={"k": "v"}, metadata={"n": [1, 2.5]})
    save("m:2", {"w.bin": noise(BIG)[:1_000_000] + noise(300_000, 2)})
    before = store.get("m:1")
    facts = (before.digest, before.created_at, before.labels, before.metadata, before.files)
    shutil.rmtree(models / "m/1")
    assert store.sync_tree(prune=True).deleted == ("m:1",)
    assert kept(home) == ["m.1"]
    for _ in range(2):
        store.gc(evict_all=True)
    restored = store.restore_pruned("m:1")
    assert (restored.digest, restored.created_at, restored.labels, restored.metadata, restored.files) == facts
    assert contents(restored) == {name.removesuffix("!"): data for name, data in expected.items()}
    assert str(store.get("m").tag) == "m:2", "it takes its place by creation"
    assert kept(home) == []
    assert store.sync_tree(prune=True).deleted == ()
    store.close()
    store.gc(evict_all=True)
    settled()


def test_after_keep_days_the_bytes_go(
    store: casstore.Store, home: Path, models, save: Save, days_later, settled: Check
) -> None:
    save("m:1", {"w.bin": noise(BIG)})
    save("n:1", {"w": b"1"})
    shutil.rmtree(models / "m/1")
    store.sync_tree(prune=True)
    days_later(6.9)
    assert counts(store.gc())["unneeded objects"] == 0
    assert kept(home) == ["m.1"]
    days_later(7.1)
    plan, done = store.gc(dry_run=True), store.gc()
    assert counts(plan) == counts(done)
    assert counts(done)["quarantine"] == 1
    assert done.freed_bytes == plan.freed_bytes > 1_000_000
    assert kept(home) == []
    with pytest.raises(casstore.TagNotFound, match=r"m:1 is not among .*: none"):
        store.restore_pruned("m:1")
    store.gc(evict_all=True)
    settled()


def test_what_cannot_be_brought_back_is_told(store: casstore.Store, home: Path, models, save: Save) -> None:
    for number in (1, 2):
        save(f"m:{number}", {"w": b"%d" % number})
        shutil.rmtree(models / "m" / str(number))
    (models / "m/other").mkdir()
    store.sync_tree(prune=True)
    with pytest.raises(casstore.TagNotFound, match="that are kept: m:1, m:2"):
        store.restore_pruned("m:3")
    for bad in ("m", "m:latest"):
        with pytest.raises(casstore.InvalidTag, match="m:VERSION"):
            store.restore_pruned(bad)
    save("m:1", {"w": b"another"})
    with pytest.raises(casstore.TagExists):
        store.restore_pruned("m:1")
    assert kept(home) == ["m.1", "m.2"]
    store.delete("m:1")
    with store.restore_pruned("m:1").open("w") as file:
        assert file.read() == b"1"


def test_of_two_that_were_pruned_the_last_comes_back_first(
    store: casstore.Store, home: Path, models, save: Save
) -> None:
    for content in (b"1", b"2"):
        save("m:1", {"w": content})
        shutil.rmtree(models / "m/1")
        store.sync_tree(prune=True)
    with store.restore_pruned("m:1").open("w") as file:
        assert file.read() == b"2"


def test_deltas_and_what_they_stand_upon_are_kept(
    store: casstore.Store, models, save: Save, deltas, check_catalog: Check
) -> None:
    expected = {f"m:{step}": checkpoint(step) for step in range(3)}
    for tag, files in expected.items():
        save(tag, files)
    store.close()
    store.gc(evict_all=True)
    assert deltas()
    for step in (0, 1):
        assert store.get(f"m:{step}").path
        shutil.rmtree(models / f"m/{step}")
    assert sorted(store.sync_tree(prune=True).deleted) == ["m:0", "m:1"]
    for _ in range(2):
        store.gc(evict_all=True)
        check_catalog()
    for step in (1, 0):
        assert streamed(store.restore_pruned(f"m:{step}")) == expected[f"m:{step}"]
    assert streamed(store.get("m:2")) == expected["m:2"]
    assert store.verify().is_sound


def test_what_is_saved_and_pruned_while_gc_marks_is_kept(
    store: casstore.Store, home: Path, models, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"w": b"1"})
    files = {"w.bin": noise(BIG, 3), "mid": noise(100_000, 4)}
    save("old:1", files)
    store.delete("old:1")
    real = Marks.unreferenced

    def unreferenced(self):
        found = real(self)
        monkeypatch.setattr(Marks, "unreferenced", real)
        with casstore.Store(home) as other:
            save("late:1", files, into=other)
            shutil.rmtree(models / "late/1")
            assert other.sync_tree(prune=True).deleted == ("late:1",)
        return found

    monkeypatch.setattr(Marks, "unreferenced", unreferenced)
    store.gc(evict_all=True)
    restored = store.restore_pruned("late:1")
    for name, data in files.items():
        with restored.open(name) as file:
            assert file.read() == data


def test_a_prune_that_is_killed_before_it_deletes(store: casstore.Store, home: Path, models, save: Save) -> None:
    save("m:1", {"w": b"1"})
    save("m:2", {"w": b"2"})
    shutil.rmtree(models / "m/1")

    def prune_and_die():
        pytest.MonkeyPatch().setattr(sync, "delete", lambda *_: os.kill(os.getpid(), 9))
        with casstore.Store(home) as other:
            other.sync_tree(prune=True)

    assert Child(prune_and_die).wait() == -9
    assert kept(home) == ["m.1"]
    assert sorted(store.tags()) == ["m:1", "m:2"]
    store.gc()
    assert store.sync_tree(prune=True).deleted == ("m:1",)
    assert contents(store.restore_pruned("m:1")) == {"w": b"1"}


def test_a_damaged_manifest_is_made_from_the_catalog(store: casstore.Store, home: Path, models, save: Save) -> None:
    save("m:1", {"w.bin": noise(BIG)}, labels={"k": "v"})
    save("m:2", {"w": b"2"})
    (path,) = (home / "manifests/m").glob("1.*")
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    shutil.rmtree(models / "m/1")
    assert store.sync_tree(prune=True).deleted == ("m:1",)
    store.gc(evict_all=True)
    restored = store.restore_pruned("m:1")
    assert restored.labels == {"k": "v"}
    assert contents(restored) == {"w.bin": noise(BIG)}


def test_a_kept_manifest_that_cannot_be_read_is_in_nobodys_way(
    store: casstore.Store, home: Path, models, save: Save
) -> None:
    save("m:1", {"w": b"1"})
    shutil.rmtree(models / "m/1")
    (models / "m/other").mkdir()
    store.sync_tree(prune=True)
    (path,) = (home / "quarantine/pruned").glob("*/*")
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    store.gc()
    with pytest.raises(casstore.TagNotFound):
        store.restore_pruned("m:1")
