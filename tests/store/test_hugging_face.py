"""Snapshots in the cache of huggingface_hub, with blobs of a repository's own and with shared ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import casstore
from tests.kit import contents, everything, noise, plant

REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """As huggingface_hub 2.4 lays it out: what has a hash of Xet is in the cache once, and a repository links to it."""
    repository = tmp_path / "hub/models--org--tiny"
    shared = f"blobs/ab/ab{'0' * 62}"
    plant(tmp_path / "hub", {
        "blobs/.huggingface-shared-blobs": b"1\n", shared: noise(100_000),
        f"{shared}.refs": b"models--org--tiny/blobs/e2\n", "models--org--tiny/blobs/e1": b"{}",
        "models--org--tiny/refs/main": REVISION.encode(),
    })  # fmt: skip
    (repository / "blobs/e2").symlink_to(f"../../{shared}")
    found = repository / "snapshots" / REVISION
    (found / "onnx").mkdir(parents=True)
    (found / "config.json").symlink_to("../../blobs/e1")
    (found / "onnx/model.onnx").symlink_to("../../../blobs/e2")
    return found


def test_shared_blobs_are_followed(store: casstore.Store, snapshot: Path) -> None:
    model = store.save("tiny:v1", snapshot, from_hf=True)
    assert contents(model) == {"config.json": b"{}", "onnx/model.onnx": noise(100_000)}
    assert model.metadata["huggingface"]["revision"] == REVISION


@pytest.mark.parametrize("from_hf", [True, False])
def test_a_snapshot_cannot_be_moved(
    store: casstore.Store, snapshot: Path, from_hf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(snapshot.parents[2])
    with pytest.raises(casstore.InvalidSource, match=r"free nothing and break the cache.*hf cache rm model/org/tiny"):
        store.save("tiny:v1", snapshot, from_hf=from_hf, move=True)
    monkeypatch.chdir(snapshot)
    for way in (Path(), Path("onnx/.."), Path(f"../{REVISION}")):
        with pytest.raises(casstore.InvalidSource, match="free nothing"):
            store.save("tiny:v1", way, move=True)
    assert everything(snapshot.parents[2]) == before
    assert not store.tags()
    assert not store.drafts()


def test_a_link_to_a_snapshot_cannot_be_moved(store: casstore.Store, snapshot: Path, tmp_path: Path) -> None:
    os.symlink(snapshot, tmp_path / "link")
    with pytest.raises(casstore.InvalidSource, match="free nothing"):
        store.save("tiny:v1", tmp_path / "link", move=True)
