"""Deltas: a chunk as its difference from a base, a chunk of the same tensor, place, length and dtype.

Fine-tuning moves a weight by about as much whatever the weight's size, so the difference of two bit patterns,
counted in units in the last place, depends on the exponent: elements with large exponents hardly move, those with
small ones move by many units. Elements are therefore grouped by the exponent of the *grouping* chunk's element at
the same place, and each group's differences get entropy codes of their own. That takes 8 to 25% less than one code
for all (benchmarks/codec.py).

The grouping chunk is the start of the base's chain, not the base: exponents hardly change in training (below 1% of
size after 90 steps), and links that share a grouping are added up before anything is put back in place. So sorting,
which is what decoding a delta mostly costs, is done once for a whole chain.

Pure functions over buffers. docs/format.md holds the format.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from casstore.errors import IntegrityError
from casstore.storage import entropy
from casstore.storage.segments import Element

_Elements = npt.NDArray[np.unsignedinteger]
_Bytes = npt.NDArray[np.uint8]

# A group smaller than this would not pay for its entropy code, some 60 to 100 bytes a plane. In a large chunk, more
# than some eight groups gain 0.5% or less, and each takes time of its own.
_MIN_GROUP_ELEMENTS = 4096
_MAX_GROUPS = 64
# Odd, so that rows of a matrix are met at every column.
_SAMPLE_EVERY = 7
# Elements moved at a time, so that they and their indices stay in the cache.
_SPAN_ELEMENTS = 1 << 16
_MAX_KEY_BITS = 11
# Width, shift and bits of the key, number of groups; then each group's last key, u16.
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
        self._is_ordered = groups is None or len(groups.last_keys) > 1
        if groups is not None and not self._is_ordered:
            self.groups, self.group_sizes = groups, [self.count]
            return
        keys = _keys(_elements(raw, element.width), element)
        self.groups = groups or _Groups.choose(element, keys)
        self._sort(_groups_of(keys, self.groups.last_keys))

    def _sort(self, groups_of: _Bytes) -> None:
        """Sort in short blocks, so that a group and a place in its block fit one 16-bit number: numpy sorts such
        numbers by radix, in less time than it takes to find out where each element would go."""
        number_of_groups = len(self.groups.last_keys)
        self._place_bits = 16 - (number_of_groups - 1).bit_length()
        block = 1 << self._place_bits
        places = np.arange(block, dtype=np.uint16)
        self._sorted = groups_of.astype(np.uint16)
        self._sorted <<= self._place_bits
        rest_at = self.count // block * block
        whole, rest = self._sorted[:rest_at].reshape(-1, block), self._sorted[rest_at:]
        whole |= places
        whole.sort(axis=1, kind="stable")
        rest |= places[: len(rest)]
        rest.sort(kind="stable")
        first_of_group = np.arange(number_of_groups, dtype=np.uint16) << self._place_bits
        starts = np.array([each.searchsorted(first_of_group) for each in (*whole, rest)], np.intp)
        # A row a block, a column a group: where its elements begin among the sorted, and how many there are.
        self._starts = starts + np.arange(0, self.count + 1, block)[:, None]
        self._sizes = np.diff(self._starts.reshape(-1), append=self.count).reshape(starts.shape)
        self.group_sizes = self._sizes.sum(axis=0).tolist()

    def arrange(self, elements: _Elements) -> _Elements:
        """Elements in their places, put in the grouping's order. The result is scratch memory."""
        if not self._is_ordered:
            return elements
        in_order = _scratch("in_order", elements.nbytes).view(elements.dtype)
        for span, places in self._places():
            np.take(elements[span], places, out=in_order[span], mode="clip")
        return _pieces(in_order, self._starts.T, self._sizes.T, "arranged")

    def put_back(self, arranged: _Elements) -> _Elements:
        """The inverse of `arrange`."""
        if not self._is_ordered:
            return arranged
        sizes = self._sizes.T
        starts = np.cumsum(sizes).reshape(sizes.shape) - sizes
        in_order = _pieces(arranged, starts.T, self._sizes, "in_order")
        elements = np.empty_like(arranged)
        for span, places in self._places():
            elements[span][places] = in_order[span]
        return elements

    def _places(self) -> Iterator[tuple[slice, npt.NDArray[np.intp]]]:
        """For spans that fit the cache: the places, in the span, of what stands there when sorted."""
        block = 1 << self._place_bits
        held = _scratch("places", 8 * _SPAN_ELEMENTS).view(np.intp)
        in_whole_blocks = np.arange(0, _SPAN_ELEMENTS, block)[:, None]
        for start in range(0, self.count, _SPAN_ELEMENTS):
            places = held[: self.count - start]
            span = slice(start, start + len(places))
            np.bitwise_and(self._sorted[span], block - 1, out=places)
            if len(places) % block == 0:
                blocks = places.reshape(-1, block)
                blocks += in_whole_blocks[: len(blocks)]
            else:
                places += np.arange(len(places)) >> self._place_bits << self._place_bits
            yield span, places


