"""What a program has written is kept when only the saving of it fails, until it is saved, removed, or overdue."""

# ruff: noqa: PT012, SIM117 - what is refused is refused at the end of a with block
from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import models
from casstore.actions.saving import commit as commit_action
from casstore.actions.saving import drafts as drafts_action
from casstore.progress import Progress
from tests.kit import Child, Leftovers, draft_of, known, noise, plant, script


@pytest.fixture
def files():
    return {"w.bin": noise(1_500_000), "mid": noise(100_000, 1), "deep/small": b"s", "run!": b"#!"}


@pytest.fixture
def standing():
    """standing(directory): the bytes of every file below it but model.yaml."""

    def read(directory):
        root = Path(directory)
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        found.pop("model.yaml", None)
        return found

    return read


def _plain(files):
    return {name.removesuffix("!"): content for name, content in files.items()}


class Opaque:
    """What cannot be recorded."""


def _bad_metadata(draft):
    draft.metadata["loss"] = Opaque()


def _bad_label(draft):
    draft.labels["stage"] = None


def _bad_whole(draft):
    draft.metadata = {"fine": 1, "loss": Opaque()}


def _bad_later(draft):
    draft.metadata["history"] = history = []
    history.append(Opaque())


def _bad_device(draft):
    class Broken:
        dtype = "float32"

        def tolist(self):
            raise RuntimeError("device-side assert")

    draft.metadata["tensors"] = tensors = []
    tensors.append(Broken())
    draft.metadata["tensor"] = Broken()


def _bad_module(draft):
    draft.module = 5


def _bad_signatures(draft):
    draft.signatures = {"predict": {"speed": 1}}


def _bad_objects(draft):
    draft.custom_objects["lock"] = threading.Lock()


def _bad_context(draft):
    draft.context = {"framework_versions": ["torch"]}


def _bad_link(draft):
    os.symlink("/nowhere/at/all", f"{draft.path}/dangling")


def _bad_name(draft):
    Path(draft.path, "W.BIN").write_bytes(b"twin")


SLIPS = {
    _bad_metadata: (casstore.InvalidMetadata, r"metadata\.loss is of type Opaque"),
    _bad_label: (casstore.InvalidMetadata, "'stage' maps to None"),
    _bad_whole: (casstore.InvalidMetadata, r"metadata\.loss is of type Opaque"),
    _bad_later: (casstore.InvalidMetadata, r"metadata\.history\[0\] is of type Opaque"),
    _bad_device: (casstore.InvalidMetadata, "device-side assert"),
    _bad_module: (casstore.InvalidMetadata, "module is text"),
    _bad_signatures: (casstore.InvalidMetadata, "'speed'"),
    _bad_objects: (casstore.InvalidMetadata, "cannot be pickled"),
    _bad_context: (casstore.InvalidMetadata, "framework_versions"),
    _bad_link: (casstore.InvalidSource, "dangling"),
    _bad_name: (casstore.InvalidSource, "differ only by case"),
}


@pytest.mark.parametrize("slip", SLIPS, ids=[slip.__name__ for slip in SLIPS])
def test_a_slip_keeps_the_draft(store: casstore.Store, files, standing, leftovers: Leftovers, slip) -> None:
    kind, message = SLIPS[slip]
    with (
        pytest.raises(kind, match=message) as caught,
        store.create("m:v1", labels={"stage": "dev"}, metadata={"acc": 0.5}, base=None, options={"a": 1}) as draft,
    ):
        plant(draft.path, files)
        slip(draft)
    [kept] = store.drafts()
    assert caught.value.draft_path == kept.path
    assert f"casstore save m:v1 --draft {kept.id} --home {store.home}`" in str(caught.value)
    assert (str(kept.tag), kept.reason.partition(":")[0]) == ("m:v1", kind.__name__)
    found = standing(kept.path)
    assert {name: found[name] for name in _plain(files)} == _plain(files)
    assert kept.size == sum(map(len, found.values()))
    assert leftovers() == []
    for name in ("dangling", "W.BIN"):
        Path(kept.path, name).unlink(missing_ok=True)
    store.gc(evict_all=True)
    model = store.save_draft(kept.id)
    assert (str(model.tag), model.labels, model.options) == ("m:v1", {"stage": "dev"}, {"a": 1})
    assert model.metadata["acc"] == 0.5
    assert standing(model.path) == _plain(files)
    assert os.access(Path(model.path, "run"), os.X_OK)
    assert store.drafts() == []
    assert os.listdir(store.home / "drafts") == []
    assert store.verify().is_sound


