"""Atomicity: whatever ends a save, a deletion or a gc, a version is wholly there or not at all.

Children are real processes that end themselves with SIGKILL at the n-th system call, for every n, and at
random moments. A call counts before it is made, so the n-th round also stands for "just after call n - 1".
CASSTORE_TEST_EVERY=1 tries every n; by default every sixth is, to keep the suite fast.
"""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

import functools
import os
import random
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from tests.kit import Child, Leftovers, Picture, contents, every, noise, plant

pytestmark = pytest.mark.crash

CALLS = (
    "write", "pwrite", "link", "rename", "unlink", "mkdir", "rmdir", "fsync", "open", "fchmod", "chmod",
)  # fmt: skip
STEP = every(6)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch):
    """counted(tick): have tick(name) called before each system call that changes files, and around each SQL call."""

    def start(tick):
        _install(monkeypatch, tick)

        class Connection(apsw.Connection):
            def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
                # Temporary tables go with the process, so being killed beside them is nothing new.
                is_writing = "temp." not in statements and statements.startswith(
                    ("BEGIN IMMEDIATE", "COMMIT", "INSERT INTO version", "DELETE")
                )
                if is_writing:
                    tick(statements[:24])
                result = super().execute(statements, *args, **kwargs)
                if is_writing:
                    tick(f"after {statements[:24]}")
                return result

        monkeypatch.setattr(apsw, "Connection", Connection)

    return start


@pytest.fixture
def files():
    """A save that takes every path: adopted, small, known, mostly known, executable, nested, empty."""
    return lambda seed: {
        "known.bin": noise(1_500_000),
        "new.bin": noise(1_500_000, seed),
        "mostly.bin": noise(4_500_000, 1)[:-50] + seed.to_bytes(50, "little"),
        "mid": noise(100_000, seed + 500),
        "twin": noise(100_000, seed + 500),
        "deep/small.txt": str(seed).encode(),
        "run!": b"#!" + str(seed).encode(),
        "empty": b"",
        "hollow": None,
    }


@pytest.fixture
def first(store: casstore.Store, files):
    with store.create("m:first") as draft:
        plant(draft.path, {**files(0), "mostly.bin": noise(4_500_000, 1)})
    return store


def named(files):
    return {name.removesuffix("!"): content for name, content in files.items() if content is not None}


class Ends(BaseException):
    pass


def test_an_exception_leaves_nothing(first, picture: Picture, files) -> None:
    before = picture()
    for error in (ValueError, KeyboardInterrupt, SystemExit, Ends, GeneratorExit):
        with pytest.raises(error), first.create("m:second") as draft:
            plant(draft.path, files(1))
            raise error
        assert picture() == before
    with first.create("m:second") as draft:
        plant(draft.path, files(1))


def test_read_only_and_unreadable_directories_in_a_failed_draft_are_removed(
    store: casstore.Store, picture: Picture
) -> None:
    before = picture()
    with pytest.raises(KeyError), store.create("m:1") as draft:
        plant(draft.path, {"a/b/c": b"c"})
        os.chmod(f"{draft.path}/a/b", 0o555)
        os.chmod(f"{draft.path}/a", 0)
        raise KeyError
    assert picture() == before


@pytest.mark.parametrize("how", ["draft", "save", "move"])
def test_an_interrupt_at_every_call_leaves_nothing_or_everything(
    first, tmp_path: Path, picture: Picture, files, how
) -> None:
    """KeyboardInterrupt at the n-th call for every n; with move=True the source is as it was, or gone, and what was
    written in a block that has ended is kept."""
    baseline = None
    for stop in range(1, 400, STEP):
        tag = f"m:{how}{stop}"
        baseline = baseline or picture()
        source = plant(tmp_path / f"{how}{stop}", files(1)) if how != "draft" else None
        modes = source and {path: (path.stat().st_mode, path.stat().st_nlink) for path in source.rglob("*")}
        was_reached, error = _interrupt(stop, functools.partial(_save, first, tag, how, source, files(1)))
        if not was_reached:
            assert stop > 25
            return
        if tag in first.tags():
            assert contents(first.get(tag)) == named(files(1))
            assert not any(p.stat().st_mode & 0o222 for p in Path(first.get(tag).path).rglob("*") if p.is_file())
            baseline = None
        else:
            assert error is not None
            if source and modes:
                assert modes == {path: (path.stat().st_mode, path.stat().st_nlink) for path in source.rglob("*")}
            for kept in first.drafts():
                assert error.draft_path == kept.path
                written = {name: Path(kept.path, name).read_bytes() for name in named(files(1))}
                assert written == named(files(1))
                first.remove_draft(kept)
            # What an interrupt inside the clean-up itself left, the next gc finds.
            if picture() != baseline:
                first.gc()
                assert _without_epoch(picture()) == _without_epoch(baseline), stop
                baseline = None
    pytest.fail("the calls never ended")


