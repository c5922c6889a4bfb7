"""What some file systems lack: locks, and room for one more link."""

from __future__ import annotations

import errno
import os
import shutil
from itertools import count
from pathlib import Path

import pytest

import casstore
from tests.crash import tracer
from tests.kit import Child, Leftovers, Picture, Save, contents, noise, part

# Above the limits of ext4 (65,000), ext3 (32,000) and Btrfs (65,535 in one directory).
MOST_LINKS = 65_600


@pytest.fixture
def tmp_path(disk: Path):
    """In memory a file may have any number of links."""
    return disk


@pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="seccomp of x86-64 Linux")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], ids=errno.errorcode.get)
def test_no_store_is_made_where_there_are_no_locks(home: Path, error) -> None:
    def run():
        tracer.refuse({"flock"}, error)
        with pytest.raises(casstore.StoreError, match=r"without locks.*keep the store on a local file system"):
            casstore.Store(home)

    assert Child(run).wait() == 0
    with casstore.Store(home) as store:  # on a file system that has them
        assert store.tags() == []


@pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="seccomp of x86-64 Linux")
def test_a_store_that_was_moved_to_where_there_are_no_locks(
    home: Path, store: casstore.Store, save: Save, picture: Picture, leftovers: Leftovers
) -> None:
    """Nothing is done with it."""
    save("m:1", part(1))
    store.close()
    before = picture()[1]

    def run():
        tracer.refuse({"flock"}, errno.ENOSYS)
        for verb in (casstore.Store, casstore.Store.rebuild_catalog):
            with pytest.raises(casstore.StoreError, match="without locks"):
                verb(home)

    assert Child(run).wait() == 0
    assert picture()[1] == before
    store.gc()
    assert leftovers() == []


@pytest.mark.crash
@pytest.mark.usefixtures("no_trash")
def test_the_last_link_that_a_file_system_gives(store: casstore.Store, home: Path, save: Save, tmp_path: Path) -> None:
    """More versions share a file than it can have names."""
    data = {"w.bin": noise(70_000, 1)}
    save("m:1", data)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    standing = Path(store.get("m:1").path, "w.bin")
    try:
        for number in count():
            if number == MOST_LINKS:
                pytest.skip("this file system gives more links than that")
            os.link(standing, elsewhere / str(number))
    except OSError as error:
        assert error.errno == errno.EMLINK
    for number in (2, 3):
        assert contents(save(f"m:{number}", data)) == data
    shutil.rmtree(store.get("m:2").path)
    for model in store.list():
        assert contents(store.get(model.tag)) == data
    assert store.verify().is_sound
    assert len(list((home / "objects/loose").glob("*/*.*"))) == 2  # the links of the second serve the third version too
    for number in (1, 2, 3):
        store.delete(f"m:{number}")
    store.gc()
    assert [path for path in (home / "objects").rglob("*") if path.is_file()] == []