def test_the_error_names_what_could_not_be_kept(store: casstore.Store, files) -> None:
    with pytest.raises(casstore.InvalidMetadata), store.create("m:v1") as draft:
        plant(draft.path, files)
        draft.metadata |= {"steps": 900, "history": (history := list[Any]([1.5]))}
        draft.custom_objects["answer"] = 42
        draft.signatures = {"predict": {"batchable": True}, "bad": 5}
        history.append(Opaque())
    [kept] = store.drafts()
    assert {re.sub(" is .*", "", text) for text in kept.left_out} == {"signatures['bad']", "metadata.history[1]"}
    model = store.save_draft(kept, "n", labels={"why": "late"}, metadata={"history": [1.5]})
    assert model.metadata == {"steps": 900, "history": [1.5]}
    assert (model.tag.name, model.labels, list(model.signatures)) == ("n", {"why": "late"}, ["predict"])
    assert model.custom_objects == {"answer": 42}
    assert not model.is_untrusted


def test_a_slip_that_the_program_survives_is_none(store: casstore.Store, files) -> None:
    with store.create("m:v1") as draft:
        plant(draft.path, files)
        with pytest.raises(casstore.InvalidMetadata):
            draft.metadata["loss"] = Opaque()
        draft.metadata["loss"] = 0.5
    assert draft.model.metadata == {"loss": 0.5}
    assert store.drafts() == []


def test_a_slip_in_other_words_keeps_the_draft(store: casstore.Store, files) -> None:
    with pytest.raises(RuntimeError, match="callback") as caught, store.create("m:v1") as draft:
        plant(draft.path, files)
        try:
            draft.metadata["loss"] = Opaque()
        except casstore.InvalidMetadata as error:
            raise RuntimeError("callback failed") from error
    assert draft_of(caught.value) == store.drafts()[0].path


def test_an_error_of_the_program_removes_the_draft(store: casstore.Store, files, leftovers: Leftovers) -> None:
    with pytest.raises(ValueError, match="no") as caught, store.create("m:v1") as draft:
        plant(draft.path, files)
        raise ValueError("no")
    assert not hasattr(caught.value, "draft_path")
    assert (store.drafts(), leftovers()) == ([], [])
    assert not (store.home / "drafts").exists()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), OSError(errno.ENOSPC, "full")])
def test_keep_on_error_keeps_it(store: casstore.Store, files, standing, error) -> None:
    with pytest.raises(type(error)) as caught, store.create("m:v1", keep_on_error=True) as draft:
        plant(draft.path, files)
        draft.metadata["steps"] = 5
        raise error
    [kept] = store.drafts()
    assert caught.value.draft_path == kept.path
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert f"--draft {kept.id}" in said
    assert standing(kept.path) == _plain(files)
    assert store.save_draft(kept.id).metadata == {"steps": 5}


def test_nothing_is_kept_of_a_draft_without_files(store: casstore.Store) -> None:
    store.save("m:v1", __file__)
    with pytest.raises(casstore.InvalidMetadata) as caught, store.create("m:v2") as draft:
        draft.metadata["loss"] = Opaque()
    with pytest.raises(casstore.TagExists), store.create("m:v3"):
        store.save("m:v3", __file__)
    assert caught.value.draft_path is None
    assert store.drafts() == []


