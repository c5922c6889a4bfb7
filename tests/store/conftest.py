"""What tests of packing share: weights that change as training changes them, and what must hold of every catalog."""

from __future__ import annotations

import functools
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml

import casstore
from casstore.actions.exchange import adopt
from casstore.storage.container import MAX_LINKS

DTYPES = {"F32": "f4", "F16": "f2", "BF16": "u2"}


@functools.lru_cache(256)
def _weights(dtype: str, seed: int, step: int, size: int) -> np.ndarray[Any, Any]:
    """`size` weights as `step` steps of training leave them, as the array that a file of this dtype holds."""
    values = _master(seed, step, size)
    if dtype == "BF16":
        return (values.view("u4") >> 16).astype("u2")
    return values.astype(DTYPES[dtype])


@functools.lru_cache(256)
def _master(seed: int, step: int, size: int) -> np.ndarray[Any, Any]:
    change = np.random.default_rng((seed, step)).normal(size=size).astype("f4")
    return change * np.float32(0.02) if step == 0 else _master(seed, step - 1, size) + change * np.float32(2e-5)


@pytest.fixture
def weights() -> Callable[..., np.ndarray[Any, Any]]:
    """weights(dtype, seed, step, size): an array that a step changes a little, the same at every call."""
    return _weights


