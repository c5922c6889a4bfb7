"""Small files that a save copies: each is read once, and hashed, copied and packed from that."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore.actions.saving import packing, staging
from casstore.actions.saving.unchanged import open_as_found
from casstore.storage import chunking
from tests.kit import contents, noise, plant

FILES = {"a": b"a", "sub/b": noise(4096), "run.sh!": b"#!/bin/sh\n", "largest": noise(8191)}


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("it was read again")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plant(tmp_path / "source", FILES)


def test_each_is_read_once(store: casstore.Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packing, "open_as_found", refuse)
        patch.setattr(chunking, "scan_file", refuse)
        store.save("m:1", source)
        store.save("m:2", source)
    wanted = {name.removesuffix("!"): data for name, data in FILES.items()}
    assert contents(store.get("m:1")) == contents(store.get("m:2")) == wanted
    assert Path(store.get("m:2").path, "run.sh").stat().st_mode & 0o111
    assert store.verify().is_sound


def test_one_that_grows_while_it_is_read_is_refused(
    store: casstore.Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_as_found

    def grow(path: str, *, is_direct: bool):
        found = real(path, is_direct=is_direct)
        with open(path, "ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(staging, "open_as_found", grow)
    with pytest.raises(casstore.FileChanged, match="written to"):
        store.save("m:1", source)
    assert store.tags() == []
