"""A draft can be committed and discarded by a call, and one of which neither is done is kept and not forgotten."""

# ruff: noqa: PT012 - what is refused is refused in a with block
from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import Child, Leftovers, Save, contents, draft_of, noise, plant, script

FILES = {"w.bin": noise(1_500_000), "sub/small": b"s"}


def test_a_draft_is_committed_by_call(store: casstore.Store, leftovers: Leftovers) -> None:
    draft = store.create("m:1", labels={"stage": "dev"})
    plant(draft.path, FILES)
    draft.metadata["steps"] = 3
    model = draft.commit()
    assert contents(model) == FILES
    assert (model, model.labels, model.metadata) == (draft.model, {"stage": "dev"}, {"steps": 3})
    assert draft.new_bytes == 1_500_001
    for use in (draft.commit, draft.commit_async, draft.discard, lambda: draft.path, draft.__enter__):
        with pytest.raises(casstore.CasstoreError, match="the draft of m:1 was saved, and is over"):
            use()
    assert store.tags() == ["m:1"]
    assert leftovers() == []


_LATE: dict[str, Callable[[casstore.Draft], Any]] = {
    "set": lambda draft: draft.metadata.__setitem__("loss", 0.1),
    "update": lambda draft: draft.labels.update(stage="prod"),
    "or": lambda draft: setattr(draft, "labels", draft.labels | {"a": "c"}),
    "setdefault": lambda draft: draft.metadata.setdefault("loss", 0.1),
    "pop": lambda draft: draft.labels.pop("a"),
    "delete": lambda draft: draft.labels.__delitem__("a"),
    "clear": lambda draft: draft.labels.clear(),
    "popitem": lambda draft: draft.labels.popitem(),
    "assign": lambda draft: setattr(draft, "metadata", {}),
    "context": lambda draft: setattr(draft, "context", {"a": 1}),
    "signatures": lambda draft: draft.signatures.update(predict={}),
    "custom_objects": lambda draft: setattr(draft, "custom_objects", {"a": 1}),
    "tag": lambda draft: setattr(draft, "tag", "m:2"),
}


@pytest.mark.parametrize("how", ["block", "background", "commit", "commit_async", "discard"])
def test_what_is_said_too_late_is_refused(store: casstore.Store, how) -> None:
    """Since it would be lost without a word."""
    draft = store.create("m:1", labels={"a": "b"}, background=how == "background")
    plant(draft.path, FILES)
    if how in ("block", "background"):
        with draft:
            draft.metadata["in time"] = True
    else:
        draft.metadata["in time"] = True
        getattr(draft, how)()
    said = "annotate" if how != "discard" else "discarded, and is over"
    for late in _LATE.values():
        with pytest.raises(casstore.CasstoreError, match=said):
            late(draft)
    assert (draft.labels, draft.metadata, draft.signatures) == ({"a": "b"}, {"in time": True}, {})
    if how != "discard":
        assert (draft.model.labels, draft.model.metadata) == ({"a": "b"}, {"in time": True})
        assert store.annotate(str(draft.tag), labels={"late": "yes"}).labels == {"a": "b", "late": "yes"}


def test_what_is_committed_in_a_block_stays_however_the_block_ends(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, FILES)
        assert draft.commit().tag == draft.tag
    with pytest.raises(ZeroDivisionError), store.create("m:2") as draft:
        plant(draft.path, FILES)
        draft.commit()
        raise ZeroDivisionError
    assert store.tags() == ["m:2", "m:1"]
    assert store.drafts() == []


def test_a_draft_may_be_entered_when_it_has_been_begun(store: casstore.Store) -> None:
    draft = store.create("m:1")
    path = plant(draft.path, {"a": b"before"})
    with draft:
        assert Path(draft.path) == path
        plant(draft.path, {"b": b"in it"})
    assert contents(draft.model) == {"a": b"before", "b": b"in it"}


@pytest.mark.parametrize("is_in_block", [False, True])
def test_a_draft_is_discarded_by_call(store: casstore.Store, leftovers: Leftovers, is_in_block) -> None:
    draft = store.create("m:1")
    if is_in_block:
        draft.__enter__()
    path = plant(draft.path, FILES)
    draft.discard()
    draft.discard()
    if is_in_block:
        draft.__exit__(None, None, None)
    assert not path.exists()
    assert (store.tags(), store.drafts(), leftovers()) == ([], [], [])
    for use in (draft.commit, draft.commit_async, lambda: draft.path):
        with pytest.raises(casstore.CasstoreError, match="the draft of m:1 was discarded, and is over"):
            use()
    with pytest.raises(casstore.CasstoreError, match="not saved"):
        _ = draft.model
    with pytest.raises(casstore.CasstoreError, match="not being saved in the background"):
        _ = draft.future


def test_one_that_was_never_begun_is_discarded(store: casstore.Store) -> None:
    draft = store.create("m:1")
    draft.discard()
    with pytest.raises(casstore.CasstoreError, match="is over"), draft:
        pass


