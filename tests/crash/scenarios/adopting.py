"""Directories that BentoML has made become versions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import casstore
from tests.crash.scenarios import Scenario, open_store, put, scenario
from tests.crash.scenarios.steps import LARGE, A, B, Operation, having
from tests.kit import bento, noise

STRANGE = {"x:1": {"w.bin": noise(LARGE, 8), "mid": B["mid"]}, "x:2": {"small": A["small"], "twin": A["small"]}}


def foreign(tree: Path) -> None:
    """Directories that BentoML has made: one of their files is known, and one has another link."""
    for number, (tag, files) in enumerate(STRANGE.items()):
        bento(tree, tag, files, created=1 + number)
    (tree / "x/2/twin").unlink()
    os.link(tree / "x/2/small", tree / "x/2/twin")


def taking(verb: str, *arguments: Any, **options: Any) -> Operation:
    """Call that method; a directory that is refused, since a system call on it fails, is an error."""

    def operation(home: Path) -> None:
        with open_store(home) as store:
            report = getattr(store, verb)(*arguments, **options)
            if report.refused:
                raise casstore.InvalidSource(str(report.refused))

    return operation


@scenario("adopt in place")
def adopt_in_place(_: Path) -> Scenario:
    def prepare(home: Path) -> None:
        put(home, "b:1", B)
        foreign(home / "models")

    return Scenario(
        prepare, lambda home: taking("adopt", home)(home), {"b:1": B}, STRANGE, origin=lambda home: home / "models"
    )


SEVERAL = {
    f"{name}:{version}": {"w.bin": noise(LARGE, 10 * version + number), "same": noise(100_000, 50 + number)}
    for version in (1, 2, 3)
    for number, name in enumerate("xyz")
}


@scenario("adopt several")
def adopt_several(ground: Path) -> Scenario:
    """Of each name the older versions are committed together with those of the others."""

    def around(_: Path) -> None:
        for number, (tag, files) in enumerate(SEVERAL.items()):
            bento(ground / "bento/models", tag, files, created=1 + number)

    return Scenario(having({"b:1": B}), taking("adopt", ground / "bento"), {"b:1": B}, SEVERAL, around=around)


@scenario("adopt and move")
def adopt_and_move(ground: Path) -> Scenario:
    return Scenario(
        having({"b:1": B}),
        taking("adopt", ground / "bento", move=True),
        {"b:1": B},
        STRANGE,
        around=lambda _: foreign(ground / "bento/models"),
        origin=lambda _: ground / "bento/models",
    )


@scenario("sync the tree")
def sync_the_tree(_: Path) -> Scenario:
    def out_of_step(home: Path) -> None:
        having({"b:1": B, "c:1": B})(home)
        with open_store(home) as store:
            store.set_setting("materialize", "all")
        put(home, "d:1", A, materialize=False)
        foreign(home / "models")
        shutil.rmtree(home / "models/c/1")

    def again(home: Path) -> None:
        shutil.rmtree(home / "models/c/1", ignore_errors=True)
        taking("sync_tree", prune=True)(home)

    return Scenario(
        out_of_step,
        taking("sync_tree", prune=True),
        {"b:1": B, "d:1": A},
        STRANGE,
        {"c:1": B},
        again=again,
        origin=lambda home: home / "models",
    )
