"""Saving: what goes in comes out, shared where it can be, and with nothing copied that need not be."""

from __future__ import annotations

import datetime
import errno
import os
import stat
import time
from pathlib import Path

import numpy
import pytest

import casstore
from tests.crash import tracer
from tests.kit import Save, contents, known, noise, plant

BIG = 2_500_000


@pytest.fixture
def tmp_path(disk: Path):
    """Most other tests work in memory: these see to it that all goes well where stores really are."""
    return disk


def loose_inodes(home: Path) -> dict[int, str]:
    return {path.stat().st_ino: path.name for path in (home / "objects/loose").rglob("*") if path.is_file()}


def test_what_is_written_into_a_draft_is_saved(store: casstore.Store) -> None:
    files = {
        "config.json": b'{"a": 1}',
        "weights.bin": noise(BIG),
        "deep/er/still.txt": b"x" * 70_000,
        "empty": b"",
        "run.sh!": b"#!/bin/sh\n",
    }
    with store.create("bert:v1") as draft:
        plant(draft.path, {**files, "hollow/inside": None})
    model = draft.model
    assert model == store.get("bert:v1")
    assert str(model.tag) == "bert:v1"
    assert contents(model) == {name.removesuffix("!"): content for name, content in files.items()}
    assert model.size == sum(map(len, files.values()))
    assert model.file_count == len(model.files) == len(files)
    assert [file.path for file in model.files] == sorted(name.removesuffix("!") for name in files)
    assert [file.path for file in model.files if file.executable] == ["run.sh"]
    root = Path(model.path)
    assert root.parts[-3:] == ("models", "bert", "v1")
    assert (root / "hollow/inside").is_dir()
    assert stat.S_IMODE((root / "run.sh").stat().st_mode) & 0o111
    assert not any(path.stat().st_mode & 0o222 for path in root.rglob("*") if path.is_file())


def test_empty_directories_are_made_again(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {"a/b/c": None, "d": None, "e/file": b"1"})
    path = Path(draft.model.path)
    os.rename(path, path.with_name("elsewhere"))
    again = Path(store.get("m:1").path)
    assert sorted(str(p.relative_to(again)) for p in again.rglob("*") if p.is_dir()) == ["a", "a/b", "a/b/c", "d", "e"]


def test_a_version_of_metadata_alone(store: casstore.Store) -> None:
    with store.create("m", metadata={"a": 1}) as draft:
        pass
    assert draft.model.files == ()
    assert draft.model.size == 0
    assert os.listdir(draft.model.path) == ["model.yaml"]
    assert store.verify().is_sound


def test_versions_sort_by_time_and_a_clock_that_steps_back_changes_no_latest(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [store.create("m") for _ in range(3)]
    for draft in tags:
        with draft:
            pass
    versions = [draft.tag.version for draft in tags]
    assert versions == sorted(versions)
    assert all(len(version) == 16 for version in versions)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 10**15)
    with store.create("m:late"):
        pass
    assert store.get("m").tag.version == "late"
    assert store.list("m")[0].tag.version == "late"
    assert (store.home / "models/m/latest").read_text() == "late"


def test_labels_and_metadata_are_kept_and_found(store: casstore.Store) -> None:
    metadata = {
        "acc": numpy.float32(0.5),
        "steps": numpy.int64(7),
        "flag": numpy.bool_(True),
        "matrix": numpy.arange(6).reshape(2, 3),
        "text": numpy.str_("héllo"),
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.timezone.utc),
        "nested": {"list": [1, None, True, {"k": (1, 2)}], "big": 1 << 80},
    }
    with store.create("m:1", labels={"stage": "dev", "ü": "🦊"}, metadata=metadata) as draft:
        draft.metadata["late"] = 900
        draft.labels["team"] = "nlp"
    model = store.get("m:1")
    assert model.labels == {"stage": "dev", "ü": "🦊", "team": "nlp"}
    assert model.metadata == {
        "acc": 0.5,
        "steps": 7,
        "flag": True,
        "matrix": [[0, 1, 2], [3, 4, 5]],
        "text": "héllo",
        "day": "2024-02-29",
        "at": "2024-02-29T01:02:03+00:00",
        "nested": {"list": [1, None, True, {"k": [1, 2]}], "big": 1 << 80},
        "late": 900,
    }
    with store.create("m:2", labels={"stage": "prod"}):
        pass
    assert [str(m.tag) for m in store.list(labels={"stage": "dev", "team": "nlp"})] == ["m:1"]
    assert store.list(labels={"stage": "dev", "team": "other"}) == []


