"""The history of a store: what was done, by whom, in which order, and how much of it is kept."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import casstore
from casstore.catalog import events as events_module
from casstore.storage import machine
from tests.kit import Child, Save, Sql


def kinds(store: casstore.Store) -> list[tuple[str, str | None]]:
    return [(event.kind, event.tag) for event in store.events()]


def test_what_is_done_is_told(store: casstore.Store, home: Path, save: Save, tmp_path: Path) -> None:
    save("m:1", {"a": b"1"})
    save("m:2", {"a": b"2"})
    archive = store.export("m:1", tmp_path / "m.casmodel")
    store.export("m:2", tmp_path / "m2.tar")
    store.delete(["m:1", "m:2"])
    store.import_archive(archive)
    store.import_archive(tmp_path / "m2.tar")
    store.import_archive(archive)  # which brings nothing
    store.gc(dry_run=True, evict_all=True)
    store.gc(evict_all=True)
    store.gc(evict_all=True)  # which finds nothing to do
    store.repair()  # likewise
    shutil.rmtree(home / "manifests/m")
    store.repair()
    assert kinds(store) == [
        ("saved", "m:1"), ("saved", "m:2"), ("deleted", "m:1"), ("deleted", "m:2"), ("imported", "m:1"),
        ("imported", "m:2"), ("gc", None), ("repaired", None),
    ]  # fmt: skip
    first, *_, gc, repair = store.events()
    assert first.actor == machine.who()
    assert first.details == {"size_bytes": 1}
    assert abs(datetime.now(timezone.utc) - first.happened_at) < timedelta(hours=1)
    assert gc.details["freed_bytes"] >= 0
    assert repair.details == {"restored": 2}


def test_what_fails_is_not_told(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"1"})
    for tags in (["m:1", "m:3"], ["n:1"]):
        with pytest.raises(casstore.TagNotFound):
            store.delete(tags)
    with pytest.raises(casstore.TagExists):
        save("m:1", {"a": b"2"})
    assert kinds(store) == [("saved", "m:1")]


def test_pushes_and_pulls_are_told(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    save("m:1", {"a": b"1"})
    save("m:2", {"a": b"2"})
    with store.add_remote("origin", str(tmp_path / "there")) as there:
        there.push()
        there.push()
    store.evict("m:1", to_remote="origin")
    store.get("m:1")
    told = kinds(store)[2:]
    assert told == [("pushed", "m:1"), ("pushed", "m:2"), ("left to remote", "m:1"), ("pulled", "m:1")]
    details = [event.details for event in store.events(after=2)]
    assert all(str(tmp_path / "there") in each.get("remote", "") or each["remote"] == "origin" for each in details)


def test_pruned_and_restored(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"a": b"1"})
    save("m:2", {"a": b"2"})
    for trash_days, back in (("30", "undeleted"), ("0", "restored")):
        store.set_setting("trash_days", trash_days)
        before = store.events()[-1].number
        shutil.rmtree(store.get("m:1").path)
        store.sync_tree(prune=True)
        store.restore_pruned("m:1")
        told = [(event.kind, event.details.get("for_good")) for event in store.events(after=before)]
        assert told == [("pruned", trash_days == "0"), (back, None)]


def test_a_new_catalog_begins_again(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"a": b"1"})
    store.close()
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        (event,) = again.events()
        assert (event.kind, event.details["versions"]) == ("catalog rebuilt", 1)


def test_which_are_asked_for(store: casstore.Store, save: Save, sql: Sql) -> None:
    for number in range(4):
        save(f"m:{number}", {"a": b"1"})
    days = 24 * 3600 * 10**9
    sql("UPDATE event SET happened_at = happened_at - ? WHERE number <= 2", (3 * days,))
    sql("UPDATE event SET happened_at = happened_at + ? WHERE number = 3", (30 * 365 * days,))  # a clock was wrong
    now = datetime.now(timezone.utc)
    for since, expected in (
        (timedelta(days=1), [3, 4]), (timedelta(days=4), [1, 2, 3, 4]), (now - timedelta(days=1), [3, 4]),
        (now + timedelta(days=1), [3]), (timedelta.max, [1, 2, 3, 4]), (datetime.max, []), (datetime.min, [1, 2, 3, 4]),
        (datetime.now() - timedelta(days=1), [3, 4]), (timedelta(days=-999_999_999), []),
    ):  # fmt: skip
        assert [event.number for event in store.events(since)] == expected, since
    assert [event.number for event in store.events(limit=2)] == [3, 4]
    assert [event.number for event in store.events(after=1, limit=2)] == [3, 4]
    assert store.events(limit=0) == []


def test_only_the_newest_are_kept(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MOST_EVENTS", 10)
    monkeypatch.setattr(events_module, "_TRIMMED_EVERY", 4)
    note = store._workspace.catalog.events.note
    for number in range(24):
        note("tried", f"m:{number}")
    assert [event.tag for event in store.events()] == [f"m:{number}" for number in range(14, 24)]
    note("tried", "last")
    assert store.events()[-1].number == 25


def test_a_damaged_record_is_told(store: casstore.Store, save: Save, sql: Sql) -> None:
    save("m:1", {"a": b"1"})
    sql("UPDATE event SET details = '[' WHERE number = 1")
    with pytest.raises(casstore.CatalogDamaged):
        store.events()


def test_following(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:0", {"a": b"0"})
    coming = store.follow_events(timeout=60)
    save("m:1", {"a": b"1"})  # by this thread's own connection
    assert next(coming).tag == "m:1"

    def other() -> None:
        with casstore.Store(home) as opened, opened.create("m:2") as draft:
            Path(draft.path, "a").write_bytes(b"2")

    assert Child(other).wait() == 0
    assert next(coming).tag == "m:2"
    thread = threading.Thread(target=lambda: save("m:3", {"a": b"3"}))
    thread.start()
    assert next(coming).tag == "m:3"
    thread.join()
    store.set_setting("keep_days", "3")
    assert [event.tag for event in store.follow_events(after=0, timeout=0)] == ["m:0", "m:1", "m:2", "m:3"]
    assert list(store.follow_events(timeout=0)) == []


def test_who_is_any_text(store: casstore.Store, home: Path, tmp_path: Path) -> None:
    """The environment says who it is, and a name that is no text must not keep anybody from saving."""
    (tmp_path / "a").write_bytes(b"a")

    def other() -> None:
        os.environ["LOGNAME"] = "a\udcffb\x1b[2J" + "c" * 500
        with casstore.Store(home) as opened:
            opened.save("m:1", tmp_path / "a")

    assert Child(other).wait() == 0
    actor = store.events()[0].actor
    assert actor.startswith("a?b?[2Jccc")
    assert len(actor) < 210


def test_who_is_asked_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    machine._who.cache_clear()
    asked = []
    monkeypatch.setattr("getpass.getuser", lambda: asked.append(1) or f"u{len(asked)}")
    try:
        assert machine.who() == machine.who()
        assert machine.who().startswith("u1@")
        assert Child(lambda: not machine.who().startswith("u2@")).wait() == 0
    finally:
        machine._who.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_store_that_can_only_be_read(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # which others can reach
        os.chmod(place, 0o755)
        home = Path(place) / "store"
        (tmp_path / "a").write_bytes(b"a")
        casstore.Store.init(home, shared="all")
        with casstore.Store(home) as store:
            store.save("m:1", tmp_path / "a")

        def other() -> int:
            os.setgid(65534)
            os.setuid(65534)
            with casstore.Store(home) as opened:
                opened.get("m:1")
                opened._workspace.catalog.events.note("tried")
                return [event.kind for event in opened.follow_events(after=0, timeout=0)] != ["saved"]

        assert Child(other).wait() == 0
        with casstore.Store(home) as store:
            assert kinds(store) == [("saved", "m:1")]
