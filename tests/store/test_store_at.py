"""Stores that are opened once in a process: who asks for one home gets one store."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import casstore
from tests.kit import Child


def test_one_home_is_one_store(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = casstore.store_at(home)
    monkeypatch.setenv("CASSTORE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert casstore.store_at() is casstore.store_at(str(home)) is casstore.store_at(home.name) is first
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / "second"))
    assert casstore.store_at().home == tmp_path / "second"


def test_none_is_made_where_none_is_wanted(home: Path) -> None:
    with pytest.raises(casstore.StoreNotFound):
        casstore.store_at(home, create=False)
    assert not home.exists()
    made = casstore.store_at(home)
    assert casstore.store_at(home, create=False) is made


def test_threads_and_forks_share_it(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(lambda _: casstore.store_at(home), range(8))))
    assert len(found) == 1
    child = Child(lambda: id(casstore.store_at(home)) not in found or casstore.store_at(home).tags())
    assert child.wait() == 0


def test_another_store_at_that_home_is_opened(home: Path, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    with casstore.Store(tmp_path / "other") as other:
        other.save("bert:v1", tmp_path / "w")
    before = casstore.store_at(home)
    assert before.tags() == []
    shutil.rmtree(home)
    with pytest.raises(casstore.StoreError, match="is gone since this process opened it"):
        casstore.store_at(home).tags()  # and no empty one is made in its place
    assert not home.exists()
    shutil.move(tmp_path / "other", home)
    assert casstore.store_at(home).tags() == ["bert:v1"]
    before.close()
