"""Recipes: a blob as ordered chunks, in the packed form that manifests and the catalog both hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import msgpack

from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import IntegrityError
from casstore.late_classes import dataclass

MAX_CHUNK_BYTES = 16 << 20  # what a reader must be ready for, in any release
_WHOLE = {int}  # True is none of them


class Chunk(NamedTuple):
    """A piece of a blob: its place in it, and the digest of its raw bytes."""

    digest: Digest
    offset: int
    length: int


class RecipeSegment(NamedTuple):
    """Consecutive chunks that belong together: one tensor, or what stands between tensors (name None)."""

    chunks: tuple[tuple[Digest, int], ...]
    name: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        chunks = self.chunks
        return chunks[0][1] if len(chunks) == 1 else sum(length for _, length in chunks)


@dataclass(frozen=True)
class Recipe:
    """A blob's chunks in order. `plan` names the chunking and its version, such as "safetensors/1"."""

    blob: Digest
    size: int
    plan: str
    segments: tuple[RecipeSegment, ...]

    @classmethod
    def of_one_chunk(cls, blob: Digest, size: int) -> Recipe:
        """The recipe, never stored, of a blob that is one chunk (or empty): its digest is the chunk's."""
        segments = (RecipeSegment(((blob, size),)),) if size else ()
        made = cls(blob, size, "whole/1", segments)
        made.__dict__["digests"] = [blob] if size else []  # where the property keeps them, which is slow for one
        return made

    @property
    def is_stored(self) -> bool:
        """Whether the recipe must be written down; that of a single chunk follows from digest and size."""
        segments = self.segments
        return len(segments) > 1 or (bool(segments) and len(segments[0].chunks) > 1)

    def chunks(self) -> Iterator[Chunk]:
        offset = 0
        for segment in self.segments:
            for digest, length in segment.chunks:
                yield Chunk(digest, offset, length)
                offset += length

    @cached_property
    def digests(self) -> list[Digest]:
        """The digests of the chunks, in order."""
        return [digest for segment in self.segments for digest, _ in segment.chunks]

    def pack(self) -> bytes:
        """Canonical msgpack: [plan, size, [[name, dtype, shape, digests, lengths], ...]]."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        segments = [
            [
                segment.name,
                segment.dtype,
                None if segment.shape is None else list(segment.shape),
                b"".join(digest for digest, _ in segment.chunks),
                [length for _, length in segment.chunks],
            ]
            for segment in self.segments
        ]
        packed: bytes = msgpack.packb([self.plan, self.size, segments])
        return packed

    @classmethod
    def unpack(cls, blob: Digest, packed: bytes, unpack: Callable[[bytes], Any] = msgpack.unpackb) -> Recipe:
        """Read what `pack` wrote, trusting nothing. Raises IntegrityError. `unpack`: what reads msgpack."""
        try:
            plan, size, rows, *_ = unpack(packed)
            segments = tuple(_segment(*row[:5]) for row in rows)
            # Only of one chunk can a blob have the digest: no bytes are a part of themselves.
            if any(blob in row[3] for row in rows) and sum(len(segment.chunks) for segment in segments) > 1:
                raise ValueError("the blob is not one of its own chunks")
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise IntegrityError(f"the recipe of blob {blob} cannot be read: {error}") from error
        if not isinstance(plan, str) or type(size) is not int or sum(sum(row[4]) for row in rows) != size:
            raise IntegrityError(f"the recipe of blob {blob} does not add up to its size")
        return cls(blob, size, plan, segments)


def _segment(
    name: str | None, dtype: str | None, shape: list[int] | None, digests: bytes, lengths: list[int]
) -> RecipeSegment:
    if not isinstance(name, str | None) or not isinstance(dtype, str | None):
        raise TypeError("a segment's name or dtype is not text")
    if shape is not None and not set(map(type, shape)) <= _WHOLE:
        raise TypeError("a dimension is not a whole number")
    if not isinstance(digests, bytes) or len(digests) != DIGEST_BYTES * len(lengths):
        raise ValueError("digests and lengths differ in number")
    if not set(map(type, lengths)) <= _WHOLE or (lengths and not 0 < min(lengths) <= max(lengths) <= MAX_CHUNK_BYTES):
        raise ValueError("a chunk's length is out of range")
    parts = (digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES))
    chunks = tuple(zip(map(Digest, parts), lengths, strict=True))
    return RecipeSegment(chunks, name, dtype, None if shape is None else tuple(shape))


def tensor_contents(blob: Digest, packed: bytes | None) -> list[bytes]:
    """Of each tensor in a packed recipe the digests of its chunks, joined: equal for equal tensors, whatever they are
    called. None for a blob of one chunk. Raises IntegrityError."""
    return [] if packed is None else [row[3] for row in _rows(blob, packed) if row[0] is not None and row[3]]


def chunk_contents(blob: Digest, packed: bytes | None) -> list[bytes]:
    """The digests of a blob's chunks: in its packed recipe, or of one chunk its own. Raises IntegrityError."""
    if packed is None:
        return [blob]
    joined = b"".join(row[3] for row in _rows(blob, packed))
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]


def _rows(blob: Digest, packed: bytes) -> list[Any]:
    """The segments of a packed recipe, of which no more is checked than what it takes to compare them."""
    try:
        rows: list[Any] = msgpack.unpackb(packed)[2]
        if {type(row[3]) for row in rows} <= {bytes}:
            return rows
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise IntegrityError(f"the recipe of blob {blob} cannot be read: {error}") from error
    raise IntegrityError(f"the recipe of blob {blob} cannot be read: a segment has no digests")
