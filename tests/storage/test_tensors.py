"""Every format is written here by hand, so that the tests hold against its document, not a library."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.storage.tensors import gguf, pickled, safetensors, segments, zip_rows, zips
from casstore.storage.tensors.elements import Element, ReadAt, Segment, element_of, find_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

Found = tuple[str, list[Segment]]


def reader_of(data: bytes) -> ReadAt:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        return data[offset : offset + length]

    return read


def find(data: bytes) -> Found | None:
    found = find_segments(reader_of(data), len(data))
    if found is not None:
        end = 0
        for segment in found[1]:
            assert segment.offset == end
            assert segment.length > 0
            end += segment.length
        assert end == len(data)
    return found


def tensors(data: bytes, kind: str) -> dict[str, tuple[bytes, str | None, tuple[int, ...] | None]]:
    found = find(data)
    assert found is not None
    assert found[0] == kind
    return {s.name: (data[s.offset : s.offset + s.length], s.dtype, s.shape) for s in found[1] if s.name is not None}


def safetensors_file(header: Any, body: bytes = b"", *, pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) + pad) + text + b" " * pad + body


def entry(dtype: str, shape: list[Any], start: Any, end: Any, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end], **more}


def gguf_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_strings(items: list[str]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(gguf_text, items))


def gguf_info(name: str, dimensions: list[int], kind: int, offset: int) -> bytes:
    packed = struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
    return gguf_text(name) + packed


def gguf_file(
    infos: list[bytes],
    body: bytes,
    pairs: dict[str, bytes] | None = None,
    *,
    alignment: int = 32,
    version: int = 3,
) -> bytes:
    pairs = pairs or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(pairs))
    head += b"".join(gguf_text(key) + value for key, value in pairs.items()) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + body


def zip_file(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED, *, zip64: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
    return buffer.getvalue()


def short_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def storage_id(storage_class: str, key: str, elements: int, module: str = "torch") -> bytes:
    """A persistent id as torch.save writes it under pickle protocol 2."""
    opcodes = b"(" + short_text("storage") + b"c" + f"{module}\n{storage_class}\n".encode()
    return opcodes + short_text(key) + short_text("cpu") + b"J" + struct.pack("<i", elements) + b"tQ"


def pickle_of(*ids: bytes) -> bytes:
    return b"\x80\x02](" + b"".join(ids) + b"e."


# Storages "0", "1" and "0" again as pickle protocol 4 has them: texts, the class and the whole tuple come
# back from the memo.
PROTOCOL_4 = (
    b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00]\x94("
    b"(\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0fBFloat16Storage\x94\x93\x94\x8c\x010\x94\x8c\x03cpu\x94K\x03t\x94Q"
    b"(h\x01h\x04\x8c\x011\x94h\x06K\x04tQ"
    b"h\x07Q"
    b"e."
)

TWO_TENSORS = safetensors_file(
    {"__metadata__": {"format": "pt"}, "b": entry("F32", [2], 4, 12), "a": entry("BF16", [1, 2], 0, 4)},
    bytes(range(12)),
    pad=5,
)
GGUF = gguf_file(
    [gguf_info("a", [32, 2], 2, 0), gguf_info("b", [3], 0, 64)],
    bytes(range(36)) + bytes(28) + bytes(12),
    {
        "general.architecture": struct.pack("<I", 8) + gguf_text("llama"),
        "tokens": gguf_strings(["a", "", "ccc"]),
        "flag": struct.pack("<IB", 7, 1),
        "nested": struct.pack("<IIQIQ2IIQ", 9, 9, 2, 4, 2, 7, 8, 8, 0),
    },
)
TORCH = zip_file(
    {
        "model/data.pkl": pickle_of(storage_id("FloatStorage", "0", 2), storage_id("LongStorage", "1", 1)),
        "model/byteorder": b"little",
        "model/data/0": b"\1" * 8,
        "model/data/1": b"\2" * 8,
        "model/version": b"3\n",
    }
)


def npz_file(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


NPZ = npz_file(w=np.arange(6, dtype="<f4").reshape(2, 3), step=np.int64(7))


def torch_file(data: bytes = b"", *, zip64: bool = False) -> bytes:
    """A tensor as a distributed checkpoint has it; without data, an object that is none."""
    pickle = pickle_of(storage_id("FloatStorage", "0", len(data) // 4)) if data else b"\x80\x02K\x03."
    entries = {"archive/data.pkl": pickle, "archive/byteorder": b"little"}
    return zip_file(entries | ({"archive/data/0": data} if data else {}), zip64=zip64)


ZIPS = torch_file() + torch_file(b"\1" * 8) + torch_file(b"\2" * 8) + NPZ
EXAMPLES = {"safetensors": TWO_TENSORS, "gguf": GGUF, "torch": TORCH, "npz": NPZ, "zips": ZIPS}


def test_element_of() -> None:
    widths = {
        "F64": 8,
        "I32": 4,
        "BF16": 2,
        "BOOL": 1,
        "F8_E4M3": 1,
        "C64": 4,
        "C128": 8,
        "C32": 2,
        "Q4_K": 1,
        "F4": 1,
    }
    assert {dtype: element_of(dtype).width for dtype in widths} == widths
    assert element_of(None) == element_of("nonsense") == Element(1)


@pytest.mark.parametrize(("dtype", "one"), [("F16", 0x3C00), ("F32", 0x3F800000), ("F64", 0x3FF0000000000000)])
def test_exponents(dtype: str, one: int) -> None:
    """Doubling a number adds one to its exponent, and nothing else about it matters."""
    element = element_of(dtype)
    mask = (1 << element.exponent_bits) - 1
    values = np.array([1, -1, 1.9, 2, 4, -7.9, 0.5], f"<f{element.width}").view(f"<u{element.width}").tolist()
    assert values[0] == one
    exponents = [value >> element.exponent_shift & mask for value in values]
    assert [exponent - exponents[0] for exponent in exponents] == [0, 0, 0, 1, 2, 2, -1]
    assert np.array(np.inf, f"<f{element.width}").view(f"<u{element.width}") == mask << element.exponent_shift


def test_exponents_of_what_numpy_lacks() -> None:
    assert element_of("BF16") == (2, 7, 8)
    assert element_of("F8_E4M3") == element_of("F8_E4M3FNUZ") == (1, 3, 4)
    assert element_of("F8_E5M2") == element_of("F8_E5M2FNUZ") == (1, 2, 5)
    assert element_of("C32") == element_of("F16")
    assert element_of("C64") == element_of("F32")
    assert element_of("C128") == element_of("F64")
    for dtype in ("I64", "U16", "BOOL", "Q4_K", "F8_E8M0", None):
        assert element_of(dtype).exponent_bits == 0


@pytest.mark.parametrize("data", [b"", b"{", b"GGUF", b"PK\x03\x04", b"\x80\x02}.", bytes(4096), b"x" * 100])
def test_files_of_no_known_format(data: bytes) -> None:
    assert find(data) is None


@pytest.mark.parametrize("kind", EXAMPLES)
def test_read_errors_pass_through(kind: str) -> None:
    data = EXAMPLES[kind]
    reads: list[int] = []

    def failing_from(number: int) -> ReadAt:
        def read(offset: int, length: int) -> bytes:
            if len(reads) == number:
                raise OSError("the disk is gone")
            reads.append(offset)
            return data[offset : offset + length]

        reads.clear()
        return read

    assert find_segments(failing_from(-1), len(data)) is not None
    for number in range(len(reads)):
        with pytest.raises(OSError, match="the disk is gone"):
            find_segments(failing_from(number), len(data))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_file_that_shrinks_while_it_is_read(kind: str) -> None:
    data = EXAMPLES[kind]
    for length in range(0, len(data), 3):
        found = find_segments(reader_of(data[:length]), len(data))
        assert found is None or sum(segment.length for segment in found[1]) == len(data)


def test_safetensors() -> None:
    assert tensors(TWO_TENSORS, "safetensors") == {
        "a": (bytes(range(4)), "BF16", (1, 2)),
        "b": (bytes(range(4, 12)), "F32", (2,)),
    }


@pytest.mark.parametrize(
    ("header", "body_bytes", "names"),
    [
        ({}, 0, []),
        ({"__metadata__": {"a": "[[[,,,"}}, 0, []),
        ({"scalar": entry("F32", [], 0, 4)}, 4, ["scalar"]),
        ({"empty": entry("F32", [0, 2**62, 2**62], 0, 0), "a": entry("U8", [1], 0, 1)}, 1, ["a"]),
        ({"later": entry("F3_NEW", [7], 0, 3)}, 3, ["later"]),
        ({"packed": entry("F4", [2, 3], 0, 3)}, 3, ["packed"]),
        ({"as bytes": entry("F4", [3], 0, 3)}, 3, ["as bytes"]),
        ({"\u00e4\U0001f600": entry("U8", [1], 0, 1)}, 1, ["\u00e4\U0001f600"]),
    ],
)
def test_safetensors_headers_that_hold(header: Any, body_bytes: int, names: list[str]) -> None:
    assert list(tensors(safetensors_file(header, bytes(body_bytes)), "safetensors")) == names


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry("F32", [2], 0, 4)},
        {"a": entry("F32", [1], 4, 0)},
        {"a": entry("F32", [1], 0, 8)},
        {"a": entry("F32", [True], 0, 4)},
        {"a": entry("F32", [1], False, 4)},
        {"a": entry("F32", [1], -4, 0)},
        {"a": entry("F32", [1.0], 0, 4)},
        {"a": entry("F32", [1], 0, 4.0)},
        {"a": entry("F32", [-1, -1], 0, 4)},
        {"a": entry("U8", [2**63, 0], 0, 0), "b": entry("F32", [1], 0, 4)},
        {"a": entry("U8", [1] * 65, 0, 1), "b": entry("U8", [3], 1, 4)},
        {"a": entry("U8", [4], 0, 4), "b": entry("U8", [1], 3, 4)},
        {"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 3, 4)},
        {"a": entry("U8", [3], 0, 3)},
        {"a": entry("U8", [3], 1, 4)},
        {"a": entry("X" * 25, [4], 0, 4)},
        {"a": entry("\u00fc8", [4], 0, 4)},
        {"a": entry("U8", [4], 0, 4, extra=1)},
        {"a": {"dtype": "U8", "shape": [4]}},
        {"a": {"dtype": "U8", "shape": "4", "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 2, 4]}},
        {"a": {"dtype": ["U8"], "shape": [4], "data_offsets": [0, 4]}},
        {"a": [0, 4]},
        {"a" * 70_000: entry("U8", [4], 0, 4)},
        {"\ud800": entry("U8", [4], 0, 4)},
        {"__metadata__": {"a": 1}, "b": entry("U8", [4], 0, 4)},
        {"__metadata__": None, "b": entry("U8", [4], 0, 4)},
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,4]}}',
        b'{"\xff":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":' * 200_000,
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":[' + b"[]," * 900_000 + b"[]]}",
        b"{",
        b"{}}",
    ],
)
def test_safetensors_headers_that_do_not_hold(header: Any) -> None:
    assert find(safetensors_file(header, bytes(4))) is None


@pytest.fixture
def unlimited_digits() -> Iterator[None]:
    """Turns off the interpreter's own limit, which not every release of 3.10 has and users may lift."""
    if not hasattr(sys, "set_int_max_str_digits"):
        yield
        return
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("unlimited_digits")
def test_long_numbers_fail_quickly() -> None:
    digits = b"9" * 1_000_000
    started = time.process_time()
    assert find(safetensors_file(b'{"a":{"dtype":"U8","shape":[' + digits + b'],"data_offsets":[0,4]}}')) is None
    assert pickled.find_storages(b"\x80\x02L" + digits + b"L\n.") == {}
    # int() alone takes several seconds over each.
    assert time.process_time() - started < 2


