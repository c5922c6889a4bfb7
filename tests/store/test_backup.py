"""Backups: whole, of one moment, and no more than what is new; what may be written over, and what never."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.catalog.index import Fingerprint
from tests.crash.scenarios import leftovers as leftovers_of
from tests.crash.scenarios import sql as sql_of
from tests.kit import Child, Save, Sql, checkpoint, noise, part, plant

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_trash")]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def streamed(store: casstore.Store) -> dict[str, dict[str, bytes]]:
    """Every version's files, by tag."""
    found: dict[Any, Any] = {}
    for model in store.list():
        found[str(model.tag)] = {}
        for file in model.files:
            with model.open(file.path) as reader:
                found[str(model.tag)][file.path] = reader.read()
    return found


def check(target: Path, expected: dict[str, dict[str, bytes]]) -> None:
    """That a backup is sound, holds exactly these versions, and nothing besides. A copy of it is opened, since that
    makes a store of its own of it."""
    opened = target.with_name(f"{target.name}-opened")
    subprocess.run(["cp", "-a", "--", target, opened], check=True)
    with casstore.Store(opened, auto_gc=False) as store:
        report = store.verify()
        assert report.is_sound, report
        assert not report.missing_directories
        assert streamed(store) == expected
        assert {model.tag: Path(model.path, "model.yaml").is_file() for model in store.list()} == dict.fromkeys(
            (model.tag for model in store.list()), True
        )
        counts = {step.name: step.count for step in store.gc().steps}
        assert not counts["stray files"] + counts["unfinished work"] + counts["dead sessions"]
    shutil.rmtree(opened)
    assert not (target / "unfinished-backup").exists()
    assert not any((target / "sessions").iterdir())
    assert not any((target / "manifests/.pending").iterdir())
    assert leftovers_of(target) == []


