"""adopt: all that stands in a BentoML home, or any tree of NAME/VERSION/, becomes versions; nothing is ever lost."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import casstore
from casstore.actions.directories import materialize as materialize_action
from casstore.actions.directories import placing
from casstore.actions.exchange import adopt
from casstore.actions.saving import commit, needed, save, staging, storing
from casstore.actions.saving.staging import Staging
from casstore.actions.sources.source import check_as_found
from casstore.storage import files as storage_files
from tests.kit import Age, Child, Save, Sql, bento, contents, everything, noise, streamed

BIG = 1_300_000
SOMEBODY = 61_001
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def parts():
    """The files of a version: large, small, nested, executable, empty, and an empty directory."""
    return {
        "w.bin": noise(BIG), "sub/deep/x.bin": noise(90_000, 1), "run.sh!": b"#!/bin/sh\n", "empty": b"",
        "hollow/in": None, "sub/small": b"small",
    }  # fmt: skip


@pytest.fixture
def plain(parts):
    """The same as what is read back."""
    return {name.removesuffix("!"): data for name, data in parts.items() if data is not None}


@pytest.fixture(params=["elsewhere", "move", "in place"])
def way(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def tree(way, home: Path, tmp_path: Path, store: casstore.Store):
    """Where the directories stand that are to be adopted."""
    return home / "models" if way == "in place" else tmp_path / "bentoml/models"


@pytest.fixture
def take(way, home: Path, tmp_path: Path, store: casstore.Store):
    """take(): adopt that tree in that way."""

    def run(**options):
        directory = home if way == "in place" else tmp_path / "bentoml"
        return store.adopt(directory, move=way == "move", **options)

    return run


@pytest.fixture
def intact(store: casstore.Store, home: Path):
    """intact(tag, files): the version has just these bytes, in its directory and from its chunks, and all is sound."""

    def check(tag, files):
        model = store.get(tag)
        assert contents(model) == files
        assert Path(model.path) == home / "models" / tag.replace(":", "/")
        assert store.verify().is_sound

    return check


@dataclass(frozen=True)
class Adoption:
    """What a test of adopting has: the tree and the way, what its directories hold and read back, and how to adopt and
    to check it."""

    way: str
    tree: Path
    take: Callable[..., casstore.AdoptReport]
    parts: dict[str, Any]
    plain: dict[str, bytes]
    intact: Callable[[str, dict[str, bytes]], None]


@pytest.fixture
def adoption(way, tree, take, parts, plain, intact) -> Adoption:
    return Adoption(way, tree, take, parts, plain, intact)


def test_all_that_a_directory_says_comes_over(store: casstore.Store, home: Path, adoption: Adoption) -> None:
    bento(adoption.tree, "m:v1", adoption.parts, created=3)
    bento(
        adoption.tree,
        "m:v2",
        {"w.bin": adoption.parts["w.bin"]},
        created=2,
        fields={"labels": {}, "metadata": {"deep": {"n": [1, 2]}}},
    )
    bento(adoption.tree, "other:a", {}, created=4)
    before = everything(adoption.tree.parent)
    report = adoption.take()
    if adoption.way == "in place":  # before anything is asked for, which would mend it
        now = everything(adoption.tree)
        kept = {name: data for name, data in now.items() if not name.endswith(("model.yaml", "latest"))}
        assert kept == {name.removeprefix("models/"): before[f"models/{name}"] for name in kept}
        assert len(now) == sum(name.startswith("models/") for name in before)
    assert report.adopted == ("m:v2", "m:v1", "other:a")
    assert (report.present, report.refused) == ((), ())
    assert report.logical_bytes == sum(map(len, adoption.plain.values())) + BIG
    assert (
        report.shared_bytes >= BIG - 100_000 or adoption.way != "in place"
    )  # elsewhere m:v1 is packed, and has a directory
    model = store.get("m:v1")
    assert (model.labels, model.metadata) == ({"stage": "dev"}, {"acc": 0.93})
    assert model.created_at == datetime.datetime(2024, 1, 3, 10, 20, 30, 123456, datetime.timezone.utc)
    assert store.get("m:v2").metadata == {"deep": {"n": [1, 2]}}
    assert str(store.get("m").tag) == "m:v1"
    assert (home / "models/m/latest").read_text() == "v1"
    if adoption.way == "elsewhere":
        assert everything(adoption.tree.parent) == before
    if adoption.way == "move":
        assert everything(adoption.tree.parent) == {"models": None}
    if adoption.way == "in place":
        assert report.notes == ("m: `latest` was 'v2'; here it is v1, the newest by its creation time",)
        assert everything(home / "models").keys() == {
            each.removeprefix("models/") for each in before if "models/" in each
        }
    adoption.intact("m:v1", adoption.plain)
    assert os.access(home / "models/m/v1/run.sh", os.X_OK)
    assert (home / "models/m/v1/hollow/in").is_dir()
    assert not os.access(home / "models/m/v1/sub/small", os.X_OK)
    adoption.intact("m:v2", {"w.bin": adoption.parts["w.bin"]})
    adoption.intact("other:a", {})


def test_twice_is_once(store: casstore.Store, home: Path, adoption: Adoption) -> None:
    bento(adoption.tree, "m:v1", adoption.parts, created=1)
    bento(adoption.tree, "m:v2", {"w": b"2"}, created=2)
    adoption.take()
    inodes = {str(path): path.stat().st_ino for path in (home / "models").rglob("*")}
    if adoption.way == "move":
        bento(adoption.tree, "m:v1", adoption.parts, created=1)
        bento(adoption.tree, "m:v2", {"w": b"2"}, created=2)
    report = adoption.take()
    assert (report.adopted, report.refused, report.notes) == ((), (), ())
    assert report.present == (() if adoption.way == "in place" else ("m:v1", "m:v2"))
    assert (report.logical_bytes, report.added_bytes) == (0, 0)
    assert {str(path): path.stat().st_ino for path in (home / "models").rglob("*")} == inodes
    assert not (adoption.tree / "m").exists() or adoption.way != "move"
    adoption.intact("m:v1", adoption.plain)


def test_in_place_nothing_is_copied_and_nothing_is_ever_away(
    home: Path, store: casstore.Store, parts, plain, intact, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = bento(home / "models", "m:v1", parts)
    inodes = {name: os.lstat(directory / name).st_ino for name in ["", *plain]}
    mode = directory.stat().st_mode
    seen = []
    for module in (commit, placing, storage_files):
        for name in ("settle", "publish", "rename"):
            if hasattr(module, name):
                real = getattr(module, name)
                monkeypatch.setattr(
                    module,
                    name,
                    lambda *a, real=real: (seen.append(read(directory)), real(*a), seen.append(read(directory))),
                )

    def read(root):
        return {name: (root / name).read_bytes() for name in plain}

    assert store.adopt(home).adopted == ("m:v1",)
    assert len(seen) > 5
    assert all(each == plain for each in seen)
    assert {name: os.lstat(directory / name).st_ino for name in ["", *plain]} == inodes
    assert directory.stat().st_mode == mode
    assert {name: (directory / name).stat().st_nlink for name in plain}["w.bin"] == 2
    assert stat.S_IMODE((directory / "w.bin").stat().st_mode) == 0o444
    intact("m:v1", plain)


def test_every_version_keeps_its_directory_from_then_on(home: Path, store: casstore.Store, parts, age: Age) -> None:
    for number in range(3):
        bento(home / "models", f"m:{number}", {"w": b"%d" % number, **parts}, created=1 + number)
    store.adopt(home)
    assert store.settings()["materialize"] == "all"
    store.close()
    age(100)
    store.gc()
    assert {path.name for path in (home / "models/m").iterdir()} == {"0", "1", "2", "latest"}
    store.set_setting("materialize", "newest")
    bento(home / "models", "m:3", {"w": b"3"}, created=9)
    store.adopt(home)
    assert store.settings()["materialize"] == "newest", "what somebody has set stays"


def test_a_store_without_strangers_keeps_its_settings(home: Path, store: casstore.Store, save: Save) -> None:
    save("m:1", {"w": b"1"})
    assert store.adopt(home).adopted == ()
    assert store.settings()["materialize"] == "newest"


@pytest.mark.parametrize("spelled", ["relative", "through a link", "its models", "with dots"])
def test_the_home_may_be_spelled_in_any_way(
    store: casstore.Store, parts, plain, intact, monkeypatch: pytest.MonkeyPatch, spelled
) -> None:
    bento(store.home / "models", "m:v1", parts)
    monkeypatch.chdir(store.home.parent)
    (store.home.parent / "link").symlink_to(store.home)
    ways: dict[str, str | Path] = {
        "relative": "store",
        "through a link": store.home.parent / "link",
        "its models": store.home / "models",
        "with dots": "./x/../store",
    }
    (store.home.parent / "x").mkdir()
    assert store.adopt(ways[spelled]).adopted == ("m:v1",)
    intact("m:v1", plain)
    assert (store.home / "models/m/v1/model.yaml").exists()


def test_elsewhere_the_newest_gets_a_directory(store: casstore.Store, tmp_path: Path, home: Path, parts) -> None:
    for number in range(3):
        bento(tmp_path / "b/models", f"m:{number}", {**parts, "n": b"%d" % number}, created=9 - number)
    store.adopt(tmp_path / "b")
    assert {path.name for path in (home / "models/m").iterdir()} == {"0", "latest"}
    store.set_setting("materialize", "all")
    bento(tmp_path / "b/models", "m:3", parts, created=1)
    store.adopt(tmp_path / "b")
    assert (home / "models/m/3").is_dir()


@pytest.mark.parametrize("link_mode", ["auto", "copy"])
def test_link_modes(store: casstore.Store, home: Path, link_mode, adoption: Adoption) -> None:
    store.set_setting("link_mode", link_mode)
    bento(adoption.tree, "m:v1", adoption.parts)
    bento(adoption.tree, "m:v2", adoption.parts, created=2)
    assert adoption.take().adopted == ("m:v1", "m:v2")
    linked = (home / "models/m/v2/w.bin").stat().st_nlink > 1
    assert linked == (link_mode == "auto")
    adoption.intact("m:v1", adoption.plain)
    adoption.intact("m:v2", adoption.plain)
    store.gc()


def test_from_another_file_system(store: casstore.Store, parts, plain, intact, elsewhere: Path) -> None:
    bento(elsewhere / "models", "m:v1", parts)
    shutil.copytree(elsewhere / "models/m/v1", elsewhere / "models/m/v2")
    assert store.adopt(elsewhere, move=True).adopted == ("m:v1", "m:v2")
    assert os.listdir(elsewhere / "models") == []
    intact("m:v1", plain)
    intact("m:v2", plain)


def test_in_place_where_the_tree_is_on_another_file_system(
    store: casstore.Store, home: Path, parts, plain, intact, elsewhere: Path
) -> None:
    (home / "models").rmdir()
    (home / "models").symlink_to(elsewhere)
    bento(elsewhere, "m:v1", parts)
    assert store.adopt(home).adopted == ("m:v1",)
    assert store.verify().is_sound
    intact("m:v1", plain)
    store.gc()
    assert {step.count for step in store.gc().steps} == {0}
    intact("m:v1", plain)


def test_links(store: casstore.Store, tmp_path: Path, adoption: Adoption) -> None:
    """Links, inside and out of it, to files and directories, become what they lead to, which stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.bin").write_bytes(noise(BIG, 7))
    (outside / "d").mkdir()
    (outside / "d/e").write_bytes(b"e")
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    (directory / "near").symlink_to("w.bin")
    (directory / "far").symlink_to(outside / "far.bin")
    (directory / "sub/d").symlink_to(outside / "d")
    before = everything(outside)
    assert adoption.take().adopted == ("m:v1",)
    expected = {**adoption.plain, "near": adoption.plain["w.bin"], "far": noise(BIG, 7), "sub/d/e": b"e"}
    adoption.intact("m:v1", expected)
    assert everything(outside) == before
    assert not any(path.is_symlink() for path in (store.home / "models").rglob("*"))
    assert not (adoption.tree / "m/v1").exists() or adoption.way != "move"