def test_safetensors_items_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER_ITEMS", 8)
    assert find(TWO_TENSORS) is None


def test_safetensors_header_length_is_bounded() -> None:
    for length in (0, 1, 3, 2**32, 2**63, 2**64 - 1, safetensors.MAX_HEADER_BYTES + 1):
        assert find(struct.pack("<Q", length) + b"{}") is None
    too_long = safetensors_file({}, pad=safetensors.MAX_HEADER_BYTES)
    assert find(too_long) is None
    assert find(safetensors_file({}, pad=1000)) is not None


def test_gguf() -> None:
    expected = {"a": (bytes(range(36)), "Q4_0", (2, 32)), "b": (bytes(12), "F32", (3,))}
    assert tensors(GGUF, "gguf") == expected
    found = find(GGUF)
    assert found is not None
    assert [s.length for s in found[1]][1:] == [36, 28, 12]
    assert tensors(GGUF[:4] + struct.pack("<I", 2) + GGUF[8:], "gguf") == expected


def test_gguf_without_tensors_is_one_segment() -> None:
    data = gguf_file([], b"", {"tokens": gguf_strings(["a"])}, alignment=1)
    assert find(data) == ("gguf", [Segment(0, len(data))])


def test_gguf_alignment() -> None:
    infos = [gguf_info("a", [1], 24, 0), gguf_info("b", [5], 24, 8)]
    data = gguf_file(infos, b"a" + bytes(7) + b"bbbbb", {"general.alignment": struct.pack("<II", 4, 8)}, alignment=8)
    assert tensors(data, "gguf") == {"a": (b"a", "I8", (1,)), "b": (b"bbbbb", "I8", (5,))}
    for kind, alignment in ((4, 0), (4, 24), (5, 8)):
        pairs = {"general.alignment": struct.pack("<II", kind, alignment)}
        assert find(gguf_file([], bytes(64), pairs)) is None


