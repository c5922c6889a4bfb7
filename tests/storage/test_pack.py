from __future__ import annotations

import os
import random
import struct
import sys
import tracemalloc
from itertools import accumulate, pairwise
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.coding.codec import decode, encode
from casstore.storage.coding.delta import Grouping, decode_deltas, encode_delta
from casstore.storage.coding.encodings import Encoding
from casstore.storage.pack import EncodedChunk, PackEntry, PackWriter, read_entries, read_record
from casstore.storage.readable import OpenFile
from casstore.storage.tensors.elements import Element, element_of

# Never replaced: a format that changes gets a golden of its own beside these, and all stay readable. The first was
# written before there were deltas: its index has six columns, and no plane of it is of zeros. The second
# was written by `python tests/storage/test_pack.py PATH`.
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
    encoded = encode_delta(raw, base, Grouping(grouping_raw, element))
    return EncodedChunk(
        Digest.of(raw), len(raw), Encoding.DELTA, encoded, base=Digest.of(base), grouping=Digest.of(grouping_raw)
    )


def golden_run() -> dict[str, bytes]:
    """A run of training in bfloat16, and others, from random bytes and exact sums: the same everywhere."""
    noise = random.Random(7)

    def draw(count: int = 15_000) -> np.ndarray:
        return np.frombuffer(noise.randbytes(count), np.uint8).astype(np.int64)

    def bfloat16(values: np.ndarray) -> np.ndarray:
        return (values.astype("<f4") / 2**21).view("<u4") >> 16

    values = (draw() + draw() + draw() + draw() - 510) << 8
    bits = [bfloat16(values)]
    for _ in range(3):  # each element moves by about as much, whatever its size
        values = values + draw() - 128
        bits.append(bfloat16(values))
    bits.append(bits[-1] + np.where(draw() < 20, draw() * 256 + draw(), 0))  # few elements, by anything
    raws = {name: (each % 2**16).astype("<u2").tobytes() + b"!" for name, each in zip("abcde", bits, strict=True)}
    raws["f"] = raws["e"][:-1] + b"?"
    raws["other"] = (bfloat16(values[::-1] * 3) % 2**16).astype("<u2").tobytes() + b":"
    raws["g"] = (bits[-1] + draw() % 2).astype("<u2").tobytes() + b";"
    raws["fp32"] = ((draw(5000) + draw(5000) - 255).astype("<f4") / 3).tobytes()
    raws["fp32 after"] = (np.frombuffer(raws["fp32"], "<u4") + draw(5000) % 6 - 2).astype("<u4").tobytes()
    raws["int8"] = noise.randbytes(999)
    raws["int8 after"] = bytes((byte + (byte % 9 == 0)) % 256 for byte in raws["int8"])
    return raws


def golden_chunks() -> list[EncodedChunk]:
    """Planes; six links grouped by the start of their chain, and one by another; wide elements, and bytes."""
    raws = golden_run()
    bf16, fp32 = element_of("BF16"), element_of("F32")
    return [
        encoded_chunk(raws["a"], 2),
        *(delta(raws[name], raws[base], raws["a"], bf16) for base, name in pairwise("abcdef")),
        encoded_chunk(raws["other"], 2),
        delta(raws["g"], raws["f"], raws["other"], bf16),
        encoded_chunk(raws["fp32"], 4),
        delta(raws["fp32 after"], raws["fp32"], raws["fp32"], fp32),
        encoded_chunk(raws["int8"], 1),
        delta(raws["int8 after"], raws["int8"], raws["int8"], Element(1)),
        encoded_chunk(bytes(4001), 4),
        encoded_chunk(b"compressible " * 40, 1),
    ]


def write(path: Path, chunks: list[EncodedChunk], *, durable: bool = False) -> list[PackEntry]:
    writer = PackWriter(path)
    for chunk in chunks:
        writer.add(chunk)
    size = writer.finish(0o444, durable=durable)
    assert size == path.stat().st_size
    return writer.entries


def encoded_bytes(path: Path, entry: PackEntry) -> tuple[PackEntry, bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found, encoded = read_record(OpenFile(descriptor), entry.offset, entry.length)
        return found, bytes(encoded)
    finally:
        os.close(descriptor)


def read_chunk(path: Path, entry: PackEntry) -> bytes:
    """The bytes of a whole chunk, checked as every reader has to."""
    found, encoded = encoded_bytes(path, entry)
    raw = decode(found.encoding, encoded, found.raw_bytes)
    if Digest.of(raw) != entry.digest:
        raise IntegrityError("a chunk does not match its digest")
    return raw


def read_all(path: Path, entries: list[PackEntry]) -> dict[Digest, bytes]:
    """Every chunk of a pack in which bases stand before what needs them."""
    raws: dict[Digest, bytes] = {}
    for entry in entries:
        if entry.base is None or entry.grouping is None:
            raws[entry.digest] = read_chunk(path, entry)
        else:
            _, encoded = encoded_bytes(path, entry)
            raws[entry.digest] = decode_deltas(raws[entry.base], [encoded], raws[entry.grouping])
        assert Digest.of(raws[entry.digest]) == entry.digest
    return raws


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, list[PackEntry]]:
    path = tmp_path / "a.pack"
    return path, write(path, [encoded_chunk(*chunk) for chunk in CHUNKS])


