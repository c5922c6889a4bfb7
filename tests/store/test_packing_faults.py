"""Packing and rewriting, cut short, without room, and with others at work: nothing is lost, and the next gc ends it.

Children are killed with SIGKILL at the n-th call that changes files or the catalog. CASSTORE_TEST_EVERY=1 tries
every n; by default a sample is tried.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.actions.gc.reclaim import Reclaim
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.workspace import Workspace
from casstore.catalog.columns import Columns
from casstore.catalog.marks import Marks
from casstore.catalog.references import References
from casstore.catalog.repacking import Repacking
from casstore.catalog.schema import APPLICATION_ID, MIGRATIONS
from casstore.storage import files as storage_files
from casstore.storage.pack import PackWriter
from tests.kit import (
    Age,
    Check,
    Child,
    Leftovers,
    Picture,
    Save,
    Sql,
    contents,
    counts,
    draft_of,
    every,
    noise,
    safetensors,
    streamed,
    weights,
)

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_trash")]

STEP = every(17)
PACE = 5 if STEP == 1 else 1
CALLS = ("write", "pwrite", "link", "rename", "unlink", "rmdir", "mkdir", "fsync", "fchmod", "chmod")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch):
    """Everything happens with small files too: adoption, packing into several packs, merging of small ones."""
    monkeypatch.setattr("casstore.actions.saving.plan.SMALL_FILE_BYTES", 64 << 10)
    monkeypatch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 150_000)
    monkeypatch.setattr("casstore.actions.packs.repack._SMALL_PACK_BYTES", 30_000)


def step_files(step: int, seed: int = 0) -> dict[str, bytes]:
    tensors = {f"t{n}": ("BF16", weights("BF16", seed + n, step, 40_000)) for n in range(2)}
    return {"w.safetensors": safetensors(tensors), "step.txt": b"%d of %d" % (step, seed)}


@pytest.fixture
def busy(store: casstore.Store, save: Save):
    """busy(): a store in which gc has everything to do; returns what its versions hold."""

    def fill():
        expected = {}
        for step in range(4):
            expected[f"run:{step}"] = step_files(step)
        for step in range(2):
            expected[f"tuned:{step}"] = step_files(step, seed=30)
        for tag, files in expected.items():
            save(tag, files, durability="relaxed")
        part = {f"{n}.bin": noise(20_000, n) for n in range(5)}
        save("dead:1", part, materialize=False, durability="relaxed")
        expected["dead:2"] = {"4.bin": part["4.bin"]}
        save("dead:2", expected["dead:2"], materialize=False, durability="relaxed")
        store.delete("dead:1")
        for n in range(8):
            expected[f"small:{n}"] = {"n.bin": noise(3000, 100 + n)}
            save(f"small:{n}", expected[f"small:{n}"], materialize=False, durability="relaxed")
        save("gone:1", {"gone.bin": noise(100_000, 300)}, durability="relaxed")
        store.delete("gone:1")
        return expected

    return fill


@pytest.fixture
def empty(store: casstore.Store):
    """empty(): take everything out of the store again."""

    def clear():
        for tag in store.tags():
            store.delete(tag)
        store.gc(evict_all=True)
        assert store.stats().stored_bytes == 0

    return clear


@pytest.fixture
def holds(store: casstore.Store):
    """holds(expected): the store has these versions, and they read so."""

    def check(expected):
        assert {str(model.tag): streamed(model) for model in store.list()} == expected

    return check


@dataclass(frozen=True)
class Training:
    """A store in which training goes on: how to fill and to empty it, and what must hold of it."""

    busy: Callable[[], dict[str, dict[str, bytes]]]
    empty: Check
    holds: Callable[[dict[str, dict[str, bytes]]], None]
    leftovers: Leftovers
    check_catalog: Check
    settled: Check


@pytest.fixture
def training(busy, empty, holds, leftovers: Leftovers, check_catalog: Check, settled: Check) -> Training:
    return Training(busy, empty, holds, leftovers, check_catalog, settled)


def install(patch, tick):
    """Have tick(name) called before each system call that changes files, and on both sides of each commit."""

    def wrap(name, real):
        def call(*args, **kwargs):
            tick(name)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    real_open = os.open

    def open_(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            tick("create")
        return real_open(path, flags, *args, **kwargs)

    class Connection(apsw.Connection):
        def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            if statements not in ("BEGIN IMMEDIATE", "COMMIT"):
                return super().execute(statements, *args, **kwargs)
            tick(statements)
            result = super().execute(statements, *args, **kwargs)
            tick(f"after {statements}")
            return result

    patch.setattr(os, "open", open_)
    patch.setattr(apsw, "Connection", Connection)


def killed_at(home, stop, action):
    """Run action(store) in a child that kills itself at call number `stop`; False when it ended before."""

    def run():
        count = 0

        def tick(name):
            nonlocal count
            count += 1
            if count == stop:
                os.kill(os.getpid(), 9)

        with pytest.MonkeyPatch.context() as patch:
            install(patch, tick)
            with casstore.Store(home) as own:
                count = 0
                action(own)

    code = Child(run).wait()
    assert code in (0, -9)
    return code == -9


def test_a_gc_that_is_killed_at_every_call(store: casstore.Store, home: Path, training: Training) -> None:
    stop = 1
    while True:
        expected = training.busy()
        was_killed = killed_at(home, stop, lambda own: own.gc(evict_all=True))
        training.check_catalog()
        training.holds(expected)
        report = store.gc(evict_all=True)
        if not was_killed:
            assert set(counts(report).values()) == {0}
            break
        training.check_catalog()
        training.holds(expected)
        assert training.leftovers() == [], stop
        again = store.gc(evict_all=True)
        assert set(counts(again).values()) == {0}, (stop, again)
        assert store.verify().is_sound
        assert store.stats().loose_bytes == 0
        training.empty()
        stop += STEP
    assert stop > 150, "it came past packing and rewriting"


def test_a_gc_that_is_killed_again_and_again(
    store: casstore.Store, home: Path, busy, holds, settled: Check, check_catalog: Check
) -> None:
    """Each is killed some calls further than the last: whatever they leave between them, the next one goes on."""
    expected = busy()
    stop = 5
    while killed_at(home, stop, lambda own: own.gc(evict_all=True)):
        check_catalog()
        holds(expected)
        stop += 7
    holds(expected)
    settled()


def test_a_save_without_a_directory_that_is_killed_at_every_call(
    store: casstore.Store, home: Path, save: Save, leftovers: Leftovers, check_catalog: Check
) -> None:
    save("m:0", step_files(0))
    store.gc(evict_all=True)
    outcomes = []
    for number in range(200):
        stop = 1 + number * max(1, STEP // 3)

        def act(own):
            save("m:1", step_files(1), materialize=False, into=own)

        was_killed = killed_at(home, stop, act)
        outcomes.append("m:1" in store.tags())
        check_catalog()
        if outcomes[-1]:
            assert streamed(store.get("m:1")) == step_files(1)
            store.delete("m:1")
        assert not (home / "models/m/1").exists()
        store.gc(evict_all=True)
        assert leftovers() == [], stop
        assert set(counts(store.gc(evict_all=True)).values()) == {0}
        assert streamed(store.get("m:0")) == step_files(0)
        if not was_killed:
            break
    assert not was_killed
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) * max(1, STEP // 3) > 8


def test_one_gc_at_a_time_while_it_packs(
    store: casstore.Store, home: Path, busy, monkeypatch: pytest.MonkeyPatch, holds, settled: Check
) -> None:
    expected = busy()
    refused = []
    real = Repacking.move

    def move(self, *args, **kwargs):
        with casstore.Store(home) as other:
            ways: list[dict[str, Any]] = [{"evict_all": True}, {"dry_run": True}]
            for options in ways:
                with pytest.raises(casstore.StoreLocked, match="another gc"):
                    other.gc(**options)
            assert other.gc(auto=True).steps == ()
        refused.append(True)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Repacking, "move", move)
    store.gc(evict_all=True)
    monkeypatch.undo()
    assert len(refused) > 2
    holds(expected)


# Where gc can be met: at the boundaries of its steps and inside them.
POINTS = (
    (Marks, "cold", "after"),
    (Columns, "versions", "before"),
    (Columns, "planned", "before"),
    (Columns, "planned", "after"),
    (Marks, "needed_in", "after"),
    (PackBuilder, "add", "after"),
    (PackBuilder, "copy", "after"),
    (PackWriter, "finish", "before"),
    (PackWriter, "finish", "after"),
    (Repacking, "move", "before"),
    (Repacking, "move", "after"),
    (Reclaim, "condemn_rows", "before"),
    (Marks, "unreferenced", "after"),
    (Marks, "condemn", "before"),
    (Marks, "condemn", "after"),
    (References, "dead_containers", "after"),
    (References, "forget_containers", "before"),
    (References, "forget_containers", "after"),
    (References, "drop_unreferenced_blobs", "before"),
    (Workspace, "set_aside", "after"),
)
IDS = [f"{moment} {owner.__name__}.{name}" for owner, name, moment in POINTS]


def at_point(monkeypatch, point, action):
    """Have `action` called each time gc comes to that point."""
    owner, name, moment = point
    real = getattr(owner, name)
    busy: list[Any] = []

    def meet():
        if not busy:  # not when the action itself comes there
            busy.append(True)
            action()
            busy.clear()

    def wrapped(*args, **kwargs):
        if moment == "before":
            meet()
        result = real(*args, **kwargs)
        if moment == "after":
            meet()
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("point", POINTS, ids=IDS)
def test_others_save_read_and_delete_at_every_step(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch, point, training: Training
) -> None:
    """What they save is a successor of what is being packed, the same content again, and what gc is about to take."""
    expected = training.busy()
    opened = store.get("run:3").open("w.safetensors")
    held = opened.read(1000)
    visits: list[Any] = []

    def visit():
        number = len(visits)
        visits.append(number)
        if number > 2:
            return
        with casstore.Store(home) as other:
            assert {str(model.tag): streamed(model) for model in other.list()} == expected
            news: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
                f"new{number}:1": (step_files(4 + number), {"base": "run:3", "materialize": False}),
                f"new{number}:2": (step_files(2), {"base": "run:3"}),
                f"new{number}:0": ({"gone.bin": noise(100_000, 300)}, {"materialize": number % 2 == 1}),
                f"new{number}:3": (
                    step_files(1, seed=30),
                    {"base": "tuned:0", "materialize": number % 2 == 0},
                ),
            }
            for tag, (files, options) in news.items():
                save(tag, files, into=other, durability="relaxed", **options)
                expected[tag] = files
            assert contents(other.get("small:1")) == expected["small:1"]
            if point[1] != "set_aside":  # gc holds the name's lock there
                victim = f"run:{number}"
                other.delete(victim)
                del expected[victim]
                assert contents(other.get("tuned:1")) == expected["tuned:1"]

    at_point(monkeypatch, point, visit)
    with contextlib.suppress(casstore.TagNotFound):
        store.gc(evict_all=True)
    monkeypatch.undo()
    assert visits
    training.check_catalog()
    training.holds(expected)
    with opened:
        assert held + opened.read() == step_files(3)["w.safetensors"] or "run:3" not in expected
    store.gc(evict_all=True)
    training.check_catalog()
    training.holds(expected)
    store.gc(evict_all=True)
    training.settled()


# No room.


class FullDisk:
    """Has the `stop`-th call that may need room, and all after it, fail; with `interrupt` it is Ctrl-C at that call."""

    def __init__(self, patch, stop, interrupt=False):
        self.stop, self.count, self.interrupt = stop, 0, interrupt
        _fill(patch, self)

    def is_full(self):
        self.count += 1
        if self.interrupt and self.count == self.stop:
            raise KeyboardInterrupt
        return self.count >= self.stop and not self.interrupt


def _fill(patch, disk):
    def refuse():
        if disk.is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrap(real, needs_room):
        def call(*args, **kwargs):
            if needs_room(args):
                refuse()
            return real(*args, **kwargs)

        return call

    for name in ("write", "pwrite", "link", "mkdir", "rename", "fsync", "fchmod"):
        patch.setattr(os, name, wrap(getattr(os, name), lambda _: True))
    patch.setattr(os, "open", wrap(os.open, lambda args: args[1] & os.O_CREAT))

    class Connection(apsw.Connection):
        def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            if statements == "COMMIT" and disk.is_full():
                raise apsw.FullError("database or disk is full")
            return super().execute(statements, *args, **kwargs)

    patch.setattr(apsw, "Connection", Connection)


@pytest.mark.parametrize("interrupt", [False, True])
def test_no_room_or_ctrl_c_at_every_call_of_a_gc(
    store: casstore.Store, home: Path, interrupt, training: Training
) -> None:
    stop, failures = 1, 0
    while True:
        expected = training.busy()
        error = None
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, 1 << 60, interrupt)
            with casstore.Store(home) as other:  # with connections that fail
                disk.stop, disk.count = stop, 0
                try:
                    other.gc(evict_all=True)
                except (OSError, KeyboardInterrupt) as raised:
                    error = raised
                reached, disk.stop = disk.count, 1 << 60
        training.check_catalog()
        training.holds(expected)
        if error is None:
            assert reached < stop
            break
        failures += 1
        assert interrupt or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        store.gc(evict_all=True)
        training.check_catalog()
        training.holds(expected)
        assert training.leftovers() == [], stop
        assert set(counts(store.gc(evict_all=True)).values()) == {0}, stop
        assert store.verify().is_sound
        training.empty()
        stop += STEP
    assert failures > 2


def apart_from_sessions(files):
    return {path: seen for path, seen in files.items() if not path.startswith("sessions/")}


def test_no_room_at_every_call_of_a_save_without_a_directory(
    store: casstore.Store, save: Save, picture: Picture
) -> None:
    save("m:0", step_files(0))
    failures = 0
    for stop in range(1, 300, max(1, STEP // 6)):
        before = picture()
        error = None
        with pytest.MonkeyPatch.context() as patch:
            try:
                with store.create("m:1", materialize=False) as draft:
                    for name, content in step_files(1).items():
                        Path(draft.path, name).write_bytes(content)
                    FullDisk(patch, stop)
            except OSError as raised:
                error = raised
        if error is None:
            break  # it was committed by then: what is left, such as the manifest's name, the next gc sees to
        failures += 1
        assert error.errno == errno.ENOSPC
        # Where not even a rename works, the draft is kept in its session.
        now, was = ((apart_from_sessions(files), rows) for files, rows in (picture(), before))
        assert now == was, stop
        written = {name: Path(draft_of(error), name).read_bytes() for name in step_files(1)}
        assert written == step_files(1)
    assert error is None
    assert failures > 3
    assert streamed(store.get("m:1")) == step_files(1)
    store.gc(evict_all=True)
    assert streamed(store.get("m:1")) == step_files(1)
    assert store.verify().is_sound


REAL = """
import errno, os, pathlib, random, subprocess, sys
import numpy
import casstore
mount = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", mount], check=True)
store = casstore.Store(mount / "store", auto_gc=False)
generator = numpy.random.default_rng(0)
content = {}
for step in range(5):
    content[f"m:{step}"] = bytes(2000) + generator.normal(size=300_000).astype("f4").tobytes()
    with store.create(f"m:{step}") as draft:
        pathlib.Path(draft.path, "w.bin").write_bytes(content[f"m:{step}"])