def test_gguf_tensor_of_an_unknown_type_reaches_to_the_next() -> None:
    infos = [gguf_info("new", [7], 999, 0), gguf_info("b", [1], 24, 32), gguf_info("last", [7], 4, 64)]
    data = gguf_file(infos, bytes(70))
    assert {name: (len(raw), dtype) for name, (raw, dtype, _) in tensors(data, "gguf").items()} == {
        "new": (32, None),
        "b": (1, "I8"),
        "last": (6, None),
    }


@pytest.mark.parametrize(
    "infos",
    [
        [gguf_info("a", [4], 24, 0), gguf_info("a", [4], 24, 32)],
        [gguf_info("a", [33], 24, 0), gguf_info("b", [4], 24, 32)],
        [gguf_info("a", [4], 24, 4)],
        [gguf_info("a", [65], 24, 0)],
        [gguf_info("a", [1], 24, 64)],
        [gguf_info("a", [1], 24, 2**63)],
        [gguf_info("a", [7], 999, 96)],
        [gguf_info("a", [2**62, 2**62, 2**62, 2**62], 0, 0)],
        [gguf_info("a", [2**64 - 1], 24, 0)],
        [gguf_info("a", [1, 1, 1, 1, 1], 24, 0)],
        [gguf_info("a", [16, 2], 2, 0)],
        [gguf_info("a", [], 2, 0)],
        [struct.pack("<Q", 2) + b"\xff\xff" + gguf_info("", [1], 24, 0)[8:]],
        [gguf_info("a" * 70_000, [1], 24, 0)],
    ],
)
def test_gguf_tensors_that_do_not_hold(infos: list[bytes]) -> None:
    assert find(gguf_file(infos, bytes(64))) is None


