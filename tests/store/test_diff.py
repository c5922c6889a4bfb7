"""What differs between two versions, or a version and files that are not saved."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casstore
from casstore import Change
from casstore.actions.comparing import diff, documents, values
from tests.kit import Picture, Save, Sql, noise, plant, safetensors, weights
from tests.torch_files import View, archive, pickled, state_dict, tensor

Tensors = dict[str, tuple[str, np.ndarray[Any, Any]]]


@pytest.fixture
def compare(store: casstore.Store, save: Save):
    """compare(old, new, ...): the difference of two versions with these files."""

    def run(old: dict[str, Any], new: dict[str, Any], **options: Any) -> casstore.Diff:
        count = len(store.tags())
        tags = [f"m:{count + 1}", f"m:{count + 2}"]
        for tag, files in zip(tags, (old, new), strict=True):
            save(tag, files)
        return store.diff(*tags, **options)

    return run


def files_of(found: casstore.Diff) -> dict[str, str]:
    return {each.path: each.change.value for each in found.files}


def tensors_of(found: casstore.Diff) -> dict[str, str]:
    return {each.name: each.change.value for each in found.tensors}


def f32(*numbers: float) -> tuple[str, np.ndarray[Any, Any]]:
    return "F32", np.array(numbers, "<f4")


def test_files(compare) -> None:
    old = {
        "same": b"1",
        "changed": b"2",
        "gone": b"3",
        "old-name": b"4" * 10,
        "run": b"5",
        "twice": b"6",
        "none": b"",
        "d": None,
    }
    new = {
        "same": b"1",
        "changed": b"22",
        "new": b"7",
        "dir/new-name": b"4" * 10,
        "run!": b"5",
        "again": b"6",
        "nothing": b"",
    }
    found = compare(old, new)
    assert [(each.change.value, each.old_path, each.path, each.old_size, each.new_size) for each in found.files] == [
        ("renamed", "twice", "again", 1, 1),
        ("changed", "changed", "changed", 1, 2),
        ("removed", "d/", "d/", 0, None),
        ("renamed", "old-name", "dir/new-name", 10, 10),
        ("removed", "gone", "gone", 1, None),
        ("added", None, "new", None, 1),
        ("removed", "none", "none", 0, None),
        ("added", None, "nothing", None, 0),
        ("changed", "run", "run", 1, 1),
    ]
    assert [each.path for each in found.files if each.new_executable] == ["run"]
    assert found.same_files == 1
    assert not found.is_same


def test_the_same_version_and_empty_ones(store: casstore.Store, save: Save, compare) -> None:
    save("m:v1", {"w.safetensors": safetensors({"w": f32(1, 2)}), "a": b"1"}, labels={"a": "b"}, metadata={"x": 1})
    found = store.diff("m:v1", "m", values=True)
    assert found.is_same
    assert (found.old, found.new, found.files, found.damage) == ("m:v1", "m:v1", (), ())
    assert tensors_of(found) == {"w": "same"}
    assert compare({}, {}).is_same
    assert files_of(compare({}, {"a": b"1"})) == {"a": "added"}
    assert files_of(compare({"a": None}, {})) == {"a/": "removed"}


def test_the_share_of_a_file_that_is_new(compare) -> None:
    old = noise(3_000_000, 1)
    found = compare({"w.bin": old}, {"w.bin": old[:-200_000] + noise(200_000, 2)})
    assert 0.05 < known_share(found) < 0.2


def known_share(found: casstore.Diff) -> float:
    share = found.files[0].share
    assert share is not None
    return share


def test_documents(compare) -> None:
    old = {
        "config.json": b'{"a": 1, "b": [1, 2]}',
        "x.YAML": b"a: 1",
        "same.yml": b"a: 1",
        "t.json": b"[1]",
        "o.json": b"1",
    }
    new = {
        "config.json": b'{"a": 2, "b": [1]}',
        "x.YAML": b"a: 2",
        "same.yml": b"a:  1",
        "t.json": b"[1",
        "n.json": b"2",
    }
    found = {each.path: each for each in compare(old, new).documents}
    assert [(c.change.value, c.path, c.old, c.new) for c in found["config.json"].changes] == [
        ("changed", "$.a", 1, 2),
        ("removed", "$.b[1]", 2, None),
    ]
    assert [(c.path, c.old, c.new) for c in found["x.YAML"].changes] == [("$.a", 1, 2)]
    assert (found["same.yml"].changes, found["same.yml"].problem) == ((), "")
    assert "not JSON" in found["t.json"].problem
    assert found.keys() == {"config.json", "x.YAML", "same.yml", "t.json"}


def test_huge_documents(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    many, more = (json.dumps([number + step for number in range(3000)]).encode() for step in (0, 1))
    (found,) = compare({"a.json": many}, {"a.json": more}).documents
    assert (len(found.changes), found.more) == (diff.MAX_CHANGES, 3000 - diff.MAX_CHANGES)
    monkeypatch.setitem(documents._SUFFIXES, ".json", 1 << 20)
    (found,) = compare({"a.json": b" " * (2 << 20)}, {"a.json": b"1"}).documents
    assert "larger than 1 MiB in m:3" in found.problem
    deep = b"[" * 900 + b"1" + b"]" * 900
    (found,) = compare({"a.json": deep}, {"a.json": deep.replace(b"1", b"2")}).documents
    assert "nests too deep" in found.problem or len(found.changes) == 1


def test_what_is_said_of_versions(store: casstore.Store, save: Save) -> None:
    old = {"acc": 0.5, "n": {"f1": 1, "k": "a"}, "gone": 3, "list": [1, 2], "t": True, "null": None, "nan": math.nan}
    new = {
        "acc": 0.75,
        "n": {"f1": 3, "k": "b"},
        "more": {"x": 1, "y": "z"},
        "list": [1, 5],
        "t": False,
        "null": 4,
        "nan": math.nan,
    }
    save("m:v1", {"a": b"1"}, labels={"a": "1", "b": "2"}, metadata={**old, "huge": 10**4000})
    save("m:v2", {"a": b"1"}, labels={"a": "2", "c": "3"}, metadata={**new, "huge": 1})
    found = store.diff("m:v1", "m:v2")
    assert [(c.change.value, c.path, c.old, c.new) for c in found.labels] == [
        ("changed", "a", "1", "2"),
        ("added", "c", None, "3"),
        ("removed", "b", "2", None),
    ]
    assert {(m.path, m.old, m.new, m.change) for m in found.metrics} == {
        ("acc", 0.5, 0.75, 0.25),
        ("n.f1", 1, 3, 2),
        ("gone", 3, None, None),
        ("list[1]", 2, 5, 3),
        ("more.x", None, 1, None),
    }
    assert {c.path for c in found.metadata} == {"n.k", "more.y", "t", "null", "huge"}
    assert found.files == ()
    assert not found.is_same


def test_tensors(compare) -> None:
    old: Tensors = {
        "same": f32(1, 2), "changed": f32(1, 2), "gone": f32(3), "old-name": f32(5, 6, 7), "grown": f32(1, 2),
        "half": f32(1, 2),
    }  # fmt: skip
    new: Tensors = {
        "changed": f32(1, 3), "same": f32(1, 2), "new": f32(4), "new-name": f32(5, 6, 7), "grown": f32(1, 2, 3),
        "half": ("F16", np.array([1, 2], "<f2")),
    }  # fmt: skip
    found = compare({"w.safetensors": safetensors(old)}, {"w.safetensors": safetensors(new)})
    assert tensors_of(found) == {
        "changed": "changed", "gone": "removed", "grown": "reshaped", "half": "dtype", "new": "added",
        "new-name": "renamed", "same": "same",
    }  # fmt: skip
    assert found.counts == {change: 1 for change in Change if change is not Change.UNKNOWN}
    renamed = next(each for each in found.tensors if each.change is Change.RENAMED)
    digest = casstore.Digest.of(f32(5, 6, 7)[1].tobytes())
    assert renamed.old == casstore.TensorInfo("w.safetensors", "old-name", "F32", (3,), 12, digest)
    assert renamed.new == casstore.TensorInfo("w.safetensors", "new-name", "F32", (3,), 12, digest)


def test_only_those_that_are_asked_for(compare) -> None:
    old: Tensors = {"a.0.w": f32(1), "a.1.w": f32(2), "b.0.w": f32(3)}
    found = compare(
        {"w.safetensors": safetensors(old)}, {"w.safetensors": safetensors({})}, tensors="a.*w", values=True
    )
    assert tensors_of(found) == {"a.0.w": "removed", "a.1.w": "removed"}


def test_resharding_changes_no_tensor(compare) -> None:
    one: Tensors = {f"layer.{number}.w": f32(number, 1) for number in range(12)}
    first, last = ({name: one[name] for name in part} for part in (list(one)[:5], list(one)[5:]))
    found = compare(
        {"model.safetensors": safetensors(one)},
        {"model-1.safetensors": safetensors(first), "model-2.safetensors": safetensors(last)},
    )
    assert found.counts == {Change.SAME: 12}
    assert [layer.name for layer in found.layers] == [f"layer.{number}" for number in range(12)]


def test_names_that_stand_in_two_files_stay_apart(compare) -> None:
    two: Tensors = {"w": f32(1), "v": f32(2)}
    other: Tensors = {"w": f32(3), "v": f32(2)}
    files = {"a.safetensors": safetensors(two), "b.safetensors": safetensors(two)}
    found = compare(files, {**files, "b.safetensors": safetensors(other)})
    assert [(each.name, each.new.file, each.change.value) for each in found.tensors if each.new] == [
        ("v", "a.safetensors", "same"),
        ("v", "b.safetensors", "same"),
        ("w", "a.safetensors", "same"),
        ("w", "b.safetensors", "changed"),
    ]
    moved = compare(files, {"c.safetensors": files["a.safetensors"], "d.safetensors": safetensors(other)})
    assert moved.counts == {Change.CHANGED: 1, Change.SAME: 3}


def test_layers(compare) -> None:
    tensors: Tensors = {
        "embeddings.word.weight": f32(1), "encoder.layer.2.a.w": f32(2), "encoder.layer.10.a.w": f32(3),
        "encoder.layer.2.b": f32(4), "bias": f32(5),
    }  # fmt: skip
    found = compare({"w.safetensors": safetensors(tensors)}, {})
    assert [(layer.name, len(layer.tensors)) for layer in found.layers] == [
        ("", 1),
        ("embeddings.word", 1),
        ("encoder.layer.2", 2),
        ("encoder.layer.10", 1),
    ]


def test_no_content_is_read_for_tensors(store: casstore.Store, save: Save, home: Path) -> None:
    """With the bytes of all versions gone, the table is the same."""
    for version, number in (("v1", 1.0), ("v2", 2.0)):
        save(
            f"m:{version}",
            {"w.safetensors": safetensors({"a": f32(number), "b": f32(0)}), "x.bin": noise(2_000_000, 1)},
        )
    before = store.diff("m:v1", "m:v2")
    shutil.rmtree(home / "objects/packs")
    shutil.rmtree(home / "objects/loose")
    assert store.diff("m:v1", "m:v2") == before
    assert tensors_of(before) == {"a": "changed", "b": "same"}


TORCH_VIEWS = {
    "model.0.weight": View("0", "F32", (4, 6), (6, 1)),
    "model.0.tied": View("0", "F32", (4, 6), (6, 1)),
    "model.1.transposed": View("1", "F32", (6, 4), (1, 6)),
    "model.1.row": View("1", "F32", (6,), (1,), 12),
    "model.1.column": View("1", "F32", (4,), (6,), 1),
    "model.2.weight": View("2", "F8_E4M3", (8,), (1,)),
    "model.2.empty": View("3", "F32", (0, 4), (4, 1)),
}
STORAGES = {
    "0": np.arange(24, dtype="<f4").tobytes(), "1": np.arange(24, 48, dtype="<f4").tobytes(), "2": bytes(range(8)),
    "3": b"", "loose": b"abcd",
}  # fmt: skip


def test_tensors_of_pytorch_go_by_the_names_of_parameters(compare) -> None:
    changed = np.arange(24, 48, dtype="<f4")
    changed[13] += 8  # the second of its third row
    old = {"w.pt": state_dict(TORCH_VIEWS, STORAGES)}
    new = {"w.pt": state_dict(TORCH_VIEWS, {**STORAGES, "1": changed.tobytes(), "2": bytes(range(1, 9))})}
    assert tensors_of(compare(old, new)) == {
        "data/loose": "same", "model.0.tied": "same", "model.0.weight": "same", "model.1.column": "unknown",
        "model.1.row": "unknown", "model.1.transposed": "changed", "model.2.empty": "same", "model.2.weight": "changed",
    }  # fmt: skip
    found = {each.name: each for each in compare(old, new, values=True).tensors}
    row, column, whole = (found[f"model.1.{name}"] for name in ("row", "column", "transposed"))
    assert (row.change, column.change, whole.change) == (Change.CHANGED, Change.CHANGED, Change.CHANGED)
    assert [each.values and (each.values.max_abs, each.values.changed) for each in (row, column, whole)] == [
        (8, 1 / 6), (8, 1 / 4), (8, 1 / 24),
    ]  # fmt: skip
    other = {**new, "w.pt": state_dict({**TORCH_VIEWS, "model.1.row": View("1", "F32", (6,), (1,), 6)}, STORAGES)}
    assert {each.name for each in compare(old, other, values=True).tensors if each.change is Change.CHANGED} == {
        "model.1.row"
    }


def test_pytorch_and_safetensors_have_the_same_tensors(compare) -> None:
    array = np.arange(24, dtype="<f4").reshape(4, 6)
    found = compare(
        {"w.pt": state_dict({"w": View("0", "F32", (4, 6), (6, 1))}, STORAGES)},
        {"w.safetensors": safetensors({"w": ("F32", array), "extra": f32(1)})},
    )
    assert {each.name: each.change.value for each in found.tensors if each.name == "w"} == {"w": "same"}


def test_a_hostile_pickle_leaves_the_names_of_storages(compare) -> None:
    hostile = archive(b"\x80\x02" + b"]" * 5000 + b"cos\nsystem\n.", {"0": b"abcd"})
    big = archive(pickled({"w": tensor(View("0", "F32", (9,), (1,)), 4)}), {"0": b"abcd"})
    for made in (hostile, big):
        found = compare({"w.pt": made}, {"w.pt": made, "b.bin": b"1"})
        assert tensors_of(found) == {"data/0": "same"}
        assert found.damage == ()


DTYPES = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


def figures(old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """What is to be told of two arrays of finite numbers, by numpy's own functions."""
    wide = np.result_type(old.dtype, np.complex128 if old.dtype.kind == "c" else np.float64)
    a, b = old.astype(wide).reshape(-1), new.astype(wide).reshape(-1)
    difference = np.abs(b - a)
    return {
        "max_abs": difference.max(),
        "rms": math.sqrt(np.mean(difference**2)),
        "relative": np.linalg.norm(difference) / np.linalg.norm(a),
        "cosine": np.vdot(a, b).real / np.linalg.norm(a) / np.linalg.norm(b),
        "norm": np.linalg.norm(a),
        "changed": float(np.mean(old.reshape(-1) != new.reshape(-1))),
    }


