"""Real processes that are killed at each call to a directory remote, and go on: all is there once, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import push
from casstore.progress import SILENT
from casstore.remote import collect, deleting, keys, repacking, verifying
from casstore.remote.backend import Entry
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.pushing import revoke
from casstore.remote.transfers import workers
from casstore.tag import Tag
from tests.kit import Child, every
from tests.remote.memory import Stored
from tests.remote.scheduler import AtOnce
from tests.remote.stage import SMALL_PACK_BYTES, Stage, check_signed, leftovers, live, push_tag, read_remote

DAY = 86_400
POINTS = 5  # at which a process is killed in the quick tier


class Dying(DirectoryBackend):
    """Kills the process at the n-th moment: before a call, when a file has been written, has its name, or is answered.

    It counts them, and with n = 0 does nothing else.
    """

    def __init__(self, root: Path, number: int) -> None:
        super().__init__(root)
        self._number = number
        self._lock = threading.Lock()
        self.moments = 0

    def _moment(self) -> None:
        with self._lock:
            self.moments += 1
            if self.moments == self._number:
                os.kill(os.getpid(), signal.SIGKILL)

    def create(self, key: str, body: bytes) -> None:
        self._moment()
        super().create(key, body)
        self._moment()

    def _name(self, temporary: Path, target: Path) -> bool:
        self._moment()
        is_named = super()._name(temporary, target)
        self._moment()
        return is_named

    def get(self, key: str) -> bytes:
        self._moment()
        return super().get(key)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        self._moment()
        return super().list(prefix, after)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._moment()
            super().delete([key])
            self._moment()


@dataclass(frozen=True)
class Ground:
    """Where processes run: copies of a store and of a remote."""

    stage: Stage
    template: Path
    root: Path

    @property
    def remote(self) -> Path:
        return self.root / "remote"

    def reset(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root)

    def bucket(self, number: int = 0) -> Bucket:
        return Bucket.open(Dying(self.remote, number))

    def objects(self) -> dict[str, Stored]:
        backend = DirectoryBackend(self.remote)
        return {entry.key: Stored(backend.get(entry.key), entry.modified_ns) for entry in backend.list("")}


Work = Callable[[Ground, Bucket], object]


def pushing_c(ground: Ground, bucket: Bucket) -> None:
    with casstore.Store(ground.root / "store") as store:
        push_tag(store, bucket, "m:c")


def pushing_b_and_c(ground: Ground, bucket: Bucket) -> None:
    with casstore.Store(ground.root / "store") as store:
        push_tag(store, bucket, "m:b")
        push_tag(store, bucket, "m:c")


def pushing_again(ground: Ground, bucket: Bucket) -> None:
    """After it was deleted; whoever goes on finds it deleted, pushed again, or something in between."""
    if bucket.state(Tag("m", "a")).generation == 0 and bucket.state(Tag("m", "a")).is_live:
        deleting.delete(bucket, Tag("m", "a"))
    with casstore.Store(ground.root / "store") as store:
        push_tag(store, bucket, "m:a")


def deleting_a(_: Ground, bucket: Bucket) -> None:
    if bucket.state(Tag("m", "a")).is_live:
        deleting.delete(bucket, Tag("m", "a"))


def deleting_and_collecting(ground: Ground, bucket: Bucket) -> None:
    deleting_a(ground, bucket)
    with workers(4) as pool:
        collect.collect(bucket, pool, revoke_after_ns=0)


def repacking_all(ground: Ground, bucket: Bucket) -> None:
    deleting_a(ground, bucket)
    with workers(4) as pool:
        repacking.repack(bucket, pool, SILENT)


# What each does, and which versions there are when it has been done.
WORK: dict[str, tuple[Work, set[str]]] = {
    "push": (pushing_c, {"m:a", "m:c", "m:d"}),
    "two pushes": (pushing_b_and_c, {"m:a", "m:b", "m:c", "m:d"}),
    "push again": (pushing_again, {"m:a", "m:d"}),
    "delete": (deleting_a, {"m:d"}),
    "gc": (deleting_and_collecting, {"m:d"}),
    "repack": (repacking_all, {"m:d"}),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    stage = Stage.build(tmp_path_factory.mktemp("stage"))
    template = tmp_path_factory.mktemp("template")
    bucket = Bucket.make(DirectoryBackend(template / "remote"))
    for tag in ("m:a", "m:d"):
        push_tag(stage.stores[0], bucket, tag)
    stage.close()
    shutil.copytree(stage.root / "1", template / "store")
    return Ground(stage, template, tmp_path_factory.mktemp("ground"))


def moments_of(ground: Ground, work: Work) -> int:
    """How many there are, when nobody dies."""
    ground.reset()

    def count() -> None:
        bucket = ground.bucket()
        work(ground, bucket)
        assert isinstance(bucket.backend, Dying)
        (ground.root / "moments").write_text(str(bucket.backend.moments))

    assert Child(count).wait() == 0
    return int((ground.root / "moments").read_text())


@pytest.fixture
def small(ground, monkeypatch) -> Ground:
    monkeypatch.setattr(push, "PACK_BYTES", SMALL_PACK_BYTES)
    monkeypatch.setattr(push, "_AT_ONCE", 1)
    monkeypatch.setattr(push, "pause", lambda _: None)
    return ground


@pytest.mark.parametrize("name", ["push"])
def test_whoever_is_killed_goes_on_and_leaves_nothing(name: str, small) -> None:
    moments = moments_of(small, WORK[name][0])
    kill_at(small, name, range(1, moments + 1, every(max(1, moments // POINTS))))


@pytest.mark.crash
@pytest.mark.parametrize("name", WORK)
def test_whoever_is_killed_at_many_moments_goes_on(name: str, small) -> None:
    kill_at(small, name, range(1, moments_of(small, WORK[name][0]) + 1, every(2)))


def kill_at(ground: Ground, name: str, moments: Iterable[int]) -> None:
    """Kill the process at each of these, have another go on, and see that all is well."""
    work, tags = WORK[name]

    def die(at: int) -> Callable[[], object]:
        return lambda: work(ground, ground.bucket(at))

    for at in moments:
        ground.reset()
        assert Child(die(at)).wait() in (-signal.SIGKILL, 0)  # threads may make fewer calls than before
        assert Child(die(0)).wait() == 0
        try:
            check(ground, tags)
        except BaseException:
            print(f"killed at moment {at}")
            raise


def check(ground: Ground, tags: set[str]) -> None:
    """Each version is there once, whole and signed, and gc leaves nothing else."""
    bucket = ground.bucket()
    assert {str(tag) for tag in live(ground.objects())} == tags
    assert all(key.rpartition("/")[2] in ("0", "0.x", "1") or ".s" in key for key in ground.objects() if "refs/" in key)
    for push_id, state in collect.list_pushes(bucket).items():
        if state.is_open and not state.has_ended:
            revoke(bucket, push_id)
    temporary = ground.remote / ".tmp"
    for path in temporary.iterdir():
        old = path.stat().st_mtime - DAY - 1
        os.utime(path, (old, old))
    collect.collect(bucket, AtOnce())
    assert leftovers(ground.objects(), bucket) == []
    check_signed(ground.objects())
    assert list(temporary.iterdir()) == []
    assert not [
        path for path in ground.remote.rglob("*") if path.is_dir() and path != temporary and not any(path.iterdir())
    ]
    assert verifying.verify(bucket, AtOnce(), deep=True).ok
    for tag in tags:
        read_remote(bucket, tag)


def test_what_is_resumed_is_not_sent_again(small) -> None:
    """A process that is killed before it writes the second pack."""
    ground = small
    ground.reset()

    class AtSecondPack(DirectoryBackend):
        packs = 0

        def put(self, key: str, body: bytes) -> None:
            if key.startswith(keys.PACKS):
                self.packs += 1
                if self.packs == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            super().put(key, body)

    def push_all(backend: DirectoryBackend) -> None:
        with casstore.Store(ground.root / "store") as store:
            push_tag(store, Bucket.open(backend), "m:c")

    for tag in ("a", "d"):
        deleting.delete(ground.bucket(), Tag("m", tag))
    before = packs(ground)
    assert Child(lambda: push_all(AtSecondPack(ground.remote))).wait() == -signal.SIGKILL
    first = packs(ground) - before
    assert Child(lambda: push_all(DirectoryBackend(ground.remote))).wait() == 0
    assert len(first) == 1
    assert len(packs(ground) - before) == 2
    check(ground, {"m:c"})
    assert first < packs(ground)


def packs(ground: Ground) -> set[str]:
    return {key for key in ground.objects() if key.startswith(keys.PACKS)}
