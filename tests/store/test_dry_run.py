"""A dry run of gc counts, step by step, what the gc that follows does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import casstore
from casstore.actions.packs import repack
from tests.kit import Age, Picture, Sql, noise, plant

MIB = 1 << 20


@pytest.fixture
def save(store: casstore.Store):
    def run(tag, *seeds, materialize=True, **small):
        with store.create(tag, materialize=materialize, durability="relaxed") as draft:
            plant(draft.path, {**{f"{seed}.bin": noise(MIB, seed) for seed in seeds}, **small})
        return draft.model

    return run


def counts(report):
    return {step.name: (step.count, step.skipped) for step in report.steps}


def check(store, picture, *, evict_all):
    """Returns the counts of both."""
    before = picture()
    plan = store.gc(dry_run=True, evict_all=evict_all)
    assert picture() == before
    done = store.gc(evict_all=evict_all)
    assert counts(plan) == counts(done)
    assert plan.altered == done.altered
    for planned, step in zip(plan.steps, done.steps, strict=True):
        tolerance = 1000 * (step.count + 1) if step.name in ("rewritten", "packed") else 0
        assert planned.freed_bytes == pytest.approx(step.freed_bytes, abs=tolerance), step.name
    assert store.verify().is_sound
    return {name: count for name, (count, _) in counts(done).items() if count}


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("evict_all", [False, True])
def test_every_step_at_once(store: casstore.Store, save, age: Age, picture: Picture, evict_all) -> None:
    save("m:1", 1, 2)
    save("m:2", 1, 3)
    save("m:3", 1, 4)
    save("n:1", 5)
    save("n:2", 5, 6)
    save("packed:1", 10, materialize=False)
    save("packed:2", 10, 11, 12, 13, materialize=False)
    save("packed:3", 13, materialize=False)
    store.gc()
    age(30)
    store.pin("m:2")
    (store.home / "models/n/1/notes").write_bytes(b"mine")
    store.delete("packed:2")
    store.delete("m:3")
    save("late:1", 20)
    store.delete("late:1")
    plant(store.home / "sessions", {"0123456789abcdef/1/big": b"x" * 1000, "0123456789abcdef.lock": b""})
    (store.home / "objects/packs/0123456789abcdef-1.pack").write_bytes(b"stray")
    (store.home / "manifests/.pending/0123456789abcdef-2").write_bytes(b"stray")
    found = check(store, picture, evict_all=evict_all)
    assert found.keys() >= {
        "dead sessions", "unfinished work", "idle directories", "stray files", "unneeded objects", "rewritten",
        "packed",
    } - ({"idle directories"} if not evict_all else set())  # fmt: skip
    assert check(store, picture, evict_all=evict_all) == {}


def test_directories_that_were_evicted_let_files_be_packed(
    store: casstore.Store, save, age: Age, picture: Picture
) -> None:
    save("m:1", 1, 2)
    save("m:2", 1, 3)
    age(30)
    assert check(store, picture, evict_all=False) == {"idle directories": 1, "packed": 1}
    assert check(store, picture, evict_all=True) == {"idle directories": 1, "packed": 2}


def test_files_that_become_redundant(store: casstore.Store, save, picture: Picture) -> None:
    """All that they hold stands in packs, so they are unneeded objects once no directory links to them."""
    save("m:1", 1, materialize=False)
    assert store.get("m:1").path
    store.close()
    assert check(store, picture, evict_all=True) == {"idle directories": 1, "unneeded objects": 1}


def test_small_packs_are_merged(store: casstore.Store, save, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repack, "_MERGE_FROM", 3)
    for number in range(4):
        save(f"m:{number}", number, materialize=False)
    save("n:1", 9)
    assert check(store, picture, evict_all=True) == {"idle directories": 1, "rewritten": 4, "packed": 1}


def test_work_that_was_cut_short(store: casstore.Store, home: Path, save, picture: Picture, sql: Sql) -> None:
    save("m:1", 1)
    save("m:2", 2)
    save("n:1", 3)
    sql("UPDATE directory SET evicting = 1 WHERE version_id = 1")
    (home / "models/n/latest").write_text("0")
    shutil.rmtree(home / "models/m/2")
    found = check(store, picture, evict_all=True)
    assert found["unfinished work"] == 2
    assert found["idle directories"] == 2
    assert os.listdir(home / "sessions") == []
