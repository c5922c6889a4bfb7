"""A file that is being rewritten while it is saved: what is kept is never a mix of two writes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

import casstore
from casstore.storage import chunking
from tests.kit import contents

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing tells of a file that is open for writing")
SIZE = 300_000


@pytest.mark.parametrize("materialize", [True, False])
def test_a_write_that_is_under_way_is_waited_for(
    store: casstore.Store, tmp_path: Path, materialize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sets a file's time when a write begins: half of it may come when that has been looked at."""
    path = tmp_path / "source" / "w.bin"
    path.parent.mkdir()
    path.write_bytes(b"a" * SIZE)
    with open(path, "r+b", buffering=0) as writer:
        writer.write(b"b" * (SIZE // 2))
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: writer.write(b"b" * (SIZE // 2)))
            with pytest.raises(casstore.FileChanged, match=r"w\.bin was written to"):
                store.save("m:1", path.parent, materialize=materialize)
    assert store.tags() == []
    assert contents(store.save("m:1", path.parent, materialize=materialize)) == {"w.bin": b"b" * SIZE}


@pytest.mark.parametrize("materialize", [True, False])
def test_a_file_that_is_open_and_rests_is_saved(store: casstore.Store, tmp_path: Path, materialize) -> None:
    path = tmp_path / "source" / "log"
    path.parent.mkdir()
    path.write_bytes(b"so far")
    with open(path, "ab"):
        model = store.save("m:1", path.parent, materialize=materialize)
    assert contents(model) == {"log": b"so far"}


@pytest.mark.parametrize("size", [SIZE, 9_000_000])
@pytest.mark.parametrize("materialize", [True, False])
def test_a_write_in_the_same_tick_of_the_clock_is_found(
    store: casstore.Store, tmp_path: Path, materialize, monkeypatch: pytest.MonkeyPatch, size
) -> None:
    """Between the first reading of a new file and the next the writer comes again, and is gone."""
    path = tmp_path / "source" / "w.bin"
    path.parent.mkdir()
    real = chunking.scan_file

    def scan(descriptor, *rest):
        monkeypatch.setattr(chunking, "scan_file", real)
        recipe = real(descriptor, *rest)
        path.write_bytes(b"b" * size)
        return recipe

    monkeypatch.setattr(chunking, "scan_file", scan)
    path.write_bytes(b"a" * size)
    with pytest.raises(casstore.FileChanged, match=r"w\.bin was written to"):
        store.save("m:1", path.parent, materialize=materialize)
    assert store.tags() == []
