from __future__ import annotations

import functools
import struct
import threading
import tracemalloc
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casstore.errors import IntegrityError
from casstore.storage.coding.codec import Against, decode, encode
from casstore.storage.coding.delta import Grouping, decode_deltas, encode_delta
from casstore.storage.coding.encodings import Encoding
from casstore.storage.tensors.segments import ELEMENT_BITS, Element, element_of

ELEMENTS = sorted({element_of(dtype) for dtype in ELEMENT_BITS})
# Exponents where no dtype has them: at either end of the number, of one bit, of eleven.
ODD_ELEMENTS = [
    Element(1, 0, 8),
    Element(1, 7, 1),
    Element(2, 0, 11),
    Element(2, 5, 11),
    Element(4, 31, 1),
    Element(8, 0, 1),
]
KINDS = ["noise", "equal", "zeros", "ones", "weights", "wide", "special"]


def test_elements_are_of_every_width() -> None:
    assert {element.width for element in ELEMENTS} == {1, 2, 4, 8}
    assert Element(8, 52, 11) in ELEMENTS
    assert Element(1, 2, 5) in ELEMENTS
    assert Element(4) in ELEMENTS


def special(element: Element) -> list[int]:
    """Bit patterns of zero, the smallest denormal, infinity, NaN, each also negative, and their neighbours."""
    sign = 1 << (8 * element.width - 1)
    exponent = ((1 << element.exponent_bits) - 1) << element.exponent_shift
    patterns = [0, 1, exponent, exponent | 1, exponent >> 1, (1 << element.exponent_shift) - 1, sign - 1]
    return [pattern % sign | bit for pattern in patterns for bit in (0, sign)]


def numbers(values: npt.NDArray[np.float64], element: Element) -> bytes:
    """Values as elements of that kind; bfloat16 and the eight-bit floats are beginnings of wider ones."""
    with np.errstate(over="ignore", under="ignore"):
        match element:
            case (1, 2, 5):
                return values.astype("<f2").view("u1")[1::2].tobytes()
            case (1, 3, 4):
                return (values.astype("<f2").view("<u2") >> 7).astype("u1").tobytes()
            case (2, 7, 8):
                return values.astype("<f4").view("<u2")[1::2].tobytes()
            case (width, 10 | 23 | 52, _):
                return values.astype(f"<f{width}").tobytes()
        return (values.clip(-1, 1) * 127).astype(f"<i{element.width}").tobytes()


@functools.lru_cache(256)
def buffer(kind: str, element: Element, count: int, tail: int, seed: int) -> bytes:
    """So many elements and bytes after them."""
    generator = np.random.default_rng(seed)
    width = element.width
    match kind:
        case "noise":
            body = generator.bytes(count * width)
        case "equal":
            body = generator.bytes(width) * count
        case "zeros" | "ones":
            body = (b"\0" if kind == "zeros" else b"\xff") * (count * width)
        case "special":
            body = generator.choice(np.array(special(element), f"<u{width}"), count).tobytes()
        case _:
            spread = 10.0 ** generator.integers(-9, 9, count) if kind == "wide" else 1.0
            body = numbers(generator.normal(0, 0.02, count) * spread, element)
    return body + generator.bytes(tail)


@functools.lru_cache(256)
def changed(raw: bytes, how: str, element: Element, seed: int) -> bytes:
    """What training, or anything else, may make of a buffer."""
    generator = np.random.default_rng(seed)
    count = len(raw) // element.width
    bits = np.frombuffer(raw, f"<u{element.width}", count).copy()
    tail = raw[count * element.width :]
    match how:
        case "same":
            return raw
        case "one" if count:
            bits[generator.integers(count)] ^= bits.dtype.type(1)
        case "steps":
            bits += generator.integers(-3, 4, count).astype(bits.dtype)
        case "jumps":
            bits += np.where(generator.random(count) < 0.1, generator.integers(0, 1 << 62, count), 0).astype(bits.dtype)
        case "other":
            return generator.bytes(len(raw))
        case "tail":
            tail = generator.bytes(len(tail))
    return bits.tobytes() + tail


