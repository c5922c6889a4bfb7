"""stats: what it adds up is what stands on disk, and what it says a deletion frees is what comes back."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import casstore
from casstore.actions.packs import repack
from tests.kit import Picture, known, noise, plant

MIB = 1 << 20
# What a chunk costs in a pack besides its bytes, at most: the record's header and its entry in the index.
PER_CHUNK_BYTES = 300
pytestmark = pytest.mark.usefixtures("no_trash")


def object_files(home: Path) -> list[Path]:
    return [path for path in (home / "objects").rglob("*") if path.is_file()]


def object_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in object_files(home))


def tensors(**parts: bytes) -> bytes:
    """A safetensors file of bf16 tensors."""
    header, end = {}, 0
    for name, data in parts.items():
        header[name] = {"dtype": "BF16", "shape": [len(data) // 2], "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts.values())


@functools.lru_cache
def weights(seed: int, steps: int = 0) -> bytes:
    """2 MiB of bf16 numbers that have been trained on for so many steps."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(MIB, dtype=np.float32) * np.float32(0.02)
    for _ in range(steps):
        values = values + random.standard_normal(MIB, dtype=np.float32) * np.float32(1e-4)
    return (values.view("<u4") >> np.uint32(16)).astype("<u2").tobytes()


@pytest.fixture
def save(store: casstore.Store) -> Callable[..., casstore.Model]:
    def run(tag: str, materialize: bool = True, base: str | None = None, **files: bytes) -> casstore.Model:
        with store.create(tag, materialize=materialize, base=base, durability="relaxed") as draft:
            plant(draft.path, files)
        return draft.model

    return run


def nothing(store, save):
    pass


def alone(store, save):
    save("m:1", weights=noise(3 * MIB, 1), config=b"one")
    save("m:2", weights=noise(3 * MIB, 2), config=b"two")


def a_file_shared(store, save):
    save("m:1", shared=noise(3 * MIB), own=noise(2 * MIB, 1))
    save("m:2", shared=noise(3 * MIB), own=noise(2 * MIB, 2))


def everything_shared(store, save):
    save("m:1", shared=noise(3 * MIB))
    save("n:2", shared=noise(3 * MIB), config=b"two")


def chunks_shared(store, save):
    """The second has most of the first's chunks: it is redundant but for one of them. The third half of them."""
    first = [noise(MIB, seed) for seed in range(6)]
    save("m:1", w=tensors(**{f"t{i}": part for i, part in enumerate(first)}))
    second = [*first[:5], noise(MIB, 10)]
    save("m:2", w=tensors(**{f"t{i}": part for i, part in enumerate(second)}))
    third = [*first[:3], *(noise(MIB, seed) for seed in (20, 21, 22))]
    save("n:3", w=tensors(**{f"t{i}": part for i, part in enumerate(third)}))


def packed(store, save):
    chunks_shared(store, save)
    save("p:4", own=noise(3 * MIB, 30), small=b"small" * 1000)
    store.gc(evict_all=True)


def partly_evicted(store, save):
    packed(store, save)
    for tag in ("m:2", "p:4"):
        assert store.get(tag).path
    store.close()


def deltas(store, save):
    for steps in range(3):
        save(f"m:{steps}", w=tensors(a=weights(1, steps), b=weights(2, steps), c=noise(MIB, steps)))
    store.gc(evict_all=True)


def deltas_against_a_deleted_version(store, save):
    deltas(store, save)
    store.delete("m:1")


def never_materialized(store, save):
    for steps in range(3):
        save(f"m:{steps}", materialize=False, w=tensors(a=weights(1, steps), c=noise(MIB, steps)))
    save("n:1", materialize=False, w=noise(2 * MIB, 40))


def of_all_kinds(store, save):
    deltas(store, save)
    never = tensors(a=weights(1, 3), b=weights(2, 3))
    save("m:3", materialize=False, w=never)
    save("m:4", w=tensors(a=weights(1, 4), b=weights(2, 3), d=noise(MIB, 50)), config=b"4" * 2000)
    save("n:1", w=never, config=b"4" * 2000)
    assert store.get("m:0").path
    store.close()


def with_copies(store, save):
    store.set_setting("link_mode", "copy")
    chunks_shared(store, save)


