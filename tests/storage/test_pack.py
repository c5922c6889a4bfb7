from __future__ import annotations

import os
import random
import struct
import sys
import tracemalloc
from pathlib import Path

import msgpack
import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.codec import Against, Encoding, decode, encode
from casstore.storage.delta import Grouping, decode_deltas, encode_delta
from casstore.storage.pack import EncodedChunk, PackEntry, PackWriter, read_entries, read_record
from casstore.storage.tensors import Element, element_of

# Never replaced: a format that changes gets a golden of its own beside these, and all stay readable. The first was
# written before there were deltas, and its index has six columns; the second by `python tests/storage/test_pack.py PATH`.
GOLDEN = Path(__file__).parent.parent / "data" / "format-1.pack"
GOLDEN_DELTAS = GOLDEN.with_name("format-1-deltas.pack")

NOISE = random.Random(1).randbytes(300)
CHUNKS = [
    (NOISE, 1),
    (b"compressible " * 40, 1),
    (b"".join(bytes([n, 0x3C]) for n in NOISE), 2),
    (b"\0" * 4001, 4),
    (b"x", 1),
]


def encoded_chunk(raw: bytes, width: int) -> EncodedChunk:
    return EncodedChunk(Digest.of(raw), len(raw), *encode(raw, Element(width)))


def delta(raw: bytes, base: bytes, grouping_raw: bytes, element: Element) -> EncodedChunk:
    against = Against(base, Grouping(grouping_raw, element))
    encoding, encoded = encode(raw, element, against)
    assert encoding is Encoding.DELTA
    return EncodedChunk(Digest.of(raw), len(raw), encoding, encoded, Digest.of(base), Digest.of(grouping_raw))


def golden_raws() -> list[bytes]:
    """Weights in bfloat16, three steps from there, and others: from random bytes, which are the same everywhere."""
    element = element_of("BF16")
    count = 9000
    noise = np.frombuffer(random.Random(7).randbytes(16 * count), np.uint8).reshape(16, count).astype(np.int32)
    weights = (noise[:4].sum(axis=0) - 510).astype("<f4") / 2**13
    raws = [weights.view("<u4").astype("<u8") >> 16]
    raws += [raws[-1] + (noise[row] % 3) - (noise[row + 1] % 3) for row in (4, 6)]
    raws.append(raws[-1] + np.where(noise[8] < 9, noise[9], 0) - np.where(noise[8] > 249, noise[9], 0))
    other = ((noise[10:14].sum(axis=0) - 510).astype("<f4") / 2**11).view("<u4").astype("<u8") >> 16
    raws += [other, raws[-1] + noise[14] % 2]
    assert element.width == 2
    return [(raw % 2**16).astype("<u2").tobytes() + b"!" for raw in raws]


def golden_chunks() -> list[EncodedChunk]:
    """Planes, links of a chain grouped by its start, planes, a link grouped by those, one without an exponent."""
    start, first, second, third, other, fourth = golden_raws()
    element = element_of("BF16")
    return [
        encoded_chunk(start, 2),
        delta(first, start, start, element),
        delta(second, first, start, element),
        delta(third, second, start, element),
        encoded_chunk(other, 2),
        delta(fourth, third, other, element),
        delta(bytes(18_001), start, start, Element(1)) if False else encoded_chunk(NOISE, 1),
    ]


def write(path: Path, chunks: list[tuple[bytes, int]], *, durable: bool = False) -> list[PackEntry]:
    writer = PackWriter(path)
    for raw, width in chunks:
        writer.add(encoded_chunk(raw, width))
    size = writer.finish(0o444, durable=durable)
    assert size == path.stat().st_size
    return writer.entries


def read_chunk(path: Path, entry: PackEntry) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return decode_record(*read_record(descriptor, entry.offset, entry.length))
    finally:
        os.close(descriptor)


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, list[PackEntry]]:
    path = tmp_path / "a.pack"
    return path, write(path, CHUNKS)


def changed(path: Path, data: bytes) -> Path:
    other = path.with_suffix(".changed")
    other.write_bytes(data)
    return other


# By hand from docs/format.md, not with the module's own structs.


def header(format_number: int = 1, requires: int = 0, hash_number: int = 1, magic: bytes = b"casspack") -> bytes:
    return magic + struct.pack("<HHI", format_number, requires, hash_number)


def record(
    raw: bytes, *, encoding: int = 0, flags: int = 0, extension: bytes = b"", encoded: bytes | None = None
) -> bytes:
    encoded = raw if encoded is None else encoded
    sizes = struct.pack("<BBHII", encoding, flags, len(extension), len(raw), len(encoded))
    return b"chnk" + sizes + blake3(raw).digest() + extension + encoded


def ending(index: bytes, offset: int) -> bytes:
    return index + struct.pack("<QI", offset, len(index)) + blake3(index).digest() + b"packtail"


