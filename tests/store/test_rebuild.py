"""Rebuilding the catalog: every committed version comes back, whole and as it was, from the files beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import casstore

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
def full(store, save, plant, noise, checkpoint):
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
def expected(full, streamed):
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
def test_everything_comes_back(full, home, expected, streamed, contents, leftovers, harm, packed):
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


def test_what_is_saved_again_afterwards_costs_nothing(full, home, expected, noise, plant):
    stored = full.stats().stored_bytes
    full.gc()
    full.close()
    drop_catalog(home)
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as store:
        with store.create("again:1") as draft:
            plant(draft.path, {"w.bin": noise(BIG)})
        assert store.stats().stored_bytes <= stored


def test_directories_that_stand_are_taken_back_only_when_sound(full, home, expected, contents):
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


def test_the_old_catalog_is_kept(full, home):
    full.close()
    damage_catalog(home)
    old = (home / "catalog.db").read_bytes()
    casstore.Store.rebuild_catalog(home)
    (kept,) = (home / "quarantine").glob("catalog.db.*")
    assert kept.read_bytes() == old
    assert sorted(path.name for path in home.glob("catalog*")) == ["catalog.db"]


def test_not_while_somebody_uses_the_store(full, home):
    assert full.get("a").path
    before = (home / "catalog.db").stat().st_ino
    with pytest.raises(casstore.StoreLocked, match="in use"):
        casstore.Store.rebuild_catalog(home)
    assert (home / "catalog.db").stat().st_ino == before


def test_where_no_store_is(tmp_path):
    with pytest.raises(casstore.StoreError, match="no store"):
        casstore.Store.rebuild_catalog(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_manifest_costs_its_version_only(full, home, expected, streamed):
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


def test_an_old_catalog_that_was_put_back(full, home, save, expected, streamed, noise):
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


def test_a_pack_whose_index_is_damaged_is_read_by_its_records(full, home, expected, streamed):
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


def test_with_damage_beside_it(full, home, expected, streamed, noise, plant, tmp_path):
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
