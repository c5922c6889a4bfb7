"""Versions that are not here but in a remote: what fetches them, what only looks, and what does neither."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore import models
from casstore.cli.exits import ExitCode
from tests.cli.conftest import Cli
from tests.cli.test_completion import complete
from tests.kit import plant, streamed

FILES = {"config.json": b"{}", "w": b"weights"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def left(store: casstore.Store, place: Path, tmp_path: Path) -> casstore.Store:
    """A store with m:v10 and m:v2, which has left m:v1 to its remote."""
    for version in ("v1", "v10", "v2"):
        store.save(f"m:{version}", plant(tmp_path / version, {**FILES, "version": version.encode()}))
    store.add_remote("origin", str(place)).push()
    store.evict("m:v1")
    return store


@pytest.fixture
def empty(left: casstore.Store, place: Path, tmp_path: Path) -> casstore.Store:
    """A store that pulls what is missing, and has nothing yet."""
    store = casstore.Store(tmp_path / "empty", auto_gc=False)
    store.add_remote("origin", str(place), make=False)
    store.set_setting("pull_missing", "origin")
    return store


def test_another_version_is_never_taken_for_one_that_was_left(left: casstore.Store) -> None:
    """m:v10 begins like m:v1."""
    with pytest.raises(casstore.TagNotFound, match=r"in the remote origin alone; `casstore pull m:v1`"):
        left.get("m:v1", pull=False)
    assert str(left.get("m:v1").tag) == "m:v1"


def test_beginnings_count_what_was_left(left: casstore.Store) -> None:
    with pytest.raises(casstore.AmbiguousTag) as caught:
        left.get("m:v")
    assert sorted(caught.value.candidates) == ["m:v1", "m:v10", "m:v2"]
    left.delete("m:v10")
    with pytest.raises(casstore.AmbiguousTag):
        left.get("m:v")
    left.delete("m:v2")
    assert str(left.get("m:v").tag) == "m:v1"


@pytest.mark.parametrize("text", ["m", "m:latest", "m:v"])
def test_the_newest_of_a_name_may_have_been_left(left: casstore.Store, text: str) -> None:
    left.delete(["m:v2", "m:v10"])
    assert str(left.get(text).tag) == "m:v1"


def test_what_copies_or_keeps_fetches(left: casstore.Store, empty: casstore.Store, tmp_path: Path) -> None:
    for store in (left, empty):
        home = store.home.name
        path = store.checkout("m:v1", tmp_path / f"work-{home}")
        assert Path(path, "version").read_bytes() == b"v1"
    left.evict("m:v1")
    left.export("m:v1", tmp_path / "m.tar")
    left.evict("m:v1")
    assert left.pin("m:v1").is_pinned
    assert str(empty.pin("m:v2").tag) == "m:v2"


def test_what_looks_fetches_nothing(left: casstore.Store, empty: casstore.Store) -> None:
    for store in (left, empty):
        before = store.tags()
        with store.look("m:v1") as model:
            assert isinstance(model, casstore.RemoteModel)
            assert model.open("version").read() == b"v1"
            assert {file.path for file in model.files} == {*FILES, "version"}
        with pytest.raises(casstore.TagNotFound), store.look("m:v9"):
            pass
        assert store.tags() == before
    with left.look("m:v2") as here:
        assert isinstance(here, casstore.Model)
        assert streamed(here)["version"] == b"v2"
    with empty.look("m") as model:
        assert str(model.tag) == "m:v2"


def test_what_names_a_version_to_delete_or_push_fetches_nothing(empty: casstore.Store) -> None:
    with pytest.raises(casstore.TagNotFound):
        models.delete("m:v1", _model_store=empty)
    models.delete("m:latest", _model_store=empty)
    with pytest.raises(casstore.TagNotFound):
        models.list("m", _model_store=empty)
    with pytest.raises(casstore.TagNotFound):
        models.push("m:v1", _model_store=empty)
    assert empty.tags() == []


def test_the_command_line(empty: casstore.Store, tmp_path: Path) -> None:
    cli = Cli(empty.home)
    assert cli("ls", "m:v1").out == "2\tconfig.json\n2\tversion\n7\tw\n"
    assert cli("ls", "m", "--json").json["tag"] == "m:v2"
    assert cli("cat", "m:v1", "version").out == "v1"
    assert "did you mean version?" in cli("cat", "m:v1", "versio", code=ExitCode.NOT_FOUND).err
    assert cli("show", "m:v1", "--json").json["is_here"] is False
    assert "here\tno" in cli("show", "m:v1").out
    for words in (("list", "m"), ("delete", "--all-versions-of", "m", "--yes"), ("delete", "m:v1", "--yes")):
        assert cli(*words, code=ExitCode.NOT_FOUND).err
    for tag in ("m:v1", "m"):
        assert complete(cli, f"casstore cat {tag} v") == []
    assert cli("list").out == ""
    cli("checkout", "m:v1", tmp_path / "work")
    assert (tmp_path / "work/version").read_bytes() == b"v1"
    assert complete(cli, "casstore cat m:v1 v") == ["version"]
    assert cli("list").out.startswith("m:v1\t")