def test_a_commit_that_fails_keeps_the_draft(store: casstore.Store, save: Save) -> None:
    draft = store.create("m:1")
    plant(draft.path, FILES)
    save("m:1", {"a": b"faster"})
    with pytest.raises(casstore.TagExists, match="the draft's files are kept in") as caught:
        draft.commit()
    with pytest.raises(casstore.CasstoreError, match="was not saved, and is over"):
        draft.commit()
    [kept] = store.drafts()
    assert kept.path == draft_of(caught.value)
    assert contents(store.save_draft(kept, "m:2")) == FILES


def test_one_that_is_let_go_of_is_kept(
    store: casstore.Store, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    draft = store.create("m:1", metadata={"steps": 3})
    plant(draft.path, FILES)
    empty = store.create("m:2")
    assert os.listdir(empty.path) == []
    del draft, empty
    gc.collect()
    with casstore.Store(store.home) as other:
        other.gc()  # which would reap what nothing holds
    [kept] = store.drafts()
    assert kept.reason == "CasstoreError: m:1 was neither committed nor discarded"
    [said] = caplog.messages
    assert said.startswith(f"m:1 was neither committed nor discarded; the draft's files are kept in {kept.path}")
    assert leftovers() == []
    model = store.save_draft(kept)
    assert (contents(model), model.metadata) == (FILES, {"steps": 3})


def test_one_that_is_let_go_of_when_its_store_is_closed_is_kept(home: Path, store: casstore.Store) -> None:
    with casstore.Store(home) as other:
        draft = other.create("m:1")
        plant(draft.path, FILES)
    del draft
    gc.collect()
    store.create("n")
    [kept] = store.drafts()
    assert contents(store.save_draft(kept)) == FILES


def test_one_that_is_left_at_exit_is_kept(home: Path) -> None:
    done = script(
        """
import sys, casstore
from pathlib import Path
store = casstore.Store(sys.argv[1], auto_gc=False)
draft, empty = store.create("m:1"), store.create("m:2")
Path(draft.path, "w").write_bytes(b"weights")
empty.path
""",
        home,
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    with casstore.Store(home) as store:
        [kept] = store.drafts()
        assert f"m:1 was neither committed nor discarded; the draft's files are kept in {kept.path}" in done.stderr
        assert os.listdir(home / "sessions") == []
        assert contents(store.save_draft(kept)) == {"w": b"weights"}


@pytest.mark.parametrize("how", ["fork", "forkserver"])
def test_one_that_is_left_by_a_child_of_multiprocessing_is_kept(home: Path, how) -> None:
    work = """
import casstore
from pathlib import Path
draft = casstore.Store(home, auto_gc=False).create("m:1")
Path(draft.path, "w").write_bytes(b"weights")
"""
    code = """
import multiprocessing, sys
how, work, home = sys.argv[1:]
child = multiprocessing.get_context(how).Process(target=exec, args=(work, {"home": home}))
child.start()
child.join()
sys.exit(child.exitcode)
"""
    done = script(code, how, work, home)
    assert done.returncode == 0
    with casstore.Store(home, auto_gc=False) as store:
        store.gc()
        [kept] = store.drafts()
        assert f"m:1 was neither committed nor discarded; the draft's files are kept in {kept.path}" in done.stderr
        assert contents(store.save_draft(kept)) == {"w": b"weights"}


def test_a_forked_child_leaves_its_parents_draft_alone(store: casstore.Store) -> None:
    draft = store.create("m:1")
    plant(draft.path, {"a": b"parent"})

    def work():
        plant(draft.path, {"b": b"child"})
        for use in (draft.commit, draft.commit_async):
            with pytest.raises(casstore.CasstoreError, match="belongs to the process that this one was forked from"):
                use()
        draft._abandon()
        draft.discard()

    assert Child(work).wait() == 0
    assert contents(draft.commit()) == {"a": b"parent", "b": b"child"}


def test_what_stands_elsewhere_is_copied_into_a_draft(store: casstore.Store, tmp_path: Path) -> None:
    outside = plant(tmp_path / "out", FILES | {"run!": b"#!", "none": None, ".git/x": b"", "no.tmp": b""})
    os.symlink(outside / "w.bin", outside / "link.bin")
    with store.create("m:1") as draft:
        draft.add(outside, exclude="*.tmp")
        assert draft.left_out == (".git/", "no.tmp")
        draft.add(outside / "no.tmp")
        with pytest.raises(FileExistsError):
            draft.add(outside / "w.bin")
        for path in (outside / "missing", store.home):
            with pytest.raises(casstore.InvalidSource):
                draft.add(path)
        (outside / "w.bin").write_bytes(b"written over")
    assert contents(draft.model) == FILES | {"run": b"#!", "link.bin": FILES["w.bin"], "no.tmp": b""}
    assert os.access(Path(draft.model.path, "run"), os.X_OK)
    assert Path(draft.model.path, "none").is_dir()
    assert (outside / "run").read_bytes() == b"#!"
    with pytest.raises(casstore.CasstoreError, match="is over"):
        draft.add(outside)
