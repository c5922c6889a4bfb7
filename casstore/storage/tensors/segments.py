"""What every format parser shares: the `Segment`, its dtype vocabulary, and the checks that trust nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import NamedTuple

from casstore.late_classes import dataclass

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> that many bytes, fewer only at the end of the file. Raises OSError."""

# Far above any real file (all shards of DeepSeek-V3 together hold some 90,000 tensors); at this number the
# segments of a hostile header still take under 200 MB.
MAX_TENSORS = 250_000
# The GGUF specification's limit for a key, and zip's for a file name.
MAX_NAME_BYTES = 65_535
# numpy's own limit since 2.0 (NPY_MAXDIMS); no format here allows more in practice.
MAX_DIMENSIONS = 64
# What a signed 64-bit integer holds: every format's own limit for a dimension.
MAX_DIMENSION = 2**63 - 1
# Twice the longest name in use, "F8_E4M3FNUZ". The string is kept with the tensor, so it must not be a novel.
MAX_DTYPE_CHARACTERS = 24

ELEMENT_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "C32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "C128": 128,
}
"""Bits of one element of each dtype whose elements fill whole bytes, under safetensors' names.

`C32` and `C128`, which safetensors lacks, are complex numbers of two F16 and two F64. Types of less than a
byte (F4, F6_E2M3, ...) are left out on purpose: writers disagree on whether a shape counts them packed.
"""


class HeaderError(ValueError):
    """A header breaks a rule of its format. Never leaves `find_segments`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous run of a file: one tensor, or what stands between tensors (name None).

    `offset` and `length` are bytes. `dtype` is in one vocabulary over all formats, safetensors' names
    ("BF16"); GGUF's quantized types keep their ggml name ("Q4_K"); None where it is not known, or not
    little-endian.
    `shape` has the outermost dimension first.
    """

    offset: int
    length: int
    name: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


class Element(NamedTuple):
    """What one number of a tensor looks like: its width in bytes (1, 2, 4 or 8), and where its exponent stands.

    The exponent is `(bits >> exponent_shift) & ((1 << exponent_bits) - 1)` of the little-endian number; integers, and
    what is unknown or quantized, have one of 0 bits.
    """

    width: int
    exponent_shift: int = 0
    exponent_bits: int = 0


_FLOATS = {
    "BF16": Element(2, 7, 8),
    "F16": Element(2, 10, 5),
    "F32": Element(4, 23, 8),
    "F64": Element(8, 52, 11),
    "F8_E4M3": Element(1, 3, 4),
    "F8_E4M3FNUZ": Element(1, 3, 4),
    "F8_E5M2": Element(1, 2, 5),
    "F8_E5M2FNUZ": Element(1, 2, 5),
}
# A complex number counts its parts.
_FLOATS |= {"C32": _FLOATS["F16"], "C64": _FLOATS["F32"], "C128": _FLOATS["F64"]}
BYTES = Element(1)


def element_of(dtype: str | None) -> Element:
    """The elements of a dtype; single bytes for what is unknown or quantized."""
    if dtype is None:
        return BYTES
    return _FLOATS.get(dtype) or Element(ELEMENT_BITS.get(dtype, 8) // 8)


def read_exactly(read: ReadAt, size: int, offset: int, length: int) -> bytes:
    """The bytes there in a file of `size` bytes, or HeaderError when they are not all within it."""
    if offset < 0 or length < 0 or offset + length > size:
        raise HeaderError("a header points outside the file")
    data = read(offset, length)
    if len(data) != length:
        raise HeaderError("the file is shorter than its size said")
    return data


def check_shape(shape: Iterable[object]) -> tuple[int, ...]:
    """The shape as a tuple of sane dimensions. Raises HeaderError."""
    checked: list[int] = []
    for dimension in shape:
        # type(), not isinstance: JSON's true is an int to Python.
        if type(dimension) is not int or not 0 <= dimension <= MAX_DIMENSION:
            raise HeaderError("a dimension is not a valid number")
        checked.append(dimension)
    if len(checked) > MAX_DIMENSIONS:
        raise HeaderError("too many dimensions")
    return tuple(checked)


def fits(dtype: str, shape: tuple[int, ...], length: int) -> bool:
    """Whether a tensor of that shape takes `length` bytes; True for a dtype of unknown width."""
    bits = ELEMENT_BITS.get(dtype)
    return bits is None or prod(shape) * bits == length * 8


def cover(found: list[Segment], size: int) -> list[Segment]:
    """The found segments by offset, and unnamed ones for all that lies between: [0, size) without a hole.

    Those of zero bytes are dropped. Raises HeaderError when two overlap or one reaches outside the file.
    """
    covered: list[Segment] = []
    end = 0
    for segment in sorted((s for s in found if s.length), key=lambda s: s.offset):
        if segment.offset < end:
            raise HeaderError("tensors overlap")
        if segment.offset > end:
            covered.append(Segment(end, segment.offset - end))
        covered.append(segment)
        end = segment.offset + segment.length
    if end > size:
        raise HeaderError("a tensor reaches beyond the end of the file")
    if end < size:
        covered.append(Segment(end, size - end))
    return covered
