"""Killed at any call from the commit of a draft in drafts/ on: it is saved and not kept, or kept and whole."""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.crash import tracer
from tests.crash.conftest import spread
from tests.kit import EVERY, contents, known, plant

FILES = {"sub/deep/a": b"a" * 4000, "sub/b": b"b" * 300_000, "c": b"c", "d": b"d", "none": None}
SAVED = {name: content for name, content in FILES.items() if content is not None}
pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]


def _prepare(home: Path, *, keeps: bool) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        store.save("m:0", __file__)
        if keeps:
            with pytest.raises(ZeroDivisionError), store.create("m:1", keep_on_error=True) as draft:
                plant(draft.path, FILES)
                raise ZeroDivisionError


def _in_the_background(home: Path, materialize: bool) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        with store.create("m:1", background=True, materialize=materialize) as draft:
            plant(draft.path, FILES)
        draft.future.result()


def _after_all(home: Path, materialize: bool) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        store.save_draft(store.drafts()[0], materialize=materialize)


def _listed(home: Path) -> None:
    """That the draft is saved, or is kept and whole."""
    with casstore.Store(home, auto_gc=False) as store:
        is_saved = store.exists("m:1")
        assert len(store.drafts()) <= (not is_saved)
        for draft in store.drafts():
            assert (draft.file_count, draft.size) == (len(SAVED), sum(map(len, SAVED.values())))
            assert contents(store.save_draft(draft)) == SAVED


def _deleted(how: Callable[[casstore.Store], Any], home: Path) -> None:
    """That a draft is not kept any more after its version is gone for good, either."""
    with casstore.Store(home, auto_gc=False) as store:
        if store.exists("m:1"):
            how(store)
            assert store.drafts() == []


def _for_good(store: casstore.Store) -> None:
    store.delete("m:1", now=True)


def _by_gc(store: casstore.Store) -> None:
    store.delete("m:1")
    store.set_setting("trash_days", "0")
    store.gc()


def _and_back(store: casstore.Store) -> None:
    store.delete("m:1")
    assert store.drafts() == []
    store.undelete("m:1", as_="n:1")


def _rebuilt(home: Path) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        is_saved = store.exists("m:1")
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home, auto_gc=False) as store:
        assert store.exists("m:1") >= is_saved
    _listed(home)


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize("save", [_in_the_background, _after_all])
def test_killed_from_the_commit_on(tmp_path: Path, save, materialize) -> None:
    template, home = tmp_path / "template", tmp_path / "store"
    _prepare(template, keeps=save is _after_all)
    looks: list[Callable[[Path], None]] = [_listed, _rebuilt]
    looks += [partial(_deleted, how) for how in (_for_good, _by_gc, _and_back)]

    def attempt(**options: Any) -> tracer.Traced:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(template, home, symlinks=True)
        return tracer.run(lambda: save(home, materialize), below=home, **options)

    whole = attempt()
    assert whole.acknowledged
    taken = [number for number, call in enumerate(whole.calls, 1) if "/drafts" in call.path]
    first = min(number for number in taken if save is _after_all or number > taken[0] + 4)
    points = range(max(1, first - 30), len(whole.calls) + 1)
    outcomes = set()
    for turn, number in enumerate(points if EVERY else spread(list(points), 24)):
        if not attempt(kill_at=number).killed:
            break
        with casstore.Store(home, auto_gc=False) as store:
            outcomes.add(store.exists("m:1"))
        looks[turn % len(looks)](home)
        with contextlib.suppress(casstore.TagExists), casstore.Store(home, auto_gc=False) as store:
            store.gc()
            assert [name for name in os.listdir(home / "sessions") if not name.startswith(".")] == []
            if store.exists("m:1"):
                assert known(contents(store.get("m:1"))) == SAVED
                assert os.listdir(home / "drafts") == []
            assert store.verify().is_sound
    assert True in outcomes
