"""A directory as a remote: what killed writers leave, directories that empty, and listings that may be old."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from casstore.digest import Digest
from casstore.errors import RemoteError
from casstore.remote import collect, keys
from casstore.remote.backend import KeyTaken
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.pushing import Push
from casstore.storage import machine
from casstore.tag import Tag
from tests.remote.scheduler import AtOnce

DAY = 86_400


def directories(root: Path) -> list[str]:
    """All below, but for the one of temporary files."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() and path.name != ".tmp")


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path) -> None:
    backend = DirectoryBackend(tmp_path / "remote")
    bucket = Bucket.make(backend)
    old, new = (tmp_path / "remote" / ".tmp" / name for name in ("0" * 32, "1" * 32))
    for path in (old, new):
        path.write_bytes(b"half")
    now = new.stat().st_mtime
    os.utime(old, (now - DAY - 1, now - DAY - 1))
    collect.collect(bucket, AtOnce())
    assert [path.name for path in (tmp_path / "remote" / ".tmp").iterdir()] == [new.name]


def test_only_what_a_writer_left_goes(tmp_path) -> None:
    """Other files there are somebody's."""
    bucket = Bucket.make(DirectoryBackend(tmp_path / "remote"))
    kept = tmp_path / "remote" / ".tmp"
    (kept / "notes.txt").write_bytes(b"mine")
    (kept / ("0" * 32)).mkdir()
    (kept / ("1" * 32)).symlink_to(kept / "notes.txt")
    for path in kept.iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    collect.collect(bucket, AtOnce())
    assert len(list(kept.iterdir())) == 3


def test_nothing_is_removed_where_a_link_leads(tmp_path) -> None:
    bucket = Bucket.make(DirectoryBackend(tmp_path / "remote"))
    mine = tmp_path / "mine" / ("0" * 32)
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    os.utime(mine, (1, 1))
    (tmp_path / "remote" / ".tmp").rmdir()
    (tmp_path / "remote" / ".tmp").symlink_to(mine.parent)
    with pytest.raises(RemoteError, match="is a symbolic link"):
        collect.collect(bucket, AtOnce())
    with pytest.raises(RemoteError, match="is a symbolic link"):
        bucket.backend.put("packs/a/1", b"pack")
    assert os.listdir(mine.parent) == [mine.name]


def test_a_dry_run_leaves_them(tmp_path) -> None:
    bucket = Bucket.make(DirectoryBackend(tmp_path / "remote"))
    old = tmp_path / "remote" / ".tmp" / ("0" * 32)
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    collect.collect(bucket, AtOnce(), dry_run=True)
    assert old.exists()


def test_a_directory_in_which_nothing_is_left_goes(tmp_path) -> None:
    root = tmp_path / "remote"
    bucket = Bucket.make(DirectoryBackend(root))
    push = Push.begin(bucket, [Tag("m", "v1")], Digest.of(b"m"), keys.new_push_id())
    bucket.backend.put(push.new_pack(b"pack").key, b"pack")
    assert directories(root) == ["packs", f"packs/{push.id}", "pushes", f"pushes/{push.id}"]
    report = collect.collect(bucket, AtOnce(), revoke_after_ns=0)
    assert (report.packs, report.revoked) == (1, [push.id])
    assert directories(root) == ["gc", "pushes", f"pushes/{push.id}"]  # how it was revoked stays


def test_a_directory_that_goes_while_it_is_written_to_is_made_again(tmp_path) -> None:
    """gc of one machine finds a directory empty that another is about to write to."""
    backend = DirectoryBackend(tmp_path / "remote")
    ended = threading.Event()

    def remove() -> None:
        while not ended.is_set():
            backend.delete(["packs/a/1"])

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for _ in range(300):
            backend.put("packs/a/1", b"pack")
            backend.put("packs/a/2", b"pack")
            assert backend.get("packs/a/2") == b"pack"
            backend.delete(["packs/a/2"])
    finally:
        ended.set()
        thread.join()


def test_only_the_first_of_two_gets_a_name(tmp_path) -> None:
    backend = DirectoryBackend(tmp_path / "remote")
    backend.create("gc/1", b"first")
    with pytest.raises(KeyTaken):
        backend.create("gc/1", b"second")
    assert backend.get("gc/1") == b"first"
    assert os.listdir(tmp_path / "remote" / ".tmp") == []


@pytest.mark.parametrize("kind", [None, "nfs4"])
def test_listings_are_waited_for_on_a_network_file_system(kind, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "network_file_system", lambda _: kind)
    backend = DirectoryBackend(tmp_path / "remote")
    assert backend.listing_delay_seconds == (0 if kind is None else 120)
    bucket = Bucket.make(backend)
    pauses: list[float] = []
    collect.collect(bucket, AtOnce(), pause=pauses.append)
    assert pauses == ([] if kind is None else [120, 120])
    backend.put(keys.pack(keys.new_push_id(), 1), b"pack")
    collect.collect(bucket, AtOnce(), pause=pauses.append)
    assert pauses == ([] if kind is None else [120] * 7)
    collect.collect(bucket, AtOnce(), dry_run=True, pause=pauses.append)
    assert len(pauses) in (0, 7)
