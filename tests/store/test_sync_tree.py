"""sync_tree: what others have put into models/ is adopted, what they took away is reported, or with prune deleted."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest

import casstore
from casstore.actions.directories import materialize as materialize_action
from casstore.actions.directories import survey
from casstore.actions.directories.survey import disagreement
from casstore.actions.exchange import sync_tree as sync
from casstore.actions.saving import commit as commit_action
from casstore.actions.saving import delete as delete_action
from casstore.actions.workspace import Workspace
from casstore.storage import files as storage_files
from tests.kit import Child, Save, Sql, bento, contents, everything, noise, plant

BIG = 1_300_000
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def models(home: Path):
    return home / "models"


@pytest.fixture
def synced(store: casstore.Store):
    """synced(...): sync_tree after a dry run, which has said the same and changed nothing."""

    def run(**options):
        tags, settings = store.tags(), store.settings()
        before = {path: path.lstat() for path in store.home.rglob("*") if "catalog.db" not in path.name}
        foreseen = store.sync_tree(dry_run=True, **options)
        assert foreseen.dry_run
        assert (store.tags(), store.settings()) == (tags, settings)
        after = {path: path.lstat() for path in store.home.rglob("*") if "catalog.db" not in path.name}
        assert {path: status.st_ctime_ns for path, status in after.items() if status.st_nlink and path.is_file()} == {
            path: status.st_ctime_ns for path, status in before.items() if path.is_file()
        }
        done = store.sync_tree(**options)
        assert not done.dry_run
        for field in ("adopted", "missing", "deleted", "made"):
            assert sorted(getattr(foreseen, field)) == sorted(getattr(done, field)), field
        assert [each.path for each in foreseen.refused] == [each.path for each in done.refused]
        assert foreseen.notes == done.notes
        return done

    return run


def nothing(report):
    return report == casstore.SyncReport((), (), (), (), (), (), report.dry_run)


def test_what_was_put_there_is_adopted(store: casstore.Store, models, synced) -> None:
    bento(models, "m:v1", {"w.bin": noise(BIG), "sub/x": b"x"}, created=1)
    bento(models, "m:v2", {"w.bin": noise(BIG, 1)}, created=2)
    report = synced()
    assert report.adopted == ("m:v1", "m:v2")
    assert store.settings()["materialize"] == "newest", "sync_tree changes no setting"
    assert contents(store.get("m:v1")) == {"w.bin": noise(BIG), "sub/x": b"x"}
    assert str(store.get("m").tag) == "m:v2"
    assert (models / "m/latest").read_text() == "v2"
    assert nothing(synced())
    bento(models, "m:v0", {"w": b"0"}, created=1)
    assert synced().adopted == ("m:v0",)
    assert str(store.get("m").tag) == "m:v2"
    assert (models / "m/latest").read_text() == "v2"


def test_what_was_taken_away_is_reported_and_only_pruned_when_asked(
    store: casstore.Store, models, save: Save, synced
) -> None:
    for number in range(3):
        save(f"m:{number}", {"w": b"%d" % number})
    shutil.rmtree(models / "m/2")
    (models / "m/latest").write_text("1")  # as BentoML does
    report = synced()
    assert (report.missing, report.deleted, report.adopted) == (("m:2",), (), ())
    assert str(store.get("m").tag) == "m:2"
    assert (models / "m/latest").read_text() == "2"
    assert contents(store.get("m:2")) == {"w": b"2"}
    assert nothing(synced())
    shutil.rmtree(models / "m/2")
    shutil.rmtree(models / "m/0")
    report = synced(prune=True)
    assert sorted(report.deleted) == sorted(report.missing) == ["m:0", "m:2"]
    assert store.tags() == ["m:1"]
    assert (models / "m/latest").read_text() == "1"
    assert nothing(synced(prune=True))
    assert store.verify().is_sound


def test_the_last_version_of_a_name(store: casstore.Store, models, save: Save, synced) -> None:
    save("m:1", {"w": b"1"})
    save("n:1", {"w": b"1"})
    shutil.rmtree(models / "m")
    assert synced(prune=True).deleted == ("m:1",)
    assert store.tags() == ["n:1"]
    assert store.names() == ["n"]


def test_what_has_no_directory_by_its_own_will_is_not_missing(
    store: casstore.Store, models, save: Save, synced, home: Path
) -> None:
    save("m:0", {"w": b"0"}, materialize=False)
    for number in range(1, 4):
        save(f"m:{number}", {"w": b"%d" % number})
    store.close()
    store.gc(evict_all=True)
    assert not (models / "m/1").exists()
    assert nothing(synced(prune=True))
    assert len(store.tags()) == 4


def test_all_directories_are_made_where_the_setting_says_so(store: casstore.Store, models, save: Save, synced) -> None:
    store.set_setting("materialize", "all")
    save("m:0", {"w": b"0"}, materialize=False)
    for number in range(1, 4):
        save(f"m:{number}", {"w": b"%d" % number})
    shutil.rmtree(models / "m/1")
    report = synced()
    assert (sorted(report.made), report.missing) == (["m:0", "m:1"], ("m:1",))
    assert {path.name for path in (models / "m").iterdir()} == {"0", "1", "2", "3", "latest"}
    assert nothing(synced())
    shutil.rmtree(models / "m/2")
    report = synced(prune=True)
    assert (report.made, report.deleted) == ((), ("m:2",))
    assert not (models / "m/2").exists()


def test_put_back_as_it_was(store: casstore.Store, models, save: Save, synced, tmp_path: Path) -> None:
    """As by a restored backup: other inodes, the same content."""
    save("m:1", {"w.bin": noise(BIG), "sub/x": b"x"})
    shutil.copytree(models / "m/1", tmp_path / "backup")
    shutil.rmtree(models / "m/1")
    shutil.copytree(tmp_path / "backup", models / "m/1")
    for path in (models / "m/1").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert nothing(synced(prune=True))
    assert store.verify().is_sound
    assert contents(store.get("m:1")) == {"w.bin": noise(BIG), "sub/x": b"x"}
    assert (models / "m/1/w.bin").stat().st_nlink == 2
    assert nothing(synced())


@pytest.mark.parametrize("had", ["a directory", "none"])
def test_made_again_with_other_content(store: casstore.Store, models, save: Save, synced, tmp_path: Path, had) -> None:
    save("m:1", {"w": b"old"})
    store.close()
    # Before the other is removed, or it might get the same inode numbers.
    again = bento(tmp_path / "elsewhere", "m:1", {"w": b"new"})
    if had == "none":
        store.gc(evict_all=True)
    else:
        shutil.rmtree(models / "m/1")
    again.rename(models / "m/1")
    left = everything(models / "m/1")
    report = synced()
    assert "another m:1 is saved already" in report.refused[0].reason
    assert report.missing == (("m:1",) if had == "a directory" else ())
    assert everything(models / "m/1") == left
    assert store.tags() == ["m:1"]
    with pytest.raises(casstore.StoreError, match="in the way"):
        assert store.get("m:1").path
    report = synced(prune=True)
    if had == "none":
        # Nobody has taken a directory of it away: it is not deleted.
        assert (len(report.refused), report.deleted) == (1, ())
        assert everything(models / "m/1") == left
        return
    assert (report.adopted, report.deleted, report.refused) == (("m:1",), ("m:1",), ())
    assert contents(store.get("m:1")) == {"w": b"new"}
    assert store.verify().is_sound


def test_made_again_under_the_same_inode_number(
    store: casstore.Store, models, save: Save, synced, home: Path, sql: Sql
) -> None:
    """A file system gives the numbers of what was removed to what is made next."""
    save("m:1", {"w": b"old", "x": b"x"})
    shutil.rmtree(models / "m/1")
    directory = bento(models, "m:1", {"w": b"new", "y": b"y"})
    sql("UPDATE directory SET inode = ?", (directory.stat().st_ino,))
    left = everything(directory)
    with pytest.raises(casstore.StoreError, match="in the way"):
        assert store.get("m:1").path
    assert everything(directory) == left
    assert store.verify().unknown_directories == (str(directory),)
    assert len(synced().refused) == 1
    assert synced(prune=True).adopted == ("m:1",)
    with store.get("m:1").open("w") as file:
        assert file.read() == b"new"


def test_made_again_under_every_inode_number(
    store: casstore.Store, models, save: Save, synced, sql: Sql, tmp_path: Path
) -> None:
    """Where no number tells what casstore made from what came after it, the time of its creation does."""
    save("m:1", {"w": b"old"})
    again = bento(tmp_path / "elsewhere", "m:1", {"w": b"new"})
    shutil.rmtree(models / "m/1")
    directory = again.rename(models / "m/1")
    stamps = [[name, (directory / name).stat().st_ino, 3, 1] for name in ("w", "model.yaml")]
    sql("UPDATE directory SET inode = ?, entries = ?", (directory.stat().st_ino, msgpack.packb(stamps)))
    left = everything(directory)
    with pytest.raises(casstore.StoreError, match="in the way"):
        assert store.get("m:1").path
    assert everything(directory) == left
    assert synced(prune=True).adopted == ("m:1",)
    with store.get("m:1").open("w") as file:
        assert file.read() == b"new"


def test_what_reused_every_inode_number_is_kept(
    store: casstore.Store, models, save: Save, home: Path, sql: Sql
) -> None:
    """Where no number tells, what has other bytes goes to quarantine before the version's own take its place."""
    save("m:1", {"w": b"old"})
    for path in (models / "m/1/w", models / "m/1/model.yaml"):
        path.chmod(0o644)
        path.write_bytes(b"new, of " + path.name.encode())
    with store.get("m:1").open("w") as file:
        assert file.read() == b"old"
    assert contents(store.get("m:1")) == {"w": b"old"}
    kept = {path.read_bytes() for path in (home / "quarantine/changed").rglob("*") if path.is_file()}
    assert kept == {b"new, of w", b"new, of model.yaml"}