def check():
    for tag, expected in content.items():
        assert store.get(tag).open("w.bin").read() == expected

ballast = mount / "ballast"
outcomes = []
for free in range(200_000, 8_000_000, 700_000):
    room = os.statvfs(mount)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
    try:
        store.gc(evict_all=True)
        outcomes.append(True)
    except OSError as error:
        assert error.errno == errno.ENOSPC, repr(error)
        outcomes.append(False)
    check()
    assert os.listdir(mount / "store/sessions") == []
    ballast.unlink()
    if outcomes[-1]:
        break
assert outcomes[-1] and False in outcomes, outcomes
store.gc(evict_all=True)
check()
assert {step.count for step in store.gc(evict_all=True).steps} == {0}
assert store.verify().is_sound
assert store.stats().loose_bytes == 0
print("done")
"""


def test_a_real_file_system_that_fills_up_while_gc_packs(tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    result = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", REAL, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "mount" in result.stderr and "CalledProcessError" in result.stderr:
        pytest.skip("cannot mount a file system here")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


# Other formats.


def test_a_store_of_a_newer_format_is_refused(
    store: casstore.Store, home: Path, busy, sql: Sql, picture: Picture, holds
) -> None:
    expected = busy()
    store.close()
    sql(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = picture()
    with pytest.raises(casstore.StoreTooNew, match="upgrade casstore"), casstore.Store(home) as other:
        other.gc(evict_all=True)
    assert picture() == before
    sql(f"PRAGMA user_version = {len(MIGRATIONS)}")
    holds(expected)


def test_a_store_of_the_first_format_is_migrated_and_packed(
    store: casstore.Store, home: Path, sql: Sql, deltas, age: Age, training: Training
) -> None:
    """Its catalog is made by the first migration alone, and holds what such a store knew of its versions."""
    expected = training.busy()
    assert deltas() == 0
    store.close()
    new, old = home / "catalog.db", home / "old.db"
    connection = apsw.Connection(str(old))
    connection.execute("PRAGMA foreign_keys = OFF; BEGIN")
    connection.execute(MIGRATIONS[0])
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    connection.execute(f"COMMIT; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1").fetchall()
    connection.execute(f"ATTACH '{new}' AS new").fetchall()
    for table in tables:
        if not table.startswith("sqlite_"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT OR REPLACE INTO main.{table}({columns}) SELECT {columns} FROM new.{table}")
    connection.execute("INSERT OR REPLACE INTO main.sqlite_sequence SELECT * FROM new.sqlite_sequence").fetchall()
    connection.close()
    for path in home.glob("catalog.db*"):
        path.unlink()
    old.rename(new)
    with casstore.Store(home) as migrated:
        assert sql("PRAGMA user_version") == [(len(MIGRATIONS),)]
        assert migrated.verify().is_sound
    training.holds(expected)
    store.gc(evict_all=True)
    assert deltas() > 5
    training.holds(expected)
    training.settled()


def test_a_pack_that_cannot_be_unlinked_is_taken_by_the_next_gc(
    store: casstore.Store, busy, holds, monkeypatch: pytest.MonkeyPatch, settled: Check
) -> None:
    """gc is stopped between its commit and the unlink."""
    expected = busy()
    real = storage_files.remove_file

    def remove_file(path):
        if str(path).endswith(".pack"):
            raise PermissionError(errno.EACCES, "no", str(path))
        return real(path)

    monkeypatch.setattr(storage_files, "remove_file", remove_file)
    with pytest.raises(PermissionError):
        store.gc(evict_all=True)
    monkeypatch.undo()
    holds(expected)
    store.gc(evict_all=True)
    holds(expected)
    settled()


@pytest.mark.parametrize("kill", [False, True])
def test_processes_that_save_read_delete_and_pack_at_once(
    store: casstore.Store, home: Path, save: Save, kill, training: Training
) -> None:
    """What a version holds follows from its tag, so that any process can check any version whole."""
    until = time.monotonic() + 2.5 * PACE

    def content(tag):
        series, step = str(tag).split("-")[0][-1], int(str(tag).split("-")[1])
        return step_files(step, seed=200 if series == "a" else 300)

    def work(seed):
        chance = random.Random(seed)
        with casstore.Store(home) as own:
            while time.monotonic() < until:
                verb = chance.choice(["save", "save", "save", "read", "read", "path", "delete", "gc", "gc", "verify"])
                model = None
                with contextlib.suppress(casstore.TagExists, casstore.TagNotFound, casstore.StoreLocked):
                    try:
                        tags = own.tags()
                        if verb == "save" or not tags:
                            name = chance.choice("ab")
                            tag = f"{name}:{name}-{chance.randrange(8)}-{chance.randrange(3)}"
                            options = {
                                "base": chance.choice([None, *tags[:3]]),
                                "materialize": chance.random() < 0.5,
                                "durability": chance.choice(["full", "relaxed"]),
                            }
                            save(tag, content(tag), into=own, **options)
                            continue
                        if verb == "gc":
                            own.gc(evict_all=chance.random() < 0.8)
                            continue
                        if verb == "verify":
                            assert not own.verify().damage
                            continue
                        model = own.get(chance.choice(tags))
                        if verb == "delete":
                            own.delete(model.tag)
                        elif verb == "path":
                            path, expected = Path(model.path), content(model.tag)
                            assert {name: (path / name).read_bytes() for name in expected} == expected
                        else:
                            assert streamed(model) == content(model.tag)
                    except (casstore.IntegrityError, FileNotFoundError):
                        # Its version was deleted, and collected, under the reader.
                        if model is None or model in own.list():
                            raise

    workers = [Child(partial(work, seed)) for seed in range(3)]
    chance = random.Random(9)
    number = 100
    while kill and time.monotonic() < until - 0.5:
        number += 1
        victim = Child(partial(work, number))
        time.sleep(chance.uniform(0.05, 0.4))
        victim.kill()
    assert [worker.wait() for worker in workers] == [0] * 3
    training.check_catalog()
    training.holds({tag: content(tag) for tag in store.tags()})
    store.gc(evict_all=True)
    training.holds({tag: content(tag) for tag in store.tags()})
    training.settled()