def test_round_trip(pack: tuple[Path, list[PackEntry]]) -> None:
    path, entries = pack
    assert [entry.encoding for entry in entries] == [0, 1, 2, 2, 0]
    assert read_entries(path) == entries
    for (raw, _), entry in zip(CHUNKS, entries, strict=True):
        assert entry.raw_bytes == len(raw)
        assert entry.digest == Digest.of(raw)
        assert read_chunk(path, entry) == raw
    assert path.stat().st_mode & 0o777 == 0o444


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=500), st.sampled_from([1, 2, 4, 8])), max_size=8))
def test_any_chunks(tmp_path: Path, chunks: list[tuple[bytes, int]]) -> None:
    path = tmp_path / "any.pack"
    path.unlink(missing_ok=True)
    entries = write(path, chunks)
    assert read_entries(path) == entries
    assert [read_chunk(path, entry) for entry in entries] == [raw for raw, _ in chunks]


def test_packs_larger_than_the_write_buffer(tmp_path: Path) -> None:
    chunks = [(random.Random(n).randbytes(900_000), 1) for n in range(10)]
    writer = PackWriter(tmp_path / "a.pack")
    for raw, width in chunks:
        before = writer.size
        writer.add(Digest.of(raw), raw, width)
        assert writer.size == before + writer.entries[-1].length
    writer.finish(0o400, durable=True)
    assert [read_chunk(writer.path, entry) for entry in read_entries(writer.path)] == [raw for raw, _ in chunks]


def test_an_existing_file_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "a.pack").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        PackWriter(tmp_path / "a.pack")
    assert (tmp_path / "a.pack").read_bytes() == b"mine"


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "a.pack")
    writer.add(Digest.of(b"x"), b"x")
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_follow_the_document(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    (entry,) = write(path, [(NOISE, 1)])
    data = path.read_bytes()
    start = header() + record(NOISE)
    assert data.startswith(start)
    rows = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data[len(start) : -52]))
    assert rows == [[Digest.of(NOISE), 16, len(record(NOISE)), len(NOISE), 0, None]]
    assert data[-52:] == ending(data[len(start) : -52], len(start))[-52:]
    assert entry.offset == 16


def test_golden_pack_is_readable() -> None:
    entries = read_entries(GOLDEN)
    assert [entry.encoding for entry in entries] == [0, 1, 2, 2, 0]
    assert [read_chunk(GOLDEN, entry) for entry in entries] == [raw for raw, _ in CHUNKS]


def test_golden_pack_is_readable_without_its_index(tmp_path: Path) -> None:
    data = GOLDEN.read_bytes()
    path = changed(tmp_path / "golden.pack", data[:-52])
    assert read_entries(path) == read_entries(GOLDEN)


def test_cut_short_anywhere(pack: tuple[Path, list[PackEntry]]) -> None:
    path, entries = pack
    data = path.read_bytes()
    for length in range(len(data)):
        cut = changed(path, data[:length])
        if length < 16:
            with pytest.raises(IntegrityError, match="not a pack"):
                read_entries(cut)
            continue
        # Every record that is wholly there, and no other.
        whole = [entry for entry in entries if entry.offset + entry.length <= length]
        assert read_entries(cut) == whole
        assert [read_chunk(cut, entry) for entry in whole] == [raw for raw, _ in CHUNKS[: len(whole)]]
        for entry in entries[len(whole) :]:
            with pytest.raises(IntegrityError):
                read_chunk(cut, entry)


def test_every_flipped_bit_of_a_record_is_noticed(pack: tuple[Path, list[PackEntry]]) -> None:
    path, entries = pack
    data = bytearray(path.read_bytes())
    for entry in entries:
        for position in range(entry.offset, entry.offset + min(entry.length, 120)):
            for bit in range(8):
                data[position] ^= 1 << bit
                path_changed = changed(path, data)
                try:
                    raw = read_chunk(path_changed, entry)
                except IntegrityError:
                    pass
                else:
                    # A bit that zstd ignores: the bytes are right, and checked.
                    assert Digest.of(raw) == entry.digest
                data[position] ^= 1 << bit


def test_a_damaged_index_does_not_matter(pack: tuple[Path, list[PackEntry]]) -> None:
    path, entries = pack
    data = bytearray(path.read_bytes())
    index_offset = entries[-1].offset + entries[-1].length
    for position in range(index_offset, len(data)):
        data[position] ^= 0x10
        assert read_entries(changed(path, data)) == entries
        data[position] ^= 0x10


