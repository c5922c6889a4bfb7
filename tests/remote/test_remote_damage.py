"""Damage of a remote, of each kind of object: it is named, never passed on, and gone round where there is a way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore.remote import records, repacking
from casstore.remote.directory import DirectoryBackend
from tests.kit import contents, noise, plant, script
from tests.remote.rewriting import Rewriting, pushed, step

pytestmark = pytest.mark.crash

TAG = "run:2"
MIB = 1 << 20
Harm = Callable[[Rewriting, str], None]
HARMS: dict[str, Harm] = {
    "flipped": lambda remote, key: remote.flip(key, len(remote.body(key)) // 2),
    "cut short": lambda remote, key: os.truncate(remote.root / key, len(remote.body(key)) // 2),
    "removed": lambda remote, key: (remote.root / key).unlink(),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pushed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def remote(template: Path, tmp_path: Path) -> Rewriting:
    shutil.copytree(template, tmp_path / "remote")
    return Rewriting(tmp_path / "remote")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[casstore.Store]:
    with casstore.Store(tmp_path / "store") as opened:
        yield opened


def own_pack(remote: Rewriting) -> str:
    (key,) = {*remote.packs(TAG)} - {*remote.packs("run:1")}
    return key


KINDS: dict[str, Callable[[Rewriting], str]] = {
    "ref": lambda remote: remote.ref_key(TAG),
    "segment": lambda remote: str(remote.ref(TAG)["segment"]),
    "pack": own_pack,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_version_needs(store: casstore.Store, remote: Rewriting, kind: str, harm: str) -> None:
    store.add_remote("origin", str(remote.root))
    there = store.remote("origin")
    key = KINDS[kind](remote)
    HARMS[harm](remote, key)
    if (kind, harm) == ("ref", "removed"):
        with pytest.raises(casstore.TagNotFound):
            there.pull(TAG)
        there.gc()  # how its push ended still says what is to stand there
        assert contents(there.pull(TAG)[0].model) == step(2)
        return
    report = there.verify(deep=True)
    assert report.tags == (TAG,)
    assert len(report.damage) == 1
    assert key in report.damage[0]
    assert there.verify().ok == ((kind, harm) == ("pack", "flipped"))
    with pytest.raises(casstore.CasstoreError, match=key) as caught:
        there.pull(TAG)
    assert isinstance(caught.value, casstore.IntegrityError | casstore.RemoteError)
    assert store.tags() == []
    assert contents(there.pull("run:3")[0].model) == step(3)
    # As the error says:
    there.delete(TAG)
    with casstore.Store(remote.root.parent / "again") as other:
        with other.create(TAG) as draft:
            plant(draft.path, step(2))
        other.add_remote("origin", str(remote.root))
        assert other.remote("origin").push(TAG)[0].is_new
    assert contents(there.pull(TAG)[0].model) == step(2)
    assert there.verify(deep=True).ok


@pytest.mark.parametrize("harm", HARMS)
def test_a_marker_without_which_there_is_no_remote(store: casstore.Store, remote: Rewriting, harm: str) -> None:
    store.add_remote("origin", str(remote.root))
    HARMS[harm](remote, "casremote")
    with pytest.raises((casstore.IntegrityError, casstore.RemoteNotFound), match=r"casremote|no remote"):
        store.remote("origin").verify()


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["open", "end"])
def test_records_of_pushes_that_have_ended(store: casstore.Store, remote: Rewriting, name: str, harm: str) -> None:
    """Nobody who pulls needs them. gc goes on without them, or removes nothing."""
    store.add_remote("origin", str(remote.root))
    key = f"pushes/{remote.ref(TAG)['push']}/{name}"
    HARMS[harm](remote, key)
    assert store.remote("origin").verify(deep=True).ok
    assert contents(store.remote("origin").pull(TAG)[0].model) == step(2)
    before = remote.keys("packs/")
    try:
        store.remote("origin").gc()
    except casstore.IntegrityError as error:
        assert key in str(error)
    assert remote.keys("packs/") == before
    assert store.remote("origin").verify(deep=True).ok


def merged(root: Path) -> tuple[Rewriting, dict[str, dict[str, bytes]]]:
    """A remote whose version run:4 came from a store that did not see the others: what it needs stands there twice.

    run:2 is a delta against run:1, and run:4 is whole.
    """
    files = {"run:1": step(1), "run:2": step(2), "run:4": {**step(2), "more": noise(5000, 9)}}
    for place, tags in (("one", ["run:1", "run:2"]), ("two", ["run:4"])):
        with casstore.Store(root / f"store-{place}") as store:
            store.add_remote("origin", str(root / place))
            for tag in tags:
                with store.create(tag) as draft:
                    plant(draft.path, files[tag])
                store.remote("origin").push(tag)
    for name in ("refs", "segments", "packs", "pushes"):
        shutil.copytree(root / "two" / name, root / "one" / name, dirs_exist_ok=True)
    return Rewriting(root / "one"), files


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, bytes]]]:
    remote, files = merged(tmp_path_factory.mktemp("twice"))
    return remote.root, files


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("whose", ["run:1", "run:2", "run:4"])
def test_a_pull_goes_round_a_pack(
    store: casstore.Store, tmp_path: Path, twice: tuple[Path, dict[str, dict[str, bytes]]], whose: str, harm: str
) -> None:
    """run:2 can be pulled while either what it is made of, or all of run:4, is sound."""
    remote, files = Rewriting(tmp_path / "remote"), twice[1]
    shutil.copytree(twice[0], remote.root)
    others = {key for tag in files.keys() - {whose} for key in remote.packs(tag)}
    keys = remote.packs("run:1") if whose == "run:1" else sorted({*remote.packs(whose)} - others)
    store.add_remote("origin", str(remote.root))
    for key in keys:
        HARMS[harm](remote, key)
    if whose == "run:1":
        remote.flip(remote.ref_key(whose), 10)
    assert contents(store.remote("origin").pull("run:2")[0].model) == files["run:2"]
    assert store.verify().is_sound
    assert not store.remote("origin").verify(deep=True).ok


def test_a_record_that_is_damaged_is_read_elsewhere_and_the_rest_where_it_was(
    store: casstore.Store, tmp_path: Path, twice: tuple[Path, dict[str, dict[str, bytes]]]
) -> None:
    remote, files = Rewriting(tmp_path / "remote"), twice[1]
    shutil.copytree(twice[0], remote.root)
    store.add_remote("origin", str(remote.root))
    (key,) = {*remote.packs("run:2")} - {*remote.packs("run:1")}
    for entry, _ in remote.records(key):
        remote.flip(key, entry.offset + entry.length - 1)
    for entry, _ in remote.records(remote.packs("run:4")[0]):
        if entry.raw_bytes == 3000:  # one of each, so that neither version is whole where it is
            remote.flip(remote.packs("run:4")[0], entry.offset + entry.length - 1)
            with pytest.raises(casstore.IntegrityError, match=r"packs/.*run:2 needs it; delete it there"):
                store.remote("origin").pull("run:2")
            remote.flip(key, next(e.offset + e.length - 1 for e, _ in remote.records(key) if e.digest == entry.digest))
    assert contents(store.remote("origin").pull("run:2")[0].model) == files["run:2"]


def test_what_the_store_has_need_not_be_sound_there(store: casstore.Store, remote: Rewriting) -> None:
    store.add_remote("origin", str(remote.root))
    with store.create("mine:1") as draft:
        plant(draft.path, {**step(1), "w": step(2)["w.safetensors"], "o": step(2)["own.bin"]})
    remote.remove("packs")
    pulled = store.remote("origin").pull("run:1")[0]
    assert (contents(pulled.model), pulled.received_bytes) == (step(1), 0)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Rewriting:
    """A remote with a version of one file of 12 MiB."""
    root = tmp_path_factory.mktemp("big")
    with casstore.Store(root / "origin") as origin:
        with origin.create("big:1") as draft:
            plant(draft.path, {"w.bin": noise(12 * MIB)})
        origin.add_remote("origin", str(root / "remote"))
        origin.remote("origin").push("big:1")
    return Rewriting(root / "remote")


class Counted:
    """Counts the bytes of packs that are asked for, and breaks off where it is told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.received = 0
        self.left: int | None = None
        self.error: type[BaseException] = casstore.RemoteError
        real = DirectoryBackend.get_range

        def get_range(backend: DirectoryBackend, key: str, start: int, length: int) -> bytes:
            if key.startswith("packs/"):
                if self.left is not None and self.left <= 0:
                    raise self.error("the line was cut")
                self.left = None if self.left is None else self.left - 1
            data = real(backend, key, start, length)
            self.received += len(data) * key.startswith("packs/")
            return data

        patch.setattr(DirectoryBackend, "get_range", get_range)


