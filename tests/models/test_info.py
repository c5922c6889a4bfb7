"""What a model says of itself: BentoML's text, options and loading."""

from __future__ import annotations

import dataclasses
import datetime
import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

import casstore
from casstore import models

CREATED = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc)


def info(**given):
    description = {
        "tag": "bert:v1", "module": "somewhere", "labels": {}, "options": {}, "metadata": {}, "signatures": {},
        "context": {"framework_name": "torch", "framework_versions": {"torch": "2"}, "bentoml_version": "1.4.40",
                    "python_version": "3.11.7"},
        "api_version": "v1", "creation_time": CREATED,
    }  # fmt: skip
    return models.ModelInfo(**{**description, **given})


def test_the_text_is_what_bentoml_writes() -> None:
    """Compared with BentoML itself in tests/integrations."""
    full = info(
        labels={"stage": "dev", "umlaut": "ü"},
        options={"pool": 3},
        metadata={"acc": np.float32(0.5), "shape": np.array([[1, 2]]), "pair": (1, 2), "when": CREATED},
        signatures={"a": {"batchable": True, "batch_dim": 1}, "b": {"batchable": True, "batch_dim": (0, 1)}, "c": {}},
    )
    text = """\
name: bert
version: v1
module: somewhere
labels:
  stage: dev
  umlaut: "\\xFC"
options:
  pool: 3
metadata:
  acc: 0.5
  shape:
  - - 1
    - 2
  pair:
  - 1
  - 2
  when: '2026-01-02T03:04:05.678901+00:00'
context:
  framework_name: torch
  framework_versions:
    torch: '2'
  bentoml_version: 1.4.40
  python_version: 3.11.7
signatures:
  a:
    batchable: true
    batch_dim:
    - 1
    - 1
  b:
    batchable: true
    batch_dim:
    - 0
    - 1
  c:
    batchable: false
api_version: v1
creation_time: '2026-01-02T03:04:05.678901+00:00'
"""
    assert full.dump() == text
    stream = io.StringIO()
    assert full.dump(stream) is None
    assert stream.getvalue() == text
    assert yaml.safe_load(text)["options"] == full.to_dict()["options"]


def test_a_saved_models_text_is_that_of_its_model_yaml() -> None:
    with models.create("m:v1", labels={"a": "b"}, metadata={"x": [1, 0.5]}, signatures={"p": {"batchable": True}}):
        pass
    model = models.get("m:v1")
    written = yaml.safe_load(Path(model.path_of("model.yaml")).read_text("utf-8"))
    assert written["context"].pop("casstore_version") == casstore.__version__
    assert yaml.safe_load(model.info.dump() or "") == written


def test_infos_are_equal_by_what_they_say() -> None:
    assert info() == info()
    assert info() != info(labels={"a": "b"})
    assert info() != "bert:v1"
    assert repr(info()) == "ModelInfo(tag='bert:v1', module='somewhere')"


@pytest.mark.parametrize("value", [info(), models.ModelOptions(size=2)])
def test_what_can_be_changed_has_no_hash(value) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(value)


def test_signatures() -> None:
    assert models.ModelSignature.from_dict({"batch_dim": 2}) == models.ModelSignature(False, (2, 2))
    assert models.ModelSignature.from_dict({"batch_dim": [0, 1]}).batch_dim == (0, 1)
    spec = models.ModelSignature(True, input_spec={"x": "float"})
    assert spec.to_dict() == {"batchable": True, "batch_dim": (0, 0), "input_spec": {"x": "float"}}
    assert models.ModelSignature.from_dict(spec) == spec  # BentoML's own have the same fields
    with pytest.raises(casstore.InvalidMetadata, match="no field 'batch'"):
        models.ModelSignature.from_dict({"batch": True})
    with models.create("m", signatures={"predict": spec}):
        pass
    assert models.get("m").info.signatures == {"predict": spec}


def test_a_context_from_anything_that_says_one() -> None:
    class Context:
        def to_dict(self):
            return {"framework_name": "sklearn", "framework_versions": {"scikit-learn": "1"}, "extra": 1}

    context = models.ModelContext.from_dict(Context())
    assert (context.framework_name, context.framework_versions) == ("sklearn", {"scikit-learn": "1"})
    assert "bentoml_version" not in context.to_dict()
    with models.create("m", context=Context()):
        pass
    assert models.get("m").info.context.framework_name == "sklearn"
    with pytest.raises(casstore.InvalidMetadata, match="context is a dict"):
        models.ModelContext.from_dict(["sklearn"])


