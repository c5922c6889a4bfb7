"""Every parser of what may come from a stranger, and what must hold of it whatever it is given.

A parser either gives something that keeps its promises, or refuses with the error that it documents; it takes little
memory and little time for it, whatever sizes and counts the input claims. `tests/crash/test_hostile_files.py` tries
them on mutated real files, `tests/crash/fuzz.py` under a fuzzer that is guided by coverage.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zstandard

from casstore.actions.describing import model_yaml
from casstore.archive import casmodel
from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource
from casstore.storage import pack
from casstore.storage.coding import codec, delta
from casstore.storage.manifest import Base, FileEntry, Manifest
from casstore.storage.readable import OpenFile
from casstore.storage.recipe import MAX_CHUNK_BYTES, Recipe, RecipeSegment
from casstore.storage.tensors import pickled
from casstore.storage.tensors.elements import find_segments
from casstore.storage.tensors.segments import Element
from casstore.tag import Tag
from tests.storage.test_tensors import EXAMPLES, PROTOCOL_4, pickle_of, storage_id

GOLDEN = Path(__file__).parent.parent / "data"
MOST_SECONDS = 5.0  # of processor time for one input of some kilobytes: a thousand times what any of them takes


@dataclass(frozen=True)
class Parser:
    """`parse` raises nothing that is not a refusal. `seeds`: what it accepts. `most_bytes`: of memory, at any time."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (IntegrityError,)
    most_bytes: int = 4 << 20


def try_one(parser: Parser, data: bytes) -> bool:
    """Parse, within bounds of memory and time; whether it was accepted."""
    tracemalloc.start()
    started = time.process_time()
    try:
        parser.parse(data)
    except parser.refusals:
        return False
    finally:
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < MOST_SECONDS
        assert peak < parser.most_bytes + 50 * len(data), peak
    return True


