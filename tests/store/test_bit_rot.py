"""A bit flips on the disk, and no time stamp tells: as long as any copy of the bytes stands, no version is lost."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import casstore
from tests.kit import Check, Rot, Save, Sql, checkpoint, contents, known, noise, streamed

pytestmark = pytest.mark.crash

SMALL, LARGE, LARGEST = 20_000, 300_000, 3_000_000  # without a loose file, packed as it is saved, adopted
ALL_SIZES = [SMALL, LARGE, LARGEST]


@pytest.fixture
def old(sql: Sql):
    """old(): nobody has read what is stored for long."""
    return lambda: sql("UPDATE container SET read_at = 1")


@pytest.fixture
def location_of(store: casstore.Store):
    """location_of(digest): the container of a chunk, and where it stands in it."""

    def find(digest):
        location = store._workspace.catalog.index.locate([digest])[digest]
        return Path(location.container.path(store._workspace.layout)), location

    return find


@pytest.fixture
def first_location(store: casstore.Store, location_of):
    """first_location(tag, path): the container of the file's first chunk, and the middle of that."""

    def find(tag, path):
        file = next(file for file in store.get(tag).files if file.path == path)
        recipe = store._workspace.catalog.index.recipes([file.digest]).get(file.digest)
        found, location = location_of(file.digest if recipe is None else recipe.digests[0])
        return found, location.offset + location.length // 2

    return find


@pytest.fixture
def served(store: casstore.Store, tmp_path: Path):
    """served(tag): its files by every way out of the store."""

    def read(tag):
        model = store.get(tag)
        found = streamed(model)
        archive, folder, casmodel = (tmp_path / f"out.{kind}" for kind in ("tar", "folder", "casmodel"))
        store.export(tag, archive)
        store.export(tag, folder, format="folder")
        store.export(tag, casmodel)
        with tarfile.open(archive) as members:
            assert {name: known(members.extractfile(name)).read() for name in found} == found
        assert {name: (folder / name).read_bytes() for name in found} == found
        with casstore.Store(tmp_path / "other") as other:
            other.import_archive(casmodel)
            assert streamed(other.get(tag)) == found
        for path in (archive, casmodel):
            path.unlink()
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "other")
        return found

    return read


