"""Threads and processes that save, read, delete and collect at once."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.saving.delete import Swept
from tests.kit import Child, Leftovers, noise, plant

pytestmark = pytest.mark.crash

SIZE = 300_000


def content_of(tag: str) -> dict[str, bytes]:
    """What a version holds follows from its tag, so that any process can check any version whole."""
    seed = sum(tag.encode())
    return {
        "own.bin": noise(SIZE, seed),
        "shared.bin": noise(SIZE, seed % 3),
        "big.bin": noise(1_200_000, seed % 2),
        "tag.txt": tag.encode(),
    }


def check(model) -> None:
    for name, content in content_of(str(model.tag)).items():
        with model.open(name) as file:
            assert file.read() == content


def work(store, seed: int, until: float) -> None:
    """Random verbs; anything but the errors that a race explains is a failure."""
    chance = random.Random(seed)
    mine = 0
    while time.monotonic() < until:
        verb = chance.choice(["save", "save", "read", "path", "delete", "gc", "list", "verify"])
        try:
            if verb == "save":
                tag = f"m{chance.randrange(2)}:{'s' if chance.random() < 0.5 else f'w{seed}-'}{mine % 4}"
                mine += 1
                with store.create(tag, durability=chance.choice(["full", "relaxed"])) as draft:
                    plant(draft.path, content_of(tag))
                continue
            if verb == "gc":
                store.gc()
                continue
            if verb == "verify":
                assert not store.verify().damage
                continue
            models = store.list()
            if not models or verb == "list":
                continue
            model = chance.choice(models)
            if verb == "delete":
                store.delete(model.tag)
            elif verb == "path":
                root = Path(store.get(model.tag).path)
                assert (root / "tag.txt").read_bytes() == str(model.tag).encode()
            else:
                check(model)
        except (casstore.TagExists, casstore.TagNotFound):
            pass
        except casstore.StoreLocked as error:
            if "another gc" not in str(error):
                raise
        except (casstore.IntegrityError, FileNotFoundError):  # the latter of path.read_bytes
            # Its version was deleted, and collected, under the reader.
            if model in store.list():
                raise


def settle(store, leftovers) -> None:
    store.gc()
    report = store.verify()
    assert report.is_sound, report
    for model in store.list():
        check(model)
        names = {path.name for path in Path(model.path).iterdir()}
        assert names == {*content_of(str(model.tag)), "model.yaml"}
    for name in store.names():
        assert (store.home / "models" / name / "latest").read_text() == store.get(name).tag.version
    assert leftovers() == []
    usage = store.stats()
    on_disk = sum(path.stat().st_size for path in (store.home / "objects").rglob("*") if path.is_file())
    assert usage.stored_bytes == usage.loose_bytes + usage.packs_bytes == on_disk
    assert usage.dead_bytes == 0
    assert usage.logical_bytes == sum(model.size for model in store.list())


def test_threads_that_share_a_store(store: casstore.Store, leftovers: Leftovers) -> None:
    until = time.monotonic() + 2.5
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, store, seed, until) for seed in range(4)]:
            future.result()
    settle(store, leftovers)


def test_processes(store: casstore.Store, home: Path, leftovers: Leftovers) -> None:
    until = time.monotonic() + 3

    def run(seed):
        with casstore.Store(home) as own:
            work(own, seed, until)

    children = [Child(partial(run, seed)) for seed in range(10, 14)]
    assert [each.wait() for each in children] == [0] * 4
    settle(store, leftovers)


def test_processes_of_which_some_are_killed(store: casstore.Store, home: Path, leftovers: Leftovers) -> None:
    chance = random.Random(1)
    until = time.monotonic() + 2.5

    def run(seed):
        with casstore.Store(home) as own:
            work(own, seed, until)

    survivors = [Child(partial(run, seed)) for seed in (20, 21)]
    number = 30
    while time.monotonic() < until - 0.5:
        number += 1
        victim = Child(partial(run, number))
        time.sleep(chance.uniform(0.05, 0.3))
        victim.kill()
    assert [each.wait() for each in survivors] == [0, 0]
    settle(store, leftovers)


def test_two_processes_that_commit_one_tag_at_the_same_moment(store: casstore.Store, home: Path) -> None:
    """Exactly one wins, the other gets TagExists, and the directory holds only the winner's files."""
    rounds = 25

    def run(who, ready, go):
        wins = 0
        with casstore.Store(home) as own:
            for number in range(rounds):
                try:
                    with own.create(f"race:{number}", durability="relaxed") as draft:
                        plant(draft.path, {f"by-{who}": who.encode(), "w.bin": noise(100_000, number)})
                        os.write(ready, b"r")
                        os.read(go, 1)
                    wins += 1
                except casstore.TagExists:
                    pass
        Path(home.parent, f"wins-{who}").write_text(str(wins))

    pipes = {who: (os.pipe(), os.pipe()) for who in "ab"}
    children = [Child(partial(run, who, pipes[who][0][1], pipes[who][1][0])) for who in "ab"]
    for _ in range(rounds):
        for who in "ab":
            assert os.read(pipes[who][0][0], 1) == b"r"
        for who in "ab":
            os.write(pipes[who][1][1], b"g")
    assert [each.wait() for each in children] == [0, 0]
    for first, second in pipes.values():
        for end in (*first, *second):
            os.close(end)
    assert sum(int(Path(home.parent, f"wins-{who}").read_text()) for who in "ab") == rounds
    for model in store.list("race"):
        (winner,) = [file.path[3:] for file in model.files if file.path.startswith("by-")]
        assert sorted(os.listdir(model.path)) == [f"by-{winner}", "model.yaml", "w.bin"]
        assert Path(model.path, f"by-{winner}").read_text() == winner
    assert len(store.list("race")) == rounds
    store.close()
    assert os.listdir(home / "sessions") == []


