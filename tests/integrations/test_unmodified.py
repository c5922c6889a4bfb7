"""BentoML as it is, with `BENTOML_HOME` at a casstore store: it reads what casstore saved, and may delete it."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml

import casstore
from casstore import models
from tests.kit import Child, script

pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")

SOMEBODY = 61_001


@pytest.fixture(autouse=True)
def at_the_store(monkeypatch: pytest.MonkeyPatch, home: Path):
    monkeypatch.setenv("BENTOML_HOME", str(home))


def fill(home):
    with casstore.Store(home, auto_gc=False) as store:
        for version, size in (("v1", 2_000_000), ("v2", 50)):
            with models.create(
                f"bert:{version}", labels={"stage": "dev"}, metadata={"accuracy": 0.9, "none": None, "list": [None, 1]},
                signatures={"predict": {"batchable": True, "batch_dim": (0, 1)}}, options={"pool": 3},
                context=models.ModelContext("torch", {"torch": "2.4.0"}), custom_objects={"a": 1}, _model_store=store,
            ) as model:  # fmt: skip
                Path(model.path_of("w.bin")).write_bytes(b"w" * size)
                Path(model.path_of("deep")).mkdir()
                Path(model.path_of("deep/config.json")).write_text("{}")
        with models.create("tiny:v1", _model_store=store) as model:
            Path(model.path_of("w.bin")).write_bytes(b"t")


def test_the_descriptor_has_bentomls_fields_and_types(home: Path) -> None:
    fill(home)
    text = (home / "models/bert/v1/model.yaml").read_text("utf-8")
    document = yaml.safe_load(text)
    assert list(document) == [
        "name", "version", "module", "labels", "options", "metadata", "context", "signatures", "api_version",
        "creation_time", "metadata_json",
    ]  # fmt: skip
    assert f"creation_time: '{document['creation_time']}'" in text  # quoted, else YAML reads a time without a zone
    assert datetime.datetime.fromisoformat(document["creation_time"]).utcoffset() == datetime.timedelta(0)
    assert document["signatures"] == {"predict": {"batchable": True, "batch_dim": [0, 1]}}
    assert document["options"] == {"pool": 3}
    assert document["metadata"] == {"accuracy": 0.9, "list": ["null", 1]}
    context = document["context"]
    assert context["framework_versions"] == {"torch": "2.4.0"}
    for field in ("framework_name", "bentoml_version", "python_version"):
        assert isinstance(context[field], str)


def test_nothing_foreign_stands_below_models(home: Path) -> None:
    fill(home)
    names = {str(path.relative_to(home / "models")) for path in (home / "models").glob("*/*")}
    assert names == {"bert/v1", "bert/v2", "bert/latest", "tiny/v1", "tiny/latest"}
    assert {path.name for path in (home / "models").iterdir()} == {"bert", "tiny"}
    assert (home / "models/bert/latest").read_text() == "v2"
    assert {path.name for path in (home / "models/bert/v1").iterdir()} == {
        "model.yaml", "custom_objects.pkl", "w.bin", "deep",
    }  # fmt: skip


def test_python_reads_it(home: Path) -> None:
    fill(home)
    code = """
import bentoml
from bentoml.models import BentoModel
print(*bentoml.models.list(), *bentoml.models.list("bert"))
model = bentoml.models.get("bert:v1")
assert bentoml.models.get("bert") == bentoml.models.get("bert:latest") == bentoml.models.get("bert:v2") != model
info = model.info
assert (info.name, info.version, info.labels) == ("bert", "v1", {"stage": "dev"})
assert info.signatures["predict"].batch_dim == (0, 1)
assert info.context.framework_versions == {"torch": "2.4.0"}
assert info.creation_time.tzinfo and info.metadata["accuracy"] == 0.9
assert model.custom_objects == {"a": 1}
assert open(model.path_of("deep/config.json")).read() == "{}"

@bentoml.service
class Service:
    bert = BentoModel("bert:v1")

    @bentoml.api
    def size(self) -> int:
        return len(open(self.bert.path_of("w.bin")).read())

service = Service()
print(service.size(), [str(model.tag) for model in Service.models])
"""
    done = script(code)
    assert done.returncode == 0, done.stderr
    bert = ['Model(tag="bert:v1")', 'Model(tag="bert:v2")']
    assert done.stdout.split("\n")[:2] == [
        " ".join([*bert, 'Model(tag="tiny:v1")', *bert]),
        "2000000 ['bert:v1']",
    ]


def test_the_command_line(home: Path, run, tmp_path: Path) -> None:
    fill(home)
    rows = json.loads(run("bentoml", "models", "list", "-o", "json"))
    assert sorted(row["tag"] for row in rows) == ["bert:v1", "bert:v2", "tiny:v1"]
    assert next(row["size"] for row in rows if row["tag"] == "bert:v1") == "1.91 MiB"
    shown = yaml.safe_load(run("bentoml", "models", "get", "bert:latest"))
    assert (shown["version"], shown["labels"]) == ("v2", {"stage": "dev"})
    assert run("bentoml", "models", "get", "bert", "-o", "path").strip().endswith("models/bert/v2")
    run("bentoml", "models", "export", "bert:v1", tmp_path / "bert.tar")
    assert (tmp_path / "bert.tar").stat().st_size > 2_000_000
    run("bentoml", "models", "delete", "-y", "bert:v2")
    assert (home / "models/bert/latest").read_text() == "v1"
    with casstore.Store(home) as store:
        # Until it is told, casstore takes the directory for one that can be made anew.
        assert store.tags() == ["tiny:v1", "bert:v2", "bert:v1"]
        store.sync_tree(prune=True)
        assert store.tags() == ["tiny:v1", "bert:v1"]
        assert str(store.get("bert").tag) == "bert:v1"
        assert store.verify().is_sound


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user() -> None:
    """For whom read-only is read-only. Not by the command, as he may be unable to reach this Python."""
    from bentoml._internal.models import ModelStore

    root = Path(tempfile.mkdtemp())
    home = root / "store"

    def work():
        os.setgid(SOMEBODY)
        os.setuid(SOMEBODY)
        fill(home)
        store = ModelStore(home / "models")
        assert [str(model.tag) for model in store.list()] == ["bert:v1", "bert:v2", "tiny:v1"]
        assert str(store.get("bert").tag) == "bert:v2"
        store.delete("bert:v2")
        assert (home / "models/bert/latest").read_text() == "v1"
        assert str(store.get("bert").tag) == "bert:v1"
        store.delete("bert:v1")
        assert not (home / "models/bert").exists()

    try:
        home.mkdir()
        root.chmod(0o755)
        os.chown(home, SOMEBODY, SOMEBODY)
        assert Child(work).wait() == 0
    finally:
        shutil.rmtree(root)
