"""Directories of a store that are not there: a backup left them out, git does not carry empty ones, somebody removed
them. What holds nothing of its own is made again; what versions need is missed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import casstore
from casstore.cli.main import cli
from tests.kit import Save, contents, noise

pytestmark = pytest.mark.crash

DERIVED = [
    "models",
    "models/m",
    "sessions",
    "locks",
    "quarantine",
    "objects/loose/*",
    "manifests/.pending",
    "all empty",
]


@pytest.fixture
def expected():
    return {
        "m:1": {"w.bin": noise(1_100_000, 1), "small": b"1"},
        "m:2": {"w.bin": noise(1_100_000, 2), "sub/small": b"2"},
        "n:1": {"few": b"few"},
    }


@pytest.fixture
def saved(store: casstore.Store, save: Save, expected):
    for tag, files in expected.items():
        save(tag, files)
    store.pin("m:1")
    store.close()
    return store


def take_away(home, which):
    if which == "objects/loose/*":
        doomed = [path for path in (home / "objects/loose").iterdir() if not any(path.iterdir())]
    elif which == "all empty":
        directories = [Path(directory) for directory, _, _ in os.walk(home, topdown=False)]
        doomed = [path for path in directories if not any(path.iterdir())]
    else:
        doomed = [home / which]
    for path in doomed:
        shutil.rmtree(path)


def path_of_all(store):
    for model in store.list():
        assert Path(model.path).is_dir()


def save_and_import(store):
    with store.create("new:1") as draft:
        Path(draft.path, "w.bin").write_bytes(os.urandom(1_100_000))
    assert (store.home / "models/new/1/w.bin").exists()
    archive = store.export("new:1", store.home.parent / "new.casmodel")
    store.delete("new:1")
    store.import_archive(archive)


VERBS = {
    "list": lambda store: (store.list(), store.tags(), store.stats(), store.settings()),
    "get": lambda store: [store.get(tag) for tag in store.tags()],
    "path": path_of_all,
    "save": save_and_import,
    "delete": lambda store: store.delete("m:2"),
    "gc": lambda store: store.gc(),
    "gc --evict-all": lambda store: store.gc(evict_all=True),
    "verify": lambda store: store.verify(),
    "verify --quick": lambda store: store.verify(quick=True),
    "repair": lambda store: store.repair(),
    "sync-tree": lambda store: store.sync_tree(),
    "adopt": lambda store: store.adopt(store.home),
    "pin": lambda store: store.pin("m:2"),
}


def check(store, expected):
    for tag, files in expected.items():
        if tag in store.tags():
            assert contents(store.get(tag)) == files
    report = store.verify()
    assert (report.damage, report.reasons) == ((), ())
    assert (report.unknown_directories, report.missing_directories) == ((), ())
    assert {"m:1", "n:1"} <= set(store.tags())
    assert store.get("m:1").is_pinned
    store.gc()
    assert list((store.home / "quarantine").iterdir()) == []


@pytest.mark.parametrize("which", DERIVED)
@pytest.mark.parametrize("verb", VERBS)
def test_what_holds_nothing_is_made_again_when_a_store_is_opened(saved, home: Path, expected, which, verb) -> None:
    take_away(home, which)
    with casstore.Store(home) as store:
        VERBS[verb](store)
        check(store, expected)


@pytest.mark.parametrize("which", DERIVED)
@pytest.mark.parametrize("verb", ["path", "save", "gc --evict-all", "repair", "adopt"])
def test_also_when_it_is_removed_under_an_open_store(saved, home: Path, expected, which, verb) -> None:
    with casstore.Store(home) as store:
        assert len(store.list()) == 3
        take_away(home, which)
        VERBS[verb](store)
        check(store, expected)


@pytest.mark.parametrize("which", DERIVED)
def test_a_catalog_is_rebuilt(saved, home: Path, expected, which) -> None:
    take_away(home, which)
    assert set(casstore.Store.rebuild_catalog(home).tags) == set(expected)
    with casstore.Store(home) as store:
        store.pin("m:1")
        for tag, files in expected.items():
            assert contents(store.get(tag)) == files
        assert store.verify().is_sound


def test_a_view_that_is_gone_as_a_whole_deletes_nothing(saved, home: Path, expected) -> None:
    """No version counts as having a directory that somebody has removed."""
    shutil.rmtree(home / "models")
    with casstore.Store(home) as store:
        report = store.sync_tree(prune=True)
        assert (report.deleted, report.missing) == ((), ())
        check(store, expected)
        assert len(store.tags()) == 3


def test_a_view_behind_a_link_that_leads_nowhere_is_left(saved, home: Path, tmp_path: Path, expected) -> None:
    """As while a disk is not mounted: reading and saving work, and the link stays."""
    (home / "models").rename(tmp_path / "disk")
    (home / "models").symlink_to(tmp_path / "unmounted")
    with casstore.Store(home) as store:
        with store.get("m:1").open("small") as file:
            assert file.read() == b"1"
        with store.create("new:1") as draft:
            Path(draft.path, "w").write_bytes(b"w")
        assert (home / "models").is_symlink()
        (home / "models").unlink()
        (home / "models").symlink_to(tmp_path / "disk")
        assert store.sync_tree(prune=True).deleted == ()
        assert contents(store.get("new:1")) == {"w": b"w"}
        check(store, expected)


@pytest.mark.parametrize("which", ["models", "sessions", "manifests/.pending", "objects/loose/*"])
def test_repair_says_what_it_made(saved, home: Path, which) -> None:
    take_away(home, which)
    said = [CliRunner().invoke(cli, ["repair", "--home", str(home)]) for _ in range(2)]
    assert [each.exit_code for each in said] == [0, 0]
    assert f"was missing, made again: {which.removesuffix('*').removesuffix('/')}/" in said[0].output
    assert ["nothing was damaged" in each.output for each in said] == [False, True]


GONE = ["objects", "objects/packs", "objects/loose", "manifests"]


@pytest.mark.parametrize("which", GONE)
@pytest.mark.parametrize("is_open", [False, True])
def test_what_versions_need_is_missed(saved, home: Path, tmp_path: Path, expected, which, is_open) -> None:
    """It is told as what it is, by all that writes; nothing is made in its place that would look like a sound store."""
    before = casstore.Store(home)
    if is_open:
        assert len(before.list()) == 3
    else:
        before.close()
    (home / which).rename(tmp_path / "away")
    store = before if is_open else casstore.Store(home)
    with store:
        assert len(store.list()) == 3
        for verb in ("save", "delete", "gc", "gc --evict-all", "sync-tree", "adopt"):
            with pytest.raises(casstore.StoreError, match=rf"{home}/{which} is gone.*backup.*casstore repair"):
                VERBS[verb](store)
        assert len(store.tags()) == 3
        assert not (home / which).exists()
        for quick in (True, False):
            assert not store.verify(quick=quick).is_sound
        (tmp_path / "away").rename(home / which)
        check(store, expected)


@pytest.mark.parametrize("which", GONE)
def test_repair_makes_again_what_can_be(saved, home: Path, expected, which) -> None:
    """Manifests from the catalog, larger files from their directories; of the rest it says that it is lost."""
    shutil.rmtree(home / which)
    with casstore.Store(home) as store:
        report = store.repair()
        assert f"{which}/" in report.made
        is_lost = which in ("objects", "objects/packs")
        # Small files' only other copies stand in the directories.
        assert report.damage == ()
        assert bool(report.healed) == (which != "manifests")
        assert is_lost or which == "manifests" or report.healed_chunks
        check(store, expected)


def test_what_is_empty_is_needed_by_nothing(home: Path, tmp_path: Path) -> None:
    """A store without versions, of which git or an object store has carried no directory."""
    casstore.Store(home).close()
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    with casstore.Store(home) as store, store.create("m:1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
    assert (home / "models/m/1/w").read_bytes() == b"w"


def test_objects_without_catalog_and_manifests_are_not_taken_for_a_new_store(saved, home: Path) -> None:
    (home / "catalog.db").unlink()
    shutil.rmtree(home / "manifests")
    for _ in range(2):
        with pytest.raises(casstore.StoreError, match=r"are gone.*backup"):
            casstore.Store(home)
    with pytest.raises(casstore.StoreError, match="manifests is gone"):
        casstore.Store.rebuild_catalog(home)
    assert not (home / "catalog.db").exists()