def test_a_link_that_leads_nowhere(way, tree, take, store: casstore.Store, parts) -> None:
    directory = bento(tree, "m:v1", parts)
    (directory / "gone").symlink_to("nowhere")
    before = everything(tree)
    (refused,) = take().refused
    assert refused.path == str(directory)
    assert "which does not exist" in refused.reason
    assert everything(tree) == before


def test_files_that_others_have_links_to(store: casstore.Store, tmp_path: Path, adoption: Adoption) -> None:
    """They are copied: whoever has the other link could write to it."""
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    os.link(directory / "w.bin", tmp_path / "twin")
    os.link(directory / "w.bin", directory / "sub/again")
    inode = (tmp_path / "twin").stat().st_ino
    assert adoption.take().adopted == ("m:v1",)
    (tmp_path / "twin").chmod(0o644)
    (tmp_path / "twin").write_bytes(b"changed")
    expected = {**adoption.plain, "sub/again": adoption.plain["w.bin"]}
    if adoption.way == "elsewhere":
        assert (directory / "w.bin").read_bytes() == b"changed"
    adoption.intact("m:v1", expected)
    assert (store.home / "models/m/v1/w.bin").stat().st_ino != inode


def test_read_only_files(tree, take, parts, plain, intact) -> None:
    directory = bento(tree, "m:v1", parts)
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o555 if os.access(path, os.X_OK) and path.name == "run.sh" else 0o444)
    assert take().adopted == ("m:v1",)
    intact("m:v1", plain)