def _without_epoch(picture):
    paths, rows = picture
    return paths, {name: table for name, table in rows.items() if name != "store"}


def _save(store, tag, how, source, files):
    if how == "draft":
        with store.create(tag) as draft:
            plant(draft.path, files)
    else:
        store.save(tag, source, move=how == "move")


def _install(patch, tick):
    def wrap(name, real):
        def call(*args, **kwargs):
            tick(name)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))


def _interrupt(stop, action):
    count = 0

    def tick(name):
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt(name)

    error = None
    with pytest.MonkeyPatch.context() as patch:
        _install(patch, tick)
        try:
            action()
        except KeyboardInterrupt as raised:
            error = raised
    return count >= stop, error


def _killed_at(stop, home, counted, action):
    """Run action(store) in a child that SIGKILLs itself at call `stop`; False when it never came that far."""

    def run():
        count = 0

        def tick(name):
            nonlocal count
            count += 1
            if count == stop:
                os.kill(os.getpid(), 9)

        with casstore.Store(home) as store:
            store.list()
            counted(tick)
            own = casstore.Store(home)  # with connections that count
            count = 0
            action(own)

    code = Child(run).wait()
    assert code in (0, -9)
    return code == -9


def test_a_save_that_is_killed_at_every_call(first, home: Path, counted, files, leftovers: Leftovers) -> None:
    outcomes = []
    for number, stop in enumerate(range(1, 400, STEP)):
        tag = f"m:k{stop}"

        def save(store, tag=tag, stop=stop):
            with store.create(tag) as draft:
                plant(draft.path, files(stop))

        was_killed = _killed_at(stop, home, counted, save)
        saved = tag in first.tags()
        outcomes.append(saved)
        if saved:
            assert contents(first.get(tag)) == named(files(stop))
            with pytest.raises(casstore.TagExists):
                first.create(tag)
        else:
            with pytest.raises(casstore.TagNotFound):
                first.get(tag)
        if number % 4 == 3 or not was_killed:  # let garbage of several kills gather
            first.gc()
            assert leftovers() == [], stop
            again = first.gc()
            assert [step.count for step in again.steps] == [0] * len(again.steps), stop
        if not saved:
            save(first)
            assert contents(first.get(tag)) == named(files(stop))
        first.delete(tag)
        if not was_killed:
            break
    assert not was_killed
    assert outcomes == sorted(outcomes), "before the commit point never, after it always"
    assert outcomes.count(True) * STEP > 3
    assert outcomes.count(False) * STEP > 25
    first.gc()
    assert first.verify().is_sound
    assert contents(first.get("m:first"))


@pytest.mark.parametrize("verb", ["delete", "gc", "evict", "path"])
def test_other_verbs_that_are_killed_at_every_call(
    first, home: Path, counted, files, leftovers: Leftovers, verb
) -> None:
    # To evict is to pack as well, which takes many calls; test_packing_faults.py kills packing at each.
    for number, stop in enumerate(range(1, 2000, STEP * 5 if verb == "evict" else STEP)):
        with first.create("m:doomed") as draft:
            plant(draft.path, files(1))
        if verb == "gc":
            first.delete("m:doomed")
        if verb == "path":
            os.rename(draft.model.path, home.parent / f"gone{stop}")

        def act(store):
            if verb == "delete":
                store.delete("m:doomed")
            elif verb == "gc":
                store.gc()
            elif verb == "evict":
                store.gc(evict_all=True)
                assert not os.path.exists(home / "models/m/doomed")
            else:
                assert store.get("m:doomed").path

        was_killed = _killed_at(stop, home, counted, act)
        if "m:doomed" in first.tags():
            assert verb != "gc"
            assert contents(first.get("m:doomed")) == named(files(1))
            first.delete("m:doomed")
        else:
            assert verb != "path"
        if number % 4 == 3 or not was_killed:
            first.gc()
            assert leftovers() == [], stop
            again = first.gc()
            assert [step.count for step in again.steps] == [0] * len(again.steps), stop
        if not was_killed:
            break
    assert not was_killed
    assert stop > 5
    assert first.verify().is_sound
    assert contents(first.get("m:first"))