def many_small_files(store, save):
    save("m:1", **{f"f{i}": noise(5000, i) for i in range(40)})
    save("m:2", **{f"f{i}": noise(5000, i) for i in range(20, 60)}, empty=b"")


# With how many versions each holds.
STORES = {
    nothing: 0, alone: 2, a_file_shared: 2, everything_shared: 2, chunks_shared: 3, packed: 4, partly_evicted: 4,
    deltas: 3, deltas_against_a_deleted_version: 2, never_materialized: 4, of_all_kinds: 6, with_copies: 3,
    many_small_files: 2,
}  # fmt: skip

OF_NOISE = (alone, a_file_shared, everything_shared, chunks_shared, with_copies, many_small_files)


def check_shares(usage: casstore.Usage) -> None:
    assert usage.logical_bytes >= usage.distinct_file_bytes >= usage.unique_bytes >= 0
    total = usage.share_by_file + usage.share_by_chunk + usage.share_by_encoding + usage.share_needed
    assert total == pytest.approx(1 if usage.logical_bytes else 0)
    assert usage.encoded_bytes == sum(each.encoded_bytes for each in usage.encodings.values())
    assert usage.ratio == (usage.logical_bytes / usage.stored_bytes if usage.stored_bytes else None)


def check_store(store: casstore.Store) -> None:
    usage = store.stats()
    check_shares(usage)
    files = object_files(store.home)
    packs = sum(path.stat().st_size for path in files if path.suffix == ".pack")
    assert usage.stored_bytes == object_bytes(store.home) == usage.loose_bytes + usage.packs_bytes
    assert usage.packs_bytes == packs
    parts = (usage.redundant_bytes, usage.dead_bytes, usage.trapped_bytes, usage.overhead_bytes)
    assert usage.stored_bytes == usage.encoded_bytes + sum(parts)
    assert min(parts) >= 0
    assert usage.dead_bytes == sum(s.freed_bytes for s in store.gc(dry_run=True).steps if s.name == "unneeded objects")
    assert usage.frees_bytes is usage.materialized is usage.pinned is None


def check_models_and_versions(store: casstore.Store) -> None:
    whole = store.stats()
    models = [store.stats(name) for name in store.names()]
    for add_up in ("versions", "logical_bytes", "copied_bytes"):
        assert sum(getattr(usage, add_up) for usage in models) == getattr(whole, add_up)
    for bound in ("distinct_file_bytes", "unique_bytes", "encoded_bytes"):
        shares = [getattr(usage, bound) for usage in models]
        assert max(shares, default=0) <= getattr(whole, bound) <= sum(shares)
    for model in store.list():
        usage = store.stats(model.tag)
        check_shares(usage)
        assert (usage.versions, usage.logical_bytes) == (1, model.size)
        assert usage.copied_bytes % 4096 == 0
        assert usage.copied_bytes > model.size
        assert usage.stored_bytes == usage.encoded_bytes == usage.loose_bytes + usage.packs_bytes
        assert usage.materialized == (store.home / "models" / model.tag.name / model.tag.version).exists()
        assert 0 <= known(usage.frees_at_rewrite_bytes) <= known(usage.frees_bytes) <= whole.stored_bytes
    for usage in models:
        check_shares(usage)
        assert usage.stored_bytes == usage.encoded_bytes == usage.loose_bytes + usage.packs_bytes


@pytest.mark.parametrize("make", STORES)
def test_all_adds_up(store: casstore.Store, save, make) -> None:
    make(store, save)
    check_store(store)
    check_models_and_versions(store)
    for model in store.list()[1:]:
        store.delete(model.tag)
        check_store(store)
        check_models_and_versions(store)
    store.gc()
    check_store(store)
    check_models_and_versions(store)
    assert store.stats().dead_bytes == 0
    store.gc(evict_all=True)
    check_store(store)
    check_models_and_versions(store)
    assert store.stats().redundant_bytes == store.stats().loose_bytes == 0


