"""Versions are deleted, and gc takes away what nothing needs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import casstore
from tests.crash import tracer
from tests.crash.scenarios import Files, Scenario, copy_store, open_store, put, scenario
from tests.crash.scenarios.steps import LARGE, A, B, Operation, doing, having, heavy
from tests.kit import noise


@scenario("delete")
def delete(_: Path) -> Scenario:
    operation = doing("delete", "a:1", now=True)
    return Scenario(having({"a:1": A, "a:2": B}), operation, {"a:2": B}, gone={"a:1": A})


@scenario("delete into the trash")
def trash(_: Path) -> Scenario:
    prepare = having({"a:1": A, "a:2": B})
    return Scenario(prepare, doing("delete", "a:2"), {"a:1": A}, gone={"a:2": B}, trashed={"a:2": B})


@scenario("undelete")
def undelete(_: Path) -> Scenario:
    prepare = in_trash({"a:1": A, "a:2": B}, "a:2")
    operation = doing("undelete", "a:2")
    return Scenario(prepare, operation, {"a:1": A}, {"a:2": B}, again=_unless_done(operation), trashed={"a:2": B})


@scenario("undelete under another tag")
def undelete_as(_: Path) -> Scenario:
    """What was said of it after its save comes with it, into the log of its new name."""

    def prepare(home: Path) -> None:
        having({"a:1": A})(home)
        doing("annotate", "a:1", labels={"stage": "prod"})(home)
        doing("delete", "a:1")(home)
        put(home, "a:1", B)

    def again(home: Path) -> None:
        _unless_done(operation)(home)
        doing("gc")(home)  # which adds to the log what it lacks
        with contextlib.suppress(casstore.StoreLocked):  # where this process holds it open
            casstore.Store.rebuild_catalog(home)  # which goes by the log alone
        with open_store(home) as store:
            assert store.get("b:1").labels == {"stage": "prod"}

    operation = doing("undelete", "a:1", as_="b:1")
    return Scenario(prepare, operation, {"a:1": B}, {"b:1": A}, again=again)


@scenario("empty the trash")
def empty(_: Path) -> Scenario:
    prepare = in_trash({"a:1": A, "a:2": B, "b:1": A}, "a:2", "b:1")
    return Scenario(prepare, doing("gc", empty_trash=True), {"a:1": A}, is_emptied=True)


@scenario("gc")
def gc(_: Path) -> Scenario:
    before = {f"m:{number}": heavy(number) for number in range(3)}
    return Scenario(littered, doing("gc"), {**before, "half:2": {"0": noise(30_000, 40)}}, {"b:1": B})


@scenario("evict")
def evict(_: Path) -> Scenario:
    return Scenario(having({"a:1": A, "b:1": B}), doing("gc", evict_all=True), {"a:1": A, "b:1": B})


def _unless_done(operation: Operation) -> Callable[[Path], None]:
    """The operation, unless the version is no longer in the trash."""

    def again(home: Path) -> None:
        with contextlib.suppress(casstore.TagNotFound):
            operation(home)

    return again


def in_trash(versions: dict[str, Files], *deleted: str) -> Operation:
    """Save these versions, and delete some."""

    def operation(home: Path) -> None:
        having(versions)(home)
        with open_store(home) as store:
            store.delete(deleted)

    return operation


def littered(home: Path) -> None:
    """Something for every step of gc: what killed processes have left, what is cold, dead or half-dead."""
    with open_store(home) as store:
        store.set_setting("keep_days", "0")
    for number in range(3):
        put(home, f"m:{number}", heavy(number))
    put(home, "half:1", {str(n): noise(30_000, 40 + n) for n in range(4)}, materialize=False)
    put(home, "half:2", {"0": noise(30_000, 40)})
    put(home, "d:1", {"w": noise(LARGE, 6)})
    put(home, "d:2", {"w": noise(3000, 7)})
    _kill_at(home, doing("gc"), "rename /models/")  # a directory that is marked to be taken away
    with open_store(home) as store:
        store.delete(["half:1", "d:1"], now=True)
    save = partial(put, tag="b:1", files=B)
    _kill_at(home, save, "mkdir /sessions/")  # a draft
    _kill_at(home, save, "fsync /sessions/")  # objects, which no row names
    _kill_at(home, save, "rename /manifests/")  # a version whose manifest has no name yet
    _kill_at(home, doing("delete", "d:2", now=True), "rename /models/")  # a tombstone, and the directory


def _kill_at(home: Path, operation: Operation, call: str) -> None:
    """Kill the operation at the first call of that kind, on a path in the store that begins like that."""
    name, below = call.split()
    copy = home.parent / "tried"
    copy_store(home, copy)
    tried = tracer.run(lambda: operation(copy), below=copy).calls
    shutil.rmtree(copy)
    is_it = [each.name == name and each.path.startswith(f"{copy}{below}") for each in tried]
    assert tracer.run(lambda: operation(home), below=home, kill_at=is_it.index(True) + 1).killed
