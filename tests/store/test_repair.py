"""repair: heals from whatever has the bytes, moves damage to quarantine, never makes anything worse."""

from __future__ import annotations

import os
import select
import shutil
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.health.repair import _Repair
from casstore.actions.saving import commit as commit_action
from casstore.actions.workspace import Workspace
from casstore.catalog.commits import Commits
from casstore.storage import files as storage_files
from casstore.storage.descriptors import Descriptor
from tests.kit import Check, Child, Picture, Save, Sql, checkpoint, contents, flip, noise, part, plant, script, streamed

pytestmark = pytest.mark.crash

BIG = 2_500_000


@pytest.fixture
def two(save: Save):
    """a:1 with a large adopted file, and small ones in a pack; b:1 shares the large one."""
    save("a:1", {"w.bin": noise(BIG), "small": noise(500, 9)}, labels={"k": "v"}, metadata={"n": [1, {"x": 2.5}]})
    save("b:1", {"copy/w.bin": noise(BIG), "mid": noise(100_000, 4)})
    return {
        "a:1": {"w.bin": noise(BIG), "small": noise(500, 9)},
        "b:1": {"copy/w.bin": noise(BIG), "mid": noise(100_000, 4)},
    }


def containers(store, kind="loose"):
    return sorted(path for path in (store.home / "objects" / kind).rglob("*") if path.is_file())


def large(store):
    return max(containers(store), key=lambda path: path.stat().st_size)


@pytest.fixture
def whole(store: casstore.Store, settled: Check):
    """whole(expected): every version reads right, chunks and directory, and nothing is left to repair."""

    def check(expected):
        for tag, files in expected.items():
            assert streamed(store.get(tag)) == files
            assert contents(store.get(tag)) == files
        again = store.repair()
        assert (again.healed, again.damage, again.restored, again.quarantined) == ((), (), (), ())
        store.gc()
        settled()
        assert {tag: streamed(store.get(tag)) for tag in expected} == expected

    return check


def named(damage):
    return [(each.tag, each.path) for each in damage]


def test_a_sound_store_is_left_alone(store: casstore.Store, two, picture: Picture) -> None:
    before = picture()
    report = store.repair()
    assert (report.healed, report.damage, report.restored, report.quarantined) == ((), (), (), ())
    assert picture() == before


