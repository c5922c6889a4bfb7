from __future__ import annotations

import struct
import threading
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.coding.codec import _encode_planes, decode, encode
from casstore.storage.coding.encodings import Encoding
from casstore.storage.recipe import MAX_CHUNK_BYTES
from casstore.storage.tensors.elements import BYTES, Element, element_of

raw_bytes = st.one_of(
    st.binary(max_size=300),
    st.builds(bytes.__mul__, st.binary(max_size=9), st.integers(0, 200)),
    # Like floats: every second byte nearly the same.
    st.builds(lambda noise: bytes(b for n in noise for b in (n, 0x3F)), st.binary(max_size=400)),
)
elements = st.sampled_from([Element(1), Element(2), Element(4), Element(8)])


@given(raw_bytes, elements, st.integers(0, 9))
def test_planes_come_back_whatever_their_streams(raw: bytes, element: Element, times: int) -> None:
    """Also where another encoding would have been chosen: of lengths below an element's, with any tail."""
    width = max(2, element.width)
    raw *= times
    assert decode(Encoding.PLANES, _encode_planes(raw, width), len(raw)) == raw


@given(raw_bytes, elements)
def test_round_trip(raw: bytes, element: Element) -> None:
    encoding, encoded = encode(raw, element)
    assert len(encoded) < len(raw) * 0.95 or (encoding, encoded) == (Encoding.RAW, raw)
    assert decode(encoding, encoded, len(raw)) == raw
    assert encode(memoryview(raw), element) == (encoding, encoded)


def test_the_numbers_of_the_encodings_are_part_of_the_format() -> None:
    assert {encoding.name: int(encoding) for encoding in Encoding} == {"RAW": 0, "ZSTD": 1, "PLANES": 2, "DELTA": 3}


# By hand from docs/format.md and RFC 8878: frames of one run-length block each, which no compressor makes.
ZSTD_OF_64_A = bytes.fromhex("28b52ffd 20 40 030200 61")
ZSTD_OF_16_Z = bytes.fromhex("28b52ffd 20 10 830000 7a")
GOLDEN = [
    (Encoding.RAW, b"any bytes", b"any bytes"),
    (Encoding.RAW, b"", b""),
    (Encoding.ZSTD, ZSTD_OF_64_A, b"a" * 64),
    # Two planes of three elements, both as they are, and one byte after the last whole element.
    (Encoding.PLANES, bytes.fromhex("02 00 03000000 00 03000000 414243 616263 2e"), b"AaBbCc."),
    # The second of two planes of 16 elements in zstd.
    (
        Encoding.PLANES,
        bytes.fromhex("02 00 10000000 01 0a000000") + b"0123456789abcdef" + ZSTD_OF_16_Z,
        b"0z1z2z3z4z5z6z7z8z9zazbzczdzezfz",
    ),
    # A plane of nothing but zeros, which takes nothing.
    (Encoding.PLANES, bytes.fromhex("02 02 00000000 00 05000000") + b"abcde" + b".", b"\0a\0b\0c\0d\0e."),
    (Encoding.PLANES, b"\x04" + b"\2\0\0\0\0" * 4 + b"xyz", bytes(4000) + b"xyz"),
    # Fewer bytes than an element takes: all are tail.
    (Encoding.PLANES, b"\x08" + b"\0\0\0\0\0" * 8 + b"abcdefg", b"abcdefg"),
    (Encoding.PLANES, b"\x04" + b"\0\1\0\0\0" * 4 + b"wxyz", b"wxyz"),
    (Encoding.PLANES, b"\x08" + b"\0\1\0\0\0" * 8 + b"abcdefgh" + b"1234567", b"abcdefgh1234567"),
]


@pytest.mark.parametrize(("encoding", "encoded", "raw"), GOLDEN)
def test_golden_bytes_are_readable(encoding: int, encoded: bytes, raw: bytes) -> None:
    assert decode(encoding, encoded, len(raw)) == raw


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_planes_are_chosen_for_floats_and_beat_zstd(dtype: str) -> None:
    weights = np.random.default_rng(1).normal(0, 0.02, 100_000).astype(dtype).tobytes()
    encoding, encoded = encode(weights, Element(int(dtype[-1])))
    assert encoding is Encoding.PLANES
    assert len(encoded) < 0.95 * len(zstandard.ZstdCompressor(level=3).compress(weights))