def test_the_callers_own_dicts_are_left_alone(store: casstore.Store) -> None:
    labels, metadata = {"a": "b"}, {"x": 1}
    with store.create("m:1", labels=labels, metadata=metadata) as draft:
        draft.labels["c"] = "d"
        draft.metadata["y"] = 2
    assert (labels, metadata) == ({"a": "b"}, {"x": 1})
    with pytest.raises(casstore.ReadOnly):
        draft.model.labels["z"] = "changes nothing"
    assert "z" not in draft.model.labels


def test_custom_objects_are_unpickled_only_when_asked_for(store: casstore.Store, tmp_path: Path) -> None:
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    with store.create("m:1", custom_objects={"f": lambda x: x + 1, "trap": Trap()}) as draft:
        pass
    model = store.get("m:1")
    assert model.path
    assert store.verify().is_sound
    assert not trap.exists()
    assert model.custom_objects["f"](1) == 2
    assert trap.exists()
    assert [file.path for file in model.files] == ["custom_objects.pkl"]
    with store.create("m:2"):
        pass
    assert store.get("m:2").custom_objects == {}
    assert draft.model.digest != store.get("m:2").digest


def test_symbolic_links_are_followed(store: casstore.Store, tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"w.bin": b"w" * 100_000, "dir/a": b"a", "dir/b": b"b"})
    with store.create("m:1") as draft:
        os.symlink(outside / "w.bin", f"{draft.path}/link.bin")
        os.symlink(outside / "dir", f"{draft.path}/linked")
        plant(draft.path, {"own": b"own"})
    expected = {"link.bin": b"w" * 100_000, "linked/a": b"a", "linked/b": b"b", "own": b"own"}
    assert contents(draft.model) == expected
    assert not any(path.is_symlink() for path in Path(draft.model.path).rglob("*"))
    assert sorted(os.listdir(outside)) == ["dir", "w.bin"]
    assert os.access(outside / "w.bin", os.W_OK)
    (outside / "w.bin").write_bytes(b"changed later")
    assert contents(draft.model) == expected


def test_a_hardlink_in_a_draft_does_not_freeze_or_expose_the_callers_file(
    store: casstore.Store, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.bin"
    mine.write_bytes(noise(BIG))
    with store.create("m:1") as draft:
        os.link(mine, f"{draft.path}/w.bin")
    assert stat.S_IMODE(mine.stat().st_mode) & 0o200
    mine.write_bytes(b"later")
    assert contents(draft.model) == {"w.bin": noise(BIG)}


@pytest.mark.parametrize("size", [0, 10, 100_000, BIG])
def test_a_single_file_is_saved(store: casstore.Store, tmp_path: Path, size) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(noise(size))
    model = store.save("m:1", path)
    assert contents(model) == {"weights.bin": noise(size)}
    assert path.read_bytes() == noise(size)


def test_save_leaves_the_source_as_it_is_and_move_takes_it(store: casstore.Store, tmp_path: Path, home: Path) -> None:
    files = {"w.bin": noise(BIG), "sub/small": b"s", "x!": b"x"}
    source = plant(tmp_path / "out", files)
    before = {p: (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes()) for p in source.rglob("*") if p.is_file()}
    kept = store.save("m:1", source)
    assert before == {p: (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes()) for p in before}
    plant(source, {"w.bin": noise(BIG, 2)})
    inode = (source / "w.bin").stat().st_ino
    moved = store.save("m:2", source, move=True)
    assert not source.exists()
    assert Path(moved.path, "w.bin").stat().st_ino == inode
    assert inode in loose_inodes(home)
    expected = {name.removesuffix("!"): content for name, content in files.items()}
    assert contents(kept) == expected
    assert contents(moved) == {**expected, "w.bin": noise(BIG, 2)}


def test_move_removes_links_and_not_what_they_lead_to(store: casstore.Store, tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"a": b"a", "d/b": b"b"})
    source = plant(tmp_path / "out", {"own": b"own"})
    os.symlink(outside / "a", source / "a")
    os.symlink(outside / "d", source / "d")
    model = store.save("m:1", source, move=True)
    assert not source.exists()
    assert contents(model) == {"a": b"a", "d/b": b"b", "own": b"own"}
    assert (outside / "a").read_bytes() == b"a"
    assert (outside / "d/b").read_bytes() == b"b"


