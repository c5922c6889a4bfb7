"""What a rebuilt catalog chooses where the files leave a choice: of copies the sound one, of versions every one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from itertools import product
from pathlib import Path

import msgpack
import pytest
import zstandard

import casstore
from casstore.storage import pack
from tests.kit import Save, checkpoint, contents, noise, part, streamed

pytestmark = pytest.mark.crash

BIG = 2_500_000


@pytest.fixture
def rebuild(store: casstore.Store, home: Path):
    """rebuild(): the report of making the catalog anew; the store may be used again afterwards."""

    def run():
        store.close()
        for path in home.glob("catalog.db*"):
            path.unlink()
        return casstore.Store.rebuild_catalog(home)

    return run


@pytest.fixture
def whole(store: casstore.Store):
    """whole(expected): every version reads right, chunks and directory, before and after gc."""

    def check(expected):
        for _ in range(2):
            assert {tag: streamed(store.get(tag)) for tag in expected} == expected
            assert {tag: contents(store.get(tag)) for tag in expected} == expected
            assert store.verify().is_sound
            store.gc()

    return check


def packs(home):
    return sorted((home / "objects/packs").iterdir())


def overwrite(path, offset, data):
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def manifest(home, tag):
    name, version = tag.split(":")
    (path,) = (home / "manifests" / name).glob(f"{version}.*")
    return path


def test_a_loose_file_of_which_no_version_is_left_holds_chunks_all_the_same(
    store: casstore.Store, save: Save, rebuild, whole
) -> None:
    other = {"w.bin": noise(BIG)[:2_000_000] + noise(900_000, 5)}
    save("a:1", {"w.bin": noise(BIG)})
    save("a:2", other, materialize=False)
    store.delete("a:1")
    assert rebuild().unreadable == ()
    whole({"a:2": other})


@pytest.mark.parametrize("damage", list(product([False, True], [False, True])))
def test_of_two_copies_of_a_chunk_the_sound_one_is_taken(
    store: casstore.Store, save: Save, deltas, rebuild, whole, damage
) -> None:
    is_delta, damaged_is_first = damage
    expected = {f"m:{step}": checkpoint(step, size=150_000) for step in range(2)}
    for tag, files in expected.items():
        save(tag, files, materialize=False)
    assert deltas()
    for number, path in enumerate(packs(store.home)):
        # Before, or after, the names of packs that saves write, which begin with the random id of a session.
        copy = path.with_name(f"{('0' if damaged_is_first else 'z') * 16}-{number}.pack")
        shutil.copy(path, copy)
        for entry in pack.read_entries(copy):
            if (entry.base is not None) == is_delta:
                overwrite(copy, entry.offset + entry.length - 8, b"damaged!")
    rebuild()
    assert deltas()
    whole(expected)


@pytest.mark.parametrize("bit", range(0, 64, 7))
def test_a_flipped_bit_in_the_header_of_a_pack(
    store: casstore.Store, home: Path, save: Save, rebuild, whole, bit
) -> None:
    """verify names it, a rebuilding reads the pack all the same, and repair writes it anew."""
    files = part(1, 2)
    save("a:1", files, materialize=False)
    (path,) = packs(home)
    overwrite(path, bit // 8, bytes([path.read_bytes()[bit // 8] ^ 1 << bit % 8]))
    report = store.verify()
    assert not report.is_sound
    assert report.damage == ()
    assert report.damaged_copies == (str(path),)
    assert rebuild().unreadable == ()
    assert streamed(store.get("a:1")) == files
    repaired = store.repair()
    assert repaired.damage == ()
    assert repaired.quarantined == (str(home / "quarantine" / path.name),)
    assert packs(home) != [path]
    whole({"a:1": files})
    rebuild()
    whole({"a:1": files})


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("pending", [(), ("old",), ("new",), ("old", "new")])
def test_a_second_manifest_of_a_tag_is_recovered_under_a_tag_of_its_own(
    store: casstore.Store, save: Save, rebuild, whole, tmp_path: Path, pending
) -> None:
    """A deletion that was cut short, and then a save: which of the two is the version, only the old catalog knew."""
    kept = {}
    save("m:1", part(1), materialize=False)
    kept["old"] = shutil.copy2(manifest(store.home, "m:1"), tmp_path)
    store.delete("m:1")
    (store.home / "manifests/.deleted" / Path(kept["old"]).name.partition(".")[2]).unlink()  # not so far
    save("m:1", part(2), materialize=False)
    kept["new"] = manifest(store.home, "m:1")
    for which, path in kept.items():
        target = store.home / "manifests/m" / Path(path).name
        if which in pending:
            target = store.home / "manifests/.pending" / Path(path).name.partition(".")[2]
        shutil.move(path, target)
    report = rebuild()
    (tag,) = report.recovered
    assert re.fullmatch(r"m:1-recovered-\w{8}", tag)
    assert tag.rpartition("-")[2] in {Path(path).name.partition(".")[2][:8] for path in kept.values()}
    assert sorted(report.tags) == ["m:1", tag]
    found = {each: streamed(store.get(each)) for each in report.tags}
    assert sorted(found.values(), key=repr) == sorted([part(1), part(2)], key=repr)
    if len(pending) != 1:
        assert found["m:1"] == part(2)
    whole(found)
    again = rebuild()
    assert again.recovered == again.unreadable == ()
    whole(found)


def test_a_manifest_that_stands_twice_is_one_version(
    store: casstore.Store, home: Path, save: Save, rebuild, whole
) -> None:
    save("m:1", part(1))
    path = manifest(home, "m:1")
    shutil.copy2(path, home / "manifests/.pending/0123456789abcdef-1")
    report = rebuild()
    assert (report.tags, report.recovered) == (("m:1",), ())
    whole({"m:1": part(1)})
    assert list((home / "manifests/.pending").iterdir()) == []


def test_a_damaged_pending_manifest_goes_to_quarantine(
    store: casstore.Store, home: Path, save: Save, rebuild, whole
) -> None:
    save("a:1", part(1))
    save("b:1", part(2))
    standing = manifest(home, "b:1")
    damaged = standing.read_bytes()[:-3] + b"xxx"
    standing.unlink()
    (home / "manifests/.pending" / standing.name.partition(".")[2]).write_bytes(damaged)
    report = rebuild()
    assert report.tags == ("a:1",)
    (line,) = report.unreadable
    (kept,) = (path for path in (home / "quarantine").iterdir() if path.name.endswith(standing.name.partition(".")[2]))
    assert str(kept) in line
    store.gc()
    assert kept.read_bytes() == damaged
    whole({"a:1": part(1)})


DESCRIPTION = (
    '{"api_version":"v1","context":{},"labels":%s,"metadata":%s,"module":"","options":{},"signatures":{}}'  # as json
)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["files"].append(document["files"][0]),
        lambda document: document["files"].append(["f/x", False, 1, document["files"][0][3]]),
        lambda document: document["files"].append(["model.yaml", False, 1, document["files"][0][3]]),
        lambda document: document["files"].append(["model.yaml/x", False, 1, document["files"][0][3]]),
        lambda document: document["files"].append(["a/" * 3000 + "b", False, 1000, document["files"][0][3]]),
        lambda document: document["files"][0].__setitem__(2, 1 << 63),
        lambda document: document.update(directories=["f"]),
        lambda document: document.update(directories=[1]),
        lambda document: document.update(created_at=1 << 62),
        lambda document: document.update(created_at=1 << 63),
        lambda document: document.update(created_at=-(1 << 63)),
        lambda document: document.update(description="{}"),
        lambda document: document.update(description=DESCRIPTION % ("[]", "{}")),
        lambda document: document.update(description=DESCRIPTION % ('{"a":{}}', "{}")),
        lambda document: document.update(description=DESCRIPTION % ('{"\\ud800":"x"}', "{}")),
        lambda document: document.update(description=DESCRIPTION % ("{}", '{"a":' * 900 + "1" + "}" * 900)),
        lambda document: document.update(description=DESCRIPTION % ("{}", '{"a":%s}' % ("9" * 4000))),
    ],
)
def test_a_manifest_of_odd_content_does_not_stop_a_rebuilding(
    store: casstore.Store, home: Path, save: Save, rebuild, change
) -> None:
    save("m:0", {"g": noise(1000, 1)})
    save("m:1", {"f": noise(1000)})
    path = manifest(home, "m:1")
    document = msgpack.unpackb(zstandard.decompress(path.read_bytes()))
    change(document)
    path.chmod(0o644)
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(msgpack.packb(document)))
    report = rebuild()
    assert "m:0" in report.tags
    assert [line.partition(": ")[0] for line in report.unreadable] == ([] if "m:1" in report.tags else [str(path)])
    assert streamed(store.get("m:0")) == {"g": noise(1000, 1)}
    store.verify()
    for ask in ("path", "labels", "metadata", "created_at", "size"):
        with contextlib.suppress(casstore.CasstoreError):
            getattr(store.get("m:1"), ask)


@pytest.mark.parametrize("name", ["m/notes to self.txt", "m/.hidden.txt", "m/README.md", "m/no-ending", "README"])
def test_what_somebody_has_put_among_the_manifests_is_in_nobodys_way(
    store: casstore.Store, home: Path, save: Save, rebuild, whole, name
) -> None:
    save("m:1", part(1))
    stray = home / "manifests" / name
    stray.write_text("mine")
    whole({"m:1": part(1)})
    report = rebuild()
    assert (report.tags, report.recovered, report.unreadable) == (("m:1",), (), ())
    whole({"m:1": part(1)})
    assert stray.read_text() == "mine"


def test_an_older_catalog_that_was_put_back_is_found(
    store: casstore.Store, home: Path, save: Save, whole, tmp_path: Path
) -> None:
    save("m:1", part(1))
    store.close()
    shutil.copy(home / "catalog.db", tmp_path)
    save("m:2", part(2))
    store.close()
    shutil.copy(tmp_path / "catalog.db", home)
    for quick in (False, True):
        report = store.verify(quick=quick)
        assert report.damaged_tags == ["m:2"]
        assert any("repair --rebuild-catalog" in line for line in report.reasons)
    with pytest.raises(casstore.CatalogDamaged, match="repair --rebuild-catalog"):
        store.repair()
    store.close()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1", "m:2")
    whole({"m:1": part(1), "m:2": part(2)})


@pytest.mark.parametrize("kind", ["link", "link to nothing", "fifo", "directory"])
def test_what_is_no_file_in_a_directory_is_made_anew(
    store: casstore.Store, save: Save, rebuild, whole, tmp_path: Path, kind
) -> None:
    """A link to a file of the same bytes too: somebody may change that file."""
    files = {"w.bin": noise(BIG), "small": noise(500)}
    save("m:1", files)
    outside = tmp_path / "outside"
    for name, content in files.items():
        path = Path(store.get("m:1").path) / name
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            if kind == "link":
                outside.write_bytes(content)
            path.symlink_to(outside)
            break
    rebuild()
    root = Path(store.get("m:1").path)
    assert all(not (root / name).is_symlink() for name in files)
    whole({"m:1": files})


def test_a_fifo_among_the_packs_is_not_waited_for(
    store: casstore.Store, home: Path, save: Save, rebuild, whole
) -> None:
    save("m:1", part(1))
    os.mkfifo(home / "objects/packs/0123456789abcdef-1.pack")
    rebuild()
    assert list(packs(home)) != []
    (home / "objects/packs/0123456789abcdef-1.pack").unlink(missing_ok=True)
    whole({"m:1": part(1)})
