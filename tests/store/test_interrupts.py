"""Ctrl-C at every instruction, forks in callbacks, a store closed by another thread: no transaction, lock or
descriptor is left, and what comes next in this process and in others works at once.

The interrupt is raised by a trace function, at the n-th place in the code that holds such things where CPython looks
for signals, for every n, as a signal's handler may raise. By default some n are tried, all with CASSTORE_TEST_EVERY=1.
"""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

import contextlib
import dis
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.actions import leasing
from casstore.catalog import connection as connections
from casstore.catalog import sqlite_errors, transaction
from casstore.progress import Progress
from casstore.storage import descriptors, files, sessions
from tests.kit import Child, Save, every, known, noise, plant

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_trash")]

TRACED = {
    module.__file__ for module in (connections, transaction, sqlite_errors, sessions, leasing, files, descriptors)
}
STEP = every(7)
# After these CPython looks for signals, besides at the start of a function, but never before it returns.
LOOKS = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "RESUME")
RETURNS = {"RETURN_VALUE", "RETURN_CONST"}
CANNOT = "close the store before forking"


def _interrupted(stop, action):
    """Run it with a KeyboardInterrupt before the instruction of that number; returns whether it came, and the error."""
    count = 0
    last: dict[Any, Any] = {}  # the name of the instruction before, by frame

    def local(frame, event, _argument):
        nonlocal count
        if event == "return":
            last.pop(id(frame), None)
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            before = last.get(id(frame), LOOKS[0])
            last[id(frame)] = name
            if before.startswith(LOOKS) and name not in RETURNS:
                count += 1
                if count == stop:
                    raise KeyboardInterrupt(f"{frame.f_code.co_name}:{frame.f_lineno}")
        return local

    def trace(frame, _event, _argument):
        if frame.f_code.co_filename not in TRACED or _is_in_finalizer(frame):
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    error = None
    try:
        sys.settrace(trace)
        action()
    except KeyboardInterrupt as raised:
        error = raised
    finally:
        sys.settrace(before)
    return count >= stop, error


def _is_in_finalizer(frame):
    """What is raised there is printed, and goes no further."""
    while frame is not None and frame.f_code.co_name != "_interrupted":
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _descriptors():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return sorted(found.values())


def _can_write_at_once(home):
    other = apsw.Connection(str(home / "catalog.db"))
    other.execute("BEGIN IMMEDIATE; ROLLBACK")
    other.close()


VERBS = {
    "write": lambda store, _: store.set_setting("keep_days", "3"),
    "read": lambda store, _: store.stats(),
    "get": lambda store, _: store.get("m:1").open("w").read(1),
    "path": lambda store, _: store.get("m:1").path,
    "save": lambda store, source: store.save("m:2", source) if "m:2" not in store.tags() else None,
    "delete": lambda store, _: store.delete("m:1") if "m:1" in store.tags() else None,
    "gc": lambda store, _: store.gc(evict_all=True),
}


# For some fifteen interrupts each, by their lengths.
STEPS = {"write": 3, "read": 3, "get": 5, "path": 17, "save": 47, "delete": 29, "gc": 61}


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts CPython's instructions")
@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupt_before_any_instruction_leaves_nothing_open(
    store: casstore.Store, home: Path, tmp_path: Path, verb
) -> None:
    source = plant(tmp_path / "source", {"w": noise(200_000), "s": b"small"})
    act = VERBS[verb]
    gc.collect()
    for stop in range(1, 100_000, 1 if STEP == 1 else STEPS[verb]):
        if "m:1" not in store.tags():
            store.save("m:1", source, durability="relaxed")
        store.close()
        before = _descriptors()
        with casstore.Store(home) as own:
            was_reached, error = _interrupted(stop, lambda own=own: act(own, source))
            _can_write_at_once(home)  # also while the traceback is kept, as a notebook keeps it
            act(own, source)
            if verb in ("save", "gc", "path"):
                own.set_setting("keep_days", "4")
        del error
        gc.collect()
        assert _descriptors() == before, stop
        if "m:2" in store.tags():
            store.delete("m:2")
        if not was_reached:
            break
    assert not was_reached
    assert stop > 20
    store.gc()
    assert store.verify().is_sound


def test_an_interrupt_while_a_store_is_opened_and_closed_leaves_nothing_open(store: casstore.Store, home: Path) -> None:
    store.close()
    gc.collect()
    before = _descriptors()

    def open_and_close():
        with casstore.Store(home) as own:
            own.tags()

    for stop in range(1, 100_000, 97 if STEP > 1 else 1):
        was_reached, error = _interrupted(stop, open_and_close)
        _can_write_at_once(home)
        del error
        gc.collect()
        assert _descriptors() == before, stop
        if not was_reached:
            break
    assert not was_reached


WAITS = """
import sys
import casstore

store = casstore.Store(sys.argv[1])
print("open", flush=True)
assert sys.stdin.readline() == "locked\\n"
try:
    print("waiting", flush=True)
    store.set_setting("keep_days", "5")
except KeyboardInterrupt as error:
    kept = error  # as a notebook does
    print("interrupted", flush=True)
assert sys.stdin.readline() == "free\\n"
store.set_setting("keep_days", "6")
print("done", flush=True)
sys.stdin.readline()
"""