def inodes(target: Path) -> dict[str, int]:
    return {
        str(path.relative_to(target)): path.stat().st_ino
        for part in ("objects", "manifests")
        for path in (target / part).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def filled(store: casstore.Store, save: Save):
    """A store with all kinds of containers: loose files, packs, deltas, and redundant copies."""
    save("a:1", {"big.bin": part(1)["1.bin"] * 5, "small": b"s", "dir/x": b"x"}, labels={"k": "v"}, metadata={"n": 1})
    for step in range(3):
        save(f"run:{step}", checkpoint(step), materialize=False)
    save("p:1", part(2, 3))
    return store


def test_a_backup_is_the_whole_store(filled, target, home: Path, sql: Sql) -> None:
    filled.pin("a:1")
    filled.set_setting("keep_days", "3")
    before = streamed(filled)
    report = filled.backup(target)
    assert report.versions == 5
    assert report.copied_bytes + report.linked_bytes == report.stored_bytes > 1_000_000
    assert not report.damaged
    check(target, before)
    assert sql_of(target, "SELECT name FROM version WHERE pinned") == [("a",)]
    assert sql_of(target, "SELECT value FROM setting WHERE key = 'keep_days'") == [("3",)]
    for table in ("directory", "fingerprint", "lease", "tombstone"):
        assert sql_of(target, f"SELECT count(*) FROM {table}") == [(0,)]
    with casstore.Store(target) as copy:
        assert copy.get("a:1").labels == {"k": "v"}
        assert copy.get("a:1").metadata == {"n": 1}
    assert sql("SELECT count(*) FROM version") == [(5,)]
    assert filled.verify().is_sound


def test_the_next_one_brings_what_is_new_and_drops_what_is_gone(filled, target, save: Save) -> None:
    filled.backup(target)
    before = inodes(target)
    again = filled.backup(target)
    assert (again.new_containers, again.copied_bytes, again.linked_bytes, again.removed) == (0, 0, 0, 0)
    assert inodes(target) == before
    save("p:2", part(2, 4))
    filled.delete("a:1")
    filled.gc()
    report = filled.backup(target)
    assert report.new_containers == 1
    assert report.removed >= 1
    assert report.removed_bytes > 1_000_000
    check(target, streamed(filled))
    kept = {name: inode for name, inode in inodes(target).items() if name in before}
    assert kept
    assert kept.items() <= before.items()


def test_packing_between_two_backups(filled, target) -> None:
    filled.backup(target)
    filled.gc(evict_all=True)
    before = streamed(filled)
    assert filled.backup(target).removed
    check(target, before)


def test_files_share_their_bytes_with_the_store_unless_copied(filled, target, home: Path) -> None:
    assert filled.backup(target).copied_bytes == 0
    ours = inodes(home)
    assert {
        name: inode for name, inode in inodes(target).items() if name.startswith("objects/")
    }.items() <= ours.items()
    other = target.with_name("other")
    report = filled.backup(other, copy=True)
    assert report.linked_bytes == 0
    assert report.copied_bytes == report.stored_bytes
    assert set(inodes(other).values()).isdisjoint(ours.values())
    check(other, streamed(filled))


def test_another_file_system(filled, elsewhere: Path) -> None:
    target = elsewhere / "backup"
    report = filled.backup(target)
    assert report.linked_bytes == 0
    assert report.copied_bytes == report.stored_bytes
    check(target, streamed(filled))


def test_a_linked_file_need_not_be_read_again_by_the_next_save(
    store: casstore.Store, home: Path, target, save: Save
) -> None:
    """A link changes the time by which casstore tells that nobody has touched a file."""
    save("a:1", {"big.bin": part(1)["1.bin"] * 5})
    index = store._workspace.catalog.index
    path = next((home / "objects/loose").glob("*/*.*"))
    digest = casstore.Digest.parse(path.stem)
    index.remember({Fingerprint.of(path.stat()): digest})
    assert store.backup(target).linked_bytes
    status = path.stat()
    assert index.fingerprints([(status.st_dev, status.st_ino)]) == {Fingerprint.of(status): digest}


class Hook:
    """A progress that does something whenever the backup begins to copy."""

    def __init__(self, action) -> None:
        self.action, self.rounds = action, 0

    def start(self, step, total_bytes):  # noqa: ARG002
        self.rounds += 1
        self.action(self.rounds)

    def advance(self, done_bytes):
        pass

    def finish(self):
        pass


def test_what_gc_takes_away_between_catalog_and_files(filled, target) -> None:
    """Everything is moved elsewhere, and a version is deleted, when the copied catalog has named it."""

    def collect(number):
        if number == 1:
            filled.delete("a:1")
            filled.gc(evict_all=True)

    hook = Hook(collect)
    report = filled.backup(target, progress=hook)
    assert hook.rounds > 1
    assert not report.damaged
    check(target, streamed(filled))


@pytest.mark.parametrize("kind", ["packs", "loose"])
def test_what_gc_takes_away_between_opening_and_linking(filled, target, monkeypatch: pytest.MonkeyPatch, kind) -> None:
    real = os.link
    taken: list[Any] = []

    def link(source, *arguments, **options):
        if not taken and f"/objects/{kind}/" in str(source):
            taken.append(source)
            os.unlink(source)
        return real(source, *arguments, **options)

    monkeypatch.setattr(os, "link", link)
    before = streamed(filled)
    assert not filled.backup(target).damaged
    assert taken
    check(target, before)


def test_a_manifest_whose_version_goes_before_it_is_copied(
    filled, target, monkeypatch: pytest.MonkeyPatch, save: Save
) -> None:
    """Its manifest is still in the store, among those of deleted versions: the backup is of before it went."""
    copies = type(filled._workspace.catalog.backups)
    real = copies.copy
    calls = []
    before = streamed(filled)

    def copy(self, *arguments):
        made = real(self, *arguments)
        calls.append(True)
        if len(calls) == 1:
            filled.delete("p:1")
        return made

    monkeypatch.setattr(copies, "copy", copy)
    report = filled.backup(target)
    assert len(calls) == 1
    assert not report.damaged
    check(target, before)


def test_a_store_that_never_rests_is_copied_while_gc_waits(store: casstore.Store, target, save: Save) -> None:
    locked = []

    def churn(number):
        save(f"c:{number}", {"w.bin": noise(1_200_000, number)})
        store.delete(f"c:{number - 1}")
        try:
            store.gc(evict_all=True)
        except casstore.StoreLocked:
            locked.append(number)

    save("c:0", {"w.bin": noise(1_200_000, 0)})
    hook = Hook(churn)
    report = store.backup(target, progress=hook)
    assert not report.damaged
    assert locked == [hook.rounds]
    with casstore.Store(target) as copy:
        assert copy.verify().is_sound
    store.gc()


def test_beside_processes_that_save_delete_and_collect(
    store: casstore.Store, home: Path, target, tmp_path: Path
) -> None:
    def content(tag: str) -> dict[str, bytes]:
        seed = sum(tag.encode())
        return {"own.bin": noise(200_000, seed), "shared.bin": noise(1_200_000, seed % 2), "tag": tag.encode()}

    stop = tmp_path / "stop"

    def work(name: str) -> None:
        with casstore.Store(home, auto_gc=False) as own:
            number = 0
            while not stop.exists():
                tag = f"{name}:{number}"
                with own.create(tag, durability="relaxed", materialize=number % 3 != 0) as draft:
                    plant(draft.path, content(tag))
                if number % 2:
                    own.delete(f"{name}:{number - 1}")
                number += 1

    def collect() -> None:
        with casstore.Store(home, auto_gc=False) as own:
            while not stop.exists():
                with contextlib.suppress(casstore.StoreLocked):
                    own.gc(evict_all=True)

    for tag in ("kept:1", "kept:2"):
        with store.create(tag) as draft:
            plant(draft.path, content(tag))
    children = [Child(partial(work, name)) for name in ("x", "y")] + [Child(collect)]
    try:
        for number in range(4):
            there = tmp_path / f"backup{number % 2}"
            kept = {tag for tag in store.tags() if not tag.startswith(("x:", "y:")) or int(tag.split(":")[1]) % 2}
            report = store.backup(there)
            assert not report.damaged
            opened = tmp_path / f"opened{number}"
            subprocess.run(["cp", "-a", "--", there, opened], check=True)
            with casstore.Store(opened, auto_gc=False) as copy:
                assert copy.verify().is_sound
                found = streamed(copy)
                assert kept <= found.keys()
                assert all(files == content(tag) for tag, files in found.items())
            shutil.rmtree(opened)
    finally:
        stop.touch()
        codes = [each.wait() for each in children]
    assert codes == [0, 0, 0]
    store.gc()
    assert store.verify().is_sound


def largest(home: Path, below: str = "objects") -> Path:
    found = (path for path in (home / below).rglob("*.*") if path.is_file())
    return max(found, key=lambda path: path.stat().st_size)


def overwrite(path: Path, data: bytes, offset: int = 0) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    path.chmod(0o444)


def test_a_lost_file_does_not_keep_the_rest_from_being_saved(filled, home: Path, target, save: Save) -> None:
    filled.backup(target, copy=True)
    there = inodes(target)
    save("new:1", part(8))
    (lost,) = [path for path in (home / "objects/packs").iterdir() if path.name not in "".join(there)]
    save("new:2", part(9))
    filled.delete("a:1")
    filled.gc()
    lost.unlink()
    report = filled.backup(target)
    assert report.damaged == (f"{lost} is missing",)
    assert report.removed == 0
    assert there.keys() - {name for name in there if name.startswith("manifests/")} <= inodes(target).keys()
    with casstore.Store(target) as copy:
        assert {damage.tag for damage in copy.verify().damage} == {"new:1"}


def test_what_the_backup_has_is_not_damaged_when_the_store_has_lost_it(filled, home: Path, target) -> None:
    expected = streamed(filled)
    filled.backup(target, copy=True)
    largest(home).unlink()
    assert not filled.verify().is_sound
    report = filled.backup(target)
    assert not report.damaged
    check(target, expected)
    filled.repair([target])
    assert filled.verify().is_sound
    assert streamed(filled) == expected


def test_rot_in_the_store_does_not_reach_what_has_been_copied(filled, home: Path, target) -> None:
    expected = streamed(filled)
    filled.backup(target, copy=True)
    overwrite(largest(home), b"rotten!", 1000)
    filled.backup(target)
    check(target, expected)


@pytest.mark.parametrize("how", ["flipped", "short", "trailer", "manifest"])
def test_damage_that_is_seen_while_copying_is_told(filled, home: Path, target, how) -> None:
    if how == "manifest":
        path = next((home / "manifests/a").iterdir())
        overwrite(path, b"xx", path.stat().st_size // 2)
    elif how == "trailer":
        path = next((home / "objects/packs").iterdir())
        overwrite(path, b"x" * 8, path.stat().st_size - 8)
    else:
        path = largest(home, "objects/loose")
        overwrite(path, b"rotten!", 1000)
        if how == "short":
            os.truncate(path, 5000)
    report = filled.backup(target, copy=True)
    (line,) = report.damaged
    assert line.startswith(str(path))
    assert report.versions == 5


def test_a_damaged_catalog_replaces_no_backup(filled, home: Path, target) -> None:
    filled.backup(target)
    expected = streamed(filled)
    filled.close()
    with (home / "catalog.db").open("r+b") as file:
        for page in range(8, 20):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)
    with pytest.raises(casstore.CatalogDamaged), casstore.Store(home) as store:
        store.backup(target)
    check(target, expected)


def test_what_was_torn_before_stays_in_doubt(store: casstore.Store, target, save: Save, sql: Sql) -> None:
    """Relaxed saves of an earlier boot; those of this one have been brought to disk."""
    save("m:1", part(1), durability="relaxed")
    save("m:2", part(2), durability="relaxed")
    sql("UPDATE container SET boot_id = 'earlier' WHERE id = (SELECT max(id) FROM container)")
    store.backup(target)
    assert sql_of(target, "SELECT synced, boot_id FROM container ORDER BY id") == [(1, None), (0, "earlier")]


def test_places_that_are_refused(store: casstore.Store, home: Path, target, tmp_path: Path) -> None:
    plant(target, {"photos.zip": b"mine"})
    with pytest.raises(casstore.StoreError, match=r"holds other things, such as 'photos\.zip'"):
        store.backup(target)
    assert os.listdir(target) == ["photos.zip"]
    link = tmp_path / "link"
    link.symlink_to(home)
    for place in (home, home / "models" / "b", home.parent, link, link / "x"):
        with pytest.raises(casstore.StoreError, match="choose another directory"):
            store.backup(place)
    with casstore.Store(tmp_path / "other"):
        pass
    with pytest.raises(casstore.StoreError, match="in another store"):
        store.backup(tmp_path / "other/objects/backup")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        store.backup(file)


def test_a_new_file_system_is_no_obstacle(store: casstore.Store, target) -> None:
    (target / "lost+found").mkdir(parents=True)
    assert store.backup(target).versions == 0
    assert store.backup(target).versions == 0
    assert (target / "lost+found").is_dir()


def refused(store: casstore.Store, target: Path, tag: str) -> None:
    before = inodes(target)
    with pytest.raises(casstore.StoreError, match=rf"holds {tag}, which .* choose another directory"):
        store.backup(target)
    assert inodes(target) == before


def test_another_store_is_never_written_over(filled, target, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "other") as other:
        other.save("their:1", plant(tmp_path / "x", part(7)))
        other.backup(target)
        refused(filled, target, "their:1")
        other.close()
        refused(filled, tmp_path / "other", "their:1")


def test_a_backup_that_has_been_saved_into_is_a_store(filled, target, tmp_path: Path) -> None:
    filled.backup(target)
    with casstore.Store(target) as copy:
        copy.save("late:1", plant(tmp_path / "x", part(7)))
    refused(filled, target, "late:1")


def test_a_store_that_was_put_back_does_not_take_newer_versions_from_the_backup(
    filled, home: Path, target, tmp_path: Path
) -> None:
    """As a snapshot of a virtual machine does, after which it is saved into again or not."""
    filled.close()
    earlier = tmp_path / "earlier"
    subprocess.run(["cp", "-a", "--", home, earlier], check=True)
    with casstore.Store(home) as store:
        store.save("late:1", home / "models/p/1")
        store.backup(target)
    os.rename(home, tmp_path / "gone")
    os.rename(earlier, home)
    with casstore.Store(home) as store:
        refused(store, target, "late:1")
        store.save("other:1", home / "models/p/1")
        refused(store, target, "late:1")


def test_a_store_made_in_the_place_of_another(filled, home: Path, target) -> None:
    filled.backup(target)
    filled.close()
    os.rename(home, home.with_name("gone"))
    with casstore.Store(home) as store:
        refused(store, target, "a:1")


def test_deletions_are_followed_also_by_the_newest_version(filled, target) -> None:
    filled.backup(target)
    filled.delete("p:1")
    filled.backup(target)
    check(target, streamed(filled))
    for tag in filled.tags():
        filled.delete(tag)
    filled.gc()
    filled.backup(target)
    check(target, {})


def test_in_use(filled, target) -> None:
    filled.backup(target)
    with casstore.Store(target), pytest.raises(casstore.StoreLocked, match="in use"):
        filled.backup(target)
    seen = []

    def open_it(number):
        for opening in (lambda: casstore.Store(target).tags(), lambda: filled.backup(target)):
            with pytest.raises(casstore.StoreLocked):
                opening()
            seen.append(number)

    filled.backup(target, progress=Hook(open_it))
    assert seen == [1, 1]


def test_an_unfinished_one_is_no_store(filled, target, home: Path) -> None:
    def fail(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled.backup(target, progress=Hook(fail))
    with pytest.raises(casstore.StoreError, match=r"unfinished backup; run `casstore backup .*` again"):
        casstore.Store(target)
    with casstore.Store(home.with_name("other")) as other, pytest.raises(casstore.StoreError, match="of another store"):
        other.backup(target)
    filled.backup(target)
    check(target, streamed(filled))


def test_an_unfinished_one_is_all_that_is_left(filled, target, home: Path, tmp_path: Path) -> None:
    """The store's disk has failed: what has been copied can be used."""
    copied = tmp_path / "copied"
    subprocess.run(["mkdir", copied], check=True)

    def fail(number):
        raise KeyboardInterrupt

    filled.backup(target)
    with pytest.raises(KeyboardInterrupt):
        filled.backup(copied, progress=Hook(fail))
    shutil.copytree(target / "objects", copied / "objects", dirs_exist_ok=True)
    expected = streamed(filled)
    filled.close()
    shutil.rmtree(home)
    casstore.Store.rebuild_catalog(copied)
    with casstore.Store(copied) as store:
        assert store.verify().is_sound
        assert streamed(store) == expected


def test_what_was_done_to_the_backup_is_undone(filled, target) -> None:
    """Directories made in it, a gc of it, another's files, and what is short."""
    filled.backup(target)
    with casstore.Store(target, auto_gc=False) as copy:
        assert copy.get("a:1").path
        copy.delete("p:1")
        copy.gc(evict_all=True)
        assert copy.get("a:1").path
    (target / "objects/packs/.DS_Store").write_bytes(b"theirs")
    short = largest(target)
    short.chmod(0o644)
    short.unlink()
    short.write_bytes(b"short")
    filled.backup(target)
    assert (target / "objects/packs/.DS_Store").read_bytes() == b"theirs"
    (target / "objects/packs/.DS_Store").unlink()
    assert [path.suffix for path in (target / "quarantine").iterdir()] == [".models"]
    check(target, streamed(filled))


def test_a_backup_left_by_a_killed_user_of_it(filled, target, save: Save) -> None:
    """Its log beside it belongs to it, and not to the next catalog."""
    filled.backup(target)

    def use():
        store = casstore.Store(target, auto_gc=False)
        store.pin("a:1")
        store.pin("p:1")
        os.kill(os.getpid(), 9)

    assert Child(use).wait() == -9
    assert (target / "catalog.db-wal").stat().st_size
    save("p:2", part(4))
    filled.backup(target)
    check(target, streamed(filled))
    assert sql_of(target, "SELECT count(*) FROM version WHERE pinned") == [(0,)]


@pytest.mark.parametrize("how", ["copied", "in place", "backed up"])
def test_restoring(filled, target, home: Path, tmp_path: Path, how) -> None:
    expected = streamed(filled)
    filled.backup(target, copy=True)
    filled.close()
    shutil.rmtree(home)
    if how == "copied":
        subprocess.run(["cp", "-a", "--", target, home], check=True)
    elif how == "backed up":
        with casstore.Store(target) as store:
            store.backup(home)
    with casstore.Store(target if how == "in place" else home, auto_gc=False) as store:
        assert streamed(store) == expected
        assert Path(store.get("a:1").path, "small").read_bytes() == b"s"
        store.save("more:1", plant(tmp_path / "x", part(7)))
        store.gc(evict_all=True)
        assert store.verify().is_sound
        if how != "in place":  # and it takes its backup over: all that is in there it has
            store.backup(target)
            store.delete("p:1")
            store.backup(target)
            expected = streamed(store)
    if how != "in place":
        check(target, expected)


def test_a_small_disk_for_a_large_store(filled, tmp_path: Path, home: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting wants root")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            filled.backup(small / "b")
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(casstore.StoreError, match="unfinished"):
            casstore.Store(small / "b")
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        filled.backup(small / "b")
        check(small / "b", streamed(filled))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_store_that_can_only_be_read(filled, home: Path, tmp_path: Path, target) -> None:
    expected = streamed(filled)
    filled.close()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bind: list[str | Path] = ["mount", "--bind", home, mounted]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting wants root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        with casstore.Store(mounted) as store:
            store.backup(target)
            store.backup(target)
    finally:
        subprocess.run(["umount", mounted], check=True)
    check(target, expected)


def test_threads_may_use_the_store_meanwhile(filled, target, save: Save) -> None:
    done = []

    def use(number):
        thread = threading.Thread(target=lambda: done.append(save(f"t:{number}", part(5))))
        thread.start()
        thread.join()

    filled.backup(target, progress=Hook(use))
    assert len(done) == 1
    with casstore.Store(target) as copy:
        assert copy.verify().is_sound
