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
from itertools import accumulate, pairwise

from casstore.errors import IntegrityError
from casstore.late_classes import dataclass
from casstore.storage.coding import entropy
from casstore.storage.coding.arithmetic import Buffer, Sum
from casstore.storage.coding.kernels import kernels
from casstore.storage.tensors.segments import Element

# A group smaller than this would not pay for its entropy code, some 60 to 100 bytes a plane. In a large chunk, more
# than some eight groups gain 0.5% or less, and each takes time of its own.
_MIN_GROUP_ELEMENTS = 4096
_MAX_GROUPS = 64
# Odd, so that rows of a matrix are met at every column.
_SAMPLE_EVERY = 7
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
    def choose(cls, element: Element, raw: Buffer) -> _Groups:
        """Runs of keys of enough elements each, going by a sample."""
        minimum = max(_MIN_GROUP_ELEMENTS, len(raw) // element.width // _MAX_GROUPS) // _SAMPLE_EVERY + 1
        top = (1 << element.exponent_bits) - 1
        last_keys: list[int] = []
        held = 0
        for key, count in enumerate(kernels().key_counts(raw, element, _SAMPLE_EVERY)):
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
        self.groups = groups or _Groups.choose(element, raw)
        self.order = kernels().order(raw, element, self.groups.last_keys)
        self.group_sizes = self.order.sizes


def encode_delta(raw: bytes | memoryview, base: bytes | memoryview, grouping: Grouping) -> bytes:
    """The difference of two buffers of the grouping chunk's length, which `decode_deltas` adds to the base again."""
    width = grouping.element.width
    found = grouping.order.differences(raw, base)
    dense, sizes = found.dense, grouping.group_sizes
    streams = [entropy.encode_stream(found.bit_map, _byte_parts(sizes[dense:]))]
    parts = [*sizes[:dense], *found.nonzero[dense:]]
    streams += [entropy.encode_stream(plane, parts) for plane in found.planes]
    table = [_STREAM.pack(kind, len(stream)) for kind, stream in streams]
    header = [grouping.groups.pack(), bytes([dense]), *table]
    return b"".join([*header, *(stream for _, stream in streams), raw[grouping.count * width :]])


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
    total: Sum | None = None
    tail: Buffer = b""
    for encoded in links:
        if len(base) != len(grouping_raw):
            raise IntegrityError("a delta, its base and what it is grouped by differ in length")
        groups, start = _Groups.unpack(encoded)
        if grouping is None or total is None or grouping.groups != groups:
            if total is not None:
                current = total.put_back(current, tail)
            grouping = Grouping(grouping_raw, groups.element, groups)
            total = grouping.order.sum()
        tail = _accumulate(encoded, start, grouping, total)
    return current if total is None else total.put_back(current, tail)


def _accumulate(encoded: bytes | memoryview, start: int, grouping: Grouping, total: Sum) -> Buffer:
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
    tail = view[position:]
    if position > len(view) or len(tail) != grouping.raw_bytes - grouping.count * width:
        raise IntegrityError("a delta has the wrong length")
    in_map = grouping.count - sparse_from
    bit_map = entropy.decode_stream(*streams[0], (in_map + 7) // 8)
    values = sparse_from + (0 if bit_map is None else kernels().count_set(bit_map, in_map))
    planes = [entropy.decode_stream(*stream, values) for stream in streams[1:]]
    total.add(sparse_from, bit_map, planes, values)
    return tail
