"""Many versions that are adopted in one go: syncs and transactions are shared, and each is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore.catalog.commits import Commits
from casstore.catalog.containers import ChunkVanished
from casstore.storage import files
from tests.kit import Sql, bento, contents, noise

pytestmark = pytest.mark.usefixtures("quiet")
NAMES, NUMBERS = "xyz", (1, 2, 3)


def files_of(tag: str) -> dict[str, bytes]:
    return {"w.bin": noise(100_000, sum(tag.encode())), "small": tag.encode()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three versions of each of three names, those of one name made before those of the next."""
    for place, name in enumerate(NAMES):
        for number in NUMBERS:
            tag = f"{name}:{number}"
            bento(tmp_path / "tree", tag, files_of(tag), created=1 + 3 * place + number)
    return tmp_path / "tree"


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tags of each transaction of several versions."""
    groups: list[list[str]] = []
    real = Commits.commit_together

    def commit(self, versions):
        groups.append([str(each.manifest.tag) for each in versions])
        real(self, versions)

    monkeypatch.setattr(Commits, "commit_together", commit)
    return groups


def check_all(store: casstore.Store, *, but: str = "") -> None:
    tags = [f"{name}:{number}" for name in NAMES for number in NUMBERS if f"{name}:{number}" != but]
    assert sorted(store.tags()) == sorted(tags)
    assert {tag: contents(store.get(tag)) for tag in tags} == {tag: files_of(tag) for tag in tags}
    assert store.verify().is_sound


@pytest.mark.parametrize("move", [False, True])
def test_the_older_versions_of_all_names_come_together(store, tree: Path, committed, move) -> None:
    report = store.adopt(tree, move=move)
    assert committed == [["x:1", "y:1", "z:1"], ["x:2", "y:2", "z:2"]]
    assert report.adopted == tuple(f"{name}:{number}" for name in NAMES for number in NUMBERS)
    check_all(store)
    assert [store.get(f"{name}:2").base.tag for name in NAMES] == [store.get(f"{name}:1").tag for name in NAMES]
    left = sorted(path.name for path in tree.rglob("*") if path.is_file())
    assert left == [] if move else len(left) == 30


def test_they_are_synced_together(store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack and a manifest for each, by then under their names; and only once."""
    synced: list[list[Path]] = []
    real = files.sync_files

    def sync(paths):
        synced.append([Path(path) for path in paths])
        assert all(path.exists() for path in synced[-1])
        real(paths)

    monkeypatch.setattr(files, "sync_files", sync)
    store.adopt(tree)
    assert [len(paths) for paths in synced] == [6, 6]


def test_what_one_brings_another_may_need(store, home: Path, sql: Sql, tmp_path: Path, committed) -> None:
    for name in "ab":
        for number in (1, 2):
            bento(tmp_path / "tree", f"{name}:{number}", {"w.bin": noise(100_000, number)}, created=number)
    report = store.adopt(tmp_path / "tree")
    assert len(report.adopted) == 4
    assert committed == [["a:1"]]
    assert sum(path.stat().st_size for path in (home / "objects/packs").iterdir()) < 220_000
    assert store.verify().is_sound


def test_one_that_is_refused_does_not_keep_the_others(store, tree: Path) -> None:
    with open(tree / "y/1/w.bin", "ab"):
        report = store.adopt(tree)
    assert [Path(each.path) for each in report.refused] == [tree / "y/1"]
    check_all(store, but="y:1")


def test_one_that_is_there_already_is_only_compared(store, tree: Path) -> None:
    store.adopt(tree)
    store.delete("y:1", now=True)
    report = store.adopt(tree)
    assert report.adopted == ("y:1",)
    assert len(report.present) == 8
    check_all(store)


@pytest.mark.parametrize("error", [ChunkVanished(), casstore.TagExists("taken")])
def test_what_cannot_be_committed_together_is_committed_one_by_one(
    store, home: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, error
) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(Commits, "commit_together", fail)
    assert len(store.adopt(tree).adopted) == 9
    check_all(store)
    store.gc()
    assert {step.count for step in store.gc().steps} == {0}


def test_an_error_of_the_disk_leaves_nothing_half(
    store, home: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_files", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.adopt(tree)
    assert store.tags() == []
    assert list((home / "objects/packs").iterdir()) == []
    assert len(store.adopt(tree).adopted) == 9
    check_all(store)
