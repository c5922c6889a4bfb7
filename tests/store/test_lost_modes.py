"""A copy of a store whose files have lost their modes, as through FAT or a zip: files are executable all the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, noise


@pytest.mark.parametrize("has_directory", [True, False])
@pytest.mark.parametrize("is_rebuilt", [True, False])
@pytest.mark.parametrize("lost", [0o644, 0o755])
def test_a_version_says_which_of_its_files_are_executable(
    store: casstore.Store, save: Save, tmp_path: Path, lost, is_rebuilt, has_directory
) -> None:
    files = {"run!": noise(1_200_000, 1), "w.bin": noise(1_200_000, 2), "small!": b"#!/bin/sh\n"}
    save("m:1", files)
    store.close()
    copy = tmp_path / "copy"
    shutil.copytree(store.home, copy)
    for path in copy.rglob("*"):
        if path.is_file():
            path.chmod(lost)
    if not has_directory:
        shutil.rmtree(copy / "models/m")
    if is_rebuilt:
        casstore.Store.rebuild_catalog(copy)
    with casstore.Store(copy) as opened:
        root = Path(opened.get("m:1").path)
        found = {path.name: os.access(path, os.X_OK) for path in root.iterdir() if path.name != "model.yaml"}
        assert found == {"run": True, "small": True, "w.bin": False}
        assert (root / "run").read_bytes() == files["run!"]
        opened.gc(evict_all=True)
        root = Path(opened.get("m:1").path)
        assert (os.access(root / "run", os.X_OK), os.access(root / "w.bin", os.X_OK)) == (True, False)
        assert opened.verify().damage == ()
