"""Segments as hypothesis draws them, and segments whose sections somebody else has written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import zstandard
from hypothesis import strategies as st

from casstore import Tag
from casstore.description import Description
from casstore.digest import Digest
from casstore.remote import keys
from casstore.remote.segment import HEADER_BYTES, ChunkPlace, PackInfo, Segment
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.manifest import FileEntry, Manifest
from casstore.storage.recipe import Recipe, RecipeSegment

KEY = keys.segment("0" * 32, 1)
TAG = Tag("m", "1")
DELTA = 3


def digests(count: int) -> list[Digest]:
    """As many digests, always the same."""
    return [Digest.of(b"chunk %d" % number) for number in range(count)]


def manifest_of(files: Sequence[Sequence[tuple[Digest, int]]]) -> Manifest:
    """A version whose files are made of these chunks, each with its length."""
    entries, recipes = [], {}
    for number, chunks in enumerate(files):
        size = sum(length for _, length in chunks)
        blob = chunks[0][0] if len(chunks) == 1 else Digest.of(b"".join(digest for digest, _ in chunks))
        if len(chunks) > 1:
            cut = len(chunks) // 2
            parts = tuple(RecipeSegment(tuple(part)) for part in (chunks[:cut], chunks[cut:]))
            recipes[blob] = Recipe(blob, size, "safetensors/1", parts)
        entries.append(FileEntry(f"f{number:03}", False, size, blob))
    return Manifest(TAG, 1, tuple(entries), (), recipes, Description())


@st.composite
def segments(draw: st.DrawFn, *, most: int = 12, raw_bytes: Sequence[int] = (1, 100, 5000)) -> Segment:
    """A segment such as a push may write: of some files, over some packs, with chains of deltas."""
    named = digests(draw(st.integers(1, most)))
    lengths = {digest: draw(st.sampled_from(raw_bytes)) for digest in named}
    chosen = st.lists(st.sampled_from(named), min_size=1, max_size=6)
    files = draw(st.lists(chosen, min_size=1, max_size=4))
    manifest = manifest_of([[(digest, lengths[digest]) for digest in file] for file in files])
    packs = [
        PackInfo(keys.pack(f"{number:032x}", number), 1 << 30, Digest.of(b"pack %d" % number))
        for number in range(draw(st.integers(1, 3)))
    ]
    order = draw(st.permutations(named))
    ends = [16] * len(packs)
    chunks: dict[Digest, ChunkPlace] = {}
    depths: dict[Digest, int] = {}
    for digest in order:
        pack = draw(st.integers(0, len(packs) - 1))
        length = draw(st.integers(48, 3 << 20))
        offset = ends[pack] + draw(st.sampled_from([0, 0, 1, 200_000, 300_000]))
        ends[pack] = offset + length
        alike = [each for each in chunks if lengths[each] == lengths[digest]]
        bases = [each for each in alike if depths[each] < MAX_DELTA_LINKS]
        whole = [each for each in alike if not depths[each]]
        base = draw(st.sampled_from([None, *bases]))
        grouping = None if base is None else draw(st.sampled_from(whole))
        depths[digest] = 0 if base is None else depths[base] + 1
        encoding = draw(st.integers(0, 2)) if base is None else DELTA
        chunks[digest] = ChunkPlace(pack, offset, length, lengths[digest], encoding, base, grouping)
    return Segment(manifest, packs, chunks)


def sections_of(segment: Segment) -> list[bytes]:
    """The three sections, as they stand."""
    data = segment.pack()
    lengths = [struct.unpack_from("<I", data, place)[0] for place in (16, 52, 88)]
    starts = [HEADER_BYTES, HEADER_BYTES + lengths[0], HEADER_BYTES + lengths[0] + lengths[1]]
    return [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def sealed(sections: Sequence[bytes], **header: Any) -> tuple[bytes, Digest]:
    """A segment of these sections, with a header that fits them, and the digest of that."""
    said = {"magic": b"casssegm", "format": 1, "requires": 0, "hash": 1, **header}
    fields = [field for section in sections for field in (len(section), Digest.of(section))]
    packed = struct.pack("<8sHHI" + "I32s" * 3, *said.values(), *fields)
    return packed + b"".join(sections), Digest.of(packed)


def frame(value: Any) -> bytes:
    """A section that says that."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(msgpack.packb(value))


def said(section: bytes) -> Any:
    """What a section says."""
    return msgpack.unpackb(zstandard.ZstdDecompressor().decompress(section))