counts = st.integers(0, 40) | st.sampled_from(
    # Around groups of 4,096 elements, as one in seven of them tells, and around zstd's largest block.
    [4095, 4096, 4097, 8191, 8192, 8193, 12_288, 28_665, 28_672, 28_679, 131_071, 131_072, 131_073]
)
elements = st.sampled_from(ELEMENTS + ODD_ELEMENTS)
kinds = st.sampled_from(KINDS)
hows = st.sampled_from(["same", "one", "steps", "jumps", "other", "tail"])
seeds = st.integers(0, 5)
tails = st.integers(0, 7)


def link(raw: bytes, base: bytes, grouping_raw: bytes, element: Element) -> bytes:
    return encode_delta(raw, base, Grouping(grouping_raw, element))


@settings(deadline=None, max_examples=300)
@given(elements, kinds, counts, tails, hows, seeds)
@example(Element(2, 7, 8), "weights", 0, 1, "tail", 0)
@example(Element(8, 52, 11), "wide", 131_073, 7, "steps", 0)
def test_one_link_grouped_by_its_base(element: Element, kind: str, count: int, tail: int, how: str, seed: int) -> None:
    base = buffer(kind, element, count, tail % element.width, seed)
    raw = changed(base, how, element, seed)
    encoded = link(raw, base, base, element)
    assert decode_deltas(base, [encoded], base) == raw
    assert link(raw, base, base, element) == encoded
    assert decode_deltas(base, [memoryview(encoded)], base) == raw
    assert encode_delta(memoryview(raw), memoryview(base), Grouping(memoryview(base), element)) == encoded


@settings(deadline=None, max_examples=300)
@given(elements, st.tuples(kinds, kinds, kinds), counts, tails, seeds)
def test_any_base_and_any_grouping(
    element: Element, of_each: tuple[str, str, str], count: int, tail: int, seed: int
) -> None:
    """Nothing but the length has to fit."""
    kind, base_kind, grouping_kind = of_each
    tail %= element.width
    raw = buffer(kind, element, count, tail, seed)
    base = buffer(base_kind, element, count, tail, seed + 1)
    grouping_raw = buffer(grouping_kind, element, count, tail, seed + 2)
    assert decode_deltas(base, [link(raw, base, grouping_raw, element)], grouping_raw) == raw


@given(st.binary(max_size=60), st.data())
def test_any_bytes(raw: bytes, draw: st.DataObject) -> None:
    element = draw.draw(elements)
    same_length = st.binary(min_size=len(raw), max_size=len(raw))
    base, grouping_raw = draw.draw(same_length), draw.draw(same_length)
    assert decode_deltas(base, [link(raw, base, grouping_raw, element)], grouping_raw) == raw


@settings(deadline=None, max_examples=150)
@given(elements, kinds, st.tuples(counts, tails), st.lists(hows, min_size=1, max_size=8), seeds, st.booleans())
def test_chains_that_share_a_grouping(
    element: Element, kind: str, size: tuple[int, int], steps: list[str], seed: int, by_another: bool
) -> None:
    count, tail = size
    start = buffer(kind, element, count, tail % element.width, seed)
    grouping_raw = buffer("weights", element, count, tail % element.width, seed + 9) if by_another else start
    raws = [start]
    for number, how in enumerate(steps):
        raws.append(changed(raws[-1], how, element, seed + number))
    links = [link(raw, before, grouping_raw, element) for before, raw in pairwise(raws)]
    for number in range(len(links) + 1):
        assert decode_deltas(start, links[:number], grouping_raw) == raws[number]
    # From the middle, what is added up is the same.
    assert decode_deltas(raws[1], links[1:], grouping_raw) == raws[-1]


@settings(deadline=None, max_examples=150)
@given(st.lists(elements, min_size=2, max_size=8), kinds, st.integers(0, 70_000), hows, seeds)
def test_chains_whose_links_are_grouped_in_different_ways(
    of_links: list[Element], kind: str, size: int, how: str, seed: int
) -> None:
    """The same bytes under other dtypes: groups, widths and tails differ from link to link."""
    start = buffer(kind, Element(1), size, 0, seed)
    raws = [start]
    for number, element in enumerate(of_links):
        raws.append(changed(raws[-1], how, element, seed + number))
    links = [link(raw, before, start, element) for element, before, raw in zip(of_links, raws, raws[1:], strict=False)]
    assert decode_deltas(start, links, start) == raws[-1]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("base_kind", ["zeros", "special", "noise"])
