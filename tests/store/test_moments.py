"""Catalog and files from different moments: gc removes nothing, repair takes up what stands, and then gc works."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.actions import keeping
from casstore.actions.consistency import moments, sizes, takeup
from casstore.actions.consistency.strays import StrayShelf
from casstore.storage.layout import Layout
from casstore.storage.locks import Lock
from tests.kit import Check, Child, Save, Sql, counts, noise, safetensors, script, streamed, weights

BIG = 1_300_000
DAY_S = 24 * 3600


@pytest.fixture
def run():
    """run(step): the files of one step: large and small ones, some of which never change."""

    def files(step):
        tensors = {
            "changes": ("F32", weights("F32", 3, step, 400_000)),
            "frozen": ("F32", weights("F32", 4, 0, 150_000)),
        }
        return {
            "w.safetensors": safetensors(tensors),
            "adopted.bin": noise(BIG, step),
            "mid.bin": noise(200_000, 50 + step),
            "small": b"%d" % step,
            "fixed": noise(5_000, 99),
        }

    return files


@pytest.fixture
def three(save: Save, run):
    """Three versions of one run, of which the first two are cold after gc; returns what each holds."""
    for step in range(3):
        save(f"m:{step}", run(step))
    return {f"m:{step}": run(step) for step in range(3)}


def objects_of(home: Path) -> dict[str, bytes]:
    """The bytes of every file that may hold what versions need, wherever in the store it has been moved to."""
    roots = [home / "objects", home / "quarantine"]
    return {path.name: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", "--", str(source), str(target)], check=True)


def copy_catalog(home: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in home.glob("catalog.db*"):
        copy(path, target / path.name)


def copy_rest(home: Path, target: Path) -> None:
    for name in ("manifests", "objects", "models", "sessions", "locks", "quarantine"):
        copy(home / name, target / name)


@pytest.fixture
def refused_then_healed():
    """refused_then_healed(home, expected): gc removes nothing, repair makes every version whole, and gc works again."""

    def check(home, expected, *, gc_refuses=True):
        before = objects_of(home)
        with casstore.Store(home, auto_gc=False) as store:
            ways: list[dict[str, Any]] = [{"dry_run": True}, {}, {"evict_all": True}] if gc_refuses else []
            for options in ways:
                with pytest.raises(casstore.StoreError, match=r"gc removed nothing.*casstore repair"):
                    store.gc(**options)
            assert objects_of(home) == before
            assert not store.verify(quick=True).is_sound or not gc_refuses
            report = store.repair()
            assert report.damage == ()
            assert {tag: streamed(store.get(tag)) for tag in expected} == expected
            assert before.keys() <= objects_of(home).keys()
            store.gc(evict_all=True)
            assert {tag: streamed(store.get(tag)) for tag in expected} == expected
            assert {tag: store.verify().is_sound for tag in expected} == dict.fromkeys(expected, True)
            assert set(counts(store.gc(evict_all=True)).values()) == {0}
        return report

    return check


@pytest.mark.parametrize("how", ["copied", "backup API"])
def test_a_backup_of_a_store_in_use(
    store: casstore.Store, home: Path, three, tmp_path: Path, refused_then_healed, how
) -> None:
    """The catalog first, then a gc, then the files."""
    target = tmp_path / "restored"
    if how == "copied":
        copy_catalog(home, target)
    else:
        target.mkdir()
        # With the SQLite that the store has open: when another one closes the catalog, the locks of this one are gone.
        source, copy = (apsw.Connection(str(place / "catalog.db")) for place in (home, target))
        with copy.backup("main", source, "main") as backup:
            backup.step()
        source.close()
        copy.close()
    store.gc(evict_all=True)
    copy_rest(home, target)
    report = refused_then_healed(target, three)
    assert report.taken_up
    assert all("objects" in path for path in report.taken_up)


def test_no_byte_is_copied_to_take_a_pack_up(store: casstore.Store, home: Path, three, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    copy_catalog(home, target)
    store.gc(evict_all=True)
    copy_rest(home, target)
    packs = {path.name: path.stat().st_ino for path in (target / "objects/packs").iterdir()}
    with casstore.Store(target) as restored:
        restored.repair()
    assert {path.name: path.stat().st_ino for path in (target / "objects/packs").iterdir()} == packs


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("evict", [False, True])
def test_the_objects_of_yesterday_under_the_catalog_of_today(
    store: casstore.Store, home: Path, three, tmp_path: Path, refused_then_healed, evict
) -> None:
    store.gc(evict_all=evict)
    copy(home / "objects", tmp_path / "yesterday")
    store.delete("m:0")
    store.gc(evict_all=True)
    store.gc(evict_all=True)
    store.set_setting("link_mode", "copy")
    del three["m:0"]
    store.close()
    shutil.rmtree(home / "objects")
    shutil.rmtree(home / "models")
    (home / "models").mkdir()
    (tmp_path / "yesterday").rename(home / "objects")
    refused_then_healed(home, three)


def test_the_catalog_and_manifests_of_yesterday_over_the_objects_of_today(
    store: casstore.Store, three, save: Save, tmp_path: Path, refused_then_healed, run
) -> None:
    store.close()
    copy_catalog(store.home, tmp_path / "yesterday")
    copy(store.home / "manifests", tmp_path / "yesterday/manifests")
    with casstore.Store(store.home) as today:
        save("m:3", run(3), into=today)
        today.gc(evict_all=True)
    for path in [*store.home.glob("catalog.db*")]:
        path.unlink()
    shutil.rmtree(store.home / "manifests")
    copy_catalog(tmp_path / "yesterday", store.home)
    copy(tmp_path / "yesterday/manifests", store.home / "manifests")
    refused_then_healed(store.home, three)


def test_the_log_is_deleted_after_a_gc(home: Path, store: casstore.Store, three, refused_then_healed) -> None:
    store.close()
    program = (
        "import casstore, os, sys\n"
        "store = casstore.Store(sys.argv[1], auto_gc=False)\n"
        "store._workspace.catalog.tidy = lambda: None\n"
        "type(store._workspace.catalog).tidy = lambda self: None\n"
        "store.gc(evict_all=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert script(program, home).returncode == -9
    assert (home / "catalog.db-wal").stat().st_size > 0
    (home / "catalog.db-wal").unlink()
    (home / "catalog.db-shm").unlink(missing_ok=True)
    assert refused_then_healed(home, three).taken_up


def test_a_rebuilt_catalog_takes_all_up(store: casstore.Store, home: Path, three, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    copy_catalog(home, target)
    store.gc(evict_all=True)
    copy_rest(home, target)
    assert casstore.Store.rebuild_catalog(target).unreadable == ()
    with casstore.Store(target) as rebuilt:
        assert {tag: streamed(rebuilt.get(tag)) for tag in three} == three
        rebuilt.gc(evict_all=True)
        assert rebuilt.verify().is_sound
        assert {tag: streamed(rebuilt.get(tag)) for tag in three} == three


@pytest.mark.parametrize("how", ["repair", "rebuild"])
def test_what_an_earlier_gc_has_moved_to_quarantine_comes_back(
    store: casstore.Store, home: Path, three, sql: Sql, how
) -> None:
    """As a gc of another release, or one beside a catalog that did not know the files, may have left it."""
    store.gc(evict_all=True)
    shelf = keeping.new_directory(home / "quarantine/strays")
    for path in (home / "objects/packs").iterdir():
        path.rename(shelf / path.name)
    store._workspace.objects.close()
    with pytest.raises(casstore.StoreError, match=r"quarantine/strays/.* holds some of it.*casstore repair"):
        store.gc()
    assert any("quarantine/strays" in reason for reason in store.verify(quick=True).reasons)
    if how == "rebuild":
        store.close()
        assert sorted(casstore.Store.rebuild_catalog(home).tags) == sorted(three)
    else:
        report = store.repair()
        assert (report.damage, len(report.healed)) == ((), 15)
        assert all("objects/packs" in path for path in report.taken_up)
        assert len(report.taken_up) >= 1
    assert not shelf.exists()
    assert {tag: streamed(store.get(tag)) for tag in three} == three
    store.gc()
    assert store.verify().is_sound


def test_rows_that_are_gone_are_made_again_from_the_files(
    store: casstore.Store, home: Path, three, sql: Sql, check_catalog: Check, deltas
) -> None:
    store.gc(evict_all=True)
    before = deltas()
    assert before
    sql("PRAGMA foreign_keys = OFF")
    sql("DELETE FROM chunk")
    sql("DELETE FROM container")
    with pytest.raises(casstore.StoreError, match=r"chunks have no place in the catalog.*gc removed nothing"):
        store.gc()
    report = store.repair()
    assert report.damage == ()
    assert report.taken_up
    check_catalog()
    assert deltas() == before
    assert {tag: streamed(store.get(tag)) for tag in three} == three
    store.gc()
    assert store.verify().is_sound


@pytest.mark.parametrize("harm", ["gone", "cut short"])
def test_what_no_file_holds_is_given_up_by_repair_and_not_by_gc(
    store: casstore.Store, home: Path, save: Save, run, harm
) -> None:
    for step in range(2):
        save(f"m:{step}", run(step), materialize=False)
    lost = max((home / "objects/packs").iterdir(), key=lambda path: path.stat().st_size)
    if harm == "gone":
        lost.unlink()
    else:
        os.truncate(lost, lost.stat().st_size // 2)
    store._workspace.objects.close()
    before = objects_of(home)
    with pytest.raises(casstore.StoreError) as caught:
        store.gc()
    assert str(lost) in str(caught.value)
    assert "versions" in str(caught.value)
    assert "--from DIR" in str(caught.value)
    assert objects_of(home) == before
    report = store.repair()
    assert report.damage
    store.gc()
    store.gc(evict_all=True)
    assert {(each.tag, each.path) for each in store.verify().damage} == {(e.tag, e.path) for e in report.damage}
    for step in range(2):
        save(f"again:{step}", run(step))
        assert streamed(store.get(f"m:{step}")) == run(step)
    store.gc()
    assert store.verify().is_sound


def test_what_was_given_up_and_has_turned_up_stops_gc(store: casstore.Store, home: Path, save: Save, run) -> None:
    save("m:1", run(1), materialize=False)
    packs = list((home / "objects/packs").iterdir())
    aside = home.parent / "aside"
    aside.mkdir()
    for path in packs:
        path.rename(aside / path.name)
    store._workspace.objects.close()
    assert store.repair().damage
    store.gc()
    for path in packs:
        (aside / path.name).rename(path)
    with pytest.raises(casstore.StoreError, match="holds some of it and is unknown to the catalog"):
        store.gc()
    report = store.repair()
    assert (report.damage, sorted(report.taken_up)) == ((), sorted(map(str, packs)))
    assert streamed(store.get("m:1")) == run(1)
    store.gc()


def test_a_damaged_file_that_is_taken_up_holds_what_is_sound_in_it(
    store: casstore.Store, home: Path, save: Save, sql: Sql
) -> None:
    files = {f"{number}": noise(20_000, number) for number in range(20)}
    save("m:1", files, materialize=False)
    (path,) = (home / "objects/packs").iterdir()
    sql("PRAGMA foreign_keys = OFF")
    sql("DELETE FROM chunk")
    sql("DELETE FROM container")
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(205_000)
        file.write(b"damaged")
    report = store.repair()
    ((tag, lost),) = {(each.tag, each.path) for each in report.damage}
    assert tag == "m:1"
    for other in files.keys() - {lost}:
        with store.get("m:1").open(other) as reader:
            assert reader.read() == files[other]


def test_strays_are_kept_for_keep_days(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"a": noise(5000)})
    stray = home / "objects/packs/0123456789abcdef-8.pack"
    stray.write_bytes(b"stray")
    loose = home / "objects/loose/ab" / f"{'ab' * 32}.0123456789abcdef-7"
    loose.write_bytes(b"stray too")
    report = store.gc()
    assert (counts(report)["stray files"], report.freed_bytes) == (2, 0)
    (shelf,) = (home / "quarantine/strays").iterdir()
    assert report.strays_kept_in == str(shelf)
    assert {path.name: path.read_bytes() for path in shelf.iterdir()} == {
        stray.name: b"stray",
        loose.name: b"stray too",
    }
    real = time.time_ns()
    for days, expected in ((6.9, 0), (7.1, 2)):
        monkeypatch.setattr(time, "time_ns", lambda days=days: real + int(days * DAY_S * 1e9))
        plan, done = store.gc(dry_run=True), store.gc()
        assert counts(plan)["quarantine"] == counts(done)["quarantine"] == expected
        assert done.freed_bytes == plan.freed_bytes == (14 if expected else 0)
    assert list((home / "quarantine/strays").iterdir()) == []


def test_strays_of_a_time_that_has_not_come_wait_from_now_on(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was wrong neither keeps them for good nor has them go at once."""
    shelf = home / "quarantine/strays/20990101T000000.000000Z-00000000"
    shelf.mkdir(parents=True)
    (shelf / "x.pack").write_bytes(b"x")
    store.gc(dry_run=True)
    assert shelf.exists()
    assert counts(store.gc())["quarantine"] == 0
    (moved,) = (home / "quarantine/strays").iterdir()
    assert moved.name.startswith(time.strftime("%Y", time.gmtime()))
    assert (moved / "x.pack").read_bytes() == b"x"


