"""A catalog in which a byte has changed: right bytes or a clear error, and nothing outside the store is touched."""

from __future__ import annotations

import contextlib
import struct
from functools import partial
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, Sql, contents, noise, streamed

pytestmark = pytest.mark.crash

BIG = 1_500_000


def outside(home):
    """Everything beside the store."""
    return sorted(str(path) for path in home.parent.rglob("*") if home not in path.parents)


def flip_row_number(home, sql, index, row):
    """Change one bit of an index's entry for that row, so that it leads to the row whose number differs in it."""
    ((page,),) = sql("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,))
    ((page_bytes,),) = sql("PRAGMA page_size")
    data = bytearray((home / "catalog.db").read_bytes())
    start = (page - 1) * page_bytes
    kind, _, count = struct.unpack_from(">BHH", data, start)
    assert kind == 10  # a leaf of an index: https://www.sqlite.org/fileformat2.html, "B-tree Pages"
    for number in range(count):
        (offset,) = struct.unpack_from(">H", data, start + 8 + 2 * number)
        length = data[start + offset]
        end = start + offset + length
        if data[end] == row and length < 128:
            data[end] ^= 1
            (home / "catalog.db").write_bytes(data)
            return
    raise AssertionError("no such entry")


@pytest.mark.parametrize("index", ["sqlite_autoindex_blob_1", "sqlite_autoindex_version_1"])
def test_an_index_that_leads_to_another_row_is_never_followed(
    store: casstore.Store, home: Path, sql: Sql, save: Save, index
) -> None:
    expected = {f"m:{number}": {"w.bin": noise(BIG, number)} for number in range(1, 4)}
    for tag, files in expected.items():
        save(tag, files, materialize=False)
    store.close()
    flip_row_number(home, sql, index, 2)
    errors = []
    for tag, files in expected.items():
        try:
            model = store.get(tag)
            assert model.open("w.bin").read() == files["w.bin"]
            assert (Path(model.path) / "w.bin").read_bytes() == files["w.bin"]
        except casstore.CasstoreError as error:
            errors.append(error)
    assert any(isinstance(error, casstore.CatalogDamaged) for error in errors)
    with pytest.raises(casstore.CatalogDamaged):
        store.verify()
    store.close()
    assert sorted(casstore.Store.rebuild_catalog(home).tags) == sorted(expected)
    for tag, files in expected.items():
        assert store.get(tag).open("w.bin").read() == files["w.bin"]


def test_a_path_with_a_flipped_bit_leads_out_of_no_store(
    store: casstore.Store, home: Path, save: Save, tmp_path: Path
) -> None:
    """`.` and `/` differ in one bit."""
    target = tmp_path / "outside"
    files = {"." + str(target)[1:]: b"payload", "other": b"other"}
    save("m:1", files, materialize=False)
    store.close()
    data = (home / "catalog.db").read_bytes()
    assert data.count(b"." + bytes(target)[1:])
    (home / "catalog.db").write_bytes(data.replace(b"." + bytes(target)[1:], bytes(target)))
    before = outside(home)
    with pytest.raises(casstore.IntegrityError, match="m:1"):
        _ = store.get("m:1").path
    with pytest.raises(casstore.IntegrityError, match="m:1"):
        streamed(store.get("m:1"))
    assert outside(home) == before
    assert store.repair().restored == ("m:1",)
    assert contents(store.get("m:1")) == files
    assert outside(home) == before


CHANGES = {
    "bytes of a chunk": "UPDATE chunk SET raw_bytes = raw_bytes + (1 << 62) WHERE length > 5000",
    "gigabytes of a chunk": "UPDATE chunk SET raw_bytes = raw_bytes + (1 << 36) WHERE length > 5000",
    "negative bytes of a chunk": "UPDATE chunk SET raw_bytes = -5 WHERE length > 5000",
    "offset of a chunk": "UPDATE chunk SET offset = offset + (1 << 62) WHERE length > 5000",
    "negative offset of a chunk": "UPDATE chunk SET offset = -offset - 1 WHERE length > 5000",
    "negative offset in a pack": "UPDATE chunk SET offset = -7 WHERE length < 5000",
    "length in a pack": "UPDATE chunk SET length = length + (1 << 40) WHERE length < 5000",
    "negative length in a pack": "UPDATE chunk SET length = -1 WHERE length < 5000",
    "digest of a chunk": "UPDATE chunk SET digest = x'00' WHERE length > 5000 AND offset = 0",
    "base that is too short": "UPDATE chunk SET base = x'00', grouping = x'00'",
    "base that is the chunk": "UPDATE chunk SET base = digest, grouping = digest",
    "base without a grouping": "UPDATE chunk SET base = digest WHERE length < 5000",
    "digest of a container": "UPDATE container SET digest = x'00' WHERE digest IS NOT NULL",
    "NUL in a container's name": "UPDATE container SET file_id = file_id || char(0) || 'a'",
    "slash in a container's name": "UPDATE container SET file_id = replace(file_id, '-', '/')",
    "inode of a container": "UPDATE container SET inode = NULL",
    "state of a container": "UPDATE container SET state = 7",
    "path of an entry": "UPDATE directory SET entries = CAST(replace(entries, x'732e747874', x'732e747875') AS BLOB)",
    "name of model.yaml": "UPDATE directory SET entries = CAST(replace(entries, '.yaml', '.yamm') AS BLOB)",
    "kind of the entries": "UPDATE directory SET entries = CAST(x'83' || substr(entries, 2) AS BLOB)",
    "number of entries": "UPDATE directory SET entries = CAST(x'9c' || substr(entries, 2) AS BLOB)",
    "fields of an entry": "UPDATE directory SET entries = CAST(x'9493' || substr(entries, 3) AS BLOB)",
    "no UTF-8 in the entries": "UPDATE directory SET entries = CAST(replace(entries, '.txt', x'f32e7478') AS BLOB)",
    "NUL in the entries": "UPDATE directory SET entries = CAST(replace(entries, 's.txt', x'002e747874') AS BLOB)",
    "zeros for the entries": "UPDATE directory SET entries = zeroblob(length(entries))",
    "absolute path of a file": "UPDATE file SET path = '{outside}' WHERE path = 's.txt'",
    "absolute path, no directory": "UPDATE file SET path = '{outside}' WHERE path = 's.txt'; DELETE FROM directory",
    "path to above": "UPDATE file SET path = '../../../../out' WHERE path = 's.txt'; DELETE FROM directory",
    "NUL in a path": "UPDATE file SET path = 'a' || char(0) WHERE path = 's.txt'",
    "size of a file": "UPDATE file SET size = 3 WHERE path = 'w.bin'",
    "negative size of a file": "UPDATE file SET size = -3 WHERE path = 'w.bin'",
    "digest of a file": "UPDATE file SET digest = x'00' WHERE path = 'w.bin'",
    "recipe": "UPDATE blob SET recipe = CAST(substr(recipe, 1, 50) AS BLOB)",
    "description": "UPDATE version SET description = '{{}}'",
    "description, no directory": "UPDATE version SET description = '{{}}'; DELETE FROM directory",
    "labels": "UPDATE version SET description = '{{\"labels\":1}}'",
    "name": "UPDATE version SET name = 'n'",
    "name that is none": "UPDATE version SET name = 'a b'",
    "version that is none": "UPDATE version SET version = 'a b'",
    "far future": "UPDATE version SET created_at = 9000000000000000000; DELETE FROM directory",
    "far past": "UPDATE version SET created_at = -9000000000000000000; DELETE FROM directory",
    "directories": "UPDATE version SET directories = '[1,2]'; DELETE FROM directory",
    "directories above": "UPDATE version SET directories = '[\"../../x\"]'; DELETE FROM directory",
    "base of a version": "UPDATE version SET base_name = 'A B', base_version = 'c', base_digest = x'00'",
    "manifest of a version": "UPDATE version SET manifest_id = 'a' || char(0)",
    "settings": "INSERT INTO setting VALUES ('keep_days', 'zz'), ('link_mode', 'q'), ('durability', 'x')",
    "gc's epoch": "DELETE FROM store",
    "tag of a tombstone": "INSERT INTO tombstone VALUES ('x', 'A B', 'c', 1)",
    "path of a tombstone": "INSERT INTO tombstone VALUES ('../../catalog.db', 'a', 'c', 1)",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_row_that_has_changed(store: casstore.Store, home: Path, sql: Sql, save: Save, what) -> None:
    """Whatever is asked for comes right or as an error of casstore's, also after repair; the files bring all back."""
    files = {"w.bin": noise(BIG), "s.txt": b"hello"}
    save("m:1", files)
    store.close()
    before = outside(home)
    sql(CHANGES[what].format(outside=home.parent / "out"))

    def read():
        for name, content in files.items():
            with contextlib.suppress(casstore.CasstoreError), store.get("m:1").open(name) as reader:
                assert reader.read() == content
        with contextlib.suppress(casstore.CasstoreError):
            root = Path(store.get("m:1").path)
            assert {path.name: path.read_bytes() for path in root.iterdir() if path.name != "model.yaml"} == files

    read()
    quick, dry_run = partial(store.verify, quick=True), partial(store.gc, dry_run=True)
    for ask in (quick, store.verify, store.repair, store.verify, dry_run):
        with contextlib.suppress(casstore.CasstoreError):
            ask()
    read()
    with contextlib.suppress(casstore.CasstoreError):
        store.gc()
    read()
    assert outside(home) == before
    store.close()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1",)
    for name, content in files.items():
        with store.get("m:1").open(name) as reader:
            assert reader.read() == content
    assert store.verify().damage == ()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("con", "1"),
        ("aux.x", "1"),
        ("M", "1"),
        ("a" * 64, "1"),
        ("m", "latest"),
        ("m", "lpt1.v"),
        ("m", ""),
        ("m", "/"),
    ],
)
def test_a_tag_that_nobody_can_have_given(store: casstore.Store, sql: Sql, save: Save, name, version) -> None:
    save("m:1", {"w": b"x"})
    sql("UPDATE version SET name = ?, version = ?", (name, version))
    with pytest.raises(casstore.CatalogDamaged):
        list(store.list())


@pytest.mark.parametrize("tag", ["console:1", "m:latest2", "com:com", "aux-1:nul0", f"{'a' * 63}:{'1' * 63}"])
def test_a_tag_that_only_looks_like_one_of_those(store: casstore.Store, save: Save, tag) -> None:
    save(tag, {"w": b"x"})
    assert [str(model.tag) for model in store.list()] == [tag]
    assert str(store.get(tag).tag) == tag