def test_planes_of_bfloat16() -> None:
    weights = np.random.default_rng(1).normal(0, 0.02, 100_000).astype("<f4").view("<u2")[1::2].tobytes()
    encoding, encoded = encode(weights, element_of("BF16"))
    assert encoding is Encoding.PLANES
    # Real weights take 0.67 (benchmarks/codec.py).
    assert len(encoded) < 0.72 * len(weights)
    # The mantissa's plane is noise and stands as it is.
    assert encoded[1] == 0
    assert encoded[6] == 1


def test_zstd_for_bytes_of_no_known_type_and_raw_for_noise() -> None:
    assert encode(b"text " * 100, BYTES)[0] is Encoding.ZSTD
    noise = np.random.default_rng(2).bytes(10_000)
    for width in (1, 2, 4, 8):
        assert encode(noise, Element(width)) == (Encoding.RAW, noise)


def damaged(encoding: int, encoded: bytes, size: int) -> bytes | None:
    """What comes of bytes that may be anything: the right length, or one of two errors."""
    try:
        raw = decode(encoding, encoded, size)
    except IntegrityError:  # UnsupportedFormat is one
        return None
    assert len(raw) == size
    return raw


@given(st.integers(0, 255), st.binary(max_size=200), st.integers(-1, 400))
def test_arbitrary_bytes(encoding: int, encoded: bytes, size: int) -> None:
    damaged(encoding, encoded, size)


@given(raw_bytes.filter(bool), elements, st.data())
def test_mutated_bytes(raw: bytes, element: Element, draw: st.DataObject) -> None:
    encoding, found = encode(raw, element)
    encoded = bytes(found)
    position = draw.draw(st.integers(0, len(encoded) - 1))
    damaged(encoding, encoded[:position], len(raw))
    assert damaged(encoding, encoded + b"\0", len(raw)) is None
    mutated = encoded[:position] + bytes([draw.draw(st.integers(0, 255))]) + encoded[position + 1 :]
    damaged(encoding, mutated, len(raw))
    for other in Encoding:
        damaged(other, encoded, len(raw))


@given(raw_bytes.filter(bool), elements, st.integers(-3, 3).filter(bool))
def test_another_length_than_it_has(raw: bytes, element: Element, more: int) -> None:
    encoding, encoded = encode(raw, element)
    assert damaged(encoding, bytes(encoded), len(raw) + more) is None


def test_a_delta_is_nothing_by_itself() -> None:
    with pytest.raises(IntegrityError, match="a delta stands where a whole chunk should be"):
        decode(Encoding.DELTA, b"abc", 3)


@pytest.mark.parametrize("encoding", [4, 77, 255, -1])
def test_unknown_encodings(encoding: int) -> None:
    with pytest.raises(UnsupportedFormat, match=f"encoding {encoding}, which this casstore does not know; upgrade"):
        decode(encoding, b"abc", 3)


def frame_that_claims(size: int) -> bytes:
    # An eight-byte content size, one segment, then a run-length block as long as a block may be.
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x03\x00\x10a"


def planes_that_claim(length: int) -> bytes:
    return b"\x02" + struct.pack("<BI", 0, length) * 2


@pytest.mark.parametrize(
    ("encoding", "encoded", "size"),
    [
        (Encoding.ZSTD, frame_that_claims(1 << 40), 100),
        (Encoding.ZSTD, frame_that_claims((1 << 64) - 2), 100),
        (Encoding.ZSTD, frame_that_claims(MAX_CHUNK_BYTES), 100),
        (Encoding.ZSTD, frame_that_claims(100) * 1000, 100),
        (Encoding.PLANES, planes_that_claim(0xFFFFFFFF), 100),
        (Encoding.PLANES, b"\x02" + struct.pack("<BI", 1, 17) * 2 + frame_that_claims(1 << 40) * 2, 100),
        (Encoding.RAW, b"", 1 << 40),
        (Encoding.ZSTD, frame_that_claims(1 << 40), 1 << 40),
        (Encoding.PLANES, planes_that_claim(1 << 20), 1 << 40),
        (Encoding.ZSTD, frame_that_claims(0), -1),
    ],
)
def test_claims_of_size_allocate_nothing(encoding: int, encoded: bytes, size: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decode(encoding, encoded, size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_without_its_size_is_refused() -> None:
    encoded = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)
    with pytest.raises(IntegrityError):
        decode(Encoding.ZSTD, encoded, 100)


def test_threads_do_not_share_contexts() -> None:
    chunks = [bytes([n]) * 50_000 + np.random.default_rng(n).bytes(1000) for n in range(8)]
    wrong: list[int] = []

    def work(n: int) -> None:
        for width in (1, 2, 4) * 20:
            encoding, encoded = encode(chunks[n], Element(width))
            if decode(encoding, encoded, len(chunks[n])) != chunks[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
