"""A store that is removed, renamed, restored or led elsewhere under a running process: nothing is acknowledged that
nobody would find."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.catalog import commits
from casstore.catalog.index import insert_fingerprints
from tests.kit import Save, plant

REPLACED = "open it again"


def _removed(home):
    shutil.rmtree(home)


def _removed_and_made_again(home):
    shutil.rmtree(home)
    casstore.Store(home).close()


def _renamed(home):
    os.rename(home, home.with_name("elsewhere"))


def _restored(home):
    """A backup of the catalog is moved over it."""
    backup = home.with_name("backup.db")
    source, target = apsw.Connection(str(home / "catalog.db")), apsw.Connection(str(backup))
    with target.backup("main", source, "main") as copy:
        copy.step()
    source.close()
    target.close()
    os.rename(backup, home / "catalog.db")


def _catalog_removed(home):
    os.unlink(home / "catalog.db")


CHANGES = [_removed, _removed_and_made_again, _renamed, _restored, _catalog_removed]


@pytest.mark.parametrize("change", CHANGES)
def test_every_verb_says_so(store: casstore.Store, save: Save, home: Path, tmp_path: Path, change) -> None:
    save("m:1", {"a": b"1"})
    source = plant(tmp_path / "source", {"b": b"2"})
    change(home)
    for verb in (
        lambda: store.save("m:2", source),
        lambda: store.delete("m:1"),
        lambda: store.set_setting("keep_days", "3"),
        lambda: store.get("m:1"),
        lambda: store.list(),
        lambda: store.stats(),
        lambda: store.gc(),
    ):
        with pytest.raises((casstore.StoreError, FileNotFoundError)) as caught:
            verb()
        if isinstance(caught.value, casstore.StoreError):
            assert REPLACED in str(caught.value)
    assert (source / "b").read_bytes() == b"2"


@pytest.mark.parametrize("change", CHANGES)
def test_a_save_in_whose_middle_it_happens_is_not_acknowledged(
    store: casstore.Store, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change
) -> None:
    """The transaction has begun, and what the version needs is stored."""
    source = plant(tmp_path / "source", {"a": b"a" * 100_000})
    real = insert_fingerprints
    done: list[Any] = []

    def insert(connection, fingerprints):
        if not done:
            done.append(True)
            change(home)
        real(connection, fingerprints)

    monkeypatch.setattr(commits, "insert_fingerprints", insert)
    with pytest.raises(casstore.StoreError, match=REPLACED):
        store.save("m:1", source)
    assert done
    assert (source / "a").read_bytes() == b"a" * 100_000


def test_a_link_that_is_led_to_another_store(tmp_path: Path) -> None:
    for name in ("first", "second"):
        casstore.Store(tmp_path / name).close()
    link = tmp_path / "home"
    link.symlink_to("first")
    source = plant(tmp_path / "source", {"a": b"1"})
    with casstore.Store(link) as store:
        store.save("m:1", source)
        link.unlink()
        link.symlink_to("second")
        with pytest.raises(casstore.StoreError, match=REPLACED):
            store.save("m:2", source)
        with pytest.raises(casstore.StoreError, match=REPLACED):
            store.tags()
        link.unlink()
        link.symlink_to("first")
        assert store.tags() == ["m:1"], "it is the store that was opened"
    with casstore.Store(tmp_path / "second") as second:
        assert second.tags() == []
        second.gc()
        assert second.verify().is_sound


def test_a_store_opened_again_is_the_one_that_stands_there(store: casstore.Store, save: Save, home: Path) -> None:
    save("m:1", {"a": b"1"})
    _removed_and_made_again(home)
    with pytest.raises(casstore.StoreError, match=REPLACED):
        store.tags()
    store.close()
    assert store.tags() == []
    with casstore.Store(home) as again:
        assert again.tags() == []
