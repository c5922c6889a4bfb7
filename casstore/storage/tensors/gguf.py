"""The header of a GGUF file, versions 2 and 3, little-endian.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from math import prod

from casstore.storage.tensors.segments import (
    MAX_NAME_BYTES,
    MAX_TENSORS,
    HeaderError,
    ReadAt,
    Segment,
    check_shape,
    cover,
    read_exactly,
)

# The largest vocabularies in use (260,000 tokens, 500,000 merges) make about 20 MB.
MAX_HEADER_BYTES = 64 << 20
# Keys, strings, nested arrays and tensors, all together: each takes about a microsecond to step over.
MAX_ENTRIES = 4_000_000
# Of keys with values, whose names are kept to tell whether one stands twice. Real files have some dozens.
MAX_PAIRS = 250_000
# Arrays of arrays are allowed, but no writer is known to nest them at all.
MAX_ARRAY_DEPTH = 8
# GGML_MAX_DIMS.
MAX_GGUF_DIMENSIONS = 4

_BUFFER_BYTES = 1 << 20
_DEFAULT_ALIGNMENT = 32
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# id: (name, elements per block, bytes per block), from GGML_QUANT_SIZES in gguf-py 0.19, gguf/constants.py.
# Missing numbers are types that ggml has withdrawn.
_GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}


def find_gguf(read: ReadAt, size: int) -> list[Segment]:
    """Segments of a GGUF file. Raises HeaderError or another ValueError.

    A tensor of a type that is not known, because it is newer or a fork's, has dtype None and is taken to
    reach up to the next tensor, padding included.
    """
    header = _Header(read, size)
    header.skip(4)
    if header.u32() not in (2, 3):
        raise HeaderError("neither version 2 nor 3, or big-endian")
    tensor_count, pair_count = header.u64(), header.u64()
    if tensor_count > MAX_TENSORS:
        raise HeaderError("too many tensors")
    alignment = _read_alignment(header, pair_count)
    tensors = [_tensor(header, alignment) for _ in range(tensor_count)]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise HeaderError("two tensors have one name")
    start = -(-header.position // alignment) * alignment
    return cover(_placed(tensors, start, size), size)


class _Header:
    """Reads a header from its beginning, through a buffer. Raises HeaderError beyond the limits."""

    def __init__(self, read: ReadAt, size: int) -> None:
        self.position = 0
        self._read = read
        self._size = size
        self._limit = min(size, MAX_HEADER_BYTES)
        self._buffer = b""
        self._buffer_start = 0
        self._entries = 0

    def u32(self) -> int:
        start = self._advance(4)
        return int(_U32.unpack_from(self._buffer, start)[0])

    def u64(self) -> int:
        start = self._advance(8)
        return int(_U64.unpack_from(self._buffer, start)[0])

    def text(self) -> str:
        length = self.u64()
        if length > MAX_NAME_BYTES:
            raise HeaderError("a name is too long")
        start = self._advance(length)
        return self._buffer[start : start + length].decode()

    def skip(self, length: int) -> None:
        self.position += length
        if self.position > self._limit:
            raise HeaderError("the header is too large, or longer than the file")

    def count(self, entries: int) -> None:
        """Take note of that many entries to come, and refuse absurd numbers before the first is read."""
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise HeaderError("the header has too many entries")

    def _advance(self, length: int) -> int:
        """Where in the buffer the next `length` bytes stand; the position moves behind them."""
        start = self.position
        self.skip(length)
        if self.position > self._buffer_start + len(self._buffer):
            wanted = max(length, min(_BUFFER_BYTES, self._limit - start))
            self._buffer = read_exactly(self._read, self._size, start, wanted)
            self._buffer_start = start
        return start - self._buffer_start


def _read_alignment(header: _Header, pair_count: int) -> int:
    """Step over the key-value pairs; what one of them says about the alignment of tensors, in bytes."""
    alignment = _DEFAULT_ALIGNMENT
    keys = set()
    header.count(pair_count)
    if pair_count > MAX_PAIRS:
        raise HeaderError("too many pairs")
    for _ in range(pair_count):
        key = header.text()
        if key in keys:
            raise HeaderError("a key stands twice")
        keys.add(key)
        kind = header.u32()
        if key != "general.alignment":
            _skip_value(header, kind, 0)
            continue
        alignment = header.u32()
        if kind != _UINT32 or alignment == 0 or alignment & (alignment - 1):
            raise HeaderError("the alignment is not a power of two")
    return alignment


def _skip_value(header: _Header, kind: int, depth: int) -> None:
    if kind in _SCALAR_BYTES:
        header.skip(_SCALAR_BYTES[kind])
    elif kind == _STRING:
        header.skip(header.u64())
    elif kind == _ARRAY and depth < MAX_ARRAY_DEPTH:
        item_kind, count = header.u32(), header.u64()
        if item_kind in _SCALAR_BYTES:
            header.skip(_SCALAR_BYTES[item_kind] * count)
            return
        header.count(count)
        for _ in range(count):
            _skip_value(header, item_kind, depth + 1)
    else:
        raise HeaderError("a value of unknown type, or nested too deeply")


def _tensor(header: _Header, alignment: int) -> Segment:
    """One tensor's description: its offset counts from where tensors begin, an unknown length is -1."""
    name = header.text()
    dimension_count = header.u32()
    if dimension_count > MAX_GGUF_DIMENSIONS:
        raise HeaderError("too many dimensions")
    dimensions = check_shape([header.u64() for _ in range(dimension_count)])
    kind, offset = header.u32(), header.u64()
    if offset % alignment:
        raise HeaderError("a tensor is not aligned")
    # GGUF writes the innermost dimension first.
    shape = dimensions[::-1]
    if kind not in _GGML_TYPES:
        return Segment(offset, -1, name, None, shape)
    dtype, block_elements, block_bytes = _GGML_TYPES[kind]
    # Blocks run along the innermost dimension and do not cross its end.
    if (shape[-1] if shape else 1) % block_elements:
        raise HeaderError("a tensor does not consist of whole blocks")
    return Segment(offset, prod(shape) // block_elements * block_bytes, name, dtype, shape)


def _placed(tensors: list[Segment], start: int, size: int) -> list[Segment]:
    """The tensors at their place in the file, each with a length."""
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    placed = []
    for tensor, following in pairwise([*ordered, Segment(size - start, 0)]):
        length = following.offset - tensor.offset if tensor.length < 0 else tensor.length
        if length < 0:
            raise HeaderError("a tensor lies outside the file")
        placed.append(replace(tensor, offset=start + tensor.offset, length=length))
    return placed
