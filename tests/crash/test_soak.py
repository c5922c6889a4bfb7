"""Eight processes at everything at once, some killed, stopped or interrupted; then nothing acknowledged is missing.

A part of a minute of it runs always; `CASSTORE_SOAK_MINUTES=60` makes it an hour.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import Child

pytestmark = pytest.mark.crash

SECONDS = 60 * float(os.environ.get("CASSTORE_SOAK_MINUTES", "0.1"))
PROCESSES = 8
NAMES = ["a", "b", "c"]


def content(seed: int) -> dict[str, bytes]:
    """The files of a version, all from one number: some large, some shared between versions."""
    rng = random.Random(seed)
    files = {"seed": b"%d" % seed, f"shared-{seed % 5}.bin": random.Random(seed % 5).randbytes(150_000)}
    if seed % 3 == 0:
        files["w.bin"] = random.Random(seed % 7).randbytes(1_200_000) + rng.randbytes(300_000)
    return files


def read_back(model: casstore.Model, *, by_path: bool) -> None:
    """Every file is what its version's seed says, whichever way it is read."""
    with model.open("seed") as file:
        expected = content(int(file.read()))
    for name, data in expected.items():
        if by_path:
            assert Path(model.path, name).read_bytes() == data
        else:
            with model.open(name) as file:
                assert file.read() == data


class Journal:
    """What was asked for, and what was acknowledged: one line a write, appended."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *words: object) -> None:
        os.write(self._descriptor, " ".join(map(str, words)).encode() + b"\n")


class Interrupts:
    """Raises KeyboardInterrupt in `work`, wherever that is, and not in what counts the interrupts."""

    def __init__(self) -> None:
        self.is_on = False
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, *_: object) -> None:
        if self.is_on:
            self.is_on = False
            raise KeyboardInterrupt


def work(home: Path, journal: Journal, number: int) -> None:
    rng = random.Random(number)
    interrupts = Interrupts()
    with casstore.Store(home, auto_gc=False) as store:
        while True:
            try:
                interrupts.is_on = True
                do_one(store, journal, rng, number)
            except KeyboardInterrupt:  # as in a notebook, whose user goes on with the same store
                journal.note("did", "interrupted")


def do_one(store: casstore.Store, journal: Journal, rng: random.Random, number: int) -> None:
    verb = rng.choices(
        ["save", "open", "path", "delete", "gc", "evict", "verify", "pin", "list", "backup", "undelete"],
        [8, 8, 6, 3, 1, 1, 1, 1, 2, 1, 1],
    )[0]
    tags = store.tags()
    tag = rng.choice(tags) if tags else None
    with contextlib.suppress(casstore.TagNotFound, casstore.StoreLocked):
        if verb == "save":
            seed = rng.randrange(1 << 30)
            tag = f"{rng.choice(NAMES)}:{seed}"
            journal.note("saving", tag)
            with store.create(tag, materialize=rng.random() < 0.7) as draft:
                for name, data in content(seed).items():
                    Path(draft.path, name).write_bytes(data)
            journal.note("saved", tag)
        elif verb == "gc" or verb == "evict":
            store.gc(evict_all=verb == "evict")
        elif verb == "verify":
            assert not store.verify().damage
        elif verb == "backup":
            assert not store.backup(store.home.parent / f"backup-{number}").damaged
        elif verb == "list":
            assert all(model.labels == {} for model in store.list())
        elif tag is not None and verb == "delete":
            journal.note("deleting", tag)
            store.delete(tag, now=rng.random() < 0.5)
            journal.note("deleted", tag)
        elif verb == "undelete":
            for each in store.deleted()[:1]:
                tag = f"{rng.choice(NAMES)}:{rng.randrange(1 << 30)}"
                journal.note("saving", tag)
                store.undelete(each.tag, as_=tag, which=each.id)
                journal.note("saved", tag)
        elif tag is not None and verb == "pin":
            (store.pin if rng.random() < 0.5 else store.unpin)(tag)
        elif tag is not None:
            model = store.get(tag)
            try:
                read_back(model, by_path=verb == "path")
            except (casstore.IntegrityError, FileNotFoundError):
                # Only a deletion may take a version away from its reader.
                if tag in store.tags():
                    raise
    journal.note("did", verb)


def test_soak(store: casstore.Store, home: Path, tmp_path: Path, settled_store) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    rng = random.Random(1)
    started = 0
    kills = stops = 0
    running: list[Any] = []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        while len(running) < PROCESSES:
            started += 1
            running.append(Child(partial(work, home, journal, started)))
        time.sleep(rng.uniform(0.05, 0.6))
        victim = rng.choice(running)
        if rng.random() < 0.5:
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(rng.uniform(0.01, 0.3))
            os.kill(victim.pid, signal.SIGCONT)
            stops += 1
            os.kill(victim.pid, signal.SIGINT)
        else:
            running.remove(victim)
            assert victim.kill() == -signal.SIGKILL, "a process failed by itself"
            kills += 1
    for victim in running:
        assert victim.kill() == -signal.SIGKILL, "a process failed by itself"

    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    said = {verb: {tag for word, tag in lines if word == verb} for verb in ("saving", "saved", "deleting", "deleted")}
    tags = set(store.tags())
    assert said["saved"] - said["deleting"] <= tags
    assert tags <= said["saving"]
    assert tags.isdisjoint(said["deleted"])
    for model in store.list():
        read_back(model, by_path=False)
        read_back(model, by_path=True)
    settled_store()
    done = Counter(verb for word, verb in lines if word == "did")
    print(f"{sum(done.values())} operations {dict(done)}, {kills} kills, {stops} stops, {len(tags)} versions stand")
