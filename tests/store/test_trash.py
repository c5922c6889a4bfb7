"""The trash: what is deleted can be brought back, all of it and to its old place, until gc takes it for good."""

from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

import casstore
from casstore.actions.gc.apply import apply
from casstore.actions.gc.plan import plan
from casstore.actions.gc.report import GcOptions
from casstore.actions.registry import trash as trash_action
from casstore.actions.saving import delete as delete_action
from casstore.actions.saving.save import save as save_files
from casstore.catalog.versions import VersionRow, Versions
from casstore.progress import SILENT
from casstore.storage import files
from tests.kit import Check, Child, Picture, Rot, Save, Sql, contents, counts, noise, part, plant

DAY_NS = 24 * 3600 * 10**9
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def days_later(monkeypatch: pytest.MonkeyPatch):
    """days_later(days): from now on it is so many days later."""
    real = time.time_ns

    def run(days: float) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(days * DAY_NS))

    return run


def said(model: casstore.Model) -> tuple[object, ...]:
    """All that a version says of itself."""
    return (
        model.tag, model.digest, model.size, dict(model.labels), dict(model.metadata), model.created_at, model.base,
        model.is_pinned, list(model.files), contents(model),
    )  # fmt: skip


def trashed(home: Path) -> list[str]:
    return sorted(os.listdir(home / "manifests/.trash"))


def latest(home: Path, name: str = "m") -> str:
    return (home / "models" / name / "latest").read_text()