def nested_arrays(depth: int) -> bytes:
    return struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<IQ", 8, 2**63),
        struct.pack("<IQ", 8, 2**64 - 1),
        struct.pack("<IIQ", 9, 0, 2**60),
        struct.pack("<IIQ", 9, 8, 2**60),
        struct.pack("<IIQ", 9, 9, 2**60),
        struct.pack("<IIQ", 9, 8, gguf.MAX_ENTRIES) + bytes(100),
        struct.pack("<IIQ", 9, 13, 1),
        struct.pack("<I", 13),
        nested_arrays(gguf.MAX_ARRAY_DEPTH),
        nested_arrays(100_000),
    ],
)
def test_gguf_absurd_values_fail_quickly(value: bytes) -> None:
    started = time.process_time()
    assert find(gguf_file([], bytes(64), {"key": value})) is None
    assert time.process_time() - started < 1


def test_gguf_nesting_within_the_limit() -> None:
    assert find(gguf_file([], b"", {"key": nested_arrays(gguf.MAX_ARRAY_DEPTH - 1)})) is not None


@pytest.mark.parametrize(("tensor_count", "pair_count"), [(2**60, 0), (0, 2**60), (2**64 - 1, 2**64 - 1)])
def test_gguf_absurd_counts_fail_quickly(tensor_count: int, pair_count: int) -> None:
    assert find(b"GGUF" + struct.pack("<IQQ", 3, tensor_count, pair_count) + bytes(1000)) is None