def test_a_file_altered_in_a_directory_of_ours(store: casstore.Store, models, save: Save, synced) -> None:
    """It is the version's directory still, whatever prune is asked for; the next get mends it."""
    save("m:1", {"w": b"1", "x": b"x"})
    path = models / "m/1/w"
    path.unlink()
    path.write_bytes(b"altered")
    assert nothing(synced(prune=True))
    assert contents(store.get("m:1")) == {"w": b"1", "x": b"x"}


def test_every_file_altered_in_a_directory_of_ours(store: casstore.Store, models, save: Save, synced) -> None:
    """The same files, written to: no other directory was put in its place, so prune deletes nothing."""
    save("m:1", {"w": b"1", "x": b"x"})
    for path in (models / "m/1").iterdir():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes() + b"# altered")
    left = everything(models / "m/1")
    assert nothing(synced(prune=True))
    assert everything(models / "m/1") == left
    assert store.tags() == ["m:1"]


def test_what_is_no_version_is_named_and_left(store: casstore.Store, models, synced) -> None:
    bento(models, "m:v1", {"w": b"1"})
    synced()
    (models / "README").write_text("x")
    (models / "m/notes").write_text("x")
    (models / "m/link").symlink_to("v1")
    (models / ".hidden/v1").mkdir(parents=True)
    (models / "bare").mkdir()
    (models / "bad name/v1").mkdir(parents=True)
    report = synced(prune=True)
    assert [each.path for each in report.refused] == [str(models / "bad name/v1")]
    assert sum("left alone" in note for note in report.notes) == 3
    assert {path.name for path in models.iterdir()} == {"m", "README", ".hidden", "bare", "bad name"}
    assert store.verify().unknown_directories == (str(models / "bad name/v1"),)


