"""What `registry.py` measures in: stores of very many versions, made in a minute or two, and models to compare.

    store = registry_ground.make_store(place / "store", versions=100_000, names=1_000, metrics=20)

The first version is saved as usual. All others have its file, and their rows and manifests are written by the
functions that a save calls, thousands in one transaction and without a sync. So the store is a whole one, that
`verify` finds sound; what it lacks is the time that 100,000 saves take.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import casstore
from casstore.catalog.commits import insert_version
from casstore.description import Description
from casstore.digest import Digest
from casstore.storage.layout import new_id
from casstore.storage.manifest import Base, FileEntry, Manifest
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.tag import Tag

PER_TRANSACTION = 5_000
APART_NS = 60 * 1_000_000_000
PAYLOAD = b"weights" * 1000
STAGES = ("dev", "test", "prod")
OWNERS = 50
BIG_NAMES = 6  # each has a tenth of all versions, and the other names share the rest
_TURN = 10
TENSOR_BYTES = 4096


def make_store(place: Path, versions: int, names: int, metrics: int) -> casstore.Store:
    """A new store at `place`, open, with the versions of `described`.

    They share the file `weights.bin`, and are a minute apart; the last is of now.
    """
    store = casstore.Store(place, auto_gc=False)
    source = store.home / "sessions" / "weights.bin"
    source.write_bytes(PAYLOAD)
    hurry(store)
    wanted = described(versions, names, metrics)
    first, said = next(wanted)
    store.save(first, source, move=True, materialize=False, **said)
    workspace = store._workspace
    row = workspace.catalog.versions.find(first)
    assert row is not None
    now = time.time_ns()
    with workspace.catalog._connections.write() as connection:  # it is the oldest
        connection.execute("UPDATE version SET ordered_at = ?", (now - versions * APART_NS,))
    like = workspace.catalog.versions.manifest(row, {})
    manifests = (
        replace(like, tag=tag, created_at_ns=at_ns, description=Description(**said).checked())
        for at_ns, (tag, said) in zip(itertools.count(now - (versions - 1) * APART_NS, APART_NS), wanted, strict=False)
    )
    while batch := list(itertools.islice(manifests, PER_TRANSACTION)):
        with workspace.catalog._connections.write() as connection:
            for manifest in batch:
                manifest_id = new_id()
                path = workspace.layout.manifest(manifest.tag, manifest_id)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(manifest.pack())
                path.chmod(workspace.file_mode(executable=False))
                insert_version(connection, manifest, manifest_id, manifest.created_at_ns)
    workspace.catalog.tidy()
    store.close()
    return casstore.Store(place, auto_gc=False)


def hurry(store: casstore.Store) -> None:
    """Have this connection hold the whole catalog in memory, and sync nothing."""
    store._workspace.catalog._connections.get().execute("PRAGMA cache_size = -4000000; PRAGMA synchronous = OFF")


def described(versions: int, names: int, metrics: int) -> Iterator[tuple[Tag, dict[str, Any]]]:
    """The versions, the oldest first, with what is said of each; the same at every call.

    Version `number` (of 0, 1, ...) has the tag `tag_of(number, names)`, the labels `stage` and `owner`, and as metadata
    `step`, which is `number`, and `metrics.m0`, `metrics.m1`, ..., each between 0 and 1.
    """
    rng = random.Random(1)
    for number in range(versions):
        labels = {"stage": rng.choice(STAGES), "owner": f"owner{rng.randrange(OWNERS):02}"}
        measured = {f"m{each}": rng.random() for each in range(metrics)}
        yield tag_of(number, names), {"labels": labels, "metadata": {"step": number, "metrics": measured}}


def tag_of(number: int, names: int) -> Tag:
    """The tag of a version: of ten, one is of each big name, and the other names take turns; v00001 is the first."""
    turn, place = divmod(number, _TURN)
    if place < BIG_NAMES:
        return Tag(f"name{place:04}", f"v{turn + 1:05}")
    count, name = divmod(turn * (_TURN - BIG_NAMES) + place - BIG_NAMES, names - BIG_NAMES)
    return Tag(f"name{name + BIG_NAMES:04}", f"v{count + 1:05}")


def fill_with_descent(store: casstore.Store, versions: int, names: int, tensors: int) -> None:
    """Insert the rows of versions that came from one another; there are no bytes behind them.

    Each has a file of so many tensors, of which a tenth differ from the version before; every version's parent is the
    one before under its name, and that of a name's first is the first version of all.
    """
    hurry(store)
    rng = random.Random(1)
    description = Description().checked()
    origin: Base | None = None
    start = [rng.randbytes(32) for _ in range(tensors)]
    with store._workspace.catalog._connections.write() as connection:
        for name in range(names):
            base, held = origin, list(start)
            for number in range(name, versions, names):
                for _ in range(tensors // 10 if number else 0):
                    held[rng.randrange(tensors)] = rng.randbytes(32)
                recipe = _recipe(held)
                file = FileEntry("m.safetensors", False, recipe.size, recipe.blob)
                manifest = Manifest(
                    descending(number, names), number, (file,), (), {recipe.blob: recipe}, description, base
                )
                insert_version(connection, manifest, new_id() + "-1", number)
                connection.execute(
                    "INSERT INTO blob(digest, size, recipe) VALUES (?,?,?)", (recipe.blob, recipe.size, recipe.pack())
                )
                base = Base(manifest.tag, manifest.digest)
                origin = origin or base


def descending(number: int, names: int) -> Tag:
    """The tag of a version that `fill_with_descent` has made: the names take turns."""
    return Tag(f"name{number % names:04}", f"v{number // names + 1:05}")


def _recipe(held: list[bytes]) -> Recipe:
    segments = (
        RecipeSegment(((Digest(each), TENSOR_BYTES),), f"model.layers.{at}.mlp.up.weight", "F32", (32, 32))
        for at, each in enumerate(held)
    )
    return Recipe(Digest.of(b"".join(held)), TENSOR_BYTES * len(held), "safetensors/1", tuple(segments))


def models(tensors: int, kib: int, *, changed: bool) -> dict[str, bytes]:
    """A model of so many tensors of so many KiB, by kind of file; `changed`: half of the tensors are others."""
    values = {
        f"model.layers.{number // 10}.part.{number % 10}.weight": _weights(number, kib, changed=changed)
        for number in range(tensors)
    }
    return {"safetensors": _safetensors(values), "torch": _torch(values)}


def _weights(number: int, kib: int, *, changed: bool) -> bytes:
    import numpy as np

    values = np.random.default_rng(number).normal(size=kib * 256).astype("<f4")
    return (values * (1.001 if changed and number % 2 else 1)).astype("<f4").tobytes()


def _safetensors(tensors: dict[str, bytes]) -> bytes:
    header, position = {}, 0
    for name, raw in tensors.items():
        bounds = [position, position := position + len(raw)]
        header[name] = {"dtype": "F32", "shape": [len(raw) // 4], "data_offsets": bounds}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


# Classes and words are written once, and named by their number from then on, as pickle does.
_ONCE = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x000X\x07\x00\x00\x00storageq\x010ctorch\nFloatStorage\nq\x020"
    b"ccollections\nOrderedDict\nq\x030"
)
_OF_TENSOR = b"h\x00((h\x01h\x02"
_REST = b"\x89h\x03)RtR"


def _torch(tensors: dict[str, bytes]) -> bytes:
    """As `torch.save` writes it."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    pickle = b"\x80\x02" + _ONCE + b"}("
    for key, (name, raw) in enumerate(tensors.items()):
        elements = number(len(raw) // 4)
        storage = text(str(key)) + text("cpu") + elements + b"tQ"
        pickle += text(name) + _OF_TENSOR + storage + number(0) + b"(" + elements + b"t(" + number(1) + b"t" + _REST
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle + b"u.")
        for key, raw in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", raw)
    return file.getvalue()