def test_gguf_other_versions_and_byte_orders() -> None:
    for version in (0, 1, 4):
        assert find(gguf_file([], b"", version=version)) is None
    assert find(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)) is None


def test_gguf_duplicate_key() -> None:
    pair = gguf_text("k") + struct.pack("<IB", 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    assert find(head + pair + pair) is None


def test_gguf_vocabulary_is_read_in_few_pieces() -> None:
    tokens = [f"token number {number}" for number in range(150_000)]
    data = gguf_file([gguf_info("a", [4], 24, 0)], b"body", {"tokens": gguf_strings(tokens)})
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    started = time.process_time()
    found = find_segments(read, len(data))
    assert time.process_time() - started < 2
    assert found is not None
    assert found[1][-1] == Segment(len(data) - 4, 4, "a", "I8", (4,))
    assert len(asked) < 10
    assert max(asked) <= 1 << 20


def test_gguf_long_strings_are_stepped_over_unread() -> None:
    pairs = {"chat": struct.pack("<I", 8) + gguf_text("x" * (9 << 20)), "after": struct.pack("<IB", 0, 1)}
    data = gguf_file([gguf_info("a", [4], 24, 0)], b"body", pairs)
    assert tensors(data, "gguf") == {"a": (b"body", "I8", (4,))}


def test_gguf_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_ENTRIES", 8)
    assert find(GGUF) is None


def test_gguf_header_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 1000)
    assert find(gguf_file([], b"", {"chat": struct.pack("<I", 8) + gguf_text("x" * 1000)})) is None


def test_ggml_names_are_in_the_one_vocabulary() -> None:
    for name, block_elements, block_bytes in gguf._GGML_TYPES.values():
        if block_elements == 1:
            assert segments.ELEMENT_BITS[name] == 8 * block_bytes


def test_torch() -> None:
    assert tensors(TORCH, "torch") == {
        "data/0": (b"\1" * 8, "F32", (2,)),
        "data/1": (b"\2" * 8, "I64", (1,)),
    }


@pytest.mark.parametrize(
    ("pickle", "dtype"),
    [
        (pickle_of(storage_id("BFloat16Storage", "0", 3)), "BF16"),
        (PROTOCOL_4, "BF16"),
        (pickle_of(storage_id("BFloat16Storage", "0", 3)) + b"rest", "BF16"),
        (pickle_of(storage_id("UntypedStorage", "0", 6, "torch.storage")), None),
        (pickle_of(storage_id("BFloat16Storage", "0", 4)), None),
        (pickle_of(storage_id("BFloat16Storage", "0", -3)), None),
        (pickle_of(storage_id("BFloat16Storage", "other", 3)), None),
        (pickle_of(storage_id("BFloat16Storage", "0", 3), storage_id("HalfStorage", "0", 3)), None),
        (pickle_of(storage_id("BFloat16Storage", "0", 3, "evil")), None),
        (b"\x80\x02" + storage_id("BFloat16Storage", "0", 3)[1:] + b".", None),
        (b"\x80\x02(" + short_text("more") + storage_id("BFloat16Storage", "0", 3)[1:] + b".", None),
        (pickle_of(storage_id("BFloat16Storage", "0", 3).replace(b"tQ", b"t0")), None),
        (pickle_of(storage_id("BFloat16Storage", "0", 3))[:-1], None),
        (b"\x80\x02]L" + b"9" * 1_000_000 + b"L\na.", None),
        (b"\x80\x02T\xff\xff\xff\x7fabc", None),
        (b"cos\nsystem\n(S'exit 1'\ntR.", None),
        (b"", None),
        (b"\xff", None),
        (b".", None),
    ],
)
def test_torch_pickles(pickle: bytes, dtype: str | None) -> None:
    data = zip_file({"m/data.pkl": pickle, "m/data/0": b"abcdef"})
    assert tensors(data, "torch") == {"data/0": (b"abcdef", dtype, None if dtype is None else (3,))}


def test_torch_pickle_fixture_is_a_pickle() -> None:
    assert [op.name for op, _, _ in pickletools.genops(PROTOCOL_4)].count("BINPERSID") == 3
    assert pickled.find_storages(PROTOCOL_4) == {"0": ("BF16", 3), "1": ("BF16", 4)}


