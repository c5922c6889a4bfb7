"""gc: takes away what no version needs and nothing else, whatever else happens meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.catalog.commits import Commits
from casstore.catalog.index import Index
from casstore.storage.locks import Lock
from tests.kit import Child, Leftovers, Picture, contents, noise, plant

BIG = 2_500_000
pytestmark = pytest.mark.usefixtures("no_trash")


def save(store, tag, files):
    with store.create(tag) as draft:
        plant(draft.path, files)
    return draft.model


@pytest.fixture
def two(store: casstore.Store):
    shared = {"shared.bin": noise(BIG), "shared.txt": b"shared" * 100}
    save(store, "m:1", {**shared, "one.bin": noise(BIG, 1), "one.txt": b"one" * 100})
    save(store, "m:2", {**shared, "two.bin": noise(BIG, 2), "two.txt": b"two" * 100})
    return store


def counts(report):
    return {step.name: step.count for step in report.steps}


def test_what_other_versions_need_survives(two, leftovers: Leftovers) -> None:
    two.delete("m:1")
    report = two.gc()
    assert report.freed_bytes >= BIG
    assert contents(two.get("m:2")).keys() == {"shared.bin", "shared.txt", "two.bin", "two.txt"}
    usage = two.stats()
    assert usage.unique_bytes == 2 * BIG + 900
    assert usage.dead_bytes == 0
    assert two.verify().is_sound
    assert leftovers() == []
    two.delete("m:2")
    assert two.stats().dead_bytes == two.stats().stored_bytes > 0
    two.gc()
    assert (two.stats().stored_bytes, two.stats().unique_bytes, two.stats().versions) == (0, 0, 0)
    assert [path for path in (two.home / "objects").rglob("*") if path.is_file()] == []
    assert leftovers() == []


def test_a_second_gc_has_nothing_to_do(two, picture: Picture) -> None:
    two.delete("m:1")
    two.gc()
    before = picture()
    again = two.gc()
    assert set(counts(again).values()) == {0}
    assert again.freed_bytes == 0
    assert picture() == before


def test_a_dry_run_says_what_gc_would_do_and_changes_nothing(two, picture: Picture, home: Path) -> None:
    two.delete("m:1")
    plant(home / "sessions", {"0123456789abcdef/1/big": b"x" * 1000, "0123456789abcdef.lock": b""})
    (home / "objects/packs/0123456789abcdef-1.pack").write_bytes(b"stray")
    (home / "manifests/.pending/0123456789abcdef-2").write_bytes(b"stray")
    before = picture()
    plan = two.gc(dry_run=True)
    assert plan.dry_run
    assert picture() == before
    done = two.gc()
    assert counts(plan) == counts(done)
    assert plan.freed_bytes == done.freed_bytes
    assert set(counts(two.gc(dry_run=True)).values()) == {0}


def test_what_dead_processes_left_is_taken_and_what_living_ones_hold_is_not(two, home: Path, picture: Picture) -> None:
    def die():
        with casstore.Store(home) as store, store.create("m:3") as draft:
            plant(draft.path, {"a/b/c": b"x" * 5000})
            os.chmod(f"{draft.path}/a/b", 0o500)
            os.kill(os.getpid(), 9)

    assert Child(die).wait() == -9
    with two.create("m:4") as draft:
        plant(draft.path, {"mine": b"mine"})
        report = two.gc()
        assert counts(report)["dead sessions"] == 1
        assert report.freed_bytes >= 5000
        assert Path(draft.path, "mine").read_bytes() == b"mine"
    assert os.listdir(home / "sessions") == []
    assert "m:3" not in two.tags()
    assert "m:4" in two.tags()


def test_files_without_rows_are_taken(two, home: Path) -> None:
    kept = contents(two.get("m:2"))
    (home / "objects/loose/ab" / f"{'ab' * 32}.0123456789abcdef-7").write_bytes(b"stray")
    (home / "objects/packs/0123456789abcdef-8.pack").write_bytes(b"stray")
    assert counts(two.gc())["stray files"] == 2
    assert contents(two.get("m:2")) == kept
    assert list((home / "objects/loose/ab").glob("*-7")) == []


def test_one_gc_at_a_time(two, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(two.home / "locks/.gc.lock")
    assert lock.try_acquire()
    for dry_run in (False, True):
        with pytest.raises(casstore.StoreLocked, match="another gc"):
            two.gc(dry_run=dry_run)
    lock.release()
    two.gc()


@pytest.mark.parametrize("size", [100, 100_000, BIG])
@pytest.mark.parametrize("how", ["draft", "save"])
def test_chunks_that_vanish_between_look_up_and_commit_are_stored_anew(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, leftovers: Leftovers, size, how
) -> None:
    """The last version that needs them is deleted, and gc'd, just when a save has decided to rely on them."""
    files = {"w.bin": noise(size), "other.txt": b"new"}
    save(store, "m:old", {"w.bin": noise(size)})
    fired: list[Any] = []
    real = Commits.commit

    def commit(self, new):
        if not fired:
            fired.append(True)
            with casstore.Store(store.home) as other:
                other.delete("m:old")
                other.gc()
                assert other.stats().unique_bytes == 0
        return real(self, new)

    monkeypatch.setattr(Commits, "commit", commit)
    saved = save(store, "n:new", files) if how == "draft" else store.save("n:new", plant(tmp_path / "out", files))
    assert fired
    assert contents(saved) == files
    assert store.verify().is_sound
    store.gc()
    assert leftovers() == []
    assert contents(saved) == files