@pytest.mark.parametrize("error", [casstore.RemoteError, KeyboardInterrupt, MemoryError])
def test_what_has_come_is_not_asked_for_again(
    store: casstore.Store, big: Rewriting, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(records, "_RUN_BYTES", MIB)
    monkeypatch.setattr(records, "_AT_ONCE", 2)
    counted = Counted(monkeypatch)
    counted.left, counted.error = 8, error
    store.add_remote("origin", str(big.root))
    with pytest.raises(error):
        store.remote("origin").pull("big:1")
    assert store.tags() == []
    first = counted.received
    assert first > 5 * MIB
    counted.left = None
    pulled = store.remote("origin").pull("big:1")[0]
    assert pulled.received_bytes == counted.received - first
    # What was on its way when the line was cut comes again: two runs.
    assert counted.received < 12 * MIB + 3 * MIB
    assert contents(pulled.model) == {"w.bin": noise(12 * MIB)}
    assert store.verify().is_sound


def test_what_came_before_a_damaged_record_is_kept(
    store: casstore.Store, big: Rewriting, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, key = big.packs("big:1")
    last, _ = big.records(key)[-1]
    big.flip(key, last.offset + last.length - 1)
    store.add_remote("origin", str(big.root))
    with pytest.raises(casstore.IntegrityError, match=f"{key}.*at byte {last.offset:,}: .*{last.digest}"):
        store.remote("origin").pull("big:1")
    big.flip(key, last.offset + last.length - 1)
    pulled = store.remote("origin").pull("big:1")[0]
    assert pulled.received_bytes == last.length
    assert contents(pulled.model) == {"w.bin": noise(12 * MIB)}


FULL = """
import errno, os, pathlib, subprocess, sys
import casstore
from tests.kit import noise
mount = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", mount], check=True)
store = casstore.Store(mount / "store")
store.add_remote("origin", sys.argv[2])
ballast = mount / "ballast"
failures = 0
for megabytes in (1, 4, 4):
    room = os.statvfs(mount)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - (megabytes << 20))))
    try:
        store.remote("origin").pull("big:1", materialize=False)
    except OSError as error:
        assert error.errno == errno.ENOSPC, repr(error)
        assert "space" in str(error).lower(), error
        failures += 1
    assert store.tags() == [], store.tags()
    ballast.unlink()
    assert store.verify().is_sound
pulled = store.remote("origin").pull("big:1", materialize=False)[0]
assert pulled.model.open("w.bin").read() == noise(12 << 20)
assert os.listdir(mount / "store/quarantine") == []
print(failures, pulled.received_bytes)
"""


def test_a_disk_that_is_full_while_a_version_is_pulled(tmp_path: Path, big: Rewriting) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    (tmp_path / "mount").mkdir()
    before = ["unshare", "-m", "--propagation", "private"]
    root = Path(__file__).parents[2]
    result = script(FULL, tmp_path / "mount", big.root, before=before, env={**os.environ, "PYTHONPATH": str(root)})
    if "mount" in result.stderr and "denied" in result.stderr:
        pytest.skip("may not mount a file system")
    assert result.returncode == 0, result.stderr
    failures, received = map(int, result.stdout.split())
    assert failures == 3
    assert received < 9 * MIB, "what had come by then was kept"


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_not_given_up_for_what_is_damaged_there(
    store: casstore.Store, remote: Rewriting, kind: str, harm: str
) -> None:
    """Also where this store has kept what a ref and a segment said when they were sound."""
    store.add_remote("origin", str(remote.root))
    store.remote("origin").pull([TAG, "run:3"])
    HARMS[harm](remote, KINDS[kind](remote))
    if (kind, harm) == ("pack", "flipped"):
        return  # that takes reading it: `casstore remote verify --deep`
    with pytest.raises(casstore.CasstoreError):
        store.evict(TAG)
    assert contents(store.get(TAG)) == step(2)


def test_bytes_are_not_given_up_for_another_version_there(store: casstore.Store, remote: Rewriting) -> None:
    store.add_remote("origin", str(remote.root))
    for tag, number, labels in (("run:2", 2, {"a": "b"}), ("run:1", 7, {}), ("run:9", 9, {})):
        with store.create(tag, labels=labels) as draft:
            plant(draft.path, step(number))
    for tag in ("run:2", "run:1"):
        with pytest.raises(casstore.IntegrityError, match=f"{tag} in .* is another than here .* nothing was given up"):
            store.evict(tag)
        assert store.get(tag).files


@pytest.mark.parametrize("harm", ["header", *HARMS])
def test_damage_is_not_packed_anew(
    store: casstore.Store, remote: Rewriting, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Copied, it would get a digest that fits: a pack is read whole before. What there was stays."""
    monkeypatch.setattr(repacking, "MOSTLY_DEAD", 0)
    store.add_remote("origin", str(remote.root))
    key, before = own_pack(remote), remote.keys("packs/") + remote.keys("refs/")
    harms = {**HARMS, "header": lambda remote, key: remote.flip(key, 16)}
    harms[harm](remote, key)
    with pytest.raises(casstore.CasstoreError, match=f"{key}|run it again"):
        store.remote("origin").repack()
    assert [each for each in remote.keys("refs/") if each not in before] == []
    assert {*before} - {key} <= {*remote.keys()}
    with pytest.raises(casstore.CasstoreError, match="packs/"):
        store.remote("origin").pull(TAG)
    assert contents(store.remote("origin").pull("run:3")[0].model) == step(3)
