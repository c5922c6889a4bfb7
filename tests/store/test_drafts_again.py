"""A kept draft is what its program wrote, and is saved as its program said."""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import casstore
from casstore.actions.saving import drafts as drafts_action
from tests.kit import Sql, noise, script


@pytest.fixture
def keep(store: casstore.Store):
    """keep(files, ...): have a draft be kept since its tag is taken, which is seen when all else is done."""

    def run(files, modes=None, **options):
        with pytest.raises(casstore.TagExists), store.create("m:v1", **options) as draft:
            for name, content in files.items():
                Path(draft.path, name).write_bytes(content)
                Path(draft.path, name).chmod((modes or {}).get(name, 0o644))
            if not store.exists("m:v1"):
                store.save("m:v1", __file__)
        return store.drafts()[-1]

    return run


@pytest.mark.parametrize(("said", "of_store"), [("full", "relaxed"), ("relaxed", "full"), (None, "relaxed")])
def test_its_durability_is_that_which_was_said(store: casstore.Store, sql: Sql, keep, said, of_store) -> None:
    store.set_setting("durability", of_store)
    kept = keep({"w": noise(100_000)}, durability=said, materialize=False)
    before = {row[0] for row in sql("SELECT id FROM container")}
    store.save_draft(kept, "m:v2")
    [synced] = [row[1] for row in sql("SELECT id, synced FROM container") if row[0] not in before]
    assert synced == ((said or of_store) == "full")


def test_another_durability_may_be_said_when_it_is_saved(store: casstore.Store, sql: Sql, keep) -> None:
    kept = keep({"w": noise(100_000)}, durability="full", materialize=False)
    before = {row[0] for row in sql("SELECT id FROM container")}
    store.save_draft(kept, "m:v2", durability="relaxed")
    [synced] = [row[1] for row in sql("SELECT id, synced FROM container") if row[0] not in before]
    assert synced == 0


@pytest.mark.parametrize("durability", [None, "", "eternal", 5])
def test_a_record_that_says_nothing_of_it(store: casstore.Store, keep, durability) -> None:
    """As one of an older casstore does."""
    path = keep({"w": b"w"}, labels={"a": "b"}).directory / "draft.json"
    record = json.loads(path.read_text())
    del record["durability"]
    if durability is not None:
        record["durability"] = durability
    path.write_text(json.dumps(record))
    assert store.save_draft(store.drafts()[0], "m:v2").labels == {"a": "b"}


@pytest.mark.parametrize("materialize", [True, False])
def test_its_files_have_the_modes_that_they_had(keep, materialize) -> None:
    modes = {"new": 0o644, "own": 0o600, "run": 0o755, "group": 0o664, "read": 0o444, "small": 0o640}
    files = {name: noise(100 if name == "small" else 2_000_000, number) for number, name in enumerate(modes)}
    files["twin"] = files["new"]
    kept = keep(files, {**modes, "twin": 0o644}, materialize=materialize)
    found = {name: Path(kept.path, name).stat() for name in files}
    assert {status.st_nlink for status in found.values()} == {1}
    assert {name: found[name].st_mode & 0o777 for name in modes} == modes
    assert found["twin"].st_mode & 0o777 == 0o644
    assert {name: Path(kept.path, name).read_bytes() for name in files} == files


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_what_the_store_had_can_be_written_to_as_a_new_file_can(home: Path, umask, mode) -> None:
    """Of those the draft held links to stored files, which are read-only."""
    before = os.umask(umask)
    try:
        with casstore.Store(home) as store:
            (home.parent / "source").write_bytes(noise(2_000_000))
            store.save("m:v0", home.parent / "source")
            with pytest.raises(casstore.TagExists), store.create("m:v1") as draft:
                Path(draft.path, "w").write_bytes(noise(2_000_000))
                Path(draft.path, "run").write_bytes(noise(2_000_000, 1))
                Path(draft.path, "run").chmod(0o700)
                store.save("m:v1", __file__)
            [kept] = store.drafts()
            assert Path(kept.path, "w").stat().st_mode & 0o777 == mode
            assert Path(kept.path, "run").stat().st_mode & 0o777 == 0o700
            stored = store.get("m:v0").path
            assert Path(stored, "source").stat().st_mode & 0o222 == 0
    finally:
        os.umask(before)


