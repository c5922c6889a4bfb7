"""Packing: gc moves what is cold into packs, as deltas where that pays, and every version reads back bit by bit."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore.actions.saving.packing import SavePacker
from casstore.catalog.marks import Marks
from casstore.catalog.references import References
from casstore.catalog.repacking import Repacking
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.objects import Objects
from tests.kit import (
    EVERY,
    Age,
    Check,
    Picture,
    Save,
    Sql,
    checkpoint,
    contents,
    counts,
    known,
    noise,
    part,
    plant,
    safetensors,
    streamed,
    torch_file,
    weights,
)

BIG = 1_500_000


@pytest.mark.parametrize(("dtype", "share"), [("F32", 0.75), ("F16", 0.5), ("BF16", 0.4)])
def test_a_run_of_checkpoints(store: casstore.Store, save: Save, settled: Check, deltas, dtype, share) -> None:
    size = 330_000 if dtype == "F32" else 660_000
    saved = {f"m:{step}": checkpoint(step, dtype, size=size) for step in range(5)}
    for tag, files in saved.items():
        save(tag, files)
    before = store.stats()
    report = store.gc(evict_all=True)
    assert {step.name: step.count for step in report.steps}["packed"] == 5
    after = store.stats()
    assert after.loose_bytes == 0
    assert after.stored_bytes < before.stored_bytes * share
    assert after.unique_bytes == before.unique_bytes
    assert report.freed_bytes == before.stored_bytes - after.stored_bytes + _evicted(report)
    assert deltas() == 2 * 4 * 2, "every chunk of the layers of every step but the first"
    assert not any(path.is_dir() for path in (store.home / "models").glob("*/*"))
    settled()
    assert {tag: streamed(store.get(tag)) for tag in saved} == saved
    assert {tag: contents(store.get(tag)) for tag in saved} == saved
    store.close()
    store.gc(evict_all=True)
    settled()


def _evicted(report):
    return next(step.freed_bytes for step in report.steps if step.name == "idle directories")


def test_tensors_that_moved(store: casstore.Store, save: Save, settled: Check, deltas) -> None:
    """Within the file, into other files, under other paths: their names find them."""

    def tensors(step):
        return {f"t{n}": ("F32", weights("F32", 20 + n, step, 300_000)) for n in range(3)}

    def some(step, *names):
        return safetensors({name: tensors(step)[name] for name in names})

    saved = {
        "m:1": {"model.safetensors": some(0, "t0", "t1", "t2")},
        "m:2": {"model.safetensors": some(1, "t2", "t0", "t1")},
        "m:3": {"a.safetensors": some(2, "t1"), "deep/b.safetensors": some(2, "t2", "t0")},
        "m:4": {"c.safetensors": some(3, "t0", "t1", "t2")},
    }
    for tag, files in saved.items():
        save(tag, files)
    store.gc(evict_all=True)
    assert deltas() == 3 * 3 * 2
    assert {tag: streamed(store.get(tag)) for tag in saved} == saved
    settled()


def test_rows_appended_to_a_tensor(store: casstore.Store, save: Save, settled: Check, deltas) -> None:
    """The chunks of before have the same places; what is new, and the chunk that grew, has no base."""
    old, new = weights("F32", 30, 0, 600_000), weights("F32", 30, 1, 600_000)
    more = weights("F32", 31, 0, 300_000)
    saved = {
        "m:1": {"w.safetensors": safetensors({"emb": ("F32", old.reshape(-1, 100))})},
        "m:2": {"w.safetensors": safetensors({"emb": ("F32", np.concatenate([new, more]).reshape(-1, 100))})},
    }
    for tag, files in saved.items():
        save(tag, files)
    store.gc(evict_all=True)
    assert deltas() == 2
    assert {tag: streamed(store.get(tag)) for tag in saved} == saved
    settled()


def test_another_dtype_has_no_base(store: casstore.Store, save: Save, settled: Check, deltas) -> None:
    saved = {
        "m:1": {"w.safetensors": safetensors({"w": ("F16", weights("F16", 1, 0, 700_000))})},
        "m:2": {"w.safetensors": safetensors({"w": ("BF16", weights("BF16", 1, 1, 700_000))})},
    }
    for tag, files in saved.items():
        save(tag, files)
    store.gc(evict_all=True)
    assert deltas() == 0
    assert {tag: streamed(store.get(tag)) for tag in saved} == saved
    settled()


def test_files_of_other_kinds(store: casstore.Store, save: Save, settled: Check, deltas, home: Path) -> None:
    def files(step):
        return {
            "opaque.bin": noise(BIG) + b"%d" % step + noise(BIG, 1),
            "text.log": b"loss 0.%d\n" % step * 200_000,
            "model.pt": torch_file(weights("F32", 40, step, 400_000).tobytes()),
            "small.txt": b"%d" % step,
            "run.sh!": b"#!/bin/sh\n" * 9000,
            "empty": b"",
        }

    for step in range(3):
        save(f"m:{step}", files(step))
    store.gc(evict_all=True)
    assert deltas() >= 2, "the storage of a torch file is a tensor too"
    for step in range(3):
        expected = {name.removesuffix("!"): content for name, content in files(step).items()}
        assert streamed(store.get(f"m:{step}")) == expected
    assert store.stats().loose_bytes == 0
    settled()
    assert os.access(Path(store.get("m:1").path, "run.sh"), os.X_OK)


def test_equal_content_under_two_names(store: casstore.Store, save: Save, settled: Check) -> None:
    for step in range(3):
        save(f"a:{step}", checkpoint(step))
        save(f"b:{step}", checkpoint(step))
    store.gc(evict_all=True)
    stored = store.stats().stored_bytes
    for name in "ab":
        for step in range(3):
            assert streamed(store.get(f"{name}:{step}")) == checkpoint(step)
    for step in range(3):
        store.delete(f"a:{step}")
    store.gc(evict_all=True)
    assert store.stats().stored_bytes == stored
    assert [streamed(store.get(f"b:{step}")) for step in range(3)] == [checkpoint(step) for step in range(3)]
    settled()


def test_the_base_that_the_caller_names(store: casstore.Store, save: Save, settled: Check, deltas) -> None:
    save("base:1", checkpoint(0))
    save("base:2", checkpoint(0, seed=50))
    save("tuned:1", checkpoint(1), base="base:1")
    assert str(known(store.get("tuned:1").base).tag) == "base:1"
    store.gc(evict_all=True)
    assert deltas() == 4
    assert streamed(store.get("tuned:1")) == checkpoint(1)
    save("other:1", checkpoint(2), base="tuned:1", materialize=False)
    assert deltas() == 8
    for tag in ("base:1", "base:2"):
        store.delete(tag)
    store.gc(evict_all=True)
    assert streamed(store.get("tuned:1")) == checkpoint(1)
    assert streamed(store.get("other:1")) == checkpoint(2)
    settled()


def test_packing_leaves_hot_files_alone_and_packs_them_once_cold(
    store: casstore.Store, save: Save, age: Age, settled: Check, home: Path
) -> None:
    for step in range(3):
        save(f"m:{step}", checkpoint(step))
    age(30)
    store.gc()
    assert [path.name for path in (home / "models/m").iterdir() if path.is_dir()] == ["2"]
    assert store.stats().loose_bytes == len(checkpoint(2)["model.safetensors"])
    assert [streamed(store.get(f"m:{step}")) for step in range(3)] == [checkpoint(step) for step in range(3)]
    save("m:3", checkpoint(3))
    age(30)
    store.gc()
    assert store.stats().loose_bytes == len(checkpoint(3)["model.safetensors"])
    assert [streamed(store.get(f"m:{step}")) for step in range(4)] == [checkpoint(step) for step in range(4)]
    store.gc(evict_all=True)
    settled()


def test_no_chain_is_deeper_than_eight(
    store: casstore.Store, save: Save, settled: Check, sql: Sql, check_catalog: Check
) -> None:
    def files(step):
        return {"w.safetensors": safetensors({"w": ("BF16", weights("BF16", 60, step, 40_000))})}

    for step in range(40):
        save(f"m:{step}", files(step), materialize=step % 3 == 0)
        if step % 7 == 0:
            store.gc(evict_all=True)
            check_catalog()
    store.gc(evict_all=True)
    ((depth, count),) = sql("SELECT max(depth), count(*) FROM chunk WHERE base IS NOT NULL")
    assert 4 <= depth <= 6 < MAX_DELTA_LINKS, (
        "below 5 + log4(40 / 5): few links, though each could go to the step before"
    )
    assert count >= 35
    assert [streamed(store.get(f"m:{step}")) for step in range(40)] == [files(step) for step in range(40)]
    settled()


def test_an_open_reader_decodes_only_what_is_touched(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 70, step, 1 << 20))})}

    for step in range(3):
        save(f"m:{step}", files(step))
    store.gc(evict_all=True)
    decoded = []
    real = Objects._decode

    def decode(self, digest, *arguments):
        decoded.append(digest)
        return real(self, digest, *arguments)

    monkeypatch.setattr(Objects, "_decode", decode)
    content = files(2)["w.safetensors"]
    with store.get("m:2").open("w.safetensors") as file:
        assert file.seek(2_500_000) == 2_500_000
        assert file.read(100) == content[2_500_000:2_500_100]
        assert file.read(100) == content[2_500_100:2_500_200]
        assert len(decoded) == 1
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        assert len(decoded) == 2
        file.seek(0)
        assert file.read(8) == content[:8]
        assert len(decoded) == 3


def test_a_dry_run_says_what_would_be_packed(store: casstore.Store, save: Save, picture: Picture) -> None:
    for step in range(3):
        save(f"m:{step}", checkpoint(step))
    before = picture()
    plan = store.gc(dry_run=True, evict_all=True)
    assert picture() == before
    done = store.gc(evict_all=True)
    assert counts(plan) == counts(done)
    assert counts(plan)["packed"] == 3


def test_what_is_packed_and_saved_again_is_known(store: casstore.Store, save: Save, settled: Check, home: Path) -> None:
    for step in range(3):
        save(f"m:{step}", checkpoint(step))
    store.gc(evict_all=True)
    stored = store.stats().packs_bytes
    model = save("again:1", checkpoint(2))
    assert store.stats().packs_bytes == stored
    assert streamed(model) == checkpoint(2)
    store.gc(evict_all=True)
    assert store.stats().stored_bytes == stored
    settled()


# materialize=False: straight into packs, nothing under models/.


@pytest.mark.parametrize("durability", ["full", "relaxed"])
@pytest.mark.parametrize("how", ["draft", "save", "move"])
def test_a_version_without_a_directory(
    store: casstore.Store, home: Path, settled: Check, tmp_path: Path, how, durability
) -> None:
    extra = {"opaque.bin": noise(BIG), "run!": b"#!/bin/sh", "empty": b"", "hollow": None, "deep/er/x": b"x"}
    everything = []
    for step in range(3):
        files = {**checkpoint(step), **extra}
        everything.append({name.removesuffix("!"): content for name, content in files.items() if content is not None})
        options = {"materialize": False, "durability": durability, "labels": {"step": str(step)}}
        if how == "draft":
            with store.create(f"m:{step}", **options) as draft:
                plant(draft.path, files)
            model = draft.model
        else:
            source = plant(tmp_path / f"s{step}", files)
            model = store.save(f"m:{step}", source, move=how == "move", **options)
            assert source.exists() == (how == "save")
        assert os.listdir(home / "models") == []
        assert [path for path in (home / "objects/loose").rglob("*") if path.is_file()] == []
        assert os.listdir(home / "sessions") == []
        assert model == store.get(f"m:{step}")
        assert streamed(model) == everything[step]
        assert os.listdir(home / "models") == []
    assert [str(model.tag) for model in store.list("m", labels={"step": "1"})] == ["m:1"]
    assert store.stats().loose_bytes == 0
    assert store.stats().encodings["delta"].chunks == 2 * 2 * 2
    settled()
    for step in range(3):
        with store.get(f"m:{step}").open("model.yaml") as file:
            described = file.read()
        root = Path(store.get(f"m:{step}").path)
        assert (root / "model.yaml").read_bytes() == described
        assert b"version: '%d'" % step in described
        assert contents(store.get(f"m:{step}")) == everything[step]
        assert os.access(root / "run", os.X_OK)
        assert (root / "hollow").is_dir()
    assert (home / "models/m/latest").read_text() == "2"
    store.close()
    store.gc(evict_all=True)
    settled()


def test_saved_again_without_a_directory_it_is_known(store: casstore.Store, save: Save, settled: Check) -> None:
    save("m:1", checkpoint(1), materialize=False)
    stored = store.stats().stored_bytes
    save("m:2", checkpoint(1), materialize=False)
    save("n:1", checkpoint(1), materialize=False)
    assert store.stats().stored_bytes == stored
    model = save("n:2", checkpoint(1))
    assert store.stats().packs_bytes == stored
    assert contents(model) == checkpoint(1)
    for tag in ("m:1", "m:2", "n:1"):
        assert streamed(store.get(tag)) == checkpoint(1)


def test_a_tag_that_is_taken_is_refused_without_a_directory_too(
    store: casstore.Store, save: Save, picture: Picture
) -> None:
    save("m:1", checkpoint(1), materialize=False)
    before = picture()
    with pytest.raises(casstore.TagExists):
        save("m:1", checkpoint(2), materialize=False)
    assert picture() == before


def test_a_source_that_changes_while_it_is_packed(
    store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Picture
) -> None:
    source = plant(tmp_path / "out", checkpoint(1))
    before = picture()
    real = SavePacker.add

    def add(self, file, wanted, advance):
        if file.path == "model.safetensors":
            with open(source / file.path, "r+b") as other:
                other.seek(1_000_000)
                other.write(b"changed")
        return real(self, file, wanted, advance)

    monkeypatch.setattr(SavePacker, "add", add)
    with pytest.raises(casstore.FileChanged, match=r"model\.safetensors"):
        store.save("m:1", source, materialize=False)
    assert picture() == before


@pytest.mark.parametrize("materialize", [True, False])
def test_a_file_of_which_little_is_new(
    store: casstore.Store, save: Save, settled: Check, deltas, materialize, home: Path
) -> None:
    """Its new chunks go into a pack at the commit, each against the chunk at its place."""
    old = weights("F32", 95, 0, 2 << 20)
    new = old.copy()
    new[300_000:400_000] = weights("F32", 95, 1, 2 << 20)[300_000:400_000]
    saved = {tag: {"w.safetensors": safetensors({"w": ("F32", each)})} for tag, each in (("m:1", old), ("m:2", new))}
    save("m:1", saved["m:1"])
    save("m:2", saved["m:2"], materialize=materialize)
    assert deltas() == 1
    assert store.stats().packs_bytes < 1_000_000
    store.gc(evict_all=True)
    assert {tag: contents(store.get(tag)) for tag in saved} == saved
    store.close()
    store.gc(evict_all=True)
    settled()


def test_links_and_pickled_objects_without_a_directory(store: casstore.Store, tmp_path: Path, home: Path) -> None:
    target = plant(tmp_path / "elsewhere", checkpoint(0))
    with store.create("m:1", materialize=False, custom_objects={"answer": 42}) as draft:
        os.symlink(target / "model.safetensors", f"{draft.path}/linked.safetensors")
        os.symlink(target, f"{draft.path}/sub")
    read = streamed(draft.model)
    assert draft.model.custom_objects == {"answer": 42}
    assert read.pop("linked.safetensors") == checkpoint(0)["model.safetensors"]
    assert {name: read[f"sub/{name}"] for name in checkpoint(0)} == checkpoint(0)
    assert os.listdir(home / "models") == []
    assert (target / "model.safetensors").stat().st_mode & 0o200


def test_packing_where_nothing_is_linked(store: casstore.Store, save: Save, settled: Check, home: Path) -> None:
    store.set_setting("link_mode", "copy")
    for step in range(3):
        save(f"m:{step}", checkpoint(step), materialize=step != 1)
    store.gc(evict_all=True)
    assert store.stats().loose_bytes == 0
    assert [contents(store.get(f"m:{step}")) for step in range(3)] == [checkpoint(step) for step in range(3)]
    assert not any(path.stat().st_nlink > 1 for path in home.rglob("*") if path.is_file())
    store.close()
    store.gc(evict_all=True)
    settled()


@pytest.mark.usefixtures("no_trash")
def test_in_what_order_gc_writes_and_takes_away(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack is on disk, by name too, before it is the container of anything; a file is condemned before it is
    unlinked."""
    monkeypatch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 1_000_000)
    for step in range(3):
        save(f"m:{step}", checkpoint(step))
    save("x:1", part(1, 2, 3, 4), materialize=False)
    save("x:2", part(4), materialize=False)
    store.delete("x:1")
    log = []

    def note(owner, name, words):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            log.extend(words(*args))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    def condemned(self, containers, *_):
        return [("condemn", container.file_id) for container in containers]

    note(os, "fsync", lambda descriptor: [("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))])
    note(os, "unlink", lambda path, **_: [("unlink", str(path))])
    note(Repacking, "move", lambda _, new, *__: [("move", new.file_id)])
    note(Marks, "condemn", condemned)
    store.gc(evict_all=True)
    moved = [file_id for what, file_id in log if what == "move"]
    assert len(moved) > 3
    for file_id in moved:
        synced = log.index(("fsync", str(home / f"objects/packs/{file_id}.pack")))
        assert ("fsync", str(home / "objects/packs")) in log[synced : log.index(("move", file_id))]
    unlinked = [path for what, path in log if what == "unlink" and "/objects/" in path]
    assert len(unlinked) > 3
    for path in unlinked:
        file_id = Path(path).stem if path.endswith(".pack") else Path(path).suffix[1:]
        assert log.index(("condemn", file_id)) < log.index(("unlink", path))


def test_gc_holds_no_file_open_that_it_has_unlinked(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, what it has taken away must make room for what it writes next."""
    monkeypatch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 1_000_000)
    for step in range(4):
        save(f"m:{step}", checkpoint(step))
    real = References.forget_containers
    held = []

    def forget_containers(self, containers):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                path = os.readlink(f"/proc/self/fd/{name}")
                held.extend([path] * (str(store.home / "objects") in path and path.endswith("(deleted)")))
        return real(self, containers)

    monkeypatch.setattr(References, "forget_containers", forget_containers)
    store.gc(evict_all=True)
    assert held == []


# Random histories.

_VERBS = st.one_of(
    st.tuples(st.just("save"), st.integers(0, 2), st.integers(0, 5), st.booleans(), st.integers(0, 9)),
    st.tuples(st.just("save"), st.integers(0, 2), st.integers(0, 5), st.booleans(), st.none()),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("again"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("path"), st.integers(0, 9)),
    st.tuples(st.just("gc")),
    st.tuples(st.just("evict")),
    st.tuples(st.just("evict")),
)


@settings(
    max_examples=200 if EVERY else 10,
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(_VERBS, max_size=14))
def test_any_history_of_versions_reads_back(tmp_path_factory: pytest.TempPathFactory, verbs) -> None:
    """Three series of weights, one of them with its tensors swapped at odd steps, one over two files."""

    def make(series, step):
        tensors = {n: ("BF16", weights("BF16", 80 + 2 * series + n, step, 40_000 + n)) for n in range(2)}
        if series == 1 and step % 2:
            tensors = {0: tensors[1], 1: tensors[0]}
        if series == 2:
            return {f"{n}.safetensors": safetensors({f"t{n}": tensors[n]}) for n in tensors}
        return {"w.safetensors": safetensors({f"t{n}": each for n, each in tensors.items()}), "n": b"%d" % step}

    home = tmp_path_factory.mktemp("history")
    expected: dict[Any, Any] = {}
    with casstore.Store(home / "store") as store:
        for number, (verb, *arguments) in enumerate(verbs):
            tags = sorted(expected)
            if verb == "save" or (verb == "again" and tags):
                base = None
                if verb == "save":
                    series, step, materialize, which = arguments
                    files = make(series, step)
                    base = tags[which % len(tags)] if which is not None and tags else None
                else:
                    files, materialize = expected[tags[arguments[0] % len(tags)]], arguments[1]
                    series = number % 3
                tag = f"{'abc'[series]}:{number}"
                with store.create(tag, base=base, materialize=materialize, durability="relaxed") as draft:
                    plant(draft.path, files)
                expected[tag] = files
            elif verb == "delete" and tags:
                store.delete(tags[arguments[0] % len(tags)])
                del expected[tags[arguments[0] % len(tags)]]
            elif verb == "path" and tags:
                assert os.path.isdir(store.get(tags[arguments[0] % len(tags)]).path)
            elif verb in ("gc", "evict"):
                if number % 2:
                    store.close()
                store.gc(evict_all=verb == "evict")
            assert {str(model.tag): streamed(model) for model in store.list()} == expected
        assert store.verify().is_sound
        store.close()
        store.gc(evict_all=True)
        assert {step.count for step in store.gc(evict_all=True).steps} == {0}
        assert {str(model.tag): streamed(model) for model in store.list()} == expected
    shutil.rmtree(home)
