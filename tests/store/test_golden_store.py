"""A store of format 1 as it was written once, with one thing of each kind (tests/data/make_store.py), is still read."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.data.make_store import HERE, NAME, told

EXPECTED = json.loads((HERE / f"{NAME}.json").read_text(encoding="utf-8"))
# Settings that came later have their defaults there.
EXPECTED["settings"] = {key: setting.default for key, setting in casstore.SETTINGS.items()} | EXPECTED["settings"]


@pytest.fixture
def home(tmp_path: Path):
    """The golden store, unpacked: every inode number and change time is another than when it was written."""
    with tarfile.open(HERE / f"{NAME}.tar.xz") as archive:
        options: Any = {"filter": "tar"} if sys.version_info >= (3, 12) else {}
        archive.extractall(tmp_path, **options)
    return tmp_path / "store"


def check_directories(store):
    """Every version as a directory: bytes, executable bits, empty directories, and nothing else."""
    for tag, version in EXPECTED["versions"].items():
        root = Path(store.get(tag).path)
        standing = {str(path.relative_to(root)): path for path in root.rglob("*") if not path.is_dir()}
        assert standing.keys() == {*version["files"], "model.yaml"}
        for path, (executable, size, _) in version["files"].items():
            status = standing[path].lstat()
            assert (bool(status.st_mode & stat.S_IXUSR), status.st_size) == (executable, size)
            assert casstore.Digest.of(standing[path].read_bytes()) == next(
                file.digest for file in store.get(tag).files if file.path == path
            )
    assert Path(store.get("full:1.0.rc-1").path, "void/within").is_dir()


def test_every_version_is_read(home: Path) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        assert told(store) == EXPECTED
        assert store.verify().is_sound
        check_directories(store)
        assert store.get("full:1.0.rc-1").custom_objects == {"tokenizer": [1, 2]}
        assert store.get("came:1").is_untrusted
        assert store.verify().is_sound


def test_gc_leaves_what_it_says(home: Path) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        store.gc(evict_all=True)
        assert not list((home / "manifests/.deleted").iterdir())
        assert told(store) == EXPECTED
        assert store.verify().is_sound
        check_directories(store)


def test_its_pruned_version_and_its_draft_come_back(home: Path, tmp_path: Path) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        assert str(store.restore_pruned("pruned:1").tag) == "pruned:1"
        assert store.get("pruned:1").open("p").read() == Path(store.get("pruned:1").path, "p").read_bytes()
        (draft,) = store.drafts()
        assert {path.name for path in Path(draft.path).iterdir()} >= {"same", "SAME"}
        assert store.verify().is_sound


def test_a_catalog_made_anew_says_the_same(home: Path) -> None:
    (home / "catalog.db").unlink()
    report = casstore.Store.rebuild_catalog(home)
    assert (sorted(report.tags), report.unreadable, report.recovered) == (sorted(EXPECTED["versions"]), (), ())
    with casstore.Store(home, auto_gc=False) as store:
        # Only the catalog has these.
        assert told(store) == EXPECTED | {"settings": told(store)["settings"], "pinned": []}
        assert store.verify().is_sound
        check_directories(store)
        store.gc()
        assert store.verify().is_sound


def test_a_backup_of_it_is_the_same(home: Path, tmp_path: Path) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        store.backup(tmp_path / "copy")
    shutil.rmtree(home)
    with casstore.Store(tmp_path / "copy", auto_gc=False) as copy:
        assert told(copy)["versions"] == EXPECTED["versions"]
        assert copy.verify().is_sound


def test_saving_shares_what_it_has(home: Path, tmp_path: Path) -> None:
    """The cuts are the same still, so that a file which is in it takes no room."""
    with casstore.Store(home, auto_gc=False) as store:
        (tmp_path / "again").mkdir()
        with store.get("run:5").open("model.safetensors") as reader:
            (tmp_path / "again/model.safetensors").write_bytes(reader.read())
        before = {path.name for path in (home / "objects/packs").iterdir()}
        store.save("again:1", tmp_path / "again", materialize=False)
        assert {path.name for path in (home / "objects/packs").iterdir()} == before
        assert os.listdir(home / "manifests/again")
