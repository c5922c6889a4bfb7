"""Manifests of deleted versions: they say how loose files are cut that other versions need, until gc has packed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import casstore
from casstore.actions.consistency import deleted
from casstore.actions.saving.delete import Swept
from casstore.storage import chunking
from casstore.storage import files as storage_files
from casstore.storage.manifest import Manifest
from tests.kit import Child, Leftovers, Save, Sql, noise, part, safetensors, streamed

SHARED = 300_000
pytestmark = pytest.mark.usefixtures("no_trash")


@pytest.fixture
def two():
    """Of two files with a tensor in common, by name."""
    shared = np.frombuffer(noise(SHARED, 1), "u1")
    return {
        name: {"w.safetensors": safetensors({"own": ("U8", np.frombuffer(noise(1_500_000, seed), "u1")),
                                             "shared": ("U8", shared)})}
        for name, seed in (("a", 2), ("b", 3))
    }  # fmt: skip


@pytest.fixture
def orphaned(store: casstore.Store, home: Path, save: Save, two):
    """A store in which b:1 needs a chunk of a:1's loose file, and a:1 has been deleted; what b:1 holds."""
    save("a:1", two["a"])
    save("b:1", two["b"], materialize=False)
    store.delete("a:1")
    return two["b"]


def kept(home):
    return sorted(path.name for path in (home / "manifests/.deleted").iterdir())


def loose(home):
    return sorted((home / "objects/loose").glob("*/*"))


def test_a_deleted_versions_manifest_is_kept_until_gc_has_packed_what_it_explains(
    store: casstore.Store, home: Path, orphaned, leftovers: Leftovers
) -> None:
    (name,) = kept(home)
    manifest = Manifest.unpack((home / "manifests/.deleted" / name).read_bytes())
    assert str(manifest.tag) == "a:1"
    assert not (home / "manifests/a").exists()
    assert len(loose(home)) == 1
    assert [str(model.tag) for model in store.list()] == ["b:1"]
    assert store.verify().damage == ()
    store.gc(dry_run=True)
    assert kept(home) == [name]
    store.gc()
    assert kept(home) == loose(home) == leftovers() == []
    assert streamed(store.get("b:1")) == orphaned


