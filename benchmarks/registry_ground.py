"""The store that benchmarks of the registry stand on: very many versions, made in a minute or two.

    import registry_ground
    store = registry_ground.make_store(place / "store", versions=100_000, names=1_000, metrics=20)

The first version is saved as usual. All others have its file, and their rows and manifests are written by the
functions that a save calls, thousands in one transaction and without a sync. So the store is a whole one, that
`verify` finds sound; what it lacks is the time that 100,000 saves take.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import casstore
from casstore.catalog.commits import insert_version
from casstore.description import Description
from casstore.storage.layout import new_id
from casstore.storage.manifest import Manifest
from casstore.tag import Tag

PER_TRANSACTION = 5_000
APART_NS = 60 * 1_000_000_000
PAYLOAD = b"weights" * 1000
STAGES = ("dev", "test", "prod")
OWNERS = 50


def make_store(place: Path, versions: int, names: int, metrics: int) -> casstore.Store:
    """A new store at `place`, open.

    Version `number` (of 0, 1, ...) has the tag `tag_of(number, names)`, the file `weights.bin` that all share, the
    labels `stage` and `owner`, and as metadata `step`, which is `number`, and `metrics.m0`, `metrics.m1`, ..., each
    between 0 and 1. They are a minute apart, the last is of now. The store is the same at every call, but for times.
    """
    store = casstore.Store(place, auto_gc=False)
    source = store.home / "sessions" / "weights.bin"
    source.write_bytes(PAYLOAD)
    first = tag_of(0, names)
    store.save(first, source, move=True, materialize=False, **_described(random.Random(0), 0, metrics))
    for number in range(min(names, versions)):
        (store.home / "manifests" / tag_of(number, names).name).mkdir(exist_ok=True)
    workspace = store._workspace
    row = workspace.catalog.versions.find(first)
    assert row is not None
    with workspace.catalog._connections.write() as connection:  # it is the oldest
        oldest = time.time_ns() - versions * APART_NS
        connection.execute("UPDATE version SET ordered_at = ?", (oldest,))
    rest = _rest(workspace.catalog.versions.manifest(row, {}), versions, names, metrics)
    while batch := list(itertools.islice(rest, PER_TRANSACTION)):
        with workspace.catalog._connections.write() as connection:
            for manifest in batch:
                manifest_id = new_id()
                path = workspace.layout.manifest(manifest.tag, manifest_id)
                path.write_bytes(manifest.pack())
                path.chmod(workspace.file_mode(executable=False))
                insert_version(connection, manifest, manifest_id, manifest.created_at_ns)
    workspace.catalog.tidy()
    return store


def tag_of(number: int, names: int) -> Tag:
    """The tag of a version: the names take turns, and versions count from v00001."""
    return Tag(f"name{number % names:04}", f"v{number // names + 1:05}")


def _rest(first: Manifest, versions: int, names: int, metrics: int) -> Iterator[Manifest]:
    rng = random.Random(1)
    now = time.time_ns()
    for number in range(1, versions):
        yield replace(
            first,
            tag=tag_of(number, names),
            created_at_ns=now - (versions - 1 - number) * APART_NS,
            description=Description(**_described(rng, number, metrics)).checked(),
        )


def _described(rng: random.Random, number: int, metrics: int) -> dict[str, dict[str, object]]:
    """Labels and metadata."""
    return {
        "labels": {"stage": rng.choice(STAGES), "owner": f"owner{rng.randrange(OWNERS):02}"},
        "metadata": {"step": number, "metrics": {f"m{each}": rng.random() for each in range(metrics)}},
    }
