"""Files that are read straight into memory of the caller's."""

from __future__ import annotations

import array
import ctypes
import mmap

import numpy as np
import pytest

import casstore
from casstore.errors import IntegrityError
from tests.kit import noise, safetensors, weights

SIZE = 3_000_000


@pytest.fixture
def model(save):
    return save("m:1", {"w": noise(SIZE), "small": b"small", "empty": b""}, materialize=False)


@pytest.fixture
def packed(store, save):
    """The last of three versions, packed as a chain of deltas."""
    for step in range(3):
        save(f"p:{step}", {"w.safetensors": safetensors({"w": ("F32", weights("F32", 90, step, 1 << 20))})})
    store.gc(evict_all=True)
    return store.get("p:2")


def test_a_file_fills_a_buffer(model):
    for path, content in {"w": noise(SIZE), "small": b"small", "empty": b""}.items():
        target = bytearray(len(content))
        assert model.read_into(path, target) is None
        assert target == content


def test_packed_weights_are_laid_over_memory(packed):
    size = {file.path: file.size for file in packed.files}["w.safetensors"]
    target = np.empty(size, np.uint8)
    packed.read_into("w.safetensors", target)
    with packed.open("w.safetensors") as file:
        assert target.tobytes() == file.read()


@pytest.mark.parametrize(
    "target",
    [
        array.array("d", bytes(SIZE)),
        np.empty((SIZE // 4000, 1000), np.float32),
        memoryview(bytearray(SIZE + 6))[3:-3],
        (ctypes.c_int32 * (SIZE // 4))(),
        memoryview(mmap.mmap(-1, SIZE)),
    ],
    ids=["array", "matrix", "memoryview", "ctypes", "mmap"],
)
def test_any_memory_in_one_piece_will_do(model, target):
    model.read_into("w", target)
    assert bytes(target) == noise(SIZE)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (bytearray(SIZE - 1), ValueError, "w of m:1 has 3,000,000 bytes, and the buffer 2,999,999"),
        (bytearray(SIZE + 1), ValueError, "as many"),
        (bytes(SIZE), TypeError, "read-only"),
        (np.empty(2 * SIZE, np.uint8)[::2], ValueError, "one piece"),
        (np.empty((SIZE // 1000, 1000), np.uint8).T, ValueError, "one piece"),
        ("w", TypeError, "not into str"),
        ([0] * SIZE, TypeError, "not into list"),
    ],
)
def test_what_cannot_be_filled_is_refused_and_left_alone(model, target, error, message):
    before = None if isinstance(target, str | list) else bytes(target)
    with pytest.raises(error, match=message):
        model.read_into("w", target)
    assert before is None or bytes(target) == before


def test_a_file_that_is_not_there(model):
    with pytest.raises(FileNotFoundError, match="no file 'v'"):
        model.read_into("v", bytearray(1))


def test_a_version_that_is_gone(store, model):
    assert len(model.files) == 3
    store.delete("m:1")
    with pytest.raises(casstore.TagNotFound, match="deleted meanwhile"):
        model.read_into("w", bytearray(SIZE))


def test_a_version_that_has_been_left_to_a_remote(store, save, model, tmp_path):
    save("m:2", {"w": b"newer"})
    store.add_remote("origin", str(tmp_path / "remote")).push()
    assert len(model.files) == 3
    store.evict("m:1")
    with pytest.raises(casstore.TagNotFound):
        model.read_into("w", bytearray(SIZE))
    target = bytearray(SIZE)
    store.get("m:1").read_into("w", target)  # which pulls it again
    assert target == noise(SIZE)


def test_damage_is_told(packed, store, home):
    size = packed.files[0].size
    for pack in (home / "objects/packs").iterdir():
        pack.chmod(0o644)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    store._workspace.objects.close()
    with pytest.raises(IntegrityError, match=r"w.safetensors of p:2 cannot be read: .*casstore verify"):
        packed.read_into("w.safetensors", bytearray(size))


@pytest.mark.parametrize("is_here", [True, False])
def test_a_version_of_a_remote(store, packed, tmp_path, is_here):
    """With and without a store in whose packs the chunks are found."""
    want = bytearray(packed.files[0].size)
    packed.read_into("w.safetensors", want)
    store.add_remote("origin", str(tmp_path / "remote")).push("p:2")
    with casstore.Store(tmp_path / "other") as other:
        other.add_remote("origin", str(tmp_path / "remote"))
        there = (store if is_here else other).remote("origin").get("p:2")
        target = bytearray(len(want))
        there.read_into("w.safetensors", target)
        assert target == want
        with pytest.raises(ValueError, match="as many"):
            there.read_into("w.safetensors", bytearray(1))
        with pytest.raises(FileNotFoundError):
            there.read_into("w", bytearray(1))