def test_what_others_put_beside_the_strays_is_left_alone(store: casstore.Store, home: Path, save: Save) -> None:
    store.set_setting("keep_days", "0")
    (home / "quarantine/strays/mine").mkdir(parents=True)
    (home / "quarantine/strays/99999999T999999.000000Z-00000000").mkdir()
    (home / "quarantine/strays/note").write_text("mine")
    assert set(counts(store.gc()).values()) == {0}
    assert len(list((home / "quarantine/strays").iterdir())) == 3


def test_a_take_up_that_is_killed_is_done_again(store: casstore.Store, home: Path, three, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    copy_catalog(home, target)
    store.gc(evict_all=True)
    copy_rest(home, target)
    shelf = keeping.new_directory(target / "quarantine/strays")
    for path in (target / "objects/packs").iterdir():
        path.rename(shelf / path.name)

    def die():
        from casstore.catalog.mending import Mending

        pytest.MonkeyPatch().setattr(Mending, "take_up", lambda *_: os.kill(os.getpid(), 9))
        with casstore.Store(target) as restored:
            restored.repair()

    store.close()
    assert Child(die).wait() == -9
    with casstore.Store(target) as restored:
        with pytest.raises(casstore.StoreError, match="removed nothing"):
            restored.gc()
        assert restored.repair().damage == ()
        assert {tag: streamed(restored.get(tag)) for tag in three} == three
        restored.gc(evict_all=True)
        assert {tag: streamed(restored.get(tag)) for tag in three} == three


def test_repair_and_gc_are_not_in_each_others_way(store: casstore.Store, home: Path, three) -> None:
    with Lock(home / "locks/.gc.lock") as lock:
        assert lock.try_acquire()
        with pytest.raises(casstore.StoreLocked):
            store.repair()


def test_rows_of_another_moment_of_one_chunk_do_not_make_a_chain_that_is_none(
    store: casstore.Store, home: Path, save: Save, run, tmp_path: Path
) -> None:
    """A chunk that was whole, and that others stood upon, is a delta in the file that holds it now."""
    for step in range(3):
        save(f"m:{step}", run(step), materialize=False)
    store.close()
    copy_catalog(home, tmp_path / "old")
    old = apsw.Connection(str(tmp_path / "old/catalog.db"))
    standing = {row[0] for row in old.execute("SELECT base FROM chunk WHERE base IS NOT NULL")}
    old.close()
    assert standing
    with casstore.Store(home) as today:
        today.gc(evict_all=True)
    copy_rest(home, tmp_path / "old")
    with casstore.Store(tmp_path / "old") as mixed:
        mixed.repair()
        for step in range(3):
            assert streamed(mixed.get(f"m:{step}")) == run(step)
        mixed.gc(evict_all=True)
        assert mixed.verify().is_sound


def quietly(home):
    """Open and close the store there; the text of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        casstore.Store(home).close()
    return [str(warning.message) for warning in caught]


def test_opening_tells_in_one_line(store: casstore.Store, home: Path, three, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    copy_catalog(home, target)
    assert quietly(home) == []
    store.gc(evict_all=True)
    assert quietly(home) == []
    copy_rest(home, target)
    (text,) = quietly(target)
    assert re.fullmatch(r"/\S+ is missing: catalog\.db and objects/ seem to be .*casstore verify --quick.*", text)
    with casstore.Store(target) as restored:
        for quick in (True, False):
            assert "seem to be from different moments" in restored.verify(quick=quick).mixed
        restored.repair()
        assert restored.verify(quick=True).mixed == ""
    assert quietly(target) == []


def test_opening_tells_of_a_manifest_that_is_not_there(store: casstore.Store, home: Path, save: Save) -> None:
    for number in range(2):
        save(f"m:{number}", {"a": b"%d" % number})
    path, hidden = next((home / "manifests/m").glob("1.*")), home.parent / "hidden"
    path.rename(hidden)
    (text,) = quietly(home)
    assert text.startswith(f"{path} is missing: catalog.db and manifests/")
    hidden.rename(path)
    path.rename(home / "manifests/.pending" / path.name.partition(".")[2])
    assert quietly(home) == [], "a save that was cut short"


def test_opening_says_nothing_of_what_a_power_cut_may_take(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.bin": noise(BIG), "mid": noise(200_000, 1)}, durability="relaxed")
    for path in (home / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    assert quietly(home) == []


def test_opening_a_damaged_catalog_raises_nothing_new(store: casstore.Store, home: Path, save: Save, sql: Sql) -> None:
    save("m:1", {"w": b"1"})
    sql("UPDATE container SET file_id = 'x' || char(0) || 'y'")
    assert all("different moments" in text for text in quietly(home))
    sql("UPDATE version SET name = 'A B'")
    quietly(home)


def test_a_gc_beside_it_is_not_told_as_damage(
    store: casstore.Store, home: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc takes a container away between the look at the catalog and the look at the file."""
    save("m:1", {"w.bin": noise(BIG)}, materialize=False)
    save("m:2", {"v.bin": noise(BIG, 1)}, materialize=False)
    real = sizes.what_is_wrong

    def what_is_wrong(path, size):
        monkeypatch.setattr(takeup, "what_is_wrong", real)
        monkeypatch.setattr(moments, "what_is_wrong", real)
        with casstore.Store(home) as other:
            other.delete("m:1")
            other.gc()
        return real(path, size)

    monkeypatch.setattr(takeup, "what_is_wrong", what_is_wrong)
    assert moments.describe(store._workspace) == ""
    assert store.tags() == ["m:2"]
    save("m:1", {"w.bin": noise(BIG)}, materialize=False)
    monkeypatch.setattr(moments, "what_is_wrong", what_is_wrong)
    assert quietly(home) == []
    assert store.tags() == ["m:2"]


def test_on_a_full_disk_strays_stay_and_gc_goes_on(tmp_path: Path) -> None:
    """There the directory that would take them cannot be made, and what gc does next gives space back."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=20", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "objects/packs").mkdir(parents=True)
        (disk / "quarantine").mkdir()
        stray = disk / "objects/packs/0123456789abcdef-1.pack"
        stray.write_bytes(b"stray")
        with contextlib.suppress(OSError):
            for number in range(30):
                (disk / str(number)).touch()
        shelf = StrayShelf(Layout(disk))
        assert not shelf.take(stray)
        assert stray.exists()
        for number in range(5):
            (disk / str(number)).unlink()
        assert shelf.take(stray)
        assert not stray.exists()
    finally:
        subprocess.run(["umount", disk], check=True)
