"""gc tells the logger "casstore" what it decides and why; without a handler nobody hears of it."""

from __future__ import annotations

import logging

import pytest

import casstore
from tests.kit import noise, plant, script

MIB = 1 << 20


@pytest.fixture
def busy(store, home):
    for tag, seed in {"m:1": 1, "m:2": 2, "n:1": 3, "used:1": 4, "changed:1": 5}.items():
        with store.create(tag, durability="relaxed") as draft:
            plant(draft.path, {"w.bin": noise(MIB, seed)})
    store.delete("n:1")
    (home / "models/changed/1/mine").write_bytes(b"mine")
    (home / "objects/packs/0123456789abcdef-1.pack").write_bytes(b"stray")
    store.pin("m:2")
    assert store.get("used:1").path


@pytest.fixture
def said(caplog):
    """said(level): the texts of that level so far."""
    caplog.set_level(logging.DEBUG, "casstore")

    def run(level):
        return [record.getMessage() for record in caplog.records if record.levelname == level]

    return run


@pytest.mark.usefixtures("no_trash")
def test_what_was_done_and_why(store, busy, said):
    store.gc(evict_all=True)
    lines = said("INFO")

    def told(*words):
        return [line for line in lines if all(word in line for word in words)]

    assert len(told("m:1: directory evicted")) == 1
    assert len(told("changed:1: directory kept, something in it was changed or added")) == 1
    assert len(told("0123456789abcdef-1.pack: moved to quarantine")) == 1
    assert len(told("removed, nothing needs it any more")) == 2  # of n:1, and what m:1 has been packed from
    assert len(told("pack ", "1 files")) == 1
    assert "used:1: directory kept, a process is using it" in said("DEBUG")
    assert said("WARNING") == []


def test_a_dry_run_tells_why_as_well(store, busy, said, picture):
    before = picture()
    store.gc(evict_all=True, dry_run=True)
    assert picture() == before
    assert "changed:1: directory kept, something in it was changed or added" in said("INFO")
    assert "used:1: directory kept, a process is using it" in said("DEBUG")


@pytest.mark.parametrize("dry_run", [True, False])
def test_each_directory_that_a_rule_keeps_is_named_with_the_rule(store, busy, said, dry_run):
    store.gc(dry_run=dry_run)
    assert [line for line in said("DEBUG") if "directory kept" in line] == [
        "changed:1: directory kept, it is the newest version of its name",
        "m:1: directory kept, it was saved or opened within keep_days (7)",
        "m:2: directory kept, it is pinned",
        "used:1: directory kept, it is the newest version of its name",
    ]


def test_of_a_gc_that_evicts_all_only_pins_and_leases_keep(store, busy, said):
    store.gc(evict_all=True, dry_run=True)
    kept = [line for line in said("DEBUG") if "directory kept" in line]
    assert kept == ["m:2: directory kept, it is pinned", "used:1: directory kept, a process is using it"]


def test_a_setting_that_keeps_all_is_named_once(store, busy, said):
    store.set_setting("materialize", "all")
    store.gc(dry_run=True)
    kept = [line for line in said("DEBUG") if "kept" in line]
    assert kept == ["every directory is kept, the setting materialize is all"]


def test_nothing_is_heard_unasked(home, store, busy):
    store.close()
    done = script("import casstore, sys; casstore.Store(sys.argv[1]).gc(evict_all=True)", home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert casstore.Store(home).tags()
