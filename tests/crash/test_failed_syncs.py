"""A sync that fails, is cut short or was never made proves nothing: what was promised stands on others, or is not
promised."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest

import casstore
from casstore.catalog.catalog import Catalog
from casstore.storage import files as storage_files
from casstore.storage import machine
from tests.crash import tracer
from tests.crash.power import Disk, Recorder
from tests.crash.scenarios import Scenario, check_versions, copy_store, open_store, put, sql
from tests.crash.test_power_cut import write
from tests.kit import Child, noise, safetensors, weights

pytestmark = pytest.mark.crash

traced = pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")


@pytest.fixture
def home(ground: Path):
    return ground / "store"


@traced
def test_what_could_not_be_synced_is_stored_anew_rather_than_synced_again(home: Path, ground: Path) -> None:
    """The kernel may have dropped what it could not write, and a second fsync would succeed."""
    put(ground / "template", "m:1", {"w.bin": noise(300_000)}, materialize=False, durability="relaxed")

    def save_both():
        for tag in ("m:2", "m:3"):
            with contextlib.suppress(OSError):
                put(home, tag, {"w.bin": noise(300_000)}, materialize=False)

    def run(fail_at=None):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(ground / "template", home)
        return tracer.run(save_both, below=home, fail_at=fail_at, error=errno.EIO)

    (pack,) = (ground / "template/objects/packs").iterdir()
    calls = map(str, run().calls)
    number = next(number for number, call in enumerate(calls, 1) if call == f"fsync {home}/objects/packs/{pack.name}")
    assert run(number).repeated_syncs == []
    homes = sql(home, "SELECT file_id, synced FROM container WHERE id IN (SELECT container FROM chunk)")
    assert [synced for _, synced in homes] == [1]
    assert homes[0][0] != pack.stem
    files = {"w.bin": noise(300_000)}
    check_versions(home, Scenario(open_store, open_store, before={"m:1": files, "m:3": files}), acknowledged=True)


@traced
def test_gc_does_not_sync_again_what_could_not_be_synced(home: Path, ground: Path) -> None:
    """It would record as safe what the kernel may have dropped, and durable versions would rely on it."""
    # Without a chunk in common, or the second save would bring it to disk.
    steps = {
        f"m:{step}": {
            "w.safetensors": safetensors(
                {"w": ("F32", weights("F32", 1, step, 330_000)), f"of {step}": ("F32", weights("F32", 2, step, 9))}
            )
        }
        for step in (0, 1)
    }
    put(ground / "template", "m:0", steps["m:0"], materialize=False, durability="relaxed")
    put(ground / "template", "m:1", steps["m:1"])
    (pack,) = (ground / "template/objects/packs").iterdir()

    def collect_twice():
        for _ in range(2):
            with contextlib.suppress(OSError), casstore.Store(home, auto_gc=False) as store:
                store.gc(evict_all=True)

    def run(fail_at=None):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(ground / "template", home)
        return tracer.run(collect_twice, below=home, fail_at=fail_at, error=errno.EIO)

    calls = map(str, run().calls)
    number = next(number for number, call in enumerate(calls, 1) if call == f"fsync {home}/objects/packs/{pack.name}")
    assert run(number).repeated_syncs == []
    assert sql(home, f"SELECT synced FROM container WHERE file_id = '{pack.stem}'") == [(0,)]
    assert sql(home, "SELECT count(*) FROM chunk WHERE base IS NOT NULL") == [(0,)]
    check_versions(home, Scenario(open_store, open_store, before=steps), acknowledged=True)
    with casstore.Store(home, auto_gc=False) as store:
        assert store.verify().is_sound


@traced
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_while_a_file_is_hashed_fails_the_save(home: Path, ground: Path, error) -> None:
    """The kernel tells of it once, and that call may be the one that is told."""
    put(ground / "template", "m:1", {"a": b"1"})
    new = {"w.bin": noise(9 << 20)}

    def run(fail_at=None):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(ground / "template", home)
        return tracer.run(lambda: put(home, "m:2", new), below=home, fail_at=fail_at, error=error)

    numbers = [number for number, call in enumerate(run().calls, 1) if call.name == "sync_file_range"]
    assert len(numbers) == 2  # begun, and looked after when the file has been synced
    for number in numbers:
        traced = run(number)
        if traced.calls[number - 1].name != "sync_file_range":  # threads have taken turns in another way
            continue
        assert not traced.acknowledged
        assert traced.repeated_syncs == []
        check_versions(home, Scenario(open_store, open_store, before={"m:1": {"a": b"1"}}), acknowledged=True)


@traced
@pytest.mark.parametrize("fails", ["once", "twice", "for ever"])
def test_a_commit_whose_log_could_not_be_synced_leaves_the_version_absent_or_whole(
    home: Path, ground: Path, fails
) -> None:
    """Recovery of the log brings back what stands in it, whether or not the commit was told to have failed."""
    put(ground / "template", "m:1", {"a": b"1"})
    new = {"w.bin": noise(300_000)}

    def operation():
        if fails == "twice":  # the second time where the first is to be written over
            pytest.MonkeyPatch().setattr(Catalog, "write_over_failed", lambda _: False)
        store = casstore.Store(home, auto_gc=False)
        with contextlib.suppress(OSError), store.create("m:2", materialize=False) as draft:
            write(Path(draft.path), new)
        os.kill(os.getpid(), 9)

    def run(fail_at=None):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(ground / "template", home)
        return tracer.run(operation, below=home, fail_at=fail_at, error=errno.EIO, for_ever=fails == "for ever").calls

    syncs = [number for number, call in enumerate(run(), 1) if "sync" in call.name and call.path.endswith("-wal")]
    assert syncs
    run(syncs[-1])
    scenario = Scenario(open_store, open_store, before={"m:1": {"a": b"1"}}, new={"m:2": new})
    check_versions(home, scenario, acknowledged=False)
    with casstore.Store(home, auto_gc=False) as store:
        assert store.verify().is_sound
        store.gc()
    check_versions(home, scenario, acknowledged=False)


@traced
def test_a_redundant_copy_that_cannot_be_read_is_passed_over(home: Path, ground: Path) -> None:
    put(ground / "template", "m:1", {"w.bin": noise(300_000)})
    shutil.rmtree(ground / "template/models/m")

    def operation():
        with casstore.Store(home, auto_gc=False) as store:
            root = store.get("m:1").path
            with open(f"{root}/w.bin", "rb") as file:
                assert file.read() == noise(300_000)

    def run(fail_at=None):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(ground / "template", home)
        return tracer.run(operation, below=home, calls=tracer.ALL, fail_at=fail_at, error=errno.EIO)

    calls = run().calls
    reads = [
        number
        for number, call in enumerate(calls, 1)
        if "/objects/loose/" in call.path and call.name in ("read", "pread64")
    ]
    assert reads
    assert run(reads[0]).acknowledged


def test_too_many_open_files_are_said_to_be_that(store: casstore.Store, home: Path) -> None:
    put(home, "m:1", {"a": b"1"})

    def read(free):
        """Open what the thread needs with so few descriptors left."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for descriptor in held[:free]:
            os.close(descriptor)
        store.get("m:1")

    def attempt(free):
        store.close()
        problems = []

        def run():
            try:
                read(free)
            except OSError as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return 0 if not problems else 2 if problems[0].errno == errno.EMFILE else 1

    codes = [Child(partial(attempt, free)).wait() for free in range(6)]
    assert codes == sorted(codes, reverse=True)
    assert set(codes) == {0, 2}


