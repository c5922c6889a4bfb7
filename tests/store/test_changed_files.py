"""What is written into a version's directory is not destroyed: it goes to quarantine, is named, and expires there."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, Sql, contents, counts, everything, known, noise

BIG = 3_000_000


@pytest.fixture
def model(save: Save, store: casstore.Store):
    """m:1, written to by nobody yet."""
    save("m:1", {"model.safetensors": noise(BIG), "sub/config.json": b"{}", "sub/deep/x": b"x", "empty": None})
    return store.get("m:1")


def replaced(path: Path, content: bytes | None) -> None:
    """Put a file in the place of another as a normal user's `save_file` does, which renames."""
    temporary = path.with_name(".temporary")
    temporary.write_bytes(known(content))
    temporary.rename(path)


def kept(home: Path) -> dict[str, bytes | str | None]:
    """What is in quarantine/changed/, by its path below a directory that is named after time and version."""
    found: dict[str, bytes | str | None] = {}
    for each in sorted((home / "quarantine/changed").glob("*/*")):
        assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-z]+", each.parent.name)
        for path in each.rglob("*"):
            name = f"{each.name}/{path.relative_to(each)}"
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                found[name] = path.read_bytes()
    return found


def said(caplog):
    """What the log says of changed files; root is told of other things too."""
    return [record for record in caplog.records if record.name == "casstore.actions.directories.changed"]