def test_torch_pickle_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_OPCODES", 5)
    assert tensors(TORCH, "torch")["data/0"] == (b"\1" * 8, None, None)
    monkeypatch.undo()
    monkeypatch.setattr(zips, "MAX_PICKLE_BYTES", 20)
    assert tensors(TORCH, "torch")["data/0"] == (b"\1" * 8, None, None)


def test_torch_number_of_elements_is_no_bool() -> None:
    pickle = pickle_of(storage_id("ByteStorage", "0", 1).replace(b"J\x01\0\0\0", b"I01\n"))
    assert tensors(zip_file({"m/data.pkl": pickle, "m/data/0": b"a"}), "torch") == {"data/0": (b"a", None, None)}


def test_torch_big_endian_has_no_dtype() -> None:
    pickle = pickle_of(storage_id("FloatStorage", "0", 1))
    data = zip_file({"m/data.pkl": pickle, "m/byteorder": b"big", "m/data/0": b"abcd"})
    assert tensors(data, "torch") == {"data/0": (b"abcd", None, None)}


def test_torch_zip64() -> None:
    pickle = pickle_of(storage_id("FloatStorage", "0", 1))
    data = zip_file({"m/data.pkl": pickle, "m/data/0": b"abcd"}, zip64=True)
    assert tensors(data, "torch") == {"data/0": (b"abcd", "F32", (1,))}


def test_zip64_central_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    data = zip_file({"m/data.pkl": pickle_of(storage_id("FloatStorage", "0", 1)), "m/data/0": b"abcd"}, zip64=True)
    monkeypatch.undo()
    assert b"PK\x06\x06" in data
    assert b"PK\x06\x07" in data
    assert tensors(data, "torch") == {"data/0": (b"abcd", "F32", (1,))}


def test_torch_compressed_entries_are_not_told_apart() -> None:
    data = zip_file({"m/data.pkl": pickle_of(), "m/data/0": bytes(1000)}, zipfile.ZIP_DEFLATED)
    assert find(data) == ("torch", [Segment(0, len(data))])


def test_zips_of_other_kinds() -> None:
    assert find(zip_file({"a.txt": b"a"})) is None
    assert find(zip_file({"a.npy": b"a", "b.txt": b"b"})) is None
    assert find(zip_file({"a/data.pkl": b"", "b/data.pkl": b""})) is None
    assert find(zip_file({"a/b/data.pkl": b""})) is None


def test_zip_local_headers_are_checked() -> None:
    at = TORCH.index(b"model/data/0")
    assert find(TORCH[:at] + b"model/data/x" + TORCH[at + 12 :]) is None
    assert find(TORCH[: at - 30] + b"PK\x03\x05" + TORCH[at - 26 :]) is None
    assert find(TORCH[: at - 22] + b"\x08\x00" + TORCH[at - 20 :]) is None
    assert find(TORCH[: at - 2] + b"\xff\xff" + TORCH[at:]) is None


def test_zip_central_directory_is_checked() -> None:
    at = TORCH.rindex(b"model/data/0")
    # The two sizes in the central directory, and the place of the local header.
    assert find(TORCH[: at - 26] + struct.pack("<I", 9) + TORCH[at - 22 :]) is None
    assert find(TORCH[: at - 26] + struct.pack("<II", 2**31, 2**31) + TORCH[at - 18 :]) is None
    assert find(TORCH[: at - 26] + struct.pack("<II", 200, 200) + TORCH[at - 18 :]) is None
    assert find(TORCH[: at - 4] + struct.pack("<I", 1) + TORCH[at:]) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_duplicate_names() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("m/data.pkl", "m/data/0", "m/data/0"):
            archive.writestr(name, b"abcd")
    assert find(buffer.getvalue()) is None


def test_zip_central_directory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 100)
    assert find(TORCH) is None


def test_several_zips() -> None:
    assert tensors(ZIPS, "zips") == {
        "1/data/0": (b"\1" * 8, "F32", (2,)),
        "2/data/0": (b"\2" * 8, "F32", (2,)),
        "3/w": (np.arange(6, dtype="<f4").tobytes(), "F32", (2, 3)),
        "3/step": (np.int64(7).tobytes(), "I64", ()),
    }
    found = find(ZIPS)
    assert found is not None
    # What ends one archive and begins the next is one segment.
    assert [segment.name is None for segment in found[1][:5]] == [True, False, True, False, True]


