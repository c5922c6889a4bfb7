"""A remote that was emptied, or put back as it once was, under stores that know it as it has been since."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore.remote.documents import Ref
from tests.kit import contents, plant
from tests.remote.counting import Requests, requests

__all__ = ["requests"]
V1, OTHER = {"w": b"one"}, {"w": b"another"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def ours(store: casstore.Store, place: Path, tmp_path: Path) -> casstore.Store:
    """A store with m:v1, which it has pushed, and m:v0, which the backup of the remote has too."""
    store.save("m:v0", plant(tmp_path / "v0", {"w": b"zero"}))
    store.save("m:v1", plant(tmp_path / "v1", V1))
    with store.add_remote("origin", str(place)) as there:
        there.push("m:v0")
        shutil.copytree(place, tmp_path / "backup", copy_function=shutil.copy2)
        there.push("m:v1")
    return store


@pytest.fixture
def knowing(ours: casstore.Store, place: Path, tmp_path: Path) -> Iterator[casstore.Store]:
    """Another store, which has read what is there, and has none of it."""
    with casstore.Store(tmp_path / "knowing", auto_gc=False) as store:
        with store.add_remote("origin", str(place), make=False) as there:
            assert len(there.list()) == 2
            there.pull("m:v1", as_tag="mine:v1")  # so that the segment is known too
        yield store


def put_back(place: Path, tmp_path: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "backup", place, copy_function=shutil.copy2)


def push_another(place: Path, tmp_path: Path) -> None:
    """As somebody else would, into what stands there now, under the key that the other had."""
    with casstore.Store(tmp_path / "third", auto_gc=False) as third:
        third.save("m:v1", plant(tmp_path / "other", OTHER))
        third.add_remote("origin", str(place)).push()


def digests(refs: list[Ref]) -> set[str]:
    return {str(ref.digest) for ref in refs}


def test_what_was_put_back_is_seen(ours: casstore.Store, knowing: casstore.Store, place: Path, tmp_path: Path) -> None:
    put_back(place, tmp_path)
    with knowing.remote() as there:
        assert [str(ref.tag) for ref in there.list()] == ["m:v0"]
        assert there.status().there == ["m:v0"]
        with pytest.raises(casstore.TagNotFound):
            there.pull("m:v1")
    assert ours.remote().status().here == ["m:v1"]
    assert ours.remote().push("m:v1")[0].is_new
    assert ours.remote().verify(deep=True).ok


def test_another_version_under_the_old_key_is_no_other_for_long(
    ours: casstore.Store, knowing: casstore.Store, place: Path, tmp_path: Path
) -> None:
    put_back(place, tmp_path)
    push_another(place, tmp_path)
    assert ours.remote().status().different == ["m:v1"]
    with pytest.raises(casstore.TagExists):
        ours.remote().push("m:v1")
    with knowing.remote() as there:
        assert str(ours.get("m:v1").digest) not in {str(ref.digest) for ref in there.list()}
        assert contents(there.pull("m:v1")[0].model) == OTHER


def test_a_remote_that_is_open_while_its_place_is_emptied(
    ours: casstore.Store, knowing: casstore.Store, place: Path, tmp_path: Path
) -> None:
    with ours.remote() as first, knowing.remote() as second:
        assert len(first.list()) == len(second.list()) == 2
        shutil.rmtree(place)
        assert first.list() == second.list() == []
        push_another(place, tmp_path)
        assert first.status().different == ["m:v1"]
        assert contents(second.pull("m:v1")[0].model) == OTHER


def test_what_is_as_it_was_is_not_asked_for_again(
    knowing: casstore.Store, requests: Requests, place: Path, tmp_path: Path
) -> None:
    with knowing.remote() as there:
        there.list()
        requests.clear()
        there.list()
        assert requests.taken() == {"total": 1, "LIST": 1}
        for path in (place / "refs").rglob("*"):
            os.utime(path, ns=(1, 1))
        assert len(there.list()) == 2
        assert requests.taken()["GET"] == 2
        there.list()
        assert requests.taken() == {"total": 1, "LIST": 1}
