"""A backup is killed, or fails, at any of its calls: the store is as it was, and the backup is the last complete one,
the new one, or says that it is unfinished; and the next run completes it.

CASSTORE_TEST_EVERY=1 kills at every single call; by default at some of them.
"""

from __future__ import annotations

import errno
import gc
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import casstore
from casstore.storage import machine
from tests.crash import tracer
from tests.crash.conftest import spread
from tests.crash.power import Disk, Mark, Operation, Recorder, Sync
from tests.crash.scenarios import leftovers, put, remove, sql
from tests.crash.test_killed import points_of
from tests.crash.test_power_cut import write
from tests.kit import EVERY, noise

pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]
# By default, how many calls it is killed at, and how many are made to fail.
POINTS = 6
ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS]
FAILURES = 4


class Case:
    """A store with a backup, or none, of an earlier state of it; and what is expected of either state."""

    def __init__(self, ground: Path, *, is_first: bool) -> None:
        self.ground, self.home, self.target = ground, ground / "store", ground / "backup"
        self.old = {"a:1": {"w.bin": noise(1_200_000, 1), "s": b"1"}, "b:1": {"mid": noise(90_000, 2)}}
        for tag, files in self.old.items():
            put(self.home, tag, files)
        put(self.home, "b:2", {"mid": noise(90_000, 3)}, materialize=False)
        self.old["b:2"] = {"mid": noise(90_000, 3)}
        self.earlier = None
        if not is_first:
            self.earlier = ground / "earlier"
            with casstore.Store(self.home, auto_gc=False) as store:
                store.backup(self.earlier)
        with casstore.Store(self.home, auto_gc=False) as store:
            store.delete("b:1", now=True)
            store.gc(evict_all=True)
        put(self.home, "c:1", {"w.bin": noise(1_300_000, 4)})
        put(self.home, "c:2", {"w.bin": noise(3000, 5)}, durability="relaxed")
        self.new = {**self.old, "c:1": {"w.bin": noise(1_300_000, 4)}, "c:2": {"w.bin": noise(3000, 5)}}
        del self.new["b:1"]

    def reset(self) -> None:
        remove(self.target)
        if self.earlier is not None:
            subprocess.run(["cp", "-a", "--", self.earlier, self.target], check=True)

    def back_up(self) -> None:
        with casstore.Store(self.home, auto_gc=False) as store:
            damaged = store.backup(self.target).damaged
        if damaged:  # which is how an error at reading what is copied is told
            raise OSError(errno.EIO, damaged[0])

    def check(self, *, is_complete: bool, gc_first: bool = False) -> str:
        """What must hold after an attempt; goes on with it. Returns which state the backup was in."""
        assert sql(self.home, "PRAGMA integrity_check") == [("ok",)]
        assert set(self.tags(self.home)) == set(self.new)
        state = self.state(gc_first=gc_first)
        assert not is_complete or state == "new"
        self.back_up()
        assert self.state() == "new"
        remove(self.target / "quarantine")  # what opening it for the check above may have left
        assert leftovers(self.target) == []
        return state

    def tags(self, home: Path) -> list[str]:
        with casstore.Store(home, auto_gc=False) as store:
            return list(store.tags())

    def state(self, *, gc_first: bool = False) -> str:
        if not self.target.exists() or not any(self.target.iterdir()):
            return "none"
        if not (self.target / "catalog.db").exists():
            with pytest.raises(casstore.StoreError, match="unfinished"):
                self.tags(self.target)
            return "unfinished"
        with casstore.Store(self.target, auto_gc=False) as store:
            if gc_first:
                store.gc()
            report = store.verify()
            assert report.is_sound, report
            for name, versions in (("old", self.old), ("new", self.new)):
                if set(store.tags()) == versions.keys():
                    for tag, files in versions.items():
                        model = store.get(tag)
                        assert {file.path: model.open(file.path).read() for file in model.files} == files
                    return name
            raise AssertionError(store.tags())