@pytest.mark.parametrize("offset", [0, BIG // 2, BIG - 1])
def test_from_files_that_are_given(store: casstore.Store, two, whole, tmp_path: Path, offset) -> None:
    path = large(store)
    flip(path, offset)
    lost = store.repair()
    assert named(lost.damage) == [("a:1", "w.bin"), ("b:1", "copy/w.bin")]
    assert lost.healed == ()
    assert lost.quarantined == (str(store.home / "quarantine" / path.name),)
    assert not path.exists()
    with pytest.raises(casstore.IntegrityError, match=r"w\.bin of a:1"):
        store.get("a:1").open("w.bin").read()
    with pytest.raises(casstore.IntegrityError):
        _ = store.get("a:1").path
    assert named(store.verify().damage) == named(lost.damage)
    with store.get("a:1").open("small") as file:
        assert file.read() == noise(500, 9)
    backup = plant(tmp_path / "backup", {"deep/elsewhere.dat": noise(BIG), "other": b"x"})
    report = store.repair([backup])
    assert named(report.healed) == named(lost.damage)
    assert report.damage == ()
    whole(two)


def test_from_the_quarantine_itself_what_is_sound_there(store: casstore.Store, two, whole, sql: Sql) -> None:
    """A container that lost its chunks' rows: the bytes are found where they stand."""
    sql("DELETE FROM chunk")
    report = store.repair()
    assert report.damage == ()
    assert len(report.healed) == 4
    whole(two)


def test_from_a_directory_of_copies(store: casstore.Store, two, whole, sql: Sql) -> None:
    """Copies under models/ are what a damaged loose file is healed from."""
    store.set_setting("link_mode", "copy")
    for tag in two:
        shutil.rmtree(store.home / "models" / tag.replace(":", "/"))
        assert store.get(tag).path
    for path in containers(store):
        flip(path, 100)
    report = store.repair()
    assert report.damage == ()
    assert ("a:1", "w.bin") in named(report.healed)
    whole(two)


def test_from_a_redundant_loose_file(store: casstore.Store, save: Save, whole) -> None:
    save("a:1", {"mid": noise(500_000)})
    (pack,) = containers(store, "packs")
    flip(pack, 200_000)
    report = store.repair()
    assert named(report.healed) == [("a:1", "mid")]
    assert report.damage == ()
    assert report.quarantined == (str(store.home / "quarantine" / pack.name),)
    whole({"a:1": {"mid": noise(500_000)}})


def test_a_redundant_loose_file_that_is_damaged(store: casstore.Store, save: Save, whole) -> None:
    save("a:1", {"mid": noise(500_000)})
    (loose,) = containers(store)
    flip(loose, 200_000)
    report = store.repair()
    assert (report.healed, report.damage) == ((), ())
    assert report.restored == ("a:1",)
    assert [Path(path).name for path in report.quarantined] == [loose.name]
    whole({"a:1": {"mid": noise(500_000)}})


def test_sound_chunks_beside_damaged_ones_are_kept(store: casstore.Store, save: Save) -> None:
    """One flipped bit in a pack of many files costs the one file."""
    files = {f"{number}": noise(20_000, number) for number in range(30)}
    save("a:1", files, materialize=False)
    (pack,) = containers(store, "packs")
    flip(pack, 20_000 * 10)
    report = store.repair()
    ((tag, path),) = named(report.damage)
    assert tag == "a:1"
    assert containers(store, "packs") != [pack]
    for other in files.keys() - {path}:
        with store.get("a:1").open(other) as file:
            assert file.read() == files[other]
    assert named(store.verify().damage) == [(tag, path)]
    save("again:1", files)
    assert streamed(store.get("a:1")) == files
    assert store.verify().is_sound


@pytest.mark.parametrize("backup", ["files", "store"])
def test_deltas_whose_base_is_damaged(store: casstore.Store, save: Save, whole, deltas, tmp_path: Path, backup) -> None:
    expected = {f"m:{step}": checkpoint(step) for step in range(4)}
    for tag, files in expected.items():
        save(tag, files, materialize=False)
    assert deltas()
    shutil.copytree(store.home, tmp_path / "backup")
    for pack in containers(store, "packs"):
        for offset in range(100, pack.stat().st_size, 400_000):
            flip(pack, offset)
    lost = store.repair()
    assert len(lost.damage) >= 4
    source = tmp_path / "backup"
    if backup == "files":
        for step in range(4):
            source = plant(tmp_path / "files" / str(step), checkpoint(step)).parent
    report = store.repair([source])
    assert report.damage == ()
    assert set(named(report.healed)) == set(named(lost.damage))
    whole(expected)


def test_a_manifest_that_is_gone_or_damaged(store: casstore.Store, two, whole, picture: Picture) -> None:
    before = picture()
    for path in (store.home / "manifests").glob("[!.]*/*"):
        if path.parent.name == "a":
            path.unlink()
        else:
            flip(path, 30)
    assert len(store.verify(quick=True).damaged_copies) == 2
    report = store.repair()
    assert report.restored == ("a:1", "b:1")
    assert {key: value for key, value in picture()[0].items() if not key.startswith("quarantine/")} == before[0]
    whole(two)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE version SET description = replace(description, 'v', 'w')",
        "UPDATE version SET created_at = created_at + 1",
        "UPDATE version SET size = size + 1",
        "UPDATE file SET path = 'x' || path",
        "UPDATE file SET digest = randomblob(32)",
        "UPDATE file SET executable = NOT executable",
        "DELETE FROM file",
        "UPDATE blob SET recipe = randomblob(20)",
        "DELETE FROM blob",
    ],
)
def test_rows_that_do_not_say_what_the_manifest_says(
    store: casstore.Store, two, whole, sql: Sql, picture: Picture, harm
) -> None:
    before = picture()[1]
    sql(harm)
    report = store.repair()
    assert report.damage == ()
    assert "a:1" in report.restored
    after = picture()[1]
    for table in ("version", "file", "label", "metadata", "blob"):
        assert after[table] == before[table], table
    whole(two)
    assert store.get("a:1").labels == {"k": "v"}