def check(told: casstore.Values | None, expected: dict[str, float]) -> None:
    assert told is not None
    assert {name: getattr(told, name) for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def values_of(found: casstore.Diff, name: str = "w") -> casstore.Values | None:
    (change,) = (each for each in found.tensors if each.name == name)
    assert change.problem == ""
    return change.values


@pytest.mark.parametrize("dtype", DTYPES)
def test_values(compare, dtype: str) -> None:
    generator = np.random.default_rng(7)
    old = (generator.normal(size=1000) * 40 + 100).astype(DTYPES[dtype])
    new = old.copy()
    new[::3] += new.dtype.type(3)
    found = compare(
        {"w.safetensors": safetensors({"w": (dtype, old)})},
        {"w.safetensors": safetensors({"w": (dtype, new)})},
        values=True,
    )
    check(values_of(found), figures(old, new))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "BOOL"])
def test_values_of_dtypes_that_numpy_lacks(compare, dtype: str) -> None:
    raw = np.random.default_rng(3).integers(0, 0x70, 500)  # no NaN among them, and no infinity
    old, new = raw.copy(), raw.copy()
    new[10:60] ^= 1

    def read(patterns: np.ndarray) -> np.ndarray:
        if dtype == "BF16":
            return (patterns.astype("<u4") << 16).view("<f4")
        if dtype == "BOOL":
            return (patterns > 0).astype("f8")
        mantissa, bias = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}[dtype]
        exponent, fraction = patterns >> mantissa, patterns & ((1 << mantissa) - 1)
        normal = (1 + fraction / (1 << mantissa)) * 2.0 ** (exponent - bias)
        return np.where(exponent > 0, normal, fraction / (1 << mantissa) * 2.0 ** (1 - bias))

    width = "<u2" if dtype == "BF16" else "u1"
    files = [{"w.safetensors": safetensors({"w": (dtype, each.astype(width))})} for each in (old, new)]
    check(values_of(compare(*files, values=True)), {**figures(read(old), read(new)), "changed": 0.1})


