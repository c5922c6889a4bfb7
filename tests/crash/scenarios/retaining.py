"""Versions are forgotten that no rule keeps, and policies are stored and applied."""

from __future__ import annotations

import contextlib
from pathlib import Path

import casstore
from tests.crash.scenarios import Scenario, open_store, put, scenario
from tests.crash.scenarios.steps import B, doing, having

_SMALL = {"w": b"old"}


@scenario("forget")
def forget(_: Path) -> Scenario:
    return Scenario(
        having({"b:1": B, "b:2": _SMALL, "b:3": {"w": b"new"}}), doing("forget", "b", keep_last=1, dry_run=False),
        {"b:3": {"w": b"new"}}, gone={"b:1": B, "b:2": _SMALL},
    )  # fmt: skip


@scenario("set a policy")
def set_a_policy(_: Path) -> Scenario:
    return Scenario(having({"b:1": _SMALL}), doing("set_policy", "b", keep_last=3), {"b:1": _SMALL})


@scenario("save by a policy")
def save_by_a_policy(_: Path) -> Scenario:
    """What goes wrong after a save is no error of the save; then the policy is applied by itself."""

    def prepare(home: Path) -> None:
        put(home, "b:1", _SMALL)
        with open_store(home) as store:
            store.set_policy("b", keep_last=1)

    def save(home: Path) -> None:
        with contextlib.suppress(casstore.TagExists):
            put(home, "b:2", {"w": b"new"}, materialize=False)
        with open_store(home) as store:
            store.forget(policies=True, dry_run=False)

    return Scenario(prepare, save, new={"b:2": {"w": b"new"}}, gone={"b:1": _SMALL})
