"""model.yaml: what BentoML 1.4 reads as its own."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore

FULL = {
    "labels": {"stage": "dev", "quote": 'it\'s "so": #1'},
    "metadata": {"acc": 0.5, "n": [1, None, True], "deep": {"yes": "no", "date-like": "2024-01-01", "num": "1.0"}},
    "module": "bentoml.sklearn",
    "api_version": "v2",
    "signatures": {"predict": {"batchable": True, "batch_dim": (0, 1)}, "encode": {"batchable": False}},
    "options": {"pool": 3},
    "context": {"framework_name": "scikit-learn", "framework_versions": {"scikit-learn": "1.4.0"}},
    "custom_objects": {"answer": 42},
}


@pytest.fixture
def model(store, plant):
    with store.create("bert:v1", **FULL) as draft:
        plant(draft.path, {"w.bin": b"w" * 100_000})
    return draft.model


def test_the_fields_and_types(model):
    document = yaml.safe_load(Path(model.path, "model.yaml").read_text("utf-8"))
    created = document.pop("creation_time")
    assert datetime.datetime.fromisoformat(created) == model.created_at
    context = document.pop("context")
    assert context["casstore_version"] == casstore.__version__
    assert isinstance(context["python_version"], str)
    assert context["framework_versions"] == {"scikit-learn": "1.4.0"}
    assert document == {
        "name": "bert",
        "version": "v1",
        "module": "bentoml.sklearn",
        "labels": FULL["labels"],
        "options": {"pool": 3},
        "metadata": FULL["metadata"],
        "signatures": {"predict": {"batchable": True, "batch_dim": [0, 1]}, "encode": {"batchable": False}},
        "api_version": "v2",
    }


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.dictionaries(texts, texts, max_size=3), metadata=st.dictionaries(texts, values, max_size=4))
def test_any_labels_and_metadata_come_back(store, labels, metadata):
    with store.create("m", labels=labels, metadata=metadata, durability="relaxed") as draft:
        pass
    model = store.get(draft.tag)
    assert (model.labels, model.metadata) == (labels, metadata)
    with model.open("model.yaml") as file:
        document = yaml.safe_load(file.read())
    assert (document["labels"], document["metadata"]) == (labels, metadata)
    assert model in store.list("m", labels=labels)


def test_a_models_own_descriptor_may_be_saved_again(store, model, tmp_path):
    """As when a directory that BentoML or casstore wrote is saved: its descriptor gives way to the new one."""
    again = store.save("bert:v2", model.path)
    assert yaml.safe_load(Path(again.path, "model.yaml").read_text())["version"] == "v2"
    assert again.digest == model.digest


def test_bentoml_reads_a_store(store, plant):
    pytest.importorskip("bentoml", minversion="1.4")
    from bentoml._internal.models.model import ModelStore

    with store.create("bert:v1", **{**FULL, "module": ""}) as draft:  # it would import the framework's module
        plant(draft.path, {"w.bin": b"w" * 100_000})
    model = draft.model
    with store.create("bert:v2", labels={"stage": "prod"}):
        pass
    models = ModelStore(store.home / "models")
    read = models.get("bert:v1")
    info = read.info
    assert str(read.tag) == "bert:v1"
    assert (info.labels, info.metadata, info.module, info.api_version) == (
        FULL["labels"], FULL["metadata"], "", "v2",
    )  # fmt: skip
    assert info.creation_time == model.created_at
    assert info.signatures["predict"].batchable
    assert info.signatures["predict"].batch_dim == (0, 1)
    assert info.context.framework_versions == {"scikit-learn": "1.4.0"}
    assert Path(read.path_of("w.bin")).read_bytes() == b"w" * 100_000
    assert read.custom_objects == {"answer": 42}
    assert str(models.get("bert").tag) == str(models.get("bert:latest").tag) == "bert:v2"
    assert sorted(str(each.tag) for each in models.list()) == ["bert:v1", "bert:v2"]
