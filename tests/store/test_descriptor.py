"""model.yaml: what BentoML 1.4 reads as its own."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import casstore
from casstore.actions.describing import model_yaml, times
from casstore.storage import bounded_yaml
from tests.kit import plant

FULL: dict[str, Any] = {
    "labels": {"stage": "dev", "quote": 'it\'s "so": #1'},
    "metadata": {"acc": 0.5, "n": [1, None, True], "deep": {"yes": "no", "date-like": "2024-01-01", "num": "1.0"}},
    "module": "bentoml.sklearn",
    "api_version": "v2",
    "signatures": {"predict": {"batchable": True, "batch_dim": (0, 1)}, "encode": {"batchable": False}},
    "options": {"pool": 3},
    "context": {"framework_name": "scikit-learn", "framework_versions": {"scikit-learn": "1.4.0"}},
    "custom_objects": {"answer": 42},
}


# BentoML refuses nulls in metadata.
WITHOUT_NULLS = {**FULL["metadata"], "n": [1, "null", True]}


@pytest.fixture
def model(store: casstore.Store):
    with store.create("bert:v1", **FULL) as draft:
        plant(draft.path, {"w.bin": b"w" * 100_000})
    return draft.model


def test_the_fields_and_types(model) -> None:
    document = yaml.safe_load(Path(model.path, "model.yaml").read_text("utf-8"))
    created = document.pop("creation_time")
    assert datetime.datetime.fromisoformat(created) == model.created_at
    context = document.pop("context")
    assert context["casstore_version"] == casstore.__version__
    assert isinstance(context["python_version"], str)
    assert context["framework_versions"] == {"scikit-learn": "1.4.0"}
    assert json.loads(document.pop("metadata_json")) == FULL["metadata"]
    assert document == {
        "name": "bert",
        "version": "v1",
        "module": "bentoml.sklearn",
        "labels": FULL["labels"],
        "options": {"pool": 3},
        "metadata": WITHOUT_NULLS,
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
def test_any_labels_and_metadata_come_back(store: casstore.Store, labels, metadata) -> None:
    with store.create("m", labels=labels, metadata=metadata, durability="relaxed") as draft:
        pass
    model = store.get(draft.tag)
    assert (model.labels, model.metadata) == (labels, metadata)
    with model.open("model.yaml") as file:
        descriptor = file.read()
    assert Path(model.path, "model.yaml").read_bytes() == descriptor
    assert yaml.safe_load(descriptor)["labels"] == labels
    read = model_yaml.read(descriptor)
    assert (read.tag, read.description.labels, read.description.metadata) == (model.tag, labels, metadata)
    assert (times.timestamp(read.created_at_ns), read.notes) == (model.created_at, ())
    assert model in store.list("m", labels=labels)


def test_the_order_in_which_things_were_said_does_not_matter(store: casstore.Store) -> None:
    with store.create("m:v1", labels={"b": "1", "a": "2"}, signatures={"z": {"batchable": True}, "a": {}}) as draft:
        pass
    written = Path(draft.model.path, "model.yaml").read_text()
    assert written.index("batchable") < written.index("batch_dim")  # as BentoML writes it
    assert written.index("framework_name") < written.index("bentoml_version") < written.index("python_version")
    assert store.verify().damaged_copies == ()


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=9)
    | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(documents)
def test_yaml_is_read_as_by_pyyaml(document) -> None:
    for style in (None, True, False):
        text = yaml.safe_dump(document, default_flow_style=style, allow_unicode=True).encode()
        assert bounded_yaml.load(text) == yaml.safe_load(text)


@example("=")
@example("=: 1")
@example("a: =")
@example("[=]")
@example("{=: =}")
@example("{&a =: *a}")
@example("{a: &k =, *k : 1}")
@example("[&a =, {*a : 1}]")
@example("'='")
@example("!!str =")
@example("!!value x")
@example("! =")
@example("== ")
@example("=:")
@example("=a")
@example("<<")
@example("a: <<")
@example("~")
@example("~: ~")
@example(".")
@example(".5")
@example("._")
@example("-.")
@example(".inf")
@example("!!x")
@example("!!int ''")
@example("0o7")
@example("07")
@example("08")
@example("0b")
@example("0x_")
@example("1_0")
@example("_1")
@example("1:60")
@example("190:20:30.15")
@example("1e3")
@example("1.e+3")
@example("y")
@example("on")
@example("2001-1-1")
@example("2001-01-01 1:2:3.4 +5")
@given(st.text(max_size=60) | st.text("-:[]{},&*!?|>'\"%@`# \n01.ae", max_size=40))
def test_any_text_is_yaml_as_pyyaml_has_it_or_refused(text) -> None:
    try:
        mine = bounded_yaml.load(text.encode("utf-8", "replace"))
    except ValueError:
        return
    theirs = yaml.load(text.encode("utf-8", "replace"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert mine == theirs or mine != mine


def test_what_an_alias_stands_for_is_counted() -> None:
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\n".join(["k0: &k0 [x]", *levels]).encode()
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        bounded_yaml.load(bomb)
    shared = bounded_yaml.load(b"a: &x [1, 2]\nb: *x\n")
    assert shared == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "never made"),
        ("a: !!python/name:os.system ''", "never made"),
        ("!!set {a}", "never made"),
        ("a: &a [*a]", "stands for nothing"),
        ("b: {<<: {a: 1}}", "merge key"),
        ("? [1]\n: 2", "a key is a list"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("a: [", "is not YAML"),
        ("a: " + "[" * 90 + "]" * 90, "nests more than"),
        ("a: !!int " + "9" * 5000, "too many digits"),
        ("a: 2020-99-99", "not a timestamp"),
    ],
)
def test_yaml_that_is_refused(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        bounded_yaml.load(text.encode())


def descriptor_text(**changes):
    document = {
        "name": "bert", "version": "v1", "module": "", "labels": {}, "options": {}, "metadata": {},
        "context": {"framework_name": "", "framework_versions": {}, "bentoml_version": "1.2.0"},
        "signatures": {}, "api_version": "v1", "creation_time": "2024-05-06T07:08:09.123456+00:00", **changes,
    }  # fmt: skip
    return yaml.safe_dump({key: value for key, value in document.items() if value is not ...}).encode()


def test_a_descriptor_keeps_what_json_holds_and_notes_the_rest() -> None:
    changes = {
        "labels": {"n": 1},
        "metadata": {"loss": float("nan"), "raw": b"hi", 3: "three", "day": datetime.date(2024, 1, 2)},
        "signatures": {"predict": {"batchable": True, "batch_dim": 1, "colour": "red"}},
    }
    read = model_yaml.read(descriptor_text(**changes))
    assert str(read.tag) == "bert:v1"
    assert read.description.labels == {"n": "1"}
    assert read.description.metadata == {"loss": "nan", "raw": "aGk=", "3": "three", "day": "2024-01-02"}
    assert read.description.not_finite_places == [["loss"]]
    assert read.description.signatures == {"predict": {"batchable": True, "batch_dim": [1, 1]}}
    assert read.description.context["bentoml_version"] == "1.2.0"
    assert read.created_at_ns == 1714979289123456000
    assert len(read.notes) == 4


@pytest.mark.parametrize(
    ("changes", "created_at_ns"),
    [
        ({"creation_time": "2024-05-06T07:08:09Z"}, 1714979289000000000),
        ({"creation_time": "2024-05-06T09:08:09+02:00"}, 1714979289000000000),
        ({"creation_time": datetime.datetime(2024, 5, 6, 7, 8, 9)}, 1714979289000000000),
        (
            {"context": {"pip_dependencies": ["a"]}, "bentoml_version": "1.0.0a1", "signatures": ...},
            1714979289123456000,
        ),
    ],
)
def test_what_older_bentoml_wrote_is_read(changes, created_at_ns) -> None:
    read = model_yaml.read(descriptor_text(**changes))
    assert read.created_at_ns == created_at_ns
    assert read.description.context["bentoml_version"] in ("1.2.0", "1.0.0a1")


def test_a_creation_time_of_the_future_becomes_now() -> None:
    read = model_yaml.read(descriptor_text(creation_time="2300-01-01T00:00:00+00:00"))
    assert abs(read.created_at_ns - time.time_ns()) < 60e9
    assert "in the future" in read.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ...}, "no 'name'"),
        ({"name": "../x"}, "cannot be a name"),
        ({"name": 5}, "put it in quotes"),
        ({"version": "latest"}, "cannot be a version's own name"),
        ({"labels": [1]}, "labels is not a mapping"),
        ({"signatures": {"a": 1}}, "is not a mapping"),
        ({"signatures": {"a": {"batchable": "yes"}}}, "batchable is True or False"),
        ({"creation_time": ...}, "no creation_time"),
        ({"creation_time": "yesterday"}, "which is not a time"),
        ({"creation_time": "0001-01-01T00:00:00+00:00"}, "out of range"),
        ({"module": 3}, "not text"),
    ],
)
def test_a_descriptor_that_is_refused(changes, message) -> None:
    with pytest.raises(casstore.InvalidSource, match=message):
        model_yaml.read(descriptor_text(**changes))


def test_a_descriptor_that_asks_for_objects_is_unsafe() -> None:
    with pytest.raises(casstore.UnsafeArchive, match="never made"):
        model_yaml.read(descriptor_text() + b"x: !!python/object/apply:os.getcwd []\n")


def test_a_models_own_descriptor_may_be_saved_again(store: casstore.Store, model, tmp_path: Path) -> None:
    """As when a directory that BentoML or casstore wrote is saved: its descriptor gives way to the new one."""
    again = store.save("bert:v2", model.path)
    assert yaml.safe_load(Path(again.path, "model.yaml").read_text())["version"] == "v2"
    assert again.digest == model.digest


def test_bentoml_reads_a_store(store: casstore.Store) -> None:
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
        FULL["labels"], WITHOUT_NULLS, "", "v2",
    )  # fmt: skip
    assert info.creation_time == model.created_at
    assert info.signatures["predict"].batchable
    assert info.signatures["predict"].batch_dim == (0, 1)
    assert info.context.framework_versions == {"scikit-learn": "1.4.0"}
    assert Path(read.path_of("w.bin")).read_bytes() == b"w" * 100_000
    assert read.custom_objects == {"answer": 42}
    assert str(models.get("bert").tag) == str(models.get("bert:latest").tag) == "bert:v2"
    assert sorted(str(each.tag) for each in models.list()) == ["bert:v1", "bert:v2"]