def test_values_of_many_chunks(compare) -> None:
    """Two of three chunks differ, at the edges of blocks too; only those are read twice."""
    old = weights("F32", 1, 0, 700_000).reshape(700, 1000)
    new = old.copy()
    new[0, 0], new.reshape(-1)[65535:65537], new[699, 999] = 5, 6, 7
    found = compare(
        {"w.safetensors": safetensors({"w": ("F32", old)})},
        {"w.safetensors": safetensors({"w": ("F32", new)})},
        values=True,
    )
    check(values_of(found), figures(old, new))
    (change,) = found.tensors
    assert change.share == pytest.approx((1 + 2_800_000 / 2**20 - 2) * 2**20 / 2_800_000)


def test_numbers_of_64_bits_are_told_apart(compare) -> None:
    old = np.array([2**53, -(2**63), 5], "<i8")
    new = np.array([2**53 + 1, 2**63 - 1, 5], "<i8")
    found = compare(
        {"w.safetensors": safetensors({"w": ("I64", old)})},
        {"w.safetensors": safetensors({"w": ("I64", new)})},
        values=True,
    )
    told = values_of(found)
    assert told is not None
    assert (told.changed, told.max_abs) == (2 / 3, float(2**64))


def test_what_is_not_finite(compare) -> None:
    old = f32(1, math.nan, math.inf, 4, 5, math.nan)
    new = f32(1.5, math.nan, 3, math.nan, -math.inf, 6)
    found = compare({"w.safetensors": safetensors({"w": old})}, {"w.safetensors": safetensors({"w": new})}, values=True)
    told = values_of(found)
    assert told is not None
    assert (told.new_nan, told.new_inf, told.changed, told.max_abs, told.elements) == (1, 1, 5 / 6, 0.5, 6)
    none = compare(
        {"w.safetensors": safetensors({"w": f32(0, -0.0)})},
        {"w.safetensors": safetensors({"w": f32(0, 0)})},
        values=True,
    )
    told = values_of(none)
    assert told == casstore.Values(2, 0, 0, 0, None, 0.5, 0, 0, 0)
    huge = [{"w.safetensors": safetensors({"w": ("F64", np.array([each], "<f8"))})} for each in (1e300, -1e300)]
    told = values_of(compare(*huge, values=True))
    assert told is not None
    assert (told.max_abs, told.relative, told.cosine) == (2e300, None, None)


