"""Entropy coding of byte planes. zstd does it; what is chosen here is only how the bytes are laid before it.

Planes of exponents, and of small differences, are skewed but hold no repeated strings: what counts is zstd's Huffman
stage, and every match that its search finds costs more than it gains. So the search is made as blind as zstd allows,
which is smaller and faster than levels 1 to 3 (benchmarks/codec.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import zstandard

from casstore.errors import IntegrityError
from casstore.storage.recipe import MAX_CHUNK_BYTES

_Bytes = npt.NDArray[np.uint8]

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


def encode_stream(plane: _Bytes, parts: Sequence[int] = ()) -> tuple[Stream, bytes]:
    """The smallest form of a plane, at most its own size.

    `parts`: lengths, which add up to the plane's, of parts that differ in kind, so that each gets a code of its own.
    """
    if not plane.any():
        return Stream.ZEROS, b""
    if not _is_noise(plane):
        stream = _compress(plane, parts)
        if len(stream) < plane.size * _KEEP_BELOW:
            return Stream.ZSTD, stream
    return Stream.RAW, plane.tobytes()


def decode_stream(kind: int, stream: memoryview, size: int) -> _Bytes | None:
    """The plane's `size` bytes, None for zeros. Raises IntegrityError."""
    if kind == Stream.ZEROS and len(stream) == 0:
        return None
    if kind == Stream.RAW and len(stream) == size:
        return np.frombuffer(stream, np.uint8)
    if kind == Stream.ZSTD:
        return np.frombuffer(decompress(stream, size), np.uint8)
    raise IntegrityError("a byte plane is damaged")


def _compress(plane: _Bytes, parts: Sequence[int]) -> bytes:
    """One zstd frame, in which a block ends where a part ends: codes are made block by block."""
    compressor = _compressor()
    if len(parts) < 2:
        return compressor.compress(plane.data)
    frame = compressor.compressobj(size=plane.size)
    pieces = []
    start = 0
    for length in parts[:-1]:
        if length:
            pieces.append(frame.compress(plane[start : start + length].data))
            pieces.append(frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        start += length
    pieces.append(frame.compress(plane[start:].data))
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


def _is_noise(plane: _Bytes) -> bool:
    """Whether a plane looks as if no code could shrink it, by a sample spread over it."""
    if plane.size < 2 * _SAMPLE_BYTES:
        return False
    counts = np.bincount(plane[:: plane.size // _SAMPLE_BYTES], minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return bool(-(shares * np.log2(shares)).sum() > _NOISE_BITS)
