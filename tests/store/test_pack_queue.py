"""What a save puts into packs: in order, whichever thread encodes and writes it, and no more once something fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import casstore
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.saving import packing
from casstore.storage import pack
from tests.kit import contents, noise, plant

pytestmark = pytest.mark.usefixtures("quiet")
# One large file of many chunks among small ones, which are encoded where the save runs.
FILES = {f"{number:02}": noise(3000, number) for number in range(40)} | {"10-large": noise(6 << 20, 99)}


def test_chunks_stand_in_the_order_of_the_files(store, home: Path, tmp_path: Path) -> None:
    store.save("m:1", plant(tmp_path / "out", FILES), materialize=False)
    (path,) = (home / "objects/packs").iterdir()
    lengths = [entry.raw_bytes for entry in pack.read_entries(path)]
    assert lengths[:11] == [3000] * 11
    assert lengths[-29:] == [3000] * 29
    assert sum(lengths) == sum(map(len, FILES.values()))
    assert contents(store.get("m:1")) == FILES


def test_a_large_file_is_not_written_by_the_thread_that_saves(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: set[int] = set()
    real = PackBuilder.add

    def add(self, chunk, generation=0):
        writers.add(threading.get_ident())
        real(self, chunk, generation)

    monkeypatch.setattr(PackBuilder, "add", add)
    store.save("m:1", plant(tmp_path / "out", {"large": FILES["10-large"]}), materialize=False)
    assert len(writers) == 1
    assert threading.get_ident() not in writers


@pytest.mark.parametrize("where", ["encoding", "writing"])
def test_an_error_of_another_thread_ends_the_save(
    store, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where
) -> None:
    count = 0

    def fail(*_):
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(5, "Input/output error")
        return real(*_)

    holder = packing if where == "encoding" else PackBuilder
    name = "encode_chunk" if where == "encoding" else "add"
    real = getattr(holder, name)
    with monkeypatch.context() as patch:
        patch.setattr(holder, name, fail)
        with pytest.raises(OSError, match="Input/output"):
            store.save("m:1", plant(tmp_path / "out", FILES), materialize=False)
    assert store.tags() == []
    assert list((home / "objects/packs").iterdir()) == []
    store.save("m:1", tmp_path / "out", materialize=False)
    assert contents(store.get("m:1")) == FILES


def test_bytes_that_change_before_they_are_packed(store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packing._encoded

    def encoded(workspace, path, raw, *rest):
        return real(workspace, path, raw[:-1] + b"?" if path.endswith("large") else raw, *rest)

    monkeypatch.setattr(packing, "_encoded", encoded)
    with pytest.raises(casstore.FileChanged, match="large"):
        store.save("m:1", plant(tmp_path / "out", FILES), materialize=False)
    assert store.tags() == []