def _segments(data: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        return data[offset : offset + length]

    found = find_segments(read, len(data))
    end = 0
    for segment in () if found is None else found[1]:
        assert segment.offset == end
        assert segment.length > 0
        end += segment.length
    assert end == (0 if found is None else len(data))


@functools.cache
def _scratch() -> str:
    descriptor, path = tempfile.mkstemp(prefix="casstore-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    os.close(descriptor)
    return path


def _pack(data: bytes) -> None:
    """All that is in a pack, whole chunks and deltas upon them; bytes count only if they have the digest."""
    path = Path(_scratch())
    path.write_bytes(data)
    refused: IntegrityError | None = None
    with open(path, "rb") as file:
        raw: dict[Digest, bytes] = {}
        for listed in pack.read_entries(path):
            try:
                entry, encoded = pack.read_record(OpenFile(file.fileno()), listed.offset, listed.length)
                if entry.base is None or entry.grouping is None:
                    chunk = codec.decode(entry.encoding, encoded, entry.raw_bytes)
                elif entry.base in raw and entry.grouping in raw:
                    chunk = delta.decode_deltas(raw[entry.base], [encoded], raw[entry.grouping])
                else:
                    continue
                assert len(chunk) <= MAX_CHUNK_BYTES
                if Digest.of(chunk) == entry.digest:
                    raw[entry.digest] = chunk
            except IntegrityError as error:
                refused = error
    if refused is not None:
        raise refused


def _skip(stream: io.BytesIO, size: int) -> object:
    return stream.seek(size, io.SEEK_CUR)


def _pack_stream(data: bytes) -> None:
    """A pack from front to back, every record read, and then every other passed over; both see the same."""
    seen = []
    for step in (1, 2):
        stream = io.BytesIO(data)
        reader = pack.PackReader(stream.read, partial(_skip, stream))
        entries = []
        for number, entry in enumerate(reader.entries()):
            entries.append(entry)
            if number % step == 0:
                record = reader.record()
                assert len(record) == entry.length
                assert data[entry.offset : entry.offset + entry.length] == record
                assert record.endswith(pack.payload(record))
        seen.append(entries)
    assert seen[0] == seen[1]


def _casmodel(data: bytes) -> None:
    """An archive up to its pack, and then the pack; what is passed over is counted too."""
    counted = 0

    def advance(size: int) -> None:
        nonlocal counted
        counted += size

    reader = casmodel.Reader(io.BytesIO(data), "the archive", advance)
    manifests = reader.manifests()
    tags = [str(manifest.tag) for manifest in manifests]
    assert all(tags)
    for entry in reader.entries():
        assert len(reader.record()) == entry.length
    assert counted == len(data)


def _casmodel_manifest(data: bytes) -> None:
    """An archive whose one manifest has the right digest, over any content: what only somebody who means it writes."""
    made = bytearray()
    casmodel.write_head(made.extend, [data])
    _casmodel(bytes(made) + _seed_casmodel()[-_empty_pack_bytes() :])


def _pack_index(data: bytes) -> None:
    """A pack whose trailer and digest hold, over any index: what only somebody who means it writes."""
    records, _ = _golden()
    index = zstandard.ZstdCompressor().compress(data)
    _pack(records + index + struct.pack("<QI32s8s", len(records), len(index), Digest.of(index), b"packtail"))


def _chunk(data: bytes) -> None:
    if len(data) >= 5:
        encoding, raw_bytes = struct.unpack_from("<BI", data)
        assert len(codec.decode(encoding, data[5:], raw_bytes)) == raw_bytes


def _delta(data: bytes) -> None:
    """One link or more, each behind its length."""
    links, rest = [], data
    while len(rest) >= 2:
        length = int.from_bytes(rest[:2], "little")
        links.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    base = _base()
    assert len(delta.decode_deltas(base, links, base)) == len(base)


def _manifest(data: bytes) -> None:
    manifest = Manifest.unpack(data)
    assert Manifest.unpack(manifest.pack()).pack() == manifest.pack()
    paths = [file.path for file in manifest.files]
    assert len(set(paths)) == len(paths)
    for path in (*paths, *manifest.directories):
        assert not path.startswith("/")
        assert "\0" not in path
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not any(parent in paths for parent in _parents(path))
    for file in manifest.files:
        assert manifest.recipe_of(file).size == file.size


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _manifest_document(data: bytes) -> None:
    _manifest(zstandard.ZstdCompressor(write_checksum=True).compress(data))


def _recipe(data: bytes) -> None:
    recipe = Recipe.unpack(Digest.of(b"blob"), data)
    assert sum(chunk.length for chunk in recipe.chunks()) == recipe.size
    assert Recipe.unpack(recipe.blob, recipe.pack()) == recipe


def _descriptor(data: bytes) -> None:
    path = Path(_scratch())
    path.write_bytes(data)
    with contextlib.suppress(InvalidSource):
        model_yaml.check_replaceable(path)
    model_yaml.load(path)


@functools.cache
def _base() -> bytes:
    return np.random.default_rng(0).normal(size=3000).astype("f4").tobytes()


def _seed_recipe() -> Recipe:
    whole = (Digest.of(b"1"), 1 << 20), (Digest.of(b"2"), 5)
    segments = (RecipeSegment(((Digest.of(b"0"), 80),)), RecipeSegment(whole, "layer.0", "BF16", (2, 262_145)))
    return Recipe(Digest.of(b"blob"), 80 + (1 << 20) + 5, "safetensors/1", segments)


_DESCRIPTION = {
    "labels": {"k": "v"}, "metadata": {"n": [1, None, 1.5]}, "module": "", "api_version": "v1", "signatures": {},
    "options": {}, "context": {},
}  # fmt: skip


def _seed_manifest() -> Manifest:
    recipe = _seed_recipe()
    return Manifest(
        Tag("bert", "v1"), 1_700_000_000_000_000_000,
        (FileEntry("a/run", True, 3, Digest.of(b"run")), FileEntry("w.safetensors", False, recipe.size, recipe.blob)),
        ("empty/deep",), {recipe.blob: recipe}, Description.of(_DESCRIPTION),
        Base(Tag("bert", "v0"), Digest.of(b"v0")), "0.1.0",
    )  # fmt: skip


@functools.cache
def _seed_casmodel(chunks: tuple[bytes, ...] = ()) -> bytes:
    made = bytearray()
    casmodel.write_head(made.extend, [_seed_manifest().pack()])
    stream = pack.PackStream(made.extend)
    for raw in chunks:
        stream.add(pack.EncodedChunk(Digest.of(raw), len(raw), 0, raw))
    stream.end()
    return bytes(made)


@functools.cache
def _empty_pack_bytes() -> int:
    return len(_seed_casmodel()) - _seed_casmodel().index(b"casspack")


def _seed_deltas() -> bytes:
    base, element = np.frombuffer(_base(), "<u4"), Element(4, 23, 8)
    grouping = delta.Grouping(_base(), element)
    changes = np.random.default_rng(1).integers(-40, 40, (2, len(base)), dtype=np.int64)
    steps = [base, *((base + sum(changes[: n + 1])).astype("<u4") for n in range(2))]
    links = [delta.encode_delta(steps[n + 1].tobytes(), steps[n].tobytes(), grouping) for n in range(2)]
    return b"".join(len(link).to_bytes(2, "little") + link for link in links)


def _seed_chunks() -> Iterator[bytes]:
    for raw, element in ((_base(), Element(4, 23, 8)), (b"text " * 300, Element(1)), (bytes(4000), Element(2))):
        encoding, encoded = codec.encode(raw, element)
        yield struct.pack("<BI", encoding, len(raw)) + encoded


def _opened(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame)


@functools.cache
def _golden() -> tuple[bytes, bytes]:
    """The golden pack of deltas up to its index, and that, not compressed."""
    golden = (GOLDEN / "format-1-deltas.pack").read_bytes()
    offset, length = struct.unpack_from("<QI", golden, len(golden) - 52)
    return golden[:offset], _opened(golden[offset : offset + length])


_SEED_DESCRIPTOR = b"""\
options: {a: &anchor [1, 1:20:30, 0x1F], b: *anchor}
metadata: {"\xc3\xa4": !!binary aGVsbG8=, k: {1: .nan}}
signatures: {predict: {batchable: true, batch_dim: 2}}
context:
  text: |
    several
    lines
name: bert
version: v1
creation_time: '2026-01-01T00:00:00+00:00'
"""
PARSERS = {
    "tensor headers": Parser(_segments, tuple(EXAMPLES.values()), ()),
    "pickles of PyTorch": Parser(
        pickled.find_storages, (PROTOCOL_4, pickle_of(storage_id("FloatStorage", "0", 1))), ()
    ),
    "packs": Parser(
        _pack, ((GOLDEN / "format-1.pack").read_bytes(), (GOLDEN / "format-1-deltas.pack").read_bytes()),
        most_bytes=128 << 20,
    ),
    "packs, read once": Parser(
        _pack_stream, ((GOLDEN / "format-1.pack").read_bytes(), (GOLDEN / "format-1-deltas.pack").read_bytes()),
    ),
    ".casmodel": Parser(_casmodel, (_seed_casmodel(), _seed_casmodel((b"chunk", b"another")))),
    "manifests in .casmodel": Parser(_casmodel_manifest, (_seed_manifest().pack(),)),
    "indexes of packs": Parser(_pack_index, (_golden()[1],), most_bytes=128 << 20),
    # Four times the largest chunk: what it claims to be is made before it turns out that it is not.
    "encoded chunks": Parser(_chunk, tuple(_seed_chunks()), most_bytes=64 << 20),
    "deltas": Parser(_delta, (_seed_deltas(),)),
    "manifests": Parser(_manifest, (_seed_manifest().pack(),)),
    "documents of manifests": Parser(_manifest_document, (_opened(_seed_manifest().pack()),)),
    "recipes": Parser(_recipe, (_seed_recipe().pack(),)),
    "model.yaml": Parser(_descriptor, (_SEED_DESCRIPTOR,), (InvalidSource,)),
}  # fmt: skip
