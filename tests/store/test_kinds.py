"""What a container is stands in a column of its own, in new catalogs and in old ones."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import casstore
from casstore.catalog.boots import NoBoot
from casstore.storage.container import LINK_FROM_BYTES, Container, Kind
from casstore.storage.layout import Layout
from tests.kit import noise, script, streamed

BIG = 1_100_000
FILES = {"w.bin": noise(BIG), "small": b"small"}

# Take the sixth, the fifth and the fourth migration back.
TABLES = (
    *("remote_object", "remote_push", "remote_pack", "elsewhere"),
    *("alias", "alias_move", "annotation", "parent", "event", "trash", "policy"),
)
TO_THIRD = (
    "".join(f"DROP TABLE {table}; " for table in TABLES)
    + "ALTER TABLE container DROP COLUMN kind; PRAGMA user_version = 3"
)

READ_ONLY = """
import subprocess, sys
import casstore
home = sys.argv[1]
subprocess.run(["mount", "--bind", home, home], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
try:
    with casstore.Store(home) as store:
        for file in store.get("m:1").files:
            with store.get("m:1").open(file.path) as reader:
                assert casstore.Digest.of(reader.read()) == file.digest
        usage = store.stats()
        print(usage.loose_bytes, usage.packs_bytes, store.verify().is_sound)
        store.backup(sys.argv[2])
finally:
    subprocess.run(["umount", "-l", home], check=True)
"""


@pytest.fixture
def kinds(sql):
    return lambda: sorted(sql("SELECT kind, digest IS NULL FROM container"))


def test_every_container_has_its_kind(store, save, kinds):
    save("m:1", FILES)
    assert set(kinds()) == {(Kind.PACK, 1), (Kind.LOOSE, 0)}


def test_a_catalog_from_before_is_given_them(store, save, home, sql, kinds):
    save("m:1", FILES)
    store.close()
    before = kinds()
    sql(TO_THIRD)
    with casstore.Store(home) as again:
        assert kinds() == before
        assert streamed(again.get("m:1")) == FILES
        again.gc(evict_all=True)
        assert again.verify().is_sound


def test_a_catalog_from_before_is_read_where_nothing_can_be_written(store, save, home, sql, tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts a file system")
    save("m:1", FILES)
    usage = store.stats()
    store.close()
    sql(TO_THIRD)
    sql("PRAGMA wal_checkpoint(TRUNCATE)")
    done = script(READ_ONLY, home, tmp_path / "backup", before=("unshare", "-m", "--propagation", "private"))
    if "permission denied" in done.stderr:
        pytest.skip("cannot mount here")
    assert done.stdout.split() == [str(usage.loose_bytes), str(usage.packs_bytes), "True"], done.stderr
    with casstore.Store(tmp_path / "backup") as backup:
        assert streamed(backup.get("m:1")) == FILES
        assert backup.verify().is_sound


@pytest.mark.parametrize("kind", [0, 3, Kind.LOOSE])
def test_a_kind_that_cannot_be_is_damage(store, save, sql, kind):
    save("m:1", {"small": b"small"}, materialize=False)
    sql("UPDATE container SET kind = ?", (kind,))
    with pytest.raises(casstore.CatalogDamaged, match="container"), store.get("m:1").open("small") as reader:
        reader.read()


def test_the_smallest_file_with_a_loose_file_is_the_one_that_the_index_has(store, sql):
    (made,) = sql("SELECT sql FROM sqlite_schema WHERE name = 'file_by_digest'")[0]
    assert made.endswith(f"WHERE size >= {LINK_FROM_BYTES}")


def test_only_a_loose_file_is_one_blobs():
    digest = casstore.Digest.of(b"bytes")
    assert Container(1, "0" * 16 + "-1", Kind.LOOSE, digest).blob == digest
    # A damaged row may give a pack a digest: it is a pack all the same.
    for pack in (Container(1, "0" * 16 + "-1", Kind.PACK), Container(1, "0" * 16 + "-1", Kind.PACK, digest)):
        with pytest.raises(ValueError, match="pack"):
            assert pack.blob
        assert pack.path(Layout(Path("/store"))) == "/store/objects/packs/0000000000000000-1.pack"


def test_a_pack_with_a_digest_in_a_damaged_row_is_read_as_a_pack(store, save, sql, tmp_path):
    """Its bytes are no blob's: what compares them with one finds damage where none is."""
    save("m:1", FILES, materialize=False)
    sql("UPDATE container SET digest = ?", (casstore.Digest.of(FILES["w.bin"]),))
    assert store.verify().is_sound
    assert store.backup(tmp_path / "backup").damaged == ()
    assert store.repair().quarantined == ()
    assert streamed(store.get("m:1")) == FILES
    save("m:2", FILES, materialize=False)  # relies on it
    assert store.verify().is_sound
    assert sql("SELECT count(*) FROM container") == [(1,)]


@pytest.mark.parametrize("boot", list(NoBoot))
def test_what_no_boot_vouches_for_is_not_relied_on(store, save, sql, boot):
    save("m:1", FILES, materialize=False, durability="relaxed")
    sql("UPDATE container SET boot_id = ?", (boot,))
    save("m:2", FILES, materialize=False)
    homes = sql("SELECT synced FROM container WHERE id IN (SELECT container FROM chunk)")
    assert homes == [(1,)], "stored anew"
