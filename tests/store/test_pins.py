"""Pins: versions whose directories gc never takes away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import casstore
from tests.kit import Age, Picture, Sql, plant


@pytest.fixture
def filled(store: casstore.Store, age: Age):
    for number in range(3):
        with store.create(f"m:v{number}") as draft:
            plant(draft.path, {"a": str(number).encode()})
    age(30)
    return store


def standing(home):
    return sorted(path.name for path in (home / "models/m").iterdir() if path.is_dir())


def test_a_pinned_directory_stays(filled, home: Path) -> None:
    assert filled.pin("m:v0").tag.version == "v0"
    for evict_all in (False, True):
        filled.gc(evict_all=evict_all)
        assert "v0" in standing(home)
    assert standing(home) == ["v0"]
    filled.unpin("m:v0")
    filled.gc(evict_all=True)
    assert standing(home) == []


def test_a_pin_is_seen_at_once_by_all(filled, home: Path) -> None:
    model = filled.get("m:v1")
    assert not model.is_pinned
    with casstore.Store(home) as other:
        other.pin("m:v1")
        assert model.is_pinned
        other.unpin("m:v1")
    assert not model.is_pinned


def test_what_may_be_given(filled) -> None:
    assert str(filled.pin("m").tag) == "m:v2"
    assert str(filled.pin("m:latest").tag) == "m:v2"
    assert str(filled.unpin(casstore.Tag("m", "v2")).tag) == "m:v2"
    with pytest.raises(casstore.AmbiguousTag):
        filled.pin("m:v")
    with pytest.raises(casstore.TagNotFound, match="did you mean m:v0"):
        filled.pin("m:v00")
    with pytest.raises(casstore.InvalidTag):
        filled.unpin("m:v0:x")
    assert not any(model.is_pinned for model in filled.list())


def test_twice_is_as_good_as_once(filled, sql: Sql, picture: Picture) -> None:
    filled.pin("m:v0")
    before = picture()
    filled.pin("m:v0")
    assert picture() == before
    filled.unpin("m:v0")
    filled.unpin("m:v0")
    assert sql("SELECT count(*) FROM version WHERE pinned") == [(0,)]


def test_a_pin_makes_no_directory(filled, home: Path) -> None:
    filled.gc(evict_all=True)
    filled.pin("m:v0")
    assert standing(home) == []
    assert os.path.exists(filled.get("m:v0").path)
    filled.close()
    filled.gc(evict_all=True)
    assert standing(home) == ["v0"]


def test_a_pin_does_not_keep_a_version_from_being_deleted(filled) -> None:
    model = filled.pin("m:v0")
    filled.delete("m:v0")
    assert "m:v0" not in filled.tags()
    with pytest.raises(casstore.TagNotFound):
        _ = model.is_pinned
    with pytest.raises(casstore.TagNotFound):
        filled.pin("m:v0")


def test_a_new_version_of_a_deleted_tag_is_not_pinned(filled) -> None:
    filled.pin("m:v0")
    filled.delete("m:v0")
    with filled.create("m:v0"):
        pass
    assert not filled.get("m:v0").is_pinned