def test_a_file_that_was_replaced_is_kept_and_named(
    store: casstore.Store, home: Path, model, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(model.path)
    replaced(root / "model.safetensors", b"an hour's work")
    replaced(root / "sub/config.json", b'{"mine": 1}')
    replaced(root / "model.yaml", b"mine: 1")
    path = store.get("m:1").path
    assert contents(store.get("m:1"))["model.safetensors"] == noise(BIG)
    assert kept(home) == {
        "m.1/model.safetensors": b"an hour's work", "m.1/sub/config.json": b'{"mine": 1}', "m.1/model.yaml": b"mine: 1"
    }  # fmt: skip
    (record,) = said(caplog)
    assert (record.levelname, record.name.split(".")[0]) == ("WARNING", "casstore")
    (directory,) = (home / "quarantine/changed").glob("*/*")
    for part in (
        "m:1",
        "model.safetensors",
        "sub/config.json",
        "model.yaml",
        str(directory),
        "7 days",
        "casstore save",
    ):
        assert part in record.getMessage()
    caplog.clear()
    assert store.get("m:1").path == path
    assert not said(caplog)
    assert store.verify().is_sound


@pytest.mark.parametrize("is_glance", [True, False])
def test_what_was_added_is_moved_and_named(
    store: casstore.Store, home: Path, model, caplog: pytest.LogCaptureFixture, is_glance, sql: Sql
) -> None:
    """By the directory's time alone, too: every file that was saved is as it was."""
    root = Path(model.path)
    files = contents(model)
    own = everything(root)
    (root / "sub/deep/notes.txt").write_text("mine")
    (root / "cache/a").mkdir(parents=True)
    (root / "cache/a/b.bin").write_bytes(b"b")
    (root / "empty/within").write_bytes(b"w")
    (root / "nothing in it").mkdir()
    if not is_glance:
        replaced(root / "sub/config.json", b"other")
    for directory in (root, root / "sub/deep"):  # a coarse clock may not have ticked
        os.utime(directory)
    assert store.get("m:1").path == str(root)
    assert everything(root) == own
    assert contents(store.get("m:1")) == files
    expected = {"m.1/sub/deep/notes.txt": b"mine", "m.1/cache/a/b.bin": b"b", "m.1/empty/within": b"w"}
    assert kept(home) == expected | ({} if is_glance else {"m.1/sub/config.json": b"other"})
    (record,) = said(caplog)
    assert "cache, empty/within" in record.getMessage()
    store.close()
    assert store.gc(evict_all=True).altered == ()


def test_gc_leaves_it_and_verify_names_it(store: casstore.Store, home: Path, model, save: Save) -> None:
    root = Path(model.path)
    (root / "notes.txt").write_text("mine")
    replaced(root / "sub/config.json", b"other")
    store.close()
    assert store.gc(evict_all=True).altered == (casstore.Tag("m", "1"),)
    assert (root / "sub/config.json").read_bytes() == b"other"
    for quick in (True, False):
        report = store.verify(quick=quick)
        assert report.added_files == (str(root / "notes.txt"),)
        assert report.damaged_copies == (str(root / "sub/config.json"),)
        assert any("quarantine/changed" in reason for reason in report.reasons)
        assert report.kept_files == ()
    assert store.get("m:1").path
    report = store.verify()
    assert (report.added_files, report.is_sound) == ((), True)
    (path,) = report.kept_files
    assert (Path(path) / "notes.txt").read_text() == "mine"


def test_other_things_than_files_are_kept(store: casstore.Store, home: Path, model, tmp_path: Path) -> None:
    root = Path(model.path)
    files = contents(model)
    (tmp_path / "elsewhere").mkdir()
    (root / "model.safetensors").unlink()
    (root / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    (root / "sub/config.json").unlink()
    (root / "sub/config.json").mkdir()
    (root / "sub/config.json/within").write_bytes(b"w")
    shutil.rmtree(root / "sub/deep")
    (root / "sub/deep").write_bytes(b"a file")
    assert contents(store.get("m:1")) == files
    assert kept(home) == {
        "m.1/model.safetensors": str(tmp_path / "elsewhere"),
        "m.1/sub/config.json/within": b"w",
        "m.1/sub/deep": b"a file",
    }


def test_what_was_only_touched_is_not_kept(
    store: casstore.Store, home: Path, model, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(model.path)
    replaced(root / "model.safetensors", noise(BIG))
    os.utime(root / "sub/config.json", ns=(1, 1))
    assert store.get("m:1").path
    assert kept(home) == {}
    assert not said(caplog)


def test_it_is_kept_for_keep_days(store: casstore.Store, home: Path, model, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(Path(model.path) / "sub/config.json", b"other")
    assert store.get("m:1").path
    assert counts(store.gc())["quarantine"] == 0
    assert kept(home)
    now_ns = time.time_ns() + 8 * 24 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    assert counts(store.gc(dry_run=True))["quarantine"] == 1
    assert counts(store.gc())["quarantine"] == 1
    assert kept(home) == {}
    assert list((home / "quarantine/changed").iterdir()) == []


def test_several_slips_are_all_kept(store: casstore.Store, home: Path, model) -> None:
    for number in range(3):
        replaced(Path(model.path) / "sub/config.json", b"%d" % number)
        assert store.get("m:1").path
    assert sorted(path.read_bytes() for path in (home / "quarantine/changed").glob("*/m.1/sub/config.json")) == [
        b"0", b"1", b"2"
    ]  # fmt: skip


def test_repair_can_use_what_is_kept(store: casstore.Store, home: Path, model) -> None:
    """The bytes of another version may be there."""
    replaced(Path(model.path) / "sub/config.json", noise(BIG, 7))
    assert store.get("m:1").path
    with store.create("n:1", materialize=False) as draft:
        Path(draft.path, "w.bin").write_bytes(noise(BIG, 7))
    for pack in (home / "objects/packs").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"gone")
    assert "n:1" not in {damage.tag for damage in store.repair().damage}


@pytest.mark.parametrize("is_old", [True, False])
def test_a_directory_of_a_store_from_before_is_looked_at_whole(
    store: casstore.Store, home: Path, model, sql: Sql, is_old
) -> None:
    """Its row has no times of directories."""
    import msgpack

    if is_old:
        ((entries,),) = sql("SELECT entries FROM directory")
        rows = msgpack.unpackb(entries)
        assert type(rows.pop()) is dict
        sql("UPDATE directory SET entries = ?", (msgpack.packb(rows),))
    root = Path(model.path)
    assert store.get("m:1").path
    assert kept(home) == {}
    (root / "note").write_bytes(b"mine")
    os.utime(root)
    assert store.get("m:1").path
    assert kept(home) == {"m.1/note": b"mine"}
