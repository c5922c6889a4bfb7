"""Entropy coding of byte planes. zstd does it; what is chosen here is only how the bytes are laid before it.

Planes of exponents, and of small differences, are skewed but hold no repeated strings: what counts is zstd's Huffman
stage, and every match that its search finds costs more than it gains. So the search is made as blind as zstd allows,
which is smaller and faster than levels 1 to 3 (benchmarks/codec.py).
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from enum import IntEnum

import zstandard

from casstore.errors import IntegrityError
from casstore.storage.coding.arithmetic import Buffer
from casstore.storage.coding.kernels import kernels
from casstore.storage.recipe import MAX_CHUNK_BYTES

# A plane that does not shrink by this much stays raw, which is decoded for nothing.
_KEEP_BELOW = 0.97
# Enough to tell noise from the rest: the estimated entropy of 4,096 uniform bytes is 7.95 bits or more.
_SAMPLE_BYTES = 4096
_NOISE_BITS = 7.9


class Stream(IntEnum):
    """How a plane's bytes stand. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    ZEROS = 2


_local = threading.local()


def encode_stream(plane: Buffer, parts: Sequence[int] = ()) -> tuple[Stream, Buffer]:
    """The smallest form of a plane, at most its own size.

    `parts`: lengths, which add up to the plane's, of parts that differ in kind, so that each gets a code of its own.
    """
    if kernels().is_zeros(plane):
        return Stream.ZEROS, b""
    if not _is_noise(plane):
        stream = _compress(plane, parts)
        if len(stream) < len(plane) * _KEEP_BELOW:
            return Stream.ZSTD, stream
    return Stream.RAW, plane


def decode_stream(kind: int, stream: memoryview, size: int) -> Buffer | None:
    """The plane's `size` bytes, None for zeros. Raises IntegrityError."""
    if kind == Stream.ZEROS and len(stream) == 0:
        return None
    if kind == Stream.RAW and len(stream) == size:
        return stream
    if kind == Stream.ZSTD:
        return decompress(stream, size)
    raise IntegrityError("a byte plane is damaged")


def _compress(plane: Buffer, parts: Sequence[int]) -> bytes:
    """One zstd frame, in which a block ends where a part ends: codes are made block by block."""
    compressor = _compressor()
    if len(parts) < 2:
        return compressor.compress(plane)
    view = memoryview(plane)
    frame = compressor.compressobj(size=len(view))
    pieces = []
    start = 0
    for length in parts[:-1]:
        if length:
            pieces.append(frame.compress(view[start : start + length]))
            pieces.append(frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        start += length
    pieces.append(frame.compress(view[start:]))
    pieces.append(frame.flush())
    return b"".join(pieces)


def _compressor() -> zstandard.ZstdCompressor:
    # Contexts are costly to make and not safe to share between threads.
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        parameters = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=20, write_content_size=True
        )
        found = _local.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return found


def decompress(packed: bytes | memoryview, raw_bytes: int) -> bytes:
    """The content of one zstd frame, which must be `raw_bytes` long. Raises IntegrityError."""
    try:
        # A frame that claims more than it may is refused before anything is allocated.
        if raw_bytes > MAX_CHUNK_BYTES or zstandard.get_frame_parameters(packed).content_size != raw_bytes:
            raise IntegrityError("a zstd frame has the wrong size")
        return _decompressor().decompress(packed, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a zstd frame cannot be read: {error}") from error


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def _is_noise(plane: Buffer) -> bool:
    """Whether a plane looks as if no code could shrink it, by a sample spread over it."""
    if len(plane) < 2 * _SAMPLE_BYTES:
        return False
    counts = kernels().byte_counts(plane, len(plane) // _SAMPLE_BYTES)
    total = sum(counts)
    return math.log2(total) - sum(map(_weights().__getitem__, counts)) / total > _NOISE_BITS


@functools.cache
def _weights() -> list[float]:
    """n log2 n of every number that may be counted: a sample is smaller than twice what is wanted of it."""
    return [0.0, *(count * math.log2(count) for count in range(1, 2 * _SAMPLE_BYTES + 1))]
