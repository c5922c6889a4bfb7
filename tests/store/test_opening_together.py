"""Several that open a store while one of them makes it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw
import pytest

import casstore
from casstore.catalog.schema import check_is_catalog, migrate


def test_a_catalog_that_another_makes_while_it_is_looked_at_is_no_strangers(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.touch()
    maker, looker = apsw.Connection(str(path)), apsw.Connection(str(path))
    made: list[bool] = []

    def make(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        if "sqlite_schema" in statement:
            with contextlib.suppress(apsw.BusyError):  # it has to wait for whoever is looking
                migrate(maker)
            made.append(True)
        return True

    looker.exec_trace = make
    check_is_catalog(looker, path)
    assert made
    looker.exec_trace = None
    migrate(maker)
    check_is_catalog(looker, path)


def test_a_table_of_another_program_is_told(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE photos(x)")
    with pytest.raises(casstore.StoreError, match="photos"):
        check_is_catalog(connection, path)
    assert not connection.in_transaction