def test_a_file_that_is_open_for_writing_is_waited_for(monkeypatch: pytest.MonkeyPatch, adoption: Adoption) -> None:
    monkeypatch.setattr(adopt, "QUIET_NS", 0)
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    before = everything(adoption.tree)
    modes = {path: path.stat().st_mode for path in adoption.tree.rglob("*")}
    for name in ("w.bin", "sub/small"):
        with open(directory / name, "r+b"):
            (refused,) = adoption.take().refused
            assert refused.path == str(directory)
            assert "open for writing" in refused.reason
            assert everything(adoption.tree) == before
            assert {path: path.stat().st_mode for path in adoption.tree.rglob("*")} == modes
    assert adoption.take().adopted == ("m:v1",)
    adoption.intact("m:v1", adoption.plain)


@as_root
def test_files_of_somebody_else(home: Path, adoption: Adoption) -> None:
    """They are copied, as their owner may write to them; root may replace them."""
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    os.chown(directory / "w.bin", SOMEBODY, SOMEBODY)
    inode = (directory / "w.bin").stat().st_ino
    assert adoption.take().adopted == ("m:v1",)
    assert (home / "models/m/v1/w.bin").stat().st_uid == 0
    assert (home / "models/m/v1/w.bin").stat().st_ino != inode
    adoption.intact("m:v1", adoption.plain)


