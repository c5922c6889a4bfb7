"""Tensors that are listed from the catalog and read without files."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.errors import IntegrityError
from casstore.storage.objects import Objects
from casstore.storage.ranges import Range, read_ranges
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.zips import is_fortran
from tests.kit import Save, noise, safetensors, weights
from tests.torch_files import ORDERED_DICT, WIDTHS, View, archive, mapping, pickled, state_dict, storage, tensor

Array = np.ndarray[Any, Any]


def f32(*values: float) -> tuple[str, Array]:
    return "F32", np.array(values, "<f4")


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def gguf(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    """A file of one tensor."""
    u32, u64 = (lambda value, size=size: value.to_bytes(size, "little") for size in (4, 8))
    text = u64(len(name)) + name.encode()
    described = text + u32(len(shape)) + b"".join(map(u64, reversed(shape))) + u32(kind) + u64(0)
    header = b"GGUF" + u32(3) + u64(1) + u64(0) + described
    return header + bytes(-len(header) % 32) + data


def test_tensors_of_every_format_are_listed(save: Save) -> None:
    scales = np.arange(6, dtype="<f4").reshape(2, 3)
    raw = np.arange(10, dtype="<f4").tobytes()
    model = save(
        "m:1",
        {
            "a.safetensors": safetensors({"w": ("F32", scales), "z": f32(1)}),
            "b.npz": npz(x=np.zeros((2, 2), "i8")),
            "c.pt": state_dict({"fc.weight": View("0", "F32", (2, 5), (5, 1))}, {"0": raw}),
            "d.gguf": gguf("blk.0.w", (2, 32), 2, bytes(36)),
            "config.json": b"{}",
        },
    )
    assert [(t.file, t.name, t.dtype, t.shape, t.size) for t in model.tensors()] == [
        ("a.safetensors", "w", "F32", (2, 3), 24),
        ("a.safetensors", "z", "F32", (1,), 4),
        ("b.npz", "x", "I64", (2, 2), 32),
        ("c.pt", "fc.weight", "F32", (2, 5), 40),
        ("d.gguf", "blk.0.w", "Q4_0", (2, 32), 36),
    ]
    assert [t.name for t in model.tensors("*w*")] == ["w", "fc.weight", "blk.0.w"]
    assert [t.name for t in model.tensors(file="*.npz")] == [t.name for t in model.tensors(file="b.npz")] == ["x"]
    assert save("m:2", {"config.json": b"{}"}).tensors() == ()


def test_no_content_is_read_for_a_list(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"a.safetensors": safetensors({"w": f32(1, 2)}), "b.npz": npz(x=np.ones(3))}, materialize=False)
    store.gc(evict_all=True)
    shutil.rmtree(home / "objects")
    assert [each.name for each in store.get("m:1").tensors()] == ["w", "x"]


def test_equal_tensors_have_equal_digests_whatever_they_are_called(save: Save) -> None:
    values = np.frombuffer(noise(3 << 20), "<f4")
    first = save(
        "m:1",
        {
            "a.safetensors": safetensors({"w": ("F32", values), "small": f32(1, 2), "other": f32(1, 3)}),
            "b.pt": state_dict(
                {
                    "v": View("0", "F32", (3 << 18,), (1,)), "half": View("0", "F32", (3 << 17,), (1,)),
                    "again": View("1", "F32", (2,), (1,)), "turned": View("2", "F32", (2, 3), (1, 2)),
                    "straight": View("2", "F32", (2, 3), (3, 1)),
                },
                {"0": values.tobytes(), "1": f32(1, 2)[1].tobytes(), "2": bytes(range(24))},
            ),
            "c.npz": npz(z=f32(1, 2)[1]),
        },
    )  # fmt: skip
    digests = {each.name: each.digest for each in first.tensors()}
    assert digests["w"] == digests["v"] != digests["half"]
    assert digests["small"] == digests["again"] == digests["z"] == casstore.Digest.of(f32(1, 2)[1].tobytes())
    assert digests["straight"] == casstore.Digest.of(bytes(range(24))) != digests["turned"]
    assert digests["other"] not in {digest for name, digest in digests.items() if name != "other"}


@pytest.mark.parametrize("is_packed", [False, True])
def test_one_tensor_is_read(store: casstore.Store, save: Save, is_packed: bool) -> None:
    for step in range(3):
        arrays = {name: weights("F32", seed, step, 700_000) for seed, name in enumerate("abc")}
        save(f"m:{step}", {"w.safetensors": safetensors({name: ("F32", each) for name, each in arrays.items()})})
    if is_packed:
        store.gc(evict_all=True)
    found = store.get("m:2").tensor("b")
    assert (found.dtype, found.flags.writeable, found.flags.owndata or found.base is not None) == ("<f4", True, True)
    assert np.array_equal(found.view("<u4"), np.asarray(arrays["b"]).view("<u4"))
    rows = store.get("m:2").tensor("c", rows=slice(300_000, 300_002))
    assert np.array_equal(rows.view("<u4"), np.asarray(arrays["c"])[300_000:300_002].view("<u4"))


def test_only_the_chunks_of_the_tensor_are_read(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {name: ("F32", np.frombuffer(noise(4 << 20, seed), "<f4")) for seed, name in enumerate("abc")}
    model = save("m:1", {"w.safetensors": safetensors(arrays)}, materialize=False)
    model.tensors()
    objects = store._workspace.objects
    read: list[casstore.Digest] = []
    serve = objects._serve
    monkeypatch.setattr(
        objects, "_serve", lambda digest, *rest, **named: read.append(digest) or serve(digest, *rest, **named)
    )
    model.tensor("b")
    assert len(set(read)) == 5, "of a file's header, once, and of the tensor"
    read.clear()
    model.tensor("b")
    assert len(read) == 4
    read.clear()
    model.tensor("b", rows=slice(10, 11))
    assert len(read) == 1


def test_tensors_of_pytorch_as_they_are_stored(save: Save) -> None:
    """Shared, strided, of no dimension, repeated and empty; with a class that nobody has."""
    values = np.arange(24, dtype="<f4")
    views = {
        "tied": View("0", "F32", (4, 6), (6, 1)), "also": View("0", "F32", (4, 6), (6, 1)),
        "turned": View("0", "F32", (6, 4), (1, 6)), "column": View("0", "F32", (4,), (6,), 2),
        "one": View("0", "F32", (), (), 5), "repeated": View("0", "F32", (3, 2), (0, 1), 1),
        "none": View("0", "F32", (0, 3), (3, 1)),
    }  # fmt: skip
    parts = {name: tensor(view, 96) for name, view in views.items()}
    made_up = b"cevil.module\nStrange\n)R"
    raw = archive(pickled({"net": mapping(parts), "strange": made_up}), {"0": values.tobytes()})
    model = save("m:1", {"w.pt": raw})
    want: dict[str, Array] = {
        "tied": values.reshape(4, 6), "also": values.reshape(4, 6), "turned": values.reshape(4, 6).T,
        "column": values[2::6], "one": values[5], "repeated": np.tile(values[1:3], (3, 1)),
        "none": np.empty((0, 3), "<f4"),
    }  # fmt: skip
    assert [each.name for each in model.tensors()] == [f"net.{name}" for name in want]
    loaded = model.state_dict(framework="numpy")
    assert list(loaded) == [f"net.{name}" for name in want]
    for name, array in want.items():
        for found in (loaded[f"net.{name}"], model.tensor(f"net.{name}")):
            assert found.shape == array.shape
            assert np.array_equal(found, array)
    loaded["net.tied"][0, 2] = 99
    assert (loaded["net.also"][0, 2], loaded["net.turned"][2, 0], loaded["net.column"][0]) == (99, 99, 99)
    assert np.array_equal(model.tensor("net.turned", rows=slice(1, 3)), want["turned"][1:3])


def test_what_lies_between_tensors_of_a_storage_is_not_read(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = noise(6 << 20)
    views = {"first": View("0", "F32", (4,), (1,)), "last": View("0", "F32", (4,), (1,), (6 << 18) - 4)}
    model = save("m:1", {"w.pt": state_dict(views, {"0": raw})}, materialize=False)
    model.tensor("first")  # which reads the file's header
    objects = store._workspace.objects
    read: list[casstore.Digest] = []
    serve = objects._serve
    monkeypatch.setattr(
        objects, "_serve", lambda digest, *rest, **named: read.append(digest) or serve(digest, *rest, **named)
    )
    loaded = model.state_dict(framework="numpy")
    assert len(read) == 2
    assert (loaded["first"].tobytes(), loaded["last"].tobytes()) == (raw[:16], raw[-16:])


def test_tensors_without_bytes(save: Save) -> None:
    """Of which the catalog knows nothing: they are found where a header says more than it must."""
    empty = np.empty((3, 0, 2), "<f4")
    model = save(
        "m:1",
        {
            "a.safetensors": safetensors({"w": f32(1, 2), "e": ("F32", empty)}),
            "b.npz": npz(x=np.ones(3), y=np.empty((0, 4), "<i2")),
        },
    )
    assert {each.name: each.shape for each in model.tensors()} == {"w": (2,), "e": (3, 0, 2), "x": (3,), "y": (0, 4)}
    assert model.tensor("e").shape == (3, 0, 2)
    assert model.state_dict(framework="numpy", file="*")["y"].dtype == "<i2"


def test_arrays_in_the_order_of_fortran(save: Save) -> None:
    array = np.asfortranarray(np.arange(24, dtype="<i4").reshape(2, 3, 4))
    model = save("m:1", {"w.npz": npz(f=array, c=np.ascontiguousarray(array), v=np.arange(3))})
    for found in (model.tensor("f"), model.tensor("c"), model.state_dict(framework="numpy")["f"]):
        assert np.array_equal(found, array)
    assert np.array_equal(model.tensor("f", rows=slice(1, 2)), array[1:2])


def test_the_order_of_fortran_in_archives_behind_one_another(save: Save) -> None:
    array = np.asfortranarray(np.arange(24, dtype="<i4").reshape(2, 3, 4))
    model = save("m:1", {"w.npz": npz(f=array) + npz(c=np.ascontiguousarray(array), f=array)})
    assert [each.name for each in model.tensors()] == ["0/f", "1/c", "1/f"]
    for found in model.state_dict(framework="numpy", file="w.npz").values():
        assert np.array_equal(found, array)


def test_headers_of_a_file_are_read_through_one_reader(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {f"a{number}": np.full((2, 3), number, order="F" if number % 2 else "C") for number in range(9)}
    model = save("net:v1", {"w.npz": npz(**arrays)})
    model.state_dict(framework="numpy")
    opened = []
    real = Objects.open_blob
    monkeypatch.setattr(Objects, "open_blob", lambda self, *rest: opened.append(rest) or real(self, *rest))
    found = model.state_dict(framework="numpy")
    assert len(opened) == 1
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert [array.flags.f_contiguous for array in found.values()] == [number % 2 == 1 for number in range(9)]


@pytest.mark.parametrize("behind", [b"", b"\0", b"'fortran_order': True"])
def test_a_header_ends_where_its_array_begins(behind: bytes) -> None:
    file = io.BytesIO()
    np.save(file, np.asfortranarray(np.ones((2, 3))))
    header = file.getvalue()[: -6 * 8]
    assert is_fortran(b"before" + header + behind) == (not behind)


def test_quantized_blocks_are_bytes(save: Save) -> None:
    model = save("m:1", {"w.gguf": gguf("q", (2, 64), 2, bytes(range(72)))})
    found = model.tensor("q")
    assert (found.dtype, found.shape, found.tobytes()) == (np.uint8, (2, 36), bytes(range(72)))
    assert model.tensor("q", rows=slice(1, 2)).tobytes() == bytes(range(36, 72))


def test_dtypes_that_numpy_lacks(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(
        "m:1",
        {
            "w.safetensors": safetensors({"b": ("BF16", np.array([1, 2], "<u2")), "f": ("F4", np.array([1], "u1"))}),
            "x.npz": npz(big=np.ones((2, 2), ">f4")),
        },
    )
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install ml_dtypes, or use framework=\"torch\""):
        model.tensor("b")
    with pytest.raises(TypeError, match=r"f in w.safetensors of m:1 has dtype F4.*model.open\('w.safetensors'\)"):
        model.tensor("f")
    with pytest.raises(TypeError, match=r"big in x.npz of m:1 has an unknown dtype"):
        model.tensor("big")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.0.wieght", "m:1 has no tensor 'encoder.0.wieght'; did you mean 'encoder.0.weight'?"),
        ("weight", "did you mean 'encoder.0.weight'"),
        ("xyzzy", r"m:1 has no tensor 'xyzzy'; model.tensors\(\) lists those there are"),
    ],
)
def test_a_tensor_that_is_not_there(save: Save, name: str, message: str) -> None:
    model = save("m:1", {"w.safetensors": safetensors({"encoder.0.weight": f32(1)}), "o.npz": npz(step=np.ones(2))})
    with pytest.raises(KeyError, match=message):
        model.tensor(name)
    with pytest.raises(KeyError, match=r"o.npz has one"):
        model.tensor("step", file="w.safetensors")
    with pytest.raises(KeyError, match="m:2 has no tensors; they are known in files of safetensors, GGUF"):
        save("m:2", {"w.bin": b"bytes"}).tensor(name)


def test_one_name_in_several_files(save: Save) -> None:
    first, second = f32(1, 2), f32(3, 4)
    model = save(
        "m:1",
        {
            "a/w.safetensors": safetensors({"w": first, "same": first}),
            "b/w.safetensors": safetensors({"w": second, "same": first}),
        },
    )
    with pytest.raises(
        ValueError, match=r"a/w.safetensors and b/w.safetensors of m:1 have different tensors 'w'.*file="
    ):
        model.tensor("w")
    with pytest.raises(ValueError, match="different tensors 'w'"):
        model.state_dict(framework="numpy")
    assert np.array_equal(model.tensor("same"), first[1])
    assert np.array_equal(model.tensor("w", file="b/*"), second[1])
    assert np.array_equal(model.state_dict("w", "numpy", file="b/*")["w"], second[1])
    assert model.state_dict("v*", "numpy") == {}


def test_the_weights_of_a_checkpoint_are_those_of_its_safetensors(save: Save) -> None:
    files = {
        "model.safetensors": safetensors({"w": f32(1)}),
        "optimizer.pt": state_dict({"w": View("0", "F32", (1,), (1,))}, {"0": f32(2)[1].tobytes()}),
    }
    model = save("m:1", files)
    assert {name: float(each[0]) for name, each in model.state_dict(framework="numpy").items()} == {"w": 1}
    assert model.tensor("w") == 1
    assert model.tensor("w", file="optimizer.pt") == 2


def test_shards_are_found_through_their_index(save: Save) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {
        "model-1.safetensors": safetensors({"a": f32(1)}), "model-2.safetensors": safetensors({"b": f32(2)}),
        "consolidated.safetensors": safetensors({"a": f32(9), "layers.b": f32(9)}),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "vae/x.safetensors": safetensors({"x": f32(3)}),
    }  # fmt: skip
    model = save("m:1", files)
    assert {name: float(each[0]) for name, each in model.state_dict(framework="numpy").items()} == {
        "a": 1, "b": 2, "x": 3,
    }  # fmt: skip
    assert model.tensor("a") == 1
    for broken in (b"{", b"[]", b'{"weight_map": 1}', b'{"weight_map": {"a": "gone"}}'):
        files["model.safetensors.index.json"] = broken
        with pytest.raises(ValueError, match="different tensors 'a'"):
            save("m", files).state_dict(framework="numpy")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda model: model.tensor("w", "jax"), 'framework is "numpy" or "torch", not \'jax\''),
        (lambda model: model.state_dict(framework="numpy", device="cuda"), "NumPy has no device 'cuda'"),
        (lambda model: model.tensor("s", rows=slice(1)), "s has no rows"),
        (lambda model: model.tensor("w", rows=slice(0, 2, 2)), "w is read by rows that follow one another"),
    ],
)
def test_what_cannot_be_asked_for(save: Save, call: Callable[[casstore.Model], object], error: str) -> None:
    model = save("m:1", {"w.safetensors": safetensors({"w": f32(1, 2), "s": ("F32", np.array(1, "<f4"))})})
    assert model.tensor("s").shape == ()
    with pytest.raises(ValueError, match=error):
        call(model)


def test_damage_is_told(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.safetensors": safetensors({"w": ("F32", np.frombuffer(noise(2 << 20), "<f4"))})})
    store.gc(evict_all=True)
    for pack in (home / "objects/packs").iterdir():
        pack.chmod(0o644)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    store._workspace.objects.close()
    with pytest.raises(IntegrityError, match=r"w.safetensors of m:1 cannot be read: .*casstore verify"):
        store.get("m:1").state_dict(framework="numpy")


def test_a_pickle_that_cannot_be_read(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.pt": state_dict({"w": View("0", "F32", (1,), (1,))}, {"0": bytes(4)})}, materialize=False)
    for directory in ("packs", "loose"):
        shutil.rmtree(home / "objects" / directory)
    store._workspace.objects.close()
    with pytest.raises(IntegrityError, match=r"w.pt of m:1 cannot be read"):
        store.get("m:1").tensors()


def test_a_version_that_is_gone(store: casstore.Store, save: Save) -> None:
    model = save("m:1", {"w.safetensors": safetensors({"w": f32(1)})})
    model.tensors()
    store.delete("m:1")
    for call in (model.tensors, lambda: model.tensor("w"), lambda: model.state_dict(framework="numpy")):
        with pytest.raises(casstore.TagNotFound, match="deleted meanwhile"):
            call()


def test_ranges_of_a_blob(store: casstore.Store, save: Save) -> None:
    """Any of them, also those that overlap, are empty, or end within a chunk."""
    raw = noise(300_000)
    model = save("m:1", {"w": raw})
    (recipe,) = model._files().recipes(model.files).values()
    assert sum(1 for _ in recipe.chunks()) == 1

    arrays = {name: np.frombuffer(raw[start : start + 40_000], "u1") for start, name in enumerate("abcdef")}
    content = safetensors({name: ("U8", each) for name, each in arrays.items()})
    model = save("m:2", {"w.safetensors": content})
    (recipe,) = model._files().recipes(model.files).values()
    _ranges(store, recipe, content)


def _ranges(store: casstore.Store, recipe: Recipe, content: bytes) -> None:
    bound = st.integers(0, len(content))

    @given(st.lists(st.tuples(bound, bound), max_size=6))
    def check(pairs: list[tuple[int, int]]) -> None:
        bounds = sorted((min(pair), max(pair)) for pair in pairs)
        buffers = [bytearray(stop - start) for start, stop in bounds]
        ranges = [Range(start, memoryview(each)) for (start, _), each in zip(bounds, buffers, strict=True)]
        seen = list(read_ranges(store._workspace.objects, recipe, ranges, "it"))
        assert seen == sorted(set(seen))
        assert seen[-1:] == ([len(bounds)] if bounds else [])
        assert buffers == [content[start:stop] for start, stop in bounds]

    check()
    with pytest.raises(ValueError, match="not all within it"):
        list(read_ranges(store._workspace.objects, recipe, [Range(len(content), memoryview(bytearray(1)))], "it"))


@pytest.mark.parametrize("dtype", ["F32", "F8_E4M3"])
def test_what_is_lazily_conjugated_or_negated_is_not_read_as_it_is_stored(save: Save, dtype: str) -> None:
    lazy = mapping({"neg": b"\x88"})
    views = {
        "plain": View("0", dtype, (4,), (1,)), "said": View("0", dtype, (4,), (1,), 0, b"}"),
        "not": View("0", dtype, (4,), (1,), 0, mapping({"neg": b"\x89"})),
        "lazy": View("0", dtype, (4,), (1,), 0, lazy), "alone": View("1", dtype, (4,), (1,), 0, lazy),
    }  # fmt: skip
    raw = noise(4 * WIDTHS[dtype])
    model = save("m:1", {"w.pt": state_dict(views, {"0": raw, "1": noise(len(raw), 2)})})
    found = {each.name: each for each in model.tensors()}
    assert {name: each.dtype for name, each in found.items()} == {
        "plain": dtype, "said": dtype, "not": dtype, "lazy": None, "alone": None,
    }  # fmt: skip
    assert found["plain"].digest == found["said"].digest != found["lazy"].digest
    for name in ("lazy", "alone"):
        with pytest.raises(TypeError, match=r"stored in a way that is not known here; model\.open"):
            model.tensor(name)
    with pytest.raises(TypeError, match="stored in a way that is not known"):
        model.state_dict(framework="numpy")


def test_a_storage_whose_class_is_unknown_is_bytes(save: Save) -> None:
    """A pickle that names no parameter leaves the storages, by their keys."""
    model = save(
        "m:1",
        {
            "w.pt": archive(
                pickled({"x": b"(" + storage("0", "F32", 8)[1:] + b"0" + ORDERED_DICT + b")R"}), {"0": bytes(8)}
            )
        },
    )
    assert [each.name for each in model.tensors()] == ["data/0"]