def test_a_tag_that_is_taken_meanwhile(store: casstore.Store, files, standing) -> None:
    with pytest.raises(casstore.TagExists, match="`casstore save m --draft") as caught, store.create("m:v1") as draft:
        plant(draft.path, files)
        store.save("m:v1", __file__)
    [kept] = store.drafts()
    assert caught.value.draft_path == kept.path
    assert standing(kept.path) == _plain(files)
    with pytest.raises(casstore.TagExists):
        store.save_draft(kept.id)
    assert store.drafts() == [kept], "it stays"
    assert standing(store.save_draft(kept.id, "m:v2").path) == _plain(files)
    assert store.drafts() == []


def test_of_what_the_store_has_only_the_names_are_kept(
    store: casstore.Store, files, standing, leftovers: Leftovers
) -> None:
    """By the time of the error the draft's files are links to stored ones, or have been put into packs."""
    store.create("m:v0").__enter__()
    with store.create("m:v1") as draft:
        plant(draft.path, files)
    with pytest.raises(casstore.TagExists), store.create("m:v2") as draft:
        plant(draft.path, files)
        store.save("m:v2", __file__)
    store.delete("m:v1")
    store.gc(evict_all=True)
    [kept] = store.drafts()
    assert standing(kept.path) == _plain(files)
    assert standing(store.save_draft(kept.id, "m:v3").path) == _plain(files)
    assert store.verify().is_sound


class _Interrupting(Progress):
    """Ctrl-C while a step goes on."""

    def __init__(self, step):
        self._step = step

    def start(self, step, _total):
        self._now = step

    def advance(self, _amount):
        if self._now == self._step:
            raise KeyboardInterrupt

    def finish(self):
        self._now = ""


@pytest.mark.parametrize("step", ["hash", "store"])
def test_ctrl_c_while_it_is_saved(store: casstore.Store, files, standing, leftovers: Leftovers, step) -> None:
    with pytest.raises(KeyboardInterrupt, match="--draft") as caught:
        with store.create("m:v1", progress=_Interrupting(step)) as draft:
            plant(draft.path, files)
    assert standing(draft_of(caught.value)) == _plain(files)
    assert leftovers() == []
    assert standing(store.save_draft(store.drafts()[0]).path) == _plain(files)


def test_ctrl_c_again_and_again(store: casstore.Store, files, standing, monkeypatch: pytest.MonkeyPatch) -> None:
    presses: list[Any] = []

    def pressed(real):
        def call(*args, **kwargs):
            done = real(*args, **kwargs)
            if len(presses) < 4 and "m:v1" not in store.tags():
                presses.append(real)
                raise KeyboardInterrupt
            return done

        return call

    with pytest.raises(KeyboardInterrupt, match="--draft") as caught:
        with store.create("m:v1", progress=_Interrupting("hash")) as draft:
            plant(draft.path, files)
            monkeypatch.setattr(os, "rename", pressed(os.rename))
    monkeypatch.undo()
    assert len(presses) == 4
    assert standing(draft_of(caught.value)) == _plain(files)
    assert store.save_draft(store.drafts()[0]).file_count == len(files)


def test_ctrl_c_just_after_the_commit_keeps_nothing(
    store: casstore.Store, files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commit_action, "publish", publish)
    with pytest.raises(KeyboardInterrupt) as caught, store.create("m:v1") as draft:
        plant(draft.path, files)
    monkeypatch.undo()
    assert not hasattr(caught.value, "draft_path")
    assert (store.tags(), store.drafts()) == (["m:v1"], [])
    assert store.get("m:v1").open("w.bin").read() == files["w.bin"]