@pytest.fixture
def somebody(save: Save):
    """somebody.run(function): in a process of an ordinary user, with a directory of his own, `place`, as its argument.

    Something has been saved by then, as he may be unable to reach the modules that that takes.
    """
    save("warm:up", {"w": b"w"})
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    mine = root / "mine"
    mine.mkdir()
    os.chown(mine, SOMEBODY, SOMEBODY)

    def run(function):
        def become():
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            function(mine)

        assert Child(become).wait() == 0

    yield SimpleNamespace(run=run, place=mine)
    shutil.rmtree(root)


@as_root
def test_what_an_ordinary_user_may_not_read_or_replace(somebody) -> None:
    def work(mine):
        unreadable = bento(mine / "store/models", "a:unreadable", {"w": b"1", "x": b"2"})
        (unreadable / "x").chmod(0)
        closed = bento(mine / "store/models", "a:closed", {"w": b"1"})
        closed.chmod(0)
        fixed = bento(mine / "store/models", "a:fixed", {"w": b"1", "sub/x": b"2"})
        fixed.chmod(0o555)
        bento(mine / "store/models", "b:hidden", {"w": b"1"}).parent.chmod(0)
        bento(mine / "store/models", "c:good", {"w": b"1"})
        with casstore.Store(mine / "store") as store:
            report = store.adopt(mine / "store")
            assert report.adopted == ("c:good",)
            reasons = {Path(each.path).name: each.reason for each in report.refused}
            assert reasons.keys() == {"unreadable", "closed", "fixed", "b"}
            assert "cannot be written to" in reasons["fixed"]
            assert all("Permission denied" in reasons[name] for name in ("unreadable", "closed", "b"))
            assert store.tags() == ["c:good"]
        assert (fixed / "w").stat().st_mode & 0o777 == 0o644
        fixed.chmod(0o755)
        (unreadable / "x").chmod(0o644)
        closed.chmod(0o755)
        (mine / "store/models/b").chmod(0o755)
        with casstore.Store(mine / "store") as store:
            assert set(store.adopt(mine / "store").adopted) == {"a:unreadable", "a:closed", "a:fixed", "b:hidden"}
            assert store.verify().is_sound

    somebody.run(work)


@as_root
def test_an_ordinary_user_whose_directory_holds_files_of_others(somebody) -> None:
    """In place they are replaced by copies, which his directory lets him."""

    def work(mine):
        directory = mine / "store/models/m/v1"
        with casstore.Store(mine / "store") as store:
            assert store.adopt(mine / "store").adopted == ("m:v1",)
            assert Path(store.get("m:v1").path, "w.bin").read_bytes() == noise(BIG, 3)
            assert {path.stat().st_uid for path in directory.iterdir()} == {SOMEBODY}
            assert store.verify().is_sound

    def prepare(mine):
        bento(mine / "store/models", "m:v1", {"w.bin": noise(BIG, 3), "x": b"x"})

    somebody.run(prepare)
    os.chown(somebody.place / "store/models/m/v1/w.bin", 0, 0)
    somebody.run(work)


def test_a_version_without_model_yaml(tree, take, store: casstore.Store, intact) -> None:
    directory = bento(tree, "m:v1", {"w": b"1", "x": b"2"}, fields=None)
    os.utime(directory / "w", ns=(0, 1_600_000_000_123_456_789))
    os.utime(directory / "x", ns=(0, 1_500_000_000_000_000_000))
    assert take().adopted == ("m:v1",)
    model = store.get("m:v1")
    assert model.created_at.timestamp() == 1_600_000_000.123456
    assert (model.labels, model.metadata) == ({}, {})
    intact("m:v1", {"w": b"1", "x": b"2"})


def test_times_of_files_in_the_future(tree, take, store: casstore.Store) -> None:
    directory = bento(tree, "m:v1", {"w": b"1"}, fields=None)
    later = time.time_ns() + 10**15
    os.utime(directory / "w", ns=(later, later))
    take()
    assert store.get("m:v1").created_at.timestamp() <= time.time()


def test_a_model_yaml_that_names_another_tag(way, tree, take, store: casstore.Store, intact, home: Path) -> None:
    bento(tree, "m:v1", {"w": b"1"}, fields={"name": "else", "version": "v9"})
    report = take()
    assert report.adopted == ("m:v1",)
    assert any("calls it else:v9" in note for note in report.notes)
    intact("m:v1", {"w": b"1"})
    assert "name: m\n" in (home / "models/m/v1/model.yaml").read_text()


@pytest.mark.parametrize("text", ["", "x", "[1]", "name: m", "name: [", "\0", "name: !!python/name:os.system\n"])
def test_a_bad_model_yaml(way, tree, take, store: casstore.Store, text) -> None:
    directory = bento(tree, "m:v1", {"w": b"1"})
    (directory / "model.yaml").write_text(text)
    bento(tree, "m:v2", {"w": b"2"}, created=2)
    left = everything(directory)
    report = take()
    assert report.adopted == ("m:v2",)
    assert [each.path for each in report.refused] == [str(directory)]
    assert everything(directory) == left