def test_a_large_new_file_is_adopted_without_copying(store: casstore.Store, home: Path) -> None:
    with store.create("m:1") as draft:
        path = Path(draft.path, "w.bin")
        path.write_bytes(noise(BIG))
        inode = path.stat().st_ino
    status = Path(draft.model.path, "w.bin").stat()
    assert status.st_ino == inode
    assert status.st_nlink == 2
    assert loose_inodes(home).keys() == {inode}
    assert list((home / "objects/packs").iterdir()) == []
    assert store.stats().stored_bytes == BIG


def test_small_files_go_into_one_pack(store: casstore.Store, home: Path) -> None:
    files = {f"{number:03}.txt": f"file {number}".encode() * 50 for number in range(200)}
    with store.create("m:1") as draft:
        plant(draft.path, files)
    assert len(list((home / "objects/packs").iterdir())) == 1
    assert loose_inodes(home) == {}
    assert contents(draft.model) == files


def test_a_mostly_known_file_goes_into_a_pack(store: casstore.Store, home: Path) -> None:
    with store.create("m:1") as draft:
        Path(draft.path, "w.bin").write_bytes(noise(8_000_000))
    changed = noise(8_000_000)[:-100] + bytes(100)
    with store.create("m:2") as draft:
        Path(draft.path, "w.bin").write_bytes(changed)
    assert len(list((home / "objects/packs").iterdir())) == 1
    usage = store.stats()
    assert usage.redundant_bytes == 8_000_000
    assert usage.unique_bytes < 8_000_000 + (2 << 20)
    assert contents(store.get("m:1")) == {"w.bin": noise(8_000_000)}
    assert contents(store.get("m:2")) == {"w.bin": changed}


def test_equal_files_are_stored_once_within_and_across_models(store: casstore.Store, home: Path) -> None:
    files = {"a.bin": noise(BIG), "b.bin": noise(BIG), "c/small": b"s" * 1000, "d/small": b"s" * 1000}
    with store.create("one:1") as draft:
        plant(draft.path, files)
    first = store.stats()
    assert first.logical_bytes == 2 * BIG + 2000
    assert first.unique_bytes == BIG + 1000
    with store.create("two:1") as other:
        plant(other.path, files)
    usage = store.stats()
    assert usage.versions == 2
    assert usage.logical_bytes == 2 * first.logical_bytes
    assert (usage.unique_bytes, usage.stored_bytes) == (first.unique_bytes, first.stored_bytes)
    assert store.stats("two").unique_bytes == BIG + 1000
    inodes = {Path(model.path, name).stat().st_ino for model in store.list() for name in ("a.bin", "b.bin")}
    assert inodes == loose_inodes(home).keys()
    assert contents(draft.model) == contents(other.model) == files


