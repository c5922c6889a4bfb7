"""Versions in OCI layouts: as CNCF ModelPack out and back, and what other programs have put into one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions.exchange.modelpack import media_type, param_size
from casstore.archive import oci
from casstore.storage import files
from tests.kit import Picture, Rot, Save, Sql, checkpoint, contents, noise, plant, safetensors, torch_file
from tests.oci_layouts import DOCKER, KITOPS, MODELPACK, Layout, tar

BIG = noise(200_000)
FILES = {
    "model.safetensors": safetensors({"w": ("F32", np.zeros((1000, 50), "f4"))}),
    "config.json": b'{"architectures": ["BertModel"], "model_type": "bert"}',
    "README.md": b"# hello",
    "run.sh!": b"#!/bin/sh",
    "nothing": b"",
    "void/within": None,
    "sub/same": BIG,
    "sub/same again": BIG,
}


@pytest.fixture
def other(tmp_path: Path):
    with casstore.Store(tmp_path / "other", auto_gc=False) as opened:
        yield opened


def read(root: Path, descriptor: dict[str, Any]) -> bytes:
    data = (root / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert len(data) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
    return data


def entries(root: Path) -> dict[str, dict[str, Any]]:
    """What the index lists, by reference."""
    listed = json.loads((root / "index.json").read_bytes())["manifests"]
    found = {each["annotations"]["org.opencontainers.image.ref.name"]: each for each in listed}
    assert len(found) == len(listed)
    return found


def test_a_version_comes_back_as_it_was(
    store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path
) -> None:
    metadata = {"acc": 0.5, "none": None, "nan": math.nan, "list": [1, None]}
    model = save("bert:v1", FILES, labels={"stage": "dev"}, metadata=metadata)
    assert store.export("bert:v1", f"oci:{tmp_path / 'out'}") == f"oci:{tmp_path / 'out'}:v1"
    for number, name in enumerate(["oci:{}", "oci:{}:v1"]):
        [came] = other.import_archive(name.format(tmp_path / "out"))
        assert came.is_new == (number == 0)
    assert came.model.digest == model.digest
    assert came.model.created_at == model.created_at
    assert (came.model.labels, str(came.model.metadata)) == (model.labels, str(model.metadata))
    assert contents(came.model) == contents(model)
    assert (Path(came.model.path) / "void/within").is_dir()
    assert os.access(Path(came.model.path) / "run.sh", os.X_OK)
    assert other.verify().is_sound
    [renamed] = other.import_archive(f"oci:{tmp_path / 'out'}", as_tag="albert:v2")
    assert str(renamed.model.tag) == "albert:v2"


def test_what_is_written_is_a_modelpack(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    model = save("bert:v1", FILES)
    root = tmp_path / "out"
    store.export("bert:v1", f"oci:{root}")
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    entry = entries(root)["v1"]
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert entry["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    manifest = json.loads(read(root, entry))
    assert (manifest["schemaVersion"], manifest["artifactType"]) == (2, entry["artifactType"])
    assert manifest["annotations"]["casstore.digest"] == model.digest.hex()
    config = json.loads(read(root, manifest["config"]))
    created = model.created_at.isoformat().replace("+00:00", "Z")
    assert config["descriptor"] == {"createdAt": created, "name": "bert", "version": "v1", "family": "bert"}
    assert config["config"] == {
        "architecture": "BertModel", "format": "safetensors", "paramSize": "50K", "precision": "fp32",
    }  # fmt: skip
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in manifest["layers"]]}
    by_path = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in manifest["layers"]}
    assert by_path.keys() == {"model.yaml", *(file.path for file in model.files)}
    for file in model.files:
        layer = by_path[file.path]
        assert casstore.Digest.of(read(root, layer)) == file.digest
        assert layer["annotations"]["casstore.blake3"] == file.digest.hex()
        said = json.loads(layer["annotations"]["org.cncf.model.file.metadata+json"])
        assert (said["size"], said["mode"]) == (file.size, 0o755 if file.executable else 0o644)
        assert said.keys() == {"name", "mode", "uid", "gid", "size", "mtime", "typeflag"}
    assert {path: layer["mediaType"].split(".")[-3:] for path, layer in by_path.items()}["README.md"] == [
        "doc", "v1", "raw",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.safetensors", "weight"), ("a/pytorch_model.BIN", "weight"), ("config.json", "weight.config"),
        ("tokenizer.model", "weight.config"), ("vocab.txt", "weight.config"), ("README.md", "doc"), ("LICENSE", "doc"),
        ("license.txt", "doc"), ("train.py", "code"), ("d/rows.parquet", "dataset"), ("none", "weight.config"),
    ],
)  # fmt: skip
def test_the_type_of_a_layer(path: str, kind: str) -> None:
    assert media_type(path) == f"application/vnd.cncf.model.{kind}.v1.raw"


WEIGHTS = safetensors({"w": ("F32", np.zeros((1000, 50), "f4"))})
MIXED = safetensors({"w": ("F32", np.zeros(1500, "f4")), "h": ("F16", np.zeros(100, "f2"))})
QUANTIZED = b'{"architectures": [], "model_type": 1, "quantization_config": {"quant_method": "awq"}}'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.txt": b"1"}, {}),
        ({"config.json": b"[1]", "a": b"1"}, {}),
        ({"config.json": b"{", "m.onnx": b"1"}, {"format": "onnx"}),
        ({"config.json": QUANTIZED, "m.gguf": b"1"}, {"format": "gguf", "quantization": "awq"}),
        ({"m.safetensors": MIXED}, {"format": "safetensors", "paramSize": "1.6K", "precision": "mixed"}),
        (
            {"m.safetensors": WEIGHTS, "same.safetensors": WEIGHTS, "pytorch_model.bin": b"1", "optimizer.pt": b"2"},
            {"format": "safetensors", "paramSize": "50K", "precision": "fp32"},
        ),
        (
            {"pytorch_model.bin": torch_file(bytes(40_000)), "optimizer.pt": torch_file(bytes(80_000))},
            {"format": "pytorch", "paramSize": "10K", "precision": "fp32"},
        ),
    ],
)
def test_what_a_configuration_says(
    store: casstore.Store, save: Save, tmp_path: Path, files: Any, said: dict[str, str]
) -> None:
    """Nothing but what the schema of the specification allows, all of it text."""
    save("m:1", files)
    store.export("m:1", f"oci:{tmp_path / 'out'}")
    config = json.loads(
        read(tmp_path / "out", json.loads(read(tmp_path / "out", entries(tmp_path / "out")["1"]))["config"])
    )
    assert config["config"] == said
    assert config.keys() == {"descriptor", "config", "modelfs"}
    assert config["descriptor"].keys() == {"createdAt", "name", "version"}


def test_parameters_are_counted_as_the_specification_writes_them() -> None:
    said = {0: None, 999: "999", 1_000: "1K", 22_713_216: "22.7M", 6_738_415_616: "6.7B", 10**12: "1T", 10**15: "1Q"}
    assert {count: param_size(count) for count in said} == said


def test_versions_share_files_in_one_layout(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    root = tmp_path / "out"
    save("bert:v1", {"w": BIG, "a": b"1"})
    save("bert:v2", {"w": BIG, "a": b"2"})
    assert store.export(["bert:v1", "bert:v2"], f"oci:{root}") == f"oci:{root}"
    before = {path.name: path.stat().st_ino for path in (root / "blobs/sha256").iterdir()}
    assert sum(path.stat().st_size == len(BIG) for path in (root / "blobs/sha256").iterdir()) == 1
    assert list(entries(root)) == ["v1", "v2"]
    store.export("bert:v1", f"oci:{root}:prod")
    after = {path.name: path.stat().st_ino for path in (root / "blobs/sha256").iterdir()}
    assert after == before, "nothing was written again"
    listed = entries(root)
    assert listed["prod"]["digest"] == listed["v1"]["digest"] != listed["v2"]["digest"]
    store.export("bert:v2", f"oci:{root}:prod")
    assert entries(root)["prod"]["digest"] == listed["v2"]["digest"], "a reference moves"
    assert len(entries(root)) == 3
    assert {path.name for path in root.iterdir()} == {"oci-layout", "index.json", "blobs"}


@pytest.mark.parametrize("mode", ["hardlink", "copy"])
def test_files_are_linked_where_the_store_links(store: casstore.Store, save: Save, tmp_path: Path, mode: str) -> None:
    store.set_setting("link_mode", mode)
    save("bert:v1", {"w": BIG, "small": b"small"})
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    blobs = {path.stat().st_size: path.stat() for path in (tmp_path / "out/blobs/sha256").iterdir()}
    loose = {path.stat().st_ino for path in (store.home / "objects/loose").rglob("*.*")}
    assert (blobs[len(BIG)].st_ino in loose) == (mode == "hardlink")
    assert blobs[5].st_nlink == 1
    assert store.verify().is_sound


def test_a_packed_version_is_exported(store: casstore.Store, save: Save, other, tmp_path: Path) -> None:
    for step in range(2):
        save(f"bert:v{step}", checkpoint(step, size=100_000))
    store.gc(evict_all=True)
    store.export(["bert:v0", "bert:v1"], f"oci:{tmp_path / 'out'}")
    for step in range(2):
        [came] = other.import_archive(f"oci:{tmp_path / 'out'}:v{step}")
        assert came.model.digest == store.get(f"bert:v{step}").digest


def test_sha256_is_computed_once_and_kept(store: casstore.Store, save: Save, sql: Sql, tmp_path: Path) -> None:
    model = save("bert:v1", {"w": BIG, "a": b"1"})
    assert sql("SELECT count(*) FROM sha256") == [(0,)]
    store.export("bert:v1", f"oci:{tmp_path / '1'}")
    kept = dict(sql("SELECT digest, sha256 FROM sha256"))
    assert kept == {casstore.Digest.of(each): hashlib.sha256(each).digest() for each in (BIG, b"1")}
    wrong = bytes(32)
    sql("UPDATE sha256 SET sha256 = ? WHERE digest = ?", (wrong, casstore.Digest.of(BIG)))
    store.export("bert:v1", f"oci:{tmp_path / '2'}")
    assert (tmp_path / "2/blobs/sha256" / wrong.hex()).exists(), "it is read nowhere but in the catalog"
    store.close()
    casstore.Store.rebuild_catalog(store.home)
    store = casstore.Store(store.home)
    assert sql("SELECT count(*) FROM sha256") == [(0,)]
    store.export("bert:v1", f"oci:{tmp_path / '3'}")
    assert entries(tmp_path / "1") == entries(tmp_path / "3")
    assert dict(sql("SELECT digest, sha256 FROM sha256")) == kept
    store.delete(model.tag, now=True)
    store.gc()
    assert sql("SELECT count(*) FROM sha256") == [(0,)]


def test_an_import_keeps_the_sha256_that_it_has_checked(
    store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path
) -> None:
    save("bert:v1", {"w": BIG})
    root = tmp_path / "out"
    store.export("bert:v1", f"oci:{root}")
    other.import_archive(f"oci:{root}")
    (root / "blobs/sha256" / hashlib.sha256(BIG).hexdigest()).unlink()
    [again] = other.import_archive(f"oci:{root}")
    assert not again.is_new, "told by SHA-256 alone: the file is not read again"
    other.export("bert:v1", f"oci:{tmp_path / 'second'}")
    assert entries(root) == entries(tmp_path / "second")


def test_a_store_of_the_format_before_is_migrated(home: Path, sql: Sql, tmp_path: Path) -> None:
    with casstore.Store(home) as store, store.create("bert:v1") as draft:
        plant(draft.path, {"w": BIG})
    sql("DROP TABLE sha256; PRAGMA user_version = 6")
    with casstore.Store(home) as store:
        assert store.export("bert", f"oci:{tmp_path / 'out'}")
        assert store.verify().is_sound


def test_processes_write_into_one_new_layout(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    for number in range(6):
        save(f"bert:v{number}", {"w": BIG, "a": bytes([number])})
    threads = [
        threading.Thread(target=store.export, args=(f"bert:v{number}", f"oci:{tmp_path / 'out'}"))
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entries(tmp_path / "out").keys() == {f"v{number}" for number in range(6)}


def test_what_a_killed_export_has_left_goes(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    save("bert:v1", {"w": BIG})
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    left = tmp_path / "out/.casstore-0123456789abcdef.part"
    left.mkdir()
    (left / "half").write_bytes(b"half")
    store.export("bert:v1", f"oci:{tmp_path / 'out'}:again")
    assert not left.exists()


def test_what_a_failed_export_has_left_is_synced(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"oci:{tmp_path / 'out'}"
    save("other:v1", {"x": b"1"})
    store.export("other:v1", place)
    save("bert:v2", {"w": noise(100_000), "c": b"2"})
    sync, synced = files.sync_files, set[Path]()

    def failing(paths: Any) -> None:
        raise OSError(errno.EIO, "as a disk that fails")

    monkeypatch.setattr(files, "sync_files", failing)
    with pytest.raises(OSError, match="as a disk"):
        store.export("bert:v2", place)
    left = {path for path in (tmp_path / "out/blobs/sha256").iterdir() if path.stat().st_size == 100_000}
    assert left

    def noting(paths: Any) -> None:
        synced.update(paths)
        sync(paths)

    monkeypatch.setattr(files, "sync_files", noting)
    store.export("bert:v2", place)
    layout = oci.Layout(tmp_path / "out").artifact("v2")
    assert {each.blob.sha256 for each in layout.layers} <= {path.name for path in synced}
    manifest = next(each["digest"] for each in oci.Layout(tmp_path / "out").entries() if oci.ref_of(each) == "v2")
    assert manifest.removeprefix("sha256:") in {path.name for path in synced}


def test_exports_that_cannot_be(store: casstore.Store, save: Save, rot: Rot, tmp_path: Path) -> None:
    save("bert:v1", {"w": BIG})
    save("gpt:v1", {"w": b"1"})
    root = tmp_path / "out"
    with pytest.raises(casstore.InvalidSource, match="leave out the :REF"):
        store.export(["bert:v1", "gpt:v1"], f"oci:{root}:prod")
    with pytest.raises(casstore.InvalidSource, match="same reference; export them one by one"):
        store.export(["bert:v1", "gpt:v1"], f"oci:{root}")
    with pytest.raises(casstore.InvalidSource, match="no other format"):
        store.export("bert:v1", f"oci:{root}", format="tar")
    with pytest.raises(casstore.InvalidSource, match="holds no aliases"):
        store.export("bert:v1", f"oci:{root}", aliases=True)
    for bad in ("oci:", "oci:x:", "oci:x:-", "oci:x:a b", "oci://x"):
        with pytest.raises(casstore.InvalidSource, match="write oci:DIR or oci:DIR:REF"):
            store.export("bert:v1", bad)
    with pytest.raises(casstore.InvalidSource, match="inside the store"):
        store.export("bert:v1", f"oci:{store.home / 'objects/x'}")
    assert not root.exists()
    plant(root, {"mine": b"mine"})
    with pytest.raises(FileExistsError, match="is not an OCI layout; name a directory that is new"):
        store.export("bert:v1", f"oci:{root}")
    assert [path.name for path in root.iterdir()] == ["mine"]
    shutil.rmtree(root)
    store.export("gpt:v1", f"oci:{root}")
    with pytest.raises(casstore.InvalidSource, match=r"'v1' is gpt:v1 in .*, as in oci:.*:bert-v1"):
        store.export("bert:v1", f"oci:{root}")
    before = entries(root)
    store.gc(evict_all=True)
    pack = max((store.home / "objects/packs").iterdir(), key=lambda path: path.stat().st_size)
    rot(pack, pack.stat().st_size // 3)
    for target in (root, tmp_path / "new"):
        with pytest.raises(casstore.IntegrityError):
            store.export("bert:v1", f"oci:{target}:bert")
    assert entries(root) == before
    assert not (tmp_path / "new").exists()


def test_a_modelpack_of_another_program(store: casstore.Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    config = {
        "descriptor": {"name": "Org/Bert Base", "version": "3.1", "createdAt": "2025-01-01T00:00:00Z"},
        "config": {"paramSize": "8b"},
        "modelfs": {"type": "layers", "diffIds": []},
    }
    layers = [
        layout.file("model.safetensors", BIG),
        layout.blob(f"{MODELPACK}.doc.v1.tar", tar({"docs/README.md": b"# hi"})),
        layout.blob(f"{MODELPACK}.code.v1.tar+gzip", tar({"code/a.py": b"1"}, "gzip")),
        layout.blob(f"{MODELPACK}.weight.config.v1.tar+zstd", tar({"config.json": b"{}"}, "zstd")),
    ]
    layout.artifact("latest", layers, config, annotations={"org.example": "x"})
    [came] = store.import_archive(f"oci:{tmp_path / 'in'}")
    assert str(came.model.tag) == "org--bert-base:3.1"
    assert contents(came.model) == {
        "model.safetensors": BIG, "docs/README.md": b"# hi", "code/a.py": b"1", "config.json": b"{}",
    }  # fmt: skip
    assert came.model.metadata["oci"] == {
        "config": {key: config[key] for key in ("descriptor", "config")},
        "annotations": {"org.example": "x"},
    }
    assert came.model.created_at.isoformat() == "2025-01-01T00:00:00+00:00"
    [again] = store.import_archive(f"oci:{tmp_path / 'in'}:latest")
    assert not again.is_new


def test_a_modelkit_of_kitops(store: casstore.Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    kitfile = {"manifestVersion": "1.0.0", "package": {"name": "flights", "version": "2"}, "model": {"path": "m.onnx"}}
    layers = [layout.blob(f"{KITOPS}.model.v1.tar+gzip", tar({"m.onnx": b"onnx"}, "gzip"))]
    layout.artifact("v", layers, kitfile, f"{KITOPS}.config.v1+json")
    [came] = store.import_archive(f"oci:{tmp_path / 'in'}:v")
    assert (str(came.model.tag), contents(came.model)) == ("flights:2", {"m.onnx": b"onnx"})
    assert came.model.metadata["oci"]["config"]["model"] == {"path": "m.onnx"}


def test_a_model_of_docker(store: casstore.Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    layers = [
        layout.blob(f"{DOCKER}.gguf.v3", b"first"),
        layout.blob(f"{DOCKER}.gguf.v3", b"second"),
        layout.blob(f"{DOCKER}.license", b"MIT"),
        layout.blob(f"{DOCKER}.dir.tar", tar({"sub/x": b"x"})),
        layout.file("named.gguf", b"named"),
    ]
    layout.artifact(None, layers, {"config": {"format": "gguf"}}, f"{DOCKER}.model.config.v0.1+json")
    with pytest.raises(casstore.InvalidSource, match="does not say what it is called; say it with --as"):
        store.import_archive(f"oci:{tmp_path / 'in'}")
    [came] = store.import_archive(f"oci:{tmp_path / 'in'}", as_tag="smollm:1")
    assert contents(came.model) == {
        "model-00001-of-00002.gguf": b"first", "model-00002-of-00002.gguf": b"second", "LICENSE": b"MIT",
        "sub/x": b"x", "named.gguf": b"named",
    }  # fmt: skip
    [again] = store.import_archive(f"oci:{tmp_path / 'in'}", as_tag="smollm:1")
    assert not again.is_new


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="there is no skopeo here")
def test_skopeo_copies_it(store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path) -> None:
    model = save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    for target in (f"oci:{tmp_path / 'copy'}:v1", f"dir:{tmp_path / 'dir'}", f"oci-archive:{tmp_path / 'a.tar'}:v1"):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path / 'out'}:v1", target], check=True)
    [came] = other.import_archive(f"oci:{tmp_path / 'copy'}:v1")
    assert (came.model.digest, came.is_new) == (model.digest, True)


def escaping(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("../x", b"1")])


def absolute(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("/etc/x", b"1")])


def escaping_tar(layout: Layout) -> None:
    layout.artifact("v1", [layout.blob(f"{MODELPACK}.weight.v1.tar", tar({"../../x": b"1"}))])


def twice(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1"), layout.blob(f"{MODELPACK}.weight.v1.tar", tar({"x": b"2"}))])


def alike(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1"), layout.file("X", b"2")])


def flipped(layout: Layout) -> None:
    layer = layout.file("x", b"12345678")
    layout.artifact("v1", [layer])
    layout.path_of(layer).write_bytes(b"12345679")


def flipped_tar(layout: Layout) -> None:
    packed = tar({"x": b"12345678"})
    layer = layout.blob(f"{MODELPACK}.weight.v1.tar", packed)
    layout.artifact("v1", [layer])
    layout.path_of(layer).write_bytes(packed.replace(b"12345678", b"12345679"))


def flipped_after_the_tar(layout: Layout) -> None:
    packed = tar({"x": b"12345678"})
    layer = layout.blob(f"{MODELPACK}.weight.v1.tar", packed)
    layout.artifact("v1", [layer])
    layout.path_of(layer).write_bytes(packed[:-1] + b"\1")


def flipped_config(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1")])
    for path in (layout.root / "blobs/sha256").iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"name": "bert"', b'"name": "dert"'))


def flipped_manifest(layout: Layout) -> None:
    entry = layout.artifact("v1", [layout.file("x", b"1")])
    path = layout.path_of(entry)
    path.write_bytes(path.read_bytes().replace(b'"layers"', b'"Layers"'))


def cut(layout: Layout) -> None:
    layer = layout.file("x", b"12345678")
    layout.artifact("v1", [layer])
    layout.path_of(layer).write_bytes(b"1234567")


def missing(layout: Layout) -> None:
    layer = layout.file("x", b"12345678")
    layout.artifact("v1", [layer])
    layout.path_of(layer).unlink()


def pipe(layout: Layout) -> None:
    missing(layout)
    os.mkfifo(layout.root / "blobs/sha256" / hashlib.sha256(b"12345678").hexdigest())


def other_blake3(layout: Layout) -> None:
    layer = layout.file("x", b"12345678")
    layer["annotations"]["casstore.blake3"] = "0" * 64
    layout.artifact("v1", [layer])


def unknown_layer(layout: Layout) -> None:
    layout.artifact("v1", [layout.blob("application/vnd.oci.image.layer.v1.tar", tar({"x": b"1"}))])


def unknown_config(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1")], config_type="application/vnd.oci.image.config.v1+json")


def unknown_manifest(layout: Layout) -> None:
    layout.entries.append(layout.document("application/vnd.docker.distribution.manifest.v2+json", {}))
    layout.index()


def list_of_images(layout: Layout) -> None:
    two = [layout.artifact(None, [layout.file(name, b"1")]) for name in "xy"]
    layout.entries = [layout.document("application/vnd.oci.image.index.v1+json", {"manifests": two})]
    layout.index()


def without_path(layout: Layout) -> None:
    layout.artifact("v1", [layout.blob(f"{MODELPACK}.weight.v1.raw", b"1")])


def other_hash(layout: Layout) -> None:
    layer = {**layout.file("x", b"1"), "digest": "sha512:" + "0" * 128}
    layout.artifact("v1", [layer])


def escaping_digest(layout: Layout) -> None:
    layout.artifact("v1", [{**layout.file("x", b"1"), "digest": "sha256:../../oci-layout"}])


def no_layers(layout: Layout) -> None:
    config = layout.document(f"{MODELPACK}.config.v1+json", {})
    manifest = {"schemaVersion": 2, "config": config, "layers": {}}
    layout.entries.append(layout.document("application/vnd.oci.image.manifest.v1+json", manifest))
    layout.index()


def no_json(layout: Layout) -> None:
    (layout.root / "index.json").write_bytes(b"{")


def very_many(layout: Layout) -> None:
    (layout.root / "index.json").write_bytes(b"[" + b"[]," * 2_000_000 + b"0]")


def no_object(layout: Layout) -> None:
    (layout.root / "index.json").write_bytes(b"[]")


def nested(layout: Layout) -> None:
    (layout.root / "index.json").write_bytes(b"[" * 100_000)


def no_index(layout: Layout) -> None:
    (layout.root / "index.json").unlink()


def no_layout(layout: Layout) -> None:
    (layout.root / "oci-layout").unlink()


def newer(layout: Layout) -> None:
    (layout.root / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')


def several(layout: Layout) -> None:
    for name in ("one", "two"):
        layout.artifact(name, [layout.file("x", name.encode())])


def same_ref(layout: Layout) -> None:
    for name in ("one", "two"):
        layout.artifact("v1", [layout.file("x", name.encode())])


def odd_directories(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1")], annotations={"casstore.directories": '["../out"]'})


def wrong_directories(layout: Layout) -> None:
    layout.artifact("v1", [layout.file("x", b"1")], annotations={"casstore.directories": "{"})


BAD = [
    (escaping, "", "leads out of the archive"),
    (absolute, "", "is an absolute path"),
    (escaping_tar, "", "leads out of the archive"),
    (twice, "", "is in the archive twice"),
    (alike, "", "differ only by case"),
    (flipped, "", "is not what its digest says; copy it again"),
    (flipped_tar, "", "is not what its digest says"),
    (flipped_after_the_tar, "", "the archive goes on after its end"),
    (flipped_config, "", "is not what its digest says"),
    (flipped_manifest, "", "is not what its digest says"),
    (cut, "", "has 7 bytes, and oci:.* says 8"),
    (missing, "", "is missing; copy it again"),
    (pipe, "", "is missing; copy it again"),
    (other_blake3, "", "is not what its annotation casstore.blake3 says"),
    (unknown_layer, "", "a layer of the type 'application/vnd.oci.image.layer.v1.tar', which casstore does not know"),
    (unknown_config, "", "is not a model: its configuration is of the type"),
    (unknown_manifest, "", "which is not that of a model"),
    (list_of_images, "", "is a list of 2 images, not a model"),
    (without_path, "", "a layer without a file's name"),
    (other_hash, "", "names a blob by 'sha512:"),
    (escaping_digest, "", "which is no SHA-256"),
    (no_layers, "", "has no list of layers"),
    (no_json, "", "is not JSON"),
    (very_many, "", "is not JSON: it has too many items"),
    (no_object, "", "is not a JSON object"),
    (nested, "", "is not JSON"),
    (no_index, "", "is not an OCI layout: it has no index.json"),
    (no_layout, "", "is not an OCI layout: it has no oci-layout"),
    (newer, "", "of a version that casstore does not know"),
    (several, "", "holds 2 artifacts; say which, as in oci:DIR:REF: it has one, two"),
    (several, ":three", "has no 'three'; it has one, two"),
    (same_ref, ":v1", "has 'v1' twice"),
    (odd_directories, "", "leads out of the archive"),
    (wrong_directories, "", "empty directories in a way that cannot be read"),
]


@pytest.mark.parametrize("bad", [pytest.param(each, id=each[0].__name__ + each[1]) for each in BAD])
def test_bad_layouts_are_refused(
    store: casstore.Store, save: Save, picture: Picture, tmp_path: Path, bad: tuple[Any, str, str]
) -> None:
    make, ref, says = bad
    save("here:1", {"x": b"here"})
    before = picture()
    make(Layout(tmp_path / "in"))
    with pytest.raises((casstore.InvalidSource, casstore.IntegrityError), match=says):
        store.import_archive(f"oci:{tmp_path / 'in'}{ref}")
    assert picture() == before
    assert {path.name for path in tmp_path.iterdir()} == {"in", "store"}


MEDIA = st.sampled_from(
    [f"{MODELPACK}.config.v1+json", f"{MODELPACK}.weight.v1.raw", f"{DOCKER}.license", "x", 1, None]
)
NUMBERS = st.sampled_from([0, -1, 2, 1 << 80, 1.5, True, None, "1"])
DIGESTS = st.sampled_from(["sha256:" + "0" * 64, "sha256:" + "0" * 63, "sha256:../x", "", None, 1])
NAMES = st.dictionaries(st.sampled_from(["org.cncf.model.filepath", "casstore.blake3"]), st.text(max_size=3) | NUMBERS)
BLOBS = st.fixed_dictionaries(
    {}, optional={"mediaType": MEDIA, "digest": DIGESTS, "size": NUMBERS, "annotations": NAMES | st.none() | NUMBERS}
)
MANIFESTS = st.fixed_dictionaries(
    {}, optional={"schemaVersion": NUMBERS, "config": BLOBS | NUMBERS, "layers": st.lists(BLOBS | NUMBERS) | NUMBERS}
)


@given(manifest=MANIFESTS, entry=BLOBS, config=NAMES)
def test_whatever_a_layout_says_it_is_refused_in_words(
    manifest: Any, entry: Any, config: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = Layout(tmp_path_factory.mktemp("layout") / "in")
    said = layout.document(f"{MODELPACK}.config.v1+json", config)
    whole = layout.document(
        "application/vnd.oci.image.manifest.v1+json", {"schemaVersion": 2, "config": said, **manifest}
    )
    for listed in (entry, whole):
        layout.entries = [listed]
        layout.index()
        with contextlib.suppress(casstore.InvalidSource, casstore.IntegrityError):
            oci.Layout(layout.root).artifact(None)


def test_a_place_that_is_not_there(store: casstore.Store, tmp_path: Path) -> None:
    with pytest.raises(casstore.InvalidSource, match="does not exist"):
        store.import_archive(f"oci:{tmp_path / 'none'}")
    with pytest.raises(casstore.InvalidSource, match="no other format"):
        store.import_archive(f"oci:{tmp_path / 'none'}", format="tar")