def zstd(value: object) -> bytes:
    return zstandard.ZstdCompressor().compress(msgpack.packb(value))


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"no zstd",
        zstandard.ZstdCompressor().compress(b""),
        zstandard.ZstdCompressor().compress(b"\xc1"),
        zstd(7),
        zstd(None),
        zstd([7]),
        zstd([[]]),
        zstd({"a": 1}),
        zstd([{"a": 1}]),
        zstd([["text", 16, 49, 1, 0, None]]),
        zstd([[b"short", 16, 49, 1, 0, None]]),
        zstd([[7, 16, 49, 1, 0, None]]),
        zstd([[1 << 50, 16, 49, 1, 0, None]]),
        zstd([[bytes(32), "16", 49, 1, 0, None]]),
        zstd([[bytes(32), 16, 49, 1, 0, b"short"]]),
        zstd([[bytes(32), 16, 49, 1, 0, 7]]),
        b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 45) + b"\x03\x00\x10a",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"\x90" * 10),
    ],
)
def test_an_index_that_no_casstore_wrote_does_not_matter(tmp_path: Path, index: bytes) -> None:
    """Its digest is right, so it is no accident: packs also come from remotes and archives."""
    start = header() + record(b"x")
    path = tmp_path / "a.pack"
    path.write_bytes(start + ending(index, len(start)))
    tracemalloc.start()
    try:
        (entry,) = read_entries(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert read_chunk(path, entry) == b"x"


def test_newer_columns_of_an_index_are_passed_over(tmp_path: Path) -> None:
    start = header() + record(b"x")
    index = zstd([[Digest.of(b"x"), 16, 49, 1, 0, None, "new"]])
    path = tmp_path / "a.pack"
    path.write_bytes(start + ending(index, len(start)))
    assert read_entries(path) == [PackEntry(Digest.of(b"x"), 16, 49, 1, 0)]


@pytest.mark.parametrize("head", [header(format_number=2), header(requires=1), header(hash_number=2)])
def test_packs_of_a_newer_format_are_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(head + record(b"x"))
    with pytest.raises(UnsupportedFormat, match=r"a\.pack was written by a newer casstore; upgrade"):
        read_entries(path)


def test_records_with_unknown_flags_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    for flags in (2, 3, 128):
        path.write_bytes(header() + record(b"x", flags=flags, extension=bytes(32)))
        with pytest.raises(UnsupportedFormat, match="upgrade"):
            read_entries(path)
        with pytest.raises(UnsupportedFormat, match="upgrade"):
            read_chunk(path, PackEntry(Digest.of(b"x"), 16, 81, 1, 0))


def test_unknown_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(header() + record(b"x", encoding=9))
    (entry,) = read_entries(path)
    with pytest.raises(UnsupportedFormat, match="encoding 9"):
        read_chunk(path, entry)


def test_an_extension_without_a_flag_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(header() + record(b"x", extension=b"of a newer casstore") + record(b"y"))
    entries = read_entries(path)
    assert [read_chunk(path, entry) for entry in entries] == [b"x", b"y"]


def test_a_record_names_its_base(tmp_path: Path) -> None:
    base = Digest.of(b"base")
    path = tmp_path / "a.pack"
    path.write_bytes(header() + record(b"x", flags=1, extension=base) + record(b"y", flags=1, extension=base + b"more"))
    entries = read_entries(path)
    assert [entry.base for entry in entries] == [base, base]
    assert [read_chunk(path, entry) for entry in entries] == [b"x", b"y"]


@pytest.mark.parametrize("extension", [b"", bytes(31)])
def test_a_record_that_lacks_its_base(tmp_path: Path, extension: bytes) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(header() + record(b"x", flags=1, extension=extension))
    assert read_entries(path) == []
    with pytest.raises(IntegrityError, match="base"):
        read_chunk(path, PackEntry(Digest.of(b"x"), 16, 49 + len(extension), 1, 0))


@pytest.mark.parametrize("length", [-1, 0, 47, 1 << 30, 1 << 60])
def test_records_of_no_possible_length(pack: tuple[Path, list[PackEntry]], length: int) -> None:
    path, entries = pack
    with pytest.raises(IntegrityError):
        read_chunk(path, PackEntry(entries[0].digest, 16, length, 1, 0))


def test_records_at_the_wrong_place(pack: tuple[Path, list[PackEntry]]) -> None:
    path, entries = pack
    size = path.stat().st_size
    for offset in (0, 15, 17, entries[1].offset + 1, size - 10, size, size + 1000):
        with pytest.raises(IntegrityError):
            read_chunk(path, PackEntry(entries[0].digest, offset, entries[0].length, 1, 0))


def test_chunks_beyond_the_hard_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(header() + b"chnk" + struct.pack("<BBHII", 0, 0, 0, (16 << 20) + 1, 1) + bytes(33))
    assert read_entries(path) == []


@given(st.binary(max_size=400))
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.pack"
    for content in (data, header() + data, header() + record(b"x") + data, header() + ending(data, 16)):
        path.write_bytes(content)
        try:
            entries = read_entries(path)
        except IntegrityError:
            continue
        assert all(isinstance(entry, PackEntry) for entry in entries)


if __name__ == "__main__":
    write(Path(sys.argv[1]), CHUNKS)