def test_a_gc_that_takes_nothing_does_not_make_a_save_start_over(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, "m:old", {"known.bin": noise(BIG)})
    save(store, "x:dead", {"w.bin": noise(BIG, 5)})
    attempts = []
    real = Commits.commit

    def commit(self, new):
        attempts.append(new)
        if len(attempts) == 1:
            with casstore.Store(store.home) as other:
                other.delete("x:dead")
                other.gc()
        return real(self, new)

    monkeypatch.setattr(Commits, "commit", commit)
    saved = save(store, "m:new", {"known.bin": noise(BIG), "new.bin": noise(BIG, 6), "small": b"s"})
    assert len(attempts) == 1, "what it relies on still stands"
    assert len(contents(saved)) == 3


def test_chunks_that_vanish_after_every_look_up(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"w.bin": noise(BIG), "twin.bin": noise(BIG), "t.txt": b"t" * 999}
    real = Index.gc_epoch
    rounds: list[Any] = []
    mine = store._workspace.catalog.index

    def gc_epoch(self):
        if self is mine and len(rounds) < 4:
            rounds.append(real(self))
            with casstore.Store(store.home) as other:
                save(other, "x:1", files)
                other.delete("x:1")
                other.gc()
            return rounds[-1]
        return real(self)

    monkeypatch.setattr(Index, "gc_epoch", gc_epoch)
    assert contents(save(store, "n:new", files)) == files
    assert store.verify().is_sound


def test_a_version_committed_while_gc_marks_keeps_its_chunks(two, monkeypatch: pytest.MonkeyPatch) -> None:
    from casstore.catalog.marks import Marks

    real = Marks.unreferenced
    files = {"one.bin": noise(BIG, 1), "one.txt": b"one" * 100}
    two.delete("m:1")

    def unreferenced(self):
        found = real(self)
        if "m:late" not in two.tags():
            with casstore.Store(two.home) as other:
                save(other, "m:late", files)
        return found

    monkeypatch.setattr(Marks, "unreferenced", unreferenced)
    two.gc()
    assert contents(two.get("m:late")) == files
    assert two.verify().is_sound


