"""Saves that write to disk while they hash: only what is new and durable, and a disk that fails then fails the save."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.storage import files
from tests.kit import noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")
SIZE = 9 << 20


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what is begun to be written."""
    lengths: list[int] = []
    real = files.start_writeback

    def start(descriptor: int, offset: int, size: int) -> None:
        lengths.append(size)
        real(descriptor, offset, size)

    monkeypatch.setattr(files, "start_writeback", start)
    return lengths


def create(store, tag, content, **options):
    with store.create(tag, **options) as draft:
        Path(draft.path, "w.bin").write_bytes(content)


def test_a_new_file_is_begun_while_it_is_hashed(store: casstore.Store, begun: list[int]) -> None:
    create(store, "m:1", noise(SIZE))
    assert sum(begun) == SIZE


def test_a_copy_is_begun_while_it_is_made(store: casstore.Store, begun: list[int], tmp_path: Path) -> None:
    Path(tmp_path, "w.bin").write_bytes(noise(SIZE))
    store.save("m:1", tmp_path / "w.bin")
    assert sum(begun) == SIZE


@pytest.mark.parametrize("materialize", [True, False])
def test_what_is_not_synced_is_not_begun(store: casstore.Store, begun: list[int], materialize) -> None:
    create(store, "m:1", noise(SIZE), durability="relaxed", materialize=materialize)
    assert begun == []


def test_a_pack_is_begun_while_it_is_written(store: casstore.Store, begun: list[int]) -> None:
    create(store, "m:1", noise(SIZE), materialize=False)
    assert sum(begun) >= 8 << 20


def test_known_content_is_not_begun(store: casstore.Store, begun: list[int], tmp_path: Path) -> None:
    source = tmp_path / "w.bin"
    source.write_bytes(noise(SIZE))
    create(store, "m:1", noise(SIZE))
    begun.clear()
    create(store, "m:2", noise(SIZE))
    store.save("m:3", source)
    store.save("m:4", source, move=True)
    assert begun == []


FAILING = """
import errno, os, pathlib, random, subprocess, sys
import casstore
from casstore.storage import files
FAILURES = (errno.EIO, errno.ENOSPC)
ground, is_told_to_another = pathlib.Path(sys.argv[1]), sys.argv[2] == "another"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", ground], check=True)
image, mount = ground / "image", ground / "mount"
mount.mkdir()
with image.open("wb") as file:
    file.truncate(256 << 20)
subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", image], check=True)
subprocess.run(["mount", "-o", "loop", image, mount], check=True)
try:
    store = casstore.Store(mount / "store", auto_gc=False)
    content = random.Random(1).randbytes(64 << 20)  # more than the image can hold
    real = files.sync_file

    def sync(path):
        if is_told_to_another:  # the kernel tells of an error once, and a descriptor that is opened then knows nothing
            with open(path, "rb") as file:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    assert error.errno in FAILURES
            subprocess.run(["mount", "-o", "remount,size=200m", ground], check=True)
        real(path)

    files.sync_file = sync
    try:
        with store.create("m:1") as draft:
            pathlib.Path(draft.path, "w.bin").write_bytes(content)
    except OSError as error:
        assert error.errno in FAILURES, repr(error)
    else:
        sys.exit("the save succeeded")
    assert store.tags() == []
    subprocess.run(["mount", "-o", "remount,size=200m", ground], check=True)
    files.sync_file = real
    with store.create("m:2") as draft:
        pathlib.Path(draft.path, "w.bin").write_bytes(content[: 20 << 20])
    assert store.verify("m:2").is_sound
    store.close()
finally:
    subprocess.run(["umount", "-l", mount], check=False)
"""


@pytest.mark.parametrize("told", ["us", "another"])
def test_a_disk_that_fails_while_it_is_written_to(tmp_path: Path, told) -> None:
    """A real one: a file system in a file that cannot grow."""
    before = ["unshare", "-m", "--propagation", "private"]
    probe = [*before, "mount", "-t", "tmpfs", "none", str(tmp_path)]
    is_possible = all(map(shutil.which, ("unshare", "mount", "mkfs.ext4")))
    if not is_possible or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    result = subprocess.run(
        [*before, sys.executable, "-c", FAILING, str(tmp_path), told],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "failed to setup loop device" in result.stderr:
        pytest.skip("no loop device is to be had here")
    assert result.returncode == 0, result.stderr