def changed(path: Path, data: bytes | bytearray) -> Path:
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
    entries = write(path, [encoded_chunk(*chunk) for chunk in chunks])
    assert read_entries(path) == entries
    assert [read_chunk(path, entry) for entry in entries] == [raw for raw, _ in chunks]


def test_packs_larger_than_the_write_buffer(tmp_path: Path) -> None:
    chunks = [(random.Random(n).randbytes(900_000), 1) for n in range(10)]
    writer = PackWriter(tmp_path / "a.pack")
    for raw, width in chunks:
        before = writer.size
        writer.add(encoded_chunk(raw, width))
        assert writer.size == before + writer.entries[-1].length
    writer.finish(0o400, durable=True)
    path = Path(writer.path)
    assert [read_chunk(path, entry) for entry in read_entries(path)] == [raw for raw, _ in chunks]


def test_an_existing_file_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "a.pack").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        PackWriter(tmp_path / "a.pack")
    assert (tmp_path / "a.pack").read_bytes() == b"mine"


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "a.pack")
    writer.add(encoded_chunk(b"x", 1))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_follow_the_document(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    base, grouping = Digest.of(b"base"), Digest.of(b"grouping")
    chunks = [
        EncodedChunk(Digest.of(NOISE), 300, 0, NOISE),
        EncodedChunk(Digest.of(b"x"), 1, 3, b"link", base),
        EncodedChunk(Digest.of(b"y"), 1, 3, b"another", base, base),
        EncodedChunk(Digest.of(b"z"), 1, 3, b"", base, grouping),
    ]
    entries = write(path, chunks)
    data = path.read_bytes()
    records = [
        record(NOISE),
        record(b"x", encoding=3, flags=1, extension=base, encoded=b"link"),
        record(b"y", encoding=3, flags=1, extension=base, encoded=b"another"),
        record(b"z", encoding=3, flags=3, extension=base + grouping, encoded=b""),
    ]
    offsets = [*accumulate(map(len, records), initial=16)]
    assert data.startswith(header() + b"".join(records))
    rows = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data[offsets[-1] : -52]))
    assert rows == [
        [Digest.of(NOISE), 16, 348, 300, 0, None, None],
        [Digest.of(b"x"), offsets[1], 84, 1, 3, base, base],
        [Digest.of(b"y"), offsets[2], 87, 1, 3, base, base],
        [Digest.of(b"z"), offsets[3], 112, 1, 3, base, grouping],
    ]
    assert data[-52:] == ending(data[offsets[-1] : -52], offsets[-1])[-52:]
    assert read_entries(path) == entries == [PackEntry(*row) for row in rows]
    # The records say as much by themselves.
    assert read_entries(changed(path, data[:-52])) == entries
    assert [encoded_bytes(path, entry) for entry in entries] == [
        (entry, bytes(chunk.data)) for entry, chunk in zip(entries, chunks, strict=True)
    ]


def test_records_are_copied_as_they_stand(pack: tuple[Path, list[PackEntry]], tmp_path: Path) -> None:
    raws = golden_run()
    path = tmp_path / "deltas.pack"
    entries = write(path, [delta(raws["g"], raws["f"], raws["other"], element_of("BF16")), encoded_chunk(b"x", 1)])
    writer = PackWriter(tmp_path / "copied.pack")
    writer.add(encoded_chunk(NOISE, 1))
    for entry in entries:
        whole = path.read_bytes()[entry.offset : entry.offset + entry.length]
        copied = writer.copy(whole)
        assert copied == entry._replace(offset=copied.offset)
        for damaged in (b"", whole[:47], whole[:-1], whole + b"\0", b"c" + whole):
            with pytest.raises(IntegrityError):
                writer.copy(damaged)
    writer.finish(0o444, durable=False)
    assert read_entries(tmp_path / "copied.pack") == writer.entries
    for before, after in zip(entries, writer.entries[1:], strict=True):
        assert encoded_bytes(tmp_path / "copied.pack", after)[1] == encoded_bytes(path, before)[1]


def test_golden_pack_is_readable() -> None:
    entries = read_entries(GOLDEN)
    assert [entry.encoding for entry in entries] == [0, 1, 2, 2, 0]
    assert [read_chunk(GOLDEN, entry) for entry in entries] == [raw for raw, _ in CHUNKS]


