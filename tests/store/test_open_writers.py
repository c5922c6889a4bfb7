"""A file that is still open for writing when it is to be taken: an error names it, and no later byte is lost."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import Child, contents, noise, plant

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing tells")


@pytest.fixture(params=[True, False])
def materialize(request: pytest.FixtureRequest):
    return request.param


def left_open(path, mode):
    """A file object that nobody closes."""
    return open(path, mode)


def refused(store, block, who="this process", **options):
    """Save what `block` leaves in a draft, which must be refused; returns the names that the error gives."""
    said = f"still open for writing in {who}.*close it"
    with pytest.raises(casstore.FileChanged, match=said) as caught, store.create("m:1", **options) as draft:
        block(draft.path)
    assert store.tags() == []
    return str(caught.value)


@pytest.mark.parametrize("size", [10, 320_000, 3_000_000])
def test_a_file_object_that_nobody_closed(store: casstore.Store, materialize, size) -> None:
    kept = []

    def write(path):
        kept.append(left_open(Path(path, "sub.bin"), "wb"))
        kept[0].write(noise(size))

    assert "sub.bin is still open" in refused(store, write, materialize=materialize)
    kept[0].close()
    with store.create("m:1", materialize=materialize) as draft:
        Path(draft.path, "sub.bin").write_bytes(noise(size))
    with store.get("m:1").open("sub.bin") as reader:
        assert reader.read() == noise(size)


def test_a_thread_that_goes_on_writing(store: casstore.Store) -> None:
    may_end, has_begun = threading.Event(), threading.Event()

    def work(path):
        with open(Path(path, "log"), "ab", buffering=0) as file:
            file.write(b"begun")
            has_begun.set()
            may_end.wait(60)
            file.write(b"ended")

    def begin(path):
        thread = threading.Thread(target=work, args=(path,))
        thread.start()
        threads.append(thread)
        assert has_begun.wait(60)

    threads: list[Any] = []
    try:
        assert "/log is" in refused(store, begin)
    finally:
        may_end.set()
        threads[0].join()


def test_another_process_is_named(store: casstore.Store) -> None:
    read, write = os.pipe()
    told, tell = os.pipe()
    processes = []

    def begin(path):
        def work():
            with open(Path(path, "log"), "ab", buffering=0) as file:
                file.write(b"begun")
                os.write(tell, b".")
                os.close(write)
                os.read(read, 1)  # until the parent has closed its end
            return 0

        processes.append(Child(work))
        os.read(told, 1)

    try:
        refused(store, begin, who=r"process \d+ \(")
    finally:
        os.close(write)
        assert processes[0].wait() == 0
        for each in (read, told, tell):
            os.close(each)


def test_another_process_that_writes_one_of_many_small_files(store: casstore.Store) -> None:
    """All that are packed are asked for writers, however many there are."""
    read, write = os.pipe()
    told, tell = os.pipe()
    writers = []

    def begin(path):
        def work():
            with open(Path(path, "19.json"), "wb", buffering=0) as file:
                file.write(b'{"half": ')
                os.write(tell, b".")
                os.close(write)
                os.read(read, 1)  # until the parent has closed its end
                file.write(b"1}")
            return 0

        for number in range(19):
            Path(path, f"{number:02}.json").write_bytes(noise(100, number))
        writers.append(Child(work))
        os.read(told, 1)

    try:
        assert "19.json is still open" in refused(store, begin, who=r"process \d+ \(", materialize=False)
    finally:
        os.close(write)
        assert writers[0].wait() == 0
        for each in (read, told, tell):
            os.close(each)
    assert store.save_draft(store.drafts()[0]).open("19.json").read() == b'{"half": 1}'


def test_a_file_that_is_mapped_for_writing(store: casstore.Store) -> None:
    kept = []

    def write(path):
        with open(Path(path, "array"), "wb+") as file:
            file.truncate(8192)
            kept.append(mmap.mmap(file.fileno(), 8192))

    refused(store, write)
    kept[0].close()


def test_a_file_with_another_name_too(store: casstore.Store, tmp_path: Path) -> None:
    kept = []

    def write(path):
        kept.append(left_open(tmp_path / "mine", "wb"))
        os.link(tmp_path / "mine", Path(path, "linked"))

    assert "/linked is" in refused(store, write)
    kept[0].close()


def test_moving_what_is_still_written_to(store: casstore.Store, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", {"a": b"a", "w.bin": noise(300_000)})
    with open(source / "w.bin", "ab"), pytest.raises(casstore.FileChanged, match=r"w\.bin is still open"):
        store.save("m:1", source, move=True)
    assert (source / "w.bin").read_bytes() == noise(300_000)
    assert (source / "w.bin").stat().st_mode & 0o777 == 0o644
    store.save("m:1", source, move=True)


def test_what_stays_where_it_is_is_copied_as_it_stands(store: casstore.Store, tmp_path: Path) -> None:
    """Such as the log of a run that goes on."""
    source = plant(tmp_path / "source", {"log": b"so far"})
    with open(source / "log", "ab"):
        store.save("m:1", source)
    assert contents(store.get("m:1")) == {"log": b"so far"}


def test_what_is_open_for_reading_is_no_writer(store: casstore.Store) -> None:
    kept = []
    with store.create("m:1") as draft:
        path = Path(draft.path, "w.bin")
        path.write_bytes(noise(300_000))
        kept.append(left_open(path, "rb"))
        with open(path, "rb") as file:
            kept.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    assert contents(draft.model) == {"w.bin": noise(300_000)}
    for each in kept:
        each.close()


def test_without_leases_this_process_is_looked_at(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, or where the file is another user's."""
    real = fcntl.fcntl

    def without(descriptor, command, *rest):
        if command == fcntl.F_SETLEASE:
            raise OSError(22, "Invalid argument")
        return real(descriptor, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", without)
    kept = []

    def write(path):
        kept.append(left_open(Path(path, "w.bin"), "wb"))

    assert "w.bin is still open" in refused(store, write)
    kept[0].close()
    with store.create("m:1") as draft:
        Path(draft.path, "w.bin").write_bytes(b"w")
    assert draft.model.size == 1