@pytest.mark.parametrize("materialize", ["newest", "all"])
def test_a_tree_that_is_gone_as_a_whole_deletes_nothing(
    store: casstore.Store, models, save: Save, synced, materialize
) -> None:
    """models/ is a view, and its disk may not be mounted."""
    store.set_setting("materialize", materialize)
    for number in range(2):
        save(f"m:{number}", {"w": b"%d" % number})
    shutil.rmtree(models)
    with pytest.raises(casstore.StoreError, match="gone as a whole"):
        store.sync_tree(prune=True)
    assert store.verify().missing_directories == ("m:1", "m:0")
    report = synced()
    assert sorted(report.missing) == ["m:0", "m:1"]
    assert sorted(report.made) == (["m:0", "m:1"] if materialize == "all" else [])
    assert contents(store.get("m:1")) == {"w": b"1"}


def test_verify_names_what_differs_and_it_is_no_damage(store: casstore.Store, models, save: Save) -> None:
    save("m:1", {"w": b"1"})
    save("m:2", {"w": b"2"})
    shutil.rmtree(models / "m/1")
    bento(models, "n:1", {"w": b"1"})
    for quick in (True, False):
        report = store.verify(quick=quick)
        assert report.unknown_directories == (str(models / "n/1"),)
        assert report.missing_directories == ("m:1",)
        assert report.is_sound
        assert report.damaged_tags == []
    store.sync_tree(prune=True)
    report = store.verify()
    assert (report.unknown_directories, report.missing_directories) == ((), ())


