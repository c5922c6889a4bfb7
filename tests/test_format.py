"""A second reader of stores, written from docs/format.md alone, reads what casstore writes.

This module imports nothing of casstore: the store is made by another process.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
import yaml
import zstandard
from blake3 import blake3

MIB = 1 << 20
DOCUMENT = Path(__file__).parents[1].joinpath("docs/format.md").read_text(encoding="utf-8")
# "FastCDC".
GEAR = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]


def digest_of(data: bytes) -> bytes:
    return blake3(data).digest()


def unzstd(frame: bytes) -> bytes:
    assert zstandard.get_frame_parameters(frame).content_size != zstandard.CONTENTSIZE_UNKNOWN
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)


class Row(NamedTuple):
    """An index row of a pack."""

    digest: bytes
    offset: int
    length: int
    raw_bytes: int
    encoding: int
    base: bytes | None
    grouping: bytes | None = None


def read_record(pack: bytes, offset: int) -> tuple[Row, bytes]:
    """ "Record" in docs/format.md: the row that would describe it, and its encoded bytes."""
    magic, encoding, flags, extension_bytes, raw_bytes, encoded_bytes = struct.unpack_from("<4sBBHII", pack, offset)
    assert magic == b"chnk"
    assert flags in ((1, 3) if encoding == 3 else (0,))
    assert extension_bytes >= {0: 0, 1: 32, 3: 64}[flags]
    digest = pack[offset + 16 : offset + 48]
    base = pack[offset + 48 : offset + 80] if flags & 1 else None
    grouping = pack[offset + 80 : offset + 112] if flags & 2 else base
    start = offset + 48 + extension_bytes
    row = Row(digest, offset, 48 + extension_bytes + encoded_bytes, raw_bytes, encoding, base, grouping)
    return row, pack[start : start + encoded_bytes]


def read_index(pack: bytes) -> list[Row]:
    """ "Header", "Index" and "Trailer"."""
    assert struct.unpack_from("<8sHHI", pack) == (b"casspack", 1, 0, 1)
    offset, length, digest, magic = struct.unpack("<QI32s8s", pack[-52:])
    assert magic == b"packtail"
    assert offset + length == len(pack) - 52
    index = pack[offset : offset + length]
    assert digest_of(index) == digest
    return [Row(*row[:7]) for row in msgpack.unpackb(unzstd(index))]


def walk_records(pack: bytes) -> Iterator[Row]:
    offset = 16
    while pack[offset : offset + 4] == b"chnk":
        row, _ = read_record(pack, offset)
        yield row
        offset += row.length


def read_table(encoded: bytes, offset: int, number: int) -> tuple[list[tuple[int, bytes]], bytes]:
    """ "Streams": kind and bytes of each, and what comes after them."""
    position = offset + 5 * number
    found = []
    for kind, length in struct.iter_unpack("<BI", encoded[offset:position]):
        assert position + length <= len(encoded)
        found.append((kind, encoded[position : position + length]))
        position += length
    return found, encoded[position:]


def decode_stream(kind: int, stream: bytes, length: int) -> np.ndarray[Any, Any]:
    if kind == 0:
        raw = stream
    elif kind == 1:
        raw = unzstd(stream)
    else:
        assert (kind, stream) == (2, b"")
        raw = bytes(length)
    assert len(raw) == length
    return np.frombuffer(raw, np.uint8)


def decode(encoding: int, encoded: bytes, raw_bytes: int) -> bytes:
    """ "Encodings" that need no other chunk."""
    if encoding == 0:
        return encoded
    if encoding == 1:
        return unzstd(encoded)
    assert encoding == 2
    width = encoded[0]
    assert width in (2, 4, 8)
    count = raw_bytes // width
    streams, tail = read_table(encoded, 1, width)
    raw = bytearray(raw_bytes)
    for plane, (kind, stream) in enumerate(streams):
        raw[plane : count * width : width] = decode_stream(kind, stream, count).tobytes()
    assert len(tail) == raw_bytes % width
    raw[count * width :] = tail
    return bytes(raw)


def decode_delta(encoded: bytes, base: bytes, grouping: bytes) -> bytes:
    """ "3, delta", by itself."""
    assert len(base) == len(grouping)
    width, shift, bits, groups = encoded[:4]
    assert width in (1, 2, 4, 8)
    assert bits <= 11
    assert shift + bits <= 8 * width
    assert 1 <= groups <= 64
    last_keys = struct.unpack_from(f"<{groups}H", encoded, 4)
    assert sorted({*last_keys}) == [*last_keys]
    assert last_keys[-1] == 2**bits - 1
    dense = encoded[4 + 2 * groups]
    assert dense <= groups
    streams, tail = read_table(encoded, 5 + 2 * groups, 1 + width)
    count = len(base) // width
    assert len(tail) == len(base) % width

    numbers = np.frombuffer(grouping, f"<u{width}", count).astype(np.uint64)
    keys = (numbers >> np.uint64(shift) if bits else numbers) % np.uint64(2**bits)
    group_of = np.searchsorted(np.array(last_keys), keys.astype(np.int64))
    order = np.lexsort((np.arange(count), group_of))
    in_dense = int(np.count_nonzero(group_of < dense))
    mapped = count - in_dense
    bit_map = decode_stream(*streams[0], -(-mapped // 8))
    stored = [*range(in_dense), *(in_dense + m for m in range(mapped) if bit_map[m // 8] >> m % 8 & 1)]
    values = np.zeros(len(stored), np.uint64)
    for plane, (kind, stream) in enumerate(streams[1:]):
        values += decode_stream(kind, stream, len(stored)).astype(np.uint64) * np.uint64(256**plane)
    halves = values // np.uint64(2)
    differences = np.zeros(count, np.uint64)
    differences[order[stored]] = np.where(values % np.uint64(2), ~halves, halves)
    elements = np.frombuffer(base, f"<u{width}", count).astype(np.uint64) + differences
    return elements.astype(f"<u{width}").tobytes() + tail


class Packs:
    """The chunks of packs, and those that others hold and deltas need."""

    def __init__(self, paths: Iterable[Path], others: Mapping[bytes, bytes]) -> None:
        self.rows: dict[bytes, Row] = {}
        self.chunks: dict[bytes, bytes] = {}
        self.encoded: dict[bytes, bytes] = {}
        for path in paths:
            pack = path.read_bytes()
            rows = read_index(pack)
            assert list(walk_records(pack)) == rows
            for row in rows:
                found, self.encoded[row.digest] = read_record(pack, row.offset)
                assert found == row
                self.rows[row.digest] = row
        for digest in self.rows:
            self._decode(digest, others)

    def _decode(self, digest: bytes, others: Mapping[bytes, bytes], links: int = 0) -> bytes:
        if digest not in self.chunks and digest in self.rows:
            assert links <= 8
            row, encoded = self.rows[digest], self.encoded[digest]
            if row.base is None or row.grouping is None:
                raw = decode(row.encoding, encoded, row.raw_bytes)
            else:
                assert row.grouping in others or self.rows[row.grouping].encoding != 3
                base = self._decode(row.base, others, links + 1)
                raw = decode_delta(encoded, base, self._decode(row.grouping, others))
            assert (len(raw), digest_of(raw)) == (row.raw_bytes, row.digest)
            self.chunks[digest] = raw
        return self.chunks[digest] if digest in self.chunks else others[digest]

    def links(self, digest: bytes) -> int:
        """Of the chain that the chunk is the end of."""
        row = self.rows.get(digest)
        return 0 if row is None or row.base is None else 1 + self.links(row.base)


class Reader:
    """Every chunk of a store, from its containers; every version, from its manifests. No catalog."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.loose: dict[bytes, bytes] = {}
        for path in (home / "objects/loose").glob("??/*"):
            name, _, _ = path.name.rpartition(".")
            blob = bytes.fromhex(name)
            self.loose[blob] = path.read_bytes()
            assert path.parent.name == name[:2]
            assert digest_of(self.loose[blob]) == blob
        in_loose = dict(self.loose)
        for manifest in [*self.manifests().values(), *self.deleted().values()]:
            for blob, packed in manifest["recipes"]:
                for digest, offset, length in chunks_of(packed):
                    if blob in self.loose:
                        in_loose[digest] = self.loose[blob][offset : offset + length]
        self.packs = Packs((home / "objects/packs").glob("*.pack"), in_loose)
        self.chunks = in_loose | self.packs.chunks

    def manifests(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in (self.home / "manifests").glob("*/*"):
            version, _, manifest_id = path.name.rpartition(".")
            if not path.parent.name.startswith(".") and manifest_id not in self.deleted():
                frame = path.read_bytes()
                assert zstandard.get_frame_parameters(frame).has_checksum
                found[f"{path.parent.name}:{version}"] = msgpack.unpackb(unzstd(frame))
        return found

    def deleted(self) -> dict[str, dict[str, Any]]:
        """What `.deleted` and `.trash` say of how loose files are cut, by id."""
        paths = (self.home / "manifests").glob(".[dt][er]*/*")
        return {path.name: msgpack.unpackb(unzstd(path.read_bytes())) for path in paths}

    def read(self, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """The files of a version."""
        recipes = dict(manifest["recipes"])
        contents = {}
        for path, _, size, blob in manifest["files"]:
            if blob in recipes:
                content = b"".join(self.chunks[digest] for digest, _, _ in chunks_of(recipes[blob]))
            else:
                content = self.chunks[blob] if size else b""
            assert (len(content), digest_of(content)) == (size, blob)
            contents[path] = content
        return contents


def chunks_of(packed_recipe: bytes) -> Iterator[tuple[bytes, int, int]]:
    """ "Recipes": digest, offset and length of each chunk."""
    _, size, segments = msgpack.unpackb(packed_recipe)[:3]
    offset = 0
    for _, _, _, digests, lengths in (segment[:5] for segment in segments):
        assert len(digests) == 32 * len(lengths)
        for number, length in enumerate(lengths):
            assert 1 <= length <= 16 * MIB
            yield digests[32 * number : 32 * number + 32], offset, length
            offset += length
    assert offset == size


def cut_by_content(data: bytes) -> list[int]:
    """ "FastCDC", in the words of docs/format.md."""
    lengths = []
    start = 0
    while start < len(data):
        length = min(len(data) - start, MIB)
        if len(data) - start > 64 << 10:
            h = 0
            for p in range(64 << 10, length - length % 2):
                h = (2 * h + GEAR[data[start + p]]) % 2**64
                if not h & 0xD90313530000:
                    length = p
                    break
        lengths.append(length)
        start += length
    return lengths


def grid(length: int) -> list[int]:
    return [min(MIB, length - start) for start in range(0, length, MIB)]


def safetensors_bytes(tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        bounds = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": bounds}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def torch_bytes(values: bytes) -> bytes:
    # What torch.save writes, as far as the format goes: a pickle of one persistent id, and a storage.
    text = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    pickle = b"\x80\x02" + text + b"J" + struct.pack("<i", len(values) // 4) + b"tQ."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", values)
    return file.getvalue()


def gguf_bytes(values: bytes) -> bytes:
    name = b"blk.0.weight"
    tensor = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, len(values) // 4, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor
    return header + bytes(-len(header) % 32) + values


def npz_bytes(**arrays: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def sources() -> dict[str, dict[str, bytes]]:
    """Files of three versions, so that every encoding, every plan and both kinds of containers come up."""
    generator = np.random.default_rng(20)
    noise = random.Random(20)
    weights = generator.normal(size=(700, 800)).astype("f4")
    tuned = weights.copy()
    tuned[0] += 1e-3
    opaque = noise.randbytes(3 * MIB + 12_345)
    changed = bytearray(opaque)
    changed[MIB] ^= 1
    first = {
        "model.safetensors": safetensors_bytes({"w": ("F32", weights), "b": ("F32", weights[0])}),
        "half.safetensors": safetensors_bytes({"w": ("F16", generator.normal(size=(9, 999)).astype("f2"))}),
        "config.json": b'{"hidden_size": 384}' * 99,
        "noise.bin": noise.randbytes(5000),
        "opaque.bin": opaque,
        "deep/er/ü.txt": "später".encode(),
        "empty": b"",
        "run.sh": b"#!/bin/sh\n",
        "model.gguf": gguf_bytes(noise.randbytes(3 * MIB)),
        "model.pt": torch_bytes(noise.randbytes(3 * MIB)),
        "model.npz": npz_bytes(a=generator.normal(size=200_000), b=np.arange(10)),
        "broken.safetensors": struct.pack("<Q", 999_999) + b'{"w": 1' + noise.randbytes(2 * MIB),
    }
    return {
        "m:v1": first,
        "m:1.0.rc-1": first | {"opaque.bin": bytes(changed)},
        "other:v1": {"model.safetensors": safetensors_bytes({"w": ("F32", tuned)})},
    }


_SAVE = """
import json, sys, casstore
with casstore.Store(sys.argv[1]) as store:
    for tag in sys.argv[3:]:
        store.save(tag, sys.argv[2] + "/" + tag, labels={"tag": tag}, metadata={"loss": 0.5})
    store.save("m:gone", sys.argv[2] + "/" + sys.argv[3], labels={"lost": "yes"})
    store.delete("m:gone")
    store.gc()
    print(json.dumps({str(m.tag): [str(m.digest), m.size, str(m.base.tag) if m.base else None] for m in store.list()}))
"""


@pytest.fixture(scope="module")
def contents() -> dict[str, dict[str, bytes]]:
    return sources()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, dict[str, bytes]]) -> tuple[Path, Any]:
    """The home of a store, and what casstore says of its versions."""
    root = tmp_path_factory.mktemp("format")
    for tag, files in contents.items():
        for path, content in files.items():
            target = root / "sources" / tag / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    (root / "sources" / "m:v1" / "run.sh").chmod(0o755)
    (root / "sources" / "m:v1" / "void" / "within").mkdir(parents=True)
    arguments = [str(root / "store"), str(root / "sources"), *contents]
    done = subprocess.run([sys.executable, "-c", _SAVE, *arguments], check=True, capture_output=True, text=True)
    return root / "store", json.loads(done.stdout)


def test_every_file_is_rebuilt_from_manifests_and_containers(
    saved: tuple[Path, Any], contents: dict[str, dict[str, bytes]]
) -> None:
    reader = Reader(saved[0])
    manifests = reader.manifests()
    assert manifests.keys() == contents.keys()
    for tag, manifest in manifests.items():
        assert reader.read(manifest) == contents[tag]
    assert {row.encoding for row in reader.packs.rows.values()} == {0, 1, 2}


def training_run() -> dict[str, bytes]:
    """Weights that move by about as much at each step, in several dtypes; of v7 the larger ones begin anew."""
    generator = np.random.default_rng(21)

    def weights(count: int) -> np.ndarray[Any, Any]:
        return generator.normal(0, 0.03, count).astype("f4")

    halves, floats = weights(560_000), weights(40_000)
    codes = generator.integers(-128, 128, 30_000).astype("i1")
    run = {}
    for number in range(1, 12):
        if number == 7:
            halves = weights(560_000)
        run[f"run:v{number}"] = safetensors_bytes(
            {
                "halves": ("BF16", halves.view("<u2")[1::2]),
                "floats": ("F32", floats),
                "codes": ("I8", codes),
                "zeros": ("F32", np.zeros(5000 + number % 2, "f4")),
            }
        )
        halves = halves + generator.normal(0, 3e-5, halves.size).astype("f4")
        floats = floats + generator.normal(0, 3e-6, floats.size).astype("f4")
        codes = codes + (generator.random(codes.size) < 0.02).astype("i1")
    return run


_TRAIN = """
import sys, casstore
with casstore.Store(sys.argv[1]) as store:
    for tag in sys.argv[3:]:
        # A loose file is what the first deltas are against.
        with store.create(tag, materialize=tag == "run:v1") as draft:
            with open(sys.argv[2] + "/" + tag, "rb") as source, open(draft.path + "/model.safetensors", "wb") as file:
                file.write(source.read())
    with store.create("run:branch", base="run:v3", materialize=False) as draft:
        with open(sys.argv[2] + "/branch", "rb") as source, open(draft.path + "/model.safetensors", "wb") as file:
            file.write(source.read())
"""


@pytest.mark.crash
def test_a_training_run_is_rebuilt_from_deltas(tmp_path: Path) -> None:
    run = training_run()
    branch = bytearray(run["run:v3"])
    branch[-200_000::9] = bytes(len(branch[-200_000::9]))
    for name, content in [*run.items(), ("branch", bytes(branch))]:
        (tmp_path / name).write_bytes(content)
    subprocess.run([sys.executable, "-c", _TRAIN, str(tmp_path / "store"), str(tmp_path), *run], check=True)
    reader = Reader(tmp_path / "store")
    found = {tag: reader.read(manifest) for tag, manifest in reader.manifests().items()}
    expected = run | {"run:branch": bytes(branch)}
    assert found == {tag: {"model.safetensors": content} for tag, content in expected.items()}
    # It was no idle exercise: all of it came up.
    packs = reader.packs
    assert {row.encoding for row in packs.rows.values()} >= {2, 3}
    deltas = [row for row in packs.rows.values() if row.encoding == 3]
    assert {row.base == row.grouping for row in deltas} == {True, False}
    assert {row.grouping in packs.rows for row in deltas} == {True, False}
    assert max(map(packs.links, packs.rows)) >= 5
    (_, recipe), *_ = reader.manifests()["run:v6"]["recipes"]
    segments = {segment[0]: segment for segment in msgpack.unpackb(recipe)[2]}
    for name, element in {"halves": (2, 7, 8), "floats": (4, 23, 8), "codes": (1, 0, 0)}.items():
        for start in range(0, len(segments[name][3]), 32):
            digest = segments[name][3][start : start + 32]
            assert packs.rows[digest].encoding == 3
            assert tuple(packs.encoded[digest][:3]) == element
    # The tensor of nothing but zeros: its planes take nothing.
    assert packs.encoded[segments["zeros"][3]] == b"\4" + b"\2\0\0\0\0" * 4


_DELETE = """
import sys, casstore
with casstore.Store(sys.argv[1]) as store:
    store.save("a:1", sys.argv[2] + "/a")
    store.save("b:1", sys.argv[2] + "/b", materialize=False)
    store.delete("a:1", now=True)
    store.save("c:1", sys.argv[2] + "/b", materialize=False)
"""


def test_a_chunk_in_a_loose_file_of_a_deleted_version_is_read(tmp_path: Path) -> None:
    """It stands there until gc packs it, and only the deleted version's manifest says where."""
    noise = random.Random(22)
    shared = np.frombuffer(noise.randbytes(300_000), "f4")
    contents = {}
    for name in "ab":
        other = np.frombuffer(noise.randbytes(2 * MIB), "f4")
        contents[name] = safetensors_bytes({"other": ("F32", other), "shared": ("F32", shared)})
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(contents[name])
    subprocess.run([sys.executable, "-c", _DELETE, str(tmp_path / "store"), str(tmp_path)], check=True)
    reader = Reader(tmp_path / "store")
    found = {tag: reader.read(manifest) for tag, manifest in reader.manifests().items()}
    assert found == {tag: {"model.safetensors": contents["b"]} for tag in ("b:1", "c:1")}
    assert digest_of(shared.tobytes()) not in reader.packs.rows


def vector(name: str) -> bytes:
    """What the document gives in hexadecimal under that name."""
    _, _, rest = DOCUMENT.partition(f"<!-- vector: {name} -->\n```\n")
    return bytes.fromhex(rest.partition("```")[0])


def test_the_gear_table_is_as_documented() -> None:
    packed = struct.pack("<256Q", *GEAR)
    assert digest_of(packed).hex() in DOCUMENT
    assert f"`{GEAR[0]:#x}`, `{GEAR[1]:#x}`" in DOCUMENT


def test_the_documents_pack_is_read() -> None:
    pack = vector("pack")
    (row,) = read_index(pack)
    assert list(walk_records(pack)) == [row]
    assert (row.digest, row.offset, row.raw_bytes, row.encoding) == (digest_of(b"abc"), 16, 3, 0)
    assert read_record(pack, row.offset) == (row, b"abc")


def test_the_documents_manifest_is_read() -> None:
    manifest = msgpack.unpackb(unzstd(vector("manifest")))
    assert zstandard.get_frame_parameters(vector("manifest")).has_checksum
    blob = digest_of(b"abc")
    ((of, recipe),) = manifest.pop("recipes")
    assert of == blob
    assert list(chunks_of(recipe)) == [(digest_of(b"ab"), 0, 2), (digest_of(b"c"), 2, 1)]
    assert manifest == {
        "format": 1, "requires": [], "hash": "blake3-256", "name": "m", "version": "1", "base": None, "casstore": "0",
        "created_at": 1_700_000_000 * 10**9, "files": [["a", False, 3, blob]], "directories": ["d"],
        "description": '{"api_version":"v1","context":{},"labels":{},"metadata":{"x":1.5},"module":"","options":{},'
        '"signatures":{}}',
    }  # fmt: skip
    section = msgpack.packb([manifest["files"], manifest["directories"]])
    assert section == vector("version digest of")
    assert digest_of(section) == vector("version digest")


def test_the_documents_delta_is_decoded() -> None:
    decoded = decode_delta(vector("delta"), vector("delta base"), vector("delta grouping"))
    assert decoded == vector("delta chunk")
    assert len(decoded) == 17


def test_the_golden_store_is_read(tmp_path: Path) -> None:
    """Without its catalog; it has one thing of each kind (tests/data/make_store.py)."""
    data = Path(__file__).parent / "data"
    with tarfile.open(data / "store-format-1.tar.xz") as archive:
        archive.extractall(tmp_path, **({"filter": "tar"} if sys.version_info >= (3, 12) else {}))  # type: ignore[arg-type]
    expected = json.loads((data / "store-format-1.json").read_text(encoding="utf-8"))["versions"]
    reader = Reader(tmp_path / "store")
    manifests = reader.manifests()
    found = {
        tag: {
            path: [executable, size, hashlib.sha256(content[path]).hexdigest()]
            for path, executable, size, _ in manifest["files"]
        }
        for tag, manifest in manifests.items()
        for content in [reader.read(manifest)]
    }
    assert found == {tag: version["files"] for tag, version in expected.items()}
    rows = reader.packs.rows.values()
    assert {row.encoding for row in rows} == {0, 1, 2, 3}
    assert {row.base == row.grouping for row in rows if row.encoding == 3} == {True, False}
    # A chunk is in the loose file of a deleted version alone.
    named = {digest for m in manifests.values() for _, recipe in m["recipes"] for digest, _, _ in chunks_of(recipe)}
    own = {blob for m in manifests.values() for _, _, _, blob in m["files"]}
    orphans = {
        digest
        for manifest in reader.deleted().values()
        for blob, recipe in manifest["recipes"]
        for digest, _, _ in chunks_of(recipe)
        if blob in reader.loose.keys() - own
    }
    assert orphans & named - reader.packs.rows.keys()


@pytest.mark.parametrize("name", ["format-1.pack", "format-1-deltas.pack"])
def test_golden_packs_are_as_documented(name: str) -> None:
    """Each chunk decodes to what its digest says. They hold tails, and streams of all kinds."""
    packs = Packs([Path(__file__).parent / "data" / name], {})
    assert len(packs.chunks) == len(packs.rows) == {"format-1.pack": 5, "format-1-deltas.pack": 14}[name]


def test_the_catalog_has_the_documented_tables(saved: tuple[Path, Any]) -> None:
    text = Path(__file__).parents[1].joinpath("docs/format.md").read_text(encoding="utf-8")
    section = text.partition("## The catalog")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    with contextlib.closing(sqlite3.connect(saved[0] / "catalog.db")) as catalog:
        tables = [row[0] for row in catalog.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(
            name for name in tables if not name.startswith("sqlite_")
        )
        columns = [row[1] for row in catalog.execute("PRAGMA table_info(chunk)")]
        assert {"base", "grouping", "depth", "generation"} <= {*columns}
        assert f"migrations applied, now {catalog.execute('PRAGMA user_version').fetchone()[0]}." in section


def test_manifests_have_the_documented_fields(saved: tuple[Path, Any]) -> None:
    home, said = saved
    for tag, manifest in Reader(home).manifests().items():
        assert list(manifest) == sorted(manifest)
        assert manifest.keys() == {
            "format", "requires", "hash", "name", "version", "created_at", "files", "directories", "recipes",
            "description", "base", "casstore",
        }  # fmt: skip
        assert (manifest["format"], manifest["requires"], manifest["hash"]) == (1, [], "blake3-256")
        assert f"{manifest['name']}:{manifest['version']}" == tag
        assert manifest["created_at"] > 1_700_000_000 * 10**9
        assert [file[0].encode() for file in manifest["files"]] == sorted(
            file[0].encode() for file in manifest["files"]
        )
        assert [blob for blob, _ in manifest["recipes"]] == sorted(blob for blob, _ in manifest["recipes"])
        section = msgpack.packb([manifest["files"], manifest["directories"]])
        base = manifest["base"] and f"{manifest['base'][0]}:{manifest['base'][1]}"
        assert [digest_of(section).hex(), sum(file[2] for file in manifest["files"]), base] == said[tag]
        description = json.loads(manifest["description"])
        assert manifest["description"] == json.dumps(description, sort_keys=True, separators=(",", ":"))
        assert description["labels"] == {"tag": tag}
        assert description["metadata"] == {"loss": 0.5}
        assert description.keys() == {
            "labels", "metadata", "module", "api_version", "signatures", "options", "context",
        }  # fmt: skip
    first = Reader(home).manifests()["m:v1"]
    assert [path for path, executable, _, _ in first["files"] if executable] == ["run.sh"]
    assert first["directories"] == ["void/within"]


def test_a_blob_of_one_chunk_has_no_recipe(saved: tuple[Path, Any]) -> None:
    for manifest in Reader(saved[0]).manifests().values():
        recipes = dict(manifest["recipes"])
        assert all(len(list(chunks_of(recipe))) > 1 for recipe in recipes.values())
        assert recipes.keys() <= {blob for _, _, _, blob in manifest["files"]}


def test_files_are_cut_by_the_documented_rules(saved: tuple[Path, Any], contents: dict[str, dict[str, bytes]]) -> None:
    manifest = Reader(saved[0]).manifests()["m:v1"]
    recipes = dict(manifest["recipes"])
    by_path = {path: recipes.get(blob) for path, _, _, blob in manifest["files"]}

    def recipe(path: str) -> tuple[str, list[Any]]:
        plan, size, segments = msgpack.unpackb(by_path[path])
        assert size == len(contents["m:v1"][path])
        return plan, [[name, dtype, shape, lengths] for name, dtype, shape, _, lengths in segments]

    weights = 700 * 800 * 4
    header = len(contents["m:v1"]["model.safetensors"]) - weights - 3200
    tensors = [["w", "F32", [700, 800], grid(weights)], ["b", "F32", [800], [3200]]]
    assert recipe("model.safetensors") == ("safetensors/1", [[None, None, None, [header]], *tensors])
    for path in ("opaque.bin", "broken.safetensors"):
        expected = cut_by_content(contents["m:v1"][path])
        assert recipe(path) == ("fastcdc/1", [[None, None, None, expected]])
    plan, segments = recipe("model.gguf")
    assert plan == "gguf/1"
    assert segments[1:] == [["blk.0.weight", "F32", [3 * MIB // 4], grid(3 * MIB)]]
    plan, segments = recipe("model.pt")
    assert plan == "torch/1"
    assert segments[1:-1] == [["data/0", "F32", [3 * MIB // 4], grid(3 * MIB)]]
    plan, segments = recipe("model.npz")
    assert plan == "npz/1"
    assert [segment for segment in segments if segment[0]] == [
        ["a", "F64", [200_000], grid(1_600_000)],
        ["b", "I64", [10], [80]],
    ]
    assert by_path["config.json"] is None


_ID = r"[0-9abcdefghjkmnpqrstvwxyz]{16}-[0-9]+"
_LAYOUT = (
    r"catalog\.db(-wal|-shm)?",
    r"instance",
    rf"objects/loose/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}\.{_ID}",
    rf"objects/packs/{_ID}\.pack",
    rf"manifests/(m|other)/(v1|1\.0\.rc-1)\.{_ID}",
    rf"manifests/\.trash/{_ID}",
    r"models/(m|other)/(v1|1\.0\.rc-1)/.+",
    r"models/(m|other)/latest",
    r"locks/(m|other|\.gc|\.open)\.lock",
    r"locks/\.reserve/[0-9]+",
)


def test_a_store_holds_what_the_layout_says_and_nothing_else(saved: tuple[Path, Any]) -> None:
    home, _ = saved
    unmatched = set(_LAYOUT)
    for directory, _, names in os.walk(home):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), home)
            matching = [pattern for pattern in _LAYOUT if re.fullmatch(pattern, path)]
            assert matching, path
            unmatched -= set(matching)
            # BentoML writes `latest`.
            if path.startswith(("objects/", "manifests/", "models/")) and name != "latest":
                assert os.stat(home / path).st_mode & 0o222 == 0, path
    assert not unmatched
    assert (home / "models/m/latest").read_bytes() == b"1.0.rc-1"
    assert {path.name for path in home.iterdir() if path.is_dir()} == {
        "objects", "manifests", "models", "sessions", "locks", "quarantine",
    }  # fmt: skip


def test_version_directories_are_a_view(saved: tuple[Path, Any], contents: dict[str, dict[str, bytes]]) -> None:
    home, _ = saved
    loose = {path.stat().st_ino for path in (home / "objects/loose").glob("??/*")}
    for tag, files in contents.items():
        directory = home / "models" / tag.replace(":", "/")
        standing = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
        assert standing.keys() == {*files, "model.yaml"}
        for path, content in files.items():
            assert standing[path].read_bytes() == content
            assert len(content) < 64 << 10 or standing[path].stat().st_ino in loose


def test_model_yaml_has_the_documented_fields(saved: tuple[Path, Any]) -> None:
    document = yaml.safe_load((saved[0] / "models/m/v1/model.yaml").read_text(encoding="utf-8"))
    text = Path(__file__).parents[1].joinpath("docs/format.md").read_text(encoding="utf-8")
    section = text.partition("## model.yaml")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert list(document) == documented
