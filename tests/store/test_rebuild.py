"""Rebuilding the catalog: every committed version comes back, whole and as it was, from the files beside it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import casstore
from casstore.actions.health import rebuild
from casstore.actions.saving import commit as commit_action
from casstore.catalog.commits import Commits
from casstore.storage import files as storage_files
from casstore.storage import sessions
from tests.kit import Child, Leftovers, Save, checkpoint, contents, noise, part, plant, streamed

pytestmark = pytest.mark.crash

BIG = 2_500_000


def told(store):
    """Everything that a store tells of its versions."""
    return [
        {
            "tag": str(model.tag),
            "files": model.files,
            "digest": model.digest,
            "size": model.size,
            "labels": model.labels,
            "metadata": model.metadata,
            "module": model.module,
            "api_version": model.api_version,
            "signatures": model.signatures,
            "options": model.options,
            "context": model.context,
            "base": model.base,
            "created_at": model.created_at,
            "casstore_version": model.casstore_version,
            "descriptor": model.open("model.yaml").read(),
        }
        for model in store.list()
    ]


@pytest.fixture
def full(store: casstore.Store, save: Save):
    """A store with each kind of container and of description."""
    save("a:1", {"w.bin": noise(BIG), "small": b"x" * 500, "run.sh!": b"#!/bin/sh", "void": None, "nothing": b""})
    save(
        "a:2",
        {"w.bin": noise(BIG), "gewichte-ü/名前 .bin": noise(100_000, 4)},
        labels={"stage": "dev"},
        metadata={"acc": 0.93, "nested": {"list": [1, "two", None]}},
        signatures={"predict": {"batchable": True}},
        module="my.module",
        context={"framework_name": "torch"},
        custom_objects={"tokenizer": [1, 2]},
    )
    for step in range(4):
        save(f"m:{step}", checkpoint(step), materialize=False)
    save("m:loose", checkpoint(4))
    save("relaxed:1", {"r": noise(BIG, 8)}, durability="relaxed")
    save("gone:1", {"g": noise(BIG, 7)})
    store.delete("gone:1")
    return store


@pytest.fixture
def expected(full):
    return {str(model.tag): streamed(model) for model in full.list()}


def drop_catalog(home):
    for path in home.glob("catalog.db*"):
        path.unlink()


def damage_catalog(home):
    (home / "catalog.db").write_bytes(os.urandom(40_000))


def cut_catalog(home):
    os.truncate(home / "catalog.db", 8192)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("harm", [drop_catalog, damage_catalog, cut_catalog])
def test_everything_comes_back(full, home: Path, expected, leftovers: Leftovers, harm, packed) -> None:
    if packed:
        full.gc(evict_all=True)
    before = told(full)
    full.close()
    harm(home)
    with pytest.raises(casstore.CatalogDamaged, match="repair --rebuild-catalog"), casstore.Store(home) as broken:
        broken.list()
    report = casstore.Store.rebuild_catalog(home)
    assert sorted(report.tags) == sorted(expected)
    assert report.unreadable == ()
    with casstore.Store(home) as store:
        assert told(store) == before
        assert store.get("a").tag.version == "2"
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected
        assert store.verify().is_sound
        store.gc()
        assert {tag: contents(store.get(tag)) for tag in expected} == expected
        store.gc(evict_all=True)
        assert {step.count for step in store.gc(evict_all=True).steps} == {0}
        assert leftovers() == []
        assert store.verify().is_sound
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected


@pytest.mark.usefixtures("no_trash")
def test_what_is_saved_again_afterwards_costs_nothing(full, home: Path, expected) -> None:
    stored = full.stats().stored_bytes
    full.gc()
    full.close()
    drop_catalog(home)
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as store:
        with store.create("again:1") as draft:
            plant(draft.path, {"w.bin": noise(BIG)})
        assert store.stats().stored_bytes <= stored


def test_directories_that_stand_are_taken_back_only_when_sound(full, home: Path, expected) -> None:
    altered = Path(full.get("a:2").path) / "w.bin"
    foreign = Path(full.get("a:1").path) / "notes.txt"
    foreign.write_text("mine")
    full.close()
    altered.chmod(0o644)
    altered.unlink()
    altered.write_bytes(b"other")
    drop_catalog(home)
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as store:
        assert contents(store.get("a:2")) == expected["a:2"]
        assert foreign.read_text() == "mine"


def test_the_old_catalog_is_kept(full, home: Path) -> None:
    full.close()
    damage_catalog(home)
    old = (home / "catalog.db").read_bytes()
    casstore.Store.rebuild_catalog(home)
    (kept,) = (home / "quarantine").glob("catalog.db.*")
    assert kept.read_bytes() == old
    assert sorted(path.name for path in home.glob("catalog*")) == ["catalog.db"]


def test_not_while_somebody_uses_the_store(full, home: Path) -> None:
    assert full.get("a").path
    before = (home / "catalog.db").stat().st_ino
    with pytest.raises(casstore.StoreLocked, match="in use"):
        casstore.Store.rebuild_catalog(home)
    assert (home / "catalog.db").stat().st_ino == before


def test_where_no_store_is(tmp_path: Path) -> None:
    with pytest.raises(casstore.StoreError, match="no store"):
        casstore.Store.rebuild_catalog(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_manifest_costs_its_version_only(full, home: Path, expected) -> None:
    full.close()
    (path,) = (home / "manifests/a").glob("1.*")
    path.chmod(0o644)
    os.truncate(path, 40)
    drop_catalog(home)
    report = casstore.Store.rebuild_catalog(home)
    assert set(report.tags) == expected.keys() - {"a:1"}
    assert [line.split(":")[0] for line in report.unreadable] == [str(path)]
    with casstore.Store(home) as store:
        assert {tag: streamed(store.get(tag)) for tag in report.tags} == {tag: expected[tag] for tag in report.tags}
        with pytest.raises(casstore.StoreError, match="rebuild-catalog"):
            store.gc()
        assert path.exists()


def test_an_old_catalog_that_was_put_back(full, home: Path, save: Save, expected) -> None:
    full.gc()
    shutil.copy(home / "catalog.db", home.parent / "old.db")
    save("new:1", {"n": noise(BIG, 20)})
    full.close()
    shutil.copy(home.parent / "old.db", home / "catalog.db")
    with casstore.Store(home) as store, pytest.raises(casstore.StoreError, match="rebuild-catalog"):
        store.gc()
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as store:
        store.gc()
        assert streamed(store.get("new:1")) == {"n": noise(BIG, 20)}
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected


def test_a_pack_whose_index_is_damaged_is_read_by_its_records(full, home: Path, expected) -> None:
    full.gc(evict_all=True)
    full.close()
    for path in (home / "objects/packs").iterdir():
        path.chmod(0o644)
        with open(path, "r+b") as file:
            file.seek(-60, os.SEEK_END)
            file.write(b"\xff" * 60)
    drop_catalog(home)
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as store:
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected


def test_with_damage_beside_it(full, home: Path, expected, tmp_path: Path) -> None:
    """A damaged loose file keeps its sound chunks, is never linked to, and is healed by repair."""
    path = max((home / "objects/loose").rglob("*.*"), key=lambda each: each.stat().st_size)
    full.close()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    drop_catalog(home)
    report = casstore.Store.rebuild_catalog(home)
    assert [line.split(":")[0] for line in report.unreadable] == [str(path)]
    sources = [plant(tmp_path / "backup" / tag.replace(":", "-"), files) for tag, files in expected.items()]
    with casstore.Store(home) as store:
        assert not store.verify().is_sound
        assert store.repair(sources).damage == ()
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected
        assert store.verify().is_sound


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_pack_that_was_not_written_whole_is_not_preferred_to_what_is_sound(
    store: casstore.Store, save: Save, home: Path
) -> None:
    """gc was packing when the power went, and the old containers stand beside the new pack."""
    save("m:1", {"w.bin": noise(BIG)})
    store.close()
    real = storage_files.sync_descriptor

    def pack():
        def sync(descriptor):
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".pack"):
                die()
            real(descriptor)

        storage_files.sync_descriptor = sync
        store.gc(evict_all=True)

    assert Child(pack).wait() == -signal.SIGKILL
    (path,) = (home / "objects/packs").iterdir()
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(bytes(100_000))
    drop_catalog(home)
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert streamed(again.get("m:1")) == {"w.bin": noise(BIG)}
        again.gc(evict_all=True)
        assert streamed(again.get("m:1")) == {"w.bin": noise(BIG)}
        assert again.verify().is_sound


def test_of_saves_that_were_cut_short_none_is_lost(
    store: casstore.Store, save: Save, home: Path, leftovers: Leftovers
) -> None:
    """Only the catalog knew which of them had been committed."""
    store.close()

    def killed(owner, name, data):
        def run():
            setattr(owner, name, die)
            save("m:1", {"a": data})

        assert Child(run).wait() == -signal.SIGKILL

    killed(Commits, "commit", b"never committed")
    killed(commit_action, "publish", b"committed")
    drop_catalog(home)
    report = casstore.Store.rebuild_catalog(home)
    assert len(report.tags) == 2
    (recovered,) = report.recovered
    assert recovered.startswith("m:1-recovered-")
    with casstore.Store(home) as again:
        for _ in range(2):
            found = {tag: streamed(again.get(tag))["a"] for tag in report.tags}
            assert found.keys() == {"m:1", recovered}
            assert set(found.values()) == {b"never committed", b"committed"}
            again.gc()
        assert again.verify().is_sound
        again.close()
        assert leftovers() == []


def test_an_empty_catalog_beside_versions_is_not_taken_for_that_of_a_new_store(
    store: casstore.Store, save: Save, home: Path
) -> None:
    save("m:1", {"a": b"1"}, materialize=False)
    store.close()
    os.truncate(home / "catalog.db", 0)
    with pytest.raises(casstore.CatalogDamaged, match="repair --rebuild-catalog"):
        casstore.Store(home)
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1",)
    with casstore.Store(home) as again:
        assert streamed(again.get("m:1")) == {"a": b"1"}


def test_not_while_a_store_is_open_that_does_nothing(full, home: Path, save: Save) -> None:
    def rebuild():
        with pytest.raises(casstore.StoreLocked, match="in use"):
            casstore.Store.rebuild_catalog(home)

    before = (home / "catalog.db").stat().st_ino
    full.close()
    with casstore.Store(home) as idle:
        rebuild()
        assert Child(rebuild).wait() == 0
        assert (home / "catalog.db").stat().st_ino == before
        save("after:1", {"a": b"1"}, into=idle)
    with casstore.Store(home) as again:
        assert "after:1" in again.tags()
    casstore.Store.rebuild_catalog(home)
    assert (home / "catalog.db").stat().st_ino != before


def test_nobody_opens_the_store_meanwhile(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"a": b"1"})
    store.close()
    real = rebuild._replace

    def replace(*args):
        with pytest.raises(casstore.StoreLocked, match="being rebuilt"):
            casstore.Store(home)
        with pytest.raises(casstore.StoreLocked, match="being rebuilt"):
            store.tags()
        real(*args)

    monkeypatch.setattr(rebuild, "_replace", replace)
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1",)
    assert store.tags() == ["m:1"]


def test_an_attempt_that_fails_lets_go_of_the_store(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"a": b"1"})
    store.close()

    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "live_ids", fail)
        try:
            casstore.Store.rebuild_catalog(home)
        except OSError as error:
            kept = error  # and with it the frames that it went through
    assert kept.errno == 5
    store.gc()
    store.close()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1",)


def test_the_old_log_is_gone_for_good_before_the_new_catalog_has_its_name(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be applied to the new catalog after a power cut in between."""

    def save_and_die():
        save("m:1", {"a": b"1"})
        die()

    store.close()
    assert Child(save_and_die).wait() == -signal.SIGKILL
    assert (home / "catalog.db-wal").stat().st_size
    done = []
    for name in ("remove_file", "sync_directory", "rename"):
        real = getattr(storage_files, name)

        def call(*paths, name=name, real=real):
            done.append((name, str(paths[-1])))
            return real(*paths)

        monkeypatch.setattr(storage_files, name, call)
    casstore.Store.rebuild_catalog(home)
    removed = done.index(("remove_file", f"{home}/catalog.db-wal"))
    renamed = done.index(("rename", f"{home}/catalog.db"))
    assert ("sync_directory", str(home)) in done[removed:renamed]


def test_which_manifests_gc_may_remove_does_not_depend_on_what_is_said_of_them(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", part(1))
    save("m:2", part(2))
    store.close()
    (path,) = (home / "manifests/m").glob("1.*")
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    monkeypatch.setattr(rebuild.Unreadable, "__str__", lambda _: "in other words")
    assert casstore.Store.rebuild_catalog(home).unreadable == ("in other words",)
    with casstore.Store(home) as again:
        with pytest.raises(casstore.StoreError, match="manifest of a saved version"):
            again.gc()
        assert path.read_bytes() == b"damaged"
