"""What repair makes of odd sources and odd stores: hostile packs, links, copied stores, and files that read short."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import msgpack
import pytest
import zstandard

import casstore
from casstore.storage import pack
from tests.kit import Save, checkpoint, contents, noise, part, plant, streamed


def overwrite(path, offset, data):
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        file.write(data)


def packs(home):
    return sorted((home / "objects/packs").iterdir())


def records(home):
    """(path, entry) of every record of the store's packs."""
    return [(path, entry) for path in packs(home) for entry in pack.read_entries(path)]


def named(damage):
    return [(each.tag, each.path) for each in damage]


def altered(path):
    """Put other bytes in a file of a version's directory."""
    path.chmod(0o644)
    path.write_bytes(b"altered")


@pytest.fixture
def whole(store: casstore.Store):
    """whole(expected): every version reads right, chunks and directory, and neither verify nor repair finds damage."""

    def check(expected):
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected
        assert {tag: contents(store.get(tag)) for tag in expected} == expected
        assert store.verify().is_sound
        assert store.verify(quick=True).is_sound
        again = store.repair()
        assert (again.healed, again.damage, again.restored, again.quarantined) == ((), (), (), ())

    return check


@pytest.fixture
def lost(store: casstore.Store, home: Path, save: Save):
    """A store of which one chunk is damaged: the only one of w.bin of m:1."""
    save("m:1", {"w.bin": noise(300_000)}, materialize=False)
    ((path, entry),) = records(home)
    overwrite(path, entry.offset + entry.length - 10, b"damaged")
    return entry.digest


@pytest.mark.parametrize("is_repaired_first", [False, True])
def test_a_delta_whose_base_comes_from_a_later_source(
    store: casstore.Store, home: Path, save: Save, whole, tmp_path: Path, is_repaired_first
) -> None:
    """A repair that has nothing to heal from takes nothing from the next that has."""
    save("m:0", checkpoint(0, size=150_000), materialize=False)
    save("m:1", checkpoint(1, size=150_000), materialize=False)
    store.delete("m:0")
    store.gc()
    bases = {entry.base for _, entry in records(home)} - {None}
    assert bases
    for path, entry in records(home):
        if entry.digest in bases:
            overwrite(path, entry.offset + entry.length - 10, b"damaged")
    if is_repaired_first:
        assert named(store.repair().damage) == [("m:1", "model.safetensors")]
    report = store.repair([plant(tmp_path / "backup", checkpoint(0, size=150_000))])
    assert named(report.healed) == [("m:1", "model.safetensors")]
    assert report.damage == ()
    whole({"m:1": checkpoint(1, size=150_000)})


