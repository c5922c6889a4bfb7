"""Deltas and what they stand on: a base stays as long as a delta needs it, whatever becomes of its own version."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import pytest

import casstore
from casstore.catalog.commits import Commits
from casstore.catalog.repacking import Repacking
from tests.kit import Check, Save, Sql, checkpoint, plant, safetensors, streamed, weights

pytestmark = pytest.mark.usefixtures("no_trash")


@pytest.fixture
def one():
    """one(step, seed): a file of one tensor of one chunk, which is packed as it is saved."""

    def files(step, seed=0):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", seed, step, 200_000))})}

    return files


@pytest.fixture
def two():
    """two(first, second): two tensors, given as (seed, step)."""

    def files(first, second):
        tensors = {name: ("F32", weights("F32", *which, 200_000)) for name, which in (("a", first), ("b", second))}
        return {"w.safetensors": safetensors(tensors)}

    return files


def reboot(sql):
    for table in ("directory", "container"):
        sql(f"UPDATE {table} SET boot_id = 'another boot' WHERE boot_id IS NOT NULL")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_base_whose_version_is_deleted(store: casstore.Store, save: Save, settled: Check, order) -> None:
    for step in range(4):
        save(f"m:{step}", checkpoint(step))
    store.gc(evict_all=True)
    for step in order:
        store.delete(f"m:{step}")
        store.gc()
        assert streamed(store.get("m:2")) == checkpoint(2)
        assert streamed(store.get("m:3")) == checkpoint(3)
    store.delete("m:2")
    store.gc()
    assert streamed(store.get("m:3")) == checkpoint(3)
    settled()
    store.delete("m:3")
    store.gc()
    assert store.stats().stored_bytes == 0


def test_a_base_that_nobody_else_needs_goes_with_its_last_delta(
    store: casstore.Store, save: Save, one, settled: Check, sql: Sql
) -> None:
    save("m:0", one(0), materialize=False)
    save("m:1", one(1), materialize=False)
    store.delete("m:0")
    store.gc()
    assert sql("SELECT count(*) FROM chunk")[0][0] >= 2
    store.delete("m:1")
    store.gc()
    assert sql("SELECT count(*) FROM chunk") == [(0,)]
    assert os.listdir(store.home / "objects/packs") == []


@pytest.mark.parametrize("way", list(product(["draft", "save"], [True, False])))
def test_a_delta_whose_base_has_gone_is_not_taken_for_stored(
    store: casstore.Store, save: Save, two, check_catalog: Check, settled: Check, way
) -> None:
    """Two versions are deleted; one pack, and with it the base, goes; in the other the delta stays beside what is
    needed. A new version with the same content must not rely on that delta."""
    how, materialize = way
    save("m:0", two((0, 0), (1, 0)), materialize=False)
    save("m:1", two((0, 1), (2, 0)), materialize=False)
    save("n:1", two((3, 0), (2, 0)), materialize=False)
    store.delete("m:0")
    store.delete("m:1")
    store.gc()
    check_catalog()
    files = two((0, 1), (2, 0))
    if how == "draft":
        model = save("m:2", files, materialize=materialize)
    else:
        model = store.save("m:2", plant(store.home.parent / "out", files), materialize=materialize)
    assert streamed(model) == files
    assert streamed(store.get("n:1")) == two((3, 0), (2, 0))
    assert store.verify().is_sound
    store.gc(evict_all=True)
    settled()
    assert streamed(store.get("m:2")) == files


def test_a_chunk_that_is_stored_anew_is_no_base_in_the_same_save(
    store: casstore.Store, save: Save, two, check_catalog: Check, sql: Sql
) -> None:
    """After a power cut the old container of a chunk counts no more. The version that brings it again, elsewhere, also
    brings a successor at the old place: neither may end up as a delta against the other."""
    save("z:0", two((9, 0), (0, 0)), materialize=False)
    save("m:0", two((0, 1), (0, 0)), materialize=False, durability="relaxed")
    reboot(sql)
    files = two((0, 2), (0, 1))
    save("m:1", files, materialize=False)
    check_catalog()
    assert streamed(store.get("m:1")) == files
    assert streamed(store.get("m:0")) == two((0, 1), (0, 0))
    assert store.verify().is_sound


@pytest.fixture
def lone():
    """lone(step): a file whose tensor changes with the step, and of which no other step has any chunk."""

    def files(step):
        own = {f"of step {step}": ("F32", weights("F32", 4, step, 10))}
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 5, step, 500_000)), **own})}

    return files


def test_a_full_version_stands_on_nothing_that_a_power_cut_may_take(save: Save, lone, sql: Sql, deltas) -> None:
    """A base that was saved as relaxed is synced with the first durable version that stands on it."""
    save("m:0", lone(0), materialize=False, durability="relaxed")
    assert sql("SELECT synced FROM container") == [(0,)]
    save("m:1", lone(1), materialize=False)
    assert deltas() == 2
    _check_synced_closure(sql)


def test_gc_syncs_the_bases_of_what_it_packs(
    store: casstore.Store, save: Save, lone, sql: Sql, monkeypatch: pytest.MonkeyPatch, deltas
) -> None:
    """The same where the durable version is a loose file at first, so that it is gc that makes the deltas."""

    save("m:0", lone(0), materialize=False, durability="relaxed")
    (relaxed,) = (store.home / "objects/packs").iterdir()
    save("m:1", lone(1))
    assert deltas() == 0
    log = []
    real, real_move = os.fsync, Repacking.move

    def fsync(descriptor):
        log.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return real(descriptor)

    def move(self, *args, **kwargs):
        log.append("move")
        return real_move(self, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Repacking, "move", move)
    store.gc(evict_all=True)
    assert deltas() == 2
    _check_synced_closure(sql)
    assert log.index(str(relaxed)) < log.index("move")


def test_rewriting_syncs_the_bases_of_what_it_moves(
    store: casstore.Store, save: Save, one, two, sql: Sql, deltas
) -> None:
    """A relaxed delta that gc copies into a pack which counts as synced takes its base with it."""
    save("m:0", one(0), materialize=False, durability="relaxed")
    save("m:1", {"w.safetensors": one(1)["w.safetensors"], "x.safetensors": one(0, 9)["w.safetensors"]},
         materialize=False, durability="relaxed")  # fmt: skip
    save("n:1", one(1), materialize=False, durability="relaxed")
    store.delete("m:1")
    assert deltas() == 1
    store.gc()
    assert deltas() == 1
    assert sql("SELECT count(*) FROM container WHERE synced") != [(0,)], "the pack of m:1 was rewritten"
    _check_synced_closure(sql)


def _check_synced_closure(sql):
    """What a synced chunk needs is synced."""
    rows = {d: (base, grouping, synced) for d, base, grouping, synced in sql(
        "SELECT chunk.digest, base, grouping, synced FROM chunk JOIN container ON id = container"
    )}  # fmt: skip
    for base, grouping, synced in rows.values():
        for needed in (base, grouping):
            assert needed is None or not synced or rows[needed][2]


def _gc(store):
    with casstore.Store(store.home) as other:
        other.gc(evict_all=True)


def _delete_base_and_gc(store):
    with casstore.Store(store.home) as other:
        other.delete("base:0")
        other.gc(evict_all=True)


@pytest.mark.parametrize("meanwhile", [_gc, _delete_base_and_gc])
def test_a_base_that_is_moved_or_condemned_between_look_up_and_commit(
    store: casstore.Store, save: Save, settled: Check, monkeypatch: pytest.MonkeyPatch, meanwhile, deltas
) -> None:
    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 6, step, 500_000))})}

    save("base:0", files(0))
    real = Commits.commit
    attempts = []

    def commit(self, new):
        attempts.append(new)
        if len(attempts) == 1:
            meanwhile(store)
        return real(self, new)

    monkeypatch.setattr(Commits, "commit", commit)
    save("m:1", files(1), materialize=False, base="base:0")
    assert len(attempts) == (1 if meanwhile is _gc else 2)
    assert deltas() == (2 if meanwhile is _gc else 0)
    assert streamed(store.get("m:1")) == files(1)
    settled()


def test_a_base_that_becomes_a_delta_between_look_up_and_commit(
    store: casstore.Store, save: Save, settled: Check, monkeypatch: pytest.MonkeyPatch, check_catalog: Check
) -> None:
    """gc packs it against the version before; the save finds that it groups nothing any more, and looks again."""

    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 7, step, 500_000))})}

    save("base:0", files(0))
    save("base:1", files(1))
    real = Commits.commit
    attempts = []

    def commit(self, new):
        attempts.append(new)
        if len(attempts) == 1:
            _gc(store)
        return real(self, new)

    monkeypatch.setattr(Commits, "commit", commit)
    save("m:2", files(2), materialize=False, base="base:1")
    assert len(attempts) == 2
    check_catalog()
    tags = ("base:0", "base:1", "m:2")
    assert [streamed(store.get(tag)) for tag in tags] == [files(step) for step in range(3)]
    settled()


def test_a_chunk_that_becomes_a_base_while_gc_packs_it_stays_whole(
    store: casstore.Store, save: Save, settled: Check, monkeypatch: pytest.MonkeyPatch, check_catalog: Check
) -> None:
    """gc has encoded it as a delta; before its move a save is committed that stands on it."""

    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 8, step, 500_000))})}

    save("m:0", files(0))
    save("m:1", files(1))
    real = Repacking.move
    saved: list[Any] = []

    def move(self, *args, **kwargs):
        if not saved:
            saved.append(True)
            with casstore.Store(store.home) as other:
                save("m:2", files(2), materialize=False, into=other)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Repacking, "move", move)
    store.gc(evict_all=True)
    monkeypatch.undo()
    check_catalog()
    assert [streamed(store.get(f"m:{step}")) for step in range(3)] == [files(step) for step in range(3)]
    store.gc(evict_all=True)
    check_catalog()
    assert [streamed(store.get(f"m:{step}")) for step in range(3)] == [files(step) for step in range(3)]
    settled()


@pytest.mark.parametrize("how", ["gc", "save"])
def test_a_chain_that_is_as_long_as_can_be_is_not_made_longer(
    store: casstore.Store, save: Save, lone, sql: Sql, how
) -> None:
    """The new chunk stands on a link further down."""
    save("m:0", lone(0), materialize=False)
    save("m:1", lone(1), materialize=False)
    sql("UPDATE chunk SET depth = 8 WHERE base IS NOT NULL")
    save("m:2", lone(2), materialize=how == "gc")
    store.gc(evict_all=True)
    assert sql("SELECT depth, count(*) FROM chunk WHERE base IS NOT NULL GROUP BY depth") == [(1, 2), (8, 2)]
    assert store.stats().loose_bytes == 0
    assert [streamed(store.get(f"m:{step}")) for step in range(3)] == [lone(step) for step in range(3)]


def test_a_chain_that_gets_as_long_as_can_be_while_gc_packs(
    store: casstore.Store, save: Save, lone, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would make it longer stays where it is, until the next gc finds another base."""
    save("m:0", lone(0), materialize=False)
    save("m:1", lone(1), materialize=False)
    save("m:2", lone(2))
    real = Repacking.move

    def move(self, *args, **kwargs):
        sql("UPDATE chunk SET depth = 8 WHERE base IS NOT NULL")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Repacking, "move", move)
    store.gc(evict_all=True)
    monkeypatch.undo()
    assert sql("SELECT max(depth) FROM chunk") == [(8,)]
    assert store.stats().loose_bytes > 0
    store.gc(evict_all=True)
    assert store.stats().loose_bytes == 0
    assert [streamed(store.get(f"m:{step}")) for step in range(3)] == [lone(step) for step in range(3)]
