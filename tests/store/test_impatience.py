"""Ctrl-C, again and again, while a draft is being kept: whatever gets out of the block says where the draft is."""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.saving import unsaved
from casstore.storage import files
from tests.kit import draft_of, noise

pytestmark = pytest.mark.crash


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch):
    """pressed(where, name, times, after): Ctrl-C comes as that function is called, or has done its work."""
    presses: list[Any] = []

    def arrange(where, name, *, times=1, after=False):
        real = getattr(where, name)

        def call(*args, **kwargs):
            if after:
                done = real(*args, **kwargs)
            if len(presses) < times:
                presses.append(name)
                raise KeyboardInterrupt
            return done if after else real(*args, **kwargs)

        monkeypatch.setattr(where, name, call)
        return presses

    return arrange


def _fail(store, **options):
    """Have a draft be kept, two files of which are links to stored ones by then; returns the error."""
    with store.create("m:v0") as draft:
        Path(draft.path, "a").write_bytes(noise(300_000))
        Path(draft.path, "b").write_bytes(noise(300_000, 1))
    with pytest.raises(BaseException, match="--draft") as caught, store.create("m:v1", **options) as draft:
        Path(draft.path, "a").write_bytes(noise(300_000))
        Path(draft.path, "b").write_bytes(noise(300_000, 1))
        store.save("m:v1", __file__)
    return caught.value


def _check(store, error):
    [kept] = store.drafts()
    assert error.draft_path == kept.path
    said = "\n".join([str(error), *getattr(error, "__notes__", ())])
    assert said.count(f"--draft {kept.id}") == 1
    assert sorted(os.listdir(kept.directory)) == ["draft.json", "files"]
    assert {Path(kept.path, name).stat().st_nlink for name in "ab"} == {1}
    assert Path(kept.path, "a").read_bytes() == noise(300_000)
    assert os.listdir(store.home / "sessions") == []
    assert store.save_draft(kept, "m:v2").file_count == 2
    assert store.verify().is_sound


SEAMS = {
    "as it is looked at": (unsaved, "content", False),
    "once it has been looked at": (unsaved, "content", True),
    "as it is moved": (unsaved, "keep", False),
    "once it has been moved": (unsaved, "keep", True),
    "as its files are made its own": (files, "copy_file", False),
    "once a file of it is its own": (files, "copy_file", True),
    "as the error is told": (unsaved, "tell", False),
    "once the error has been told": (unsaved, "tell", True),
    "as it is found whether it was saved": (casstore.Draft, "_is_saved", False),
    "as the session is closed": (casstore.Draft, "_close", False),
    "once the session is closed": (casstore.Draft, "_close", True),
    "as its directories are opened up": (unsaved, "open_up", False),
}


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("seam", SEAMS)
def test_the_user_learns_where_it_is(
    store: casstore.Store, pressed, monkeypatch: pytest.MonkeyPatch, seam, times
) -> None:
    where, name, after = SEAMS[seam]
    error = None
    with store.create("x") as draft:  # so that nothing is opened first below
        Path(draft.path, "x").touch()
    real = store.save

    def save(tag, *args, **kwargs):
        done = real(tag, *args, **kwargs)
        presses.append(pressed(where, name, times=times, after=after))
        return done

    presses: list[Any] = []
    monkeypatch.setattr(store, "save", save)
    error = _fail(store)
    monkeypatch.undo()
    assert len(presses[0]) >= 1, "Ctrl-C has come"
    _check(store, error)


def test_while_it_is_asked_whether_it_is_to_be_kept(store: casstore.Store, pressed) -> None:
    """Of which nothing is known then, so it is."""
    with pytest.raises(KeyboardInterrupt, match="--draft") as caught, store.create("m:v1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
        pressed(casstore.Draft, "_is_slip")
        raise ValueError
    assert Path(draft_of(caught.value), "w").read_bytes() == b"w"


def test_one_that_cannot_be_moved_stays_however_often(store: casstore.Store, home: Path, pressed) -> None:
    (home / "drafts").write_bytes(b"in the way")
    with pytest.raises(casstore.InvalidMetadata, match="until this process ends") as caught, store.create("m") as draft:
        Path(draft.path, "w").write_bytes(b"w")
        pressed(unsaved, "keep", after=True)
        draft.metadata["x"] = object()
    assert str(caught.value).count("until this process ends") == 1
    assert Path(draft_of(caught.value), "w").read_bytes() == b"w"
    assert len(unsaved._unmoved) == 1
    unsaved._unmoved.pop().close()


def test_ctrl_c_at_the_end_of_a_save_that_is_done(store: casstore.Store, pressed) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, store.create("m:v1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
        pressed(casstore.Draft, "_close", after=True)
    assert not hasattr(caught.value, "draft_path")
    assert (store.tags(), store.drafts()) == (["m:v1"], [])
