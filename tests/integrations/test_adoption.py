"""Homes that the real BentoML has made and goes on working in: adopted, in place and elsewhere, and kept in step."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import casstore
from casstore.actions.exchange import adopt
from tests.kit import contents

bentoml = pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")

WORK = """
import math, os, sys
import bentoml
from bentoml.models import ModelContext, ModelOptions
from bentoml.types import ModelSignature

def make(tag, files, **fields):
    with bentoml.models.create(tag, **fields) as model:
        for name, data in files.items():
            path = model.path_of(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
    return model
"""
MAKE = """
make("bert:v1", {"w.bin": b"1" * 1_500_000, "sub/small": b"s"}, labels={"stage": "dev"}, metadata={"acc": 0.5})
make("bert:v2", {"w.bin": b"1" * 1_500_000 + b"2"}, labels={"stage": "prod"}, metadata={"deep": {"n": [1, 2.5, "x"]}},
     module="bentoml.sklearn", api_version="v2", options=ModelOptions(),
     context=ModelContext(framework_name="scikit-learn", framework_versions={"scikit-learn": "1.5.0"}),
     signatures={"predict": ModelSignature(batchable=True, batch_dim=(0, 1))})
make("other:x", {}, metadata={"loss": math.nan, "raw": b"\\0\\1"}, custom_objects={"f": {1, 2}})
"""


@pytest.fixture
def bento_home(tmp_path: Path):
    return tmp_path / "bentoml"


@pytest.fixture
def work(bento_home):
    """work(code): run it in another process, with BentoML at `bento_home`; what it printed."""

    def run(code):
        environment = {**os.environ, "BENTOML_HOME": str(bento_home), "BENTOML_DO_NOT_TRACK": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", WORK + code],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A home that BentoML has made, to be copied: starting BentoML takes a second."""
    home = tmp_path_factory.mktemp("made") / "bentoml"
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", WORK + MAKE], env=environment, check=True, timeout=120)
    return home


@pytest.fixture
def filled(made, bento_home):
    shutil.copytree(made, bento_home)
    return bento_home


def described(directory):
    """What a model.yaml says, as far as BentoML goes."""
    document = yaml.safe_load((directory / "model.yaml").read_text(encoding="utf-8"))
    document["context"].pop("casstore_version", None)
    loss = document["metadata"].get("loss")
    if loss is not None and math.isnan(loss):  # which is not equal to itself
        document["metadata"]["loss"] = "no number"
    return document


LIST = "print(sorted(str(m.tag) for m in bentoml.models.list()), bentoml.models.get('bert').tag)"


@pytest.mark.parametrize("way", ["elsewhere", "move", "in place"])
def test_all_comes_over(way, filled, work, home: Path) -> None:
    before = {path.parent.relative_to(filled / "models"): described(path.parent) for path in filled.rglob("model.yaml")}
    seen = work(LIST)
    others = {path.name for path in filled.iterdir()} - {"models"}
    mode = filled.stat().st_mode
    with casstore.Store(filled if way == "in place" else home) as store:
        report = store.adopt(filled, move=way == "move")
        assert report.adopted == ("bert:v1", "bert:v2", "other:x")
        assert report.refused == ()
        assert len(report.notes) == 1
        assert all(note.startswith("other:x: metadata") for note in report.notes)
        assert str(store.get("bert").tag) == "bert:v2"
        assert contents(store.get("bert:v1")) == {"w.bin": b"1" * 1_500_000, "sub/small": b"s"}
        assert contents(store.get("bert:v2")) == {"w.bin": b"1" * 1_500_000 + b"2"}
        assert store.get("other:x").load_custom_objects() == {"f": {1, 2}}
        before[Path("other/x")]["metadata"] = {"loss": "no number", "raw": "AAE="}
        for tag in store.tags():
            model = store.get(tag)
            assert described(Path(model.path)) == before[Path(tag.replace(":", "/"))]
        assert store.verify().is_sound
        again = store.adopt(filled, move=way == "move")
        assert (again.adopted, again.refused) == ((), ())
        kept = {"elsewhere": 3, "move": 0, "in place": 3}[way]
        assert len(list((filled / "models").rglob("model.yaml"))) == kept
    assert {path.name for path in filled.iterdir()} >= others
    if way == "in place":
        assert filled.stat().st_mode == mode
        assert work(LIST) == seen


def test_bentoml_goes_on_in_a_home_adopted_in_place(filled, work, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes versions, deletes them, makes one again with other content, imports one: all of it comes over."""
    monkeypatch.setattr(adopt, "QUIET_NS", 0)
    monkeypatch.setenv("BENTOML_HOME", str(filled))

    def sync(**options):
        foreseen = store.sync_tree(dry_run=True, **options)
        report = store.sync_tree(**options)
        assert sorted(foreseen.adopted) == sorted(report.adopted)
        assert sorted(foreseen.deleted) == sorted(report.deleted)
        assert foreseen.missing == report.missing
        return report

    with casstore.Store(filled) as store:
        store.adopt(filled)
        run("bentoml", "models", "export", "bert:v1", filled / "v1.bentomodel")
        work('make("bert:v3", {"w": b"3" * 100_000}, labels={"n": "3"})')
        report = sync()
        assert (report.adopted, report.missing, report.refused) == (("bert:v3",), (), ())
        assert store.get("bert").labels == {"n": "3"}

        run("bentoml", "models", "delete", "-y", "bert:v3")
        run("bentoml", "models", "delete", "-y", "other")
        assert store.sync_tree(dry_run=True).missing == ("bert:v3", "other:x")
        report = sync(prune=True)
        assert report.deleted == ("bert:v3", "other:x")
        assert store.tags() == ["bert:v2", "bert:v1"]
        assert (filled / "models/bert/latest").read_text() == "v2"

        run("bentoml", "models", "delete", "-y", "bert:v2")
        work('make("bert:v2", {"w.bin": b"other" * 100_000}, labels={"n": "again"})')
        assert len(sync().refused) == 1
        assert (filled / "models/bert/v2/w.bin").read_bytes() == b"other" * 100_000
        report = sync(prune=True)
        assert (report.adopted, report.deleted) == (("bert:v2",), ("bert:v2",))
        assert contents(store.get("bert")) == {"w.bin": b"other" * 100_000}
        assert store.get("bert").labels == {"n": "again"}

        run("bentoml", "models", "delete", "-y", "bert:v1")
        run("bentoml", "models", "import", filled / "v1.bentomodel")
        report = sync(prune=True)
        # Put back just as it was, it is the version's directory again.
        assert (report.adopted, report.missing, report.deleted, report.refused) == ((), (), (), ())
        assert contents(store.get("bert:v1")) == {"w.bin": b"1" * 1_500_000, "sub/small": b"s"}

        run("bentoml", "models", "delete", "-y", "bert:v1")
        report = store.sync_tree()
        assert (report.missing, report.made) == (("bert:v1",), ("bert:v1",)), "the home keeps all directories"
        assert (filled / "models/bert/v1/w.bin").exists()
        assert store.verify().is_sound
        store.gc()
        rows = json.loads(run("bentoml", "models", "list", "-o", "json"))
        assert sorted(row["tag"] for row in rows) == ["bert:v1", "bert:v2"]


def test_a_version_that_bentoml_is_copying_is_not_adopted_by_half(
    bento_home, work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BentoML copies file by file to the directory's final name, so all that tells is that it goes on."""
    code = """
import shutil, time
real = shutil.copy2
def slow(*arguments, **options):
    time.sleep(0.3)
    return real(*arguments, **options)
shutil.copytree.__defaults__ = tuple(slow if each is real else each for each in shutil.copytree.__defaults__)
make("bert:v1", {f"part{n}": b"x" * 100_000 for n in range(8)})
"""
    monkeypatch.setattr(adopt, "QUIET_NS", 4_000_000_000)  # longer than a busy machine is between two files
    environment = {**os.environ, "BENTOML_HOME": str(bento_home), "BENTOML_DO_NOT_TRACK": "1"}
    with casstore.Store(bento_home) as store:
        maker = subprocess.Popen([sys.executable, "-W", "ignore", "-c", WORK + code], env=environment)
        try:
            refused = 0
            while maker.poll() is None:
                report = store.sync_tree()
                refused += len(report.refused)
                for model in store.list():
                    assert len(model.files) == 8
        finally:
            assert maker.wait() == 0
        assert refused
        store.sync_tree()
        assert [file.path for file in store.get("bert:v1").files] == [f"part{n}" for n in range(8)]
