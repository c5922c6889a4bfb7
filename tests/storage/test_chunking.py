"""Cuts and digests. The golden lists in tests/data/chunks.json are part of the format.

They change only together with `PLAN_VERSION`: stores that hold the old cuts share nothing with the new ones.
`python tests/storage/test_chunking.py` writes them anew; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pyfastcdc
import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casstore.storage import chunking
from casstore.storage.chunking import MAX_CHUNK, scan_bytes, scan_file
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import find_segments

GOLDEN = Path(__file__).parent.parent / "data" / "chunks.json"
MIB = 1 << 20


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def safetensors_file(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def gguf_file(tensors: dict[str, tuple[int, list[int], bytes]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    body = b""
    for name, (kind, dimensions, data) in tensors.items():
        body += bytes(-len(body) % 32)
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dimensions))
        head += struct.pack(f"<{len(dimensions)}QIQ", *dimensions, kind, len(body))
        body += data
    return head + bytes(-len(head) % 32) + body


def zip_file(entries: dict[str, bytes]) -> bytes:
    """By hand: what zipfile writes may change with Python's version, and goldens may not."""
    body = directory = b""
    for name, data in entries.items():
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + fields + name.encode() + data
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def npy(descr: str, shape: str, data: bytes) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(-(10 + len(header) + 1) % 64 + len(header)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def torch_pickle(*storages: tuple[str, str, int]) -> bytes:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    ids = b"".join(
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + b"J"
        + struct.pack("<i", elements) + b"tQ"
        for kind, key, elements in storages
    )  # fmt: skip
    return b"\x80\x02](" + ids + b"e."


SMALL_SAFETENSORS = safetensors_file({"a": ("BF16", [8, 4], noise(1, 64)), "b": ("F32", [3], noise(2, 12))})
LARGE_SAFETENSORS = safetensors_file(
    {
        "embedding": ("BF16", [1100, 1024], noise(3, 1100 * 2048)),
        "bias": ("F32", [5], noise(4, 20)),
        "exactly one": ("U8", [MIB], noise(5, MIB)),
        "one byte more": ("I8", [MIB + 1], noise(6, MIB + 1)),
    },
    {"format": "pt"},
)
FILES = {
    "empty": b"",
    "opaque, one byte": b"x",
    "opaque, small": noise(7, 5000),
    "opaque, the largest of one chunk": noise(8, MIB),
    "opaque, one byte more (FastCDC)": noise(9, MIB + 1),
    "opaque, 3 MiB (FastCDC)": noise(10, 3 * MIB),
    "opaque, zeros (FastCDC)": bytes(2 * MIB + 5),
    "safetensors, small": SMALL_SAFETENSORS,
    "safetensors, large": LARGE_SAFETENSORS,
    "safetensors, malformed header, small": SMALL_SAFETENSORS[:40] + b"!" + SMALL_SAFETENSORS[41:],
    "safetensors, malformed header, large (FastCDC)": LARGE_SAFETENSORS[:40] + b"!" + LARGE_SAFETENSORS[41:],
    "safetensors, cut short (FastCDC)": LARGE_SAFETENSORS[:-1],
    "gguf": gguf_file({"q": (2, [32, 3], noise(11, 54)), "f": (0, [300_000], noise(12, 1_200_000))}),
    "torch": zip_file(
        {
            "m/data.pkl": torch_pickle(("BFloat16Storage", "0", 700_000), ("LongStorage", "1", 2)),
            "m/byteorder": b"little",
            "m/data/0": noise(13, 1_400_000),
            "m/data/1": noise(14, 16),
            "m/version": b"3\n",
        }
    ),
    "npz": zip_file(
        {
            "w.npy": npy("<f4", "(100, 3000)", noise(15, 1_200_000)),
            "step.npy": npy("<i8", "()", noise(16, 8)),
            "names.npy": npy("<U4", "(2,)", noise(17, 32)),
        }
    ),
    "several zips": b"".join(
        zip_file(
            {
                "archive/data.pkl": torch_pickle(("BFloat16Storage", "0", size // 2)),
                "archive/byteorder": b"little",
                "archive/data/0": noise(seed, size),
            }
        )
        for seed, size in ((18, 1_400_000), (19, 20), (20, 20))
    ),
}


def scan(path: Path, data: bytes) -> Recipe:
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return scan_file(descriptor)
    finally:
        os.close(descriptor)


def readable(recipe: Recipe) -> dict[str, Any]:
    """As it stands in the golden file: a line for each segment, 16 digits of each chunk's digest."""
    segments = []
    for segment in recipe.segments:
        head = "-" if segment.name is None else f"{segment.name} {segment.dtype} {segment.shape}"
        segments.append(head + ": " + " ".join(f"{length}:{digest.hex()[:16]}" for digest, length in segment.chunks))
    return {"blob": str(recipe.blob), "size": recipe.size, "plan": recipe.plan, "segments": segments}


def check(recipe: Recipe, data: bytes) -> None:
    """What must hold for the recipe of any file."""
    assert recipe.blob == blake3(data).digest()
    assert recipe.size == len(data)
    end = 0
    for chunk in recipe.chunks():
        assert chunk.offset == end
        assert 1 <= chunk.length <= MAX_CHUNK
        end += chunk.length
        assert chunk.digest == blake3(data[chunk.offset : end]).digest()
    assert end == len(data)
    assert all(segment.chunks for segment in recipe.segments)
    if len(data) <= MAX_CHUNK:
        assert scan_bytes(data) == recipe


@pytest.mark.parametrize("name", FILES)
def test_golden_chunk_lists(name: str, tmp_path: Path) -> None:
    recipe = scan(tmp_path / "file", FILES[name])
    check(recipe, FILES[name])
    assert readable(recipe) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def test_no_golden_is_left_over() -> None:
    assert list(json.loads(GOLDEN.read_text(encoding="utf-8"))) == list(FILES)


def test_the_plan_version_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "PLAN_VERSION", 7)
    assert scan(tmp_path / "file", LARGE_SAFETENSORS).plan == "safetensors/7"
    assert scan(tmp_path / "file", bytes(2 * MIB)).plan == "fastcdc/7"


@given(st.one_of(st.binary(max_size=2000), st.sampled_from(sorted(FILES.values(), key=len)[:6])), st.data())
def test_small_files(tmp_path_factory: pytest.TempPathFactory, data: bytes, draw: st.DataObject) -> None:
    """Also what is nearly of a known format: one byte of a real file changed."""
    if data and draw.draw(st.booleans()):
        position = draw.draw(st.integers(0, min(len(data), 400) - 1))
        data = data[:position] + bytes([draw.draw(st.integers(0, 255))]) + data[position + 1 :]
    check(scan(tmp_path_factory.getbasetemp() / "small", data), data)


def test_bytes_of_more_than_a_chunk_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one chunk"):
        scan_bytes(bytes(MAX_CHUNK + 1))


pieces = st.lists(
    st.one_of(
        st.tuples(st.just("noise"), st.integers(0, 5), st.integers(1, MIB)),
        st.tuples(st.just("zeros"), st.just(0), st.integers(1, 3 * MIB)),
    ),
    min_size=1,
    max_size=6,
)


def join(parts: list[tuple[str, int, int]]) -> bytes:
    return b"".join(bytes(length) if kind == "zeros" else noise(seed, length) for kind, seed, length in parts)


@settings(max_examples=15, deadline=None)
@given(pieces)
@example([("zeros", 0, 9 * MIB)])
@example([("noise", 0, 8 * MIB)])
@example([("noise", 0, 8 * MIB - 1), ("zeros", 0, 3)])
def test_windows_cut_opaque_bytes_as_one_pass_would(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int, int]]
) -> None:
    data = join(parts)
    recipe = scan(tmp_path_factory.getbasetemp() / "opaque", data)
    check(recipe, data)
    if len(data) > MAX_CHUNK:
        cdc = pyfastcdc.FastCDC(
            chunking.FASTCDC_AVERAGE_BYTES,
            min_size=chunking.FASTCDC_MINIMUM_BYTES,
            max_size=MAX_CHUNK,
            normalized_chunking=chunking.FASTCDC_NORMALIZATION,
        )
        assert [c.length for c in recipe.chunks()] == [c.length for c in cdc.cut_buf(data)]


