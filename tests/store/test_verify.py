"""verify: names what is damaged, and only that; changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import casstore
from casstore.actions.saving import commit as commit_action
from casstore.catalog.references import References
from tests.kit import Child, Picture, Save, Sql, flip, noise, part, plant

BIG = 2_500_000


@pytest.fixture
def three(store: casstore.Store):
    for tag, files in {
        "a:1": {"w.bin": noise(BIG), "small": noise(500, 9)},
        "b:1": {"copy/of/w.bin": noise(BIG), "own": noise(5000, 8)},
        "c:1": {"else.bin": noise(BIG, 3), "mid": noise(100_000, 4)},
    }.items():
        with store.create(tag) as draft:
            plant(draft.path, files)
    return store


def loose(store, tag, path):
    digest = next(file.digest for file in store.get(tag).files if file.path == path)
    return next((store.home / "objects/loose").rglob(f"{digest}.*"))


def named(report):
    return [(damage.tag, damage.path) for damage in report.damage]


def test_a_sound_store(three, picture: Picture) -> None:
    before = picture()
    report = three.verify()
    assert report.is_sound
    assert (named(report), report.damaged_copies, report.reasons) == ([], (), ())
    assert report.chunks > 10
    assert report.read_bytes >= 2 * BIG
    assert picture() == before


@pytest.mark.parametrize("offset", [0, 1, BIG // 2, BIG - 1])
def test_a_flipped_bit_in_a_loose_file(three, picture: Picture, offset) -> None:
    path = loose(three, "a:1", "w.bin")
    flip(path, offset)
    before = picture()
    report = three.verify()
    assert named(report) == [("a:1", "w.bin"), ("b:1", "copy/of/w.bin")]
    assert report.damaged_tags == ["a:1", "b:1"]
    assert not report.is_sound
    assert len(report.reasons) == 1
    assert str(path) in report.reasons[0]
    assert picture() == before
    flip(path, offset)
    assert three.verify().is_sound


def test_a_flipped_bit_in_each_pack(three) -> None:
    found = set()
    for pack in (three.home / "objects/packs").iterdir():
        flip(pack, 16 + 48 + 3)  # in the first record's encoded bytes
        report = three.verify()
        assert len(named(report)) == 1
        found |= set(named(report))
        flip(pack, 16 + 48 + 3)
    assert found == {("a:1", "small"), ("b:1", "own"), ("c:1", "mid")}
    assert three.verify().is_sound


def test_damage_in_a_pack_and_a_loose_file_at_once(three) -> None:
    flip(loose(three, "c:1", "else.bin"), 77)
    for pack in (three.home / "objects/packs").iterdir():
        flip(pack, 16 + 48 + 3)
    assert named(three.verify()) == [("a:1", "small"), ("b:1", "own"), ("c:1", "else.bin"), ("c:1", "mid")]


@pytest.mark.parametrize("harm", [os.unlink, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 100)])
def test_a_missing_or_cut_container(three, harm) -> None:
    path = loose(three, "c:1", "else.bin")
    path.chmod(0o644)
    harm(path)
    report = three.verify()
    assert named(report) == [("c:1", "else.bin")]
    for pack in (three.home / "objects/packs").iterdir():
        pack.unlink()
    assert named(three.verify()) == [("a:1", "small"), ("b:1", "own"), ("c:1", "else.bin"), ("c:1", "mid")]


@pytest.mark.parametrize("harm", [lambda path: flip(path, 5), os.unlink])
def test_a_redundant_copy_that_is_damaged_is_not_a_lost_version(three, harm) -> None:
    path = loose(three, "c:1", "mid")
    harm(path)
    report = three.verify()
    assert report.damage == ()
    assert report.damaged_copies == (str(path),)
    assert not report.is_sound
    assert len(report.reasons) == 1


def test_the_part_of_a_loose_file_whose_chunks_live_elsewhere_is_read_too(store: casstore.Store) -> None:
    """Directories link to the whole file, so a bit flipped in the part that is only a copy matters as well."""
    with store.create("m:1") as draft:
        plant(draft.path, {"w.bin": noise(BIG)})
    with store.create("m:2") as draft:
        plant(draft.path, {"w.bin": noise(BIG) + noise(2 * BIG, 1)})
    path = loose(store, "m:2", "w.bin")
    flip(path, 10)
    report = store.verify()
    assert report.damage == ()
    assert report.damaged_copies == (str(path),)


def test_chunks_without_a_row(three, sql: Sql) -> None:
    digest = next(file.digest for file in three.get("a:1").files if file.path == "small")
    sql("DELETE FROM chunk WHERE digest = ?", (bytes(digest),))
    assert named(three.verify()) == [("a:1", "small")]


def test_what_is_deleted_and_saved_again_meanwhile_is_no_damage(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc takes a chunk between its look-up and its reading; by the end of verify a new version has it again."""
    files = {"w.bin": noise(BIG)}
    with store.create("m:1") as draft:
        plant(draft.path, files)
    objects = type(store._workspace.objects)
    real = objects.read_ahead

    def read_ahead(self, digests, threads):
        monkeypatch.setattr(objects, "read_ahead", real)
        wanted = list(digests)
        store.delete("m:1")
        store.gc()
        futures = list(real(self, wanted, threads))
        for _, future in futures:
            future.exception()
        with store.create("m:2") as draft:
            plant(draft.path, files)
        return (each for each in futures)

    monkeypatch.setattr(objects, "read_ahead", read_ahead)
    report = store.verify()
    assert report.is_sound
    assert report.reasons == ()
    assert store.tags() == ["m:2"]


@pytest.mark.parametrize("quick", [True, False])
def test_what_gc_has_condemned_and_taken_away_meanwhile_is_no_damage(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch, quick
) -> None:
    """gc unlinks files before it drops their rows, and may be killed in between."""
    save("m:1", part(1, 2, 3))
    real = References.containers

    def containers(self):
        found = list(real(self))
        assert Child(collect).wait() == -9
        return found

    def collect():
        patch = pytest.MonkeyPatch()
        patch.setattr(References, "containers", real)
        patch.setattr(References, "forget_containers", lambda *_: os.kill(os.getpid(), 9))
        store.gc(evict_all=True)

    with monkeypatch.context() as patch:
        patch.setattr(References, "containers", containers)
        report = store.verify(quick=quick)
    assert not list((store.home / "objects/loose").rglob("*.*"))
    assert (report.reasons, report.is_sound) == ((), True)


def test_a_manifest_that_is_given_its_name_meanwhile_is_not_missing(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_die():
        pytest.MonkeyPatch().setattr(commit_action, "publish", lambda *_: os.kill(os.getpid(), 9))
        save("m:1", {"a": b"1"})

    assert Child(save_and_die).wait() == -9
    (pending,) = (home / "manifests/.pending").iterdir()
    real = Path.read_bytes

    def read_bytes(self):
        if self == pending:
            store.gc()
            assert not pending.exists()
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert store.verify(quick=True).reasons == ()
