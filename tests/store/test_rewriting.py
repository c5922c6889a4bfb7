"""Rewriting: packs that are mostly dead, or small and many, give way to new ones; nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.packs import repack
from casstore.catalog.repacking import Repacking
from tests.kit import Check, Save, Sql, checkpoint, counts, noise, part, safetensors, streamed, weights

pytestmark = pytest.mark.usefixtures("no_trash")


def packs(home):
    return {path.name: path.stat().st_size for path in (home / "objects/packs").iterdir()}


def test_a_pack_that_is_mostly_dead_is_rewritten(store: casstore.Store, home: Path, save: Save, settled: Check) -> None:
    save("m:1", part(1, 2, 3, 4, 5), materialize=False)
    save("m:2", part(5), materialize=False)
    (before,) = packs(home)
    store.delete("m:1")
    assert store.stats().trapped_bytes > 1_000_000
    report = store.gc()
    assert counts(report)["rewritten"] == 1
    assert report.freed_bytes > 1_000_000
    assert before not in packs(home)
    assert sum(packs(home).values()) < 310_000
    assert store.stats().trapped_bytes == 0
    assert streamed(store.get("m:2")) == part(5)
    settled()


def test_a_pack_that_is_half_alive_is_left_alone(store: casstore.Store, home: Path, save: Save, settled: Check) -> None:
    save("m:1", part(1, 2, 3), materialize=False)
    save("m:2", part(2, 3), materialize=False)
    before = packs(home)
    store.delete("m:1")
    assert counts(store.gc())["rewritten"] == 0
    assert packs(home) == before
    settled()


def test_what_is_trapped_is_freed_on_request(store: casstore.Store, home: Path, save: Save, settled: Check) -> None:
    save("m:1", part(1, 2, 3), materialize=False)
    save("m:2", part(2, 3), materialize=False)
    store.delete("m:1")
    assert store.gc().freed_bytes == 0
    trapped = store.stats().trapped_bytes
    assert trapped > 250_000
    plan = next(step for step in store.gc(dry_run=True, rewrite=True).steps if step.name == "rewritten")
    assert plan.count == 1
    assert plan.freed_bytes == pytest.approx(trapped, rel=0.01)
    report = store.gc(rewrite=True)
    assert counts(report)["rewritten"] == 1
    assert report.freed_bytes == pytest.approx(trapped, rel=0.01)
    assert store.stats().trapped_bytes == 0
    assert counts(store.gc(rewrite=True))["rewritten"] == 0, "a pack that is needed whole is left alone"
    assert streamed(store.get("m:2")) == part(2, 3)
    settled()


def test_what_does_not_shrink_counts_as_nothing(store: casstore.Store, save: Save) -> None:
    """Packing noise adds headers."""
    save("m:1", {"w": noise(2_000_000, 1)})
    report = store.gc(evict_all=True)
    assert sum(step.freed_bytes for step in report.steps) < 0
    assert report.freed_bytes == 0


def test_small_packs_are_merged_once_they_are_many(
    store: casstore.Store, home: Path, save: Save, settled: Check
) -> None:
    for number in range(7):
        save(f"m:{number}", part(number), materialize=False)
    assert counts(store.gc())["rewritten"] == 0
    assert len(packs(home)) == 7
    save("m:7", part(7), materialize=False)
    plan = store.gc(dry_run=True)
    assert counts(plan)["rewritten"] == 8
    assert counts(store.gc())["rewritten"] == 8
    assert len(packs(home)) == 1
    assert [streamed(store.get(f"m:{number}")) for number in range(8)] == [part(number) for number in range(8)]
    settled()


@pytest.mark.parametrize("small", [5, 6, 7])
def test_one_gc_does_all_there_is_to_do(store: casstore.Store, home: Path, save: Save, settled: Check, small) -> None:
    """Also where the pack that it makes of cold files, or of one that was mostly dead, is one small pack more."""
    for number in range(small):
        save(f"m:{number}", part(number), materialize=False)
    save("x:1", part(100, 101, 102, 103), materialize=False)
    save("x:2", part(103), materialize=False)
    store.delete("x:1")
    save("cold:1", {"model.safetensors": checkpoint(0)["model.safetensors"]})
    store.gc(evict_all=True)
    settled()


def test_deltas_are_moved_as_they_are(
    store: casstore.Store, home: Path, save: Save, settled: Check, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(step):
        return {"w.safetensors": safetensors({"w": ("BF16", weights("BF16", 90, step, 100_000))})}

    for step in range(7):
        save(f"m:{step}", files(step), materialize=False)
    columns = "SELECT digest, length, raw_bytes, encoding, base, grouping, generation, depth FROM chunk ORDER BY digest"
    before = sql(columns)
    assert sum(row[4] is not None for row in before) == 6
    save("m:7", {"other.bin": b"x" * 1000}, materialize=False)
    store.gc()
    assert len(packs(home)) == 1
    kept = {row[0] for row in before}
    assert [row for row in sql(columns) if row[0] in kept] == before
    assert [streamed(store.get(f"m:{step}")) for step in range(7)] == [files(step) for step in range(7)]
    settled()


def test_new_packs_are_begun_where_one_is_full(
    store: casstore.Store, home: Path, save: Save, settled: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 700_000)
    monkeypatch.setattr(repack, "_SMALL_PACK_BYTES", 310_000)
    for number in range(8):
        save(f"m:{number}", part(number), materialize=False)
    for step in range(3):
        save(f"run:{step}", checkpoint(step))
    store.gc(evict_all=True)
    assert len(packs(home)) > 4
    assert max(packs(home).values()) < 2_000_000
    assert [streamed(store.get(f"m:{number}")) for number in range(8)] == [part(number) for number in range(8)]
    assert [streamed(store.get(f"run:{step}")) for step in range(3)] == [checkpoint(step) for step in range(3)]
    settled()


def test_a_chunk_that_gets_another_home_while_it_is_copied_keeps_that(
    store: casstore.Store, save: Save, settled: Check, sql: Sql, monkeypatch: pytest.MonkeyPatch, check_catalog: Check
) -> None:
    """After a reboot a relaxed chunk is stored anew, as a delta this time, just when gc has copied it as it was."""

    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 91, step, 100_000))})}

    save("b:0", files(0), materialize=False)
    save("m:1", {**files(1), **part(1, 2, 3)}, materialize=False, durability="relaxed")
    save("m:2", files(1), materialize=False, durability="relaxed")
    store.delete("m:1")
    sql("UPDATE container SET boot_id = 'another boot' WHERE boot_id IS NOT NULL")
    real = Repacking.move
    moves: list[Any] = []

    def move(self, *args, **kwargs):
        if not moves:
            moves.append(kwargs["verbatim"])
            with casstore.Store(store.home) as other:
                save("n:1", files(1), into=other, base="b:0", materialize=False)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Repacking, "move", move)
    store.gc(evict_all=True)
    assert moves == [True]
    monkeypatch.undo()
    check_catalog()
    assert sql("SELECT count(*) FROM chunk WHERE base IS NOT NULL") == [(1,)]
    for tag in ("m:2", "n:1"):
        assert streamed(store.get(tag)) == files(1)
    store.gc(evict_all=True)
    settled()
