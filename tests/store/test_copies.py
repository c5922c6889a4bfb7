"""A store that was copied, restored, unpacked or put into an image: other inodes, other times, the same store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import apsw
import pytest
import zstandard

import casstore
from casstore.actions.saving import delete as delete_action
from casstore.storage import files as storage_files
from casstore.storage import machine
from tests.kit import Age, Child, Save, Sql, bento, contents, everything, noise, plant

pytestmark = pytest.mark.crash

GOLDEN = Path(__file__).parents[1] / "data/store-format-2.tar.zst"
BIG = 1_100_000  # above which a file is adopted as it is
WHEN_NS = 1_700_000_000_123_456_789


@pytest.fixture
def expected():
    """By tag: a version that stands, one that gc has packed, one that is pinned, and one that was not synced."""
    return {
        "packed:1": {"w.bin": noise(BIG, 1), "mid": noise(100_000, 9)},
        "m:1": {"w.bin": noise(BIG, 2), "mid": noise(100_000, 9), "sub/small": b"1"},
        "m:2": {"w.bin": noise(BIG, 3), "mid": noise(100_000, 9), "sub/small": b"2", "empty": b""},
        "relaxed:1": {"w.bin": noise(BIG, 4), "few": b"few"},
    }


@pytest.fixture
def original(home: Path, store: casstore.Store, save: Save, expected, age: Age):
    """A store with these versions, closed. The files of all are of one size and one time."""

    def saved(tag):
        with store.create(tag, durability="relaxed" if tag == "relaxed:1" else "full") as draft:
            for name, content in expected[tag].items():
                path = Path(draft.path, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=(WHEN_NS, WHEN_NS))
            Path(draft.path, "hollow").mkdir()

    saved("packed:1")
    store.gc(evict_all=True)
    for tag in list(expected)[1:]:
        saved(tag)
    store.pin("m:1")
    store.close()
    return home


def with_cp_a(home, copy):
    subprocess.run(["cp", "-a", home, copy], check=True)


def with_cp_r(home, copy):
    """New times, and no hardlinks."""
    subprocess.run(["cp", "-r", home, copy], check=True)


def with_tar(home, copy):
    archive = copy.with_name("backup.tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(home, ".")
    extract(archive, copy)


def extract(archive, target):
    with tarfile.open(archive) as tar:
        options: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, **options)


def with_rsync(home, copy):
    """As rsync -a: times, but no hardlinks."""
    shutil.copytree(home, copy)


def with_zip(home, copy):
    """Times are cut to two seconds, and every mode is the umask's."""
    archive = shutil.make_archive(str(copy), "zip", home)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(copy)
    for path in copy.rglob("*"):
        os.utime(path, ns=(WHEN_NS // 2_000_000_000 * 2_000_000_000,) * 2)


def in_place(home, copy):
    """Put back where it was: file systems give the inode numbers of what was removed to what is made next."""
    with_tar(home, copy)
    shutil.rmtree(home)
    copy.rename(home)
    copy.symlink_to(home)


COPIES = [with_cp_a, with_cp_r, with_tar, with_rsync, with_zip]


@pytest.fixture(params=[with_cp_a, with_zip, in_place], ids=lambda each: each.__name__)
def copy(request: pytest.FixtureRequest, original, tmp_path: Path):
    request.param(original, tmp_path / "copy")
    return tmp_path / "copy"


def blocks(home):
    seen = {}
    for directory, _, names in os.walk(home):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            seen[status.st_ino] = status.st_blocks
    return sum(seen.values())


def instance(home):
    return (home / "instance").read_text()


def begin_with_path(store):
    for model in store.list():
        assert Path(model.path).is_dir()


def begin_with_verify(store):
    for quick in (True, False):
        report = store.verify(quick=quick)
        assert (report.damage, report.damaged_copies, report.reasons) == ((), (), ())
        assert (report.unknown_directories, report.missing_directories) == ((), ())


def begin_with_sync_tree(store):
    report = store.sync_tree(prune=True)
    assert [report.adopted, report.refused, report.missing, report.deleted, report.notes] == [()] * 5


def begin_with_repair(store):
    report = store.repair()
    assert (report.damage, report.restored, report.quarantined, report.healed_chunks) == ((), (), (), 0)


def begin_with_gc(store):
    report = store.gc(evict_all=True)
    assert report.altered == ()
    assert {step.name: step.count for step in report.steps}["idle directories"] == 2
    assert not (store.home / "models/m/2").exists()


def begin_with_saving(store):
    """Each version's directory, under another tag."""
    for model in store.list():
        standing = store.home / "models" / model.tag.name / model.tag.version
        again = f"again:{model.tag.name}-{model.tag.version}"
        if standing.exists() and model.tag.name != "again" and again not in store.tags():
            store.save(again, standing)


def begin_with_delete(store):
    for tag in ("m:2", "packed:1"):
        store.delete(tag)
    store.gc()
    assert not (store.home / "models/m/2").exists()


BEGINNINGS = [
    *(begin_with_path, begin_with_verify, begin_with_sync_tree, begin_with_repair, begin_with_gc, begin_with_saving),
    begin_with_delete,
]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("how", "begin"),
    [
        *((how, begin) for how in (with_cp_a, with_zip) for begin in BEGINNINGS),
        *((how, begin) for how in COPIES[1:4] for begin in (begin_with_path, begin_with_gc)),
        *((in_place, begin) for begin in (begin_with_verify, begin_with_saving)),
    ],
)
def test_a_copy_just_works(original, tmp_path: Path, expected, how, begin) -> None:
    """Whatever comes first; no directory is in the way, nothing goes to quarantine, and the disk is not filled."""
    copy = tmp_path / "copy"
    how(original, copy)
    before = blocks(copy)
    with casstore.Store(copy) as store:
        begin(store)
        for tag, files in expected.items():
            if tag in store.tags():
                assert contents(store.get(tag)) == files
                assert Path(store.get(tag).path, "hollow").is_dir()
        for tag in store.tags():
            if tag.startswith("again:"):
                name, _, version = tag.removeprefix("again:").partition("-")
                assert contents(store.get(tag)) == expected[f"{name}:{version}"]
        begin_with_verify(store)
        begin_with_sync_tree(store)
        assert list((copy / "quarantine").iterdir()) == []
        if begin is not begin_with_gc:  # which packs what is then made again
            made = blocks(copy / "models/packed") if (copy / "models/packed").exists() else 0
            assert blocks(copy) <= before * 1.05 + made + 300
        if "m:1" in store.tags():
            assert store.get("m:1").is_pinned
            assert os.stat(store.get("m:1").path + "/w.bin").st_nlink >= 2


def test_a_directory_is_compared_once(copy, monkeypatch: pytest.MonkeyPatch) -> None:
    with casstore.Store(copy) as store:
        begin_with_path(store)

        def read(*_):
            pytest.fail("a directory was read again")

        monkeypatch.setattr("casstore.actions.directories.standing.hash_file", read)
        monkeypatch.setattr("casstore.actions.workspace.hash_file", read)
        begin_with_path(store)
        store.verify(quick=True)
        store.save("again:1", store.get("m:1").path)


def test_a_copy_is_an_instance_of_its_own_and_the_original_stays_one(copy, original) -> None:
    was = instance(copy)
    casstore.Store(copy).close()
    now = instance(copy)
    assert now != was
    casstore.Store(copy).close()
    assert instance(copy) == now, "once"
    if not copy.is_symlink():
        casstore.Store(original).close()
        assert instance(original) == was


def test_a_store_that_is_moved_stays_the_same(original, tmp_path: Path) -> None:
    was = instance(original)
    original.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    for home in (tmp_path / "moved", tmp_path / "link"):
        casstore.Store(home).close()
        assert instance(home) == was


@pytest.mark.parametrize("sign", ["gone", "another id", "written again", "other device", "other device, later boot"])
def test_what_tells_a_copy(original, sql: Sql, monkeypatch: pytest.MonkeyPatch, sign) -> None:
    was, path = instance(original), original / "instance"
    known = sql("SELECT count(*) FROM fingerprint")[0][0]
    assert known
    if sign == "gone":
        path.unlink()
    elif sign in ("another id", "written again"):
        path.unlink()
        path.write_text("0" * 16 if sign == "another id" else was)
    else:
        sql("UPDATE store SET value = json_replace(value, '$[1]', 12345) WHERE key = 'instance'")
        if "later" in sign:
            monkeypatch.setattr(machine, "boot_id", lambda: "the boot after")
    casstore.Store(original).close()
    is_same = sign == "other device, later boot"
    assert (instance(original) == was) == is_same
    assert (sql("SELECT count(*) FROM fingerprint")[0][0] == known) == is_same
    assert (sql("SELECT count(*) FROM directory WHERE boot_id = 'inherited'")[0][0] == 0) == is_same
    assert path.stat().st_dev == sql("SELECT json_extract(value, '$[1]') FROM store WHERE key = 'instance'")[0][0]


@pytest.mark.parametrize("killed_at", ["before", "after"])
def test_killed_while_it_becomes_an_instance_of_its_own(original, tmp_path: Path, expected, killed_at) -> None:
    copy = tmp_path / "copy"
    with_cp_a(original, copy)
    real = storage_files.write_file

    def die(*arguments, **options):
        if killed_at == "after":
            real(*arguments, **options)
        os.kill(os.getpid(), 9)

    def open_it():
        storage_files.write_file = die
        casstore.Store(copy)

    assert Child(open_it).wait() == -9
    with casstore.Store(copy) as store:
        begin_with_saving(store)
        assert {tag: contents(store.get(tag)) for tag in expected} == expected
        begin_with_verify(store)
    now = instance(copy)
    casstore.Store(copy).close()
    assert instance(copy) == now


def test_processes_that_open_a_copy_at_once(original, tmp_path: Path, expected) -> None:
    copy = tmp_path / "copy"
    with_cp_a(original, copy)
    ready, go = os.pipe()

    def open_it():
        os.close(go)
        os.read(ready, 1)
        with casstore.Store(copy) as store:
            for tag in expected:
                assert Path(store.get(tag).path, "hollow").is_dir()

    children = [Child(open_it) for _ in range(4)]
    os.close(ready)
    os.close(go)
    assert [each.wait() for each in children] == [0] * 4
    now = instance(copy)
    with casstore.Store(copy) as store:
        begin_with_verify(store)
    assert instance(copy) == now


def deal_inodes_anew(home):
    """Give every file of the versions m the inode number that another's had, with its times: all that stat says of one
    but its change time is what it had said of the other."""
    paths = {}
    for directory, _, names in os.walk(home):
        for name in names:
            path = Path(directory, name)
            if path.stat().st_size == BIG and path.is_relative_to(home / "objects/loose"):
                paths[path.stat().st_ino] = [path]
    for path in home.glob("models/*/*/*"):
        if path.stat().st_ino in paths:
            paths[path.stat().st_ino].append(path)
    assert len(paths) == 3
    groups = list(paths.values())
    contents = [group[0].read_bytes() for group in groups]
    stamps = [group[0].stat() for group in groups]
    assert {stamp.st_mtime_ns for stamp in stamps} == {WHEN_NS}
    for group in groups:
        for path in group:
            path.rename(f"{path}.moved")
    for number, group in enumerate(groups):
        before = groups[number - 1]
        source = Path(f"{before[0]}.moved")  # this inode gets the bytes of the group, under its paths
        source.chmod(0o644)
        source.write_bytes(contents[number])
        source.chmod(0o444)
        os.utime(source, ns=(WHEN_NS, WHEN_NS))
        for path in group:
            os.link(source, path)
    for group in groups:
        for path in group:
            os.unlink(f"{path}.moved")
        os.utime(group[0], ns=(WHEN_NS, WHEN_NS))
    for path in home.glob("models/*/*"):
        os.utime(path)


@pytest.mark.parametrize(
    ("begin", "is_whole"),
    [*((each, True) for each in BEGINNINGS), (begin_with_saving, False), (begin_with_path, False)],
)
def test_inode_numbers_dealt_anew_to_other_files(original, expected, begin, is_whole) -> None:
    """Equal sizes, equal times, another file's number: never another version's bytes. Also where only objects/ and
    models/ were put back, so that the catalog sees no sign of it."""
    deal_inodes_anew(original)
    if is_whole:
        data = (original / "instance").read_bytes()
        (original / "instance").unlink()
        (original / "instance").write_bytes(data)
    with casstore.Store(original) as store:
        begin(store)
        begin_with_saving(store)
        for tag in store.tags():
            name, _, version = tag.removeprefix("again:").partition("-") if "again" in tag else tag.partition(":")
            assert contents(store.get(tag)) == expected[f"{name}:{version}"]
        begin_with_verify(store)


def test_what_was_altered_in_a_copy_is_mended_and_kept(original, tmp_path: Path, expected) -> None:
    """Nothing is destroyed: what has other bytes, and what somebody has added, goes to quarantine."""
    copy = tmp_path / "copy"
    with_cp_r(original, copy)
    directory = copy / "models/m/2"
    for name, content in (("w.bin", b"!" * BIG), ("sub/small", b"!"), ("model.yaml", b"name: other")):
        (directory / name).unlink()
        (directory / name).write_bytes(content)
    (directory / "notes").write_bytes(b"mine")
    (directory / "mid").unlink()
    with casstore.Store(copy) as store:
        quick, full = store.verify(quick=True), store.verify()
        named = {str(directory / name) for name in ("w.bin", "sub/small", "model.yaml", "mid")}
        assert set(full.damaged_copies) == named
        assert set(quick.damaged_copies) == named - {str(directory / "w.bin")}
        assert full.damage == ()
        assert store.gc(evict_all=True).altered == (casstore.Tag("m", "2"),)
        path = Path(store.get("m:2").path)
        assert {name: (path / name).read_bytes() for name in expected["m:2"]} == expected["m:2"]
        assert not (path / "notes").exists()
        kept = {each.read_bytes() for each in (copy / "quarantine").rglob("*") if each.is_file()}
        assert kept == {b"!" * BIG, b"!", b"name: other", b"mine"}
        begin_with_verify(store)


def test_what_somebody_else_put_into_a_copy_is_still_in_the_way(original, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with_cp_r(original, copy)
    shutil.rmtree(copy / "models/m/2")
    directory = bento(copy / "models", "m:2", {"w.bin": b"another"})
    left = everything(directory)
    with casstore.Store(copy) as store:
        with pytest.raises(casstore.StoreError, match="in the way"):
            assert store.get("m:2").path
        for quick in (True, False):
            report = store.verify(quick=quick)
            assert (report.unknown_directories, report.is_sound) == ((str(directory),), True)
        store.gc(evict_all=True)
        assert everything(directory) == left
        assert len(store.sync_tree().refused) == 1
        assert everything(directory) == left
        (kept,) = store.repair().quarantined
        assert everything(Path(kept)) == left
        begin_with_verify(store)


def test_a_deletion_that_the_copy_caught_midway_takes_no_other_directory(original, tmp_path: Path) -> None:
    """The number that the deleted version's directory had may be anybody's here."""
    with casstore.Store(original) as store:

        def die(*_, **__):
            os.kill(os.getpid(), 9)

        def delete():
            pytest.MonkeyPatch().setattr(delete_action, "sweep", die)
            store.delete("m:2")

        assert Child(delete).wait() == -9
    copy = tmp_path / "copy"
    with_cp_a(original, copy)
    inode = (original / "models/m/2").stat().st_ino
    shutil.rmtree(copy / "models/m/2")
    plant(copy / "models/m/2", {"mine": b"mine"})
    connection = apsw.Connection(str(copy / "catalog.db"))
    assert connection.execute("SELECT inode FROM tombstone").fetchall() == [(inode,)]
    connection.execute("UPDATE tombstone SET inode = ?", ((copy / "models/m/2").stat().st_ino,))
    connection.close()
    with casstore.Store(copy) as store:
        store.gc()
        assert (copy / "models/m/2/mine").read_bytes() == b"mine"


def test_a_durable_save_in_a_copy_relies_on_nothing_unsynced(
    original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies were not synced by whoever made them: opening does it, once."""
    copy = tmp_path / "copy"
    with_cp_a(original, copy)
    synced = []
    real = storage_files.sync_file_system
    monkeypatch.setattr(storage_files, "sync_file_system", lambda path: synced.append(path) or real(path))
    casstore.Store(copy).close()
    casstore.Store(copy).close()
    casstore.Store(tmp_path / "new").close()
    assert synced == [copy]


@pytest.mark.parametrize("which", ["catalog.db", "catalog.db-wal"])
def test_a_copy_made_of_hardlinks_is_refused(original, tmp_path: Path, which) -> None:
    """Two paths of one database have a log each, and damage it."""
    copy = tmp_path / "copy"
    if which == "catalog.db-wal":
        (original / which).write_bytes(b"")
    subprocess.run(["cp", "-al", original, copy], check=True)
    if which == "catalog.db-wal":
        (copy / "catalog.db").unlink()
        shutil.copy(original / "catalog.db", copy)
    for home in (original, copy):
        with pytest.raises(casstore.StoreError, match=r"cp -al.*give this one a file of its own: ") as caught:
            casstore.Store(home)
    command = str(caught.value).partition("of its own: ")[2]
    subprocess.run(command, shell=True, check=True)
    for home in (copy, original):
        with casstore.Store(home) as store:
            assert len(store.list()) == 4
            begin_with_path(store)
            begin_with_verify(store)


def test_a_store_of_the_format_before(tmp_path: Path) -> None:
    """Nothing says whether it has been copied: it is taken for a copy."""
    archive = zstandard.ZstdDecompressor().decompressobj().decompress(GOLDEN.read_bytes())
    (tmp_path / "store.tar").write_bytes(archive)
    extract(tmp_path / "store.tar", tmp_path)
    home = tmp_path / "store"
    with casstore.Store(home, auto_gc=False) as store:
        begin_with_verify(store)
        begin_with_sync_tree(store)
        for model in store.list():
            standing = Path(model.path)
            for file in model.files:
                assert casstore.Digest.of((standing / file.path).read_bytes()) == file.digest
            store.save(f"again-{model.tag.name}:{model.tag.version}", standing)
        begin_with_verify(store)
        assert list((home / "quarantine").iterdir()) == []
        assert {str(each.digest) for each in store.list("bert")} == {
            str(each.digest) for each in store.list("again-bert")
        }


_OVERLAY = """
import pathlib, subprocess, sys
import casstore
lower, upper, work, merged = sys.argv[1:]
overlay = f"lowerdir={lower},upperdir={upper},workdir={work}"
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, merged], check=True)
try:
    for _ in range(2):
        with casstore.Store(pathlib.Path(merged, "store"), auto_gc=False) as store:
            for model in store.list():
                standing = pathlib.Path(model.path)
                for file in model.files:
                    assert casstore.Digest.of((standing / file.path).read_bytes()) == file.digest, file
            report = store.verify()
            assert report.is_sound and not report.unknown_directories and not report.missing_directories, report
            saved = store.save("again", store.get("m:1").path)
            assert saved.digest == store.get("m:1").digest
            assert not store.repair().quarantined
            store.gc(evict_all=True)
            assert store.verify().is_sound
finally:
    subprocess.run(["umount", "-l", merged], check=True)
"""

_READ_ONLY = """
import pathlib, subprocess, sys
import casstore
home, altered = map(pathlib.Path, sys.argv[1:])
subprocess.run(["mount", "--bind", home, home], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
try:
    with casstore.Store(home) as store:
        for model in store.list():
            tag = str(model.tag)
            if tag == "packed:1" or home == altered and tag == "m:2":
                try:
                    model.path
                except casstore.StoreUnwritable as error:
                    assert all(each in str(error) for each in ("only be read", "model.open()", "copy the store")), error
                else:
                    raise AssertionError(tag)
            else:
                standing = pathlib.Path(store.get(tag).path)
                for file in model.files:
                    assert casstore.Digest.of((standing / file.path).read_bytes()) == file.digest, file
            for file in model.files:
                with model.open(file.path) as reader:
                    assert casstore.Digest.of(reader.read()) == file.digest
        if home != altered:
            report = store.verify()
            assert report.is_sound and not report.unknown_directories and not report.missing_directories, report
finally:
    subprocess.run(["umount", "-l", home], check=True)
"""


def mounted(text, *arguments):
    """Run a script in a mount namespace of its own; skip where nothing can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts a file system")
    command = ["unshare", "-m", sys.executable, "-c", text, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode and ("unshare" in done.stderr or "'mount'" in done.stderr):
        pytest.skip(f"may not mount: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr


def test_an_overlay_over_an_image(original, tmp_path: Path) -> None:
    """As in a container: the image's layer below, what is written above."""
    image, *others = (tmp_path / name for name in ("image", "upper", "work", "merged"))
    for directory in (image, *others):
        directory.mkdir()
    with_cp_a(original, image / "store")
    mounted(_OVERLAY, image, *others)


@pytest.mark.parametrize("how", [with_cp_a, with_zip])
@pytest.mark.parametrize("is_altered", [False, True])
def test_a_place_that_can_only_be_read(original, tmp_path: Path, how, is_altered) -> None:
    """An image's layer, a read-only mount: what stands is served as it stands, what does not says what to do."""
    copy = tmp_path / "copy"
    how(original, copy)
    if is_altered:
        path = copy / "models/m/2/sub/small"
        path.unlink()
        path.write_bytes(b"!")
    mounted(_READ_ONLY, copy, copy if is_altered else "/")
