"""A tag whose version was left to a remote: no other takes it, whatever way it comes; the same is here again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from tests.kit import bento, plant, streamed

SAME, OTHER = {"w": b"the same"}, {"w": b"another"}
TAG = "m:v1"


@pytest.fixture
def left(store: casstore.Store, tmp_path: Path) -> casstore.Store:
    """A store that has left m:v1 to its remote."""
    store.save(TAG, plant(tmp_path / "v1", SAME))
    store.save("m:v2", plant(tmp_path / "v2", {"w": b"v2"}))
    store.add_remote("origin", str(tmp_path / "remote")).push()
    store.evict(TAG)
    return store


def sender(tmp_path: Path, files: dict[str, bytes]) -> casstore.Store:
    store = casstore.Store(tmp_path / "sender", auto_gc=False)
    store.save(TAG, plant(tmp_path / "sent", files))
    return store


def save(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    return store.save(TAG, plant(tmp_path / "sent", files), exist_ok=True)


def create(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    with store.create(TAG, exist_ok=True) as draft:
        plant(draft.path, files)
    return draft.model


def archived(format: str) -> Callable[[casstore.Store, Path, dict[str, bytes]], object]:
    def take(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
        with sender(tmp_path, files) as other:
            return store.import_archive(other.export(TAG, tmp_path / f"m.{format}"))

    return take


def import_as(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    with casstore.Store(tmp_path / "sender", auto_gc=False) as other:
        other.save("n:1", plant(tmp_path / "sent", files))
        return store.import_archive(other.export("n:1", tmp_path / "n.tar"), as_tag=TAG)


def adopt(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    report = store.adopt(bento(tmp_path / "tree", TAG, files).parents[1])
    for refused in report.refused:
        raise casstore.TagExists(refused.reason)
    return report


def pull(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    with sender(tmp_path, files) as other, other.add_remote("nas", str(tmp_path / "nas")) as there:
        there.push()
    with store.add_remote("nas", str(tmp_path / "nas"), make=False) as there:
        return there.pull(TAG)


def pull_as(store: casstore.Store, tmp_path: Path, files: dict[str, bytes]) -> object:
    with casstore.Store(tmp_path / "sender", auto_gc=False) as other:
        other.save("n:1", plant(tmp_path / "sent", files))
        other.add_remote("nas", str(tmp_path / "nas")).push()
    with store.add_remote("nas", str(tmp_path / "nas"), make=False) as there:
        return there.pull("n:1", as_tag=TAG)


WAYS = {
    "save": save, "create": create, "tar": archived("tar"), "casmodel": archived("casmodel"), "zip": archived("zip"),
    "import as": import_as, "adopt": adopt, "pull": pull, "pull as": pull_as,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_another_is_refused(left: casstore.Store, tmp_path: Path, way: str) -> None:
    with pytest.raises(casstore.TagExists):
        WAYS[way](left, tmp_path, OTHER)
    assert [str(each.tag) for each in left.elsewhere()] == [TAG]
    assert left.tags() == ["m:v2"]
    assert streamed(left.get(TAG)) == SAME


@pytest.mark.parametrize("way", WAYS)
def test_the_same_is_here_again(left: casstore.Store, tmp_path: Path, way: str) -> None:
    WAYS[way](left, tmp_path, SAME)
    assert left.elsewhere() == []
    shutil.rmtree(tmp_path / "remote")
    assert streamed(left.get(TAG)) == SAME
    assert left.verify().is_sound


def test_a_name_that_is_taken_is_refused_before_there_are_files(left: casstore.Store, tmp_path: Path) -> None:
    with pytest.raises(casstore.TagExists, match="its bytes are in a remote"):
        left.create(TAG)
    with pytest.raises(casstore.TagExists, match="its bytes are in a remote"):
        left.save(TAG, tmp_path / "v1")


def test_a_backup_that_is_opened_keeps_the_name(left: casstore.Store, tmp_path: Path) -> None:
    left.backup(tmp_path / "backup")
    with casstore.Store(tmp_path / "backup", auto_gc=False) as backup:
        with pytest.raises(casstore.TagExists):
            save(backup, tmp_path, OTHER)
        assert streamed(backup.get(TAG)) == SAME