def test_metadata_that_json_cannot_hold(tree, take, store: casstore.Store) -> None:
    metadata = {"loss": math.nan, "key": b"\0\1", 7: "n", "at": datetime.date(2024, 1, 1)}
    bento(tree, "m:v1", {"w": b"1"}, fields={"metadata": metadata, "labels": {"n": 1}})
    report = take()
    assert report.adopted == ("m:v1",)
    assert store.get("m:v1").metadata == {"loss": math.nan, "key": "AAE=", "7": "n", "at": "2024-01-01"}
    assert store.get("m:v1").labels == {"n": "1"}
    assert len(report.notes) >= 3
    assert take().refused == ()


@pytest.mark.parametrize("name", ["Bert:v1", "bert:V1"])
def test_upper_case(store: casstore.Store, name, adoption: Adoption) -> None:
    directory = bento(adoption.tree, name, adoption.parts)
    left = everything(directory)
    report = adoption.take()
    if adoption.way == "in place":
        assert "rename the directory" in report.refused[0].reason
        assert everything(directory) == left
        assert store.tags() == []
    else:
        assert report.adopted == ("bert:v1",)
        assert any("it stands as" in note for note in report.notes)
        adoption.intact("bert:v1", adoption.plain)


@pytest.mark.parametrize("name", ["con:v1", "a b:v1", "-x:v1", "m:con", "m:v 1", "m:" + "v" * 64, "m:wär"])
def test_names_that_cannot_be_tags(way, tree, take, store: casstore.Store, name) -> None:
    directory = bento(tree, name, {"w": b"1"}, fields=None)
    bento(tree, "m:good", {"w": b"2"})
    left = everything(directory)
    report = take()
    assert report.adopted == ("m:good",)
    assert [each.path for each in report.refused] == [str(directory)]
    assert everything(directory) == left


def test_what_is_no_version_is_left_alone_and_named(way, tree, take, store: casstore.Store, parts) -> None:
    bento(tree, "m:v1", {"w": b"1"})
    (tree / "README").write_text("read me")
    (tree / "m/notes.txt").write_text("notes")
    (tree / "alias").symlink_to("m")
    (tree / "m/prod").symlink_to("v1")
    (tree / ".hidden/v1").mkdir(parents=True)
    (tree / ".hidden/v1/w").write_bytes(b"w")
    (tree / "m/.cache").mkdir()
    (tree / "bare").mkdir()
    report = take()
    assert report.adopted == ("m:v1",)
    assert report.refused == ()
    for name in ("README", "m/notes.txt", "alias", "m/prod"):
        assert any(str(tree / name) in note for note in report.notes), name
        assert os.path.lexists(tree / name)
    for name in (".hidden/v1/w", "m/.cache", "bare"):
        assert not any(name in note for note in report.notes)
        assert (tree / name).exists()


def test_a_latest_that_differs_is_noted(tree, take, store: casstore.Store) -> None:
    bento(tree, "m:v1", {"w": b"1"}, created=2)
    bento(tree, "m:v2", {"w": b"2"}, created=1)
    (tree / "m/latest").write_text("v2\n")
    assert "`latest` was 'v2'" in take().notes[-1]
    assert str(store.get("m:latest").tag) == "m:v1"


def test_an_old_version_does_not_become_the_latest(tree, take, store: casstore.Store, save: Save) -> None:
    save("m:now", {"w": b"0"})
    bento(tree, "m:old", {"w": b"1"}, created=2)
    take()
    assert str(store.get("m").tag) == "m:now"
    assert (store.home / "models/m/latest").read_text() == "now"


def test_equal_content_is_stored_once(tree, take, store: casstore.Store, parts, plain, intact) -> None:
    for number in range(4):
        bento(tree, f"m{number % 2}:v{number}", parts, created=1 + number)
    report = take()
    assert len(report.adopted) == 4
    assert report.shared_bytes > 2 * BIG
    for number in range(4):
        intact(f"m{number % 2}:v{number}", plain)


def test_the_very_version_is_there_already(
    store: casstore.Store, home: Path, tmp_path: Path, adoption: Adoption
) -> None:
    bento(tmp_path / "first", "m:v1", adoption.parts)
    store.adopt(tmp_path / "first")
    if adoption.way == "in place":
        shutil.rmtree(home / "models/m/v1")
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    (directory / "w.bin").chmod(0o600)
    report = adoption.take()
    assert (report.adopted, report.present, report.refused) == ((), ("m:v1",), ())
    adoption.intact("m:v1", adoption.plain)
    assert directory.exists() == (adoption.way != "move")
    assert stat.S_IMODE((home / "models/m/v1/w.bin").stat().st_mode) == 0o444
    assert adoption.take().refused == () if adoption.way != "move" else True