def test_special_numbers_come_back_bit_by_bit(element: Element, base_kind: str) -> None:
    patterns = special(element)
    raw = np.array(patterns * 300, f"<u{element.width}").tobytes()
    base = buffer(base_kind, element, len(patterns) * 300, 0, 3)
    for grouping_raw in (raw, base):
        assert decode_deltas(base, [link(raw, base, grouping_raw, element)], grouping_raw) == raw


def streams(*pieces: tuple[int, bytes]) -> bytes:
    """The table, and what it tells of: the bit map, then the planes."""
    table = b"".join(struct.pack("<BI", kind, len(stream)) for kind, stream in pieces)
    return table + b"".join(stream for _, stream in pieces)


# By hand from docs/format.md. Elements of one byte, whose lowest bit is the key; the group of zeros, then of ones.
HEADER = bytes([1, 0, 1, 2]) + struct.pack("<HH", 0, 1)
GROUPED_BY = b"\x00\x01\x02\x03\x05"
BASE = bytes([10, 20, 30, 40, 0])
GOLDEN = [
    # Both groups in the map: elements 0, 2; 1, 3, 4. The first by +1, the second by -1, the rest stay.
    (HEADER + b"\0" + streams((0, b"\x03"), (0, b"\x02\x01")), bytes([11, 20, 29, 40, 0])),
    # Bits beyond the last element mean nothing.
    (HEADER + b"\0" + streams((0, b"\xe3"), (0, b"\x02\x01")), bytes([11, 20, 29, 40, 0])),
    # The first group without a map, the second in one: bits 0 and 2 are elements 1 and 4.
    (HEADER + b"\1" + streams((0, b"\x05"), (0, b"\x02\x01\x04\x03")), bytes([11, 22, 29, 40, 254])),
    # The first group alone.
    (HEADER + b"\1" + streams((2, b""), (0, b"\x02\x01")), bytes([11, 20, 29, 40, 0])),
    # No map: 0 - 1 and 0 - 2 wrap around; 127 is the largest that counts upwards, -128 has no opposite.
    (HEADER + b"\2" + streams((2, b""), (0, b"\xfe\xff\x04\x03\x03")), bytes([137, 22, 158, 38, 254])),
    (HEADER + b"\2" + streams((2, b""), (2, b"")), BASE),
]


@pytest.mark.parametrize(("encoded", "raw"), GOLDEN)
def test_golden_bytes_are_readable(encoded: bytes, raw: bytes) -> None:
    assert decode_deltas(BASE, [encoded], GROUPED_BY) == raw


def test_golden_bytes_of_wide_elements_are_readable() -> None:
    # Three elements of two bytes with one group, the low byte's plane first, and a tail.
    encoded = bytes([2, 0, 0, 1]) + struct.pack("<H", 0) + b"\1"
    encoded += streams((2, b""), (0, b"\x02\x00\xff"), (0, b"\x00\x02\xff")) + b"!"
    base = struct.pack("<3H", 0xFFFF, 7, 0) + b"?"
    assert decode_deltas(base, [encoded], bytes(7)) == struct.pack("<3H", 0x0000, 7 + 0x100, 0x8000) + b"!"


def test_the_key_is_the_exponent_of_what_an_element_is_grouped_by() -> None:
    # Two bytes of which bits 7 to 9 are the key; groups of the keys up to 2, 3 to 5, and above. The map's bits go by
    # group, and within a group by place: elements 2 and 5, 1 and 4, 0 and 3.
    encoded = (
        bytes([2, 7, 3, 3])
        + struct.pack("<3H", 2, 5, 7)
        + b"\0"
        + streams((0, b"\x3f"), (0, bytes(range(2, 14, 2))), (2, b""))
    )
    grouping_raw = struct.pack("<6H", 6 << 7, 5 << 7 | 0xFC7F, 2 << 7 | 127, 7 << 7, 3 << 7, 0)
    assert decode_deltas(bytes(12), [encoded], grouping_raw) == struct.pack("<6H", 5, 3, 1, 6, 4, 2)