def test_it_goes_with_the_next_gc_where_no_loose_file_is_left(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", part(1), materialize=False)
    store.delete("m:1")
    assert len(kept(home)) == 1
    store.gc()
    assert kept(home) == []


def test_it_goes_where_another_version_says_the_same(store: casstore.Store, home: Path, save: Save, two) -> None:
    save("a:1", two["a"])
    save("a:2", two["a"])
    store.delete("a:1")
    store.gc()
    assert kept(home) == []
    assert len(loose(home)) == 1


def test_it_stays_while_the_loose_file_does(
    store: casstore.Store, home: Path, orphaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc could not pack this time."""
    monkeypatch.setattr("casstore.actions.gc.apply._Application.pack", lambda *_: casstore.GcStep("packed", 0))
    store.gc()
    assert len(kept(home)) == len(loose(home)) == 1
    monkeypatch.undo()
    store.gc()
    assert kept(home) == loose(home) == []


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_damaged_one_stays_as_long_as_it_might_be_needed(
    store: casstore.Store, home: Path, orphaned, monkeypatch: pytest.MonkeyPatch, is_damaged
) -> None:
    (name,) = kept(home)
    path = home / "manifests/.deleted" / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9] if is_damaged else b"")
    monkeypatch.setattr("casstore.actions.gc.apply._Application.pack", lambda *_: casstore.GcStep("packed", 0))
    store.gc()
    assert kept(home) == [name]
    monkeypatch.undo()
    store.gc()
    assert kept(home) == []


def cut_otherwise(monkeypatch):
    """As a later release may: tensors on a finer grid."""
    monkeypatch.setattr(chunking, "PLAN_VERSION", 2)
    monkeypatch.setattr(chunking, "GRID_BYTES", 100_000)


def test_a_catalog_is_rebuilt_by_later_rules_of_cutting(
    store: casstore.Store, home: Path, orphaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    cut_otherwise(monkeypatch)
    report = casstore.Store.rebuild_catalog(home)
    assert (report.tags, report.unreadable, report.recovered) == (("b:1",), (), ())
    with casstore.Store(home) as again:
        assert again.verify().damage == ()
        assert streamed(again.get("b:1")) == orphaned
        again.gc()
        assert kept(home) == loose(home) == []
        assert streamed(again.get("b:1")) == orphaned


def test_repair_takes_a_file_up_again_that_only_a_deleted_version_explains(
    store: casstore.Store, home: Path, orphaned, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog does not know the file, as one of another moment would not."""
    ((row_id, blob),) = sql("SELECT id, digest FROM container WHERE digest IS NOT NULL")
    sql("DELETE FROM chunk WHERE container = ?", (row_id,))
    sql("DELETE FROM container WHERE id = ?", (row_id,))
    sql("DELETE FROM blob WHERE digest = ?", (blob,))
    cut_otherwise(monkeypatch)
    report = store.repair()
    assert (report.damage, len(report.taken_up)) == ((), 1)
    assert store.verify().is_sound
    assert streamed(store.get("b:1")) == orphaned


def test_a_store_of_an_earlier_release_is_rebuilt_as_before(store: casstore.Store, home: Path, orphaned) -> None:
    """It has no such manifest: the loose file is cut again."""
    store.close()
    shutil.rmtree(home / "manifests/.deleted")
    assert casstore.Store.rebuild_catalog(home).tags == ("b:1",)
    with casstore.Store(home) as again:
        assert again.verify().damage == ()
        assert streamed(again.get("b:1")) == orphaned


@pytest.mark.parametrize("room", ["a", ".pending"])
def test_a_name_that_a_power_cut_brought_back_is_no_version(store: casstore.Store, home: Path, orphaned, room) -> None:
    (name,) = kept(home)
    target = home / "manifests" / room / (name if room == ".pending" else f"1.{name}")
    target.parent.mkdir(exist_ok=True)
    shutil.copy2(home / "manifests/.deleted" / name, target)
    store.close()
    report = casstore.Store.rebuild_catalog(home)
    assert (report.tags, report.recovered) == (("b:1",), ())
    with casstore.Store(home) as again:
        assert not again.exists("a:1")
        again.gc()
        assert not target.exists()
        assert kept(home) == []
        assert streamed(again.get("b:1")) == orphaned


def test_the_name_in_pending_goes_for_certain_before_what_proves_the_deletion(
    store: casstore.Store, home: Path, orphaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    for verb in ("sync_directory", "remove_file"):
        real = getattr(storage_files, verb)
        monkeypatch.setattr(
            storage_files, verb, lambda path, verb=verb, real=real: (done.append((verb, str(path))), real(path))[1]
        )
    deleted.drop_unneeded(store._workspace)
    (name,) = kept(home)
    assert done == []
    monkeypatch.setattr(deleted, "_is_needed", lambda *_: False)
    deleted.drop_unneeded(store._workspace)
    assert done == [
        ("sync_directory", str(home / "manifests/.pending")),
        ("remove_file", str(home / "manifests/.deleted" / name)),
    ]


def test_a_catalog_of_before_the_deletion_makes_it_a_version_again(
    store: casstore.Store, home: Path, save: Save, two
) -> None:
    save("a:1", two["a"])
    save("z:1", {"small": b"1"})
    store.close()
    shutil.copy2(home / "catalog.db", home.parent / "kept.db")
    with casstore.Store(home) as later:
        later.delete("a:1")
    shutil.copy2(home.parent / "kept.db", home / "catalog.db")
    with casstore.Store(home) as again:
        again.gc()
        assert len(kept(home)) == 1
        assert len(again.repair().restored) == 1
        assert kept(home) == []
        assert streamed(again.get("a:1")) == two["a"]
    assert casstore.Store.rebuild_catalog(home).tags == ("a:1", "z:1")


def test_no_room_for_its_new_name_leaves_the_deletion_to_the_next_gc(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", part(1), materialize=False)
    save("m:2", part(2), materialize=False)
    real = storage_files.rename

    def full(source, target):
        if "/.deleted/" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(storage_files, "rename", full)
    store.delete("m:1")
    report = store.gc()
    assert report.freed_bytes >= 300_000
    assert report.left == ()
    monkeypatch.undo()
    store.gc()
    assert kept(home) == []
    assert not list((home / "manifests/m").glob("1.*"))


@pytest.mark.crash
def test_killed_anywhere_in_the_deletion(
    store: casstore.Store, home: Path, save: Save, two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that b:1 needs is lost, nor is the deletion, once it is finished."""
    save("a:1", two["a"])
    save("b:1", two["b"], materialize=False)
    store.close()
    shutil.copytree(home, tmp_path / "template", symlinks=True)
    verbs = ("rename", "sync_directory", "remove_file", "remove_empty_directory")
    code, number = -9, 0
    while code == -9:
        number += 1
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "template", home)

        def doomed(number=number):
            calls = iter(range(number, 0, -1))
            for verb in verbs:
                real = getattr(storage_files, verb)

                def call(*arguments, real=real, **named):
                    if next(calls, 0) == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **named)

                setattr(storage_files, verb, call)
            with casstore.Store(home) as killed:
                killed.delete("a:1")

        code = Child(doomed).wait()
        with monkeypatch.context() as later:
            cut_otherwise(later)
            assert "b:1" in casstore.Store.rebuild_catalog(home).tags
        with casstore.Store(home) as again:
            assert again.verify().damage == ()
            assert streamed(again.get("b:1")) == two["b"]
            assert again.exists("a:1") or code == 0 or len(kept(home)) == 1
            again.gc()
            assert kept(home) == []
            assert streamed(again.get("b:1")) == two["b"]
    assert number > 5


def test_a_store_of_an_earlier_release_on_a_full_disk(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks the directory: versions are deleted as they were then."""
    save("m:1", part(1), materialize=False)
    save("m:2", part(2), materialize=False)
    (home / "manifests/.deleted").rmdir()
    real = storage_files.make_directory

    def full(path, *arguments, **named):
        if str(path).endswith("/.deleted"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments, **named)

    monkeypatch.setattr(storage_files, "make_directory", full)
    store.delete("m:1")
    assert not list((home / "manifests/m").glob("1.*"))
    assert store.gc().freed_bytes >= 300_000
    monkeypatch.undo()
    store.delete("m:2")
    assert len(kept(home)) == 1


def test_a_backup_has_it(
    store: casstore.Store, home: Path, orphaned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.backup(tmp_path / "copy")
    assert kept(tmp_path / "copy") == kept(home)
    cut_otherwise(monkeypatch)
    assert casstore.Store.rebuild_catalog(tmp_path / "copy").tags == ("b:1",)
    with casstore.Store(tmp_path / "copy") as copy:
        assert copy.verify().damage == ()
        assert streamed(copy.get("b:1")) == orphaned


def test_a_backup_keeps_it_as_long_as_the_store_needs_it(
    store: casstore.Store, home: Path, save: Save, two, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    save("a:1", two["a"])
    save("b:1", two["b"], materialize=False)
    store.backup(copy)
    store.delete("a:1")
    names = kept(home)
    shutil.rmtree(home / "manifests/.deleted")  # as a gc may that ends while the backup runs
    (home / "manifests/.deleted").mkdir()
    store.backup(copy)
    assert kept(copy) == names
    assert not (copy / "manifests/a").exists()
    store.gc()
    store.backup(copy)
    assert kept(copy) == loose(copy) == []
    save("c:1", two["a"], materialize=False)
    store.backup(copy)
    store.delete("c:1")
    store.backup(copy)
    assert kept(copy) == []


def test_a_backup_brings_that_of_a_deletion_that_is_not_finished(
    store: casstore.Store, home: Path, save: Save, two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a:1", two["a"])
    save("b:1", two["b"], materialize=False)
    monkeypatch.setattr("casstore.actions.saving.delete.sweep", lambda *_: Swept())
    store.delete("a:1")
    monkeypatch.undo()
    assert kept(home) == []
    store.backup(tmp_path / "copy")
    assert len(kept(tmp_path / "copy")) == 1
