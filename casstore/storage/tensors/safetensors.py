"""The header of a safetensors file: https://huggingface.co/docs/safetensors, "Format"."""

from __future__ import annotations

import json
from typing import NoReturn

from casstore.storage.tensors.segments import (
    MAX_DTYPE_CHARACTERS,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    HeaderError,
    ReadAt,
    Segment,
    check_shape,
    cover,
    fits,
    read_exactly,
)

# The format allows 100 MB, which as Python objects can take gigabytes. A tensor takes about 100 bytes of
# header, so this is more than MAX_TENSORS need, and whatever it holds stays within the memory of a save.
MAX_HEADER_BYTES = 32 << 20
# Commas and brackets: what makes the parser create objects. A matrix takes 8 of them, so this is enough for
# MAX_TENSORS. At worst, in '{"":0},{"":0},...', each costs 100 bytes of memory.
MAX_HEADER_ITEMS = 2_000_000
# Colons: a tensor has four. A pair takes up to 250 bytes.
MAX_HEADER_PAIRS = 1_050_000

_LENGTH_BYTES = 8
_FIELDS = {"dtype", "shape", "data_offsets"}


def find_safetensors(read: ReadAt, size: int) -> list[Segment]:
    """Segments of a safetensors file. Raises HeaderError, another ValueError, or RecursionError."""
    return cover(safetensors_of(read, size), size)


def safetensors_of(read: ReadAt, size: int) -> list[Segment]:
    """The tensors of a safetensors file, also those of no bytes. Raises as `find_safetensors` does."""
    length = int.from_bytes(read_exactly(read, size, 0, _LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError("the header is too large")
    start = _LENGTH_BYTES + length
    header = _parse_header(read_exactly(read, size, _LENGTH_BYTES, length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise HeaderError("__metadata__ maps no text to text")
    if len(header) > MAX_TENSORS:
        raise HeaderError("too many tensors")
    tensors = [_tensor(name, entry, start, size) for name, entry in header.items()]
    # The format has no holes; as `cover` refuses overlaps, the sum tells.
    if sum(tensor.length for tensor in tensors) != size - start:
        raise HeaderError("the tensors do not fill the file")
    return tensors


def _parse_header(raw: bytes) -> dict[str, object]:
    if not raw.startswith(b"{"):
        raise HeaderError("the header does not begin with '{'")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_HEADER_ITEMS:
        raise HeaderError("the header has too many items")
    if raw.count(b":") > MAX_HEADER_PAIRS:
        raise HeaderError("the header has too many pairs")
    header = json.loads(
        # Decoded here, as json would accept UTF-16 and lone surrogates.
        raw.decode(),
        object_pairs_hook=_unique,
        parse_int=_small_int,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )
    if not isinstance(header, dict):
        raise HeaderError("the header is not an object")
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise HeaderError("a key stands twice")
    return unique


def _small_int(digits: str) -> int:
    # Longer ones fit no offset, and int() takes quadratic time over them.
    if len(digits) > 20:
        raise HeaderError("a number is too large")
    return int(digits)


def _refuse_number(text: str) -> NoReturn:
    raise HeaderError(f"{text[:20]} is not an integer")


def _tensor(name: str, entry: object, start: int, size: int) -> Segment:
    # encode() also refuses a lone surrogate, written as an escape.
    if len(name.encode()) > MAX_NAME_BYTES:
        raise HeaderError("a name is too long")
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise HeaderError("a tensor lacks a field, or has an unknown one")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > MAX_DTYPE_CHARACTERS or not dtype.isascii():
        raise HeaderError("a dtype is not a short word")
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise HeaderError("a shape or data_offsets is not a list")
    dimensions = check_shape(shape)
    bounds = check_shape(offsets)
    if len(bounds) != 2 or not bounds[0] <= bounds[1] <= size - start:
        raise HeaderError("data_offsets lie outside the file")
    length = bounds[1] - bounds[0]
    if not fits(dtype, dimensions, length):
        raise HeaderError("data_offsets do not match dtype and shape")
    return Segment(start + bounds[0], length, name, dtype, dimensions)
