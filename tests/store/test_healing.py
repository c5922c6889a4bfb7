"""What comes right by itself: lost objects that are saved again, damaged copies, directories that are not ours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import casstore

BIG = random.Random(1).randbytes(3 << 20)
MEDIUM = random.Random(2).randbytes(300_000)


def save(store: casstore.Store, tag: str, **contents: bytes) -> casstore.Model:
    with store.create(tag) as draft:
        for name, content in contents.items():
            Path(draft.path, name).write_bytes(content)
    return draft.model


def read(model: casstore.Model, name: str) -> bytes:
    with model.open(name) as file:
        return file.read()


def loose_files(store: casstore.Store) -> list[Path]:
    return [path for path in (store.home / "objects" / "loose").rglob("*") if path.is_file()]


def test_saving_lost_bytes_again_mends_every_version_that_needs_them(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "store") as store:
        save(store, "m:1", big=BIG)
        for path in loose_files(store):
            path.unlink()
        assert store.verify().damaged_tags == ["m:1"]
        second = save(store, "m:2", big=BIG)
        assert store.verify().is_sound
        assert read(second, "big") == read(store.get("m:1"), "big") == BIG


def test_saving_over_a_pack_that_was_cut_short_mends_it(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "store") as store:
        save(store, "m:1", small=MEDIUM)
        (pack,) = (store.home / "objects" / "packs").iterdir()
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:1000])
        save(store, "m:2", small=MEDIUM)
        assert store.verify().is_sound
        assert read(store.get("m:1"), "small") == MEDIUM


@pytest.mark.parametrize("harm", ["remove", "overwrite"])
def test_a_harmed_redundant_copy_is_replaced_and_kept_in_quarantine(tmp_path: Path, harm: str) -> None:
    with casstore.Store(tmp_path / "store") as store:
        model = save(store, "m:1", small=MEDIUM)
        (copy,) = loose_files(store)
        if harm == "remove":
            copy.unlink()
            Path(model.path, "small").unlink()
        else:
            copy.chmod(0o600)
            copy.write_bytes(b"x" * len(MEDIUM))
        assert Path(store.get("m:1").path, "small").read_bytes() == MEDIUM
        assert store.verify().is_sound
        kept = [path for path in (store.home / "quarantine").rglob("*") if path.is_file()]
        assert {path.read_bytes() for path in kept} == (set() if harm == "remove" else {b"x" * len(MEDIUM)})
        assert len({path.stat().st_ino for path in kept}) == len(kept[:1])  # by the copy's name and by the file's


def test_deleting_leaves_alone_a_directory_that_only_has_the_inode_number_of_ours(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "store") as store:
        directory = Path(save(store, "m:1", big=BIG, small=MEDIUM).path)
        for path in directory.iterdir():  # the directory stays, so the inode number is certainly the same
            path.unlink()
        (directory / "mine.txt").write_text("not casstore's")
        store.delete("m:1")
        store.gc()
        assert (directory / "mine.txt").read_text() == "not casstore's"