def test_saves_that_are_killed_at_random_moments(first, home: Path, files, leftovers: Leftovers) -> None:
    clock = random.Random(5)
    saved = []
    for number in range(16):
        tag = f"m:r{number}"

        def save(tag=tag, number=number):
            with casstore.Store(home) as store, store.create(tag) as draft:
                plant(draft.path, files(number))

        victim = Child(save)
        time.sleep(clock.uniform(0.005, 0.12))
        victim.kill()
        if tag in first.tags():
            saved.append(tag)
            assert contents(first.get(tag)) == named(files(number))
        if number % 8 == 7:
            first.gc()
            assert leftovers() == []
    for tag in saved:
        assert contents(first.get(tag)) == named(files(int(tag[3:])))
    assert first.verify().is_sound


def test_a_forked_child_leaves_the_draft_to_its_parent(first, files) -> None:
    with first.create("m:forked") as draft:
        plant(draft.path, files(3))

        assert Child(lambda: draft.__exit__(None, None, None)).wait() == 0
        assert Child(lambda: draft.__exit__(ValueError, ValueError(), None)).wait() == 0
        assert "m:forked" not in first.tags()
        assert os.path.exists(draft.path)
    assert contents(draft.model) == named(files(3))


def test_a_forked_child_may_use_the_store(first) -> None:
    first.list()

    def work():
        with first.create("m:child") as draft:
            plant(draft.path, {"a": b"child"})
        first.verify()

    assert Child(work).wait() == 0
    with first.create("m:parent") as draft:
        plant(draft.path, {"a": b"parent"})
    with first.get("m:child").open("a") as file:
        assert file.read() == b"child"
    assert first.verify().is_sound


def test_durable_saves_are_on_disk_before_they_are_committed(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every object that the version needs, its directory and its manifest are fsynced before COMMIT."""
    with store.create("m:relaxed", durability="relaxed") as draft:
        plant(draft.path, {"old.bin": noise(2_000_000, 9), "old.txt": b"old"})
    log = []
    real_fsync, real_execute = os.fsync, apsw.Connection.execute

    def fsync(descriptor):
        log.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return real_fsync(descriptor)

    class Connection(apsw.Connection):
        def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            if statements.startswith("INSERT INTO version"):
                log.append("version")
            if statements == "COMMIT":
                log.append("COMMIT")
            return real_execute(self, statements, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(apsw, "Connection", Connection)
    with casstore.Store(home) as other:
        with other.create("m:relaxed-too", durability="relaxed") as draft:
            plant(draft.path, {"new.bin": noise(2_000_000, 10)})
        assert [entry for entry in log if entry not in ("version", "COMMIT")] == []
        log.clear()
        with other.create("m:full") as draft:
            plant(
                draft.path,
                {"old.bin": noise(2_000_000, 9), "old.txt": b"old", "new.txt": b"new", "big.bin": noise(2_000_000, 11)},
            )
    committed = log.index("COMMIT", log.index("version"))
    synced = set(log[:committed])
    everything = {str(path) for path in (home / "objects").rglob("*.*") if path.is_file()}
    relaxed_only = {str(p) for p in (home / "objects/loose").rglob(f"{_digest(noise(2_000_000, 10))}.*")}
    assert len(relaxed_only) == 1
    needed = everything - relaxed_only
    assert len(needed) == 4
    assert needed <= synced
    assert {os.path.dirname(path) for path in needed} <= synced
    assert str(home / "manifests/.pending") in synced
    assert any(entry.startswith((str(home / "sessions"), str(home / "manifests/.pending/"))) for entry in synced)
    last = {entry: number for number, entry in enumerate(log[:committed])}
    for path in needed:
        assert log.index(path) < last[os.path.dirname(path)], "the name is durable once the bytes are"
    log.clear()
    with store.create("m:again") as draft:
        plant(draft.path, {"old.bin": noise(2_000_000, 9), "old.txt": b"old"})
    assert not needed & set(log), "what is on disk is not synced again"


def _digest(content: bytes) -> str:
    return casstore.Digest.of(content).hex()


def test_a_new_stores_directories_are_on_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set()
    real = os.fsync

    def fsync(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    casstore.Store(home).close()
    assert {str(p) for p in (home.parent, home, home / "objects", home / "objects/loose", home / "manifests")} <= synced
