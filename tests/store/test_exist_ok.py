"""exist_ok: to save what is saved already is no error where it is the very same."""

# ruff: noqa: PT012, SIM117 - what is refused is refused at the end of a with block
from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import description
from tests.kit import Picture, known, plant

FILES: dict[str, bytes | None] = {"w.bin": b"w" * 100_000, "deep/s": b"s", "run!": b"#!", "nothing": None}
SAID: dict[str, Any] = {
    "labels": {"stage": "dev", "epoch": 3}, "metadata": {"loss": float("nan"), "acc": 0.5}, "module": "m",
    "options": {"a": 1}, "signatures": {"predict": {"batchable": True}},
    "context": {"framework_name": "torch", "framework_versions": {"torch": "2.4"}}, "custom_objects": {"answer": 42},
}  # fmt: skip


@pytest.fixture
def first(store: casstore.Store):
    with store.create("m:v1", **SAID) as draft:
        plant(draft.path, FILES)
    assert draft.is_new
    return draft.model


def test_a_training_that_is_resumed_saves_the_same(
    store: casstore.Store, first, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "_bentoml_version", lambda: "9.9")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99")  # it was upgraded meanwhile
    before = picture()
    with store.create("m:v1", exist_ok=True, **SAID) as draft:
        plant(draft.path, FILES)
    assert (draft.model, draft.is_new) == (first, False)
    assert picture() == before


@pytest.mark.parametrize("how", ["directory", "move", "unmaterialized"])
def test_a_directory_may_be_saved_again(store: casstore.Store, tmp_path: Path, how) -> None:
    source = plant(tmp_path / "out", FILES)
    first = store.save("m:v1", source, labels={"a": "b"})
    choices: dict[str, dict[str, Any]] = {
        "directory": {},
        "move": {"move": True},
        "unmaterialized": {"materialize": False},
    }
    options = choices[how]
    again = store.save("m:v1", source, labels={"a": "b"}, exist_ok=True, **options)
    assert again == first
    assert source.exists() != (how == "move")
    if how == "move":
        plant(source, FILES)
    with pytest.raises(casstore.TagExists, match="exist_ok=True"):
        store.save("m:v1", source, labels={"a": "b"}, **options)
    assert store.save("m:v2", source, exist_ok=True, **options).tag.version == "v2"
    assert store.save("m", source if how != "move" else plant(source, FILES), exist_ok=True).tag.version != "v1"


OTHERS: dict[str, tuple[dict[str, bytes | None], dict[str, Any], str]] = {
    "a file": ({"w.bin": b"x" * 100_000}, {}, r"w\.bin differs"),
    "a size": ({"w.bin": b"w" * 99_999}, {}, r"w\.bin differs"),
    "one more": ({"more": b""}, {}, "has no file more"),
    "an executable": ({"deep/s!": b"s"}, {}, "deep/s differs"),
    "an empty directory": ({"empty": None}, {}, "empty directories"),
    "labels": ({}, {"labels": {"stage": "dev"}}, "labels"),
    "metadata": ({}, {"metadata": {"loss": "nan", "acc": 0.5}}, "metadata"),
    "a framework": ({}, {"context": {"framework_name": "jax"}}, "context"),
    "objects": ({}, {"custom_objects": {"answer": 43}}, "custom_objects"),
    "no objects": ({}, {"custom_objects": None}, "custom_objects"),
    "options": ({}, {"options": {"a": 2}}, "options"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_version_of_that_tag_stays_an_error(store: casstore.Store, first, kind) -> None:
    files, said, difference = OTHERS[kind]
    with pytest.raises(casstore.TagExists, match=difference) as caught:
        with store.create("m:v1", exist_ok=True, **{**SAID, **said}) as draft:
            plant(draft.path, {**FILES, **files})
    assert store.get("m:v1") == first
    assert caught.value.draft_path == store.drafts()[0].path
    assert store.save_draft(store.drafts()[0], "m:v2").tag.version == "v2"


def test_a_base_that_is_said_must_be_the_same(store: casstore.Store, first) -> None:
    base = store.save("base:v1", __file__)
    other = store.save("other:v1", __file__)

    def save(tag, **options):
        with store.create(tag, exist_ok=True, **SAID, **options) as draft:
            plant(draft.path, FILES)
        return draft

    made = save("n:v1", base="base:v1")
    assert made.is_new
    assert not save("n:v1", base=base.tag).is_new
    assert not save("n:v1").is_new, "nothing is said of it"
    with pytest.raises(casstore.TagExists, match="its base is base:v1, not other:v1"):
        save("n:v1", base=other.tag)
    with pytest.raises(casstore.TagExists, match="it has no base, and this one comes from base:v1"):
        save("m:v1", base=base.tag)
    store.delete("base:v1")
    with pytest.raises(casstore.TagNotFound):
        save("n:v1", base=base.tag)
    store.save("base:v1", store.get("other:v1").path, exclude="*.py", allow_empty=True)
    with pytest.raises(casstore.TagExists, match="its base is another base:v1"):
        save("n:v1", base=base.tag)
    assert store.get("n:v1") == made.model


def test_a_kept_draft_whose_base_was_the_newest_then(store: casstore.Store) -> None:
    """Which nobody has said."""
    store.save("m:v0", __file__)
    with pytest.raises(casstore.TagExists), store.create("m:v1") as draft:
        plant(draft.path, FILES)
        store.save("m:v0b", __file__)
        with store.create("m:v1") as other:
            plant(other.path, FILES)
    assert known(other.model.base).tag.version == "v0b"
    assert store.save_draft(store.drafts()[0], exist_ok=True) == other.model


def test_a_draft_that_differs_and_is_then_the_same(store: casstore.Store, tmp_path: Path) -> None:
    source = plant(tmp_path / "out", FILES)
    with pytest.raises(casstore.TagExists), store.create("m:v1") as draft:
        plant(draft.path, FILES)
        store.save("m:v1", source)
    assert store.save_draft(store.drafts()[0], exist_ok=True) == store.get("m:v1")
    assert store.drafts() == []


def test_two_that_save_the_same_at_once(store: casstore.Store, tmp_path: Path) -> None:
    """The other commits between the look and the commit."""
    source = plant(tmp_path / "out", FILES)

    class Overtaking(casstore.Progress):
        def start(self, step, _total):
            if step == "store" and not store.tags():
                store.save("m:v1", source)

        def advance(self, _amount): ...

        def finish(self): ...

    with store.create("m:v1", exist_ok=True, progress=Overtaking()) as draft:
        plant(draft.path, FILES)
    assert not draft.is_new
    assert store.verify().is_sound
    assert os.listdir(store.home / "sessions") == []
    assert Path(draft.model.path, "w.bin").read_bytes() == FILES["w.bin"]


def test_a_users_own_model_yaml_is_no_less_refused(store: casstore.Store, first, tmp_path: Path) -> None:
    source = plant(tmp_path / "out", {**FILES, "model.yaml": b"layers: 3"})
    with pytest.raises(casstore.InvalidSource, match="rename"):
        store.save("m:v1", source, exist_ok=True)