def test_its_objects_may_be_of_any_size(store: casstore.Store) -> None:
    """As tensors that were put into custom_objects."""
    size = (256 << 20) + 4096
    with pytest.raises(casstore.InvalidMetadata), store.create("m:v1", custom_objects={"a": 1}) as draft:
        Path(draft.path, "w").write_bytes(b"w")
        draft.metadata["loss"] = object()
    [kept] = store.drafts()
    path = kept.directory / "custom_objects.pkl"
    os.truncate(path, size)  # zeros that take no room, in place of so many bytes of an array
    found = drafts_action.objects_of(kept)
    assert found is not None
    assert len(found) == size


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_what_cannot_be_taken_out_of_it_is_told(store: casstore.Store, keep, caplog: pytest.LogCaptureFixture) -> None:
    kept = keep({"w": b"w" * 100_000, "v": b"v"})
    stuck = Path(kept.path, "w")
    if subprocess.run(["chattr", "+i", stuck], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        model = store.save_draft(kept, "m:v2")
        [stuck] = store.home.glob("quarantine/changed/*/m.v2/w")
        assert (
            f"m:v2 is saved; what was written to its draft meanwhile, or cannot be removed, was moved to {stuck}"
            in (caplog.text)
        )
        assert model.file_count == 2
        assert store.drafts() == []
        assert os.listdir(store.home / "drafts") == []
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)


def test_a_session_that_begins_by_chance_as_an_old_id_hides_no_draft(store: casstore.Store, sql: Sql, keep) -> None:
    """An older casstore has given them ids of eight characters."""
    kept = keep({"w": b"w"})
    [(manifest_id,)] = sql("SELECT manifest_id FROM version")
    older = kept.directory.with_name(kept.directory.name.rpartition("-")[0] + f"-{manifest_id[:8]}")
    kept.directory.rename(older)
    assert [draft.path for draft in store.drafts()] == [f"{older}/files"]
    store.gc()
    assert store.save_draft(manifest_id[:8], "m:v2").open("w").read() == b"w"
    assert store.drafts() == []


def test_what_is_written_to_a_draft_while_it_is_saved_is_kept_apart(
    store: casstore.Store, keep, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep({"w": b"w" * 100, "v": b"v"})

    def publish(*_):
        Path(kept.path, "w").write_bytes(b"late")

    monkeypatch.setattr("casstore.actions.saving.commit.publish", publish)
    assert store.save_draft(kept, "m:v2", materialize=False).file_count == 2
    assert store.drafts() == []
    [late] = store.home.glob("quarantine/changed/*/m.v2/w")
    assert late.read_bytes() == b"late"
    assert str(late) in caplog.text


SHORT = """
import errno, os, pathlib, subprocess, sys
import casstore

mount = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", mount], check=True)
store = casstore.Store(mount / "store")
ballast = mount / "ballast"
said = {"labels": {"stage": "dev"}, "metadata": {"history": "x" * 3_000_000}}
try:
    with store.create("m:v1", custom_objects={"o": bytes(3_000_000)}, durability="relaxed", **said) as draft:
        pathlib.Path(draft.path, "w").write_bytes(b"weights")
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            os.truncate(ballast, os.path.getsize(ballast) - 200_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, repr(error)
    assert "--draft" in str(error), str(error)
[kept] = store.drafts()
assert str(kept.tag) == "m:v1", kept
assert "No space left" in kept.reason, kept
lost = [each.partition(" could")[0] for each in kept.left_out]
assert lost == ["custom_objects", "labels, metadata and the rest of the record"], kept.left_out
assert sorted(path.name for path in kept.directory.iterdir()) == ["draft.json", "files"]
ballast.unlink()
model = store.save_draft(kept.id, labels={"why": "late"})
assert (model.labels, model.metadata, model.custom_objects) == ({"why": "late"}, {}, {})
assert model.open("w").read() == b"weights"
print("done")
"""


def test_on_a_full_disk_a_short_record_says_what_is_lost(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    done = script(SHORT, tmp_path, before=("unshare", "-m", "--propagation", "private"), check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