class Cut(BaseException):
    pass


def disks(log):
    """What a disk may hold when the power goes after all of this."""
    disk = Disk()
    for operation in log:
        disk.apply(operation)
    return [disk.image(choice) for choice in disk.choices(random.Random(1), 6)]


def save(store, tag):
    with store.create(tag) as draft:
        write(Path(draft.path), {"a": tag.encode()})


def test_a_deletion_that_gc_finishes_is_on_disk_before_it_is_forgotten(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever unlinked the manifest was killed before it could be synced."""
    (ground / "recorded").mkdir()
    recorder = Recorder(ground / "recorded")
    real = storage_files.sync_directory

    def cut(path):
        if str(path).endswith("manifests/m"):
            raise Cut
        real(path)

    with recorder.install():
        with casstore.Store(ground / "recorded/store", auto_gc=False) as store:
            save(store, "m:1")
            save(store, "m:2")
            with monkeypatch.context() as patch:
                patch.setattr(storage_files, "sync_directory", cut)
                with pytest.raises(Cut):
                    store.delete("m:1", now=True)
        with casstore.Store(ground / "recorded/store", auto_gc=False) as store:
            store.gc()
    for number, image in enumerate(disks(recorder.log)):
        root = ground / str(number)
        root.mkdir()
        with monkeypatch.context() as patch:
            image.mount(root).install(patch)
            patch.setattr(machine, "boot_id", lambda: "the boot after")
            with casstore.Store(root / "store", auto_gc=False) as store:
                assert store.tags() == ["m:2"]
                store.gc()


def test_a_store_in_directories_that_are_made_for_it(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "recorded").mkdir()
    recorder = Recorder(ground / "recorded")
    place = "data/of the team/store"
    with recorder.install(), casstore.Store(ground / "recorded" / place, auto_gc=False) as store:
        save(store, "m:1")
    for number, image in enumerate(disks(recorder.log)):
        root = ground / str(number)
        root.mkdir()
        with monkeypatch.context() as patch:
            image.mount(root).install(patch)
            patch.setattr(machine, "boot_id", lambda: "the boot after")
            with casstore.Store(root / place, auto_gc=False) as store:
                assert store.get("m:1").open("a").read() == b"m:1"
