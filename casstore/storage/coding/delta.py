"""Deltas: a chunk as its difference from a base, a chunk of the same tensor, place, length and dtype.

Fine-tuning moves a weight by about as much whatever the weight's size, so the difference of two bit patterns,
counted in units in the last place, depends on the exponent: elements with large exponents hardly move, those with
small ones move by many units. Elements are therefore grouped by the exponent of the *grouping* chunk's element at
the same place, and each group's differences get entropy codes of their own. That takes 4% (fp32) to 17%
(bf16) less than one code for all (benchmarks/codec.py).

The grouping chunk is the start of the base's chain, not the base: exponents hardly change in training (below 2% of
size after 90 steps), and links that share a grouping are added up before anything is put back in place. So finding the
order, which is what decoding a delta mostly costs, is done once for a whole chain.

Pure functions over buffers. docs/format.md holds the format.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from casstore.errors import IntegrityError
from casstore.storage.coding import entropy
from casstore.storage.tensors.segments import Element

_Elements = npt.NDArray[np.unsignedinteger]
_Bytes = npt.NDArray[np.uint8]

# A group smaller than this would not pay for its entropy code, some 60 to 100 bytes a plane. In a large chunk, more
# than some eight groups gain 0.5% or less, and each takes time of its own.
_MIN_GROUP_ELEMENTS = 4096
_MAX_GROUPS = 64
# Odd, so that rows of a matrix are met at every column.
_SAMPLE_EVERY = 7
# Groups from the first one on with more differences than this are written without a bit map: larger exponents, which
# come later, differ less often.
_DENSE_ABOVE = 0.75
_MAX_KEY_BITS = 11
# Width, shift and bits of the key, number of groups; then each group's last key, u16, and the number of groups without
# a bit map, u8; then kind and length of the bit map and of each plane of the differences, and these.
_HEADER = struct.Struct("<BBBB")
_STREAM = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class _Groups:
    """How a key, an element's exponent, leads to a group: `last_keys` ascend, and the last one is the largest key."""

    element: Element
    last_keys: tuple[int, ...]

    def pack(self) -> bytes:
        element = self.element
        header = _HEADER.pack(element.width, element.exponent_shift, element.exponent_bits, len(self.last_keys))
        return header + struct.pack(f"<{len(self.last_keys)}H", *self.last_keys)

    @classmethod
    def unpack(cls, encoded: bytes | memoryview) -> tuple[_Groups, int]:
        """The groups, and where the streams' table begins. Raises IntegrityError."""
        if len(encoded) < _HEADER.size:
            raise IntegrityError("a delta is cut short")
        width, shift, bits, count = _HEADER.unpack_from(encoded)
        end = _HEADER.size + 2 * count
        if width not in (1, 2, 4, 8) or bits > _MAX_KEY_BITS or shift + bits > 8 * width or len(encoded) < end:
            raise IntegrityError("a delta has a damaged header")
        last_keys = struct.unpack_from(f"<{count}H", encoded, _HEADER.size)
        is_ascending = all(low < high for low, high in pairwise(last_keys))
        if not 1 <= count <= _MAX_GROUPS or not is_ascending or last_keys[-1] != (1 << bits) - 1:
            raise IntegrityError("a delta has damaged groups")
        return cls(Element(width, shift, bits), last_keys), end

    @classmethod
    def choose(cls, element: Element, keys: _Elements) -> _Groups:
        """Runs of keys of enough elements each, going by a sample."""
        sample = keys[::_SAMPLE_EVERY]
        minimum = max(_MIN_GROUP_ELEMENTS, len(keys) // _MAX_GROUPS) // _SAMPLE_EVERY + 1
        top = (1 << element.exponent_bits) - 1
        last_keys: list[int] = []
        held = 0
        for key, count in enumerate(np.bincount(sample, minlength=top + 1).tolist()):
            held += count
            if held >= minimum:
                last_keys.append(key)
                held = 0
        # What is left over joins the last group.
        return cls(element, (*last_keys[:-1], top) if last_keys else (top,))


class Grouping:
    """The order in which a delta's elements stand: by group, and within a group by place."""

    def __init__(self, raw: bytes | memoryview, element: Element, groups: _Groups | None = None) -> None:
        self.element = element
        self.raw_bytes = len(raw)
        self.count = len(raw) // element.width
        if element.exponent_bits == 0:
            groups = _Groups(element, (0,))
        self.group_sizes = [self.count]
        self._places: list[npt.NDArray[np.intp]] = []
        if groups is None or len(groups.last_keys) > 1:
            keys = _keys(_elements(raw, element.width), element)
            groups = groups or _Groups.choose(element, keys)
        self.groups = groups
        if len(groups.last_keys) > 1:
            numbers = _group_numbers(keys, groups.last_keys)
            # numpy sorts bytes stably by radix: 1.6 times as fast as a search for each group with the 8 groups of
            # weights, 5 times with the 57 of random bits, and two threads do not wait for each other in it.
            self.group_sizes = [int(size) for size in np.bincount(numbers, minlength=len(groups.last_keys))]
            self._places = np.split(np.argsort(numbers, kind="stable"), np.cumsum(self.group_sizes)[:-1])

    def arrange(self, elements: _Elements) -> _Elements:
        """Elements in their places, put in the grouping's order."""
        if not self._places:
            return elements
        return np.concatenate([elements.take(places) for places in self._places])

    def put_back(self, arranged: _Elements) -> _Elements:
        """The inverse of `arrange`."""
        if not self._places:
            return arranged
        elements = np.empty_like(arranged)
        start = 0
        for places in self._places:
            elements[places] = arranged[start : start + len(places)]
            start += len(places)
        return elements


def _group_numbers(keys: _Elements, last_keys: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Each key's group. Some comparisons take less time than a table, for which numpy makes 64-bit indices."""
    numbers = np.zeros(len(keys), np.uint8)
    is_above = np.empty(len(keys), np.bool_)
    for last_key in last_keys[:-1]:
        numbers += np.greater(keys, last_key, out=is_above).view(np.uint8)
    return numbers


def encode_delta(raw: bytes | memoryview, base: bytes | memoryview, grouping: Grouping) -> bytes:
    """The difference of two buffers of the grouping chunk's length, which `decode_deltas` adds to the base again."""
    element = grouping.element
    width, whole = element.width, grouping.count * element.width
    difference = grouping.arrange(_elements(raw, width) - _elements(base, width))
    sizes = grouping.group_sizes
    ends = np.cumsum(sizes)
    nonzero = [int(np.count_nonzero(difference[end - size : end])) for size, end in zip(sizes, ends, strict=True)]
    dense = 0
    while dense < len(sizes) and nonzero[dense] > sizes[dense] * _DENSE_ABOVE:
        dense += 1
    sparse_from = int(ends[dense - 1]) if dense else 0
    is_set = difference[sparse_from:] != 0
    places = np.flatnonzero(is_set)
    values = np.concatenate([difference[:sparse_from], difference[sparse_from:].take(places)])
    bit_map = np.packbits(is_set, bitorder="little")
    streams = [entropy.encode_stream(bit_map, _byte_parts(sizes[dense:]))]
    planes = _zigzag(values, width).view(np.uint8).reshape(-1, width)
    parts = [*sizes[:dense], *nonzero[dense:]]
    streams += [entropy.encode_stream(np.ascontiguousarray(planes[:, each]), parts) for each in range(width)]
    table = [_STREAM.pack(kind, len(stream)) for kind, stream in streams]
    header = [grouping.groups.pack(), bytes([dense]), *table]
    return b"".join([*header, *(stream for _, stream in streams), bytes(raw[whole:])])


def _byte_parts(sizes: Sequence[int]) -> list[int]:
    """Where in a bit map the groups of these sizes end, to the next byte, as lengths."""
    ends = [-(-end // 8) for end in accumulate(sizes)]
    return [end - start for start, end in pairwise((0, *ends))]


def decode_deltas(base: bytes, links: Sequence[bytes | memoryview], grouping_raw: bytes) -> bytes:
    """The buffer that the links, each against the one before and the first against `base`, lead to.

    `grouping_raw` is the chunk that all of them are grouped by. Raises IntegrityError for what no encoder made; the
    caller compares the digest.
    """
    current = base
    grouping: Grouping | None = None
    total: _Elements | None = None
    tail = b""
    for encoded in links:
        if len(base) != len(grouping_raw):
            raise IntegrityError("a delta, its base and what it is grouped by differ in length")
        groups, start = _Groups.unpack(encoded)
        if grouping is None or total is None or grouping.groups != groups:
            if grouping is not None and total is not None:
                current = _add(current, grouping.put_back(total), tail)
            grouping = Grouping(grouping_raw, groups.element, groups)
            total = np.zeros(grouping.count, _TYPES[groups.element.width])
        tail = _accumulate(encoded, start, grouping, total)
    if grouping is None or total is None:
        return current
    return _add(current, grouping.put_back(total), tail)


def _accumulate(encoded: bytes | memoryview, start: int, grouping: Grouping, total: _Elements) -> bytes:
    """Add one link's differences, in the grouping's order, to `total`; returns the bytes after the last element."""
    view = memoryview(encoded)
    width = grouping.element.width
    position = start + 1 + (1 + width) * _STREAM.size
    if len(view) < position or view[start] > len(grouping.group_sizes):
        raise IntegrityError("a delta is cut short")
    sparse_from = sum(grouping.group_sizes[: view[start]])
    streams = []
    for kind, length in _STREAM.iter_unpack(view[start + 1 : position]):
        streams.append((kind, view[position : position + length]))
        position += length
    tail = bytes(view[position:])
    if position > len(view) or len(tail) != grouping.raw_bytes - grouping.count * width:
        raise IntegrityError("a delta has the wrong length")
    in_map = total.size - sparse_from
    bit_map = entropy.decode_stream(*streams[0], (in_map + 7) // 8)
    places = None
    if bit_map is not None:
        places = np.flatnonzero(np.unpackbits(bit_map, count=in_map, bitorder="little").view(np.bool_))
    values = _decode_values(streams[1:], sparse_from + (0 if places is None else len(places)), total.dtype)
    if values is not None:
        total[:sparse_from] += values[:sparse_from]
        if places is not None:
            total[sparse_from:][places] += values[sparse_from:]
    return tail


def _decode_values(
    streams: Sequence[tuple[int, memoryview]], count: int, dtype: np.dtype[np.unsignedinteger]
) -> _Elements | None:
    """Differences from their planes; None if all are zero."""
    folded: _Elements | None = None
    for number, (kind, stream) in enumerate(streams):
        plane = entropy.decode_stream(kind, stream, count)
        if plane is not None:
            shifted = plane.astype(dtype)
            shifted <<= 8 * number
            folded = shifted if folded is None else np.bitwise_or(folded, shifted, out=folded)
    return None if folded is None else _unzigzag(folded)


def _add(base: bytes, difference: _Elements, tail: bytes) -> bytes:
    difference += _elements(base, difference.itemsize)
    return b"".join([difference.data, tail]) if tail else difference.tobytes()


_TYPES: dict[int, np.dtype[np.unsignedinteger]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


def _elements(raw: bytes | memoryview, width: int) -> _Elements:
    return np.frombuffer(raw, _TYPES[width], len(raw) // width)


def _keys(elements: _Elements, element: Element) -> _Elements:
    keys = elements >> element.exponent_shift
    if element.exponent_bits == 8:
        return keys.astype(np.uint8)  # which cuts off what is above
    keys &= keys.dtype.type((1 << element.exponent_bits) - 1)
    return keys.astype(np.uint8 if element.exponent_bits < 8 else np.uint16)


def _zigzag(difference: _Elements, width: int) -> _Elements:
    """Small differences of either sign as small numbers: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    signed = difference.view(f"<i{width}")
    folded: _Elements = ((signed << 1) ^ (signed >> (8 * width - 1))).view(difference.dtype)
    return folded


def _unzigzag(folded: _Elements) -> _Elements:
    """The inverse of `_zigzag`, in place."""
    signs = np.negative(folded & 1)
    folded >>= 1
    folded ^= signs
    return folded