def test_golden_chains_add_up() -> None:
    first, second = GOLDEN[0], GOLDEN[4]
    assert decode_deltas(BASE, [first[0], second[0], first[0]], GROUPED_BY) == bytes(
        (a + b - c + d - c) % 256 for a, b, c, d in zip(first[1], second[1], BASE, first[1], strict=True)
    )


def table_of(encoded: bytes) -> tuple[list[int], int, list[tuple[int, int]], int]:
    """Last keys, groups without a map, kind and length of each stream, and where the streams begin."""
    width, _, _, count = encoded[:4]
    end = 4 + 2 * count
    start = end + 1 + 5 * (1 + width)
    last_keys = [*struct.unpack_from(f"<{count}H", encoded, 4)]
    return last_keys, encoded[end], [*struct.iter_unpack("<BI", encoded[end + 1 : start])], start


def test_the_header_says_what_the_document_says() -> None:
    element = element_of("F32")
    weights = buffer("weights", element, 100_000, 3, 1)
    encoded = link(changed(weights, "steps", element, 1), weights, weights, element)
    assert tuple(encoded[:3]) == element
    last_keys, dense, table, start = table_of(encoded)
    assert last_keys == sorted(set(last_keys))
    assert last_keys[-1] == 255
    keys = np.frombuffer(weights, "<u4", 100_000) >> 23 & 255
    sizes = np.diff([0, *(np.count_nonzero(keys <= last) for last in last_keys)])
    # Worth an entropy code each, going by a sample.
    assert 3 <= len(last_keys) <= 24
    assert sizes.min() > 3500
    # Six of seven differ, so no group is in the map, and the three high planes of small steps hold nothing.
    assert dense == len(last_keys)
    assert [kind for kind, _ in table] == [2, 1, 2, 2, 2]
    assert len(encoded) == start + sum(length for _, length in table) + 3
    sparse = link(changed(weights, "jumps", element, 1), weights, weights, element)
    assert table_of(sparse)[:2] == (last_keys, 0)
    assert table_of(sparse)[2][0][0] == 1


def test_groups_are_dense_up_to_the_first_that_is_not() -> None:
    """What differs in three quarters of its elements or less is in the map, and all that follows it."""
    element = element_of("F16")
    base = np.repeat(np.arange(1, 6, dtype="<u2") << 10, 8192)
    cases: list[tuple[list[float], int]] = [
        ([1, 1, 1, 1, 1], 5),
        ([1, 0.8, 0.7, 0.2, 0], 2),
        ([0.7, 1, 1, 1, 1], 0),
        ([0.8, 0.1, 1, 1, 1], 1),
    ]
    for shares, dense in cases:
        moved = np.concatenate([np.arange(8192) < share * 8192 for share in shares])
        raw = (base + moved).astype("<u2").tobytes()
        encoded = link(raw, base.tobytes(), base.tobytes(), element)
        assert table_of(encoded)[:2] == ([1, 2, 3, 4, 31], dense)
        assert decode_deltas(base.tobytes(), [encoded], base.tobytes()) == raw


@pytest.mark.parametrize("element", [element_of("I32"), Element(1), element_of("F64")])
def test_few_elements_and_integers_make_one_group(element: Element) -> None:
    raw = buffer("wide", element, 4000, 0, 1)
    assert link(raw, raw, raw, element)[3] == 1


@pytest.mark.parametrize("count", [64 * 4096, 448 * 640 - 1, 448 * 640, 500_000])
def test_groups_are_bounded_in_number(count: int) -> None:
    element = element_of("F64")
    raw = np.random.default_rng(1).integers(0, 1 << 63, count, np.uint64).tobytes()
    encoded = link(raw, raw, raw, element)
    assert 48 < encoded[3] <= 64
    assert decode_deltas(raw, [encoded], raw) == raw