# A window is never smaller than a chunk and a byte, or a cut could not be told from the window's end.
WINDOWS = [MIB + 1, 2 * MIB, 3 * MIB + 12345, 16 * MIB]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["opaque", "safetensors"])
def test_windows_and_threads_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, window: int, threads: int
) -> None:
    data = LARGE_SAFETENSORS + (b"" if kind == "safetensors" else noise(20, 3 * MIB))
    expected = scan(tmp_path / "file", data)
    monkeypatch.setattr(chunking, "WINDOW_BYTES", window)
    monkeypatch.setattr(chunking, "HASH_THREADS", threads)
    monkeypatch.setattr(chunking, "_THREADS_FROM_BYTES", 0)
    assert scan(tmp_path / "file", data) == expected


def test_insertion_leaves_most_chunks_of_opaque_bytes(tmp_path: Path) -> None:
    data = noise(21, 8 * MIB)
    before = {chunk.digest: chunk.length for chunk in scan(tmp_path / "file", data).chunks()}
    for inserted in (b"!", noise(22, 1000), noise(23, 300_000)):
        after = {chunk.digest for chunk in scan(tmp_path / "file", inserted + data).chunks()}
        found = sum(length for digest, length in before.items() if digest in after)
        assert found > len(data) - 3 * MAX_CHUNK // 2


def chunks_of(recipe: Recipe) -> dict[str | None, Any]:
    return {segment.name: segment.chunks for segment in recipe.segments if segment.name is not None}


