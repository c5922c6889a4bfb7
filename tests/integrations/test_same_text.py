"""casstore.models writes the text that BentoML writes, and takes BentoML's own objects."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casstore
from casstore import models

pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")

CREATED = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"labels": {"stage": "dev", "umlaut": "ü", "number": "1", "date": "2024-01-01", "yes": "no"}},
        {"options": {"pool": 3, "kind": "mean"}},
        {"metadata": {"b": 1, "a": 0.5, "deep": {"list": [1, "two", [3.0]]}, "pair": (1, 2), "yes": True}},
        {"metadata": {"i": np.int64(3), "f": np.float64(0.1), "array": np.arange(6).reshape(2, 3), "s": np.str_("x")}},
        {"metadata": {"when": datetime.datetime(2024, 1, 2, 3, 4, 5)}},
        {"signatures": {"p": {"batchable": True, "batch_dim": 1}, "q": {"batchable": True, "batch_dim": (0, 1)}}},
        {"signatures": {"p": {"batchable": False, "batch_dim": 1}, "q": {"batchable": True, "input_spec": {"x": 1}}}},
    ],
)
def test_the_text_of_a_description(given) -> None:
    from bentoml import Tag
    from bentoml._internal.models.model import ModelContext, ModelInfo

    rest = {"labels": {}, "options": {}, "metadata": {}, "signatures": {}, **given}
    context = ModelContext("torch", {"torch": "2.4.0"})
    theirs = ModelInfo(
        tag=Tag("bert", "v1"), module="m", context=context, api_version="v1", creation_time=CREATED, **rest
    )
    ours = models.ModelInfo(tag="bert:v1", module="m", context=context, api_version="v1", creation_time=CREATED, **rest)
    assert ours.dump() == theirs.dump()
    assert ours.to_dict() == theirs.to_dict()


def test_the_text_of_a_saved_version(store: casstore.Store) -> None:
    from bentoml._internal.models.model import Model

    with models.create(
        "bert:v1", labels={"b": "1", "a": "2"}, metadata={"x": [1, 2.5], "a": {"z": 1, "b": 2}}, options={"pool": 3},
        signatures={"p": {"batchable": True, "batch_dim": (0, 1)}}, module="", api_version="v2",
        context={"framework_name": "torch", "framework_versions": {"torch": "2"}},
    ):  # fmt: skip
        pass
    model = models.get("bert:v1")
    theirs = Model.from_path(model.path)
    assert theirs.info.dump() == model.info.dump()
    assert theirs.info.creation_time == model.creation_time
    assert theirs.file_size == model.file_size
    assert str(theirs) == str(model)
    assert repr(theirs) == repr(model)


def test_bentomls_own_objects_are_taken() -> None:
    import attr
    import bentoml
    from bentoml.models import ModelContext, ModelOptions
    from bentoml.types import ModelSignature

    @attr.define
    class Options(ModelOptions):  # type: ignore[misc]
        size: int = 1

    with models.create(
        bentoml.Tag("bert", "v1"), options=Options(3), signatures={"p": ModelSignature(True, (0, 1))},
        context=ModelContext("torch", {"torch": "2"}),
    ) as model:  # fmt: skip
        assert model.info.options == Options(3)
    found = models.get(bentoml.Tag("bert"))
    assert found.info.options.to_dict() == {"size": 3}
    assert found.info.signatures == {"p": models.ModelSignature(True, (0, 1))}
    assert found.info.context.framework_name == "torch"
    assert found.info.context.bentoml_version == ModelContext("x", {}).bentoml_version


def test_options_made_with_attrs() -> None:
    import attr

    @attr.define
    class Options(models.ModelOptions):
        size: int = 1

    make: Any = Options
    assert make(3).to_dict() == {"size": 3}
    assert make(3).with_options(size=4) == make(4)


def test_bentoml_archives_are_taken_and_given(store: casstore.Store, tmp_path: Path) -> None:
    """From BentoML without casstore, through a file, and back."""
    import bentoml
    from bentoml._internal.models import ModelStore
    from bentoml._internal.models.model import Model

    (tmp_path / "theirs").mkdir()
    theirs = ModelStore(tmp_path / "theirs")
    with bentoml.models.create("bert:v1", labels={"a": "b"}, custom_objects={"o": 1}, _model_store=theirs) as made:
        Path(made.path_of("w.bin")).write_bytes(b"w" * 100_000)
    for form in ("tar", "gz", "xz", "bz2", "zip", "bentomodel", "folder"):
        path = theirs.get("bert").export(str(tmp_path / f"their.{form}"), form)
        model = models.import_model(path, form)
        assert model.creation_time == made.creation_time
        assert model.info.labels == {"a": "b"}
        with pytest.raises(casstore.UntrustedObjects):
            model.custom_objects  # noqa: B018
        back = Model.import_from(models.export_model(model.tag, str(tmp_path / f"our.{form}"), form), form)
        assert back.info.dump() == made.info.dump()
        assert back.custom_objects == {"o": 1}
        assert Path(back.path_of("w.bin")).read_bytes() == b"w" * 100_000
        models.delete(model.tag)


def test_equal_files_in_bentomls_own_export(store: casstore.Store, tmp_path: Path) -> None:
    """In a casstore directory they are one file with two names, which tar keeps, and BentoML refuses to take back."""
    from bentoml._internal.models.model import Model

    with models.create("bert:v1") as model:
        for name in ("one", "two"):
            Path(model.path_of(name)).write_bytes(b"w" * 200_000)
    theirs = Model.from_path(model.path)
    archive = theirs.export(str(tmp_path / "theirs.tar"))
    with pytest.raises(ValueError, match="hardlinks are unsupported"):
        Model.import_from(archive)
    assert Path(Model.import_from(theirs.export(str(tmp_path / "theirs.zip"))).path_of("two")).stat().st_size == 200_000
    again = Model.import_from(model.export(str(tmp_path / "ours.tar")))
    assert Path(again.path_of("two")).read_bytes() == b"w" * 200_000
    assert models.import_model(archive) == model  # casstore takes theirs