@pytest.mark.parametrize("what", ["bytes", "a file more", "a file less", "labels", "the time", "executable"])
def test_another_version_has_the_tag(
    store: casstore.Store, home: Path, tmp_path: Path, what, adoption: Adoption
) -> None:
    bento(tmp_path / "first", "m:v1", adoption.parts, created=1)
    store.adopt(tmp_path / "first")
    if adoption.way == "in place":
        shutil.rmtree(home / "models/m/v1")
    changed = dict(adoption.parts)
    fields: dict[Any, Any] = {}
    if what == "bytes":
        changed["w.bin"] = b"X" + adoption.parts["w.bin"][1:]
    elif what == "a file more":
        changed["more"] = b""
    elif what == "a file less":
        del changed["empty"]
        changed["other"] = b""
    elif what == "executable":
        changed["sub/small!"] = changed.pop("sub/small")
    elif what == "labels":
        fields["labels"] = {}
    directory = bento(adoption.tree, "m:v1", changed, created=2 if what == "the time" else 1, fields=fields)
    left = everything(directory)
    report = adoption.take()
    assert (report.adopted, report.present) == ((), ())
    assert "another m:v1 is saved already" in report.refused[0].reason
    assert everything(directory) == left
    with store.get("m:v1").open("w.bin") if adoption.way != "in place" else contextlib.nullcontext() as file:
        assert file is None or file.read() == adoption.plain["w.bin"]


def test_a_damaged_copy_in_the_store_lets_nothing_go(store: casstore.Store, parts, tmp_path: Path, home: Path) -> None:
    """Present, as the catalog says; but the only good copy is the one that was to be moved."""
    bento(tmp_path / "b", "m:v1", parts)
    store.adopt(tmp_path / "b")
    loose = next(path for path in (home / "objects/loose").rglob("*.*") if path.stat().st_size == BIG)
    loose.chmod(0o644)
    with open(loose, "r+b") as file:
        file.write(b"damaged")
    before = everything(tmp_path / "b")
    report = store.adopt(tmp_path / "b", move=True)
    assert report.present == ()
    assert "is damaged in the store" in report.refused[0].reason
    assert everything(tmp_path / "b") == before
    store.repair([tmp_path / "b"])
    assert store.adopt(tmp_path / "b", move=True).present == ("m:v1",)
    assert store.verify().is_sound


def test_a_relaxed_copy_in_the_store_is_synced_before_another_goes(
    store: casstore.Store, parts, tmp_path: Path, sql: Sql
) -> None:
    bento(tmp_path / "b", "m:v1", parts)
    store.adopt(tmp_path / "b", durability="relaxed")
    unsynced = "SELECT count(DISTINCT container) FROM chunk JOIN container ON id = container WHERE NOT synced"
    assert sql(unsynced)[0][0] > 0
    assert store.adopt(tmp_path / "b", move=True).present == ("m:v1",)
    assert sql(unsynced)[0][0] == 0


def test_what_is_moved_is_durable_whatever_the_setting(store: casstore.Store, parts, tmp_path: Path, sql: Sql) -> None:
    bento(tmp_path / "b", "m:v1", parts)
    store.set_setting("durability", "relaxed")
    store.adopt(tmp_path / "b", move=True)
    assert sql("SELECT count(DISTINCT container) FROM chunk JOIN container ON id = container WHERE NOT synced") == [
        (0,)
    ]


class _Boom(BaseException):
    """As KeyboardInterrupt is, at any step."""


STEPS = [
    (needed, "find_lost"), (Staging, "stage"), (storing.Storing, "store"), (commit, "_sync"),
    (commit, "_clear_the_way"), (commit, "settle"), (commit, "publish"), (save, "remove_source"),
    (adopt, "take_in"), (adopt.Adoption, "_remove"), (adopt, "_remove_empty_names"), (adopt, "_note_latest"),
    (staging.Staging, "_take"), (staging.Staging, "_copy"), (adopt, "finish_saves"), (materialize_action, "settle"),
]  # fmt: skip


@pytest.mark.crash
def test_cut_short_and_run_again(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path, adoption: Adoption
) -> None:
    """At every step, before and after it, for as long as there is a next such step."""
    cuts = 0
    for number, (step, is_after) in enumerate(itertools.product(STEPS, (False, True))):
        tags = {
            f"s{number}:v1": {"w.bin": noise(100_000, number), "sub/small": b"%d" % number},
            f"s{number}:v2": {"w.bin": noise(100_000, number), "few": b"%d" % number},
        }  # fmt: skip
        for tag, files in tags.items():
            bento(adoption.tree, tag, {**files, "hollow": None}, created=1 + number % 7)
        os.link(adoption.tree / f"s{number}/v1/w.bin", tmp_path / f"twin{number}")
        expected = {tag: everything(adoption.tree / tag.replace(":", "/")) for tag in tags}
        store.set_setting("materialize", None)
        for count in itertools.count(1):
            with monkeypatch.context() as patch:
                patch.setattr(*step, _cut(getattr(*step), count, is_after))
                try:
                    adoption.take()
                    break
                except _Boom:
                    cuts += 1
            is_any = any(tag in store.tags() for tag in tags)
            assert not is_any or (store.settings()["materialize"] == "all") == (adoption.way == "in place")
            for tag, files in tags.items():
                standing = everything(adoption.tree / tag.replace(":", "/"))
                gone = {name for name, data in expected[tag].items() if standing.get(name) != data}
                if tag in store.tags():
                    assert streamed(store.get(tag)) == files
                else:
                    assert not gone, (step, count)
        for tag, files in tags.items():
            assert contents(store.get(tag)) == files
        if adoption.way == "elsewhere":
            shutil.rmtree(adoption.tree / f"s{number}")
    assert cuts > len(STEPS)
    if adoption.way == "move":
        assert everything(adoption.tree) == {}
    assert store.settings()["materialize"] == ("all" if adoption.way == "in place" else "newest")
    store.gc()
    assert store.verify().is_sound