def objects(home):
    return [path for path in (home / "objects").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", ALL_SIZES)
def test_a_copy_is_served_while_the_container_is_rotten_and_gc_heals_it(
    store: casstore.Store, save: Save, rot: Rot, first_location, served, size
) -> None:
    """The bytes of a packed version rot; somebody saves the same content again; gc takes its directory away."""
    files = {"w.bin": noise(size), "about.txt": b"about"}
    save("m:1", files)
    store.gc(evict_all=True)
    rot(*first_location("m:1", "w.bin"))
    save("m:2", files)
    assert served("m:2") == files
    assert contents(store.get("m:2")) == files
    assert served("m:1") == files, "the other version's copy is as good"
    report = store.verify()
    assert [(each.tag, each.path) for each in report.damage] == [("m:1", "w.bin"), ("m:2", "w.bin")]
    store.close()
    with casstore.Store(store.home) as again:  # no lease is held
        collected = again.gc(evict_all=True)
        assert collected.healed == 1
        assert collected.damaged == 0
        assert not any(path.is_dir() for path in (store.home / "models").glob("*/*"))
        for tag in ("m:1", "m:2"):
            assert {file.path: again.get(tag).open(file.path).read() for file in again.get(tag).files} == files
        assert again.verify().is_sound
        assert again.gc(evict_all=True).healed == 0
        assert {step.count for step in again.gc(evict_all=True).steps} == {0}
        assert {file.path: again.get("m:1").open(file.path).read() for file in again.get("m:1").files} == files


def test_a_file_of_many_chunks_is_healed_where_it_is_rotten(
    store: casstore.Store, home: Path, save: Save, rot: Rot, location_of
) -> None:
    files = {"w.bin": noise(9_000_000)}
    save("m:1", files)
    store.gc(evict_all=True)
    (file,) = store.get("m:1").files
    recipe = store._workspace.catalog.index.recipes([file.digest])[file.digest]
    assert len(recipe.digests) > 4
    for digest in (recipe.digests[0], recipe.digests[-1]):
        path, found = location_of(digest)
        rot(path, found.offset + found.length // 2)
    save("m:2", files)
    assert streamed(store.get("m:1")) == files
    assert store.gc(evict_all=True).healed == 2
    assert [path.parent.name for path in objects(home)] == ["packs", "packs"]
    assert streamed(store.get("m:1")) == files
    assert store.verify().is_sound


def test_a_rotten_loose_file_is_replaced_by_a_copy_of_the_same(
    store: casstore.Store, home: Path, save: Save, rot: Rot, old
) -> None:
    """The container is a loose file that nobody has read for long: who saves the content again keeps the bytes he
    brings."""
    files = {"w.bin": noise(LARGEST)}
    save("m:1", files)
    (loose,) = [path for path in objects(home) if path.parent.parent.name == "loose"]
    rot(loose)
    old()
    save("m:2", files)
    assert (home / "models/m/2/w.bin").read_bytes() == files["w.bin"], "no link to what is rotten"
    assert streamed(store.get("m:1")) == files
    assert not store.verify().is_sound
    assert store.gc(evict_all=True).healed == 1
    assert streamed(store.get("m:1")) == streamed(store.get("m:2")) == files
    store.gc(evict_all=True)
    assert store.verify().is_sound
    assert not any((home / "objects/loose").rglob("*.*"))


@pytest.mark.parametrize("is_copied", [False, True])
def test_stale_bytes_are_kept_twice_until_somebody_has_read_them(
    store: casstore.Store, save: Save, old, is_copied, sql: Sql
) -> None:
    files = {"w.bin": noise(LARGEST)}
    (store.home.parent / "source").mkdir()
    (store.home.parent / "source/w.bin").write_bytes(files["w.bin"])

    def again(tag):
        if is_copied:
            store.save(tag, store.home.parent / "source")
        else:
            save(tag, files)
        return len(sql("SELECT 1 FROM container WHERE digest IS NOT NULL AND state = 1"))

    assert again("m:1") == 1
    assert again("m:2") == 1, "just written"
    old()
    assert again("m:3") == 2, "its own"
    assert again("m:4") == 2, "which is new, so a link to that will do"
    store.verify()
    assert again("m:5") == 2
    assert sql("SELECT count(*) FROM container WHERE read_at = 1") == [(0,)]
    store.set_setting("verify_days", "0")
    assert again("m:6") == 3, "never long enough ago"
    store.set_setting("verify_days", None)
    store.gc(evict_all=True)
    assert [path.parent.name for path in objects(store.home)] == ["packs"]
    for tag in store.tags():
        assert streamed(store.get(tag)) == files


def test_a_link_of_the_stores_own_file_brings_no_bytes_that_could_be_kept(
    store: casstore.Store, save: Save, old, sql: Sql
) -> None:
    model = save("m:1", {"w.bin": noise(LARGEST)})
    old()
    store.save("m:2", model.path)
    assert sql("SELECT count(*) FROM container WHERE digest IS NOT NULL") == [(1,)]
    assert os.path.samefile(Path(model.path, "w.bin"), Path(store.get("m:2").path, "w.bin"))


@pytest.mark.parametrize("stored", [(SMALL, {}), *((size, {"materialize": False}) for size in ALL_SIZES)])
def test_what_keeps_no_copy_reads_what_it_relies_on(
    store: casstore.Store, save: Save, rot: Rot, old, first_location, stored
) -> None:
    size, options = stored
    home = store.home
    files = {"w.bin": noise(size), "sound.bin": noise(SMALL, 9)}
    save("m:1", files)
    store.gc(evict_all=True)
    before = {path.name for path in objects(home)}
    rot(*first_location("m:1", "w.bin"))
    old()
    save("m:2", files, **options)
    shutil.rmtree(home / "models")
    (home / "models").mkdir()
    assert streamed(store.get("m:2")) == streamed(store.get("m:1")) == files
    assert store.verify().is_sound, "it was stored again"
    assert len({path.name for path in objects(home)} - before) == 1
    store.gc(evict_all=True)
    assert streamed(store.get("m:2")) == files


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_sound_bytes_that_are_stale_are_read_once_and_not_stored_again(
    store: casstore.Store, home: Path, save: Save, old, sql: Sql, size
) -> None:
    files = {"w.bin": noise(size)}
    save("m:1", files)
    store.gc(evict_all=True)
    before = set(objects(home))
    old()
    save("m:2", files, materialize=False)
    assert set(objects(home)) == before
    assert sql("SELECT count(*) FROM container WHERE read_at = 1") == [(0,)]


@pytest.mark.parametrize("setting", ["copy", "auto"])
def test_a_directory_that_goes_is_a_copy_too(
    store: casstore.Store, save: Save, rot: Rot, first_location, setting
) -> None:
    """Its files are no links of loose files where they are small, or where the store makes no links."""
    store.set_setting("link_mode", setting)
    files = {"w.bin": noise(LARGE), "small.bin": noise(SMALL, 1)}
    save("m:1", files, materialize=False)
    for name in files:
        rot(*first_location("m:1", name))
    save("m:2", files)
    assert streamed(store.get("m:1")) == files
    assert store.gc(evict_all=True).healed == 2
    assert not any(path.is_dir() for path in (store.home / "models").glob("*/*"))
    assert streamed(store.get("m:1")) == streamed(store.get("m:2")) == files
    assert store.verify().is_sound


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_rotten_base_loses_nothing_of_which_a_copy_stands(
    store: casstore.Store, save: Save, rot: Rot, location_of, check_catalog: Check, step
) -> None:
    """The start, the middle and the end of a chain; all of its files are saved again from good bytes."""
    expected = {f"m:{n}": checkpoint(n) for n in range(3)}
    for tag, files in expected.items():
        save(tag, files, materialize=False)
    links = {link.digest: link for link in _links(store, "m:2")}
    chain = [next(digest for digest in _recipe(store, "m:2").digests if links[digest].depth == 2)]
    while (base := links[chain[-1]].base) is not None:
        chain.append(base)
    path, found = location_of(chain[2 - step])
    rot(path, found.offset + found.length - 9)
    with pytest.raises(casstore.IntegrityError):
        streamed(store.get("m:2"))
    for n in range(3):
        save(f"again:{n}", expected[f"m:{n}"])
    for n in range(3):
        assert streamed(store.get(f"m:{n}")) == expected[f"m:{n}"]
        assert streamed(store.get(f"again:{n}")) == expected[f"m:{n}"]
    assert len(store.verify().damage) == 2 * (3 - step)
    assert store.gc(evict_all=True).damaged == 0
    check_catalog()
    for model in store.list():
        assert streamed(model) == expected[f"m:{model.tag.version}"]
    assert store.verify().is_sound
    assert any(link.base for link in _links(store, "m:2"))


def test_a_delta_is_read_against_a_base_that_only_a_copy_has(
    store: casstore.Store, save: Save, rot: Rot, location_of
) -> None:
    """Of the delta itself there is no copy: its own record is sound, and what it is against stands in a directory."""
    expected = {f"m:{n}": checkpoint(n) for n in range(2)}
    for tag, files in expected.items():
        save(tag, files, materialize=False)
    _ = store.get("m:0").path
    link = next(link for link in _links(store, "m:1") if link.base is not None)
    path, found = location_of(link.base)
    rot(path, found.offset + found.length - 9)
    assert streamed(store.get("m:1")) == expected["m:1"]
    assert [(each.tag, each.path) for each in store.verify().damage] == [
        ("m:0", "model.safetensors"),
        ("m:1", "model.safetensors"),
    ]
    assert store.repair().is_sound
    assert store.verify().is_sound
    assert streamed(store.get("m:1")) == expected["m:1"]


def _recipe(store, tag):
    file = next(file for file in store.get(tag).files if file.path == "model.safetensors")
    return store._workspace.catalog.index.recipes([file.digest])[file.digest]


def _frozen(store, tag):
    """The chunk of the tensor that is the same in all versions."""
    return next(segment.chunks[0][0] for segment in _recipe(store, tag).segments if segment.name == "frozen")


def _links(store, tag):
    return list(store._workspace.catalog.index.chains(_recipe(store, tag).digests).values())


def test_a_copy_of_another_blob_that_shares_the_chunk_is_as_good(
    store: casstore.Store, save: Save, rot: Rot, location_of
) -> None:
    """`frozen` is the same in both versions, whose files differ."""
    expected = {"m:0": checkpoint(0), "m:1": checkpoint(1)}
    save("m:0", expected["m:0"], materialize=False)
    save("m:1", expected["m:1"])
    assert _frozen(store, "m:0") == _frozen(store, "m:1")
    path, found = location_of(_frozen(store, "m:0"))
    rot(path, found.offset + found.length - 9)
    assert streamed(store.get("m:0")) == expected["m:0"]


def test_a_copy_that_is_rotten_too_is_not_served_and_not_taken_away(
    store: casstore.Store, home: Path, save: Save, rot: Rot, first_location, sql: Sql
) -> None:
    files = {"w.bin": noise(LARGE)}
    save("m:1", files, materialize=False)
    save("m:2", files)
    (loose,) = (path for path in objects(home) if path.suffix != ".pack")
    path, offset = first_location("m:1", "w.bin")
    rot(path, offset)
    rot(loose)
    for tag in ("m:1", "m:2"):
        with pytest.raises(casstore.IntegrityError, match=rf"w\.bin of {tag}"):
            store.get(tag).open("w.bin").read()
    for _ in range(2):
        report = store.gc(evict_all=True)
        assert (report.healed, report.damaged) == (0, 1)
        assert loose.exists()
    rot(loose)  # back
    assert store.gc(evict_all=True).healed == 1
    assert store.get("m:1").open("w.bin").read() == files["w.bin"]


@pytest.mark.usefixtures("no_trash")
def test_what_nobody_needs_is_taken_away_unread(
    store: casstore.Store, home: Path, save: Save, rot: Rot, first_location
) -> None:
    files = {"w.bin": noise(LARGE)}
    save("m:1", files)
    save("m:2", files)
    rot(*first_location("m:1", "w.bin"))
    for tag in ("m:1", "m:2"):
        store.delete(tag)
    report = store.gc()
    assert (report.healed, report.damaged) == (0, 0)
    assert objects(home) == []


@pytest.mark.usefixtures("no_trash")
def test_the_copy_of_a_deleted_version_heals_one_that_shares_its_chunks(
    store: casstore.Store, home: Path, save: Save, rot: Rot, location_of
) -> None:
    expected = {"m:0": checkpoint(0), "m:1": checkpoint(1)}
    save("m:0", expected["m:0"], materialize=False)
    save("m:1", expected["m:1"])
    assert _frozen(store, "m:0") == _frozen(store, "m:1")
    path, found = location_of(_frozen(store, "m:0"))
    rot(path, found.offset + found.length - 9)
    store.delete("m:1")
    assert store.gc().healed == 1
    assert streamed(store.get("m:0")) == expected["m:0"]
    assert store.verify().is_sound


def test_what_is_both_home_and_copy_is_packed_when_the_rest_is_sound(
    store: casstore.Store, home: Path, save: Save, rot: Rot, location_of
) -> None:
    """A loose file brought the chunks that changed; that which it shares stands elsewhere, and rots there."""
    expected = {"m:0": checkpoint(0), "m:1": checkpoint(1)}
    save("m:0", expected["m:0"])
    store.gc(evict_all=True)
    save("m:1", expected["m:1"])
    path, found = location_of(_frozen(store, "m:1"))
    assert path.suffix == ".pack"
    rot(path, found.offset + found.length - 9)
    report = store.gc(evict_all=True)
    assert (report.healed, report.damaged) == (1, 0)
    for tag, files in expected.items():
        assert streamed(store.get(tag)) == files
    assert store.verify().is_sound


def test_verify_and_gc_note_what_they_have_read(store: casstore.Store, save: Save, old, sql: Sql) -> None:
    save("m:1", {"w.bin": noise(LARGEST), "small": b"small"})
    save("m:2", {"w.bin": noise(LARGE, 2)})
    assert sql("SELECT count(*) FROM container WHERE read_at > 1") == [(4,)], "written just now"
    old()
    store.verify(quick=True)
    assert sql("SELECT count(*) FROM container WHERE read_at > 1") == [(0,)]
    store.verify()
    assert sql("SELECT count(*) FROM container WHERE read_at > 1") == [(4,)]
    old()
    store.gc(evict_all=True)
    assert sql("SELECT count(*) FROM container WHERE read_at = 1") == [(0,)]


def test_an_archive_that_has_the_bytes_mends_what_is_rotten(
    store: casstore.Store, save: Save, rot: Rot, old, first_location
) -> None:
    files = {"w.bin": noise(LARGE)}
    archive = io.BytesIO()
    save("m:1", files, materialize=False)
    store.export("m:1", archive, format="casmodel")
    rot(*first_location("m:1", "w.bin"))
    old()
    archive.seek(0)
    store.import_archive(archive, as_tag="n:1")
    assert streamed(store.get("n:1")) == streamed(store.get("m:1")) == files
    assert store.verify().is_sound