def end_as_zip64(archive: bytes) -> bytes:
    """The end of an archive as PyTorch writes it, of whatever size: with a zip64 record, and a locator of it."""
    at = len(archive) - 22
    entries, length, offset = struct.unpack_from("<10xHII", archive, at)
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 30, 45, 0, 0, entries, entries, length, offset)
    return archive[:at] + record + b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1) + archive[at:]


def test_several_zips_of_one_size_with_zip64_records() -> None:
    """Where the locator of a later one points to, counted from the beginning of the file, the first has its record."""
    data = b"".join(end_as_zip64(torch_file(bytes([n]) * 8)) for n in range(1, 4))
    assert list(tensors(data, "zips")) == ["0/data/0", "1/data/0", "2/data/0"]
    masked = end_as_zip64(torch_file(b"\1" * 8))
    masked = masked[:-10] + b"\xff" * 8 + masked[-2:]  # sizes that only the zip64 record tells
    assert list(tensors(masked + masked, "zips")) == ["0/data/0", "1/data/0"]


def test_each_of_several_zips_is_cut_as_it_is_alone() -> None:
    found = find(ZIPS)
    assert found is not None
    start, named = 0, []
    for number, archive in enumerate((torch_file(), torch_file(b"\1" * 8), torch_file(b"\2" * 8), NPZ)):
        alone = zips.find_zip(reader_of(archive), len(archive))[1]
        named += [(start + each.offset, f"{number}/{each.name}") for each in alone if each.name]
        start += len(archive)
    assert [(each.offset, each.name) for each in found[1] if each.name] == named


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04junk" + TORCH,
        torch_file(b"\1" * 8) + b"between" + TORCH,
        zip_file({"a.txt": b"a"}) + TORCH,
        torch_file(b"\1" * 8)[:-1] + b"\1" + TORCH,
        torch_file(b"\1" * 8).replace(b"PK\x05\x06", b"PK\x05\x07") + TORCH,
    ],
)
def test_what_is_not_wholly_zips_is_cut_as_the_last_with_something_before_it(data: bytes) -> None:
    assert list(tensors(data, "torch")) == ["data/0", "data/1"]


def test_one_zip_with_a_comment_is_as_it_was() -> None:
    assert list(tensors(TORCH[:-2] + struct.pack("<H", 3) + b"abc", "torch")) == ["data/0", "data/1"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_ARCHIVES", 3), ("MAX_READ_BYTES", 1000), ("MAX_TENSORS", 3)])
def test_several_zips_are_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    assert len(tensors(ZIPS, "zips")) == 4
    monkeypatch.setattr(zip_rows, limit, value)
    assert list(tensors(ZIPS, "npz")) == ["w", "step"]


def test_npz() -> None:
    w = np.arange(6, dtype="<f4").reshape(2, 3)
    assert tensors(NPZ, "npz") == {
        "w": (w.tobytes(), "F32", (2, 3)),
        "step": (np.int64(7).tobytes(), "I64", ()),
    }


@pytest.mark.parametrize(
    ("descr", "dtype"),
    [
        ("<f2", "F16"),
        ("<f8", "F64"),
        ("|u1", "U8"),
        ("|b1", "BOOL"),
        ("<u2", "U16"),
        ("<c8", "C64"),
        (">f4", None),
    ],
)
def test_npz_dtypes(descr: str, dtype: str | None) -> None:
    array = np.arange(2).astype(descr)
    assert tensors(npz_file(a=array), "npz") == {"a": (array.tobytes(), dtype, (2,))}


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, [("x", "f4")]), np.array([{}], object), np.array(["text"]), np.array([0], "M8[s]")],
)
def test_npz_other_arrays_are_unnamed(array: Any) -> None:
    data = npz_file(a=array, b=np.zeros(2, "f4"))
    assert list(tensors(data, "npz")) == ["b"]


def test_npz_compressed_entries_are_unnamed_segments() -> None:
    data = npz_file(compressed=True, a=np.zeros(1000), b=np.zeros(1000))
    found = find(data)
    assert found is not None
    assert found[0] == "npz"
    assert [segment.name for segment in found[1]] == [None] * 5