def test_ctrl_c_while_another_process_has_the_catalogs_lock(store: casstore.Store, home: Path) -> None:
    waiter = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert known(waiter.stdout).readline() == "open\n"
        holder = apsw.Connection(str(home / "catalog.db"))
        holder.execute("BEGIN IMMEDIATE")
        print("locked", file=waiter.stdin, flush=True)
        assert known(waiter.stdout).readline() == "waiting\n"
        answer = threading.Thread(target=lambda: said.append(known(waiter.stdout).readline()))
        said: list[Any] = []
        answer.start()
        while answer.is_alive():  # until it comes while the process waits for the lock, which nobody lets go
            waiter.send_signal(signal.SIGINT)
            answer.join(0.5)
        assert said == ["interrupted\n"]
        holder.execute("ROLLBACK")
        holder.close()
        store.set_setting("keep_days", "7")
        print("free", file=waiter.stdin, flush=True)
        assert known(waiter.stdout).readline() == "done\n"
        store.set_setting("keep_days", "8")
    finally:
        waiter.kill()
        waiter.communicate()


class _Calling(Progress):
    """Calls something, once, when a step of that name goes on."""

    def __init__(self, step, call):
        self._step, self._call, self._current = step, call, ""

    def start(self, step, _total):
        self._current = step

    def advance(self, _amount):
        if self._current == self._step:
            self._current = ""
            self._call()

    def finish(self):
        self._current = ""


@pytest.mark.parametrize("step", ["unlink", "pack"])
def test_a_fork_in_a_callback_of_gc(store: casstore.Store, save: Save, step) -> None:
    for number in range(3):
        save(f"m:{number}", {"w": noise(1_500_000, number), "x": noise(1_500_000, number + 50)})
    store.delete("m:0")
    codes = []

    def use():
        with pytest.raises(casstore.StoreError, match=CANNOT):
            store.tags()

    report = store.gc(evict_all=True, progress=_Calling(step, lambda: codes.append(Child(use).wait())))
    assert codes == [0]
    assert [entry.count > 0 for entry in report.steps if entry.name in ("unneeded objects", "packed")] == [True, True]
    assert store.verify().is_sound
    assert Child(lambda: not store.verify().is_sound).wait() == 0, "when gc is done, children may use the store again"


def test_a_callback_that_raises_leaves_gc_free_to_run_again(store: casstore.Store, save: Save, home: Path) -> None:
    for number in range(2):
        save(f"m:{number}", {"w": noise(1_500_000, number)})

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        store.gc(evict_all=True, progress=_Calling("pack", fail))
    _can_write_at_once(home)
    with casstore.Store(home) as other:
        other.gc()
    assert kept
    assert store.verify().is_sound


def test_a_store_that_is_closed_while_another_thread_uses_it(store: casstore.Store, save: Save, home: Path) -> None:
    """In a transaction, and in a gc, whose notes go with the connection."""
    save("m:1", {"w": noise(1_500_000)})
    closed = []

    def close():
        thread = threading.Thread(target=lambda: (store.close(), closed.append(True)))
        thread.start()
        thread.join()

    with pytest.raises(casstore.StoreError, match="closed by another thread"):
        store.gc(evict_all=True, progress=_Calling("pack", close))
    with pytest.raises(casstore.StoreError, match="closed by another thread"):  # noqa: SIM117 - the block that raises is the inner one
        with store._workspace.catalog._connections.write() as connection:
            close()
            connection.execute("DELETE FROM setting")
    assert closed == [True, True]
    _can_write_at_once(home)
    assert store.tags() == ["m:1"]
    assert store.verify().is_sound


def test_a_store_that_is_closed_while_another_thread_runs_a_statement(store: casstore.Store, home: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    begun = threading.Event()
    raised = []

    def run():
        try:
            with store._workspace.catalog._connections.read() as connection:
                begun.set()
                connection.execute(endless).fetchall()
        except casstore.StoreError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    store.close()
    thread.join()
    assert "closed by another thread" in raised[0]
    _can_write_at_once(home)


def test_a_signals_handler_may_not_use_the_store_in_the_middle_of_a_transaction(store: casstore.Store) -> None:
    with store._workspace.catalog._connections.write() as connection:
        connection.execute("INSERT OR REPLACE INTO setting VALUES ('keep_days', '9')")
        with pytest.raises(casstore.StoreError, match="middle of a transaction"):
            store.set_setting("keep_days", "2")
    assert store.settings()["keep_days"] == "9"


def test_a_transaction_that_two_interrupts_have_left_is_ended_by_the_next(store: casstore.Store) -> None:
    store._workspace.catalog._connections.get().execute("BEGIN IMMEDIATE")
    store.set_setting("keep_days", "2")
    assert store.settings()["keep_days"] == "2"


def test_draft_directories_hold_nothing_open_after_an_error(store: casstore.Store) -> None:
    gc.collect()
    store.tags()
    before = _descriptors()
    for _ in range(3):
        with pytest.raises(ValueError, match="no"), store.create("m") as draft:
            plant(Path(draft.path), {"w": noise(1000)})
            raise ValueError("no")
    gc.collect()
    assert _descriptors() == before


def test_a_store_that_is_closed_while_another_thread_waits_for_the_catalog(store: casstore.Store, home: Path) -> None:
    holder = apsw.Connection(str(home / "catalog.db"))
    holder.execute("BEGIN IMMEDIATE")
    begun = threading.Event()
    raised = []

    def run():
        store.tags()
        begun.set()
        try:
            store.set_setting("keep_days", "5")
        except casstore.StoreError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    while thread.is_alive():  # it opens the store again where that was closed before it began
        store.close()
        thread.join(0.1)
    assert raised
    holder.close()
    store.set_setting("keep_days", "6")
