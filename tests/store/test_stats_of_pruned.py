"""What sync-tree --prune has deleted is kept for a while: no figure says that gc frees it before its time is up."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import casstore
from casstore.actions.packs import repack
from tests.kit import Save, checkpoint, known, noise

BIG = 1_300_000
pytestmark = pytest.mark.usefixtures("no_trash", "quiet")


@pytest.fixture
def pruned(store: casstore.Store, home: Path, save: Save):
    """pruned(tag, files): a version that has been saved, and deleted by sync-tree --prune."""

    def run(tag, files):
        save(tag, files)
        name, version = tag.split(":")
        shutil.rmtree(home / "models" / name / version)
        (home / "models" / name / "other").mkdir(exist_ok=True)  # the whole tree is never taken for a removal
        assert store.sync_tree(prune=True).deleted == (tag,)

    return run


@pytest.fixture
def object_bytes(home: Path):
    return lambda: sum(path.stat().st_size for path in (home / "objects").rglob("*") if path.is_file())


def test_it_is_not_dead(store: casstore.Store, pruned, save: Save, object_bytes) -> None:
    save("n:1", {"w": noise(BIG)[:700_000]})
    pruned("m:1", {"w.bin": noise(BIG), "few": b"few"})
    save("m:2", {"x.bin": noise(BIG, 2)})
    store.delete("m:2")
    before, usage = object_bytes(), store.stats()
    assert usage.kept_bytes > 500_000
    assert usage.stored_bytes == before == sum((
        usage.encoded_bytes, usage.redundant_bytes, usage.dead_bytes, usage.trapped_bytes, usage.overhead_bytes,
        usage.kept_bytes,
    ))  # fmt: skip
    for dry_run in (True, False):
        report = store.gc(dry_run=dry_run)
        freed = [step.freed_bytes for step in report.steps if step.name == "unneeded objects"]
        assert freed == [usage.dead_bytes] >= [BIG]


def test_a_deletion_does_not_free_what_it_needs(store: casstore.Store, pruned, save: Save, object_bytes) -> None:
    files = {"w.bin": noise(BIG)}
    save("n:1", {**files, "own.bin": noise(400_000, 3)}, materialize=False)
    assert known(store.stats("n:1").frees_bytes) > BIG
    pruned("m:1", files)
    usage = store.stats("n:1")
    assert usage.frees_bytes == store.stats(["n:1"]).frees_bytes
    assert 400_000 <= known(usage.frees_bytes) < BIG
    store.gc()
    before = object_bytes()
    store.delete("n:1")
    store.close()
    store.gc(evict_all=True, rewrite=True)
    assert abs(before - object_bytes() - usage.frees_bytes) < 1000


def test_deltas_need_their_bases(
    store: casstore.Store, pruned, save: Save, deltas, monkeypatch: pytest.MonkeyPatch, object_bytes
) -> None:
    monkeypatch.setattr(repack, "MIN_PACK_BYTES", 1, raising=False)
    for step in range(2):
        save(f"n:{step}", checkpoint(step))
    store.close()
    store.gc(evict_all=True)
    assert deltas()
    assert store.get("n:1").path
    shutil.rmtree(store.home / "models/n/1")
    (store.home / "models/n/other").mkdir()
    assert store.sync_tree(prune=True).deleted == ("n:1",)
    store.gc(evict_all=True)
    before, frees = object_bytes(), store.stats("n:0").frees_bytes
    store.delete("n:0")
    store.gc(evict_all=True, rewrite=True)
    assert known(frees) < 1000
    assert abs(before - object_bytes()) < 5000


def test_it_is_dead_when_its_time_is_up(store: casstore.Store, pruned, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("m:1", {"w.bin": noise(BIG)})
    assert store.stats().dead_bytes == 0
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 8 * 24 * 3600 * 10**9)
    usage = store.stats()
    assert (usage.kept_bytes, usage.dead_bytes) == (0, usage.stored_bytes)
    assert store.gc().freed_bytes >= usage.dead_bytes >= BIG