@pytest.mark.crash
@pytest.mark.parametrize("rewrites", [False, True], ids=["", "rewriting"])
@pytest.mark.parametrize(("make", "which"), [(make, which) for make, count in STORES.items() for which in range(count)])
def test_a_deletion_frees_what_stats_says(
    store: casstore.Store, save, monkeypatch: pytest.MonkeyPatch, make, which, rewrites
) -> None:
    """At the next gc, what is not in packs that others need too; all of it when gc rewrites these."""
    make(store, save)
    assert len(store.list()) == STORES[make]
    monkeypatch.setattr(repack, "_MERGE_FROM", 10**9)
    monkeypatch.setattr(repack, "_SPARSE_BELOW", 10**9 if rewrites else 0)
    store.gc()
    before, encodings = object_bytes(store.home), sum(e.chunks for e in store.stats().encodings.values())
    tag = sorted(str(model.tag) for model in store.list())[which]
    usage = store.stats(tag)
    store.delete(tag)
    after_deletion = store.stats()
    report = store.gc()
    came_back = before - object_bytes(store.home)
    assert report.freed_bytes == came_back
    expected = known(usage.frees_bytes)
    if not rewrites:
        expected -= known(usage.frees_at_rewrite_bytes)
    packed = next(step.count for step in report.steps if step.name == "packed")
    if not packed and not rewrites:
        assert came_back == expected == after_deletion.dead_bytes
    # Packs gain and lose headers; and what is packed may also shrink.
    slack = PER_CHUNK_BYTES * (encodings + 4)
    assert came_back >= expected - slack
    if not packed or make in OF_NOISE:
        assert came_back <= expected + slack
    assert store.verify().is_sound
    check_store(store)


def test_what_shares_nothing_frees_its_size(store: casstore.Store, save) -> None:
    alone(store, save)
    usage = store.stats("m:1")
    assert usage.materialized
    assert (usage.loose_bytes, usage.redundant_bytes) == (3 * MIB, 0)
    assert 3 * MIB < known(usage.frees_bytes) < 3 * MIB + 2000
    assert usage.frees_at_rewrite_bytes == 0
    assert (usage.share_by_file, usage.share_by_chunk) == (0, 0)


def test_equal_files_are_shared_and_freed_with_the_last(store: casstore.Store, save) -> None:
    everything_shared(store, save)
    assert store.stats().share_by_file == pytest.approx(0.5, abs=0.001)
    assert store.stats("m:1").frees_bytes == 0
    assert store.stats("n").share_by_file == 0
    store.delete("n:2")
    store.gc()
    assert store.stats("m:1").frees_bytes == 3 * MIB


def test_equal_chunks_are_shared(store: casstore.Store, save) -> None:
    chunks_shared(store, save)
    first, second = store.stats("m:1"), store.stats("m:2")
    assert (first.share_by_chunk, second.share_by_chunk) == (0, 0)
    assert store.stats("m").share_by_chunk == pytest.approx(5 / 12, abs=0.001)
    assert first.redundant_bytes == 0
    assert first.frees_bytes == pytest.approx(MIB, rel=0.01), "gc moves what the others need out of the file"
    assert second.redundant_bytes == pytest.approx(6 * MIB, rel=0.01), "its one new chunk went into a pack"
    assert second.frees_bytes == pytest.approx(7 * MIB, rel=0.01)


def test_the_base_of_deltas_is_needed_by_them(store: casstore.Store, save) -> None:
    deltas(store, save)
    first, last = store.stats("m:0"), store.stats("m:2")
    assert "delta" not in first.encodings
    assert last.encodings["delta"].chunks == 8, "its own, and those of the version between"
    assert last.unique_bytes == last.distinct_file_bytes, "a base is not what the version itself holds"
    assert sum(each.raw_bytes for each in last.encodings.values()) > last.unique_bytes
    assert known(first.frees_bytes) < 1.1 * MIB, "the one tensor against which nothing is stored"
    assert first.frees_at_rewrite_bytes == first.frees_bytes
    store.delete("m:0")
    store.delete("m:1")
    store.gc()
    assert store.stats().trapped_bytes > 2 * MIB, "too little for gc to rewrite the pack"
    assert store.stats("m:2").frees_bytes == store.stats().stored_bytes
    assert store.stats("m:2").frees_at_rewrite_bytes == 0


