"""What code written for BentoML's models relies on holds for casstore.models and for BentoML over casstore alike."""

from __future__ import annotations

import contextlib
import datetime
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import casstore
from casstore import models
from tests.kit import Leftovers


@pytest.fixture(params=["casstore", "bentoml"])
def api(request: pytest.FixtureRequest):
    """The calls, with the errors of either side by one name."""
    if request.param == "casstore":
        return SimpleNamespace(
            **{name: getattr(models, name) for name in models.__all__}, NotFound=casstore.TagNotFound,
            Exists=casstore.TagExists, Ambiguous=casstore.AmbiguousTag, Error=casstore.CasstoreError,
            BadArchive=casstore.CasstoreError, trust={"trust": True},
        )  # fmt: skip
    request.getfixturevalue("installed")
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    return SimpleNamespace(
        **{name: getattr(bentoml.models, name) for name in bentoml.models.__all__ if hasattr(bentoml.models, name)},
        NotFound=NotFound, Exists=BentoMLException, Ambiguous=BentoMLException, Error=BentoMLException,
        BadArchive=Exception, trust={},
    )  # fmt: skip


def make(api, tag, **description):
    with api.create(tag, **description) as model:
        Path(model.path_of("w.bin")).write_bytes(str(tag).encode() * 30_000)
    return api.get(model.tag)


def test_create_and_get(api) -> None:
    start = datetime.datetime.now(datetime.timezone.utc)
    with api.create(
        "bert", labels={"stage": "dev"}, metadata={"accuracy": 0.9}, module="somewhere", api_version="v3",
        signatures={"predict": {"batchable": True, "batch_dim": 1}}, custom_objects={"a": 1},
        context=api.ModelContext("torch", {"torch": "2.4.0"}),
    ) as model:  # fmt: skip
        Path(model.path_of("deep")).mkdir()
        Path(model.path_of("/deep/w.bin")).write_bytes(b"weights")
    end = datetime.datetime.now(datetime.timezone.utc)
    found = api.get("bert")
    assert found == model
    assert hash(found) == hash(model)
    assert str(found) == f'Model(tag="{model.tag}")'
    assert repr(found) == f'Model(tag="{model.tag}", path="{found.path}")'
    assert Path(found.path_of("deep/w.bin")).read_bytes() == b"weights"
    assert start <= found.creation_time <= end
    assert found.creation_time == found.info.creation_time
    assert found.custom_objects == {"a": 1}
    info = found.info
    assert (info.name, info.version, info.module, info.api_version) == ("bert", found.tag.version, "somewhere", "v3")
    assert (info.labels, info.metadata) == ({"stage": "dev"}, {"accuracy": 0.9})
    assert info.signatures["predict"].batch_dim == (1, 1)
    assert info.context.framework_versions == {"torch": "2.4.0"}
    assert found.file_size == sum(path.stat().st_size for path in Path(found.path).rglob("*") if path.is_file())


def test_a_version_that_is_given_is_kept(api) -> None:
    assert make(api, "bert:my-version.1").tag.version == "my-version.1"
    assert len(make(api, "bert").tag.version) == 16


def test_versions_are_made_in_order(api) -> None:
    made = [make(api, "bert") for _ in range(3)]
    assert api.get("bert") == made[-1]
    assert [str(model.tag) for model in sorted(api.list("bert"), key=lambda each: each.creation_time)] == [
        str(model.tag) for model in made
    ]


def test_a_tag_is_taken_once(api) -> None:
    first = make(api, "bert:v1")

    def again():
        with api.create("bert:v1") as model:
            Path(model.path_of("other")).write_bytes(b"other")

    with pytest.raises(api.Exists, match="already"):
        again()
    assert [str(model.tag) for model in api.list()] == ["bert:v1"]
    assert not Path(first.path_of("other")).exists()


def test_names_and_versions_become_lower_case(api) -> None:
    with pytest.warns(UserWarning, match="lower case") if api.trust else contextlib.nullcontext():
        tag = make(api, "BERT:V1").tag
    assert str(tag) == "bert:v1"