def test_grouping_pays() -> None:
    """What moves by about as much whatever its size differs most where it is small."""
    generator = np.random.default_rng(5)
    element = element_of("F16")
    base = generator.normal(0, 0.05, 500_000).astype("<f2")
    raw = (base.astype("f4") + generator.normal(0, 2e-5, base.size)).astype("<f2").tobytes()
    grouped = link(raw, base.tobytes(), base.tobytes(), element)
    assert len(grouped) < 0.93 * len(link(raw, base.tobytes(), base.tobytes(), Element(2)))
    # By another that is grouped alike, it takes no more.
    other = (base.astype("f4") * 1.001).astype("<f2").tobytes()
    assert len(link(raw, base.tobytes(), other, element)) < 1.02 * len(grouped)


encodings = st.sampled_from(["same", "one", "steps", "jumps", "other"])


@settings(deadline=None, max_examples=300)
@given(elements, kinds, counts, tails, encodings, seeds)
@example(Element(1), "noise", 0, 0, "same", 0)
@example(Element(2, 7, 8), "weights", 65_536, 1, "steps", 0)
def test_what_encode_chooses(element: Element, kind: str, count: int, tail: int, how: str, seed: int) -> None:
    base = buffer(kind, element, count, tail % element.width, seed)
    raw = changed(base, how, element, seed)
    against = Against(base, Grouping(base, element))
    encoding, encoded = encode(raw, element, against)
    assert len(encoded) < 0.95 * len(raw) or (encoding, encoded) == (Encoding.RAW, raw)
    alone, encoded_alone = encode(raw, element)
    if encoding is Encoding.DELTA:
        assert decode_deltas(base, [encoded], base) == raw
        # A chunk that needs another has to pay for that.
        assert len(encoded) < max(0.5 * len(raw), 0.9 * len(encoded_alone))
        with pytest.raises(IntegrityError, match="a delta stands where a whole chunk should be"):
            decode(encoding, encoded, len(raw))
    else:
        assert (encoding, encoded) == (alone, encoded_alone)
        assert decode(encoding, encoded, len(raw)) == raw
        assert len(link(raw, base, base, element)) >= min(0.5 * len(raw), 0.9 * len(encoded))


def test_encode_takes_a_delta_where_it_saves_and_only_there() -> None:
    element = element_of("F32")
    base = buffer("weights", element, 50_000, 0, 1)
    against = Against(base, Grouping(base, element))
    assert encode(changed(base, "steps", element, 1), element, against)[0] is Encoding.DELTA
    assert encode(buffer("weights", element, 50_000, 0, 2), element, against)[0] is Encoding.PLANES
    assert encode(buffer("noise", element, 50_000, 0, 2), element, against)[0] is Encoding.RAW
    assert encode(bytes(len(base)), element, against)[0] is Encoding.PLANES


@functools.lru_cache(64)
def victim(element: Element, count: int, tail: int) -> tuple[bytes, bytes, bytes]:
    """Base, changed, and the delta between them, which has a few groups and all kinds of streams."""
    base = buffer("wide", element, count, tail % element.width, 1)
    raw = bytearray(changed(base, "jumps", element, 1))
    raw[: len(raw) // 2] = changed(base, "steps", element, 2)[: len(raw) // 2]
    return base, bytes(raw), link(bytes(raw), base, base, element)


victims = st.builds(
    victim, st.sampled_from([*ELEMENTS, Element(2, 0, 11)]), st.sampled_from([0, 1, 5, 100, 9000, 20_000]), tails
)


def damaged(base: bytes, links: list[bytes], grouping_raw: bytes) -> bytes | None:
    """What comes of bytes that may be anything: the right length, or one error."""
    try:
        raw = decode_deltas(base, links, grouping_raw)
    except IntegrityError:
        return None
    assert len(raw) == len(base)
    return raw


@pytest.mark.crash
@settings(deadline=None, max_examples=1000)
@given(victims, st.data())
def test_mutated_deltas(made: tuple[bytes, bytes, bytes], draw: st.DataObject) -> None:
    base, _, encoded = made
    mutated = bytearray(encoded)
    # Header and table, where most of the damage can be done, come first.
    positions = st.integers(0, len(encoded)) | st.integers(0, min(len(encoded), 300))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(positions)
        match draw.draw(st.sampled_from(["flip", "truncate", "insert", "delete", "number"])):
            case "flip":
                mutated[at : at + 1] = bytes([draw.draw(st.integers(0, 255))])
            case "truncate":
                del mutated[at:]
            case "insert":
                mutated[at:at] = draw.draw(st.binary(min_size=1, max_size=16))
            case "delete":
                del mutated[at : at + draw.draw(st.integers(1, 16))]
            case "number":
                mutated[at : at + 4] = struct.pack("<I", draw.draw(st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1])))
    damaged(base, [bytes(mutated)], base)
    damaged(base, [encoded, bytes(mutated), encoded], base)


