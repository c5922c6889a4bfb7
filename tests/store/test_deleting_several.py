"""Several versions of one name are deleted at once: one lock, one transaction, one set of fsyncs."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import casstore
from casstore.actions.directories import leavings
from casstore.actions.saving import delete as delete_action
from casstore.catalog.deletions import Deletions
from casstore.storage import files as storage_files
from tests.kit import Child, noise, plant, streamed


@pytest.fixture
def save(store):
    def run(tag, seed=0):
        with store.create(tag, durability="relaxed") as draft:
            plant(draft.path, {"w.bin": noise(100_000, seed), "own": tag.encode()})

    return run


@pytest.fixture
def filled(store, save):
    for number in range(12):
        save(f"m:{number}", number)
    save("n:1")
    save("n:2")


@pytest.fixture
def costs(store, monkeypatch):
    """costs(action): how many fsyncs, commits, and takings of a name's lock it takes."""

    def run(action):
        counts = dict.fromkeys(("fsync", "commit", "lock"), 0)

        def counted(name, real):
            def call(*args, **options):
                counts[name] += 1
                return real(*args, **options)

            return call

        connections = type(store._workspace.catalog._connections)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted("fsync", os.fsync))
            patch.setattr(connections, "write", counted("commit", connections.write))
            patch.setattr(type(store._workspace), "name_lock", counted("lock", type(store._workspace).name_lock))
            action()
        return counts

    return run


def test_many_cost_as_much_as_one(store, filled, costs):
    one = costs(lambda: store.delete("m:0"))
    many = costs(lambda: store.delete([f"m:{number}" for number in range(1, 11)]))
    assert many == one
    assert one["lock"] == 1
    assert 0 < one["fsync"] < 8
    two_names = costs(lambda: store.delete(["m:11", "n:1", "n:2"]))
    assert two_names["lock"] == 2


def test_all_are_gone(store, home, filled):
    store.delete(["m:3", casstore.Tag.parse("m:4"), "m:4", "n:2"])
    assert not {"m:3", "m:4", "n:2"} & set(store.tags())
    assert len(store.tags()) == 11
    assert not (home / "models/m/3").exists()
    assert not (home / "models/n/2").exists()
    assert (home / "models/n/latest").read_text() == "1"
    store.delete([f"m:{number}" for number in range(12) if number not in (3, 4)])
    assert not (home / "models/m").exists()
    assert not (home / "manifests/m").exists()
    assert {step.name: step.count for step in store.gc().steps}["unfinished work"] == 0
    assert store.verify().is_sound
    assert store.delete([]) == []


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        (["m:1", "m:99"], casstore.TagNotFound),
        (["m:1", "n"], casstore.InvalidTag),
        (["n:1", "m:99"], casstore.TagNotFound),
    ],
)
def test_none_is_deleted_where_one_cannot_be_found(store, filled, tags, error):
    before = store.tags()
    with pytest.raises(error):
        store.delete(tags)
    assert store.tags() == before


@pytest.mark.usefixtures("no_trash")
def test_none_of_a_name_is_deleted_where_one_goes_meanwhile(store, home, filled, monkeypatch):
    real = Deletions.delete

    def delete(self, inodes, event, **how):
        monkeypatch.undo()
        store._workspace.catalog._connections.write  # noqa: B018 - the name's lock is held: past it, as by an older release
        with store._workspace.catalog._connections.write() as connection:
            connection.execute("DELETE FROM version WHERE name = 'm' AND version = '2'")
        return real(self, inodes, event, **how)

    monkeypatch.setattr(Deletions, "delete", delete)
    with pytest.raises(casstore.TagNotFound, match="m:2 is not in this store"):
        store.delete(["m:1", "m:2", "m:3"])
    assert {"m:1", "m:3"} <= set(store.tags())
    assert (home / "models/m/1").is_dir()


def test_what_is_stuck_keeps_no_other_back(store, home, filled, monkeypatch, caplog):
    real = leavings.take_away

    def take_away(workspace, session, tag, *rest):
        if tag.version == "2":
            raise OSError(5, "Input/output error", "models/m/2")
        return real(workspace, session, tag, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "take_away", take_away)
        store.delete(["m:1", "m:2", "m:3"])
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("m:2 is deleted, but not all that it left could be taken away (models/m/2: Input/output")
    assert not {"m:1", "m:2", "m:3"} & set(store.tags())
    assert [(home / f"models/m/{number}").exists() for number in (1, 2, 3)] == [False, True, False]
    assert [str(tag) for _, tag in store._workspace.catalog.deletions.tombstones()] == ["m:2"]
    assert {step.name: step.count for step in store.gc().steps}["unfinished work"] == 1
    assert not (home / "models/m/2").exists()


def test_strangers_files_are_kept(store, home, filled):
    for number in (1, 2):
        (home / f"models/m/{number}/mine").write_bytes(b"mine %d" % number)
    kept = store.delete(["m:1", "m:2", "m:3"])
    assert sorted(Path(path).read_bytes() for path in kept) == [b"mine 1", b"mine 2"]


@pytest.mark.crash
def test_killed_anywhere(store, home, filled, tmp_path):
    """All of them are there, or none is, and the next gc finishes it."""
    store.delete([f"m:{number}" for number in range(3, 12)])
    store.gc()
    store.close()
    shutil.copytree(home, tmp_path / "template", symlinks=True)
    code, number, outcomes = -9, 0, set()
    while code == -9:
        number += 1
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "template", home, symlinks=True)

        def doomed(number=number):
            calls = iter(range(number, 0, -1))

            def killing(real):
                def call(*arguments, **named):
                    if next(calls, 0) == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **named)

                return call

            for verb in ("rename", "sync_directory", "remove_file", "remove_tree", "remove_empty_directory"):
                setattr(storage_files, verb, killing(getattr(storage_files, verb)))
            for verb in ("delete", "forget_tombstones"):
                setattr(Deletions, verb, killing(getattr(Deletions, verb)))
            with casstore.Store(home, auto_gc=False) as killed:
                killed.delete(["m:0", "m:1"])

        code = Child(doomed).wait()
        with casstore.Store(home, auto_gc=False) as again:
            there = {tag for tag in again.tags() if tag.startswith("m:")}
            assert there in ({"m:0", "m:1", "m:2"}, {"m:2"})
            outcomes.add(len(there))
            again.gc(evict_all=True)
            assert again.verify().is_sound
            assert streamed(again.get("m:2"))["own"] == b"m:2"
            assert again._workspace.catalog.deletions.tombstones() == []
            assert (home / "models/m/latest").read_text() == "2"
            assert sorted(path.name.partition(".")[0] for path in (home / "manifests/m").iterdir()) == sorted(
                tag.partition(":")[2] for tag in there
            )
    assert code == 0
    assert outcomes == {1, 3}
    assert number > 8


@pytest.mark.usefixtures("no_trash")
def test_gc_finishes_several_deletions_of_one_tag(store, save, monkeypatch):
    """Deleted, saved again and deleted again, each time by a process that was killed right after."""
    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "sweep", lambda *_: delete_action.Swept())
        for seed in (1, 2):
            save("m:1", seed)
            store.delete("m:1")
        save("m:2")
    assert len(store._workspace.catalog.deletions.tombstones()) == 2
    store.gc()
    assert store._workspace.catalog.deletions.tombstones() == []
    assert [step.count for step in store.gc().steps] == [0] * 9
    assert store.verify().is_sound