@pytest.mark.parametrize("name", ["with space", "-first", "last.", "a" * 64, "", "name:v/1"])
def test_names_that_cannot_be(api, name) -> None:
    with pytest.raises((ValueError, api.Error)):
        make(api, name)
    assert api.list() == []


def test_get_by_name_latest_and_prefix(api) -> None:
    one, two, other = make(api, "bert:v1.0"), make(api, "bert:v1.1"), make(api, "tiny:v2")
    assert api.get("bert") == api.get("bert:latest") == two
    assert api.get("bert:v1.0") == one
    assert api.get("tiny:v") == other
    with pytest.raises(api.Ambiguous, match=r"bert:v1|versions"):
        api.get("bert:v1")
    for missing in ("bert:v3", "other", "other:latest"):
        with pytest.raises(api.NotFound):
            api.get(missing)
    with pytest.raises((ValueError, api.Error)):
        api.get("bert:")


def test_list(api) -> None:
    assert api.list() == []
    two, one, other = make(api, "bert:v2"), make(api, "bert:v1"), make(api, "a:v1")
    assert api.list() == [other, one, two]
    assert api.list("bert") == [one, two]
    assert api.list("bert:v1") == [one]
    assert api.list("bert:v") == []
    with pytest.raises(api.NotFound):
        api.list("other")


