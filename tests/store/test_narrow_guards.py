"""Guards that are one clause of a statement or a condition, and that a careless edit would drop unnoticed."""

from __future__ import annotations

import os
import shutil
import string
from pathlib import Path

import pytest

import casstore
from casstore.actions.saving import staging
from tests.kit import Rot, Save, Sql, contents, noise, safetensors, streamed, weights

MEDIUM, BIG = 300_000, 2_500_000


def test_what_only_groups_a_delta_is_needed(store: casstore.Store, save: Save, sql: Sql) -> None:
    """The middle of a chain is stored whole again: its start is nobody's base any more, and still orders the end."""

    def files(step):
        return {"w.safetensors": safetensors({f"of {step}": ("F32", weights("F32", 3, 0, 9 + step)), **tensor(step)})}

    def tensor(step):
        return {"w": ("F32", weights("F32", 40, step, 200_000))}

    for step in range(3):
        save(f"m:{step}", files(step), materialize=False)
    packs = {path.stem: path for path in (store.home / "objects/packs").iterdir()}
    (middle,) = sql("SELECT file_id FROM chunk JOIN container ON id = container WHERE depth = 1")[0]
    packs[middle].unlink()
    store._workspace.objects.close()
    save("again:1", files(1), materialize=False)
    ((base, grouping),) = sql("SELECT base, grouping FROM chunk WHERE base IS NOT NULL")
    assert base != grouping
    store.delete("m:0")
    for _ in range(2):
        store.gc(evict_all=True)
        assert streamed(store.get("m:2")) == files(2)
        assert store.verify().is_sound


def test_a_loose_file_that_was_checked_again_is_still_one_that_could_not_be_synced(
    store: casstore.Store, save: Save, sql: Sql, home: Path
) -> None:
    """Its bytes are right, in memory. Whether they are on disk nobody knows after a failed fsync."""
    content = {"w.bin": noise(BIG)}
    save("m:1", content, durability="relaxed")
    index = store._workspace.catalog.index
    (digest,) = (file.digest for file in store.get("m:1").files)
    ((loose,),) = index.loose_files([digest]).values()
    index.distrust([loose.container])
    shutil.rmtree(home / "models/m/1")
    assert (Path(store.get("m:1").path) / "w.bin").read_bytes() == content["w.bin"]
    save("m:2", content, durability="full")
    homes = sql("SELECT DISTINCT container, synced FROM chunk JOIN container ON id = container")
    assert [synced for _, synced in homes] == [1]
    assert loose.container.id not in {container for container, _ in homes}


@pytest.fixture
def rotten_copy(store: casstore.Store, save: Save, home: Path, rot: Rot):
    """m:1, whose one file is packed, with a loose copy of it in which a bit has flipped; its directory is gone."""
    save("m:1", {"w.bin": noise(MEDIUM)})
    (loose,) = (home / "objects/loose").rglob("*.*")
    shutil.rmtree(home / "models/m/1")
    rot(loose)  # last, or the link that went would show in the change time
    return loose


def test_a_directory_is_made_of_what_was_hashed(store: casstore.Store, rotten_copy) -> None:
    assert (Path(store.get("m:1").path) / "w.bin").read_bytes() == noise(MEDIUM)
    assert not rotten_copy.exists()
    assert [path.name for path in (store.home / "quarantine").iterdir()] == [rotten_copy.name]


@pytest.mark.parametrize("how", ["another boot", "another time", "another inode"])
def test_a_save_links_what_is_not_as_it_was_only_when_it_was_hashed(
    store: casstore.Store, save: Save, rotten_copy, sql: Sql, how
) -> None:
    if how == "another boot":
        sql("UPDATE container SET boot_id = 'another boot' WHERE boot_id IS NOT NULL")
    elif how == "another time":
        os.utime(rotten_copy, ns=(0, 0))
    else:
        shutil.copy2(rotten_copy, rotten_copy.with_name("copy"))
        os.replace(rotten_copy.with_name("copy"), rotten_copy)
    save("m:2", {"w.bin": noise(MEDIUM)})
    assert (store.home / "models/m/2/w.bin").read_bytes() == noise(MEDIUM)


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize("is_settled", [True, False])
def test_a_file_written_a_moment_ago_is_not_recognised_by_its_times(
    store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: Sql, is_settled, materialize
) -> None:
    """It may be written to again within one tick of the clock. How long a moment is, is for the test to say."""
    assert staging._SETTLED_NS >= 2_000_000_000, "FAT's tick"
    monkeypatch.setattr(staging, "_SETTLED_NS", 0 if is_settled else 10**18)
    source = tmp_path / "source"
    source.mkdir()
    (source / "w.bin").write_bytes(noise(MEDIUM))
    store.save("m:1", source, materialize=materialize)
    known = sql("SELECT 1 FROM fingerprint WHERE inode = ?", ((source / "w.bin").stat().st_ino,))
    assert len(known) == is_settled


def test_the_directory_of_a_version_is_not_that_of_a_deleted_one_of_its_tag(
    store: casstore.Store, save: Save, sql: Sql
) -> None:
    """A deletion was cut short, the directory went, and the next version's got its inode number."""
    files = {"w.bin": noise(MEDIUM), "small": b"small"}
    model = save("m:1", files)
    inode = os.stat(model.path).st_ino
    sql("INSERT INTO tombstone(manifest_id, name, version, inode) VALUES ('0123456789abcdef-7', 'm', '1', ?)", (inode,))
    store.gc()
    assert os.stat(model.path).st_ino == inode
    assert contents(store.get("m:1")) == files
    assert sql("SELECT count(*) FROM tombstone") == [(0,)]


def test_a_prefix_finds_every_character_that_a_version_may_go_on_with(store: casstore.Store) -> None:
    versions = [f"v{each}9" for each in string.ascii_lowercase + string.digits + "-._"]
    for version in [*versions, "u9", "w9", "vzz", "vzzz9", "v"]:
        with store.create(f"m:{version}", durability="relaxed"):
            pass
    store.delete("m:v")
    with pytest.raises(casstore.AmbiguousTag) as caught:
        store.get("m:v")
    assert sorted(caught.value.candidates) == sorted(f"m:{each}" for each in [*versions, "vzz", "vzzz9"])
    for version in versions:
        if version[1].isalnum() and version != "vz9":
            assert str(store.get(f"m:{version[:2]}").tag) == f"m:{version}"
    assert str(store.get("m:vzzz").tag) == "m:vzzz9"
    assert str(store.get("m:u").tag) == "m:u9"
