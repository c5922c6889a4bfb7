"""Elements as numbers, and where they stand in a storage: compared with what numpy and struct make of them."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.storage.tensors.numbers import element_bytes, has_numbers, numbers, patterns
from casstore.storage.tensors.segments import ELEMENT_BITS
from casstore.storage.tensors.strides import arrangement, contiguous, in_order

PLAIN = {
    "U8": "B", "I8": "b", "U16": "H", "I16": "h", "U32": "I", "I32": "i", "U64": "Q", "I64": "q", "F16": "e",
    "F32": "f", "F64": "d",
}  # fmt: skip
RAW = bytes(range(256)) + np.random.default_rng(1).bytes(2048)


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@pytest.mark.parametrize("dtype", PLAIN)
def test_what_struct_knows(dtype: str) -> None:
    expected = [value for (value,) in struct.iter_unpack(f"<{PLAIN[dtype]}", RAW)]
    assert all(map(same, numbers(dtype, RAW).tolist(), expected))


def test_bfloat16_is_the_upper_half_of_a_float() -> None:
    expected = [struct.unpack("<f", b"\0\0" + RAW[i : i + 2])[0] for i in range(0, len(RAW), 2)]
    assert all(map(same, numbers("BF16", RAW).tolist(), expected))


def test_booleans_and_complex_numbers() -> None:
    assert numbers("BOOL", b"\0\1\2").tolist() == [0, 1, 1]
    raw = struct.pack("<4e", 1, 2, -3, math.inf)
    assert numbers("C32", raw).tolist() == [1 + 2j, complex(-3, math.inf)]
    assert numbers("C64", struct.pack("<2f", 1, 2)).tolist() == [1 + 2j]
    assert numbers("C128", struct.pack("<2d", 1, 2)).tolist() == [1 + 2j]


def test_floats_of_eight_bits() -> None:
    """The tables of OFP8 1.0 (https://www.opencompute.org), section 5, and of the formats without infinities."""
    extremes = {
        "F8_E4M3": {0x00: 0.0, 0x01: 2**-9, 0x07: 0.875 * 2**-6, 0x08: 2**-6, 0x38: 1.0, 0x7E: 448.0, 0xFE: -448.0},
        "F8_E5M2": {
            0x01: 2**-16,
            0x03: 0.75 * 2**-14,
            0x04: 2**-14,
            0x3C: 1.0,
            0x7B: 57344.0,
            0x7C: math.inf,
            0xFC: -math.inf,
        },
        "F8_E4M3FNUZ": {0x01: 2**-10, 0x40: 1.0, 0x7F: 240.0, 0xFF: -240.0},
        "F8_E5M2FNUZ": {0x01: 2**-17, 0x40: 1.0, 0x7F: 57344.0},
        "F8_E8M0": {0x00: 2**-127, 0x7F: 1.0, 0xFE: 2.0**127},
    }
    nans = {
        "F8_E4M3": {0x7F, 0xFF}, "F8_E5M2": {0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}, "F8_E4M3FNUZ": {0x80},
        "F8_E5M2FNUZ": {0x80}, "F8_E8M0": {0xFF},
    }  # fmt: skip
    for dtype, expected in extremes.items():
        found = numbers(dtype, bytes(range(256)))
        assert {pattern: found[pattern] for pattern in expected} == expected, dtype
        assert set(np.flatnonzero(np.isnan(found)).tolist()) == nans[dtype], dtype


def test_an_e5m2_is_the_upper_half_of_a_half() -> None:
    expected = np.frombuffer(b"".join(bytes([0, upper]) for upper in range(256)), "<f2").astype(float)
    assert np.array_equal(numbers("F8_E5M2", bytes(range(256))), expected, equal_nan=True)


def test_every_dtype_of_whole_bytes_has_numbers() -> None:
    for dtype, bits in ELEMENT_BITS.items():
        assert has_numbers(dtype)
        assert element_bytes(dtype) == bits // 8
        assert len(numbers(dtype, bytes(64))) == len(patterns(dtype, bytes(64))) == 64 // element_bytes(dtype)
    assert not has_numbers("Q4_K")
    assert not has_numbers(None)


@st.composite
def views(draw: st.DrawFn) -> np.ndarray:
    """A view of an array: sliced, transposed, expanded."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    array = np.arange(math.prod(shape), dtype="<i4").reshape(shape)
    cuts = tuple(slice(draw(st.integers(0, n - 1)), None, draw(st.integers(1, 2))) for n in shape)
    array = array[cuts].transpose(draw(st.permutations(range(len(shape)))))
    return np.broadcast_to(array, (draw(st.integers(1, 3)), *array.shape)) if draw(st.booleans()) else array


@given(views())
def test_elements_are_found_where_they_stand(view: np.ndarray) -> None:
    strides = tuple(stride // 4 for stride in view.strides)
    found = arrangement(view.shape, strides)
    assert found is not None
    first = int(view.reshape(-1)[0])
    stored = np.arange(first, first + found.span, dtype="<i4")
    half = found.span // 2
    chosen = np.concatenate([found.chosen(0, half), found.chosen(half, found.span)])
    assert stored[chosen].tolist() == sorted(set(view.reshape(-1).tolist()))
    assert found.count == int(chosen.sum())
    assert found.is_dense == bool(chosen.all())
    assert in_order(stored, view.shape, strides).tolist() == view.reshape(-1).tolist()
    if found.is_in_order and found.count == view.size:
        assert stored[chosen].tolist() == view.reshape(-1).tolist()


def test_what_overlaps_is_not_arranged() -> None:
    assert arrangement((3, 3), (1, 1)) is None
    assert arrangement((3, 3), (2, 1)) is None
    assert arrangement((1, 3), (0, 1)) is not None


@given(st.lists(st.integers(0, 5), max_size=4))
def test_contiguous_strides_are_numpys(shape: list[int]) -> None:
    if 0 not in shape:
        assert contiguous(shape) == tuple(stride // 4 for stride in np.empty(shape, "<i4").strides)