@settings(max_examples=20, deadline=None)
@given(
    st.permutations(["embedding", "bias", "exactly one", "one byte more"]),
    st.dictionaries(st.text(max_size=9), st.text(max_size=99), max_size=4),
)
def test_a_tensor_has_the_same_chunks_in_every_file(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], metadata: dict[str, str]
) -> None:
    tensors = {
        "embedding": ("BF16", [1100, 1024], noise(3, 1100 * 2048)),
        "bias": ("F32", [5], noise(4, 20)),
        "exactly one": ("U8", [MIB], noise(5, MIB)),
        "one byte more": ("I8", [MIB + 1], noise(6, MIB + 1)),
    }
    path = tmp_path_factory.getbasetemp() / "permuted"
    recipe = scan(path, safetensors_file({name: tensors[name] for name in order}, metadata))
    assert chunks_of(recipe) == chunks_of(scan(path, LARGE_SAFETENSORS))


def test_a_grown_tensor_keeps_its_whole_chunks(tmp_path: Path) -> None:
    rows = noise(24, 3 * MIB)
    small = safetensors_file({"w": ("U8", [len(rows) - 7], rows[:-7])})
    large = safetensors_file({"w": ("U8", [len(rows)], rows)})
    before = chunks_of(scan(tmp_path / "file", small))["w"]
    after = chunks_of(scan(tmp_path / "file", large))["w"]
    assert before[:2] == after[:2]
    assert before[2] != after[2]


@pytest.mark.parametrize("kind", ["opaque", "safetensors"])
@pytest.mark.parametrize("size", [3 * MIB, 20 * MIB])
def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(25, size) if kind == "opaque" else safetensors_file({"a": ("U8", [size], noise(25, size))}))
    find = find_segments

    def find_then_shrink(*args: Any) -> Any:
        found = find(*args)
        os.truncate(path, size - MIB // 2)
        return found

    monkeypatch.setattr(chunking, "find_segments", find_then_shrink)
    descriptor = os.open(path, os.O_RDONLY)
    before = threading.active_count()
    with pytest.raises(EOFError, match="shorter"):
        scan_file(descriptor)
    os.close(descriptor)
    assert threading.active_count() == before


def test_a_small_file_that_shrank(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(EOFError, match="shorter"):
        scan_file(descriptor, size=6)
    os.close(descriptor)


@pytest.mark.parametrize("size", [5000, 3 * MIB, 20 * MIB])
@pytest.mark.parametrize("kind", ["opaque", "safetensors"])
def test_progress_adds_up(tmp_path: Path, kind: str, size: int) -> None:
    data = noise(26, size) if kind == "opaque" else safetensors_file({"a": ("U8", [size], noise(26, size))})
    path = tmp_path / "file"
    path.write_bytes(data)
    told: list[int] = []
    with path.open("rb") as file:
        scan_file(file.fileno(), told.append)
    assert sum(told) == len(data)


def test_an_error_reaches_the_thread_that_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(safetensors_file({"a": ("U8", [20 * MIB], bytes(20 * MIB))}))
    real = os.preadv

    def fail_late_at_the_start(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset == 0:
            time.sleep(0.2)
            raise OSError(5, "Input/output error")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", fail_late_at_the_start)
    caught: list[BaseException] = []

    def scan_it() -> None:
        with path.open("rb") as file:
            try:
                scan_file(file.fileno())
            except OSError as error:
                caught.append(error)

    scanning = threading.Thread(target=scan_it, daemon=True)
    scanning.start()
    scanning.join(timeout=120)
    assert [str(error) for error in caught] == ["[Errno 5] Input/output error"]


def test_an_error_in_progress_ends_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * MIB))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with path.open("rb") as file, pytest.raises(KeyboardInterrupt):
        scan_file(file.fileno(), stop)


PEAK_OF_A_SCAN = """
import os, re, sys
from casstore.storage.chunking import scan_file

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10

warm, large = (os.open(path, os.O_RDONLY) for path in sys.argv[1:])
scan_file(warm)
before = peak()
assert scan_file(large).size == os.fstat(large).st_size
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["opaque", "safetensors"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    size = 128 * MIB
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(noise(27, 2 * MIB))
    header = b"" if kind == "opaque" else safetensors_file({"a": ("U8", [size], b"")})
    header = header.replace(b'"data_offsets": [0, 0]', b'"data_offsets":[0,%d]' % size)
    if header:
        header = struct.pack("<Q", len(header) - 8) + header[8:]
    large.write_bytes(header)
    os.truncate(large, len(header) + size)
    done = subprocess.run(
        [sys.executable, "-c", PEAK_OF_A_SCAN, str(small), str(large)], capture_output=True, text=True, check=True
    )
    # Two windows of 4 MiB, and the stacks of two threads.
    assert int(done.stdout) < 24 * MIB


def write_goldens() -> None:
    path = GOLDEN.with_suffix(".scanned")
    lists = {name: readable(scan(path, data)) for name, data in FILES.items()}
    path.unlink()
    GOLDEN.write_text(json.dumps(lists, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_goldens()