def test_the_executable_bit_is_kept_apart_for_equal_bytes(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {"plain": noise(BIG), "run!": noise(BIG)})
    model = store.get("m:1")
    assert {file.path: file.executable for file in model.files} == {"plain": False, "run": True}
    modes = {name: bool(Path(model.path, name).stat().st_mode & 0o100) for name in ("plain", "run")}
    assert modes == {"plain": False, "run": True}
    assert store.stats().unique_bytes == BIG
    assert contents(model) == {"plain": noise(BIG), "run": noise(BIG)}
    assert store.verify().is_sound


def test_saving_a_versions_own_directory_again_stores_nothing(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {"w.bin": noise(BIG), "small": b"s", "mid": noise(100_000, 1), "hollow": None})
    before = store.stats()
    again = store.save("m:2", draft.model.path)
    assert again.digest == draft.model.digest
    assert store.stats().stored_bytes == before.stored_bytes
    with pytest.raises(casstore.InvalidSource, match="leave out --move"):
        store.save("m:3", again.path, move=True)
    copy = store.save("m:3", again.path)
    assert contents(copy) == contents(store.get("m:2")) == contents(store.get("m:1"))
    assert store.stats().stored_bytes == before.stored_bytes
    assert store.verify().is_sound


def test_an_unchanged_source_is_recognised_without_reading_and_a_changed_one_is_not(
    store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plant(tmp_path / "out", {"w.bin": noise(BIG), "v.bin": noise(BIG, 1)})
    old = time.time() - 100
    os.utime(source / "w.bin", (old, old))
    time.sleep(2.1)  # a file touched a moment ago is not trusted to be the same by its times
    store.save("m:1", source)
    reads = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, *rest: reads.append(fd) or real(fd, *rest))
    again = store.save("m:2", source)
    assert reads == []
    monkeypatch.undo()
    assert contents(again) == {"w.bin": noise(BIG), "v.bin": noise(BIG, 1)}
    with open(source / "w.bin", "r+b") as file:
        file.write(b"!")
    os.utime(source / "w.bin", (old, old))
    assert contents(store.save("m:3", source))["w.bin"] == b"!" + noise(BIG)[1:]


def test_a_source_written_through_a_mapping_is_never_mistaken_for_the_old_one(
    store: casstore.Store, tmp_path: Path
) -> None:
    """A write to a page that is dirty already changes no time stamp, so nothing but the writer gives it away."""
    import mmap

    source = plant(tmp_path / "out", {"w.bin": noise(BIG)})
    with open(source / "w.bin", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5] = 1
        time.sleep(2.1)
        store.save("m:1", source)
        mapped[6] = (mapped[6] + 1) % 256
        assert contents(store.save("m:2", source))["w.bin"] == bytes(mapped)


def test_equal_content_has_an_equal_digest_whatever_the_tag(store: casstore.Store) -> None:
    for tag, size in (("a:1", BIG), ("b:7", BIG), ("c:1", BIG - 1)):
        with store.create(tag, labels={"tag": tag}) as draft:
            plant(draft.path, {"w.bin": noise(size), "x!": b"x"})
    digests = {str(model.tag): model.digest for model in store.list()}
    assert digests["a:1"] == digests["b:7"] != digests["c:1"]
    with store.create("d:1") as draft:
        plant(draft.path, {"w.bin": noise(BIG), "x": b"x"})
    assert draft.model.digest != digests["a:1"], "the executable bit is content"


def test_the_base_is_recorded(store: casstore.Store) -> None:
    with store.create("m:1") as first:
        pass
    with store.create("m:2") as second:
        pass
    with store.create("m:3", base="m:1") as third, store.create("other:1", base=first.model.tag) as other:
        pass
    assert first.model.base is None
    assert str(known(second.model.base).tag) == "m:1"
    assert third.model.base == casstore.Base(first.model.tag, first.model.digest)
    assert str(known(other.model.base).tag) == "m:1"
    store.delete("m:1")
    assert str(known(store.get("m:3").base).tag) == "m:1"
    with pytest.raises(casstore.TagNotFound):
        store.create("m:4", base="nothing")