@dataclasses.dataclass
class Pool(models.ModelOptions):
    size: int = 1
    kind: str = "mean"


def test_options() -> None:
    assert Pool(3).to_dict() == {"size": 3, "kind": "mean"}
    assert Pool(3).with_options(kind="max") == Pool(3, "max")
    with pytest.raises(TypeError, match="Pool has no option 'width'"):
        Pool().with_options(width=2)
    plain = models.ModelOptions(size=2)
    assert plain.with_options(width=3).to_dict() == {"size": 2, "width": 3}
    assert repr(plain) == "ModelOptions(size=2)"
    assert plain != Pool(2)


def test_options_of_attrs_classes() -> None:
    """As they are written for BentoML; made by hand here, since attrs need not be installed."""

    class Slotted(models.ModelOptions):
        __slots__ = ("size",)
        __attrs_attrs__ = (types.SimpleNamespace(name="size"),)

        def __init__(self, size):
            object.__setattr__(self, "size", size)

    assert Slotted(3).to_dict() == {"size": 3}
    assert Slotted(3).with_options(size=4).to_dict() == {"size": 4}


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch):
    """A module that can load models, under a name that no test shares."""
    module = types.ModuleType("some_framework")
    module.ModelOptions = Pool  # type: ignore[attr-defined]
    module.calls = []  # type: ignore[attr-defined]

    def load_model(model, *arguments, **options):
        module.calls.append(model)
        return Path(model.path_of("w")).read_bytes(), model.info.options.to_dict(), arguments, options

    module.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_framework", module)
    return module


def test_the_module_loads_its_model(framework) -> None:
    with models.create("m", module="some_framework", options=Pool(7)) as model:
        Path(model.path_of("w")).write_bytes(b"w")
        assert model.info.options == Pool(7)
    model = models.get("m")
    assert model.info.options == Pool(7)
    assert model.info.imported_module is framework
    loaded = model.load_model(1, device="cpu")
    assert loaded == (b"w", {"size": 7, "kind": "mean"}, (1,), {"device": "cpu"})
    assert model.load_model() is loaded
    assert framework.calls == [model]
    other = model.with_options(size=8)
    assert other == model
    assert other.load_model()[1] == {"size": 8, "kind": "mean"}
    assert model.info.options == Pool(7)
    assert other.info.to_dict()["options"] == {"size": 8, "kind": "mean"}
    assert models.get("m").info.options == Pool(7)


@pytest.mark.parametrize("module", ["", "no_such_module"])
def test_options_without_a_module(module) -> None:
    with models.create("m", options={"size": 2}, module=module):
        pass
    model = models.get("m")
    assert model.info.options == models.ModelOptions(size=2)
    assert model.with_options(size=3).info.options.size == 3


def test_models_that_no_module_can_load() -> None:
    with models.create("m:v1"):
        pass
    with pytest.raises(casstore.CasstoreError, match="names no module that could load it"):
        models.get("m:v1").load_model()
    with models.create("m:v2", module="no_such_module"):
        pass
    with pytest.raises(casstore.CasstoreError, match="'no_such_module', which cannot be imported"):
        models.get("m:v2").load_model()
    assert models.get("m:v2").info.module == "no_such_module"


def test_what_the_store_refuses_is_refused() -> None:
    for bad in ({"labels": {"a": [1]}}, {"metadata": {"x": object()}}, {"metadata": {1: "x"}}, {"labels": ["a"]}):
        with pytest.raises(casstore.InvalidMetadata), models.create("m", **bad):
            pass
    assert models.list() == []


@pytest.mark.parametrize("name", models.__all__)
def test_names_are_documented(name) -> None:
    value = getattr(models, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")
    for attribute, member in vars(value).items() if isinstance(value, type) else ():
        if not attribute.startswith("_") and (callable(member) or isinstance(member, (property, classmethod))):
            assert getattr(member, "__doc__", None), attribute
