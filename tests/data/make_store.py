"""Makes the golden store of the format on disk as it is now: `python tests/data/make_store.py`.

It writes `store-format-1.tar.xz`, a store with one thing of each kind, and beside it as JSON what is in it. It is run
once for each format, under a name of its own; the stores of earlier formats stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import casstore

NAME = "store-format-1"
HERE = Path(__file__).parent
KIND_OF = {"f2": "F16", "f4": "F32", "u2": "BF16", "i1": "I8", "u1": "U8"}


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def flat(size: int, seed: int) -> bytes:
    """Bytes that differ from chunk to chunk, and yet shrink to little, so that the archive stays small."""
    rows = np.random.default_rng(seed).integers(0, 256, 64, "u1")
    return np.resize(np.repeat(rows, 997), size).tobytes()


def safetensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    for name, array in tensors.items():
        data = array.tobytes()
        dtype = KIND_OF[array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def run() -> Iterator[bytes]:
    """The checkpoints of a run: tensors of several dtypes that move a little at each step; the fourth begins again."""
    generator = np.random.default_rng(1)
    weights = generator.normal(0, 0.03, 12_000).astype("f4")
    for step in range(6):
        if step == 3:
            weights[:4000] = generator.normal(0, 0.03, 4000).astype("f4")
        yield safetensors(
            {
                "halves": (weights.view("<u4") >> 16).astype("<u2"),
                "floats": weights[:5003],
                "zeros": np.zeros(70_001, "f4"),
                "step": np.array([step], "u1"),
            }
        )
        weights = weights + generator.normal(0, 2e-5, weights.size).astype("f4")


def fill(store: casstore.Store, outside: Path) -> None:
    steps = list(run())
    with store.create("run:0", labels={"step": "0"}) as draft:
        Path(draft.path, "model.safetensors").write_bytes(steps[0])
        Path(draft.path, "pad").write_bytes(flat(1_200_000, 2))
    for step in range(1, 6):
        with store.create(f"run:{step}", labels={"step": str(step)}, materialize=False) as draft:
            Path(draft.path, "model.safetensors").write_bytes(steps[step])

    with store.create(
        "full:1.0.rc-1",
        labels={"stage": "dev", "größe": "ü"},
        metadata={
            "loss": 0.5,
            "none": None,
            "nan": float("nan"),
            "inf": [float("inf")],
            "big": 2**70,
            "deep": {"a": [1]},
        },
        signatures={"predict": {"batchable": True, "batch_dim": (0, 1)}},
        module="my.module",
        options={"partial": True},
        context={"framework_name": "torch", "framework_versions": {"torch": "2.4.0"}},
        custom_objects={"tokenizer": [1, 2]},
        base="run:5",
    ) as draft:
        for path, content in {
            "large": flat(1_300_000, 3),
            "run.sh": b"#!/bin/sh\n",
            "large-run": flat(1_100_000, 4),
            "config.json": b'{"hidden_size": 384}' * 99,
            "noise.bin": noise(5000, 5),
            "deep/er/ü 名.txt": "später".encode(),
            "empty": b"",
        }.items():
            target = Path(draft.path, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for name in ("run.sh", "large-run"):
            Path(draft.path, name).chmod(0o755)
        Path(draft.path, "void/within").mkdir(parents=True)
    store.pin("full:1.0.rc-1")

    relaxed = outside / "relaxed"
    relaxed.mkdir()
    (relaxed / "w.bin").write_bytes(flat(1_150_000, 6))
    store.save("relaxed:1", relaxed, durability="relaxed")
    store.set_setting("keep_days", "36500")

    # A version that came from elsewhere, with objects that nobody has said may be trusted.
    with casstore.Store(outside / "other") as other:
        with other.create("came:1", custom_objects={"by": "others"}) as draft:
            Path(draft.path, "f").write_bytes(b"from elsewhere")
        other.export("came:1", outside / "came.casmodel")
    store.import_archive(outside / "came.casmodel")

    # One that gc has packed, after which its directory is made again; and one that sync-tree --prune has deleted.
    store.gc(evict_all=True)
    assert store.get("run:0").path
    with store.create("pruned:1") as draft:
        Path(draft.path, "p").write_bytes(noise(2000, 7))
    shutil.rmtree(store.home / "models/pruned/1")
    store.sync_tree(prune=True)

    # A kept draft.
    with contextlib.suppress(casstore.InvalidSource), store.create("drafted:1", labels={"why": "case"}) as draft:
        for name in ("same", "SAME"):
            Path(draft.path, name).write_bytes(name.encode())

    # A deleted version whose loose file holds what another needs.
    shared = np.frombuffer(flat(300_000, 8), "u1")
    with store.create("orphan:1") as draft:
        own = np.frombuffer(flat(1_200_000, 9), "u1")
        Path(draft.path, "w.safetensors").write_bytes(safetensors({"own": own, "shared": shared}))
    with store.create("heir:1", materialize=False) as draft:
        own = np.frombuffer(flat(100_000, 10), "u1")
        Path(draft.path, "w.safetensors").write_bytes(safetensors({"own": own, "shared": shared}))
    store.delete("orphan:1")


def told(store: casstore.Store) -> dict[str, Any]:
    """What casstore says of the store that it has made, but for what differs from run to run."""
    versions = {}
    for model in store.list():
        files = {}
        for file in model.files:
            with model.open(file.path) as reader:
                content = reader.read()
            files[file.path] = [file.executable, len(content), hashlib.sha256(content).hexdigest()]
        with model.open("model.yaml") as reader:
            descriptor = hashlib.sha256(reader.read()).hexdigest()
        versions[str(model.tag)] = {
            "files": files,
            "digest": str(model.digest),
            "labels": dict(model.labels),
            "metadata": repr(dict(model.metadata)),
            "signatures": repr(model.signatures),
            "created_at": model.created_at.isoformat(),
            "base": str(model.base.tag) if model.base else None,
            "model.yaml": descriptor,
        }
    return {
        "versions": versions,
        "settings": store.settings(),
        "drafts": [str(draft.tag) for draft in store.drafts()],
        "pinned": [str(model.tag) for model in store.list() if model.is_pinned],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with casstore.Store(root / "store", auto_gc=False) as store:
            fill(store, root)
            expected = told(store)
        with tarfile.open(HERE / f"{NAME}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(root / "store", "store")
        text = json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True)
        (HERE / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
        print(subprocess.run(["find", root / "store/manifests", root / "store/objects", "-type", "f"], text=True,
                             capture_output=True, check=True).stdout if "-v" in sys.argv else "")  # fmt: skip


if __name__ == "__main__":
    main()