@pytest.mark.parametrize("then", ["get", "gc", "adopt", "sync"])
def test_killed_before_any_file_has_become_the_version_s(store: casstore.Store, home: Path, then) -> None:
    """Committed, and all that stands is what stood before: each file had another link, so a copy is to replace it."""
    directory = bento(home / "models", "m:v1", {"a": b"a", "sub/b": b"b"})
    os.link(directory / "a", home.parent / "a")
    os.link(directory / "sub/b", home.parent / "b")
    before = everything(directory)

    def die():
        pytest.MonkeyPatch().setattr(commit, "settle", lambda *_: os.kill(os.getpid(), 9))
        store.adopt(home)

    assert Child(die).wait() == -9
    assert everything(directory) == before
    assert store.tags() == ["m:v1"]
    (directory / "sub/b").chmod(0o644)
    (directory / "sub/b").write_bytes(b"and somebody goes on")
    run: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("m:v1"),
        "gc": store.gc,
        "adopt": lambda: store.adopt(home),
        "sync": store.sync_tree,
    }
    run[then]()
    store.gc()
    assert contents(store.get("m:v1")) == {"a": b"a", "sub/b": b"b"}
    kept = {path.read_bytes() for path in (home / "quarantine").rglob("*") if path.is_file()}
    assert kept >= {b"and somebody goes on"}
    assert store.verify().is_sound
    assert store.verify().missing_directories == ()


def _cut(real, count, is_after):
    """The function, which is cut short in its call of that number."""
    calls = itertools.count(1)

    def cut(*arguments, **options):
        is_it = next(calls) == count
        if is_it and not is_after:
            raise _Boom
        answer = real(*arguments, **options)
        if is_it:
            raise _Boom
        return answer

    return cut


def test_what_is_added_meanwhile_stays(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, adoption: Adoption
) -> None:
    """Before the commit the directory is refused; after it, what has come stays, or in a version's own directory is
    kept in quarantine."""
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    real = check_as_found
    monkeypatch.setattr(
        commit, "check_as_found", lambda source: ((directory / "late").write_bytes(b"late"), real(source))
    )
    before = everything(directory)
    report = adoption.take()
    assert report.adopted == ()
    assert "written to" in report.refused[0].reason
    assert everything(directory) == {**before, "late": b"late"}
    monkeypatch.setattr(
        commit, "check_as_found", lambda source: (real(source), (directory / "later").write_bytes(b"later"))
    )
    assert adoption.take().adopted == ("m:v1",)
    kept = (
        [directory / "later"]
        if adoption.way != "in place"
        else list((store.home / "quarantine/changed").rglob("later"))
    )
    assert [path.read_bytes() for path in kept] == [b"later"]
    assert store.get("m:v1").open("late").read() == b"late"


@pytest.mark.parametrize("name", ["w.bin", "sub/small", "model.yaml"])
def test_what_is_rewritten_meanwhile_is_not_lost(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, name, adoption: Adoption
) -> None:
    directory = bento(adoption.tree, "m:v1", adoption.parts)
    if name == "w.bin":
        os.link(directory / name, adoption.tree.parent / "twin")  # so it is to be replaced by a copy
    text = (directory / "model.yaml").read_bytes() + b"# more\n"

    def rewrite():
        (directory / "new").write_bytes(text)
        (directory / "new").rename(directory / name)

    real = check_as_found
    monkeypatch.setattr(commit, "check_as_found", lambda source: (rewrite(), real(source)))
    report = adoption.take()
    assert report.adopted == ()
    assert (directory / name).read_bytes() == text
    monkeypatch.setattr(commit, "check_as_found", real)
    shutil.rmtree(directory)
    bento(adoption.tree, "m:v1", adoption.parts)
    monkeypatch.setattr(commit, "check_as_found", lambda source: (real(source), rewrite()))
    assert adoption.take().adopted == ("m:v1",)
    kept = [directory / name, *(store.home / "quarantine").iterdir()]
    assert text in [path.read_bytes() for path in kept if path.exists()]