def _groups_of(keys: _Elements, last_keys: Sequence[int]) -> _Bytes:
    """The number of each key's group."""
    repeats = np.diff(np.array((-1, *last_keys)))
    groups = np.repeat(np.arange(len(last_keys), dtype=np.uint8), repeats)
    if keys.dtype == np.uint8:
        # Twice as fast as `take`, which makes 64-bit indices of the keys first.
        table = groups.tobytes().ljust(256, b"\0")
        return np.frombuffer(keys.tobytes().translate(table), np.uint8)
    return groups.take(keys)


def _pieces(elements: _Elements, starts: npt.NDArray[np.intp], sizes: npt.NDArray[np.intp], scratch: str) -> _Elements:
    """Runs of elements, one after the other, in scratch memory of that name."""
    ends = (starts + sizes).reshape(-1).tolist()
    runs = [elements[start:end] for start, end in zip(starts.reshape(-1).tolist(), ends, strict=True)]
    found: _Elements = np.concatenate(runs, out=_scratch(scratch, elements.nbytes).view(elements.dtype))
    return found


def encode_delta(raw: bytes | memoryview, base: bytes | memoryview, grouping: Grouping) -> bytes:
    """The difference of two buffers of the grouping chunk's length, which `decode_deltas` adds to the base again."""
    element = grouping.element
    width, whole = element.width, grouping.count * element.width
    difference = _elements(raw, width) - _elements(base, width)
    zigzag = _zigzag(grouping.arrange(difference), width).view(np.uint8).reshape(-1, width)
    table, streams = [], []
    start = 0
    for size in grouping.group_sizes:
        group = zigzag[start : start + size]
        start += size
        for plane in range(width):
            kind, stream = entropy.encode_stream(np.ascontiguousarray(group[:, plane]))
            table.append(_STREAM.pack(kind, len(stream)))
            streams.append(stream)
    return b"".join([grouping.groups.pack(), *table, *streams, bytes(raw[whole:])])


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
    width = grouping.element.width
    position = start + len(grouping.group_sizes) * width * _STREAM.size
    if len(encoded) < position:
        raise IntegrityError("a delta is cut short")
    table = _STREAM.iter_unpack(encoded[start:position])
    view = memoryview(encoded)
    first = 0
    for size in grouping.group_sizes:
        planes = []
        for kind, length in islice(table, width):
            planes.append((kind, view[position : position + length]))
            position += length
        if position > len(view):
            raise IntegrityError("a delta is cut short")
        _accumulate_group(planes, total[first : first + size])
        first += size
    tail = bytes(view[position:])
    if len(tail) != grouping.raw_bytes - grouping.count * width:
        raise IntegrityError("a delta has the wrong length")
    return tail


def _accumulate_group(planes: Sequence[tuple[int, memoryview]], total: _Elements) -> None:
    (kind, stream), *higher = planes
    if kind == entropy.Stream.MAP and all(each == entropy.Stream.ZEROS for each, _ in higher):
        # Most differences are zero, none is large.
        places, values = entropy.decode_map(stream, total.size)
        total[places] += _unzigzag(values.astype(total.dtype))
        return
    folded: _Elements | None = None
    for number, (kind, stream) in enumerate(planes):
        plane = entropy.decode_stream(kind, stream, total.size)
        if plane is not None:
            shifted = plane.astype(total.dtype)
            shifted <<= 8 * number
            folded = shifted if folded is None else np.bitwise_or(folded, shifted, out=folded)
    if folded is not None:
        total += _unzigzag(folded)


def _add(base: bytes, difference: _Elements, tail: bytes) -> bytes:
    difference += _elements(base, difference.itemsize)
    return b"".join([difference.data, tail]) if tail else difference.tobytes()


_TYPES: dict[int, np.dtype[np.unsignedinteger]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


def _elements(raw: bytes | memoryview, width: int) -> _Elements:
    return np.frombuffer(raw, _TYPES[width], len(raw) // width)


def _keys(elements: _Elements, element: Element) -> _Elements:
    keys = np.right_shift(elements, element.exponent_shift, out=_scratch("room", elements.nbytes).view(elements.dtype))
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


_local = threading.local()


def _scratch(name: str, size: int) -> _Bytes:
    """Bytes of this thread's to work in, until the next call for that name.

    Fresh memory of a mebibyte costs a page fault for every 4 KiB of it, more than most of what is done with it here.
    """
    held: _Bytes | None = getattr(_local, name, None)
    if held is None or held.size < size:
        held = np.empty(size, np.uint8)
        setattr(_local, name, held)
    return held[:size]
