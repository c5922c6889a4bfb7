from __future__ import annotations

import contextlib
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore.errors import IntegrityError
from casstore.storage.coding import entropy
from casstore.storage.coding.arithmetic import Buffer
from casstore.storage.coding.entropy import Stream, decode_stream, decompress, encode_stream
from casstore.storage.recipe import MAX_CHUNK_BYTES
from tests.kit import checkpoint, contents, plant, script

KINDS = ["zeros", "few", "half", "mostly set", "skewed", "equal", "text", "noise"]


def plane(kind: str, size: int, seed: int = 0) -> bytes:
    return numbers(kind, size, seed).tobytes()


def numbers(kind: str, size: int, seed: int) -> npt.NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, size, np.uint8)
    match kind:
        case "zeros":
            return np.zeros(size, np.uint8)
        case "few" | "half" | "mostly set":
            share = {"few": 0.03, "half": 0.5, "mostly set": 0.8}[kind]
            return np.where(generator.random(size) < share, noise % 4 + 1, 0).astype(np.uint8)
        case "skewed":
            return np.minimum(generator.geometric(0.3, size), 255).astype(np.uint8)
        case "equal":
            return np.full(size, 0x3F, np.uint8)
        case "text":
            return np.resize(np.frombuffer(b"any text that repeats ", np.uint8), size)
        case _:
            return noise


def decoded(kind: int, stream: Buffer, size: int) -> bytes:
    found = decode_stream(kind, memoryview(stream), size)
    return bytes(size) if found is None else bytes(found)


seeds = st.integers(0, 9)
sizes = st.integers(0, 300) | st.sampled_from([4095, 4096, 4097, 8191, 8192, 8193, 65_535, 65_536, 65_537])
planes = st.builds(plane, st.sampled_from(KINDS), sizes, seeds) | st.binary(max_size=300)


@settings(deadline=None, max_examples=400)
@given(planes)
def test_round_trip(raw: bytes) -> None:
    kind, stream = encode_stream(raw)
    assert decoded(kind, stream, len(raw)) == raw
    assert len(stream) < len(raw) * 0.97 or (kind, stream) == (Stream.RAW, raw) or (kind, stream) == (2, b"")
    assert (kind is Stream.ZEROS) == (not any(raw))
    assert encode_stream(raw) == (kind, stream)


@pytest.mark.parametrize("size", [1000, 50_000])
@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("zeros", Stream.ZEROS),
        ("few", Stream.ZSTD),
        ("half", Stream.ZSTD),
        ("mostly set", Stream.ZSTD),
        ("skewed", Stream.ZSTD),
        ("equal", Stream.ZSTD),
        ("text", Stream.ZSTD),
        ("noise", Stream.RAW),
    ],
)
def test_each_kind_of_plane_has_its_stream(kind: str, stream: Stream, size: int) -> None:
    assert encode_stream(plane(kind, size))[0] is stream


def test_a_plane_that_would_not_shrink_stays_raw() -> None:
    raw = plane("noise", 60)
    assert encode_stream(raw) == (Stream.RAW, raw)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KINDS), sizes), max_size=9), seeds)
def test_round_trip_of_parts(of_parts: list[tuple[str, int]], seed: int) -> None:
    """Where parts end matters to the size alone: a reader does not learn of them."""
    raw = b"".join(plane(kind, size, seed) for kind, size in of_parts)
    kind, stream = encode_stream(raw, [size for _, size in of_parts])
    assert decoded(kind, stream, len(raw)) == raw
    assert len(stream) <= len(raw)
    assert encode_stream(raw, [size for _, size in of_parts]) == (kind, stream)


def test_parts_that_differ_in_kind_get_codes_of_their_own() -> None:
    raws = [(numbers("skewed", 20_000, seed) + np.uint8(60 * seed)).tobytes() for seed in range(4)]
    raw = b"".join(raws)
    alone = sum(len(encode_stream(each)[1]) for each in raws)
    # One frame takes little more than its parts by themselves, and much less than one code for all.
    assert len(encode_stream(raw, [20_000] * 4)[1]) < alone + 50
    assert len(encode_stream(raw)[1]) > 1.1 * alone


WITHOUT_ZSTD = """\
import sys

sys.modules |= {"compression.zstd": None, "backports.zstd": None}

import casstore
from tests.storage.test_entropy import KINDS, decode_stream, encode_stream, plane

for size in (1, 300, 70_000):
    parts = [plane(kind, size) for kind in KINDS]
    for raw, lengths in [(b"".join(parts), [size] * len(parts)), *((part, []) for part in parts)] * 2:
        kind, stream = encode_stream(raw, lengths)
        assert (decode_stream(kind, memoryview(stream), len(raw)) or bytes(len(raw))) == raw
with casstore.Store(sys.argv[1]) as store:
    store.save("net:v1", sys.argv[2], materialize=False)
    store.save("net:v2", sys.argv[3], materialize=False)
"""


def test_a_python_that_was_built_without_zstd(tmp_path: Path) -> None:
    versions = checkpoint(1), checkpoint(2)
    sources = [plant(tmp_path / f"v{number}", files) for number, files in enumerate(versions)]
    done = script(WITHOUT_ZSTD, tmp_path / "home", *sources, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    with casstore.Store(tmp_path / "home") as store:
        assert store.stats().stored_bytes < 0.85 * sum(model.size for model in store.list())
        assert [contents(store.get(f"net:v{step}")) for step in (1, 2)] == list(versions)


def test_the_numbers_of_the_streams_are_part_of_the_format() -> None:
    assert {stream.name: int(stream) for stream in Stream} == {"RAW": 0, "ZSTD": 1, "ZEROS": 2}


def frame(content: bytes) -> bytes:
    """By hand from RFC 8878: one raw block, which no compressor makes of these."""
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)]) + (len(content) << 3 | 1).to_bytes(3, "little") + content


