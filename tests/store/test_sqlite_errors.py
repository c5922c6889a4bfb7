"""What SQLite says: only damage is called damage, and everything else says what it is and what to do."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.catalog import commits
from casstore.catalog.sqlite_errors import translated_errors
from tests.kit import Save, Sql, contents

DAMAGE = {apsw.NotADBError, apsw.CorruptError, apsw.MismatchError, apsw.ConstraintError}
LOCKED = {apsw.BusyError, apsw.ProtocolError, apsw.SchemaChangeError}
OTHER = {
    apsw.FullError: OSError, apsw.IOError: OSError, apsw.NoMemError: OSError,
    apsw.CantOpenError: casstore.StoreUnwritable, apsw.ReadOnlyError: casstore.StoreUnwritable,
    apsw.PermissionsError: casstore.StoreUnwritable,
}  # fmt: skip
ALL = sorted(apsw.Error.__subclasses__(), key=lambda kind: kind.__name__)


def raised(error: Exception) -> Exception:
    with pytest.raises(Exception) as caught, translated_errors(Path("/nowhere/catalog.db")):  # noqa: PT011
        raise error
    return caught.value


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_of_sqlite_is_one_of_casstores_and_only_damage_says_damaged(kind) -> None:
    error = raised(kind("words of SQLite"))
    assert isinstance(error, casstore.CasstoreError | OSError)
    assert isinstance(error, casstore.CatalogDamaged) == (kind in DAMAGE)
    assert isinstance(error, casstore.StoreLocked) == (kind in LOCKED)
    assert isinstance(error, OTHER.get(kind, casstore.StoreError if kind not in LOCKED else casstore.StoreLocked))
    assert ("repair --rebuild-catalog" in str(error)) == (kind in DAMAGE)


@pytest.mark.parametrize(
    ("statement", "is_damage"),
    [
        ("SELECT * FROM absent", True),
        ("SELECT absent FROM store", True),
        ("SELECT sum(value) FROM (SELECT 9223372036854775807 AS value UNION ALL SELECT 1)", True),
        ("SELECT json('{')", True),
        ("CREATE TABLE store(key)", True),
        ("INSERT INTO store VALUES ('gc_epoch', 1)", True),
        ("SELECT * FROM temp.absent", False),
        ("SELECT " + " + ".join("1" * 1100), False),
        ("SELECT " + ", ".join("?" * 40_000), False),
        ("COMMIT", False),
        ("ROLLBACK TO absent", False),
    ],
)
def test_what_is_wrong_with_a_statement_is_no_damage(store: casstore.Store, statement, is_damage) -> None:
    connections = store._workspace.catalog._connections
    with pytest.raises(casstore.StoreError) as caught, translated_errors(connections.path):
        connections.get().execute(statement, (1,) * statement.count("?")).fetchall()
    assert isinstance(caught.value, casstore.CatalogDamaged) == is_damage


def test_a_list_may_be_asked_for_by_any_number_of_labels(store: casstore.Store, save: Save) -> None:
    many = {f"label-{number}": str(number) for number in range(1100)}
    save("m:1", {"a": b"1"}, labels=many)
    save("m:2", {"a": b"2"}, labels={**many, "label-1099": "another"})
    save("m:3", {"a": b"3"}, labels={"label-0": "0"})
    assert [str(model.tag) for model in store.list(labels=many)] == ["m:1"]
    assert [str(model.tag) for model in store.list("m", labels={"label-0": "0", "label-1": "1"})] == ["m:2", "m:1"]
    assert store.list("n", labels=many) == []
    assert store.list(labels={**many, "one more": ""}) == []
    assert store.list(labels={"label-0": "0", 'quoted "\\': "\u20ac"}) == []
    with pytest.raises(casstore.InvalidMetadata, match="not Unicode"):
        store.list(labels={"label-0": "\udcff"})


def interrupting(monkeypatch, module, name, action):
    """Have `action` run once, in a signal's handler, at a call of that function."""
    real, handlers = getattr(module, name), []
    outcome: list[Any] = []

    def handler(*_):
        try:
            outcome.append(action())
        except Exception as error:  # noqa: BLE001 - told to the test
            outcome.append(error)

    def call(*arguments, **options):
        if not outcome:
            handlers.append(signal.signal(signal.SIGUSR1, handler))
            try:
                signal.raise_signal(signal.SIGUSR1)
            finally:
                signal.signal(signal.SIGUSR1, handlers.pop())
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, call)
    return outcome


