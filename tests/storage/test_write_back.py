"""Writing to disk while hashing: what is written, what is not, and that no error of the kernel's is lost."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import pytest

from casstore.digest import Digest
from casstore.storage import chunking, files, write_back
from casstore.storage.descriptors import opened
from casstore.storage.write_back import FROM_BYTES, STEP_BYTES, WriteBack, unfollowed

MIB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The parts of files that are begun to be written, which they also are."""
    parts: list[tuple[int, int]] = []
    real = files.start_writeback

    def start(descriptor: int, offset: int, size: int) -> None:
        parts.append((offset, size))
        real(descriptor, offset, size)

    monkeypatch.setattr(files, "start_writeback", start)
    return parts


def digests(*numbers: int) -> list[Digest]:
    return [Digest.of(b"%d" % number) for number in numbers]


def large(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_file_is_begun_step_by_step_as_it_is_hashed(tmp_path: Path, begun: list[tuple[int, int]]) -> None:
    size = 2 * STEP_BYTES + 5 * MIB
    with WriteBack(lambda _: ()) as written, opened(large(tmp_path / "a", size), os.O_RDONLY) as descriptor:
        chunking.scan_file(descriptor, follow=written.follow(descriptor, size))
        wait_for(written)
        written.check()
    assert len(begun) > 1
    assert [offset for offset, _ in begun] == [sum(length for _, length in begun[:n]) for n in range(len(begun))]
    assert sum(length for _, length in begun) == size


def test_a_small_file_is_left_to_the_sync(tmp_path: Path) -> None:
    with WriteBack(lambda _: ()) as written, opened(large(tmp_path / "a", 10), os.O_RDONLY) as descriptor:
        assert written.follow(descriptor, FROM_BYTES - 1) is unfollowed


@pytest.mark.parametrize(("known", "is_begun"), [(4, False), (3, True), (0, True)])
def test_what_mostly_consists_of_stored_chunks_is_not_begun(
    tmp_path: Path, begun: list[tuple[int, int]], known, is_begun
) -> None:
    stored = set(digests(*range(known)))
    with WriteBack(stored.intersection) as written, opened(large(tmp_path / "a", MIB), os.O_RDONLY) as descriptor:
        follow = written.follow(descriptor, FROM_BYTES)
        for number in range(4):
            follow(FROM_BYTES // 4, digests(number))
        wait_for(written)
    assert bool(begun) == is_begun


def wait_for(written: WriteBack) -> None:
    """Until the thread has done what it was given."""
    assert written._pool is not None
    written._pool.submit(lambda: None).result()


def test_an_error_of_beginning_is_raised_by_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 reports space that it cannot find for delayed blocks to the one call that writes them, and never again."""

    def fail(*_: int, **__: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "start_writeback", fail)
    with WriteBack(lambda _: ()) as written, opened(large(tmp_path / "a", MIB), os.O_RDONLY) as descriptor:
        written.follow(descriptor, FROM_BYTES)(FROM_BYTES, [])
        wait_for(written)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            written.check()


def test_few_files_are_kept_open(tmp_path: Path) -> None:
    """However many are written; those that are closed have been asked for errors."""
    path = large(tmp_path / "a", MIB)
    before = len(os.listdir("/proc/self/fd"))
    with WriteBack(lambda _: ()) as written:
        for _ in range(100):
            with opened(path, os.O_RDONLY) as descriptor:
                written.follow(descriptor, FROM_BYTES)(FROM_BYTES, [])
            wait_for(written)
        assert len(os.listdir("/proc/self/fd")) <= before + write_back._MOST_OPEN
        written.check()
    assert len(os.listdir("/proc/self/fd")) == before


def test_hashing_that_is_far_ahead_begins_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    monkeypatch.setattr(files, "start_writeback", lambda *_, **__: may_go_on.wait(60))
    path = large(tmp_path / "a", MIB)
    with WriteBack(lambda _: ()) as written:
        follows = []
        for _ in range(write_back._MOST_AHEAD + 1):
            with opened(path, os.O_RDONLY) as descriptor:
                follows.append(written.follow(descriptor, FROM_BYTES))
                follows[-1](FROM_BYTES, [])
        may_go_on.set()
    assert follows.index(unfollowed) == write_back._MOST_AHEAD


def test_leaving_the_block_ends_the_thread_and_closes_all(tmp_path: Path, begun: list[tuple[int, int]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = large(tmp_path / "a", MIB)

    def interrupted() -> None:
        with WriteBack(lambda _: ()) as written:
            with opened(path, os.O_RDONLY) as descriptor:
                written.follow(descriptor, 10 * STEP_BYTES)(STEP_BYTES, [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [each for each in threading.enumerate() if "write-back" in each.name]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(begun) <= 1


def test_what_has_no_such_call_is_left_alone() -> None:
    reading, writing = os.pipe()
    files.start_writeback(writing, 0, 10)
    files.await_writeback(writing)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        files.start_writeback(writing, 0, 10)