def test_another_dtype_or_shape_is_compared_by_its_numbers(compare) -> None:
    old = weights("F32", 3, 0, 100_000)
    half = old.astype("<f2")
    found = compare(
        {"w.safetensors": safetensors({"w": ("F32", old)})},
        {"w.safetensors": safetensors({"w": ("F16", half)})},
        values=True,
    )
    check(values_of(found), figures(old, half.astype("<f4")))
    assert tensors_of(found) == {"w": "dtype"}
    new = old.reshape(100, 1000) + 1
    found = compare(
        {"w.safetensors": safetensors({"w": ("F32", old)})},
        {"w.safetensors": safetensors({"w": ("F32", new)})},
        values=True,
    )
    check(values_of(found), figures(old, new))
    found = compare(
        {"w.safetensors": safetensors({"w": f32(1, 2)})}, {"w.safetensors": safetensors({"w": f32(1)})}, values=True
    )
    assert found.tensors[0].problem == "it has another number of elements"


def test_values_of_views(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored in another order, with gaps, or repeated, a tensor is compared element by element."""
    old = np.random.default_rng(5).normal(size=(40, 70)).astype("<f4")
    new = old + np.arange(70, dtype="<f4")
    ways = {
        "plain": (View("0", "F32", (40, 70), (70, 1)), lambda a: a),
        "turned": (View("0", "F32", (40, 70), (1, 40)), lambda a: np.ascontiguousarray(a.T)),
        "gaps": (View("0", "F32", (40, 70), (80, 1), 3), lambda a: np.pad(a, ((0, 0), (3, 7)), constant_values=9)),
        "overlap": (View("0", "F32", (40, 70), (70, 1)), lambda a: a),
    }
    made = {
        way: [{"w.pt": state_dict({"w": view}, {"0": lay(each).tobytes()})} for each in (old, new)]
        for way, (view, lay) in ways.items()
    }
    for one, other in [
        ("plain", "turned"),
        ("turned", "turned"),
        ("gaps", "gaps"),
        ("plain", "gaps"),
        ("turned", "gaps"),
    ]:
        check(values_of(compare(made[one][0], made[other][1], values=True)), figures(old, new))
    same = compare(made["plain"][0], made["turned"][0], values=True)
    assert tensors_of(same) == {"w": "same"}
    row = View("0", "F32", (3, 70), (0, 1))
    repeated = [{"w.pt": state_dict({"w": row}, {"0": each[0].tobytes()})} for each in (old, new)]
    check(values_of(compare(*repeated, values=True)), figures(np.stack([old[0]] * 3), np.stack([new[0]] * 3)))
    crossing = View("0", "F32", (3, 3), (1, 1))
    overlapping = [{"w.pt": state_dict({"w": crossing}, {"0": each[0].tobytes()})} for each in (old, new)]
    hankel = [np.array([row[i : i + 3] for i in range(3)]) for row in (old[0], new[0])]
    check(values_of(compare(*overlapping, values=True)), figures(*hankel))
    monkeypatch.setattr(values, "MAX_HELD_BYTES", 1000)
    found = compare(made["plain"][0], made["turned"][1], values=True)
    assert "another order" in found.tensors[0].problem


def test_numbers_that_are_not_known_say_so(compare) -> None:
    files = [{"w.pt": archive(b"", {"0": raw})} for raw in (b"abcd", b"abce")]
    found = compare(*files, values=True)
    assert tensors_of(found) == {"data/0": "changed"}
    assert found.tensors[0].problem == "the numbers of an unknown dtype cannot be told"


def test_those_that_changed_most_come_first(compare) -> None:
    old: Tensors = {"a.0.w": f32(1), "a.0.v": f32(1), "a.1.w": f32(1)}
    new: Tensors = {"a.0.w": f32(2), "a.0.v": f32(1.5), "a.1.w": f32(8)}
    found = compare({"w.safetensors": safetensors(old)}, {"w.safetensors": safetensors(new)}, values=True)
    assert [(layer.name, [each.name for each in layer.tensors]) for layer in found.layers] == [
        ("a.1", ["a.1.w"]),
        ("a.0", ["a.0.w", "a.0.v"]),
    ]
    assert found.layers[1].relative == pytest.approx(math.hypot(1, 0.5) / math.hypot(1, 1))
    assert found.layers[1].share == 1


def test_files_that_are_not_saved(
    store: casstore.Store, save: Save, tmp_path: Path, home: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "config.json": b'{"a": 1}', "w.safetensors": safetensors({"w": f32(1, 2)}), "d/x.bin": noise(2_000_000, 4),
        "e": None, "run!": b"#!",
    }  # fmt: skip
    save("m:v1", files, labels={"a": "b"}, metadata={"x": 1})
    out = plant(tmp_path / "out", {**files, ".git/config": b"1"})
    store.close()
    before = picture()
    with casstore.Store(home) as opened:
        assert opened.diff("m:v1", out) == opened.diff("m:v1", str(out))
        assert opened.diff("m:v1", out).is_same
        plant(out, {"config.json": b'{"a": 2}', "w.safetensors": safetensors({"w": f32(1, 4)})})
        found = opened.diff("m", out, values=True)
        assert files_of(found) == {"config.json": "changed", "w.safetensors": "changed"}
        assert found.documents[0].changes[0].new == 2
        check(values_of(found), {"max_abs": 2, "changed": 0.5})
        assert (found.labels, found.metadata, found.metrics) == ((), (), ())
        assert found.new == str(out)
        monkeypatch.chdir(tmp_path)
        assert opened.diff("m:v1", "out").files == found.files
        assert opened.diff("m:v1", Path("out", "config.json")).counts == {Change.REMOVED: 1}
    assert picture() == before


def test_a_tag_goes_before_a_directory(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:v1", {"a": b"1"})
    plant(tmp_path / "m", {"a": b"2"})
    monkeypatch.chdir(tmp_path)
    assert store.diff("m:v1", "m").is_same
    assert not store.diff("m:v1", "./m").is_same
    with pytest.raises(casstore.TagNotFound):
        store.diff("m:v1", "n")
    with pytest.raises(casstore.TagNotFound):
        store.diff("n", "m")
    with pytest.raises(casstore.InvalidTag):
        store.diff("m:v1", "no:tag:at-all")
    with pytest.raises(casstore.InvalidSource):
        store.diff("m:v1", tmp_path / "n")


class Meddler:
    """Writes to a file as soon as anything has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, step: str, total_bytes: int | None) -> None:
        assert (step, total_bytes) == ("hash", 9_000_000)

    def advance(self, done_bytes: int) -> None:
        self.path.write_bytes(b"other" * done_bytes)

    def finish(self) -> None:
        pass


