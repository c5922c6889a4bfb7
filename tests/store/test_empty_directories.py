"""The empty directories of a version are watched as its files are: what is put there, and that they stand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgpack
import pytest

import casstore
from tests.kit import Save, Sql, everything


@pytest.fixture
def root(save: Save):
    """The directory of m:1, which holds two directories with nothing in them."""
    return Path(save("m:1", {"w": b"weights", "empty": None, "sub/x": b"x", "sub/also/empty": None}).path)


@pytest.fixture
def as_before(sql: Sql):
    """The catalog's row of a directory as it was written when only directories of files were looked at."""

    def run():
        ((entries,),) = sql("SELECT entries FROM directory")
        *rows, times = msgpack.unpackb(entries)
        known = {path: then for path, then in times.items() if path in ("", "sub")}
        assert known != times
        sql("UPDATE directory SET entries = ?", (msgpack.packb([*rows, known]),))

    return run


def _kept(home):
    found = (home / "quarantine/changed").glob("*/m.1/**/*")
    return sorted(path.read_bytes() for path in found if path.is_file())


def _put(root, name):
    (root / name / "late").write_bytes(b"mine")


def _remove(root, name):
    (root / name).rmdir()


def _by_a_file(root, name):
    (root / name).rmdir()
    (root / name).write_bytes(b"mine")


def _by_a_link(root, name):
    (root / name).rename(root.parent / "elsewhere")
    (root / name).symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("change", [_put, _remove, _by_a_file, _by_a_link])
@pytest.mark.parametrize("name", ["empty", "sub/also/empty"])
def test_a_change_is_noticed_and_mended(store: casstore.Store, root, as_before, is_old, change, name) -> None:
    own = everything(root)
    if is_old:
        as_before()
    change(root, name)
    for path in (root / name, (root / name).parent):  # a coarse clock may not have ticked
        if os.path.lexists(path):
            os.utime(path, follow_symlinks=False)
    report = store.verify(quick=True)
    assert (report.added_files, report.damaged_copies) != ((), ())
    assert store.get("m:1").path == str(root)
    assert everything(root) == own
    assert not (root / name).is_symlink()
    assert _kept(store.home) == ([b"mine"] if change in (_put, _by_a_file) else [])
    assert store.verify().is_sound


@pytest.mark.parametrize("change", [_remove, _by_a_file, _by_a_link])
def test_repair_makes_it_again(store: casstore.Store, root, change) -> None:
    own = everything(root)
    change(root, "empty")
    assert store.verify().damaged_copies == (str(root / "empty"),)
    assert store.repair().is_sound
    assert everything(root) == own
    assert store.verify().is_sound


def test_a_directory_of_files_that_became_a_link_is_made_again(
    store: casstore.Store, home: Path, root, tmp_path: Path
) -> None:
    (root / "sub").rename(tmp_path / "elsewhere")
    (root / "sub").symlink_to(tmp_path / "elsewhere")
    assert store.verify().added_files == (str(root / "sub"),)
    assert store.get("m:1").path
    assert (root / "sub").is_dir()
    assert not (root / "sub").is_symlink()
    assert (root / "sub/x").read_bytes() == b"x"
    assert (tmp_path / "elsewhere/x").read_bytes() == b"x"


def test_a_directory_from_before_that_is_as_it_was_is_served_as_it_is(
    store: casstore.Store, root, as_before, sql: Sql
) -> None:
    as_before()
    before = sql("SELECT entries, inode FROM directory")
    inodes = {path: os.lstat(path).st_ino for path in root.rglob("*")}
    assert store.get("m:1").path
    assert {path: os.lstat(path).st_ino for path in root.rglob("*")} == inodes
    assert sql("SELECT entries, inode FROM directory") == before


def test_of_a_copied_store_it_is_noticed_as_well(store: casstore.Store, home: Path, root, tmp_path: Path) -> None:
    store.close()
    shutil.copytree(home, tmp_path / "copy", symlinks=True)
    copy = tmp_path / "copy/models/m/1"
    (copy / "empty").rmdir()
    with casstore.Store(tmp_path / "copy") as opened:
        assert opened.verify().damaged_copies == (str(copy / "empty"),)
        assert opened.get("m:1").path
        assert (copy / "empty").is_dir()
