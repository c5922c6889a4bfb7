"""A store that a stranger has handed over: nothing beside it is touched, and nothing good is lost."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import apsw
import msgpack
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore.digest import Digest
from casstore.storage import pack
from casstore.storage.layout import new_id
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Recipe, RecipeSegment
from tests.kit import Save, Sql, checkpoint, noise, part

pytestmark = pytest.mark.crash

BIG = 1_500_000
VERBS = {
    "list": lambda store, _: [(str(m.tag), m.labels, m.metadata, m.size, m.created_at) for m in store.list()],
    "files": lambda store, _: [model.files for model in store.list()],
    "get": lambda store, _: store.get("m:1").labels,
    "path": lambda store, _: store.get("m:1").path,
    "open": lambda store, _: store.get("m:1").open("w.bin").read(),
    "export to a folder": lambda store, out: store.export("m:1", out / "folder", format="folder"),
    "export": lambda store, out: store.export("m:1", out / "a.tar", format="tar"),
    "export all": lambda store, out: store.export(["m:1", "m:2"], out / "a.casmodel", format="casmodel"),
    "stats": lambda store, _: (store.stats(), store.stats("m:1")),
    "pin": lambda store, _: store.pin("m:1"),
    "verify": lambda store, _: (store.verify(quick=True), store.verify()),
    "sync": lambda store, _: store.sync_tree(),
    "gc dry run": lambda store, _: store.gc(dry_run=True),
    "gc": lambda store, _: store.gc(evict_all=True),
    "repair": lambda store, _: store.repair(),
    "delete": lambda store, _: (store.delete("m:2"), store.gc(), store.delete("m:1"), store.gc()),
}


def ask(home, out, *verbs):
    """Use the store; whatever it says must be one of casstore's own errors, or the system's."""
    with contextlib.suppress(casstore.CasstoreError, OSError), casstore.Store(home) as store:
        for verb in verbs or VERBS:
            with contextlib.suppress(casstore.CasstoreError, OSError):
                VERBS[verb](store, out)


@pytest.fixture
def canary(tmp_path: Path):
    """canary(): what stands beside the store, with files where crafted paths lead."""
    for name in ("outside", "outside.lock", "latest", "target/latest", "target/w.bin", "target.lock"):
        path = tmp_path / "beside" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)

    def look():
        return {
            str(path): (path.stat().st_ino, path.stat().st_mode, path.stat().st_mtime_ns if path.is_file() else 0)
            for path in tmp_path.rglob("*")
            if path.parts[len(tmp_path.parts)] not in ("store", "out", "template")
        }

    return look


CRAFTED = {
    "absolute path": "UPDATE file SET path = '{beside}/target/w.bin' WHERE path = 'w.bin'",
    "path upwards": "UPDATE file SET path = '../../../../beside/new' WHERE path = 's.txt'",
    "empty directory": "UPDATE version SET directories = json_array('{beside}/new')",
    "empty directory upwards": "UPDATE version SET directories = '[\"../../../../beside/new\"]'",
    "name": "UPDATE version SET name = '../../beside/target'",
    "absolute name": "UPDATE version SET name = '{beside}/target'",
    "version": "UPDATE version SET version = '../../../beside/target' WHERE version = '2'",
    "manifest": "UPDATE version SET manifest_id = '../../../beside/outside'",
    "lease": "INSERT INTO lease SELECT id, '../../beside/outside' FROM version",
    "absolute lease": "INSERT INTO lease SELECT id, '{beside}/outside' FROM version",
    "tombstone": "INSERT INTO tombstone VALUES ('../../beside/outside', 'a', 'b', 1)",
    "tombstone's name": "INSERT INTO tombstone VALUES ('0123456789abcdef-1', '../../beside', 'target', 1)",
    "tombstone that goes up": "INSERT INTO tombstone VALUES ('..', 'a', 'b', 1)",
    "dead container": "UPDATE container SET file_id = '../../../beside/outside', state = 2 WHERE id = 1",
    "base": "UPDATE version SET base_name = '../../beside', base_version = 'target', base_digest = digest",
}


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("what", CRAFTED)
def test_crafted_paths_lead_nowhere(store: casstore.Store, sql: Sql, save: Save, canary, what, is_removed) -> None:
    """Neither where the directory is to be made, nor where it is to be taken away."""
    for tag in ("m:1", "m:2"):
        save(tag, {"w.bin": noise(BIG), "s.txt": b"hello", "e": None})
    store.close()
    if is_removed:
        shutil.rmtree(store.home / "models")
        (store.home / "models").mkdir()
        sql("DELETE FROM directory")
    before = canary()
    sql(CRAFTED[what].format(beside=store.home.parent / "beside"))
    _recompute_digests(store.home)
    (store.home.parent / "out").mkdir()
    ask(store.home, store.home.parent / "out")
    assert canary() == before
    assert sorted(path.name for path in (store.home.parent / "out").glob("folder/**/*") if path.is_file()) in (
        [], ["model.yaml", "s.txt", "w.bin"],
    )  # fmt: skip


def _recompute_digests(home):
    """The digests of versions, which a stranger would see to."""
    connection = apsw.Connection(str(home / "catalog.db"))
    for version_id, directories in connection.execute("SELECT id, directories FROM version").fetchall():
        rows = connection.execute(
            "SELECT path, executable, size, digest FROM file WHERE version_id = ? ORDER BY path", (version_id,)
        ).fetchall()
        listed = [[[path, bool(flag), size, digest] for path, flag, size, digest in rows], msgpack_list(directories)]
        digest = Digest.of(msgpack.packb(listed))
        connection.execute("UPDATE version SET digest = ? WHERE id = ?", (digest, version_id))
    connection.close()


def msgpack_list(text):
    import json

    return json.loads(text)


def test_a_trigger_of_a_strangers_catalog_does_nothing(store: casstore.Store, home: Path, sql: Sql, save: Save) -> None:
    for tag in ("m:1", "n:1"):
        save(tag, {"w.bin": noise(BIG, len(tag))})
    store.close()
    sql(
        "CREATE TRIGGER trap AFTER DELETE ON version BEGIN DELETE FROM version; UPDATE container SET state = 2;"
        " DELETE FROM chunk; END"
    )
    with casstore.Store(home) as again:
        again.delete("m:1")
        again.gc()
        assert list(again.tags()) == ["n:1"]
        assert again.get("n:1").open("w.bin").read() == noise(BIG, 3)


def test_a_view_in_place_of_a_table_is_damage(store: casstore.Store, home: Path, sql: Sql, save: Save) -> None:
    save("m:1", part(1))
    store.close()
    sql("ALTER TABLE lease RENAME TO other; CREATE VIEW lease AS SELECT * FROM other")
    with casstore.Store(home) as again, pytest.raises(casstore.CatalogDamaged, match="--rebuild-catalog"):
        again.gc()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:1",)


def rewritten(home, tag, change, to=None):
    """Give the store another manifest, as `change` makes it of that of `tag`."""
    name, version = tag.split(":")
    (path,) = home.glob(f"manifests/{name}/{version}.*")
    manifest = change(Manifest.unpack(path.read_bytes()))
    packed = manifest.pack()
    target = path
    if to is not None:
        document = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(packed))
        document["name"], document["version"] = to.split(":")
        packed = zstandard.ZstdCompressor(write_checksum=True).compress(
            msgpack.packb({key: document[key] for key in sorted(document)})
        )
        target = home / f"manifests/{to.split(':')[0]}/{to.split(':')[1]}.{new_id()}-1"
        target.parent.mkdir(exist_ok=True)
    if target.exists():
        target.chmod(0o644)
    target.write_bytes(packed)
    return target


def lying(kind):
    def change(manifest):
        (file,) = [file for file in manifest.files if file.path == "w.bin"]
        recipe = manifest.recipe_of(file)
        chunks = [(chunk.digest, chunk.length) for chunk in recipe.chunks()]
        if kind == "its own blob":
            chunks[0] = (recipe.blob, chunks[0][1])
        elif kind == "another order":
            chunks.reverse()
        elif kind == "no such chunk":
            chunks[0] = (Digest.of(b"nothing"), chunks[0][1])
        elif kind == "other lengths":
            chunks = [(digest, 1) for digest, _ in chunks[1:]] + [(chunks[0][0], recipe.size - len(chunks) + 1)]
        lie = Recipe(recipe.blob, recipe.size, recipe.plan, (RecipeSegment(tuple(chunks)),))
        import dataclasses

        return dataclasses.replace(manifest, recipes={**manifest.recipes, recipe.blob: lie})

    return change


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize("is_older", [True, False])
@pytest.mark.parametrize("kind", ["its own blob", "another order", "no such chunk"])
def test_a_manifest_that_lies_of_a_blob_harms_no_other(
    store: casstore.Store, home: Path, save: Save, kind, is_older, materialize
) -> None:
    content = {"w.bin": noise(3 * BIG), "s.txt": b"small"}
    save("good:1", content, materialize=materialize)
    store.close()

    def change(manifest):
        import dataclasses

        shift = -1 if is_older else 1
        return dataclasses.replace(lying(kind)(manifest), created_at_ns=manifest.created_at_ns + shift)

    bad = rewritten(home, "good:1", change, to="bad:1")
    assert "good:1" in casstore.Store.rebuild_catalog(home).tags
    with casstore.Store(home) as again:
        for _ in range(2):
            for name, data in content.items():
                assert again.get("good:1").open(name).read() == data
            assert again.verify().damage == ()
            again.repair()
        if kind == "its own blob":  # which cannot be read, and gc does not run while it stands
            bad.unlink()
        again.gc(evict_all=True)
        assert {name: again.get("good:1").open(name).read() for name in content} == content


@pytest.mark.parametrize("column", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1, -1, 1 << 40, 0, True, None, "7", 0.5])
def test_a_number_in_a_packs_index_that_cannot_be(store: casstore.Store, home: Path, save: Save, column, value) -> None:
    """Its records say what stands in it."""
    save("m:1", part(1, 2), materialize=False)
    save("n:1", part(3), materialize=False)
    store.close()
    (path,) = [
        path
        for path in home.glob("objects/packs/*")
        if Digest.of(part(1)["1.bin"]) in {entry.digest for entry in pack.read_entries(path)} or len(part(1)) > 1
    ][:1]
    data = path.read_bytes()
    start, length, _, magic = pack._TRAILER.unpack(data[-pack._TRAILER.size :])
    rows = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data[start : start + length]))
    rows[0][column] = value
    index = zstandard.ZstdCompressor().compress(msgpack.packb(rows))
    path.chmod(0o644)
    path.write_bytes(data[:start] + index + pack._TRAILER.pack(start, len(index), Digest.of(index), magic))
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert sorted(again.tags()) == ["m:1", "n:1"]
        ask(home, home.parent, "files", "open", "verify", "gc")


VALUES = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([-1, 0, 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1]),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["..", "../../beside/outside", "/", "", "a/../../b", "latest", "m", "1", "[]", "{}", "[[", "con"]),
    st.sampled_from(["../" * 5 + "beside/target", '["../../../../beside/new"]', '{"labels":{"a":[]}}', "\0", "\ud7ff"]),
    st.binary(max_size=40),
    st.sampled_from([bytes(32), b"\x90", b"\x91\x94\xa2..\x01\x01\x01", b"\xc1"]),
)
TABLES = ("container", "chunk", "blob", "version", "file", "directory", "tombstone", "lease", "store", "fingerprint")


@pytest.fixture
def template(store: casstore.Store, home: Path, save: Save, tmp_path: Path):
    """A store with deltas, loose files, a tombstone and a lease, its tables without any check."""
    store.set_setting("keep_days", "0")
    for step in (1, 2):
        save(f"m:{step}", {**checkpoint(step, size=60_000), "w.bin": noise(80_000), "e": None}, materialize=step == 2)
    store.close()
    connection = apsw.Connection(str(home / "catalog.db"))
    for table in TABLES:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        connection.execute(f"CREATE TABLE copy({','.join(columns)}); INSERT INTO copy SELECT * FROM {table}")
        connection.execute(f"PRAGMA foreign_keys = OFF; DROP TABLE {table}; ALTER TABLE copy RENAME TO {table}")
    connection.execute("INSERT INTO tombstone SELECT '0123456789abcdef-1', 'a', 'b', 1")
    connection.execute("INSERT INTO lease SELECT id, '0123456789abcdef' FROM version")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copytree(home, tmp_path / "template")
    return tmp_path / "template"


def test_any_value_in_any_column(template, home: Path, tmp_path: Path, canary) -> None:
    before = canary()
    connection = apsw.Connection(str(template / "catalog.db"))
    columns = [(table, row[1]) for table in TABLES for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(st.tuples(st.sampled_from(columns), VALUES), min_size=1, max_size=2), st.permutations(list(VERBS)))
    def put(changes, verbs):
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(template, home)
        (tmp_path / "out").mkdir()
        connection = apsw.Connection(str(home / "catalog.db"))
        for (table, column), value in changes:
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
        connection.close()
        ask(home, tmp_path / "out", *verbs)
        assert canary() == before

    put()