def test_a_file_that_is_written_to_meanwhile(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    save("m:v1", {"a.bin": noise(1000, 1)})
    out = plant(tmp_path / "out", {"a.bin": noise(9_000_000, 2)})
    with pytest.raises(casstore.FileChanged, match="while it was being compared"):
        store.diff("m:v1", out, progress=Meddler(out / "a.bin"))


def test_progress_adds_up(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.total = self.done = 0
            self.steps: list[str] = []

        def start(self, step: str, total_bytes: int | None) -> None:
            self.steps.append(step)
            self.total += total_bytes or 0

        def advance(self, done_bytes: int) -> None:
            self.done += done_bytes

        def finish(self) -> None:
            pass

    save("m:v1", {"w.safetensors": safetensors({"w": ("F32", weights("F32", 1, 0, 600_000)), "v": f32(1)})})
    new = weights("F32", 1, 0, 600_000).copy()
    new[0] = 1
    out = plant(tmp_path / "out", {"w.safetensors": safetensors({"w": ("F32", new), "v": f32(2)})})
    progress = Counting()
    store.diff("m:v1", out, values=True, progress=progress)
    assert progress.steps == ["hash", "read"]
    assert progress.done == progress.total


def containers(home: Path) -> list[Path]:
    return [path for path in (home / "objects").rglob("*") if path.is_file()]


def spoil(paths: list[Path]) -> None:
    """Overwrite all bytes of these files."""
    for path in paths:
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))


