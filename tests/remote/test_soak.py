"""Eight processes push, pull, delete, repack and collect one directory remote, and some are killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable

import pytest

import casstore
from casstore.actions.exchange import push
from casstore.actions.exchange.arrivals import Wishes
from casstore.actions.exchange.pull import pull_version
from casstore.actions.saving.trust import Trust
from casstore.errors import RemoteError, TagNotFound
from casstore.progress import SILENT
from casstore.remote import collect, deleting, repacking, verifying
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.pushing import revoke
from casstore.remote.transfers import workers
from casstore.tag import Tag
from tests.kit import Child
from tests.remote.scheduler import AtOnce
from tests.remote.stage import FILES, SMALL_PACK_BYTES, TOLD, Stage, leftovers, live, push_tag, read_remote
from tests.remote.test_killed_pushes import Ground

pytestmark = pytest.mark.crash
PROCESSES = 8
ROUNDS = 40
REVOKE_AFTER_NS = 200_000_000
MOST_SECONDS = 3.0  # until a process that is to die does
GONE = "what it needs went away"  # as often as a pull tries


class Mortal:
    """One process's part: what it does is told by its seed."""

    def __init__(self, ground: Ground, number: int, life: int) -> None:
        self.chance = random.Random(f"{number} {life}")
        self.bucket = Bucket.open(DirectoryBackend(ground.remote))
        self.home = ground.root / str(number)
        self.pulls = ground.root / f"pulls {number} {life}"
        self.store = casstore.Store(self.home)
        self.pulled = casstore.Store(self.pulls)

    def live(self, rounds: int) -> None:
        acts = [self.push, self.push, self.push, self.delete, self.pull, self.pull, self.collect, self.repack]
        for _ in range(rounds):
            tag = self.chance.choice(list(FILES))
            try:
                self.chance.choice(acts)(tag)
            except TagNotFound:
                pass
            except RemoteError as error:
                if not any(text in str(error) for text in (*TOLD, GONE)):
                    raise
        self.store.close()
        self.pulled.close()

    def push(self, tag: str) -> None:
        push_tag(self.store, self.bucket, tag)

    def delete(self, tag: str) -> None:
        deleting.delete(self.bucket, Tag.parse(tag))

    def collect(self, _: str) -> None:
        with workers(4) as pool:
            collect.collect(self.bucket, pool, revoke_after_ns=REVOKE_AFTER_NS)

    def repack(self, _: str) -> None:
        with workers(4) as pool:
            repacking.repack(self.bucket, pool, SILENT)

    def pull(self, tag: str) -> None:
        if self.pulled.exists(tag):
            self.pulled.delete(tag)
        wishes = Wishes(None, Trust.NONE, durable=False, materialize=False)
        pull_version(self.pulled._workspace, self.bucket, Tag.parse(tag), wishes, SILENT)
        model = self.pulled.get(tag)
        assert {file.path: model.open(file.path).read() for file in model.files} == FILES[tag]


def dies_within(seconds: float, work: Callable[[], object]) -> Callable[[], object]:
    """The work in a process that is killed after that time, if it has not ended."""

    def mortal() -> object:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        return work()

    return mortal


def test_many_processes_use_one_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(push, "PACK_BYTES", SMALL_PACK_BYTES)
    monkeypatch.setattr(push, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(push, "_POLL_SECONDS", 0.1)
    (tmp_path / "stage").mkdir()
    stage = Stage.build(tmp_path / "stage")
    stage.close()
    ground = Ground(stage, tmp_path, tmp_path / "ground")
    ground.root.mkdir()
    Bucket.make(DirectoryBackend(ground.remote))
    for number in range(PROCESSES):
        shutil.copytree(tmp_path / "stage" / "0", ground.root / str(number))
    run_all(ground)
    check(ground)


def run_all(ground: Ground) -> None:
    """Have all live twice: in its first life, every other one is killed at some time."""
    for life in range(2):

        def work(number: int, life: int = life) -> Callable[[], object]:
            part = lambda: Mortal(ground, number, life).live(ROUNDS)  # noqa: E731
            seconds = random.Random(number).random() * MOST_SECONDS
            return dies_within(seconds, part) if life == 0 and number % 2 else part

        children = [Child(work(number)) for number in range(PROCESSES)]
        ended = [child.wait() for child in children]
        assert set(ended) <= {0, -signal.SIGKILL}
        assert all(code == 0 for code in ended[0::2])


def check(ground: Ground) -> None:
    """All is sound, and gc leaves nothing that no version needs."""
    bucket = ground.bucket()
    assert verifying.verify(bucket, AtOnce(), deep=True).ok
    for tag in live(ground.objects()):
        read_remote(bucket, str(tag))
    for push_id, state in collect.list_pushes(bucket).items():
        if state.is_open and not state.has_ended:
            revoke(bucket, push_id)
    collect.collect(bucket, AtOnce())
    assert leftovers(ground.objects(), bucket) == []
    assert verifying.verify(bucket, AtOnce(), deep=True).ok