FULL = """
import errno, os, pathlib, random, subprocess, sys
import casstore

mount = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", mount], check=True)
store = casstore.Store(mount / "store")
content = {f"{number}.bin": random.Random(number).randbytes(300_000) for number in range(5)}
ballast = mount / "ballast"
try:
    with store.create("m:v1", materialize=False) as draft:  # packed, which needs room
        for name, data in content.items():
            pathlib.Path(draft.path, name).write_bytes(data)
        draft.metadata["steps"] = 9
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
except OSError as error:
    assert error.errno == errno.ENOSPC, repr(error)
    assert "--draft" in str(error), str(error)
    path = error.draft_path
[kept] = store.drafts()
assert kept.path == path
assert str(kept.tag) == "m:v1", kept
assert {name: pathlib.Path(path, name).read_bytes() for name in content} == content
ballast.unlink()
model = store.save_draft(kept.id)
assert {name: model.open(name).read() for name in content} == content
assert model.metadata == {"steps": 9}
assert not os.listdir(mount / "store/models") or not (mount / "store/models/m/v1").exists()
print("done")
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    done = script(FULL, tmp_path, before=("unshare", "-m", "--propagation", "private"), check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_one_that_cannot_be_moved_stays_until_the_process_ends(
    store: casstore.Store, home: Path, files, standing
) -> None:
    text = """
import pathlib, sys
import casstore

store = casstore.Store(sys.argv[1])
pathlib.Path(sys.argv[1], "drafts").write_bytes(b"in the way")
try:
    with store.create("m:v1") as draft:
        pathlib.Path(draft.path, "w").write_bytes(b"w")
        draft.metadata["loss"] = object()
except casstore.InvalidMetadata as error:
    assert "until this process ends" in str(error), str(error)
    path = error.draft_path
