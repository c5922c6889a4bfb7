"""The elements of a tensor as numbers: every float down to fp8, integers, booleans and complex numbers."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from casstore.storage.tensors.segments import ELEMENT_BITS

Numbers = npt.NDArray[Any]  # of float64, int64, uint64 or complex128

# What numpy reads as it stands.
_PLAIN = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4", "F32": "<f4",
    "F64": "<f8", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
# Exponent bits, mantissa bits, bias, and what the largest exponent means: OCP's 8-bit formats, "OFP8" 1.0, and those
# "FNUZ" of https://arxiv.org/abs/2206.02915, which have neither infinities nor a negative zero.
_EIGHT_BITS = {
    "F8_E4M3": (4, 3, 7, "one nan"),
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": (4, 3, 8, "nan for -0"),
    "F8_E5M2FNUZ": (5, 2, 16, "nan for -0"),
}


def has_numbers(dtype: str | None) -> bool:
    """Whether elements of this dtype are known here as numbers; those of quantized blocks are not."""
    return dtype in ELEMENT_BITS


def element_bytes(dtype: str) -> int:
    """What one element takes, of a dtype that `has_numbers`."""
    return ELEMENT_BITS[dtype] // 8


def numbers(dtype: str, raw: bytes | memoryview) -> Numbers:
    """The elements of a dtype that `has_numbers`: float64 or complex128, or 64-bit integers where those are stored.

    No value is changed by this: whatever is smaller fits into float64.
    """
    with np.errstate(invalid="ignore"):  # a NaN of which a computation would warn
        return np.asarray(_numbers(dtype, raw))


def _numbers(dtype: str, raw: bytes | memoryview) -> Any:
    if dtype in _PLAIN:
        return np.frombuffer(raw, _PLAIN[dtype]).astype(np.complex128 if dtype.startswith("C") else np.float64)
    if dtype in ("I64", "U64"):
        return np.frombuffer(raw, "<i8" if dtype == "I64" else "<u8")
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype == "C32":
        return np.frombuffer(raw, "<f2").astype(np.float64).view(np.complex128)
    if dtype == "BOOL":
        return (np.frombuffer(raw, np.uint8) != 0).astype(np.float64)
    return _table(dtype)[np.frombuffer(raw, np.uint8)]


def patterns(dtype: str, raw: bytes | memoryview) -> npt.NDArray[Any]:
    """The elements' bits, one row of 64-bit words or one smaller word each, to be compared."""
    width = element_bytes(dtype)
    if width == 16:
        return np.frombuffer(raw, "<u8").reshape(-1, 2)
    return np.frombuffer(raw, f"<u{width}").reshape(-1, 1)


@functools.cache
def _table(dtype: str) -> npt.NDArray[np.float64]:
    """The number that each of the 256 patterns of an 8-bit float stands for."""
    if dtype == "F8_E8M0":  # OCP's scale of a block: a power of two
        return np.array([*(math.ldexp(1.0, power - 127) for power in range(255)), math.nan])
    return np.array([_eight_bits(pattern, *_EIGHT_BITS[dtype]) for pattern in range(256)])


def _eight_bits(pattern: int, exponent_bits: int, mantissa_bits: int, bias: int, special: str) -> float:
    sign = -1.0 if pattern & 0x80 else 1.0
    mantissa = pattern & ((1 << mantissa_bits) - 1)
    exponent = (pattern & 0x7F) >> mantissa_bits
    is_top = exponent == (1 << exponent_bits) - 1
    if (special == "nan for -0" and pattern == 0x80) or (special == "one nan" and pattern & 0x7F == 0x7F):
        return math.nan
    if special == "ieee" and is_top:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits)