def test_a_store_that_can_only_be_read(
    store: casstore.Store, models, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"w": b"1"})
    bento(models, "n:1", {"w": b"1"})
    monkeypatch.setattr(type(store._workspace.catalog), "read_only", True)
    ways: list[dict[str, Any]] = [{}, {"dry_run": True}, {"prune": True}]
    for options in ways:
        with pytest.raises(casstore.StoreUnwritable):
            store.sync_tree(**options)
    with pytest.raises(casstore.StoreUnwritable):
        store.adopt(store.home)


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("killed_at", ["publish", "rename"])
def test_a_save_that_was_killed_is_not_deleted_for_lack_of_a_directory(
    store: casstore.Store, save: Save, models, synced, collected, killed_at
) -> None:
    """It is committed, and its directory never came to stand: nobody has removed it."""
    save("m:0", {"w": b"0"})

    def die(*_):
        os.kill(os.getpid(), 9)

    def save_and_die():
        if killed_at == "publish":
            pytest.MonkeyPatch().setattr(commit_action, "publish", die)
        else:
            pytest.MonkeyPatch().setattr(Workspace, "file_pending_manifest", die)
        save("m:1", {"w": b"1"})

    assert Child(save_and_die).wait() == -9
    if killed_at == "rename":
        # As after a power cut, which the rename has not survived either.
        shutil.rmtree(models / "m/1")
    assert store.verify().missing_directories == ()
    if collected:
        store.gc()
    assert nothing(synced(prune=True))
    assert contents(store.get("m:1")) == {"w": b"1"}
    shutil.rmtree(models / "m/1")
    assert synced(prune=True).deleted == ("m:1",)


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("killed_at", ["publish", "sync_directory"])
def test_a_directory_that_was_not_made_to_the_end_deletes_nothing(
    store: casstore.Store, save: Save, models, synced, collected, killed_at
) -> None:
    save("m:0", {"w": b"0"}, materialize=False)

    def die(*_):
        os.kill(os.getpid(), 9)

    def open_and_die():
        module = materialize_action if killed_at == "publish" else storage_files
        setattr(module, killed_at, die)
        assert store.get("m:0").path

    assert Child(open_and_die).wait() == -9
    if killed_at == "sync_directory":
        shutil.rmtree(models / "m/0")  # the rename did not survive a power cut
    if collected:
        store.gc()
    assert nothing(synced(prune=True))
    assert contents(store.get("m:0")) == {"w": b"0"}


def test_what_comes_back_before_it_is_pruned_stays(
    store: casstore.Store, save: Save, models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BentoML makes the version again between the look and the deletion."""
    save("m:1", {"w": b"1"})
    save("m:2", {"w": b"2"})
    shutil.rmtree(models / "m/1")
    real = disagreement
    monkeypatch.setattr(sync, "disagreement", lambda w: (real(w), bento(models, "m:1", {"w": b"new"}))[0])
    assert store.sync_tree(prune=True).deleted == ()
    assert store.tags() == ["m:2", "m:1"]
    monkeypatch.setattr(sync, "disagreement", real)
    real_delete = delete_action.delete
    shutil.rmtree(models / "m/1")
    monkeypatch.setattr(sync, "delete", lambda *given: (bento(models, "m:1", {"w": b"newer"}), real_delete(*given))[1])
    assert store.sync_tree(prune=True).deleted == ("m:1",)
    assert (models / "m/1/w").read_bytes() == b"newer"
    assert store.sync_tree().adopted == ("m:1",)


def test_many_at_once(store: casstore.Store, home: Path, models) -> None:
    """Threads and processes, each of which syncs, while gc takes directories and others save."""
    expected = {}
    for number in range(12):
        files = {"w.bin": noise(100_000, number), "n": b"%d" % number}
        bento(models, f"m{number % 2}:v{number}", files, created=1 + number)
        expected[f"m{number % 2}:v{number}"] = files
    reports: list[Any] = []

    def run():
        with casstore.Store(home) as mine:
            reports.extend(mine.sync_tree(prune=True) for _ in range(3))
        return any(report.refused or report.deleted for report in reports)

    def collect():
        with casstore.Store(home) as mine:
            for _ in range(10):
                mine.gc(evict_all=True)
                for row in mine.list():
                    assert Path(row.path).is_dir()

    children = [Child(run), Child(run), Child(collect)]
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.wait() for each in children] == [0, 0, 0]
    assert not any(report.refused or report.deleted for report in reports)
    assert sorted(store.tags()) == sorted(expected)
    for tag, files in expected.items():
        assert contents(store.get(tag)) == files
    assert store.verify().is_sound


def test_only_directories_of_depth_two_are_looked_at(models, store: casstore.Store) -> None:
    plant(models, {"a/b/c/d": b"x", "file": b"x"})
    found = survey.survey(models)
    assert [str(path.relative_to(models)) for path in found.versions] == ["a/b"]
    assert [path.name for path in found.names] == ["a"]
    assert len(found.strays) == 1
