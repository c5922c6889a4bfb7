"""What is inside a store, this one or another, is no place to export to and nothing to save, but for copies out of
models/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, contents, everything, noise


@pytest.fixture
def other(tmp_path: Path):
    """Another store with a version; closed, as most are."""
    with casstore.Store(tmp_path / "other") as opened:
        for number in (1, 2):
            with opened.create(f"x:{number}") as draft:
                Path(draft.path, "w.bin").write_bytes(noise(2_000_000, number))
                Path(draft.path, "small").write_bytes(b"small")
    return tmp_path / "other"


@pytest.fixture
def sound(store: casstore.Store, other):
    """sound(): both stores hold what they held."""

    def check():
        assert store.verify().is_sound
        assert store.tags() == ["m:1"]
        with casstore.Store(other) as opened:
            assert opened.verify().is_sound
            assert opened.tags() == ["x:2", "x:1"]
            assert Path(opened.home, "models/x/2/w.bin").stat().st_size == 2_000_000

    return check


def places(home):
    """Something of every kind that a store has, and names that it may get."""
    found = [home / "catalog.db", home / "catalog.db-wal", home / "models/x/latest", home / "new", home / "models"]
    found += [home / "remotes.toml", home / "aliases/x.log", home / "locks/x.lock", home / "sessions/new"]
    for pattern in ("objects/packs/*", "objects/loose/*/*", "manifests/*/*", "models/*/*/*"):
        found += sorted(home.glob(pattern))[:1]
    return [*found, home, home / "objects/packs", home / "models/x/new", home / "quarantine/x", home / "objects"]


@pytest.mark.parametrize("whose", ["own", "other", "other, linked", "other, without a catalog"])
@pytest.mark.parametrize("name", ["tar", "casmodel", "folder"])
def test_nothing_is_exported_into_a_store(store: casstore.Store, other, save: Save, sound, whose, name) -> None:
    save("m:1", {"w": b"w", "big": bytes(range(256)) * 5000})
    home = store.home if whose == "own" else other
    if whose == "other, without a catalog":
        (home / "catalog.db").unlink()
    before = everything(home)
    if whose == "other, linked":
        home = store.home.parent / "link"
        home.symlink_to("other")
    for place in places(home):
        with pytest.raises(casstore.InvalidSource, match=r"inside the store .* path outside"):
            store.export("m:1", place, format=name)
        if name == "tar":
            for scheme in ("file", "local"):
                with pytest.raises(casstore.InvalidSource, match="inside the store"):
                    store.export("m:1", f"{scheme}://{place}", format=name)
    (store.home.parent / "a link.tar").symlink_to(home / "catalog.db")
    with pytest.raises(casstore.InvalidSource, match="inside the store"):
        store.export("m:1", store.home.parent / "a link.tar")
    assert everything(home) == before
    if whose != "other, without a catalog":
        sound()


def test_other_directories_in_a_home_are_the_user_s(store: casstore.Store, save: Save) -> None:
    """As a home of BentoML's has them, around which a store was made."""
    save("m:1", {"w": b"w"})
    for name in ("bentos", "exports"):
        (store.home / name).mkdir()
        store.export("m:1", store.home / name, format="tar")
        store.export("m:1", store.home / name / "folder", format="folder")
        assert store.save(f"{name}:1", store.home / name).file_count == 3
    assert store.verify().is_sound


def test_an_export_beside_a_hardlink_of_the_store_s_replaces_the_name_alone(
    store: casstore.Store, save: Save, tmp_path: Path
) -> None:
    save("m:1", {"w": bytes(200_000)})
    (loose,) = store.home.glob("objects/loose/*/*")
    os.link(loose, tmp_path / "out.tar")
    store.export("m:1", tmp_path / "out.tar")
    assert store.verify().is_sound


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("whose", ["own", "other"])
def test_working_parts_are_not_saved(store: casstore.Store, other, save: Save, sound, whose, move) -> None:
    save("m:1", {"w": b"w", "big": bytes(range(256)) * 5000})
    home = store.home if whose == "own" else other
    before = everything(home)
    parts = [home / "objects", home / "objects/packs", home / "manifests", home / "locks", home / "catalog.db"]
    parts += [*home.glob("objects/packs/*"), *home.glob("objects/loose/*/*")]
    for part in parts:
        with pytest.raises(casstore.InvalidSource, match=r"working part of the store .*casstore path TAG"):
            store.save("new:1", part, move=move)
    for holder in (home, home.parent):
        with pytest.raises(casstore.InvalidSource, match="holds the store"):
            store.save("new:1", holder, move=move)
    assert everything(home) == before
    sound()


@pytest.mark.parametrize("depth", ["", "deep/er/"])
@pytest.mark.parametrize("without", [None, "catalog.db"])
def test_a_directory_with_another_store_somewhere_in_it(
    store: casstore.Store, other, save: Save, tmp_path: Path, depth, without
) -> None:
    """Also one that its catalog was lost of, and that is reached by a link."""
    save("m:1", {"w": b"w"})
    holder = tmp_path / "holder"
    (holder / depth).mkdir(parents=True)
    (holder / "file").write_bytes(b"f")
    (other / without).unlink() if without else None
    other.rename(holder / depth / "in")
    (tmp_path / "linking").mkdir()
    (tmp_path / "linking/to").symlink_to(holder / depth / "in")
    before = everything(holder)
    for source in (holder, tmp_path / "linking"):
        for move in (True, False):
            with pytest.raises(casstore.InvalidSource, match="holds the store"):
                store.save("new:1", source, move=move)
    assert everything(holder) == before


def test_versions_of_any_store_may_be_copied_and_not_moved(
    store: casstore.Store, other, save: Save, sound, tmp_path: Path
) -> None:
    save("m:1", {"w": b"w"})
    (tmp_path / "link").symlink_to(other / "models/x/2")
    before = everything(other)
    sources = [
        other / "models/x/2",
        other / "models/x/2/w.bin",
        other / "models/x",
        other / "models",
        tmp_path / "link",
    ]
    for source in [*sources, store.home / "models/m/1"]:
        with pytest.raises(casstore.InvalidSource, match=r"belongs to the store .*leave out --move"):
            store.save("new:1", source, move=True)
        assert contents(store.save("new:1", source))
        store.delete("new:1")
    for directory in (other / "models", other / "objects", other / "sessions", other):
        with pytest.raises(casstore.InvalidSource, match="store"):
            store.adopt(directory, move=True)
    assert everything(other) == before
    assert sorted(store.adopt(other / "models").adopted) == ["x:1", "x:2"]
    assert everything(other) == before
    (imported,) = store.import_archive(other / "models/x/2", as_tag="again:1")
    assert imported.is_new
    for tag in ("x:1", "x:2", "again:1"):
        store.delete(tag)
    sound()


def test_drafts_are_sources_as_any_directory(store: casstore.Store, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "other") as second, store.create("m:1") as draft, second.create("y:1") as theirs:
        Path(draft.path, "w").write_bytes(b"w")
        Path(draft.path, "part").mkdir()
        Path(draft.path, "part/p").write_bytes(b"p")
        Path(theirs.path, "t").write_bytes(b"t")
        assert contents(store.save("m:2", draft.path)) == {"w": b"w", "part/p": b"p"}
        assert contents(store.save("m:3", theirs.path)) == {"t": b"t"}
        with pytest.raises(casstore.InvalidSource, match="leave out --move"):
            store.save("m:4", theirs.path, move=True)
        assert contents(store.save("m:4", Path(draft.path, "part"), move=True)) == {"p": b"p"}
    assert contents(draft.model) == {"w": b"w"}