def test_a_directory_that_is_deleted_meanwhile(
    way, tree, take, store: casstore.Store, parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = bento(tree, "m:v1", parts)
    bento(tree, "m:v2", {"w": b"2"}, created=2)
    real = staging.Staging.stage
    monkeypatch.setattr(
        staging.Staging,
        "stage",
        lambda self, source: (shutil.rmtree(directory, ignore_errors=True), real(self, source))[1],
    )
    report = take()
    assert report.adopted == ("m:v2",)
    assert [each.path for each in report.refused] == [str(directory)]


def test_a_directory_that_is_being_copied_is_left(
    way, tree, take, store: casstore.Store, parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = bento(tree, "m:v1", parts)
    with monkeypatch.context() as patch:
        patch.setattr(adopt, "QUIET_NS", 3600 * 10**9)
        # Whoever copies goes on while it is waited whether he does.
        patch.setattr(time, "sleep", lambda _: (directory / "part").write_bytes(b"p"))
        report = take()
    assert report.adopted == ()
    assert "being written to" in report.refused[0].reason
    expected = everything(directory)
    assert take().adopted == ("m:v1",)
    model = store.get("m:v1")
    assert {file.path for file in model.files} == {n for n, data in expected.items() if data is not None} - {
        "model.yaml"
    }


def test_a_part_of_a_store_is_no_tree(store: casstore.Store, home: Path, tmp_path: Path, save: Save) -> None:
    save("m:1", {"w": b"1"})
    for part in ("objects", "manifests", "sessions"):
        with pytest.raises(casstore.InvalidSource, match="working part"):
            store.adopt(home / part, move=True)
    report = store.adopt(tmp_path, move=True)
    assert report.adopted == ()
    assert {each.path for each in report.refused} >= {str(home / "models"), str(home / "sessions")}
    other = tmp_path / "deep/other"
    with casstore.Store(other) as second, second.create("x:1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
    with pytest.raises(casstore.InvalidSource, match="casstore export"):
        store.adopt(other, move=True)
    assert store.adopt(tmp_path, move=True).adopted == ()
    with casstore.Store(other) as second:
        assert second.verify().is_sound
    assert store.verify().is_sound


def test_nothing_to_adopt(store: casstore.Store, tmp_path: Path) -> None:
    with pytest.raises(casstore.InvalidSource, match="not a directory"):
        store.adopt(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    assert store.adopt(tmp_path / "bare").adopted == ()
    (tmp_path / "bare/file").write_bytes(b"no model")
    with pytest.raises(casstore.InvalidSource, match="NAME/VERSION"):
        store.adopt(tmp_path / "bare")
    assert store.adopt(store.home).adopted == ()


def test_a_disk_that_is_full_in_the_middle(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, adoption: Adoption
) -> None:
    for number in range(3):
        bento(adoption.tree, f"m:{number}", {**adoption.parts, "w.bin": noise(BIG, number)}, created=1 + number)
    real, calls = storage_files.write_all, itertools.count()

    def full(*arguments):
        if next(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(storage_files, "write_all", full)
        with pytest.raises(OSError, match="No space left"):
            adoption.take()
    for number in range(3):
        standing = everything(adoption.tree / f"m/{number}")
        assert f"m:{number}" in store.tags() or standing["w.bin"] == noise(BIG, number)
    report = adoption.take()
    assert report.refused == ()
    for number in range(3):
        adoption.intact(f"m:{number}", {**adoption.plain, "w.bin": noise(BIG, number)})


def test_progress_adds_up(way, tree, take, store: casstore.Store, parts, plain) -> None:
    class Seen:
        def __init__(self):
            self.steps, self.total, self.done = [], 0, 0

        def start(self, step, total):
            self.steps.append(step)
            self.total = total

        def advance(self, done):
            self.done += done

        def finish(self):
            self.steps.append("end")

    bento(tree, "m:v1", parts)
    bento(tree, "m:v2", parts, created=2)
    for _ in range(2):
        if not (tree / "m").exists():
            break
        seen = Seen()
        take(progress=seen)
        assert seen.steps == ["adopt", "end"]
        assert seen.total == seen.done


def test_others_work_meanwhile(way, tree, take, store: casstore.Store, home: Path) -> None:
    """gc, verify, repair, saves and another adoption, in other processes."""
    expected = {}
    for number in range(12):
        files = {"w.bin": noise(200_000, number % 5), "n": b"%d" % number}
        bento(tree, f"m{number % 3}:v{number}", files, created=1 + number)
        expected[f"m{number % 3}:v{number}"] = files
    stop = home.parent / "stop"

    def repeat(function):
        def work():
            with casstore.Store(home) as mine:
                while not stop.exists():
                    with contextlib.suppress(casstore.StoreLocked):
                        function(mine)
                    time.sleep(0.01)

        return Child(work)

    def put(mine):
        with mine.create("mine") as draft:
            Path(draft.path, "w").write_bytes(os.urandom(100_000))

    others = [
        repeat(lambda mine: mine.gc(evict_all=True)), repeat(lambda mine: mine.repair()), repeat(put),
        repeat(lambda mine: mine.verify()),
    ]  # fmt: skip
    if way == "in place":
        others.append(repeat(lambda mine: mine.adopt(home)))
    try:
        reports = [take()]
        time.sleep(0.3)
    finally:
        stop.touch()
        codes = [other.wait() for other in others]
    assert codes == [0] * len(others)
    assert reports[0].refused == ()
    for tag, files in expected.items():
        assert contents(store.get(tag)) == files
    assert store.verify().is_sound