def test_it_is_gone_and_comes_back_whole(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w": noise(200_000), "deep/x!": b"run", "empty/dir": None, "none": b""}, labels={"stage": "dev"})
    save("m:2", {"w": noise(200_000, 1)}, metadata={"acc": {"eval": 0.5}}, base="m:1")
    save("m:3", {"w": noise(200_000, 2)})
    store.pin("m:2")
    before = {tag: said(store.get(tag)) for tag in store.tags()}
    order = store.tags()
    held = store.get("m:2")
    assert store.delete("m:2") == []
    assert store.tags() == ["m:3", "m:1"]
    assert [str(model.tag) for model in store.list()] == ["m:3", "m:1"]
    assert not store.exists("m:2")
    assert not (home / "models/m/2").exists()
    for look in (lambda: store.get("m:2"), lambda: held.files, lambda: held.path, lambda: store.pin("m:2")):
        with pytest.raises(casstore.TagNotFound):
            look()
    (deleted,) = store.deleted()
    assert (str(deleted.tag), deleted.size, deleted.file_count) == ("m:2", 200_000, 1)
    assert deleted.goes_at - deleted.deleted_at == timedelta(days=7)
    assert trashed(home) == [deleted.id]
    store.gc(evict_all=True, rewrite=True)
    assert str(store.undelete("m:2").tag) == "m:2"
    assert {tag: said(store.get(tag)) for tag in store.tags()} == before
    assert store.tags() == order
    assert (store.deleted(), trashed(home)) == ([], [])
    assert store.verify().is_sound


def test_the_newest_is_the_newest_again(store: casstore.Store, home: Path, save: Save) -> None:
    for number in range(3):
        save(f"m:{number}", {"w": noise(100_000, number)})
    store.delete(["m:2", "m:1"])
    assert (str(store.get("m").tag), latest(home)) == ("m:0", "0")
    store.undelete("m:1")
    assert (str(store.get("m").tag), latest(home)) == ("m:1", "1")
    assert (home / "models/m/1/w").is_file(), "so that other tools find what `latest` names"
    store.undelete("m:2")
    save("m:3", {"w": b"3"})
    store.delete("m:2")
    store.undelete("m:2")
    assert (str(store.get("m").tag), latest(home)) == ("m:3", "3")
    assert store.tags() == ["m:3", "m:2", "m:1", "m:0"]


def test_the_last_of_a_name(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    assert (store.names(), os.listdir(home / "models"), store.list("m")) == ([], [], [])
    with pytest.raises(casstore.TagNotFound):
        store.stats("m")
    assert contents(store.undelete("m")) == part(1)
    assert (store.names(), latest(home)) == (["m"], "1")


def test_its_tag_is_free(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", part(1), metadata={"first": True})
    store.delete("m:1")
    save("m:1", part(2))
    with pytest.raises(casstore.TagExists, match=r"m:1 is taken .* --as m:VERSION"):
        store.undelete("m:1")
    with pytest.raises(casstore.TagExists):
        store.undelete("m:1", as_="m:1")
    assert len(store.deleted()) == 1
    model = store.undelete("m:1", as_="n:old")
    assert (str(model.tag), model.metadata, contents(model)) == ("n:old", {"first": True}, part(1))
    assert contents(store.get("m:1")) == part(2)
    assert (store.deleted(), trashed(home)) == ([], [])
    store.gc()
    assert os.listdir(home / "manifests/.deleted") == []
    assert store.verify().is_sound
    store.close()
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert {tag: contents(again.get(tag)) for tag in again.tags()} == {"n:old": part(1), "m:1": part(2)}


def test_of_several_of_one_tag_the_last_deleted_comes_first(store: casstore.Store, save: Save) -> None:
    for number in range(3):
        save("m:1", part(number))
        store.delete("m:1")
    ids = [each.id for each in store.deleted("m")]
    digests = [each.digest for each in store.deleted("m")]
    assert contents(store.undelete("m:1")) == part(2)
    assert contents(store.undelete("m:1", as_="m:zero", which=ids[2])) == part(0)
    assert contents(store.undelete("m:1", as_="m:one", which=digests[1][:10].upper())) == part(1)
    with pytest.raises(casstore.TagNotFound, match=r"m:1 .* begins with f00d in the trash"):
        store.undelete("m:1", which="f00d")


def test_what_is_asked_for_is_named_as_elsewhere(store: casstore.Store, save: Save) -> None:
    for version in ("alpha1", "alpha2", "beta"):
        save(f"m:{version}", part(1))
    with pytest.raises(casstore.TagNotFound, match=r"m:beta in the trash; it has not been deleted"):
        store.undelete("m:beta")
    store.delete([f"m:{version}" for version in ("alpha1", "alpha2", "beta")])
    with pytest.raises(casstore.AmbiguousTag, match="m:alpha could be m:alpha2, m:alpha1"):
        store.undelete("m:alpha")
    with pytest.raises(casstore.AmbiguousTag):
        store.undelete("m")
    for text in ("m:latest", "m:", "m:*"):
        with pytest.raises(casstore.InvalidTag):
            store.undelete(text)
    with pytest.raises(casstore.TagNotFound, match="list --deleted"):
        store.undelete("x:1")
    with pytest.raises(casstore.InvalidTag):
        store.undelete("m:beta", as_="m:latest")
    assert str(store.undelete("m:b").tag) == "m:beta"


def test_gc_takes_it_when_its_days_are_over(store: casstore.Store, home: Path, save: Save, days_later) -> None:
    save("m:1", {"w": noise(1_200_000)})
    save("m:2", {"w": noise(1_200_000, 1)})
    store.delete("m:1")
    days_later(5)
    store.delete("m:2")
    days_later(6.9)
    report = store.gc()
    assert (counts(report)["trash"], report.freed_bytes, report.trash_versions) == (0, 0, 2)
    days_later(7.1)
    plan = store.gc(dry_run=True)
    assert (counts(plan)["trash"], plan.trash_versions) == (1, 1)
    assert plan.freed_bytes >= 1_200_000
    assert len(store.deleted()) == 2
    report = store.gc()
    assert (counts(report)["trash"], report.freed_bytes) == (1, plan.freed_bytes)
    assert [str(each.tag) for each in store.deleted()] == ["m:2"]
    assert len(trashed(home)) == 1
    with pytest.raises(casstore.TagNotFound):
        store.undelete("m:1")
    assert contents(store.undelete("m:2")) == {"w": noise(1_200_000, 1)}
    assert store.verify().is_sound


def test_it_can_be_emptied_at_once(store: casstore.Store, home: Path, save: Save) -> None:
    for number in range(3):
        save(f"m:{number}", part(number))
    save("n:1", part(1))
    store.delete(["m:0", "m:1", "n:1"])
    plan = store.gc(dry_run=True, empty_trash=True)
    assert (counts(plan)["trash"], plan.trash_versions) == (3, 0)
    report = store.gc(empty_trash=True)
    assert (report.freed_bytes, counts(report)) == (plan.freed_bytes, counts(plan))
    assert store.deleted() == []
    assert (trashed(home), os.listdir(home / "manifests/.deleted")) == ([], [])
    assert set(counts(store.gc()).values()) == {0}
    assert (store.stats().encoded_bytes < 310_000, store.stats().dead_bytes) == (True, 0)
    assert contents(store.get("m:2")) == part(2)


@pytest.mark.parametrize("how", ["now", "no days"])
def test_past_the_trash(store: casstore.Store, home: Path, save: Save, how: str) -> None:
    save("m:1", part(1))
    if how == "no days":
        store.set_setting("trash_days", "0")
    store.delete("m:1", now=how == "now")
    assert (store.deleted(), trashed(home)) == ([], [])
    assert store.gc().freed_bytes >= 300_000
    assert store.stats().stored_bytes == 0


def test_without_days_what_is_there_goes(store: casstore.Store, save: Save) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    store.set_setting("trash_days", "0")
    assert counts(store.gc())["trash"] == 1


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumps_by_years_empties_nothing(store: casstore.Store, save: Save, days_later, years: int) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    days_later(years * 365)
    plan = store.gc(dry_run=True)
    report = store.gc()
    assert plan.clock_moved_days == report.clock_moved_days == pytest.approx(years * 365, abs=1)
    assert counts(report)["trash"] == counts(plan)["trash"] == 0
    assert counts(store.gc())["trash"] == 0
    save("n:1", part(2))
    days_later(years * 365 + 6)
    store.delete("n:1")
    assert counts(store.gc())["trash"] == 0, "its days count from when the jump was seen"
    days_later(years * 365 + 8)
    assert counts(store.gc())["trash"] == 1
    assert [str(each.tag) for each in store.deleted()] == ["n:1"]
    days_later(0)
    assert counts(store.gc())["trash"] == 0
    days_later(8)
    assert counts(store.gc())["trash"] == 1


def test_a_deletion_after_a_jump_is_a_look_too(store: casstore.Store, save: Save, days_later) -> None:
    save("m:1", part(1))
    save("m:2", part(2))
    store.delete("m:1")
    days_later(4000)
    store.delete("m:2")
    assert counts(store.gc())["trash"] == 0


def test_a_clock_that_steps_back_makes_no_older_version_the_latest(store, save: Save, days_later) -> None:
    days_later(30)
    save("m:1", part(1))
    store.delete("m:1")
    days_later(0)
    save("m:2", part(2))
    store.undelete("m:1")
    assert store.tags() == ["m:2", "m:1"]


def test_stats_add_up(store: casstore.Store, save: Save) -> None:
    save("m:1", {"w": noise(2_000_000), "s": noise(3000, 3)})
    save("m:2", {"w": noise(2_000_000)[: 1 << 20] + noise(900_000, 2)})
    store.delete("m:1")
    store.gc()
    usage = store.stats()
    assert (usage.versions, usage.trash_versions, store.stats("m").versions) == (1, 1, 1)
    parts = (usage.encoded_bytes, usage.redundant_bytes, usage.dead_bytes, usage.trapped_bytes, usage.overhead_bytes)
    assert usage.stored_bytes == sum(parts) + usage.trash_bytes + usage.kept_bytes
    assert usage.trash_bytes == pytest.approx(1_000_000, rel=0.1)
    before = usage.stored_bytes
    freed = store.gc(empty_trash=True, rewrite=True, evict_all=True).freed_bytes
    assert freed == pytest.approx(usage.trash_bytes, rel=0.1)
    assert store.stats().stored_bytes <= before - usage.trash_bytes * 0.9
    assert store.stats().trash_versions == store.stats().trash_bytes == 0


def test_what_only_it_has_is_not_packed(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w": noise(1_500_000)})
    save("m:2", {"w": noise(1_500_000, 1)})
    store.delete("m:2")
    report = store.gc(evict_all=True)
    assert counts(report)["packed"] == 1
    assert len([path for path in (home / "objects/loose").rglob("*.*") if path.is_file()]) == 1
    assert contents(store.undelete("m:2")) == {"w": noise(1_500_000, 1)}


def test_a_new_catalog_has_it_too(store: casstore.Store, home: Path, save: Save) -> None:
    for number in range(3):
        save(f"m:{number}", part(number), labels={"n": str(number)})
    store.delete(["m:0", "m:1"])
    save("m:1", part(7))
    before = {str(each.tag): (each.id, each.digest, each.labels) for each in store.deleted()}
    store.close()
    report = casstore.Store.rebuild_catalog(home)
    assert (set(report.tags), set(report.deleted)) == ({"m:1", "m:2"}, {"m:0", "m:1"})
    with casstore.Store(home) as again:
        assert {str(each.tag): (each.id, each.digest, each.labels) for each in again.deleted()} == before
        assert counts(again.gc())["trash"] == 0
        assert contents(again.undelete("m:0")) == part(0)
        assert contents(again.undelete("m:1", as_="m:old")) == part(1)
        assert again.tags() == ["m:1", "m:2", "m:old", "m:0"]
        assert again.verify().is_sound


def test_a_damaged_manifest_in_the_trash(store: casstore.Store, home: Path, save: Save, rot: Rot) -> None:
    for version in ("1", "2", "3"):
        save(f"m:{version}", part(int(version)))
    store.delete(["m:1", "m:2", "m:3"])
    ids = {str(each.tag): each.id for each in store.deleted()}
    rot(home / "manifests/.trash" / ids["m:1"])
    (home / "manifests/.trash" / ids["m:2"]).unlink()
    assert contents(store.undelete("m:1")) == part(1)
    assert contents(store.undelete("m:2", as_="n:2")) == part(2)
    assert store.verify().is_sound
    rot(home / "manifests/.trash" / ids["m:3"])
    store.close()
    report = casstore.Store.rebuild_catalog(home)
    assert report.deleted == ()
    assert len(report.unreadable) == 1
    assert "now" in report.unreadable[0]


def test_a_catalog_from_before_is_noticed(store: casstore.Store, home: Path, save: Save, tmp_path: Path) -> None:
    save("m:1", part(1))
    store.close()
    shutil.copy(home / "catalog.db", tmp_path / "old.db")
    with casstore.Store(home) as between:
        with between.create("m:2") as draft:
            plant(draft.path, part(2))
        between.delete("m:2")
    shutil.copy(tmp_path / "old.db", home / "catalog.db")
    with casstore.Store(home) as old, pytest.raises(casstore.StoreError, match=r"\.trash.* the catalog does not know"):
        old.gc()
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert contents(again.undelete("m:2")) == part(2)


def test_a_catalog_from_before_the_deletion(store: casstore.Store, home: Path, save: Save, tmp_path: Path) -> None:
    save("m:1", part(1))
    store.close()
    shutil.copy(home / "catalog.db", tmp_path / "old.db")
    with casstore.Store(home) as between:
        between.delete("m:1")
    shutil.copy(tmp_path / "old.db", home / "catalog.db")
    with casstore.Store(home) as old:
        old.gc()
        assert not old.verify().is_sound
        old.repair()
        assert old.verify().is_sound
        assert contents(old.get("m:1")) == part(1)
        old.delete("m:1")
        assert contents(old.undelete("m:1")) == part(1)


def test_damage_is_told_and_keeps_gc_from_nothing(store: casstore.Store, home: Path, save: Save, rot: Rot) -> None:
    save("m:1", {"w": noise(1_200_000)})
    save("n:1", part(5))
    store.delete("m:1")
    (loose,) = [path for path in (home / "objects/loose").rglob("*.*") if path.stat().st_size == 1_200_000]
    rot(loose)
    report = store.verify()
    assert (report.damage, report.damaged_trash, report.is_sound) == ((), (casstore.Damage("m:1", "w"),), False)
    assert store.damaged_tags() == []
    loose.unlink()
    with pytest.raises(casstore.StoreError, match="1 files of 1 versions"):
        store.gc()
    store.gc(empty_trash=True)
    assert store.verify().is_sound


def test_a_backup_has_it_and_follows_it(store: casstore.Store, tmp_path: Path, save: Save) -> None:
    target = tmp_path / "backup"
    for number in range(4):
        save(f"m:{number}", part(number))
    store.delete("m:0")
    assert store.backup(target).versions == 3
    with casstore.Store(target) as copy:
        assert [str(each.tag) for each in copy.deleted()] == ["m:0"]
        assert copy.verify().is_sound
    store.undelete("m:0", as_="m:00")
    store.delete(["m:1", "m:2"])
    store.backup(target)
    store.undelete("m:1")
    assert (store.backup(target).versions, trashed(target)) == (3, [store.deleted()[0].id])
    store.gc(empty_trash=True)
    store.delete("m:3")
    store.backup(target)
    with casstore.Store(target) as copy:
        assert (copy.tags(), [str(each.tag) for each in copy.deleted()]) == (store.tags(), ["m:3"])
        assert contents(copy.undelete("m:3")) == part(3)
        copy.gc()
        assert copy.verify().is_sound
    casstore.Store.rebuild_catalog(target)
    with casstore.Store(target) as copy:
        assert {tag: contents(copy.get(tag)) for tag in copy.tags()} == {
            "m:00": part(0), "m:1": part(1), "m:3": part(3)
        }  # fmt: skip


def test_what_others_removed_from_models_goes_there_too(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", part(1))
    save("m:2", part(2))
    shutil.rmtree(home / "models/m/1")
    assert store.sync_tree(prune=True).deleted == ("m:1",)
    assert [str(each.tag) for each in store.deleted()] == ["m:1"]
    assert not (home / "quarantine/pruned").exists()
    assert contents(store.undelete("m:1")) == part(1)
    shutil.rmtree(home / "models/m/1")
    store.sync_tree(prune=True)
    assert contents(store.restore_pruned("m:1")) == part(1)
    assert store.deleted() == []


def test_a_deletion_that_was_cut_short_is_finished_first(store, home: Path, save: Save, monkeypatch) -> None:
    save("m:1", part(1))
    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "sweep", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.delete("m:1")
    assert ((home / "models/m/1").is_dir(), trashed(home)) == (True, [])
    assert contents(store.undelete("m:1")) == part(1)
    assert store.verify().is_sound
    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "sweep", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.delete("m:1")
    store.gc()
    assert ((home / "models/m").exists(), len(trashed(home))) == (False, 1)
    assert contents(store.undelete("m:1")) == part(1)


def test_gc_leaves_alone_what_is_back_meanwhile(store, home: Path, save: Save, monkeypatch) -> None:
    save("m:1", part(1))
    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "sweep", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.delete("m:1")
    planned = plan(store._workspace, GcOptions(empty_trash=True), measured=False)
    assert (planned.unfinished.count, len(planned.trash.versions)) == (1, 1)
    store.undelete("m:1")
    apply(store._workspace, planned, SILENT)
    assert len(list((home / "manifests/m").iterdir())) == 1
    assert contents(store.get("m:1")) == part(1)
    assert store.verify().is_sound


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("as_", [None, "n:2"])
@pytest.mark.parametrize("after", ["rename", "write_file"])
def test_bringing_back_that_is_cut_short_leaves_it_in_the_trash(
    store: casstore.Store, home: Path, save: Save, monkeypatch, as_: str | None, after: str
) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    real = getattr(files, after)

    def cut_short(*arguments, **options):
        monkeypatch.undo()
        real(*arguments, **options)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, after, cut_short)
    if (after == "rename") == (as_ is None):
        with pytest.raises(OSError, match="Input/output"):
            store.undelete("m:1", as_=as_)
    monkeypatch.undo()
    if store.deleted():
        assert (len(trashed(home)), store.tags()) == (1, [])
        assert not list((home / "manifests").glob("[!.]*/*"))
        assert contents(store.undelete("m:1", as_=as_)) == part(1)
    store.gc()
    assert store.verify().is_sound
    assert os.listdir(home / "manifests/.deleted") == []


def test_a_tag_that_is_taken_at_the_last_moment(store, home: Path, save: Save, sql: Sql, monkeypatch) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    real = trash_action._place_manifest

    def place(*arguments) -> None:
        real(*arguments)
        sql("INSERT INTO elsewhere VALUES ('m', '1', 'origin', zeroblob(32), 0, 0)")

    monkeypatch.setattr(trash_action, "_place_manifest", place)
    with pytest.raises(casstore.TagExists):
        store.undelete("m:1")
    monkeypatch.undo()
    assert (len(trashed(home)), list((home / "manifests").glob("[!.]*"))) == (1, [])
    with pytest.raises(casstore.TagExists):
        store.undelete("m:1")
    assert contents(store.undelete("m:1", as_="m:2")) == part(1)
    store.gc()
    assert store.verify().is_sound


def test_gc_beside_it(store: casstore.Store, home: Path, save: Save, check_catalog: Check) -> None:
    """Processes delete, bring back, save anew and empty the trash at once: what is there is whole."""
    for number in range(4):
        save(f"m:{number}", {"w": noise(150_000, number), "x": noise(90_000, 50)})

    def work(seed: int) -> None:
        with casstore.Store(home, auto_gc=False) as mine:
            for turn in range(12):
                number = (seed + turn) % 4
                try:
                    if seed == 0:
                        mine.gc(empty_trash=turn % 3 == 2, evict_all=True)
                    elif turn % 3 == 0:
                        mine.delete(f"m:{number}")
                    elif turn % 3 == 1:
                        mine.undelete(f"m:{number}")
                    else:
                        with mine.create(f"m:{number}") as draft:
                            plant(draft.path, {"w": noise(150_000, number), "x": noise(90_000, 50)})
                except (casstore.TagNotFound, casstore.TagExists, casstore.StoreLocked):
                    pass

    children = [Child(partial(work, seed)) for seed in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    for each in store.deleted():
        store.undelete(each.tag, as_=f"back:{each.id}", which=each.id)
    store.gc()
    for model in store.list():
        assert contents(model)["x"] == noise(90_000, 50)
    check_catalog()
    report = store.verify()
    assert report.is_sound, report.reasons


def test_a_store_without_room_for_it(store: casstore.Store, home: Path, save: Save) -> None:
    """One of an earlier release: the directory is made with the next write, and its absence is no damage."""
    save("m:1", part(1))
    os.rmdir(home / "manifests/.trash")
    store.close()
    with casstore.Store(home) as old:
        assert (old.deleted(), old.verify().is_sound) == ([], True)
        old.delete("m:1")
        assert contents(old.undelete("m:1")) == part(1)


def test_events_tell(store: casstore.Store, save: Save, sql: Sql) -> None:
    size = save("m:1", part(1)).size
    store.delete("m:1")
    store.undelete("m:1", as_="n:1")
    store.delete("n:1")
    store.gc(empty_trash=True)
    told = [(event.kind, event.tag, event.details) for event in store._workspace.catalog.events.newest()]
    assert [each for each in told if each[0] in ("deleted", "undeleted", "emptied trash")] == [
        ("deleted", "m:1", {"for_good": False, "size_bytes": size}),
        ("undeleted", "n:1", {"was": "m:1"}),
        ("deleted", "n:1", {"for_good": False, "size_bytes": size}),
        ("emptied trash", None, {"name": "n", "versions": 1, "tags": ["n:1"]}),
    ]


def test_looking_changes_nothing(store: casstore.Store, save: Save, picture: Picture) -> None:
    save("m:1", part(1))
    store.delete("m:1")
    before = picture()
    store.deleted()
    store.gc(dry_run=True, empty_trash=True)
    assert picture() == before


@pytest.mark.parametrize("look", ["m:1", "m"])
def test_one_that_comes_back_under_another_tag_while_it_is_looked_for(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    save("m:1", {"w": b"1"})
    by_id = Versions.by_id

    def late(self: Versions, version_id: int) -> VersionRow | None:
        monkeypatch.setattr(Versions, "by_id", by_id)
        with casstore.Store(store.home) as other:
            other.delete("m:1")
            other.undelete("m:1", as_="m:2")
        return by_id(self, version_id)

    monkeypatch.setattr(Versions, "by_id", late)
    if look == "m":
        assert str(store.get(look).tag) == "m:2"
    else:
        with pytest.raises(casstore.TagNotFound, match="m:1"):
            store.get(look)


def test_one_that_is_deleted_as_soon_as_it_is_saved(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_lose(*arguments: object) -> object:
        done = save_files(*arguments)  # type: ignore[arg-type]
        with casstore.Store(store.home) as other:
            other.delete("m:1")
        return done

    monkeypatch.setattr("casstore.draft.save", save_and_lose)
    with pytest.raises(casstore.TagNotFound, match="m:1 was saved, and has been deleted meanwhile"):
        save("m:1", {"w": b"1"})
    assert store.tags() == []