def test_materializing_adds_redundant_bytes_and_evicting_frees_them(store: casstore.Store, save) -> None:
    packed(store, save)
    cold = store.stats("p:4")
    assert not cold.materialized
    assert cold.redundant_bytes == cold.loose_bytes == 0
    assert store.get("p:4").path
    warm = store.stats("p:4")
    assert warm.materialized
    assert warm.redundant_bytes == 3 * MIB
    assert warm.frees_bytes == known(cold.frees_bytes) + 3 * MIB
    assert (warm.frees_at_rewrite_bytes, warm.stored_bytes) == (cold.frees_at_rewrite_bytes, cold.stored_bytes)


def test_what_another_version_holds_cold_frees_its_directory_s_file(store: casstore.Store, save) -> None:
    """Both need the file's one content; one of them has a directory, and the file stands for that alone."""
    everything_shared(store, save)
    store.gc(evict_all=True)
    assert store.get("m:1").path
    store.close()
    assert store.stats("m:1").frees_bytes == 3 * MIB == store.stats("m:1").redundant_bytes
    assert known(store.stats("n:2").frees_bytes) < 2000
    before = object_bytes(store.home)
    store.delete("m:1")
    store.gc()
    assert before - object_bytes(store.home) == 3 * MIB


def test_what_another_version_holds_cold_frees_what_is_redundant_in_the_file(store: casstore.Store, save) -> None:
    """It is the container of half of its chunks: those gc moves into a pack, the others stand elsewhere."""
    chunks_shared(store, save)
    with store.get("n:3").open("w") as file:
        save("o:4", w=file.read())
    for tag in ("m:1", "m:2", "n:3"):
        store.pin(tag)
    store.gc(evict_all=True)
    usage = store.stats("n:3")
    assert usage.frees_bytes == pytest.approx(3 * MIB, rel=0.01)
    assert usage.frees_at_rewrite_bytes == 0
    before = object_bytes(store.home)
    store.delete("n:3")
    store.gc()
    assert before - object_bytes(store.home) == pytest.approx(3 * MIB, rel=0.01)


def test_a_pin_is_told(store: casstore.Store, save) -> None:
    alone(store, save)
    assert store.stats("m:1").pinned is False
    store.pin("m:1")
    assert store.stats("m:1").pinned is True


def test_an_empty_store(store: casstore.Store) -> None:
    usage = store.stats()
    assert (usage.versions, usage.stored_bytes, usage.copied_bytes, usage.ratio) == (0, 0, 0, None)
    assert usage.share_needed == usage.share_by_file == 0
    assert usage.encodings == {}


def test_versions_without_bytes(store: casstore.Store, save) -> None:
    save("m:1")
    save("m:2", empty=b"")
    for usage in (store.stats(), store.stats("m"), store.stats("m:2")):
        check_shares(usage)
        assert (usage.stored_bytes, usage.ratio) == (0, None)
    assert store.stats("m:2").frees_bytes == 0
    check_store(store)


def test_what_is_not_there(store: casstore.Store, save) -> None:
    alone(store, save)
    store.delete("m:1")
    with pytest.raises(casstore.TagNotFound):
        store.stats("m:1")
    with pytest.raises(casstore.TagNotFound):
        store.stats("x")
    assert store.stats("m").versions == 1
    assert store.stats("m:latest").logical_bytes == store.stats("m:2").logical_bytes
    store.delete("m:2")
    with pytest.raises(casstore.TagNotFound):
        store.stats("m")
    assert store.stats().dead_bytes == store.stats().stored_bytes == object_bytes(store.home) > 0


def test_a_version_that_is_deleted_between_look_up_and_sum(
    store: casstore.Store, save, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(store, save)
    real = casstore.catalog.usage.UsageReport.of_version

    def of_version(self, row, kept):
        store.delete(row.tag)
        return real(self, row, kept)

    monkeypatch.setattr(casstore.catalog.usage.UsageReport, "of_version", of_version)
    with pytest.raises(casstore.TagNotFound, match="meanwhile"):
        store.stats("m:1")


def test_asking_changes_nothing(store: casstore.Store, save, picture: Picture) -> None:
    of_all_kinds(store, save)
    before = picture()
    for name in (None, "m", "m:2", "n:1"):
        assert store.stats(name) == store.stats(name)
    assert picture() == before
