"""The catalog as a file: its format number, its pragmas, what failed writes leave, what its indexes find."""

# ruff: noqa: PT012 - what is refused is refused at the end of a with block
from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import casstore
from casstore.catalog.connection import Connections
from casstore.catalog.schema import APPLICATION_ID, MIGRATIONS, migrate
from tests.kit import Sql


@pytest.fixture
def connections(tmp_path: Path):
    opened = Connections(tmp_path / "catalog.db")
    yield opened
    opened.close()


def test_a_new_catalog_says_what_it_is(store: casstore.Store, sql: Sql) -> None:
    assert sql("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert sql("PRAGMA application_id") == [(APPLICATION_ID,)]
    assert sql("PRAGMA journal_mode") == [("wal",)]
    assert sql("PRAGMA integrity_check") == [("ok",)]


def test_connections_are_durable_and_check_references(connections) -> None:
    connection = connections.get()
    names = ("synchronous", "foreign_keys", "cache_size", "temp_store", "trusted_schema")
    pragmas = {name: connection.execute(f"PRAGMA {name}").get for name in names}
    expected = {"synchronous": 2, "foreign_keys": 1, "cache_size": -32768, "temp_store": 1, "trusted_schema": 0}
    assert pragmas == expected


def test_migrating_again_changes_nothing(connections) -> None:
    before = connections.get().execute("SELECT sql FROM sqlite_schema").fetchall()
    migrate(connections.get())
    assert connections.get().execute("SELECT sql FROM sqlite_schema").fetchall() == before


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casstore.catalog.schema.MIGRATIONS", (*MIGRATIONS, "CREATE TABLE extra(x); SELECT nothing"))
    with pytest.raises(apsw.SQLError):
        migrate(connections.get())
    assert connections.get().execute("PRAGMA user_version").get == len(MIGRATIONS)
    assert connections.get().execute("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").get == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_fails_is_rolled_back(connections, error) -> None:
    with pytest.raises(error), connections.write() as connection:
        connection.execute("INSERT INTO setting VALUES ('a', 'b')")
        raise error
    assert connections.get().execute("SELECT count(*) FROM setting").get == 0
    with connections.write() as connection:
        connection.execute("INSERT INTO setting VALUES ('a', 'b')")
    assert connections.get().execute("SELECT count(*) FROM setting").get == 1


def test_a_catalog_that_another_process_keeps_locked(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casstore.catalog.transaction.BUSY_TIMEOUT_MS", 50)
    holder = apsw.Connection(str(home / "catalog.db"))
    with casstore.Store(home) as other:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(casstore.StoreLocked, match="another process"):
            other.set_setting("durability", "relaxed")
        assert other.list() == [], "reading goes on"
        holder.execute("ROLLBACK")
        other.set_setting("durability", "relaxed")
    holder.close()


def test_a_damaged_catalog_is_reported(store: casstore.Store, home: Path) -> None:
    with store.create("m:1"):
        pass
    store.close()
    content = bytearray((home / "catalog.db").read_bytes())
    content[4096 * 2 :] = b"\xaa" * (len(content) - 4096 * 2)
    (home / "catalog.db").write_bytes(content)
    with pytest.raises(casstore.StoreError, match="damaged"), casstore.Store(home) as other:
        other.list()
        other.get("m:1")


def test_labels_and_metadata_are_found_by_index(store: casstore.Store, sql: Sql) -> None:
    for number in range(3):
        with store.create(f"m:{number}", labels={"stage": str(number)}, metadata={"a": {"b": [number, 1.5]}}):
            pass
    assert sql("SELECT version_id FROM metadata WHERE path = 'a.b' AND value = 2") == [(3,)]
    plans = [
        sql("EXPLAIN QUERY PLAN SELECT version_id FROM label WHERE key = 'stage' AND value = '1'"),
        sql("EXPLAIN QUERY PLAN SELECT version_id FROM metadata WHERE path = 'a.b' AND value > 1"),
        sql("EXPLAIN QUERY PLAN SELECT id FROM version WHERE name = 'm' ORDER BY ordered_at DESC, id DESC LIMIT 1"),
    ]
    for plan in plans:
        assert len(plan) == 1, "no sorting"
        assert "USING" in plan[0][-1], plan


@pytest.mark.usefixtures("no_trash")
def test_deleting_a_version_deletes_all_its_rows(store: casstore.Store, sql: Sql) -> None:
    with store.create("m:1", labels={"a": "b"}, metadata={"a": 1}):
        pass
    store.delete("m:1")
    for table in ("version", "file", "label", "metadata", "directory", "tombstone"):
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)], table