def test_golden_pack_of_deltas_is_readable() -> None:
    entries = read_entries(GOLDEN_DELTAS)
    assert [entry.encoding for entry in entries] == [2, 3, 3, 3, 3, 3, 2, 3, 2, 3, 0, 3, 2, 1]
    raws = golden_run()
    assert read_all(GOLDEN_DELTAS, entries) == {
        Digest.of(raw): raw for raw in [*raws.values(), bytes(4001), b"compressible " * 40]
    }
    # The links that share a grouping, at once.
    links = [encoded_bytes(GOLDEN_DELTAS, entry)[1] for entry in entries[1:6]]
    for number, name in enumerate("abcdef"):
        assert decode_deltas(raws["a"], links[:number], raws["a"]) == raws[name]


def test_golden_pack_of_deltas_holds_what_a_reader_must_know() -> None:
    """Each kind of stream in bit maps and in planes, one group and several, none and some of them without a map."""
    heads = set()
    in_maps, in_planes = set(), set()
    for entry in read_entries(GOLDEN_DELTAS):
        _, encoded = encoded_bytes(GOLDEN_DELTAS, entry)
        if entry.encoding == Encoding.DELTA:
            width, groups = encoded[0], encoded[3]
            heads.add((width, groups, encoded[4 + 2 * groups]))
            table = encoded[5 + 2 * groups : 10 + 2 * groups + 5 * width]
            kinds = [kind for kind, _ in struct.iter_unpack("<BI", table)]
            in_maps.add(kinds[0])
            in_planes.update(kinds[1:])
    assert in_maps == in_planes == {0, 1, 2}
    assert {width for width, _, _ in heads} == {1, 2, 4}
    assert min(groups for _, groups, _ in heads) == 1
    assert {dense for _, groups, dense in heads if groups > 2} >= {0, 1}


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_DELTAS])
def test_golden_packs_are_readable_without_their_index(tmp_path: Path, golden: Path) -> None:
    path = changed(tmp_path / "golden.pack", golden.read_bytes()[:-52])
    assert read_entries(path) == read_entries(golden)


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
        zstd([[bytes(32), 16, 49, 1, 0, bytes(32), b"short"]]),
        zstd([[bytes(32), 16, 49, 1, 0, bytes(32), 7]]),
        zstd([[bytes(32), 16, 49, 1, 0.5, None, None]]),
        zstd([[bytes(32), 15, 49, 1, 0, None, None]]),
        zstd([[bytes(32), 16, 50, 1, 0, None, None]]),
        zstd([[bytes(32), 16, 0, 1, 0, None, None]]),
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
    index = zstd([[Digest.of(b"x"), 16, 49, 1, 0, None, None, "new", 7]])
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
    for flags in (4, 7, 128):
        path.write_bytes(header() + record(b"x", flags=flags, extension=bytes(64)))
        with pytest.raises(UnsupportedFormat, match="upgrade"):
            read_entries(path)
        with pytest.raises(UnsupportedFormat, match="upgrade"):
            read_chunk(path, PackEntry(Digest.of(b"x"), 16, 113, 1, 0))


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


def test_a_record_names_its_base_and_what_groups_it(tmp_path: Path) -> None:
    base, grouping = Digest.of(b"base"), Digest.of(b"grouping")
    path = tmp_path / "a.pack"
    records = [
        record(b"u", flags=1, extension=base),
        record(b"v", flags=1, extension=base + b"more"),
        record(b"w", flags=1, extension=base + grouping),
        record(b"x", flags=3, extension=base + grouping),
        record(b"y", flags=3, extension=base + grouping + bytes(65_000)),
        record(b"z", flags=3, extension=base + base),
    ]
    path.write_bytes(header() + b"".join(records))
    entries = read_entries(path)
    assert [entry.base for entry in entries] == [base] * 6
    assert [entry.grouping for entry in entries] == [base, base, base, grouping, grouping, base]
    assert [encoded_bytes(path, entry) for entry in entries] == [
        (entry, raw) for entry, raw in zip(entries, (b"u", b"v", b"w", b"x", b"y", b"z"), strict=True)
    ]


@pytest.mark.parametrize(("flags", "extension"), [(1, 0), (1, 31), (2, 0), (2, 32), (2, 64), (3, 0), (3, 32), (3, 63)])
def test_a_record_that_lacks_its_base(tmp_path: Path, flags: int, extension: int) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(header() + record(b"x", flags=flags, extension=bytes(extension)) + record(bytes(100)))
    assert read_entries(path) == []
    with pytest.raises(IntegrityError, match=r"base|header"):
        read_chunk(path, PackEntry(Digest.of(b"x"), 16, 49 + extension, 1, 0))


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
    write(Path(sys.argv[1]), golden_chunks())