def test_a_save_in_the_middle_of_a_transaction_of_its_thread_says_that_it_cannot(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = interrupting(monkeypatch, commits, "insert_version", lambda: save("other:1", {"a": b"handler"}))
    model = save("m:1", {"a": b"1"})
    assert contents(model) == {"a": b"1"}
    [error] = outcome
    assert type(error) is casstore.StoreError
    assert "a transaction of this thread, so this call from a signal handler" in str(error)
    assert store.tags() == ["m:1"]
    assert contents(save("other:1", {"a": b"handler"})) == {"a": b"handler"}


def test_a_save_of_the_same_name_that_interrupts_one_does_not_wait_for_itself(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store._workspace.catalog.commits.commit
    outcome: list[Any] = []

    def handler(*_):
        with pytest.raises(casstore.StoreLocked, match=r"model 'm' is locked by this very thread") as caught:
            save("m:2", {"a": b"handler"})
        outcome.append(caught.value)
        outcome.append(save("other:1", {"a": b"handler"}))

    def commit_interrupted(new):
        if not outcome:
            before = signal.signal(signal.SIGUSR1, handler)
            try:
                signal.raise_signal(signal.SIGUSR1)
            finally:
                signal.signal(signal.SIGUSR1, before)
        return commit(new)

    monkeypatch.setattr(commits.Commits, "commit", lambda _, new: commit_interrupted(new))
    assert contents(save("m:1", {"a": b"1"})) == {"a": b"1"}
    assert len(outcome) == 2
    assert store.tags() == ["m:1", "other:1"]
    assert store.verify().is_sound


def test_a_save_that_interrupts_the_wait_for_another_process_works(
    store: casstore.Store, save: Save, home: Path
) -> None:
    """The handler's use of the connection must not end what waits in the middle of a statement."""
    save("m:0", {"a": b"0"})
    other = apsw.Connection(str(home / "catalog.db"))
    other.execute("BEGIN IMMEDIATE")
    workspace = store._workspace
    state = workspace.catalog._connections.with_state()[1]
    seen: list[Any] = []

    def let_go_and_save(*_):
        seen.append(store.tags())
        other.execute("ROLLBACK")
        seen.append(save("handler:1", {"a": b"handler"}))

    real = type(state).wait

    def wait(self, count):
        if count == 1 and not seen:
            signal.raise_signal(signal.SIGUSR1)
        return real(self, count)

    before = signal.signal(signal.SIGUSR1, let_go_and_save)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(type(state), "wait", wait)
    try:
        model = save("m:1", {"a": b"1"})
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)
        other.close()
    assert contents(model) == {"a": b"1"}
    assert seen[0] == ["m:0"]
    assert contents(seen[1]) == {"a": b"handler"}
    assert store.tags() == ["m:1", "handler:1", "m:0"]


def test_a_nested_transaction_leaves_the_outer_one_whole(store: casstore.Store, sql: Sql) -> None:
    connections = store._workspace.catalog._connections
    with connections.write() as connection:
        connection.execute("INSERT INTO setting VALUES ('keep_days', '3')")
        with pytest.raises(casstore.StoreError, match="in the middle of a transaction") as caught:
            store.set_setting("keep_days", "5")
        assert not isinstance(caught.value, casstore.CatalogDamaged)
        with pytest.raises(casstore.StoreError, match="in the middle of a transaction"):
            store.delete("m:1") if store.tags() else store.set_setting("auto_gc", "off")
    assert sql("SELECT * FROM setting") == [("keep_days", "3")]