store.close()
casstore.Store(sys.argv[1]).gc()
assert pathlib.Path(path, "w").read_bytes() == b"w"
print(path)
"""
    done = script(text, home)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(home / "sessions")
    (home / "drafts").unlink()
    store.gc()
    assert not path.exists(), "its process has ended"


def test_links_into_the_draft_lead_into_it_again(store: casstore.Store, files, standing) -> None:
    with pytest.raises(casstore.InvalidMetadata), store.create("m:v1") as draft:
        plant(draft.path, files)
        os.symlink(f"{draft.path}/w.bin", f"{draft.path}/deep/best.bin")
        os.symlink("w.bin", f"{draft.path}/last.bin")
        draft.metadata["loss"] = Opaque()
    model = store.save_draft(store.drafts()[0])
    expected = {**_plain(files), "deep/best.bin": files["w.bin"], "last.bin": files["w.bin"]}
    assert standing(model.path) == expected


@pytest.mark.parametrize("is_real", [True, False])
def test_links_into_the_draft_lead_into_it_again_where_the_home_is_a_link(
    store: casstore.Store, home: Path, files, standing, tmp_path: Path, is_real
) -> None:
    """The draft has two paths then, and a link may name either."""
    (tmp_path / "linked").symlink_to(home)
    with casstore.Store(home if is_real else tmp_path / "linked") as opened:
        with pytest.raises(casstore.InvalidMetadata), opened.create("m:v1") as draft:
            plant(draft.path, files)
            path = draft.path.replace(str(home), str(tmp_path / "linked")) if is_real else os.path.realpath(draft.path)
            assert path != draft.path
            os.symlink(f"{path}/w.bin", f"{draft.path}/deep/best.bin")
            os.symlink(f"{path}/deep", f"{draft.path}/also")
            draft.metadata["loss"] = Opaque()
    (tmp_path / "linked").unlink()
    found = standing(store.save_draft(store.drafts()[0]).path)
    assert found["deep/best.bin"] == found["also/best.bin"] == files["w.bin"]


def test_a_draft_that_a_link_has_replaced_is_left_where_it_is(store: casstore.Store, tmp_path: Path, files) -> None:
    elsewhere = plant(tmp_path / "elsewhere", files)
    with pytest.raises(casstore.InvalidSource, match="replaced by a link"), store.create("m:v1") as draft:
        os.rmdir(draft.path)
        os.symlink(elsewhere, draft.path)
    assert store.drafts() == []
    assert (elsewhere / "w.bin").exists()


def _make_older(kept, days):
    """Have a draft look as if kept so many days earlier."""
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - days * 24 * 3600))
    directory = Path(kept.path).parent
    directory.rename(directory.with_name(f"{moment}.000000Z-{kept.id}"))


@pytest.fixture
def keep(store: casstore.Store, files):
    """keep(tag): have a draft kept."""

    def run(tag="m:v1", **options):
        with pytest.raises(casstore.InvalidMetadata), store.create(tag, **options) as draft:
            plant(draft.path, files)
            draft.metadata["loss"] = Opaque()
        return store.drafts()[-1]

    return run


def test_gc_leaves_it_alone_for_keep_days_and_then_removes_it(
    store: casstore.Store, keep, files, leftovers: Leftovers
) -> None:
    keep()
    store.gc(evict_all=True)
    [kept] = store.drafts()
    _make_older(kept, 6.9)
    store.gc()
    _make_older(store.drafts()[0], 7.1)
    size = sum(map(len, files.values()))
    for dry_run in (True, False):
        [step] = [step for step in store.gc(dry_run=dry_run).steps if step.name == "quarantine"]
        assert (step.count, step.freed_bytes) == (1, size)
    assert store.drafts() == []
    assert (os.listdir(store.home / "drafts"), leftovers()) == ([], [])


def test_a_clock_that_was_ahead_neither_removes_it_nor_changes_its_id(store: casstore.Store, keep) -> None:
    kept = keep()
    _make_older(kept, -1000)
    store.gc()
    [again] = store.drafts()
    assert again.id == kept.id
    assert abs(again.kept_at.timestamp() - time.time()) < 1000


def test_gc_leaves_alone_what_is_being_saved(store: casstore.Store, keep, home: Path) -> None:
    kept = keep()
    _make_older(kept, 8)
    [kept] = store.drafts()
    with drafts_action.held(store._workspace, kept):
        store.gc()
        assert store.drafts() == [kept]
        with pytest.raises(casstore.StoreLocked):
            store.save_draft(kept.id)
        with pytest.raises(casstore.StoreLocked):
            store.remove_draft(kept.id)
    assert [name for name in os.listdir(home / "locks") if "draft" in name] == []


def test_it_is_removed_when_asked(store: casstore.Store, keep) -> None:
    kept = keep()
    assert store.remove_draft(kept.id[:5]).id == kept.id
    assert store.drafts() == []
    for act in (store.remove_draft, store.save_draft):
        with pytest.raises(casstore.TagNotFound, match="casstore drafts"):
            act(kept.id)


def test_its_base_and_how_it_was_to_be_saved_are_known(store: casstore.Store, keep) -> None:
    base = store.save("base:v1", __file__)
    kept = keep("m:v1", base="base:v1", materialize=False)
    model = store.save_draft(kept)
    assert known(model.base).tag == base.tag
    assert not Path(store.home, "models/m/v1").exists()


def test_a_base_that_is_gone(store: casstore.Store, keep) -> None:
    store.save("base:v1", __file__)
    kept = keep("m:v1", base="base:v1")
    store.delete("base:v1")
    assert store.save_draft(kept).base is None


@pytest.mark.parametrize("record", [None, b"", b"[1]", b'{"tag": 5}', b'{"tag": "m:v1", "reason": "", "left_out": []}'])
def test_without_its_record_the_files_can_be_saved(store: casstore.Store, keep, files, standing, record) -> None:
    path = Path(keep().path).parent / "draft.json"
    if record is None:
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(record)
    [kept] = store.drafts()
    assert (kept.tag, kept.reason) == (None, "")
    with pytest.raises(casstore.InvalidTag, match="nothing is known"):
        store.save_draft(kept)
    assert standing(store.save_draft(kept, "m:v2").path) == _plain(files)


def test_it_may_be_copied_by_path(store: casstore.Store, keep, files, standing) -> None:
    kept = keep()
    assert standing(store.save("m:v2", kept.path).path) == _plain(files)
    assert standing(kept.path) == _plain(files)


def test_killed_at_any_call_it_is_in_its_session_or_kept(store: casstore.Store, home: Path, standing) -> None:
    """SIGKILL before each call that changes the disk, from the error on."""
    files = {"w": b"w", "deep/small": b"s"}
    names = ("mkdir", "rename", "open", "unlink", "rmdir")

    def run(stop):
        count = 0

        def dying(real):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        try:
            with casstore.Store(home) as own, own.create("m:v1") as draft:
                plant(draft.path, files)
                for name in names:
                    setattr(os, name, dying(getattr(os, name)))
                draft.metadata["loss"] = Opaque()
        except casstore.InvalidMetadata:
            return 0
        return 1

    store.close()
    outcomes = set()
    for stop in range(1, 200):
        code = Child(partial(run, stop)).wait()
        with casstore.Store(home) as own:
            sessions = list((home / "sessions").glob("*/[0-9]*"))
            kept = own.drafts()
            assert len(kept) <= 1
            outcomes.add("kept" if kept else "in its session" if sessions else "gone")
            for draft in kept:
                assert standing(draft.path) == _plain(files)
                own.remove_draft(draft.id)
            own.gc()
            assert os.listdir(home / "sessions") == []
            assert own.verify().is_sound
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert outcomes == {"kept", "in its session"}


def test_a_process_that_is_killed_while_it_saves_one_leaves_it_kept(
    store: casstore.Store, home: Path, keep, files, standing
) -> None:
    kept = keep()
    store.close()

    def run():
        class Dying(Progress):
            def start(self, step, _total):
                if step == "store":
                    os.kill(os.getpid(), signal.SIGKILL)

            def advance(self, _amount): ...

            def finish(self): ...

        with casstore.Store(home) as own:
            own.save_draft(kept.id, progress=Dying())

    assert Child(run).wait() == -signal.SIGKILL
    with casstore.Store(home) as own:
        own.gc()
        assert own.tags() == []
        assert standing(own.drafts()[0].path) == _plain(files)
        assert standing(own.save_draft(kept.id).path) == _plain(files)


def test_a_forked_child_keeps_nothing(store: casstore.Store, files) -> None:
    with store.create("m:v1", keep_on_error=True) as draft:
        plant(draft.path, files)

        def leave():
            with pytest.raises(ValueError, match="no"), draft_again(draft):
                raise ValueError("no")

        assert Child(leave).wait() == 0
        assert Path(draft.path, "w.bin").exists()
    assert (store.drafts(), store.tags()) == ([], ["m:v1"])


class draft_again:  # noqa: N801 - stands in for the with block that a child leaves
    def __init__(self, draft):
        self.draft = draft

    def __enter__(self):
        return self.draft

    def __exit__(self, *error):
        return self.draft.__exit__(*error)


def test_save_keeps_nothing_since_the_caller_has_the_files(store: casstore.Store, tmp_path: Path, files) -> None:
    source = plant(tmp_path / "out", files)
    for move in (False, True):
        with pytest.raises(KeyboardInterrupt) as caught:
            store.save("m:v1", source, move=move, progress=_Interrupting("store"))
        assert not hasattr(caught.value, "draft_path")
    assert store.drafts() == []
    assert (source / "w.bin").exists()


def test_a_store_and_its_copies_with_kept_drafts_are_sound(
    store: casstore.Store, home: Path, keep, tmp_path: Path
) -> None:
    kept = keep()
    store.save("n:v1", __file__)
    assert store.verify().is_sound
    store.repair()
    store.backup(tmp_path / "backup")
    assert not (tmp_path / "backup/drafts").exists()
    store.close()
    shutil.copytree(home, tmp_path / "copy")
    with casstore.Store(tmp_path / "copy") as copy:
        assert copy.save_draft(kept.id).tag == kept.tag
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert again.drafts() == [kept]


def _info_metadata(model):
    model.info.metadata["loss"] = Opaque()


def _info_rebound(model):
    model.info.labels = {"stage": None}


def _info_signatures(model):
    model.info.signatures["predict"] = {"speed": 1}


def _info_gone(model):
    model.info.signatures = 5


@pytest.mark.parametrize("slip", [_info_metadata, _info_rebound, _info_signatures, _info_gone])
def test_a_slip_in_bentomls_words(store: casstore.Store, files, standing, slip) -> None:
    with pytest.raises(casstore.InvalidMetadata) as caught:
        with models.create("m:v1", labels={"a": "b"}, _model_store=store) as model:
            plant(model.path, files)
            slip(model)
    assert standing(draft_of(caught.value)) == _plain(files)
    assert store.save_draft(store.drafts()[0]).labels == {"a": "b"}


def test_the_child_of_a_terminal_says_where_its_draft_is(home: Path) -> None:
    text = f"""