def test_what_is_damaged_is_named_and_the_rest_compared(store: casstore.Store, save: Save, home: Path) -> None:
    torch = state_dict({"w": View("0", "F32", (2,), (1,))}, {"0": bytes(8)})
    same = {"b.safetensors": safetensors({"b": f32(1)}), "old": b"1"}
    save(
        "m:v1",
        {"c.json": b'{"a": 1}', "w.pt": torch, "w.safetensors": safetensors({"v": f32(1)}), **same},
        materialize=False,
    )
    first = containers(home)
    changed = {"c.json": b'{"a": 2}', "w.safetensors": safetensors({"v": f32(2)}), "w.pt": torch, **same, "new": b"2"}
    save("m:v2", changed, materialize=False)
    spoil([path for path in containers(home) if path not in first])
    found = store.diff("m:v1", "m:v2", values=True)
    assert files_of(found) == {"c.json": "changed", "w.safetensors": "changed", "new": "added"}
    assert found.documents[0].problem == "it is damaged in m:v2"
    assert tensors_of(found) == {"b": "same", "v": "changed", "w": "same"}
    (change,) = (each for each in found.tensors if each.name == "v")
    assert change.values is None
    assert change.problem.startswith("m:v2 w.safetensors: chunk ")
    assert [line.partition(":")[0] + line.partition(":")[2].partition(":")[0] for line in found.damage] == [
        "mv2 c.json", "mv2 w.safetensors",
    ]  # fmt: skip
    spoil(first)
    found = store.diff("m:v1", "m:v2")
    assert tensors_of(found) == {"b": "same", "data/0": "same", "v": "changed"}
    assert any(line.startswith("m:v1 w.pt: ") for line in found.damage)


