"""Segments: each is read as it was written; what else a bucket may hold in its place is refused, in little memory."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore import IntegrityError, UnsupportedFormat
from casstore.digest import Digest
from casstore.remote.segment import (
    HEADER_BYTES,
    MOST_BYTES,
    ChunkPlace,
    Header,
    PackInfo,
    Segment,
    chunks_of,
    needed,
    unpack_packs,
)
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.recipe import MAX_CHUNK_BYTES
from tests.remote.segments import DELTA, KEY, digests, frame, manifest_of, said, sealed, sections_of, segments

MOST_MEMORY = 48 << 20
INTEGERS = st.integers(-10, 20) | st.sampled_from([1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1, -(1 << 63)])
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.binary(max_size=40) | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=8,
)


def read(sections: list[bytes], **header: Any) -> Segment:
    data, check = sealed(sections, **header)
    return Segment.unpack(data, check, KEY)


def checked(segment: Segment) -> None:
    """What everybody who has read a segment counts on."""
    assert chunks_of(segment.manifest).keys() <= segment.chunks.keys()
    for place in segment.chunks.values():
        assert place.offset >= 16
        assert 48 <= place.length <= 48 + 0xFFFF + MAX_CHUNK_BYTES
        assert place.offset + place.length <= segment.packs[place.pack].size
        assert (place.base is None) == (place.grouping is None) == (place.encoding != DELTA)
        links = 0
        at = place
        while at.base is not None:
            at, links = segment.chunks[at.base], links + 1
            assert at.raw_bytes == place.raw_bytes
            assert links <= MAX_DELTA_LINKS
        assert place.grouping is None or segment.chunks[place.grouping].base is None
    assert needed(segment.chunks, segment.chunks) == segment.chunks.keys()


@given(segments())
def test_a_segment_is_read_as_it_was_written(segment: Segment) -> None:
    data = segment.pack()
    found = Segment.unpack(data, Digest.of(data[:HEADER_BYTES]), KEY)
    assert (found.manifest, found.packs, found.chunks) == (segment.manifest, segment.packs, segment.chunks)
    assert list(found.chunks)[: len(chunks_of(found.manifest))] == list(chunks_of(segment.manifest))
    assert found.pack() == data
    checked(found)
    header = Header.unpack(data, Digest.of(data[:HEADER_BYTES]), KEY)
    assert unpack_packs(data[: header.packs_end], header, KEY) == segment.packs


@given(segments(), st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(segment: Segment, place: int, by: int) -> None:
    data = bytearray(segment.pack())
    check = Digest.of(data[:HEADER_BYTES])
    data[place % len(data)] ^= by
    with pytest.raises(IntegrityError, match=KEY):
        Segment.unpack(bytes(data), check, KEY)


@pytest.mark.crash
@given(segments(), st.integers(-400, 400))
def test_a_segment_that_is_cut_short_or_goes_on(segment: Segment, by: int) -> None:
    data = segment.pack()
    other = data + bytes(by) if by > 0 else data[: len(data) + by - 1]
    with pytest.raises(IntegrityError, match=KEY):
        Segment.unpack(other, Digest.of(data[:HEADER_BYTES]), KEY)


@pytest.mark.crash
@given(segments(), st.integers(0, 2), st.binary(max_size=100) | VALUES.map(frame))
def test_sections_of_anything_are_read_or_refused_by_name(segment: Segment, number: int, section: bytes) -> None:
    """With right digests, as anybody can write them."""
    sections = sections_of(segment)
    sections[number] = section
    try:
        checked(read(sections))
    except IntegrityError as error:
        assert KEY in str(error)


@pytest.mark.crash
@settings(max_examples=80)
@given(segments(), st.data())
def test_columns_that_say_anything_are_read_or_refused_by_name(segment: Segment, data: st.DataObject) -> None:
    sections = sections_of(segment)
    number = data.draw(st.sampled_from([0, 2]))
    table = said(sections[number])
    row = data.draw(st.integers(0, len(table) - 1))
    column = table[row]
    if isinstance(column, list) and column and data.draw(st.booleans()):
        column[data.draw(st.integers(0, len(column) - 1))] = data.draw(INTEGERS | VALUES)
    else:
        table[row] = data.draw(VALUES)
    sections[number] = frame(table)
    try:
        checked(read(sections))
    except IntegrityError as error:
        assert KEY in str(error)


def columns_of(*places: ChunkPlace, packs: int = 1) -> Segment:
    named = digests(len(places))
    manifest = manifest_of([[(digest, 100) for digest in named]] if named else [])
    infos = [PackInfo(f"packs/{number:032x}/0.pack", 1 << 30, Digest.of(b"")) for number in range(packs)]
    return Segment(manifest, infos, dict(zip(named, places, strict=True)))


ONE, TWO = digests(2)
WHOLE = ChunkPlace(0, 16, 148, 100, 0)


def delta_on(base: Digest) -> ChunkPlace:
    return WHOLE._replace(encoding=DELTA, base=base, grouping=base)


@pytest.mark.parametrize(
    ("places", "wrong"),
    [
        ([WHOLE._replace(offset=15)], "place"),
        ([WHOLE._replace(length=0)], "place"),
        ([WHOLE._replace(length=47)], "place"),
        ([WHOLE._replace(length=-1)], "place"),
        ([WHOLE._replace(length=1 << 29)], "place"),
        ([WHOLE._replace(offset=(1 << 30) - 147)], "place"),
        ([WHOLE._replace(raw_bytes=101)], "length"),
        ([WHOLE._replace(pack=1)], "pack"),
        ([WHOLE._replace(pack=-1)], "pack"),
        ([WHOLE._replace(encoding=DELTA)], "delta"),
        ([WHOLE, WHOLE._replace(base=ONE, grouping=ONE)], "delta"),
        ([delta_on(ONE)], "circle"),
        ([delta_on(TWO), delta_on(ONE)], "circle"),
        ([WHOLE, delta_on(ONE), delta_on(ONE)._replace(grouping=TWO)], "groups"),
    ],
)
def test_rows_that_no_chunk_can_have(places: list[ChunkPlace], wrong: str) -> None:
    with pytest.raises(IntegrityError, match=f"^{KEY} in the remote is damaged: .*{wrong}"):
        read(sections_of(columns_of(*places)))


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_chain_that_is_too_long(is_reversed: bool) -> None:
    named = digests(MAX_DELTA_LINKS + 2)
    order = named[::-1] if is_reversed else named
    chain = {order[0]: WHOLE}
    for base, digest in itertools.pairwise(order):
        chain[digest] = delta_on(base)._replace(grouping=order[0])
    with pytest.raises(IntegrityError, match="too long"):
        read(sections_of(columns_of(*map(chain.__getitem__, named))))
    del chain[order[-1]]
    left = [digest for digest in named if digest in chain]
    checked(read(sections_of(replace(columns_of(), manifest=manifest_of([[(d, 100) for d in left]]), chunks=chain))))


def test_a_base_of_another_length() -> None:
    one, two = digests(2)
    manifest = manifest_of([[(one, 100)], [(two, 101)]])
    places = {one: WHOLE, two: WHOLE._replace(raw_bytes=101, encoding=DELTA, base=one, grouping=one)}
    with pytest.raises(IntegrityError, match="another length"):
        read(sections_of(Segment(manifest, columns_of(WHOLE).packs, places)))


def test_a_chunk_that_stands_twice() -> None:
    sections = sections_of(columns_of(WHOLE))
    table = said(sections[2])
    again = [table[0] + bytes(ONE), *([column[0]] * 2 for column in table[1:])]
    with pytest.raises(IntegrityError, match="twice"):
        read([*sections[:2], frame(again)])


def test_a_pack_that_stands_twice() -> None:
    sections = sections_of(columns_of(WHOLE))
    with pytest.raises(IntegrityError, match="twice"):
        read([frame(said(sections[0]) * 2), *sections[1:]])


def test_what_a_newer_release_adds_is_ignored_and_what_it_requires_is_not() -> None:
    sections = sections_of(columns_of(WHOLE))
    more = [frame([[*row, "more"] for row in said(sections[0])]), sections[1], frame([*said(sections[2]), [1], None])]
    assert read(more).chunks == columns_of(WHOLE).chunks
    for header in ({"format": 2}, {"requires": 1}, {"hash": 2}):
        with pytest.raises(UnsupportedFormat, match=f"^{KEY} in the remote was written by a newer casstore"):
            read(sections, **header)
    with pytest.raises(IntegrityError, match=f"^{KEY} in the remote is not a segment"):
        read(sections, magic=b"casspack")
    manifest = said(sections[1]) | {"requires": ["sparse"]}
    with pytest.raises(UnsupportedFormat, match=f"^{KEY} in the remote: .*newer casstore"):
        read([sections[0], frame(manifest), sections[2]])


def zeros(size: int) -> bytes:
    """A frame of very few bytes that becomes so many."""
    stream = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    return b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)), stream.flush()])


def array(count: int, item: bytes) -> bytes:
    """A frame of an array of so many of the same item."""
    return zstandard.ZstdCompressor(level=3).compress(struct.pack(">BI", 0xDD, count) + item * count)


BOMBS = {
    "zeros": lambda: zeros(256 << 20),
    "a claim": lambda: b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00",
    "a length": lambda: zstandard.compress(struct.pack(">BI", 0xDD, 0xFFFFFFFF)),
    "empty lists": lambda: array(20_000_000, b"\x90"),
    "nothing": lambda: array(20_000_000, b"\xc0"),
    "maps": lambda: array(5_000_000, b"\x80"),
    "nested": lambda: zstandard.compress(b"\x91" * 1_000_000 + b"\xc0"),
    "lists of lists": lambda: frame([[[[]] * 100_000] * 8] * 8),
}


@pytest.mark.parametrize("number", [0, 2], ids=["packs", "chunks"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_section_that_would_become_much(bomb: str, number: int) -> None:
    sections = sections_of(columns_of(WHOLE))
    sections[number] = BOMBS[bomb]()
    data, check = sealed(sections)
    assert len(data) < 4 << 20
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match=f"^{KEY} in the remote is damaged"):
            Segment.unpack(data, check, KEY)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY + 2 * len(data)
    finally:
        tracemalloc.stop()


def test_a_header_that_says_too_much_is_refused_before_anything_is_read() -> None:
    header = struct.pack("<8sHHI" + "I32s" * 3, b"casssegm", 1, 0, 1, MOST_BYTES, bytes(32), 0, bytes(32), 0, bytes(32))
    with pytest.raises(IntegrityError, match="too long"):
        Header.unpack(header, Digest.of(header), KEY)
    with pytest.raises(IntegrityError, match="header"):
        Header.unpack(b"", Digest.of(b""), KEY)


def test_msgpack_of_a_timestamp_that_cannot_be() -> None:
    sections = sections_of(columns_of(WHOLE))
    sections[2] = zstandard.compress(
        msgpack.packb([b"", [msgpack.ExtType(1, b"")]]).replace(b"\xc7\x00\x01", b"\xc7\x01\xff\x00")
    )
    with pytest.raises(IntegrityError, match=KEY):
        read(sections)