def test_processes_that_make_one_store_at_the_same_moment(tmp_path: Path) -> None:
    for number in range(6):
        home = tmp_path / f"store{number}"

        def run(home=home):
            with casstore.Store(home) as own, own.create(f"m:{os.getpid()}"):
                pass

        children = [Child(run) for _ in range(4)]
        assert [each.wait() for each in children] == [0] * 4
        with casstore.Store(home) as opened:
            assert len(opened.list()) == 4


def test_threads_that_end_give_their_connections_back(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {"a": b"a"})

    def read():
        assert store.get("m:1").path

    def open_files():
        return len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    before = open_files()
    for _ in range(30):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert open_files() <= before + 3


def test_a_gc_while_another_deletes_sees_no_old_catalog(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest whose row is gone and whose tombstone came after gc read the tombstones is no sign of one."""
    with store.create("m:1"):
        pass
    deletions = type(store._workspace.catalog.deletions)
    real = deletions.tombstones
    calls: list[Any] = []

    def tombstones(self):
        found = real(self)
        if not calls:
            calls.append(True)
            monkeypatch.setattr("casstore.actions.saving.delete.sweep", lambda *_: Swept())
            store.delete("m:1")
            monkeypatch.undo()
        return found

    monkeypatch.setattr(deletions, "tombstones", tombstones)
    store.gc()
    assert calls


@pytest.mark.parametrize("verb", ["get", "path"])
def test_reading_while_the_tag_is_deleted_and_saved_again(store: casstore.Store, verb) -> None:
    def write(version):
        with store.create("m:1", durability="relaxed") as draft:
            plant(draft.path, {"a.bin": noise(100_000, version), "b.bin": noise(100_000, version)})

    stop = threading.Event()

    def churn():
        for number in range(30):
            if stop.is_set():
                return
            store.delete("m:1")
            write(number)

    write(99)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        while thread.is_alive():
            try:
                model = store.get("m:1")
                if verb == "path":
                    digests = {file.digest for file in model.files}
                    assert len(digests) == 1
                    root = Path(model.path)
                    assert {casstore.Digest.of((root / name).read_bytes()) for name in ("a.bin", "b.bin")}
            except (casstore.TagNotFound, FileNotFoundError):
                continue
    finally:
        stop.set()
        thread.join()
    assert store.verify().is_sound