def test_an_altered_file_of_a_directory_is_kept_aside(store: casstore.Store, two, whole) -> None:
    path = Path(store.get("a:1").path) / "small"
    path.chmod(0o644)
    path.write_bytes(b"mine")
    report = store.repair()
    assert report.restored == ("a:1",)
    assert [Path(each).read_bytes() for each in report.quarantined] == [b"mine"]
    whole(two)


def test_a_write_through_a_hardlink(store: casstore.Store, two, whole, tmp_path: Path) -> None:
    path = Path(store.get("a:1").path) / "w.bin"
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(b"overwritten")
    report = store.repair([plant(tmp_path / "backup", {"w": noise(BIG)})])
    assert report.damage == ()
    assert ("a:1", "w.bin") in named(report.healed)
    whole(two)


def test_a_source_that_is_not_there(store: casstore.Store, two, tmp_path: Path) -> None:
    with pytest.raises(casstore.InvalidSource, match="not there"):
        store.repair([tmp_path / "nowhere"])


def test_not_while_gc_runs(store: casstore.Store, home: Path, two) -> None:
    from casstore.storage.locks import Lock

    with Lock(home / "locks/.gc.lock") as lock:
        assert lock.try_acquire()
        with pytest.raises(casstore.StoreLocked):
            store.repair()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch):
    """meanwhile(owner, name, function): just before that call, once, another process runs the function to its end, or
    with `must_wait` begins to. Returns what waits for it and gives its exit code."""
    processes: list[Any] = []

    def arrange(owner, name, function, *, must_wait=False):
        real = getattr(owner, name)

        def call(*args, **options):
            if not processes:
                ended, is_running = os.pipe()
                processes.append(Child(function))
                os.close(is_running)
                select.select([ended], [], [], 0.2 if must_wait else 60)
                os.close(ended)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)
        return lambda: processes[0].wait()

    return arrange


def test_what_is_saved_anew_meanwhile_is_not_given_up(
    store: casstore.Store, save: Save, meanwhile, settled: Check
) -> None:
    save("m:1", part(1), materialize=False)
    containers(store, "packs")[0].unlink()

    def save_again():
        save("m:2", part(1), materialize=False)

    ended = meanwhile(_Repair, "_quarantine", save_again)
    report = store.repair()
    assert ended() == 0
    assert report.damage == ()
    assert streamed(store.get("m:1")) == streamed(store.get("m:2")) == part(1)
    settled()


def test_a_version_that_is_deleted_while_its_manifest_is_made_anew_stays_deleted(
    store: casstore.Store, save: Save, home: Path, meanwhile
) -> None:
    save("m:1", {"a": b"1"})
    save("m:2", {"a": b"2"})
    next((home / "manifests/m").glob("1.*")).unlink()
    ended = meanwhile(storage_files, "write_file", lambda: store.delete("m:1"), must_wait=True)
    store.repair()
    assert ended() == 0
    assert store.tags() == ["m:2"]
    store.gc()
    store.close()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:2",)


def test_a_version_that_is_deleted_while_its_rows_are_made_anew_stays_deleted(
    store: casstore.Store, save: Save, sql: Sql, meanwhile, settled: Check
) -> None:
    save("m:1", {"a": b"1"})
    sql("UPDATE file SET size = 7")
    ended = meanwhile(Commits, "restore", lambda: store.delete("m:1"), must_wait=True)
    store.repair()
    assert ended() == 0
    assert store.tags() == []
    store.gc()
    settled()