GOLDEN = [
    (0, b"abc", b"abc"),
    (0, b"", b""),
    (1, frame(b"abc"), b"abc"),
    (1, bytes.fromhex("28b52ffd 20 40 030200 61"), b"a" * 64),
    (2, b"", bytes(7)),
    (2, b"", b""),
]


@pytest.mark.parametrize(("kind", "stream", "raw"), GOLDEN)
def test_golden_bytes_are_readable(kind: int, stream: bytes, raw: bytes) -> None:
    assert decoded(kind, stream, len(raw)) == raw


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        (0, b"ab"),
        (0, b"abcd"),
        (0, b""),
        (1, frame(b"ab")),
        (1, frame(b"abcd")),
        (1, frame(b"abc") + b"\0"),
        (1, frame(b"abc")[:-1]),
        (1, b"abc"),
        (1, b""),
        (1, zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")),
        # A frame that is to be skipped, and holds no content of its own.
        (1, struct.pack("<II", 0x184D2A50, 3) + b"abc"),
        (2, b"\0"),
        (3, b"abc"),
        (-1, b"abc"),
        (4, b"abc"),
        (255, b"abc"),
    ],
)
def test_what_no_encoder_made(kind: int, stream: bytes) -> None:
    """Of a plane of three bytes."""
    with pytest.raises(IntegrityError):
        decoded(kind, stream, 3)


@settings(deadline=None, max_examples=300)
@given(planes, st.data())
def test_mutated_streams(raw: bytes, draw: st.DataObject) -> None:
    encoded, stream = encode_stream(raw)
    kind: int = encoded
    mutated = bytearray(stream)
    at = draw.draw(st.integers(0, len(stream)))
    match draw.draw(st.sampled_from(["flip", "truncate", "insert", "kind", "size"])):
        case "flip":
            mutated[at : at + 1] = bytes([draw.draw(st.integers(0, 255))])
        case "truncate":
            del mutated[at:]
        case "insert":
            mutated[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
        case "kind":
            kind = draw.draw(st.integers(0, 5))
    size = len(raw) + draw.draw(st.sampled_from([0, 0, 0, -1, 1, 8]))
    if size < 0:
        return
    try:
        found = decoded(kind, bytes(mutated), size)
    except IntegrityError:
        return
    assert len(found) == size


@given(st.integers(0, 5), st.binary(max_size=200), st.integers(0, 400))
def test_arbitrary_bytes(kind: int, stream: bytes, size: int) -> None:
    with contextlib.suppress(IntegrityError):
        assert len(decoded(kind, stream, size)) == size


def frame_that_claims(size: int) -> bytes:
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x03\x00\x10a"


@pytest.mark.parametrize("size", [100, 1 << 40, MAX_CHUNK_BYTES + 1, (1 << 64) - 3])
def test_claims_of_size_allocate_nothing(size: int) -> None:
    huge = frame_that_claims(size)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decoded(1, huge, 8)
        with pytest.raises(IntegrityError):
            decompress(huge, size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_noise_is_told_by_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressing it would take longer than all the rest, for nothing."""
    asked: list[int] = []
    compress = entropy._compress
    monkeypatch.setattr(entropy, "_compress", lambda raw, *how: asked.append(len(raw)) or compress(raw, *how))
    assert encode_stream(plane("noise", 50_000))[0] is Stream.RAW
    assert asked == []
    assert encode_stream(plane("skewed", 50_000))[0] is Stream.ZSTD
    assert asked == [50_000]


def test_mixed_bytes_are_coded_by_how_often_they_occur() -> None:
    raw = np.random.default_rng(1).normal(0, 3, 300_000).astype(np.int8).tobytes()
    _, counts = np.unique(np.frombuffer(raw, np.uint8), return_counts=True)
    bits = float(-(counts * np.log2(counts / len(raw))).sum())
    for parts in ([], [100_000, 0, 150_000, 50_000]):
        _, stream = encode_stream(raw, parts)
        assert 8 * len(stream) < 1.015 * bits


def test_runs_among_other_bytes_are_found() -> None:
    """As where some rows of a matrix have moved, and others have not: a code alone would take a bit of each."""
    rows = np.random.default_rng(1).normal(0, 30, (4000, 48)).astype(np.int8)
    rows[::2] = 0
    alone = len(encode_stream(rows[rows.any(axis=1)].tobytes())[1])
    assert len(encode_stream(rows.tobytes())[1]) < 1.03 * alone


def test_rows_that_are_equal_are_found() -> None:
    row = np.random.default_rng(1).normal(0, 3, 384).astype(np.int8).tobytes()
    assert len(encode_stream(row * 1000)[1]) < 2000


@pytest.mark.parametrize("kind", ["few", "skewed"])
def test_a_frame_that_was_broken_off_leaves_nothing_behind(kind: str) -> None:
    raw = plane(kind, 30_000)
    whole = encode_stream(raw)
    with pytest.raises(TypeError):
        encode_stream(raw, [1000, "broken", 1000])  # type: ignore[list-item]
    assert encode_stream(raw) == whole


def test_threads_do_not_share_contexts() -> None:
    raws = [plane(KINDS[n % len(KINDS)], 30_000, n) for n in range(16)]
    wrong: list[int] = []

    def work(first: int) -> None:
        for n in range(first, 16, 8):
            for _ in range(20):
                kind, stream = encode_stream(raws[n])
                if decoded(kind, stream, 30_000) != raws[n]:
                    wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