@pytest.mark.parametrize("which", ["first", "next"])
def test_killed(ground: Path, which) -> None:
    case = Case(ground, is_first=which == "first")
    case.reset()
    whole = tracer.run(case.back_up, below=ground)
    assert whole.acknowledged
    case.check(is_complete=True)
    states: Counter[str] = Counter()
    for turn, number in enumerate(points_of(whole.calls, POINTS)):
        case.reset()
        traced = tracer.run(case.back_up, below=ground, kill_at=number)
        try:
            states[case.check(is_complete=traced.acknowledged, gc_first=turn % 2 == 0)] += 1
        except BaseException:
            print(f"killed at call {number} of {[str(call) for call in traced.calls[-5:]]}")
            raise
    assert states["new"]
    assert states["unfinished" if which == "first" else "old"]
    print(f"{which}: {states.total()} points of {len(whole.calls)} calls, which left {dict(states)}")


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("which", ["first", "next"])
def test_an_error_at_a_call(ground: Path, which, for_ever) -> None:
    case = Case(ground, is_first=which == "first")
    case.reset()
    length = len(tracer.run(case.back_up, below=ground, calls=tracer.ALL).calls)

    def attempt() -> None:
        try:
            case.back_up()
        except (casstore.CasstoreError, OSError) as raised:
            assert str(raised)
            del raised
            tracer.end_errors()
            gc.collect()
            case.back_up()

    for turn, number in enumerate(spread(range(1, length + 1), FAILURES)):
        for error in ERRORS if EVERY else [ERRORS[turn % len(ERRORS)]]:
            case.reset()
            traced = tracer.run(attempt, below=ground, calls=tracer.ALL, fail_at=number, error=error, for_ever=for_ever)
            what = f"{errno.errorcode[error]} at call {number}, {traced.calls[min(number, len(traced.calls)) - 1]}"
            assert traced.exit_code == 0, what
            assert traced.repeated_syncs == [], what
            assert case.check(is_complete=True) == "new", what


def test_the_power_goes(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a first and a later backup are made: what has returned is there after a reboot, and nothing is torn."""
    versions = {
        "a:1": {"w.bin": noise(1_100_000, 1), "s": b"1"},
        "b:1": {"mid": noise(90_000, 2)},
        "c:1": {"w.bin": noise(1_100_000, 3)},
        "d:1": {"mid": noise(90_000, 4)},
    }
    states = {"first": {"a:1", "b:1"}, "second": {"a:1", "c:1", "d:1"}}
    root, mounted = ground / "recorded", ground / "mounted"
    root.mkdir()
    recorder = Recorder(root)
    with recorder.install(), casstore.Store(root / "store", auto_gc=False) as store:

        def save(tag: str, durability: str) -> None:
            with store.create(tag, durability=durability, materialize=tag != "d:1") as draft:
                write(Path(draft.path), versions[tag])

        def back_up(name: str) -> None:
            recorder.mark(("begin", name))
            store.backup(root / "backup", copy=name == "first")
            recorder.mark(("done", name))

        save("a:1", "full")
        save("b:1", "full")
        back_up("first")
        save("c:1", "full")
        save("d:1", "relaxed")
        store.delete("b:1", now=True)
        store.gc(evict_all=True)
        back_up("second")
    monkeypatch.setattr(machine, "boot_id", lambda: "the boot after")
    log = recorder.log
    done, under_way, seen = [], "", set()
    disk, points, counted = Disk(), _power_points(log), Counter[str]()
    for number, operation in enumerate(log, 1):
        disk.apply(operation)
        if isinstance(operation, Mark):
            event, name = operation.event
            under_way = name if event == "begin" else ""
            done += [name] if event == "done" else []
        if number not in points:
            continue
        for choice in disk.choices(random.Random(number), 1):
            image = disk.image(choice)
            if (image.digest, len(done)) in seen:
                continue
            seen.add((image.digest, len(done)))
            mounted.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                image.mount(mounted).install(patch)
                tags = _standing(mounted / "backup", versions)
                allowed = [states[name] for name in (*done[-1:], under_way) if name]
                assert tags in allowed or (tags is None and not done), (number, operation, done, tags)
            counted[str(len(done))] += 1
            remove(mounted)
    print(f"{len(points)} crash points, {counted.total()} distinct states")


def _power_points(log: list[Operation]) -> set[int]:
    """Marks, and where most is unsynced: before and after each sync within a backup, by default some of those."""
    points, inside = set(), False
    for number, operation in enumerate(log, 1):
        if isinstance(operation, Mark):
            inside = operation.event[0] == "begin"
            points.add(number)
        elif inside and (EVERY or isinstance(operation, Sync)):
            points.update((number - 1, number))
    syncs = sorted(points)
    return points if EVERY else {*syncs[-40::6], *syncs[::24]}


def _standing(target: Path, versions: dict[str, dict[str, bytes]]) -> set[str] | None:
    """The versions in a backup that is a store, all of it sound; None where there is none."""
    if not (target / "catalog.db").exists():
        if target.exists() and any(target.iterdir()):
            with pytest.raises(casstore.StoreError):
                casstore.Store(target, auto_gc=False)
        return None
    with casstore.Store(target, auto_gc=False) as store:
        store.gc()
        report = store.verify()
        assert report.is_sound, report
        for model in store.list():
            files = versions[str(model.tag)]
            assert {file.path: model.open(file.path).read() for file in model.files} == files
        return set(store.tags())