import casstore, pathlib
with casstore.Store({str(home)!r}).create("m:v1") as draft:
    pathlib.Path(draft.path, "w").write_bytes(b"w")
    draft.metadata["loss"] = object()
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    [kept] = casstore.Store(home).drafts()
    last = done.stderr.strip().splitlines()[-1]
    assert f"casstore save m:v1 --draft {kept.id} --home {home}" in last
    assert kept.path in last


def test_a_users_own_model_yaml_is_kept_and_can_be_renamed(store: casstore.Store) -> None:
    own = b"name: mine\nversion: 3\ncreation_time: yesterday\n"
    with pytest.raises(casstore.InvalidSource, match="rename your file") as caught, store.create("m:v1") as draft:
        Path(draft.path, "model.yaml").write_bytes(own)
    path = Path(draft_of(caught.value))
    (path / "model.yaml").rename(path / "architecture.yaml")
    assert store.save_draft(store.drafts()[0]).open("architecture.yaml").read() == own


def test_a_kept_draft_is_saved_whole(store: casstore.Store) -> None:
    """Also what a directory that is saved by a user leaves out."""
    names = ["w.bin", "__pycache__/x.pyc", ".git/HEAD", ".cache/huggingface/x", "run.log"]
    with pytest.raises(casstore.InvalidMetadata), store.create("m:v1") as draft:
        for name in names:
            path = Path(draft.path, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        Path(draft.path, ".casstoreignore").write_text("*.log\n")
        draft.metadata["x"] = object()
    model = store.save_draft(store.drafts()[0])
    assert sorted(file.path for file in model.files) == sorted([*names, ".casstoreignore"])
    assert store.drafts() == []


def test_an_error_that_is_its_own_cause(store: casstore.Store) -> None:
    with pytest.raises(ValueError, match="round"), store.create("m:v1"):
        error, other = ValueError("round"), TypeError()
        error.__cause__, other.__cause__ = other, error
        raise error


def test_a_kept_draft_shares_no_file_with_a_version(store: casstore.Store) -> None:
    """Though its saving had come so far as to link what the store has."""
    with store.create("m:v1") as draft:
        Path(draft.path, "w").write_bytes(noise(1_000_000))
    first, second = store.create("m:v2"), store.create("m:v2")
    with pytest.raises(casstore.TagExists) as caught, first:
        Path(first.path, "w").write_bytes(noise(1_000_000))
        with second:
            Path(second.path, "x").write_text("x")
    kept = Path(draft_of(caught.value), "w")
    assert kept.stat().st_nlink == 1
    kept.write_bytes(b"mended")
    assert store.verify().is_sound
    assert store.get("m:v1").open("w").read() == noise(1_000_000)
    assert [path.name for path in kept.parent.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("where", ["_is_saved", "_record"])
def test_an_impatient_user_keeps_the_draft(store: casstore.Store, monkeypatch: pytest.MonkeyPatch, where) -> None:
    """Who presses Ctrl-C once more while it is being kept."""
    pressed: list[Any] = []
    real = getattr(casstore.Draft, where)

    def press(self, *arguments):
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(casstore.Draft, where, press)
    with pytest.raises(casstore.InvalidMetadata) as caught, store.create("m:v1") as draft:
        Path(draft.path, "w").write_bytes(b"weights")
        draft.metadata["x"] = []
        draft.metadata["x"].append(object())
    assert pressed
    assert Path(draft_of(caught.value), "w").read_bytes() == b"weights"