def test_a_damaged_recipe(store: casstore.Store, save: Save, sql: Sql) -> None:
    save("m:v1", {"w.safetensors": safetensors({"w": f32(1)}), "x": b"1"})
    save("m:v2", {"w.safetensors": safetensors({"w": f32(2)}), "x": b"2"})
    digest = next(file.digest for file in store.get("m:v1").files if file.path.startswith("w"))
    for change in ("UPDATE blob SET recipe = x'00' WHERE digest = ?", "DELETE FROM blob WHERE digest = ?"):
        sql(change, (digest,))
        found = store.diff("m:v1", "m:v2", values=True)
        assert files_of(found) == {"w.safetensors": "changed", "x": "changed"}
        assert tensors_of(found) == {"w": "added"}
        assert found.damage == ("m:v1 w.safetensors: the recipe of its content is missing or damaged",)


def test_a_recipe_that_cuts_elements(store: casstore.Store, save: Save, sql: Sql) -> None:
    """As none does that casstore writes; but the recipe of a stranger's archive may."""
    numbers = [np.array([1, step], "<f4") for step in (2, 3)]
    for step, array in enumerate(numbers):
        save(f"m:v{step}", {"w.safetensors": safetensors({"w": ("F32", array)})})
        raw = array.tobytes()
        parts = raw[:3], raw[3:]
        save(f"parts:v{step}", dict(zip("xy", parts, strict=True)))
        digest = next(file.digest for file in store.get(f"m:v{step}").files)
        recipe = store._workspace.catalog.index.recipes([digest])[digest]
        segment = recipe.segments[1]._replace(chunks=tuple((casstore.Digest.of(part), len(part)) for part in parts))
        changed = dataclasses.replace(recipe, segments=(recipe.segments[0], segment))
        sql("UPDATE blob SET recipe = ? WHERE digest = ?", (changed.pack(), digest))
    check(values_of(store.diff("m:v0", "m:v1", values=True)), figures(*numbers))