def test_deltas_that_need_each_other_take_bounded_work(
    store: casstore.Store, lost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack with eight records for each link of a chain has 8**8 chains, and none of them leads to bytes."""
    writer = pack.PackWriter(tmp_path / "hostile.pack")
    chain = [lost, *(casstore.Digest.of(bytes([number])) for number in range(8))]
    for digest, base in itertools.pairwise(chain):
        for _ in range(8):
            writer.add(pack.EncodedChunk(digest, 16, 3, b"x" * 8, base, base))
    writer.add(pack.EncodedChunk(chain[-1], 16, 0, b"y" * 16))
    writer.finish(0o644, durable=False)
    reads = []
    real = pack.read_record

    def count(*arguments):
        reads.append(arguments)
        assert len(reads) < 10_000
        return real(*arguments)

    monkeypatch.setattr(pack, "read_record", count)
    assert named(store.repair([tmp_path / "hostile.pack"]).damage) == [("m:1", "w.bin")]
    assert reads


@pytest.mark.parametrize("row", [[b"d" * 32, 16, 64, 16, 0, None, None], None, [], {}, "ab", [[]] * 7, [[]] * 15])
def test_an_index_that_says_more_than_its_pack_can_hold_is_not_unpacked(
    store: casstore.Store, lost, tmp_path: Path, row
) -> None:
    """Some kilobytes that would take hundreds of megabytes of memory."""
    packed = msgpack.packb(row)
    rows = (32 << 20) // len(packed)
    index = zstandard.compress(b"\xdd" + rows.to_bytes(4, "big") + packed * rows)
    body = pack._HEADER.pack(b"casspack", 1, 0, 1) + bytes(100)
    trailer = pack._TRAILER.pack(len(body), len(index), casstore.Digest.of(index), b"packtail")
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "a.pack").write_bytes(body + index + trailer)
    (backup / "b").write_bytes(noise(300_000))
    tracemalloc.start()
    try:
        assert named(store.repair([backup]).healed) == [("m:1", "w.bin")]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("item", [[], {}, "ab", 1 << 20])
def test_an_index_of_a_large_pack_is_of_bounded_memory(store: casstore.Store, lost, tmp_path: Path, item) -> None:
    """Thousands of rows, all of things that take many times their bytes in memory."""
    index = zstandard.compress(msgpack.packb([[item] * 240] * 3_000))
    body = pack._HEADER.pack(b"casspack", 1, 0, 1) + bytes(1 << 20)
    trailer = pack._TRAILER.pack(len(body), len(index), casstore.Digest.of(index), b"packtail")
    (tmp_path / "a.pack").write_bytes(body + index + trailer)
    tracemalloc.start()
    try:
        assert store.repair([tmp_path / "a.pack"]).damage
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def short_file():
    """A file that has fewer bytes than stat says, as those of sysfs have."""
    for path in Path("/sys/kernel/mm").rglob("*"):
        try:
            if path.is_file() and len(path.read_bytes()) < path.stat().st_size:
                return path
        except OSError:
            continue
    pytest.skip("no file here reads short")


def test_a_source_that_reads_short_is_passed_over(store: casstore.Store, lost, whole, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "a").symlink_to(short_file())
    assert named(store.repair([backup]).damage) == [("m:1", "w.bin")]
    (backup / "b").write_bytes(noise(300_000))
    assert named(store.repair([backup]).healed) == [("m:1", "w.bin")]
    whole({"m:1": {"w.bin": noise(300_000)}})


def test_the_store_itself_is_a_source_and_stays_open(
    store: casstore.Store, home: Path, lost, whole, save: Save
) -> None:
    """Its catalog is not read as a file: closing that would drop the locks that SQLite holds on it."""
    (home / "quarantine/kept").write_bytes(noise(300_000))
    assert named(store.repair([home]).healed) == [("m:1", "w.bin")]
    save("m:2", part(7))
    whole({"m:1": {"w.bin": noise(300_000)}, "m:2": part(7)})


@pytest.mark.parametrize("is_deep", [False, True])
def test_what_a_linked_directory_leads_to_is_not_touched(
    store: casstore.Store, home: Path, save: Save, whole, tmp_path: Path, is_deep
) -> None:
    name = "sub/deep/er/f" if is_deep else "sub/f"
    save("m:1", {name: b"hello", "other": b"other"})
    outside = tmp_path / "outside"
    (outside / name).parent.mkdir(parents=True)
    (outside / name).write_bytes(b"the only copy")
    root = Path(store.get("m:1").path)
    shutil.rmtree(root / "sub")
    (root / "sub").symlink_to(outside / "sub")
    report = store.repair()
    assert report.restored == ("m:1",)
    (link,) = report.quarantined
    assert os.readlink(link) == str(outside / "sub")
    assert (outside / name).read_bytes() == b"the only copy"
    whole({"m:1": {name: b"hello", "other": b"other"}})


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 125, "d/" + "x" * 255])
def test_a_damaged_file_of_a_long_name_goes_to_quarantine(store: casstore.Store, save: Save, whole, name) -> None:
    save("model:1", {name: b"hello"})
    altered(Path(store.get("model:1").path) / name)
    report = store.repair()
    assert report.restored == ("model:1",)
    assert [Path(path).read_bytes() for path in report.quarantined] == [b"altered"]
    whole({"model:1": {name: b"hello"}})


def test_models_on_another_file_system(store: casstore.Store, home: Path, save: Save, whole, elsewhere: Path) -> None:
    """What is moved to quarantine from there is copied."""
    (home / "models").rmdir()
    (home / "models").symlink_to(elsewhere)
    save("m:1", part(1))
    root = Path(store.get("m:1").path)
    altered(root / "1.bin")
    report = store.repair()
    assert [Path(path).read_bytes() for path in report.quarantined] == [b"altered"]
    whole({"m:1": part(1)})
    root.rename(root.with_name("moved"))
    shutil.copytree(root.with_name("moved"), root)
    shutil.rmtree(root.with_name("moved"))
    report = store.repair()
    assert (report.quarantined, report.restored) == ((), ())
    whole({"m:1": part(1)})
    store.close()


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_a_copied_store(store: casstore.Store, home: Path, save: Save, tmp_path: Path, is_rebuilt) -> None:
    """Every inode is another; repair and a rebuilding find nothing damaged, and move nothing to quarantine."""
    expected = {"m:1": {**part(1), "w.bin": noise(2_500_000)}, "n:1": {"small": b"small"}}
    for tag, files in expected.items():
        save(tag, files)
    store.close()
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", home, copy], check=True)
    if is_rebuilt:
        casstore.Store.rebuild_catalog(copy)
    with casstore.Store(copy) as other:
        if not is_rebuilt:
            report = other.repair()
            assert (report.damage, report.restored, report.quarantined) == ((), (), ())
        assert {tag: contents(other.get(tag)) for tag in expected} == expected
        assert other.verify().is_sound
        again = other.repair()
        assert (again.damage, again.restored, again.quarantined) == ((), (), ())
        other.gc()
        assert {tag: contents(other.get(tag)) for tag in expected} == expected


def grow(path):
    overwrite(path, path.stat().st_size, b"x")


def cut_index(path):
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 60)


def cut_trailer(path):
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


def spoil_index(path):
    overwrite(path, -70, b"spoiled")


@pytest.mark.parametrize("harm", [grow, cut_index, cut_trailer, spoil_index])
def test_a_pack_whose_chunks_are_all_sound_is_written_anew(
    store: casstore.Store, home: Path, save: Save, whole, harm
) -> None:
    """Nothing is lost, but a rebuilding needs what is damaged: verify says it, and repair ends it."""
    save("m:1", part(1, 2, 3), materialize=False)
    (path,) = packs(home)
    harm(path)
    report = store.verify()
    assert (report.damage, report.is_sound) == ((), False)
    assert report.damaged_copies == (str(path),)
    assert streamed(store.get("m:1")) == part(1, 2, 3)
    repaired = store.repair()
    assert (repaired.healed, repaired.damage) == ((), ())
    assert repaired.quarantined == (str(home / "quarantine" / path.name),)
    whole({"m:1": part(1, 2, 3)})


def test_a_loose_file_that_has_grown(store: casstore.Store, home: Path, save: Save, whole) -> None:
    save("m:1", {"w.bin": noise(2_500_000)})
    (path,) = (path for path in (home / "objects/loose").rglob("*") if path.is_file())
    grow(path)
    for quick in (False, True):
        assert not store.verify(quick=quick).is_sound
    assert store.repair().damage == ()
    whole({"m:1": {"w.bin": noise(2_500_000)}})