@given(st.binary(max_size=200), st.binary(max_size=40), st.integers(0, 255))
def test_arbitrary_bytes(encoded: bytes, base: bytes, number: int) -> None:
    damaged(base, [encoded], base)
    for element in (Element(1), Element(2, 7, 8), Element(8, 52, 11)):
        damaged(base, [bytes([*element, number]) + encoded], base)
        damaged(base, [bytes([*element, 1]) + struct.pack("<H", (1 << element.exponent_bits) - 1) + encoded], base)


@pytest.mark.parametrize("element", [Element(1), element_of("BF16"), element_of("F64")])
def test_cut_short_anywhere_or_longer_than_it_is(element: Element) -> None:
    base, raw, encoded = victim(element, 9000, 3)
    assert damaged(base, [encoded], base) == raw
    every = (
        range(len(encoded)) if len(encoded) < 3000 else [*range(300), *range(300, len(encoded), 97), len(encoded) - 1]
    )
    for length in every:
        assert damaged(base, [encoded[:length]], base) is None
    for more in (b"\0", b"\0" * element.width, encoded):
        assert damaged(base, [encoded + more], base) is None


def test_base_grouping_and_delta_must_be_of_one_length() -> None:
    base, raw, encoded = victim(element_of("F32"), 100, 2)
    assert damaged(base, [encoded], base) == raw
    for more in (-4, -1, 1, 4):
        other = (base + bytes(4))[: len(base) + more]
        assert damaged(other, [encoded], base) is None
        assert damaged(base, [encoded], other) is None
        damaged(other, [encoded], other)
    assert damaged(b"", [encoded], b"") is None


NOTHING = (2, b"")


def test_damaged_headers_are_refused() -> None:
    """Of deltas that would be right but for their header."""
    base = bytes(range(8))
    good = bytes([2, 7, 8, 1]) + struct.pack("<HB", 255, 0) + streams(*[NOTHING] * 3)
    assert decode_deltas(base, [good], base) == base
    for width, shift, bits in [
        (0, 0, 0),
        (3, 0, 0),
        (5, 0, 0),
        (16, 0, 0),
        (255, 0, 0),
        (2, 7, 12),
        (2, 9, 8),
        (1, 1, 8),
        (8, 64, 1),
        (8, 0, 12),
        (2, 17, 0),
        (2, 255, 255),
    ]:
        last_key = min((1 << bits) - 1, 0xFFFF)
        encoded = bytes([width, shift, bits, 1]) + struct.pack("<HB", last_key, 0) + streams(*[NOTHING] * (1 + width))
        with pytest.raises(IntegrityError, match="header"):
            decode_deltas(base, [encoded], base)


@pytest.mark.parametrize(
    "last_keys",
    [(), (254,), (256,), (0xFFFF,), (255, 255), (9, 9, 255), (9, 8, 255), (255, 9), (9, 255, 256), (*range(64), 255)],
)
def test_groups_that_do_not_ascend_to_the_largest_key_are_refused(last_keys: tuple[int, ...]) -> None:
    base = bytes(range(8))
    header = bytes([2, 7, 8, len(last_keys)]) + struct.pack(f"<{len(last_keys)}HB", *last_keys, 0)
    with pytest.raises(IntegrityError, match="groups"):
        decode_deltas(base, [header + streams(*[NOTHING] * 3)], base)


