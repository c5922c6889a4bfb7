"""The store itself is seen to: its schema, its settings, its health."""

from __future__ import annotations

import contextlib
from pathlib import Path

import casstore
from tests.crash.scenarios import Scenario, open_store, put, scenario, to_first_schema, write
from tests.crash.scenarios.steps import LARGE, A, B, cold, doing, having, run_of


@scenario("migrate")
def migrate(_: Path) -> Scenario:
    def first_schema(home: Path) -> None:
        put(home, "a:1", A)
        to_first_schema(home)

    return Scenario(first_schema, doing("tags"), {"a:1": A})


@scenario("config")
def config(_: Path) -> Scenario:
    return Scenario(having({"b:1": B}), doing("set_setting", "keep_days", "3"), {"b:1": B})


@scenario("pin")
def pin(_: Path) -> Scenario:
    return Scenario(having({"b:1": B}), doing("pin", "b:1"), {"b:1": B})


@scenario("repair")
def repair(ground: Path) -> Scenario:
    def damaged(home: Path) -> None:
        having({"a:1": A, "b:1": B})(home)
        for path in (home / "objects").rglob("*.*"):
            if path.is_file() and path.stat().st_size == LARGE:
                path.chmod(0o644)
                with open(path, "r+b") as file:
                    file.write(b"damaged")
        write(ground / "backup", A)

    def mend(home: Path) -> None:
        with open_store(home) as store:
            report = store.repair([ground / "backup"])
        if report.damage:  # what cannot be read of a source is reported, and the others are still searched
            raise casstore.IntegrityError("; ".join([*report.unread, *map(str, report.damage)]))

    return Scenario(damaged, mend, {"b:1": B, "a:1": A}, damaged=frozenset({"a:1"}))


@scenario("rebuild the catalog")
def rebuild_the_catalog(_: Path) -> Scenario:
    def no_catalog(home: Path) -> None:
        having({"a:1": A, "b:1": B})(home)
        cold(home)
        for path in home.glob("catalog.db*"):
            path.unlink()

    def rebuild(home: Path) -> None:
        casstore.Store.rebuild_catalog(home)

    return Scenario(no_catalog, rebuild, {"b:1": B, "a:1": A, **run_of(3)}, again=rebuild)


@scenario("set an alias")
def set_an_alias(_: Path) -> Scenario:
    """The alias is where it was, or where it was to be, in the catalog and in one that is made from its log."""

    def aliased(home: Path) -> None:
        having({"b:1": B, "b:2": B})(home)
        doing("set_alias", "b@prod", "b:1")(home)

    def move(home: Path) -> None:
        with open_store(home) as store:
            store.set_alias("b@prod", "b:2", reason="better")
            store.protect_alias("b@prod")

    def again(home: Path) -> None:
        with open_store(home) as store:
            found = [move.version for move in store.alias_history("b@prod")]
            assert found in (["1"], ["2", "1"], ["2", "2", "1"]), found
            assert store.get("b@prod").version == found[0]
            before = store.aliases(), store.alias_history("b@prod")
            store.gc()  # which adds to the log what it lacks
        casstore.Store.rebuild_catalog(home)
        with open_store(home) as store:
            assert (store.aliases(), store.alias_history("b@prod")) == before
        move(home)

    return Scenario(aliased, move, {"b:1": B, "b:2": B}, again=again)


@scenario("annotate")
def annotate(_: Path) -> Scenario:
    say = doing("annotate", "b:1", labels={"stage": "prod"}, metrics={"f1": 0.9})
    before: list[object] = [{"stage": "dev"}, {}]
    after: list[object] = [{"stage": "prod"}, {"metrics": {"f1": 0.9}}]

    def said(home: Path) -> list[object]:
        with open_store(home) as store:
            model = store.get("b:1")
            return [model.labels, model.metadata]

    def prepare(home: Path) -> None:
        having({"b:1": B})(home)
        doing("annotate", "b:1", labels={"stage": "dev"})(home)

    def again(home: Path) -> None:
        assert said(home) in (before, after)
        say(home)
        with contextlib.suppress(casstore.StoreLocked):  # where this process holds it open
            casstore.Store.rebuild_catalog(home)  # which goes by the log alone
        assert said(home) == after

    return Scenario(prepare, say, {"b:1": B}, again=again)
