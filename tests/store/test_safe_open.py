"""casstore.safetensors.safe_open, which is called as safetensors' own is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casstore
from casstore.safetensors import safe_open
from tests.kit import Save, noise, safetensors
from tests.torch_files import View, state_dict

VALUES = np.arange(24, dtype="<f4").reshape(2, 3, 4)


def with_metadata(content: bytes, **said: str) -> bytes:
    """The same file, with something said in its header."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": said, **json.loads(content[8 : 8 + length])}).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@pytest.fixture
def model(store: casstore.Store, save: Save) -> casstore.Model:
    large = np.frombuffer(noise(3 << 20), "<f4").reshape(-1, 64)
    tensors = {"w": ("F32", VALUES), "large": ("F32", large), "a.s": ("F32", np.array(1.5, "<f4"))}
    save("m:1", {"model.safetensors": with_metadata(safetensors(tensors), format="pt", step="7"), "config.json": b"{}"})
    store.gc(evict_all=True)
    return store.get("m:1")


def test_it_is_called_as_that_of_safetensors(model: casstore.Model) -> None:
    with safe_open(model, framework="np", device="cpu") as file:
        assert file.keys() == ["a.s", "large", "w"]
        assert file.offset_keys() == ["w", "large", "a.s"]
        assert file.metadata() == {"format": "pt", "step": "7"}
        assert np.array_equal(file.get_tensor("w"), VALUES)
        part = file.get_slice("w")
        assert (part.get_shape(), part.get_dtype()) == ([2, 3, 4], "F32")
        assert file.get_tensor("a.s") == file.get_slice("a.s")[...] == 1.5


@pytest.mark.parametrize(
    "wanted",
    [
        0, -1, np.int64(1), slice(None), ..., (slice(0, 1), 1), (slice(None), slice(None, None, 2)), slice(1, 5),
        (0, 0, 0), (..., 0), (slice(None), ..., slice(1, 3)), slice(0, 0), slice(None, None, 2), (1, ...), (),
    ],
)  # fmt: skip
def test_slices(model: casstore.Model, wanted: Any) -> None:
    found = safe_open(model, "np").get_slice("w")[wanted]
    assert isinstance(found, np.ndarray)
    assert found.shape == np.asarray(VALUES[wanted]).shape
    assert np.array_equal(found, VALUES[wanted])
    assert found.base is None or found.base.nbytes == found.nbytes  # no more memory than that


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (5, IndexError), ((0, 0, 0, 0), IndexError), ((0, 3), IndexError), (None, TypeError), ([0, 1], TypeError),
        (slice(None, None, -1), ValueError), ("x", TypeError),
    ],
)  # fmt: skip
def test_what_is_no_slice(model: casstore.Model, wanted: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        safe_open(model, "np").get_slice("w")[wanted]


def test_rows_are_read_alone(store: casstore.Store, model: casstore.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    part = safe_open(model, "np").get_slice("large")
    part[:1]  # which reads the file's header
    objects, read = store._workspace.objects, []
    serve = objects._serve
    monkeypatch.setattr(objects, "_serve", lambda *some, **named: read.append(some[0]) or serve(*some, **named))
    assert part[100:102].shape == (2, 64)
    assert len(read) == 1


def test_what_is_not_there(model: casstore.Model, save: Save) -> None:
    file = safe_open(model, "np")
    for call in (file.get_tensor, file.get_slice):
        with pytest.raises(KeyError, match=r"m:1 has no tensor 'large.'.*did you mean 'large'"):
            call("large.")
    with pytest.raises(FileNotFoundError, match="m:1 has no tensors in a safetensors file 'x'"):
        safe_open(model, "np", file="x")
    torch = save("m:2", {"w.pt": state_dict({"w": View("0", "F32", (1,), (1,))}, {"0": bytes(4)})})
    with pytest.raises(FileNotFoundError, match="m:2 has no safetensors file"):
        safe_open(torch, "np")
    with pytest.raises(ValueError, match="framework is"):
        safe_open(model, "jax")


def test_shards_are_one(save: Save) -> None:
    files = {
        "model-1.safetensors": with_metadata(safetensors({"a": ("F32", VALUES)}), format="pt"),
        "model-2.safetensors": safetensors({"b": ("F32", VALUES + 1)}),
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        ).encode(),
        "consolidated.safetensors": safetensors({"other": ("F32", VALUES)}),
    }
    file = safe_open(save("m:1", files), "np")
    assert file.keys() == ["a", "b"]
    assert np.array_equal(file.get_tensor("b"), VALUES + 1)
    assert file.metadata() == {"format": "pt"}
    assert safe_open(save("m:2", {"w.safetensors": files["model-2.safetensors"]}), "np").metadata() is None


def test_what_cannot_be_read_is_told(save: Save) -> None:
    whole = safetensors({"a": ("F32", VALUES)})
    old = {"w.pt": state_dict({"w": View("0", "F32", (1,), (1,))}, {"0": bytes(4)})}
    with pytest.raises(ValueError, match=r"m.safetensors of m:1 is cut short"):
        safe_open(save("m:1", {"m.safetensors": whole[:-1], **old}), "np")
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})}
    shards = {"1.safetensors": whole, **{path: text.encode() for path, text in index.items()}}
    with pytest.raises(FileNotFoundError, match=r"lists 2.safetensors, which is not in the version"):
        safe_open(save("m:2", shards), "np")


def test_a_version_of_a_remote(store: casstore.Store, model: casstore.Model, tmp_path: Path) -> None:
    store.add_remote("origin", str(tmp_path / "remote")).push("m:1")
    with casstore.Store(tmp_path / "other", auto_gc=False) as other:
        there = other.add_remote("origin", str(tmp_path / "remote")).get("m:1")
        assert there.tensors() == model.tensors()
        assert np.array_equal(there.tensor("w", rows=slice(1, 2)), VALUES[1:])
        file = safe_open(there, "np")
        assert file.metadata() == {"format": "pt", "step": "7"}
        assert file.get_tensor("large").tobytes() == model.tensor("large").tobytes()