@pytest.mark.parametrize("dense", range(4))
def test_no_more_groups_are_dense_than_there_are(dense: int) -> None:
    encoded = HEADER + bytes([dense]) + streams(NOTHING, NOTHING)
    assert (damaged(BASE, [encoded], GROUPED_BY) == BASE) == (dense <= 2)


@pytest.mark.parametrize(
    ("dense", "pieces"),
    [
        # A map of three bits, and a value for each that is set; the first group has two elements.
        (1, [(0, b""), (0, b"\1\2")]),
        (1, [(0, b"\1\0"), (0, b"\1\2\3")]),
        (1, [(0, b"\1"), (0, b"\1\2")]),
        (1, [(0, b"\1"), (0, b"\1\2\3\4")]),
        (1, [(2, b"\1"), (0, b"\1\2")]),
        (1, [(2, b""), (0, b"\1")]),
        (1, [(2, b""), (0, b"\1\2\3")]),
        (1, [(3, b"\1"), (0, b"\1\2\3")]),
        (1, [(0, b"\1"), (3, b"\1\2\3")]),
        (2, [(0, b"\1"), (0, b"\1\2\3\4\5")]),
        (2, [(2, b""), (0, b"\1\2\3\4")]),
        (0, [(2, b""), (0, b"\1")]),
        (0, [(1, b"\x1f"), (0, b"\1\2\3\4\5")]),
        (0, [(0, b"\x1f"), (1, b"\1\2\3\4\5")]),
    ],
)
def test_maps_and_values_that_do_not_fit_are_refused(dense: int, pieces: list[tuple[int, bytes]]) -> None:
    with pytest.raises(IntegrityError):
        decode_deltas(BASE, [HEADER + bytes([dense]) + streams(*pieces)], GROUPED_BY)


def frame_that_claims(size: int) -> bytes:
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x03\x00\x10a"


def test_claims_of_size_allocate_nothing() -> None:
    """Neither in the bit map nor in a plane does a stream lead to more than the base's size."""
    base = buffer("wide", element_of("F64"), 1 << 14, 0, 1)
    header = bytes([8, 52, 11, 64]) + struct.pack("<64H", *range(63), 2047)
    lying = [struct.pack("<BI", kind, 0xFFFFFFFF) * 9 for kind in range(4)]
    for size in (1 << 13, 1 << 14, (1 << 14) + 1, 1 << 40, (1 << 64) - 3):
        claim = (1, frame_that_claims(size))
        lying += [streams(claim, *[NOTHING] * 8), streams(NOTHING, *[claim] * 8), streams(*[claim] * 9)]
    tracemalloc.start()
    try:
        for dense in (0, 1, 63, 64):
            assert decode_deltas(base, [header + bytes([dense]) + streams(*[NOTHING] * 9)] * 8, base) == base
            for each in lying:
                with pytest.raises(IntegrityError):
                    decode_deltas(base, [header + bytes([dense]) + each], base)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(base)
    finally:
        tracemalloc.stop()


def test_nothing_that_is_handed_in_changes() -> None:
    element = element_of("F32")
    base = memoryview(bytearray(buffer("weights", element, 20_000, 1, 1)))
    raw = memoryview(bytearray(changed(bytes(base), "steps", element, 1)))
    before = bytes(base), bytes(raw)
    first = encode_delta(raw, base, Grouping(base, element))
    decoded = decode_deltas(bytes(base), [first], bytes(base))
    encode_delta(base, raw, Grouping(raw, element))
    assert (bytes(base), bytes(raw)) == before
    assert decoded == before[1]


def test_threads_do_not_share_room_to_work_in() -> None:
    work = []
    for n in range(8):
        element = ELEMENTS[n % len(ELEMENTS)]
        base = buffer("wide", element, 30_000 + n, 0, n)
        work.append((element, base, changed(base, "steps", element, n)))
    wrong: list[int] = []

    def run(n: int) -> None:
        element, base, raw = work[n]
        wrong.extend(n for _ in range(30) if decode_deltas(base, [link(raw, base, base, element)], base) != raw)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