def _safetensors(tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        bounds = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": bounds}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture
def safetensors() -> Callable[[Mapping[str, tuple[str, np.ndarray[Any, Any]]]], bytes]:
    """safetensors({name: (dtype, array)}): a file of these tensors, in that order."""
    return _safetensors


@pytest.fixture
def torch_file() -> Callable[[bytes], bytes]:
    """torch_file(values): what torch.save writes of one tensor of floats, as far as the format goes."""

    def make(values: bytes) -> bytes:
        text = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            pickled = b"\x80\x02" + text + b"J" + struct.pack("<i", len(values) // 4) + b"tQ."
            archive.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled)  # at a time that is always the same
            archive.writestr(zipfile.ZipInfo("archive/data/0"), values)
        return file.getvalue()

    return make


@pytest.fixture
def checkpoint(weights, safetensors) -> Callable[..., dict[str, bytes]]:
    """checkpoint(step, dtype, seed, size): the files of one step of a run: three tensors, of which two change."""

    def files(step: int, dtype: str = "F32", seed: int = 0, size: int = 330_000) -> dict[str, bytes]:
        tensors = {
            "layer.0": (dtype, weights(dtype, seed, step, size)),
            "frozen": (dtype, weights(dtype, seed + 1, 0, 100_000)),
            "layer.1": (dtype, weights(dtype, seed + 2, step, size)),
        }
        return {"model.safetensors": safetensors(tensors), "step.txt": b"%d of %d" % (step, seed)}

    return files


@pytest.fixture
def part(noise) -> Callable[..., dict[str, bytes]]:
    """part(*seeds): files of 300 kB, each packed as it is saved."""
    return lambda *seeds: {f"{seed}.bin": noise(300_000, seed) for seed in seeds}


@pytest.fixture
def save(store, plant) -> Callable[..., casstore.Model]:
    """save(tag, files, ...): save these files in the store."""

    def run(tag: str, files: dict[str, bytes | None], **options: Any) -> casstore.Model:
        with options.pop("into", store).create(tag, **options) as draft:
            plant(draft.path, files)
        return draft.model

    return run


@pytest.fixture
def streamed() -> Callable[[casstore.Model], dict[str, bytes]]:
    """streamed(model): every file, straight from the chunks. No directory is made, and none leased."""

    def read(model: casstore.Model) -> dict[str, bytes]:
        found = {}
        for file in model.files:
            with model.open(file.path) as reader:
                found[file.path] = reader.read()
        return found

    return read


@pytest.fixture
def rot(sql) -> Callable[..., None]:
    """rot(path, offset): flip a bit of a file, by default in its middle, as a failing disk would: without a trace."""

    def flip(path: Path, offset: int | None = None) -> None:
        status = path.stat()
        offset = status.st_size // 2 if offset is None else offset
        path.chmod(0o644)
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
        path.chmod(status.st_mode & 0o777)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        # A change time cannot be put back, so what is known of the file's gets the new one.
        now = path.stat()
        sql("UPDATE fingerprint SET ctime_ns = ? WHERE inode = ?", (now.st_ctime_ns, now.st_ino))

    return flip


@pytest.fixture
def check_catalog(sql) -> Callable[[], None]:
    """check_catalog(): what must hold of chunks and containers after every transaction."""

    def check() -> None:
        chunks = {
            row[0]: row[1:] for row in sql("SELECT digest, base, grouping, depth, encoding, container FROM chunk")
        }
        containers = {row[0] for row in sql("SELECT id FROM container WHERE state = 1")}
        for base, grouping, depth, encoding, container in chunks.values():
            assert container in containers
            assert (base is None) == (grouping is None) == (encoding != 3)
            if base is None:
                assert depth == 0
                continue
            assert base in chunks, "the base of a delta has a home"
            assert grouping in chunks
            assert chunks[grouping][0] is None, "no delta groups others"
            assert chunks[base][2] < depth <= MAX_LINKS

    return check


@pytest.fixture
def deltas(sql) -> Callable[[], int]:
    """deltas(): how many chunks are stored as deltas."""
    return lambda: int(sql("SELECT count(*) FROM chunk WHERE base IS NOT NULL")[0][0])


@pytest.fixture
def counts() -> Callable[[casstore.GcReport], dict[str, int]]:
    """counts(report): what each step of gc counted."""
    return lambda report: {step.name: step.count for step in report.steps}


@pytest.fixture
def settled(store, leftovers, counts, check_catalog) -> Callable[[], None]:
    """settled(): gc has nothing to do any more, no file is left over, and verify finds nothing damaged."""

    def check() -> None:
        again = store.gc(evict_all=True)
        assert set(counts(again).values()) == {0}, again
        assert again.freed_bytes == 0
        assert leftovers() == []
        check_catalog()
        assert store.verify().is_sound

    return check


@pytest.fixture
def quiet(monkeypatch):
    """A directory that was changed a moment ago counts as one that nobody writes to."""
    monkeypatch.setattr(adopt, "QUIET_NS", 0)


@pytest.fixture
def bento(plant) -> Callable[..., Path]:
    """bento(tree, tag, files, ...): a directory as BentoML 1.4 writes it, in a tree of NAME/VERSION/; returns it.

    `created`: a day of January 2024. `fields`: of model.yaml, instead of what it has; None for no model.yaml.
    """

    def write(
        tree: Path, tag: str, files: dict[str, bytes | None], *, created: int = 1, fields: Any = MappingProxyType({})
    ) -> Path:
        name, version = tag.split(":")
        directory = plant(tree / name / version, files)
        if fields is not None:
            document = {
                "name": name, "version": version, "module": "bentoml.sklearn", "labels": {"stage": "dev"},
                "options": {}, "metadata": {"acc": 0.93},
                "context": {
                    "framework_name": "scikit-learn", "framework_versions": {"scikit-learn": "1.5.0"},
                    "bentoml_version": "1.4.40", "python_version": "3.11.7",
                },
                "signatures": {"predict": {"batchable": True, "batch_dim": [0, 0]}}, "api_version": "v1",
                "creation_time": f"2024-01-{created:02}T10:20:30.123456+00:00", **fields,
            }  # fmt: skip
            (directory / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        (directory.parent / "latest").write_text(version, encoding="utf-8")
        return directory

    return write


def _everything(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for directory, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            )
    return found


@pytest.fixture
def everything() -> Callable[[Path], dict[str, Any]]:
    """everything(root): every path below with its bytes, what a link says, or None for a directory."""
    return _everything
