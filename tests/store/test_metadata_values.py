"""What labels and metadata take, when it is checked, and how it comes back."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import json
import math
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore import not_finite
from casstore.actions.describing import model_yaml
from tests.kit import Sql


class Stage(str, enum.Enum):
    DEV = "dev"


class Colour(enum.Enum):
    RED = enum.auto()
    BLUE = "blue"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Config:
    lr: float
    out: Path
    stages: set[str]


class dtype:  # noqa: N801 - as torch has it
    """Stands for torch.dtype, which is not installed everywhere."""

    __module__ = "torch"

    def __repr__(self) -> str:
        return "torch.bfloat16"


TAKEN = {
    "path": (Path("a/b"), "a/b"),
    "pure path": (PurePosixPath("/x"), "/x"),
    "set": ({3, 1, 20}, [1, 3, 20]),
    "frozen set": (frozenset("ba"), ["a", "b"]),
    "mixed set": ({1, "a"}, ["a", 1]),
    "dataclass": (Config(1e-3, Path("o"), {"b", "a"}), {"lr": 1e-3, "out": "o", "stages": ["a", "b"]}),
    "date and time": (datetime.datetime(2026, 11, 29, 10, 0), "2026-11-29T10:00:00"),
    "text that is an enumeration's": (Stage.DEV, "dev"),
    "member without a text": (Colour.RED, "RED"),
    "member with one": (Colour.BLUE, "blue"),
    "number that is one's": (Level.HIGH, 3),
    "numpy's dtype": (numpy.dtype("float32"), "float32"),
    "torch's dtype": (dtype(), "torch.bfloat16"),
    "array": (numpy.array([1.5, numpy.inf]), [1.5, math.inf]),
    "scalar": (numpy.float32(0.5), 0.5),
    "nan": (math.nan, math.nan),
    "numpy's nan": (numpy.float64("nan"), math.nan),
    "infinities": ({"a": [math.inf, {"b": -math.inf}], "c": "nan"}, {"a": [math.inf, {"b": -math.inf}], "c": "nan"}),
}


def _has_same(value, other):
    """Equality for which NaN is NaN."""
    return repr(value) == repr(other)


@pytest.mark.parametrize("kind", TAKEN)
def test_metadata_takes_what_means_one_thing_only(store: casstore.Store, kind) -> None:
    given_value, expected = TAKEN[kind]
    with store.create("m:given", metadata={"x": given_value}) as given_draft:
        pass
    with store.create("m:assigned") as assigned:
        assigned.metadata["x"] = given_value
    for draft in (given_draft, assigned):
        model = store.get(draft.tag)
        assert _has_same(model.metadata, {"x": expected})
        document = yaml.safe_load(Path(model.path, "model.yaml").read_text("utf-8"))
        assert _has_same(document["metadata"], {"x": expected}), "as BentoML reads it"


def test_a_device_and_a_class_that_is_only_called_dtype(store: casstore.Store) -> None:
    class Other:
        pass

    Other.__name__ = "dtype"
    with pytest.raises(casstore.InvalidMetadata, match=r"metadata\.x is of type dtype"):
        store.create("m", metadata={"x": Other()})


LABELS = [
    (3, "3"), (0.5, "0.5"), (True, "true"), (False, "false"), (numpy.int64(7), "7"), (numpy.float32(0.5), "0.5"),
    (Stage.DEV, "dev"), (Level.HIGH, "3"), (Path("a"), "a"), (1e-5, "1e-05"), (numpy.bool_(True), "true"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), LABELS, ids=repr)
def test_labels_take_numbers_and_booleans_as_text(store: casstore.Store, value, text) -> None:
    with store.create("m:v1", labels={"given": value}) as draft:
        draft.labels["assigned"] = value
        assert draft.labels["assigned"] == text
    assert draft.model.labels == {"given": text, "assigned": text}
    assert store.list(labels={"given": value}) == [draft.model]
    assert store.list(labels={"given": text}) == [draft.model]


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


class Broken:
    """As a tensor on a device that has failed."""

    dtype = "float32"

    def tolist(self) -> object:
        raise RuntimeError("device-side assert")


REFUSED = [
    ("metadata", "tensor", Broken(), "'tensor' cannot be read: RuntimeError: device-side assert"),
    ("labels", "tensor", Broken(), "'tensor' cannot be read: RuntimeError: device-side assert"),
    pytest.param("metadata", "huge", 10**5000, "more than 4,000 digits", id="huge"),  # which has no text
    ("metadata", "loss", Opaque(), r"metadata\.loss is of type Opaque, <opaque>"),
    ("metadata", "loss", Rude(), r"metadata\.loss is of type Rude, <Rude "),
    ("metadata", "deep", {"a": [0, Opaque()]}, r"metadata\.deep\.a\[1\] is of type Opaque, <opaque>"),
    ("metadata", "config", Config, r"metadata\.config is of type type"),
    ("metadata", "id2label", {0: "cat"}, r"metadata\.id2label has the key 0 \(with 'cat'\); keys are text"),
    ("metadata", 5, "five", r"metadata has the key 5 \(with 'five'\)"),
    ("metadata", "raw", b"x", r"metadata\.raw is of type bytes"),
    ("metadata", "z", 1j, r"metadata\.z is of type complex, 1j"),
    ("metadata", "text", "\ud800", "not Unicode"),
    ("labels", "stage", None, "'stage' maps to None"),
    ("labels", "stages", ["a"], r"'stages' maps to \['a'\]"),
    ("labels", "object", Opaque(), "<opaque>"),
    ("labels", 5, "five", "5 maps to 'five'"),
    ("labels", "\ud800", "x", "not Unicode"),
]


@pytest.mark.parametrize(("field", "key", "value", "message"), REFUSED)
def test_what_cannot_be_recorded_is_refused_at_once(
    store: casstore.Store, home: Path, field, key, value, message
) -> None:
    given: dict[str, Any] = {field: {key: value}}
    with pytest.raises(casstore.InvalidMetadata, match=message):
        store.create("m:v1", **given)
    with store.create("m:v1") as draft:
        here = getattr(draft, field)

        def assign_whole():
            setattr(draft, field, {"fine": "1", key: value})

        def set_item():
            here[key] = value

        for act in (
            set_item, assign_whole, lambda: here.update({"fine": "1", key: value}),
            lambda: here.setdefault(key, value), lambda: here.__ior__({key: value}),
        ):  # fmt: skip
            with pytest.raises(casstore.InvalidMetadata, match=message):
                act()
        assert here == {}
        assert getattr(draft, field) is here
    assert store.drafts() == []


@pytest.mark.parametrize(
    "given_field",
    [
        {"module": 5}, {"api_version": 1}, {"signatures": {"f": {"speed": 1}}}, {"options": {"a": Opaque()}},
        {"context": {"framework_name": 1}}, {"custom_objects": {"a": (n for n in [1])}},
    ],
    ids=lambda given_field: next(iter(given_field)),
)  # fmt: skip
def test_all_that_create_is_given_is_checked_there(store: casstore.Store, given_field) -> None:
    with pytest.raises(casstore.InvalidMetadata):
        store.create("m:v1", **given_field)


def test_what_is_put_into_a_list_later_is_saved(store: casstore.Store) -> None:
    history: list[float] = []
    with store.create("m:v1", metadata={"first": history}) as draft:
        draft.metadata["history"] = history
        history.append(0.5)
    assert draft.model.metadata == {"first": [0.5], "history": [0.5]}


def test_a_drafts_labels_and_metadata_are_dicts(store: casstore.Store) -> None:
    with store.create("m:v1", labels={"a": "1"}, metadata={"b": [1]}) as draft:
        draft.labels |= {"c": 2}
        draft.metadata.update(d=1, e=2)
        del draft.metadata["e"]
        assert draft.labels.setdefault("a", "9") == "1"
        assert draft.labels.copy() == draft.labels == {"a": "1", "c": "2"}
        assert json.loads(json.dumps(draft.metadata)) == {"b": [1], "d": 1}
        for again in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
            assert type(again(draft.metadata)) is dict
            assert again(draft.metadata) == draft.metadata


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | st.sampled_from(["nan", "inf", "-inf"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(texts, values, max_size=4))
def test_any_metadata_comes_back_from_all_that_is_written(store: casstore.Store, metadata) -> None:
    with store.create("m", metadata=metadata, durability="relaxed") as draft:
        pass
    model = store.get(draft.tag)

    def in_order(value):
        return json.dumps(value, sort_keys=True)

    assert in_order(model.metadata) == in_order(metadata)
    with model.open("model.yaml") as file:
        read = model_yaml.read(file.read())
    assert in_order(read.description.numbers) == in_order(metadata)
    assert read.notes == ()


def test_archives_and_a_rebuilt_catalog_keep_what_is_not_finite(
    store: casstore.Store, home: Path, tmp_path: Path
) -> None:
    metadata = {"loss": math.nan, "deep": [{"x": -math.inf}, None], "word": "nan"}
    with store.create("m:v1", metadata=metadata) as draft:
        Path(draft.path, "w").write_bytes(b"w")
    for name in ("m.casmodel", "m.bentomodel"):
        store.export("m:v1", tmp_path / name)
        [same] = store.import_archive(tmp_path / name)
        assert not same.is_new
        with casstore.Store(tmp_path / f"other-{name}") as other:
            [came] = other.import_archive(tmp_path / name)
            assert _has_same(came.model.metadata, dict(sorted(metadata.items())))
            assert not came.notes
    store.close()
    casstore.Store.rebuild_catalog(home)
    with casstore.Store(home) as again:
        assert _has_same(again.get("m:v1").metadata, dict(sorted(metadata.items())))
        assert again.verify().is_sound


def test_a_number_is_searchable_and_a_word_is_none(store: casstore.Store, sql: Sql) -> None:
    with store.create("m:v1", metadata={"a": math.inf, "b": math.nan, "c": "nan"}):
        pass
    assert sorted(sql("SELECT path, value FROM metadata")) == [("a", math.inf), ("b", None), ("c", "nan")]


@given(values, values)
def test_places_that_a_stranger_has_written_harm_nothing(value, places) -> None:
    assert isinstance(not_finite.restored({"a": value}, places), dict)


def test_a_models_labels_and_metadata_say_that_they_cannot_be_changed(store: casstore.Store) -> None:
    deep = {"a": [1, {"b": [2.5]}], "c": {"d": None}}
    with store.create("m:v1", labels={"stage": "dev"}, metadata=deep, options={"x": [1]}) as draft:
        pass
    model = store.get("m:v1")

    def assign():
        model.labels["stage"] = "prod"

    def delete():
        del model.metadata["c"]

    def add():
        model.metadata["a"] += [1]

    for act in (
        assign, delete, add, lambda: model.labels.update(a="b"), lambda: model.labels.setdefault("a", "b"),
        lambda: model.metadata["a"].append(3), lambda: model.metadata["a"][1]["b"].clear(),
        lambda: model.metadata["c"].pop("d"), lambda: model.options["x"].sort(), lambda: model.context.clear(),
    ):  # fmt: skip
        with pytest.raises(casstore.ReadOnly, match="of m:v1 cannot be changed") as caught:
            act()
        assert isinstance(caught.value, TypeError)
    assert draft.model.metadata == model.metadata == deep
    assert model.labels == {"stage": "dev"}
    assert model.labels | {"x": "y"} == {"stage": "dev", "x": "y"}
    assert isinstance(model.metadata, dict)
    assert json.loads(json.dumps(model.metadata)) == deep
    for dump in (yaml.dump, yaml.safe_dump):
        assert yaml.safe_load(dump(model.metadata)) == deep
    for again in (dict, copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), lambda v: v.copy()):
        plain = again(model.metadata)
        assert (type(plain), plain) == (dict, deep)
        plain["new"] = 1
    copied = copy.deepcopy(model.metadata)
    copied["a"][1]["b"].append(3)

    @dataclasses.dataclass
    class Report:
        metadata: dict[str, object]

    assert dataclasses.asdict(Report(model.metadata)) == {"metadata": deep}
