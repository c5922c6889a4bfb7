"""Versions are looked at, which makes and mends directories."""

from __future__ import annotations

from pathlib import Path

from tests.crash.scenarios import Scenario, open_store, put, scenario
from tests.crash.scenarios.steps import A, B, cold, doing, having, run_of, step


@scenario("materialize")
def materialize(_: Path) -> Scenario:
    def open_path(home: Path) -> None:
        with open_store(home) as store:
            assert store.get("m:1").path

    return Scenario(cold, open_path, run_of(3))


@scenario("mend")
def mend(_: Path) -> Scenario:
    def altered(home: Path) -> None:
        put(home, "a:1", A)
        with open_store(home) as store:
            path = Path(store.get("a:1").path) / "small"
        path.unlink()

    return Scenario(altered, doing("get", "a:1"), {"a:1": A})


@scenario("open", changes=False)
def open_it(_: Path) -> Scenario:
    return Scenario(having({"b:1": B}), doing("tags"), {"b:1": B})


@scenario("read", changes=False)
def read(_: Path) -> Scenario:
    def operation(home: Path) -> None:
        with open_store(home) as store, store.get("m:2").open("model.safetensors") as file:
            assert file.read() == step(2)["model.safetensors"]

    return Scenario(cold, operation, run_of(3))


@scenario("verify", changes=False)
def verify(_: Path) -> Scenario:
    return Scenario(cold, doing("verify"), run_of(3))