def test_a_directory_that_is_of_another_version_by_now_is_left_alone(
    store: casstore.Store, save: Save, home: Path, meanwhile
) -> None:
    save("m:1", {"a": b"1"})
    path = home / "models/m/1/a"
    path.chmod(0o644)
    path.write_bytes(b"altered")

    def replace():
        store.delete("m:1")
        save("m:1", {"a": b"another"})

    ended = meanwhile(_Repair, "_mend", replace)
    assert store.repair().quarantined == ()
    assert ended() == 0
    assert contents(store.get("m:1")) == {"a": b"another"}


def test_the_lock_of_a_name_is_taken_once_for_a_version_that_is_sound(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it would be let in between for nothing."""
    save("m:1", {"a": b"1"})
    save("n:1", {"a": b"1"})
    taken: list[str] = []
    real = Workspace.name_lock

    def name_lock(self: Workspace, name: str) -> Descriptor:
        taken.append(name)
        return real(self, name)

    monkeypatch.setattr(Workspace, "name_lock", name_lock)
    store.repair()
    assert taken == ["m", "n"]


def test_a_damaged_manifest_that_has_not_been_given_its_name(
    store: casstore.Store, save: Save, home: Path, whole
) -> None:
    def save_and_die():
        pytest.MonkeyPatch().setattr(commit_action, "publish", lambda *_: os.kill(os.getpid(), 9))
        save("m:1", {"a": b"1"})

    assert Child(save_and_die).wait() == -9
    (pending,) = (home / "manifests/.pending").iterdir()
    flip(pending, 30)
    assert store.repair().restored == ("m:1",)
    assert store.verify().is_sound
    store.gc()
    assert store.verify().is_sound, "gc has not put the damaged one in its place"
    whole({"m:1": {"a": b"1"}})


def test_sources_that_hold_a_store_which_is_open(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    """Closing a file drops every lock that the process has on it, those of SQLite among them."""
    use = "import casstore, sys\nwith casstore.Store(sys.argv[1]) as store: print(*store.tags())"
    with casstore.Store(tmp_path / "other") as other:
        for tag, each in (("m:1", store), ("m:0", other)):
            save(tag, {"w": noise(2000)}, materialize=False, into=each)
            containers(each, "packs")[0].unlink()
        assert named(store.repair([other.home]).damage) == [("m:1", "w")]
        assert script(use, other.home).stdout.split() == ["m:0"]
        save("m:1", {"w": b"one"}, into=other)
        assert script(use, other.home).stdout.split() == ["m:1", "m:0"]


def test_an_altered_file_with_the_longest_of_names(store: casstore.Store, save: Save, home: Path, whole) -> None:
    name = "w" * 255
    save("m:1", {name: b"1"})
    path = home / "models/m/1" / name
    path.chmod(0o644)
    path.write_bytes(b"mine")
    report = store.repair()
    assert [Path(each).read_bytes() for each in report.quarantined] == [b"mine"]
    whole({"m:1": {name: b"1"}})


def test_what_a_link_in_a_directory_leads_to_is_not_touched(
    store: casstore.Store, save: Save, home: Path, tmp_path: Path, whole
) -> None:
    save("m:1", {"sub/a": b"1"})
    outside = plant(tmp_path / "outside", {"a": b"mine"})
    shutil.rmtree(home / "models/m/1/sub")
    (home / "models/m/1/sub").symlink_to(outside)
    report = store.repair()
    assert (outside / "a").read_bytes() == b"mine"
    assert [Path(each).readlink() for each in report.quarantined] == [outside]
    whole({"m:1": {"sub/a": b"1"}})


def test_another_directory_in_the_place_of_a_versions_own(store: casstore.Store, save: Save, home: Path, whole) -> None:
    save("m:1", {"a": b"1"})
    standing = home / "models/m/1"
    standing.rename(home.parent / "elsewhere")
    plant(standing, {"notes": b"mine"})
    with pytest.raises(casstore.StoreError, match="casstore repair"):
        _ = store.get("m:1").path
    report = store.repair()
    assert report.restored == ("m:1",)
    assert [(Path(each) / "notes").read_bytes() for each in report.quarantined] == [b"mine"]
    whole({"m:1": {"a": b"1"}})
