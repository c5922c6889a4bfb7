"""gc and stats say what else could be freed, and that is what comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, known, noise


def test_what_gc_says_of_evicting_all_is_what_that_frees(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w": noise(3_000_000, 1)})
    store.gc(evict_all=True)
    made = subprocess.run(  # and its lease ends with it
        [sys.executable, "-c", "import casstore, sys; print(casstore.Store(sys.argv[1]).get('m:1').path)", home],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert Path(made.stdout.strip(), "w").stat().st_size == 3_000_000
    for report in (store.gc(dry_run=True), store.gc()):
        assert report.freed_bytes == 0
        assert (report.evictable_bytes, report.packable_bytes) == (3_000_000, 0)
    done = store.gc(evict_all=True)
    assert done.freed_bytes == pytest.approx(3_000_000, rel=0.001)
    assert (done.evictable_bytes, done.packable_bytes) == (0, 0)


def test_what_it_would_pack(store: casstore.Store, save: Save) -> None:
    save("m:1", {"w": noise(3_000_000, 1)})
    report = store.gc()
    assert (report.evictable_bytes, report.packable_bytes) == (0, 3_000_000)
    store.pin("m:1")
    assert store.gc().packable_bytes == 0, "a pin keeps it"
    store.unpin("m:1")
    assert store.get("m:1").path
    assert store.gc().packable_bytes == 0, "and so does a process that has asked for its path"


@pytest.mark.usefixtures("no_trash")
def test_versions_that_share_bytes_free_them_together(store: casstore.Store, save: Save) -> None:
    shared = noise(3_000_000, 1)
    save("m:1", {"w": shared, "a": noise(70_000, 2)}, materialize=False)
    save("m:2", {"w": shared}, materialize=False)
    save("m:3", {"w": noise(1_000_000, 3)}, materialize=False)
    assert known(store.stats("m:1").frees_bytes) < 80_000
    assert store.stats(["m:1"]).frees_bytes == store.stats("m:1").frees_bytes
    both = store.stats(["m:2", "m:1", "m:2"])
    assert (both.versions, both.logical_bytes) == (2, 6_070_000)
    assert both.frees_bytes == pytest.approx(3_070_000, rel=0.01)
    assert (both.materialized, both.pinned) == (None, None)
    store.delete("m:1")
    store.delete("m:2")
    assert store.gc().freed_bytes == pytest.approx(both.frees_bytes, rel=0.01)
    nothing = store.stats([])
    assert (nothing.versions, nothing.frees_bytes) == (0, 0)
    with pytest.raises(casstore.TagNotFound):
        store.stats(["m:3", "m:1"])
    with pytest.raises(casstore.InvalidTag):
        store.stats(["m:latest"])