def npy(header: bytes, body: bytes = bytes(8), version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + body


def test_npy_versions() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }   \n"
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        data = zip_file({"a.npy": npy(header, version=version)})
        assert tensors(data, "npz") == {"a": (bytes(8), "F32", (2,))}
    assert tensors(zip_file({"a.npy": npy(header, version=b"\x04\x00")}), "npz") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(20),
        npy(b"(" * 5000),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 5000),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }" + b" " * 20_000),
        npy(b"\xff\xfe" * 20),
    ],
)
def test_npy_headers_that_say_nothing(content: bytes) -> None:
    assert tensors(zip_file({"a.npy": content}), "npz") == {}


@pytest.mark.parametrize("shape", [b"3,", b"2 2,", b"9" * 6000 + b",", b"2," * 65])
def test_npy_shapes_that_do_not_hold(shape: bytes) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + b"), }"
    assert find(zip_file({"a.npy": npy(header)})) is None


@given(
    st.sampled_from([b"", b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0{}"]),
    st.binary(),
)
def test_arbitrary_bytes(magic: bytes, rest: bytes) -> None:
    find(magic + rest)


@pytest.mark.crash
@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_arbitrary_mutations(kind: str, draw: st.DataObject) -> None:
    data = bytearray(EXAMPLES[kind])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, max(len(data) - 1, 0)))
        match draw.draw(st.sampled_from(["flip", "truncate", "insert", "delete", "number"])):
            case "flip":
                data[at : at + 1] = bytes([draw.draw(st.integers(0, 255))])
            case "truncate":
                del data[at:]
            case "insert":
                data[at:at] = draw.draw(st.binary(max_size=16))
            case "delete":
                del data[at : at + draw.draw(st.integers(1, 16))]
            case "number":
                number = draw.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]))
                data[at : at + 8] = struct.pack("<Q", number)
    find(bytes(data))


@given(st.binary(max_size=400))
def test_arbitrary_pickles(rest: bytes) -> None:
    pickled.find_storages(rest)
    pickled.find_storages(pickle_of(storage_id("FloatStorage", "0", 1))[:-2] + rest)


DTYPES = {"F32": 4, "BF16": 2, "U8": 1, "F64": 8, "F4_UNKNOWN": 1}
LAYOUTS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=3)),
    max_size=6,
)


@given(LAYOUTS, st.randoms(use_true_random=False), st.integers(0, 8))
def test_safetensors_layouts(layout: dict[str, tuple[str, list[int]]], shuffler: Any, pad: int) -> None:
    body = b""
    header: dict[str, Any] = {}
    expected = {}
    for number, (name, (dtype, shape)) in enumerate(layout.items()):
        raw = bytes([number]) * (int(np.prod(shape, dtype=int)) * DTYPES[dtype])
        header[name] = entry(dtype, shape, len(body), len(body) + len(raw))
        body += raw
        if raw:
            expected[name] = (raw, dtype, tuple(shape))
    order = list(header)
    shuffler.shuffle(order)
    assert tensors(safetensors_file({name: header[name] for name in order}, body, pad=pad), "safetensors") == expected


GGML = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144), 30: ("BF16", 1, 2)}


@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(st.sampled_from(sorted(GGML)), st.lists(st.integers(0, 3), max_size=4))
    ),
    st.sampled_from([8, 32, 64]),
    st.lists(st.text(max_size=5)),
    st.randoms(use_true_random=False),
)
def test_gguf_layouts(
    layout: dict[str, tuple[int, list[int]]], alignment: int, tokens: list[str], shuffler: Any
) -> None:
    body = b""
    infos, expected = [], {}
    for number, (name, (kind, shape)) in enumerate(layout.items()):
        dtype, block_elements, block_bytes = GGML[kind]
        dimensions = [n * block_elements if axis == 0 else n for axis, n in enumerate(shape)] or [block_elements]
        raw = bytes([number + 1]) * (int(np.prod(dimensions, dtype=int)) // block_elements * block_bytes)
        infos.append(gguf_info(name, dimensions, kind, len(body)))
        body += raw + bytes(-len(raw) % alignment)
        if raw:
            expected[name] = (raw, dtype, tuple(reversed(dimensions)))
    shuffler.shuffle(infos)
    pairs = {"general.alignment": struct.pack("<II", 4, alignment), "tokens": gguf_strings(tokens)}
    assert tensors(gguf_file(infos, body, pairs, alignment=alignment), "gguf") == expected
