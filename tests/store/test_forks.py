"""Forks: a child may go on with its parent's store or is told that it cannot, and neither harms the other."""

from __future__ import annotations

import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import settings
from casstore.actions.gc.apply import _Application
from casstore.catalog import catalog
from casstore.storage import objects
from casstore.storage.locks import Lock
from tests.kit import Child, Save, noise, streamed

CANNOT = "close the store before forking"


@pytest.fixture
def forked():
    """forked(function): the exit code of a child that runs it, of a signal where it does not come to an end."""

    def run(function):
        def bounded():
            signal.alarm(10)
            function()

        return Child(bounded).wait()

    return run


def test_what_a_child_saves_stays_when_its_parent_closes_the_store(
    store: casstore.Store, save: Save, home: Path
) -> None:
    save("m:0", {"a": b"parent"})
    (seen, has_seen), (closed, is_closed) = os.pipe(), os.pipe()

    def work():
        assert store.tags() == ["m:0"]
        os.write(has_seen, b"x")
        os.read(closed, 1)
        save("m:1", {"a": b"child"})
        assert store.tags() == ["m:1", "m:0"]

    forked = Child(work)
    os.read(seen, 1)
    store.close()
    os.write(is_closed, b"x")
    assert forked.wait() == 0
    with casstore.Store(home) as again:
        assert again.tags() == ["m:1", "m:0"]
        assert streamed(again.get("m:1")) == {"a": b"child"}
        again.gc()
        assert again.verify().is_sound
    for descriptor in (seen, has_seen, closed, is_closed):
        os.close(descriptor)


def test_a_child_that_was_forked_while_a_thread_writes_is_told_so(
    store: casstore.Store, save: Save, home: Path, forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"a": b"1"})
    inside, go_on = threading.Event(), threading.Event()
    real = settings.check_setting

    def check_setting(key, value):
        inside.set()
        assert go_on.wait(120)
        return real(key, value)

    def write():
        with pytest.raises(casstore.StoreError, match=CANNOT):
            store.set_setting("keep_days", "5")
        with pytest.raises(casstore.StoreError, match=CANNOT):
            casstore.Store(home)

    monkeypatch.setattr(catalog, "check_setting", check_setting)  # called in the transaction
    with ThreadPoolExecutor() as pool:
        held = pool.submit(store.set_setting, "keep_days", "3")
        assert inside.wait(120)
        code = forked(write)
        go_on.set()
        held.result()
    assert code == 0
    assert store.settings()["keep_days"] == "3"
    store.set_setting("keep_days", "4")
    save("m:2", {"a": b"2"})
    assert store.verify().is_sound


def test_only_threads_that_still_run_keep_a_child_from_the_store(store: casstore.Store, save: Save, forked) -> None:
    save("m:1", {"a": b"1"})

    def is_refused():
        with pytest.raises(casstore.StoreError, match=CANNOT):
            store.get("m:1")

    with ThreadPoolExecutor() as pool:
        assert pool.submit(store.get, "m:1").result().files
        assert forked(is_refused) == 0
    assert forked(lambda: store.get("m:1")) == 0


def test_children_that_are_forked_while_a_thread_reads_end_by_themselves(
    store: casstore.Store, save: Save, forked
) -> None:
    save("m:1", {"a": b"1"})
    is_done = threading.Event()

    def read():
        count = 0
        while not is_done.is_set():
            assert store.get("m:1").files
            count += 1
        return count

    def work():
        try:
            assert store.get("m:1").files
        except casstore.StoreError as error:
            assert CANNOT in str(error)

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        codes: list[Any] = []
        while len(codes) < 20 and not any(codes):
            codes.append(forked(work))
        is_done.set()
        assert reader.result()
    assert not any(codes)


def test_a_child_that_was_forked_while_a_thread_closes_files_can_read(
    store: casstore.Store, save: Save, forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save("m:1", {"w": noise(2000)}, materialize=False)
    assert model.open("w").read() == noise(2000)
    inside, go_on = threading.Event(), threading.Event()
    real = objects._Open.__del__

    def close_slowly(self):
        inside.set()
        assert go_on.wait(120)
        real(self)

    def read():
        go_on.set()  # the child's own
        assert model.open("w").read() == noise(2000)

    monkeypatch.setattr(objects._Open, "__del__", close_slowly)
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(store.close)
        assert inside.wait(120)
        code = forked(read)
        go_on.set()
        closing.result()
    assert code == 0


def test_the_child_of_a_gc_that_was_killed_does_not_hold_its_lock(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a worker of a data loader, which goes on for hours."""
    save("m:1", {"a": b"1"})
    hold, is_over = os.pipe()

    def fork_and_die(_):
        if os.fork() == 0:
            os.close(is_over)
            os.read(hold, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(_Application, "strays", fork_and_die)
        killed = Child(store.gc)
    assert killed.wait() == -signal.SIGKILL
    try:
        store.gc()
    finally:
        os.close(hold)
        os.close(is_over)


def test_an_interrupt_between_a_lock_and_its_block_leaves_the_lock_free(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lock.acquire

    def acquire(self, *args, **options):
        real(self, *args, **options)
        if self.path.name == "m.lock":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lock, "acquire", acquire)
        try:
            save("m:1", {"a": b"1"})
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail("it was not interrupted")
    gc.collect()
    with Lock(home / "locks/m.lock") as lock:
        assert lock.try_acquire()
    save("m:1", {"a": b"again"})
