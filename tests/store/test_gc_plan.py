"""gc is a plan and its application: the plan says what comes back, and applying it looks again at each thing."""

from __future__ import annotations

import contextlib

import pytest

import casstore
from casstore.actions.gc.apply import apply
from casstore.actions.gc.plan import plan
from casstore.actions.gc.report import GcOptions
from casstore.actions.packs import estimate
from casstore.catalog.marks import Marks
from casstore.catalog.repacking import Repacking
from casstore.progress import SILENT
from casstore.storage import files
from tests.kit import checkpoint, noise, plant, streamed

MIB = 1 << 20
ALL = GcOptions(evict_all=True, rewrite=True)
pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_trash")]


@pytest.fixture
def save(store):
    def run(tag, contents, **options):
        with store.create(tag, durability="relaxed", **options) as draft:
            plant(draft.path, contents)
        return contents

    return run


def run_of_training(save):
    for step in range(6):
        save(f"run:{step}", checkpoint(step, size=400_000))


def two_runs_and_other_files(save):
    run_of_training(save)
    for step in range(3):
        save(f"other:{step}", checkpoint(step, dtype="F32", seed=9, size=300_000), labels={"step": str(step)})
    save("text:1", {"log.txt": b"".join(b"step %d loss %d\n" % (i, i * i % 97) for i in range(100_000))})


def noise_alone(save):
    save("m:1", {f"{seed}.bin": noise(MIB, seed) for seed in range(3)})


def packs_with_dead_chunks(save):
    """`store.delete` is left to the test."""
    for tag, seeds in {"doomed:1": (1, 2, 3), "kept:1": (3, 4)}.items():
        save(tag, {f"{seed}.bin": noise(200_000, seed) for seed in seeds}, materialize=False)


def nothing(_):
    pass


@pytest.mark.parametrize(
    "fill", [run_of_training, two_runs_and_other_files, noise_alone, packs_with_dead_chunks, nothing]
)
def test_a_dry_run_says_what_comes_back(store, save, fill, picture):
    fill(save)
    for tag in store.tags():
        if tag.startswith("doomed"):
            store.delete(tag)
    before = picture()
    planned = store.gc(dry_run=True, evict_all=True, rewrite=True)
    assert picture() == before
    done = store.gc(evict_all=True, rewrite=True)
    for expected, step in zip(planned.steps, done.steps, strict=True):
        assert (expected.name, expected.count) == (step.name, step.count)
        most = 1000 * step.count if step.name in ("rewritten", "packed") else 0
        assert expected.freed_bytes == pytest.approx(step.freed_bytes, abs=most), step.name
    assert store.verify().is_sound


@pytest.mark.parametrize("fill", [run_of_training, two_runs_and_other_files])
def test_of_much_a_sample_is_encoded(store, save, fill, monkeypatch):
    fill(save)
    monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 4 * MIB)
    [planned] = [step for step in store.gc(dry_run=True, evict_all=True).steps if step.name == "packed"]
    [done] = [step for step in store.gc(evict_all=True).steps if step.name == "packed"]
    assert planned.freed_bytes != done.freed_bytes
    assert planned.freed_bytes == pytest.approx(done.freed_bytes, rel=0.1)


def test_a_damaged_file_does_not_stop_a_dry_run(store, home, save):
    noise_alone(save)
    damaged = max((home / "objects/loose").glob("*/*"))
    damaged.chmod(0o644)
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    report = store.gc(dry_run=True, evict_all=True)
    assert [step.count for step in report.steps if step.name == "packed"] == [3 if not report.altered else 0]


@pytest.fixture
def busy(store, save):
    """A store with work for every step; what it holds afterwards."""
    run_of_training(save)
    packs_with_dead_chunks(save)
    save("gone:1", {"w.bin": noise(MIB, 50)})
    expected = {tag: streamed(store.get(tag)) for tag in store.tags() if tag not in ("doomed:1", "gone:1")}
    store.close()  # or what `get` handed out would be in use
    store.delete("doomed:1")
    store.delete("gone:1")
    return expected


def planned(store, wishes=ALL):
    return plan(store._workspace, wishes, measured=False)


def holds(store, expected):
    assert {tag: streamed(store.get(tag)) for tag in store.tags()} == expected
    assert store.verify().is_sound


def settled(store):
    assert [step.count for step in store.gc(evict_all=True).steps] == [0] * 9


def test_a_plan_is_applied_twice(store, busy):
    decided = planned(store)
    first = apply(store._workspace, decided, SILENT)
    assert {step.name for step in first.steps if step.count} >= {"idle directories", "rewritten", "packed"}
    second = apply(store._workspace, decided, SILENT)
    assert second.freed_bytes == 0
    holds(store, busy)
    store.close()
    settled(store)


POINTS = ((Marks, "condemn"), (Repacking, "move"), (files, "remove_file"), (files, "remove_tree"))


@pytest.mark.parametrize(("owner", "name"), POINTS, ids=[name for _, name in POINTS])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_plan_that_was_cut_short_is_applied_again(store, busy, monkeypatch, owner, name, moment):
    decided = planned(store)
    real, calls, stop_at = getattr(owner, name), [], 1

    def stop(*args, **options):
        calls.append(name)
        if moment == "before" and len(calls) == stop_at:
            raise KeyboardInterrupt
        result = real(*args, **options)
        if moment == "after" and len(calls) == stop_at:
            raise KeyboardInterrupt
        return result

    while stop_at <= 3:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            with contextlib.suppress(KeyboardInterrupt):
                apply(store._workspace, decided, SILENT)
        assert calls or stop_at > 1
        stop_at += 1
    apply(store._workspace, decided, SILENT)
    holds(store, busy)
    store.close()
    store.gc(evict_all=True)
    settled(store)


def test_what_is_needed_again_by_then_stays(store, home, save, busy):
    """Saved, opened, pinned and deleted between plan and application, by another process as it were."""
    decided = planned(store)
    assert len(decided.objects.unneeded) == 1
    assert len(decided.evictions.candidates) == 6
    with casstore.Store(home) as other:
        again = {"w.bin": noise(MIB, 50)}
        with other.create("again:1") as draft:
            plant(draft.path, again)
        other.pin("run:1")
        assert other.get("run:2").path
        other.delete("run:4")
        report = apply(store._workspace, decided, SILENT)
    del busy["run:4"]
    steps = {step.name: step.count for step in report.steps}
    assert steps["unneeded objects"] == 0
    assert steps["idle directories"] == 3
    holds(store, busy | {"again:1": again})
    assert (home / "models/run/1").is_dir()


def test_a_plan_names_each_thing(store, busy):
    decided = planned(store)
    assert [str(each.tag) for each in decided.evictions.candidates] == [f"run:{step}" for step in range(6)]
    assert len(decided.objects.cold) == 6
    assert {tag for _, tag in decided.unfinished.tombstones} == set()
    assert decided.objects.packed_bytes == 0
    measured = plan(store._workspace, ALL, measured=True)
    assert measured.objects.packed_bytes > 0
    assert measured.report().dry_run