def test_a_saved_versions_fields(store: casstore.Store) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    with store.create(
        "m:1",
        module="bentoml.sklearn",
        api_version="v2",
        signatures={"predict": {"batchable": True}, "encode": {}},
        options={"a": 1},
        context={"framework_name": "torch", "framework_versions": {"torch": "2.4.0"}},
    ):
        pass
    model = store.get("m:1")
    assert (model.module, model.api_version, model.options) == ("bentoml.sklearn", "v2", {"a": 1})
    assert model.signatures == {"predict": {"batchable": True, "batch_dim": [0, 0]}, "encode": {"batchable": False}}
    assert model.context["framework_versions"] == {"torch": "2.4.0"}
    assert model.context["python_version"].startswith("3.")
    assert model.casstore_version == casstore.__version__
    assert before - datetime.timedelta(seconds=1) < model.created_at < before + datetime.timedelta(minutes=1)


def test_drafts_are_for_one_use_and_tell_so(store: casstore.Store) -> None:
    draft = store.create("m:1")
    with pytest.raises(casstore.CasstoreError):
        _ = draft.model
    with draft, pytest.raises(casstore.CasstoreError):
        _ = draft.model
    with pytest.raises(casstore.CasstoreError), draft:
        pass
    with pytest.raises(casstore.CasstoreError):
        _ = draft.path


def test_progress_adds_up(store: casstore.Store) -> None:
    class Counting:
        def __init__(self):
            self.steps = []

        def start(self, step, total_bytes):
            self.steps.append([step, total_bytes, 0, False])

        def advance(self, done_bytes):
            self.steps[-1][2] += done_bytes

        def finish(self):
            self.steps[-1][3] = True

    progress = Counting()
    with store.create("m:1", progress=progress) as draft:
        plant(draft.path, {"w.bin": noise(BIG), "small": b"s", "empty": b""})
    assert progress.steps
    for step, total, done, finished in progress.steps:
        assert finished, step
        if step == "sync to disk":  # which no kernel tells the progress of
            assert (total, done) == (None, 0)
        else:
            assert done == total == BIG + 1, step


class AtStart:
    """A progress that has something done when a phase begins."""

    def __init__(self, phase, function):
        self.phase, self.function = phase, function

    def start(self, phase, _):
        if phase == self.phase:
            self.function()

    def advance(self, amount):
        pass

    def finish(self):
        pass


def test_move_leaves_what_was_put_in_place_of_a_file_meanwhile(store: casstore.Store, tmp_path: Path) -> None:
    """Such as the next checkpoint of a training run that goes on."""
    files = {"model.ckpt": noise(BIG), "config.json": b"{}"}
    source = plant(tmp_path / "run", files)

    def replace():
        plant(tmp_path, {"next": b"the next checkpoint"})
        os.replace(tmp_path / "next", source / "model.ckpt")

    model = store.save("m:1", source, move=True, progress=AtStart("store", replace))
    assert contents(model) == files
    assert {path.name: path.read_bytes() for path in source.iterdir()} == {"model.ckpt": b"the next checkpoint"}


@pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")
@pytest.mark.crash
def test_a_save_that_has_committed_does_not_fail_for_a_session_that_stays(
    save: Save, home: Path, store: casstore.Store
) -> None:
    store.close()

    def run(tag, fail_at=None):
        def operation():
            with casstore.Store(home, auto_gc=False) as opened:
                save(tag, {"a": b"1"}, into=opened)

        return tracer.run(operation, below=home, calls=tracer.ALL, fail_at=fail_at, error=errno.EIO)

    calls = run("m:0").calls
    committed = max(number for number, call in enumerate(calls) if call.name == "fsync" and "manifests" in call.path)
    doomed = [number for number, call in enumerate(calls, 1) if "/sessions/" in call.path and number > committed]
    assert doomed
    for number in doomed:
        traced = run(f"m:{number}", number)
        assert traced.acknowledged, calls[number - 1]
    with casstore.Store(home, auto_gc=False) as again:
        assert len(again.tags()) == 1 + len(doomed)
        again.gc()
        assert again.verify().is_sound