def test_a_recipe_that_says_more_than_there_is(store: casstore.Store, save: Save, sql: Sql) -> None:
    recipes = []
    for step in (2, 3):
        save(f"m:v{step}", {"w.safetensors": safetensors({"w": ("U8", np.array([step], "u1"))})})
        digest = next(file.digest for file in store.get(f"m:v{step}").files)
        recipes.append(store._workspace.catalog.index.recipes([digest])[digest])
    for shape in ((), (-1, -1), (2**40, 2**40)):
        for recipe in recipes:
            segment = recipe.segments[1]._replace(dtype="F64", shape=shape)
            changed = dataclasses.replace(recipe, segments=(recipe.segments[0], segment))
            sql("UPDATE blob SET recipe = ? WHERE digest = ?", (changed.pack(), recipe.blob))
        (change,) = store.diff("m:v2", "m:v3", values=True).tensors
        assert (change.change, change.values) == (Change.CHANGED, None)
        assert change.problem


def test_a_damaged_record(store: casstore.Store, save: Save, sql: Sql) -> None:
    save("m:v1", {"x": b"1"})
    save("m:v2", {"x": b"2"})
    sql("UPDATE file SET digest = zeroblob(32)")
    with pytest.raises(casstore.IntegrityError, match="casstore repair"):
        store.diff("m:v1", "m:v2")


def test_a_store_that_can_only_be_read(store: casstore.Store, save: Save, home: Path) -> None:
    save("m:v1", {"w.safetensors": safetensors({"w": f32(1)})})
    save("m:v2", {"w.safetensors": safetensors({"w": f32(2)})})
    store.close()
    os.system(f"chmod -R a-w {home}")
    try:
        with casstore.Store(home) as opened:
            assert tensors_of(opened.diff("m:v1", "m:v2", values=True)) == {"w": "changed"}
    finally:
        os.system(f"chmod -R u+w {home}")


@pytest.mark.crash
def test_memory_is_bounded(store: casstore.Store, tmp_path: Path) -> None:
    """Of a tensor of 96 MB, and of a part of it."""
    path = tmp_path / "w.pt"
    whole, part = View("0", "F32", (2400, 10_000), (10_000, 1)), View("0", "F32", (9000, 2400), (1, 10_000), 5)
    for number in range(2):
        array = np.full(24_000_000, number + 1, "<f4")
        path.write_bytes(state_dict({"whole": whole, "part": part}, {"0": array.tobytes()}))
        store.save(f"m:v{number}", path)
    del array
    tracemalloc.start()
    found = store.diff("m:v0", "m:v1", values=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each.values and each.values.max_abs for each in found.tensors] == [1, 1]
    assert peak < 64 << 20