def test_delete(api) -> None:
    one, two, three, other = (make(api, tag) for tag in ("bert:v1", "bert:v2", "bert:v3", "tiny:v1"))
    api.delete("bert:latest")
    assert api.get("bert") == two
    api.delete(one.tag)
    assert api.list() == [two, other]
    for missing in ("bert:v1", three.tag, "bert:v", "other"):
        with pytest.raises(api.NotFound):
            api.delete(missing)
    api.delete("bert")
    assert api.list() == [other]
    api.delete("bert:latest")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(api, error, store: casstore.Store, leftovers: Leftovers) -> None:
    def write():
        with api.create("bert:v1") as model:
            Path(model.path_of("w.bin")).write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert api.list() == []
    assert store.tags() == []
    assert leftovers() == []


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("some_framework")
    module.load_model = lambda model, **given: (Path(model.path_of("w.bin")).read_bytes()[:4], given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_framework", module)


def test_load_model(api, framework) -> None:
    model = make(api, "bert:v1", module="some_framework")
    loaded = model.load_model(device="cpu")
    assert loaded == (b"bert", {"device": "cpu"})
    assert model.load_model() is loaded
    with pytest.raises(api.Error, match=r"[Mm]odule"):
        make(api, "bert:v2").load_model()
    with pytest.raises(api.Error, match="no_such_module"):
        make(api, "bert:v3", module="no_such_module").load_model()


@pytest.mark.parametrize("form", ["tar", "gz", "xz", "bz2", "zip", "bentomodel", "folder"])
def test_what_is_exported_can_be_imported(api, form, tmp_path: Path) -> None:
    made = make(
        api, "bert:v1", labels={"a": "b"}, metadata={"x": [1, 2.5]}, custom_objects={"o": {1, 2}},
        signatures={"predict": {"batchable": True, "batch_dim": (0, 1)}}, api_version="v3",
        context=api.ModelContext("torch", {"torch": "2.4.0"}),
    )  # fmt: skip
    info = made.info.to_dict()
    given = tmp_path / ("out" if form == "folder" else f"out.{form}")
    written = api.export_model("bert:v1", str(given), form)
    assert written.rstrip("/") == str(given)
    api.delete("bert:v1")
    imported = api.import_model(str(given), form, **api.trust)
    assert str(imported.tag) == "bert:v1"
    found = api.get("bert")
    assert found.info.to_dict() == info
    assert found.creation_time == made.creation_time
    assert Path(found.path_of("w.bin")).read_bytes() == b"bert:v1" * 30_000
    if api.trust:
        assert imported.custom_objects == found.custom_objects == {"o": {1, 2}}
    else:
        with pytest.raises(api.Error, match="trust"):
            found.custom_objects  # noqa: B018


def test_where_an_export_goes(api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(api, "bert:v1")
    (tmp_path / "out").mkdir()
    cases = {
        str(tmp_path / "out"): "out/bert-v1.bentomodel", str(tmp_path / "named"): "named.bentomodel",
        str(tmp_path / "named.ext"): "named.ext.bentomodel", str(tmp_path / "a.bentomodel"): "a.bentomodel",
        str(tmp_path / "b.zip"): "b.zip", f"file://{tmp_path}/c.tar": "c.tar",
    }  # fmt: skip
    for given, expected in cases.items():
        written = api.export_model("bert:v1", given)
        assert Path(written) == tmp_path / expected, given
        assert Path(written).is_file()
    assert Path(api.export_model("bert:v1", str(tmp_path), subpath="d.tar", protocol="file")) == tmp_path / "d.tar"
    assert api.get("bert").export(str(tmp_path / "out"), "gz").endswith("out/bert-v1.tar.gz")
    monkeypatch.chdir(tmp_path / "out")
    assert Path(api.export_model("bert:v1", "")).resolve() == tmp_path / "out/bert-v1.bentomodel"
    with pytest.raises(ValueError, match="URL"):
        api.export_model("bert:v1", "file:///x.tar", user="me")
    with pytest.raises((ValueError, api.Error)):
        api.export_model("bert:v1", str(tmp_path / "x"), "rar")


def test_a_url_in_parts(api, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec, for URLs")

    made = make(api, "bert:v1")
    api.export_model("bert:v1", "bucket/sub/bert.tar", protocol="memory")
    assert fsspec.filesystem("memory").exists("/bucket/sub/bert.tar") or fsspec.filesystem("memory").exists(
        "/sub/bert.tar"
    )
    api.export_model("bert:v1", "bucket", protocol="memory", subpath="sub/again.zip")
    api.delete("bert")
    assert api.import_model("memory://bucket/sub/bert.tar") == made
    api.delete("bert")
    assert api.import_model("bucket", protocol="memory", subpath="sub/again.zip") == made
    with pytest.raises((ValueError, api.Error)):
        api.import_model("bucket/x.tar", protocol="no-such")


def test_bad_archives_are_refused(api, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "w.bin").write_bytes(b"w")
    (tmp_path / "not.tar").write_bytes(b"this is no archive at all" * 100)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "model.yaml").write_text("- a list\n")
    for path, form in ((empty, "folder"), (tmp_path / "not.tar", None), (odd, "folder"), (tmp_path / "missing", "zip")):
        with pytest.raises((api.BadArchive, OSError)):
            api.import_model(str(path), form)
    assert api.list() == []


def test_numpy_metadata_and_signatures_of_any_form(api) -> None:
    metadata = {
        "i": np.int64(3),
        "f": np.float32(0.5),
        "array": np.array([[1, 2], [3, 4]]),
        "deep": [{"x": np.bool_(True)}],
    }
    signatures = {"a": {"batchable": True, "batch_dim": 2}, "b": {"batchable": True, "batch_dim": (0, 3)}, "c": {}}
    document = yaml.safe_load(make(api, "m", metadata=metadata, signatures=signatures).info.dump())
    assert document["metadata"] == {"i": 3, "f": 0.5, "array": [[1, 2], [3, 4]], "deep": [{"x": True}]}
    assert document["signatures"] == {
        "a": {"batchable": True, "batch_dim": [2, 2]},
        "b": {"batchable": True, "batch_dim": [0, 3]},
        "c": {"batchable": False},
    }


def test_an_alias_is_taken_for_a_tag(api, home: Path) -> None:
    for tag in ("bert:a", "bert:b"):
        make(api, tag)
    with casstore.Store(home, auto_gc=False) as store:
        store.set_alias("bert@prod", "bert:a")
        store.set_alias("bert@prod", "bert:b")
    assert str(api.get("bert@prod").tag) == "bert:b"
    assert str(api.get("bert@prod~1").tag) == "bert:a"
    assert [str(model.tag) for model in api.list("bert@prod")] == ["bert:b"]
    with pytest.raises(api.NotFound, match="there is no alias bert@none"):
        api.get("bert@none")
    with pytest.raises(api.Error, match="bert:b is what the alias bert@prod means"):
        api.delete("bert:b")
    with pytest.raises(api.Error, match="is an alias, which moves"):
        api.delete("bert@prod")
    assert len(api.list("bert")) == 2
