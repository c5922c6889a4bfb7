"""Versions come from archives and go to them."""

from __future__ import annotations

from pathlib import Path

from casstore.archive.casmodel import Reader
from tests.crash.scenarios import Scenario, open_store, put, scenario
from tests.crash.scenarios.steps import cold, doing, having, run_of, step


def archived(ground: Path, tags: str | list[str], name: str) -> Path:
    """An archive of these steps of a run, which are made in another store."""
    for tag, files in run_of(4).items():
        put(ground / "elsewhere", tag, files, materialize=False)
    with open_store(ground / "elsewhere") as elsewhere:
        elsewhere.export(tags, ground / name)
    return ground / name


@scenario("import a tar")
def import_a_tar(ground: Path) -> Scenario:
    tar = archived(ground, "m:3", "m.tar")
    return Scenario(cold, doing("import_archive", tar), run_of(3), {"m:3": step(3)})


@scenario("import a casmodel")
def import_a_casmodel(ground: Path) -> Scenario:
    run = run_of(4)
    casmodel = archived(ground, list(run), "run.casmodel")
    first = {"m:0": run.pop("m:0")}
    return Scenario(having(first), doing("import_archive", casmodel), first, run)


@scenario("export")
def export(ground: Path) -> Scenario:
    exported = ground / "exported.casmodel"

    def operation(home: Path) -> None:
        """Over what is there, which has to be complete each time."""
        if exported.exists():
            with open(exported, "rb") as file:
                reader = Reader(file, "what was exported", lambda _: None)
                assert len(reader.manifests()) == 3
                assert all(reader.record() for _ in reader.entries())
        doing("export", list(run_of(3)), exported)(home)

    return Scenario(cold, operation, run_of(3))
