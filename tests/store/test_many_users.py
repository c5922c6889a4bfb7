"""A store that a group shares, one that can only be read, and one on a file system that should not be used."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest

import casstore
from casstore.storage import machine
from tests.kit import Child, noise

ONE, TWO, GROUP = 61_001, 61_002, 61_003
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def shared():
    """A directory that every user reaches; pytest's own are closed to all others."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def run_as():
    """run_as(user, function): in a process of that user and the group, with a umask for groups."""

    def run(user, function):
        def become():
            os.setgroups([GROUP])
            os.setgid(user)
            os.setuid(user)
            os.umask(0o002)
            function()

        codecs.lookup("ascii")  # where Python is below root's own directory, other users can import nothing more
        assert Child(become).wait() == 0

    return run


def save(home, tag, data, **options):
    with casstore.Store(home, auto_gc=False) as store, store.create(tag, **options) as draft:
        Path(draft.path, "few").mkdir()
        Path(draft.path, "few/small").write_bytes(b"small")
        Path(draft.path, "w").write_bytes(data)


@as_root
def test_a_group_shares_a_store(shared, run_as) -> None:
    home = shared / "store"
    home.mkdir()
    os.chown(home, -1, GROUP)
    home.chmod(0o2770)

    def first():
        save(home, "m:1", noise(300_000, 1))
        save(home, "m:2", noise(300_000, 2))

    def second():
        save(home, "m:3", noise(300_000, 1))
        with casstore.Store(home, auto_gc=False) as store:
            assert Path(store.get("m:1").path, "w").read_bytes() == noise(300_000, 1)
            store.pin("m:2")
            store.unpin("m:2")
            store.gc(evict_all=True)
            assert Path(store.get("m:2").path, "w").read_bytes() == noise(300_000, 2)
            store.delete("m:1")
            store.gc()
            assert store.verify().is_sound

    def third():
        with casstore.Store(home, auto_gc=False) as store:
            assert store.tags() == ["m:3", "m:2"]
            assert Path(store.get("m:3").path, "w").read_bytes() == noise(300_000, 1)
            store.delete("m:3")
        with casstore.Store(home, auto_gc=False) as store:
            store.gc(evict_all=True)
            assert store.repair().is_sound
            assert {step.count for step in store.gc().steps} == {0}

    for user, function in ((ONE, first), (TWO, second), (ONE, third)):
        run_as(user, function)


@as_root
def test_a_store_that_can_only_be_read(shared, run_as) -> None:
    home = shared / "store"
    save(home, "m:1", noise(300_000, 1), labels={"k": "v"})
    save(home, "m:2", noise(300_000, 2), materialize=False)
    home.chmod(0o755)

    def read():
        with casstore.Store(home) as store:
            assert store.tags() == ["m:2", "m:1"]
            assert [model.labels for model in store.list()] == [{}, {"k": "v"}]
            for number in (1, 2):
                with store.get(f"m:{number}").open("w") as file:
                    assert file.read() == noise(300_000, number)
            assert Path(store.get("m:1").path, "w").read_bytes() == noise(300_000, 1)
            assert store.verify().is_sound
            assert store.verify(quick=True).is_sound
            assert store.stats().versions == 2
            refused = [
                lambda: store.get("m:2").path, lambda: store.create("n:1").__enter__(), lambda: store.delete("m:1"),
                store.gc, store.repair, lambda: store.pin("m:1"), lambda: store.set_setting("keep_days", "3"),
            ]  # fmt: skip
            for verb in refused:
                with pytest.raises(casstore.StoreUnwritable, match=str(home)):
                    verb()

    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    run_as(ONE, read)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


@as_root
def test_a_reader_sees_what_its_owner_saves(shared) -> None:
    """Also while the owner has the store open, and its log stands."""
    home = shared / "store"
    save(home, "m:1", noise(1000, 1))
    home.chmod(0o755)
    asked, ask = os.pipe()
    answered, answer = os.pipe()

    def read():
        os.setgid(ONE)
        os.setuid(ONE)
        with casstore.Store(home) as store:
            while os.read(asked, 1) == b"?":
                os.write(answer, b"%d" % len(store.tags()))

    reader = Child(read)

    def seen():
        os.write(ask, b"?")
        return int(os.read(answered, 1))

    assert seen() == 1
    save(home, "m:2", noise(1000, 2))
    assert seen() == 2
    with casstore.Store(home, auto_gc=False) as store:
        with store.create("m:3") as draft:
            Path(draft.path, "w").write_bytes(noise(1000, 3))
        assert seen() == 3
        store.delete("m:1")
        assert seen() == 2
    assert seen() == 2
    os.write(ask, b".")
    assert reader.wait() == 0


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/with\\040space rw,relatime shared:2 - nfs4 server:/export rw
31 22 0:41 / /mnt/disk rw,relatime - xfs /dev/sdb1 rw
32 30 0:42 / /mnt/with\\040space/local rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/home/store", None), ("/mnt/with space/store", "nfs4"), ("/mnt/with space/local/s", None), ("/mnt/disk", None)],
)
def test_which_file_system_it_is(tmp_path: Path, path, expected) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS, encoding="ascii")
    assert machine.network_file_system(Path(path), mounts) == expected


def test_a_network_file_system_is_warned_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "network_file_system", lambda _: "nfs4")
    with pytest.warns(RuntimeWarning, match="network file system .nfs4."):
        casstore.Store(home).close()
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        casstore.Store(home).close()