def test_a_pending_manifest_of_a_save_that_begins_during_gc_is_kept(
    two, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc has looked which sessions live; then a save begins, and writes its manifest."""
    from casstore.storage import sessions

    real = sessions.live_ids
    opened: list[Any] = []

    def live_ids(layout):
        alive = real(layout)
        if not opened:
            opened.append(casstore.Store(home))
            draft = opened[0].create("m:late")
            draft.__enter__()
            plant(draft.path, {"a": b"a"})
            opened.append(draft)
            session = Path(draft.path).parent.name
            (home / "manifests/.pending" / f"{session}-99").write_bytes(b"of the save")
        return alive

    monkeypatch.setattr(sessions, "live_ids", live_ids)
    two.gc()
    monkeypatch.undo()
    assert len(list((home / "manifests/.pending").iterdir())) == 1
    opened[1].__exit__(None, None, None)
    opened[0].close()


def test_an_old_catalog_that_was_put_back_stops_gc(two, home: Path) -> None:
    two.close()
    old = home.parent / "old.db"
    shutil.copy(home / "catalog.db", old)
    with casstore.Store(home) as store:
        save(store, "m:3", {"three.bin": noise(BIG, 3)})
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (home / name).unlink(missing_ok=True)
    newest = home.parent / "newest.db"
    shutil.copy(home / "catalog.db", newest)
    shutil.copy(old, home / "catalog.db")
    before = sorted(str(path) for path in home.rglob("*") if path.is_file() and "locks" not in path.parts)
    with casstore.Store(home) as store:
        assert "m:3" not in store.tags()
        for dry_run in (True, False):
            with pytest.raises(casstore.StoreError, match="removed nothing"):
                store.gc(dry_run=dry_run)
    after = sorted(str(path) for path in home.rglob("*") if path.is_file() and "locks" not in path.parts)
    assert [p for p in before if "catalog.db" not in p] == [p for p in after if "catalog.db" not in p]
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (home / name).unlink(missing_ok=True)
    shutil.copy(newest, home / "catalog.db")
    with casstore.Store(home) as store:
        store.gc()
        assert contents(store.get("m:3")) == {"three.bin": noise(BIG, 3)}


def test_beside_versions_no_empty_catalog_is_made(two, home: Path) -> None:
    """gc would take all of them for garbage."""
    two.close()
    for path in home.glob("catalog.db*"):
        path.unlink()
    with pytest.raises(casstore.CatalogDamaged, match="is gone"):
        casstore.Store(home)
    assert not list(home.glob("catalog.db*"))


def test_a_deletion_that_was_cut_short_is_finished(
    two, home: Path, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers
) -> None:
    from casstore.actions.saving import delete

    monkeypatch.setattr(delete, "take_away", lambda *_: (_ for _ in ()).throw(OSError("cut short")))
    two.delete("m:2")
    monkeypatch.undo()
    assert (home / "models/m/2/two.bin").exists()
    assert (home / "models/m/latest").read_text() == "1"
    model = save(two, "m:2", {"again": b"again"})
    two.gc()
    assert contents(model) == {"again": b"again"}
    assert leftovers() == []
    assert (home / "models/m/latest").read_text() == "2"


def test_readers_are_not_cut_off(two) -> None:
    with two.get("m:1").open("one.bin") as file:
        assert file.read(10) == noise(BIG, 1)[:10]
        two.delete("m:1")
        two.gc()
        with pytest.raises(casstore.IntegrityError):
            file.read()


def test_a_version_that_is_deleted_while_manifests_are_looked_at(
    two, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(two, "x:1", {"a": b"1"})
    real = Path.is_dir

    def is_dir(self, **options):
        found = real(self, **options)
        if found and self == home / "manifests/x":
            monkeypatch.setattr(Path, "is_dir", real)
            two.delete("x:1")
        return found

    monkeypatch.setattr(Path, "is_dir", is_dir)
    two.gc()
    assert not (home / "manifests/x").exists(), "it was deleted meanwhile"
    assert two.verify().is_sound
