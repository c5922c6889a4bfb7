"""What gc has marked as needed is its own: nothing that runs in the same thread meanwhile can touch it."""

from __future__ import annotations

import contextlib

import pytest

import casstore
from casstore.catalog.connection import Connections
from tests.kit import Child, noise, plant, streamed

MIB = 1 << 20


@pytest.fixture
def busy(store):
    """A store in which each step of gc that marks has something to do, and what it must hold afterwards."""
    for tag, seeds in {"m:1": (1, 2), "m:2": (1, 3), "n:1": (4,), "n:2": (5,)}.items():
        with store.create(tag) as draft:
            plant(draft.path, {f"{seed}.bin": noise(MIB, seed) for seed in seeds})
    for tag, seeds in {"p:1": (6, 7, 8), "p:2": (8,)}.items():
        with store.create(tag, materialize=False) as draft:
            plant(draft.path, {f"{seed}.bin": noise(MIB, seed) for seed in seeds})
    store.delete("n:1")
    store.delete("p:1")
    return {tag: streamed(store.get(tag)) for tag in ("m:1", "m:2", "n:2", "p:2")}


class Asking:
    """Asks for figures of all kinds whenever gc tells how far it is."""

    def __init__(self, store):
        self.store, self.asked = store, 0

    def start(self, *_):
        self.store.stats()
        self.store.stats("m")
        self.store.stats("n:2")
        self.store.stats(["m:1", "m:2"])
        self.asked += 1

    def advance(self, *_):
        self.start()

    def finish(self):
        self.start()


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("ends_with", ["ROLLBACK", "COMMIT"])
def test_figures_asked_for_in_the_middle_of_gc_change_nothing(store, busy, monkeypatch, ends_with):
    """Also if what `stats` notes for itself were kept."""
    real = Connections.read

    @contextlib.contextmanager
    def read(self):
        with real(self) as connection:
            yield connection
            if connection.in_transaction:
                connection.execute(ends_with)

    monkeypatch.setattr(Connections, "read", read)
    asking = Asking(store)
    report = store.gc(evict_all=True, progress=asking)
    steps = {step.name: step.count for step in report.steps}
    assert steps["unneeded objects"] == 1
    assert steps["rewritten"] == 1
    assert steps["packed"] == 4
    assert asking.asked > 10
    assert {tag: streamed(store.get(tag)) for tag in busy} == busy
    assert store.verify().is_sound
    assert [step.count for step in store.gc(evict_all=True).steps] == [0] * len(report.steps)


def test_two_markings_at_once_do_not_touch_each_other(store, busy):
    catalog = store._workspace.catalog
    with catalog.references.marked() as marks:
        before = marks.unreferenced(), marks.cold(), marks.packs()
        with catalog.references.marked() as other:
            other.leave(range(10))
            assert len(other.cold()) > len(before[1])
            with marks.columns(marks.cold()) as columns, other.columns(other.cold()) as others:
                assert not columns.unplanned()
                assert others.unplanned()
        assert (marks.unreferenced(), marks.cold(), marks.packs()) == before
        store.stats()
        assert (marks.unreferenced(), marks.cold(), marks.packs()) == before


def test_nothing_of_it_is_left(store, busy):
    connection = store._workspace.catalog._connections.get()

    def tables():
        return [row[0] for row in connection.execute("SELECT name FROM temp.sqlite_schema")]

    def stop_within(columns):
        with columns:
            assert len(tables()) > 3
            raise KeyboardInterrupt

    store.stats()
    store.gc(evict_all=True, dry_run=True)
    store.verify(quick=True)
    assert tables() == []
    with pytest.raises(KeyboardInterrupt), store._workspace.catalog.references.marked() as marks:
        stop_within(marks.columns([]))
    assert tables() == []


def test_a_fork_in_the_middle_leaves_the_parent_its_marks(store, busy):
    """The child is told that it cannot use the store, as of any that was busy."""

    def use():
        try:
            store.tags()
        except casstore.StoreError:
            return 0
        return 1

    with store._workspace.catalog.references.marked() as marks:
        before = marks.packs()
        with store._workspace.catalog.references.marked():
            pass
        assert Child(use).wait() == 0
        assert marks.packs() == before
