"""Export and import by casstore.models; beside BentoML's in tests/integrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import models
from casstore.models import urls


def make(tag, **description):
    with models.create(tag, **description) as model:
        Path(model.path_of("w.bin")).write_bytes(b"w" * 100_000)
    return model


@pytest.mark.parametrize("form", ["bentomodel", "tar.gz", "tar.zst", "zip", "casmodel"])
def test_there_and_back(tmp_path: Path, form) -> None:
    made = make("m:v1", labels={"a": "b"}, custom_objects={"o": 1})
    path = models.export_model("m:v1", str(tmp_path / f"m.{form}"))
    assert path == str(tmp_path / f"m.{form}")
    models.delete("m:v1")
    model = models.import_model(path)
    assert model == made
    assert model.info == made.info
    assert Path(model.path_of("w.bin")).read_bytes() == b"w" * 100_000
    with pytest.raises(casstore.UntrustedObjects, match=r"load_custom_objects\(trust=True\)"):
        model.custom_objects  # noqa: B018
    assert model.load_custom_objects(trust=True) == model.custom_objects == {"o": 1}
    with pytest.raises(casstore.UntrustedObjects):
        models.get("m").custom_objects  # noqa: B018


def test_trust_when_importing(tmp_path: Path) -> None:
    path = make("m:v1", custom_objects={"o": 1}).export(str(tmp_path))
    models.delete("m")
    models.import_model(path, trust=True)
    assert models.get("m").custom_objects == {"o": 1}


def test_what_is_there_already(tmp_path: Path) -> None:
    path = make("m:v1").export(str(tmp_path))
    assert models.import_model(path) == models.get("m:v1")
    models.delete("m")
    with models.create("m:v1") as other:
        Path(other.path_of("w.bin")).write_bytes(b"other")
    with pytest.raises(casstore.TagExists):
        models.import_model(path)


def test_a_model_being_written_cannot_be_exported(tmp_path: Path) -> None:
    with models.create("m:v1") as model:
        with pytest.raises(casstore.TagNotFound):
            model.export(str(tmp_path))
        with pytest.raises(casstore.CasstoreError, match="not saved yet"):
            model.saved_version  # noqa: B018
    assert model.saved_version.tag == model.tag


@pytest.mark.parametrize(
    ("path", "parts", "expected"),
    [
        ("out", {}, "out"),
        ("", {}, ""),
        ("/a/b.tar", {"protocol": "file"}, "/a/b.tar"),
        ("/a", {"subpath": "b.tar"}, "/a/b.tar"),
        ("/a", {"protocol": "osfs", "subpath": "/b.tar"}, "/a/b.tar"),
        ("file:///a/b.tar", {}, "/a/b.tar"),
        ("osfs:///a/b.tar", {}, "/a/b.tar"),
        ("s3://bucket/m.tar", {}, "s3://bucket/m.tar"),
        ("s3://bucket", {}, "s3://bucket/"),
        ("bucket/sub/m.tar", {"protocol": "s3"}, "s3://bucket/sub/m.tar"),
        ("bucket", {"protocol": "s3"}, "s3://bucket/"),
        ("bucket", {"protocol": "s3", "subpath": "sub/m.tar"}, "s3://bucket/sub/m.tar"),
        ("host/m.tar", {"protocol": "ftp", "user": "me", "passwd": "a:b@c"}, "ftp://me:a%3Ab%40c@host/m.tar"),
        ("b/m.tar", {"protocol": "s3", "params": {"acl": "public-read"}}, "s3://b/m.tar?acl=public-read"),
    ],
)
def test_urls_from_their_parts(path, parts, expected) -> None:
    assert urls.build(path, **parts) == expected


@pytest.mark.parametrize("part", ["protocol", "user", "passwd", "params", "subpath"])
def test_a_url_and_parts_of_one(part) -> None:
    parts: dict[str, Any] = {part: {} if part == "params" else ""}
    with pytest.raises(ValueError, match="whole URL"):
        urls.build("s3://bucket/m.tar", **parts)


def test_bentoml_s_own_format_is_the_default_here(tmp_path: Path) -> None:
    with models.create("tiny:v1") as model:
        Path(model.path_of("w")).write_text("w")
    assert models.export_model("tiny:v1", str(tmp_path)) == f"{tmp_path}/tiny-v1.bentomodel"
    assert models.export_model("tiny:v1", str(tmp_path / "x.casmodel")) == f"{tmp_path}/x.casmodel"
