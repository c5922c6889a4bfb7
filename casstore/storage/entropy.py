"""Entropy coding of byte planes. zstd does it; what is chosen here is only how the bytes are laid before it.

Planes of exponents, and of small differences, are skewed but hold no repeated strings: what counts is zstd's Huffman
stage, and every match that its search finds costs more than it gains. So the search is made as blind as zstd allows,
which is smaller and faster than levels 1 to 3 (benchmarks/codec.py).
"""

from __future__ import annotations

import threading
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import zstandard

from casstore.errors import IntegrityError
from casstore.storage.recipe import MAX_CHUNK_BYTES

_Bytes = npt.NDArray[np.uint8]

# A plane that does not shrink by this much stays raw, which is decoded for nothing.
_KEEP_BELOW = 0.97
# Huffman codes take at least one bit a byte; from about this share of zeros on, a bit map of what is not zero, whose
# bytes stand for eight elements each, takes less (benchmarks/codec.py: equal near 0.42, 20% less at 0.6).
_MAP_FROM_ZEROS = 0.45
# Enough to tell noise from the rest: the estimated entropy of 4,096 uniform bytes is 7.95 bits or more.
_SAMPLE_BYTES = 4096
_NOISE_BITS = 7.9


class Stream(IntEnum):
    """How a plane's bytes stand. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    ZEROS = 2
    MAP = 3  # u32 length, a zstd frame of a bit map of the bytes that are not zero, a zstd frame of those bytes


_local = threading.local()


def encode_stream(plane: _Bytes) -> tuple[Stream, bytes]:
    """The smallest form of a plane, at most its own size."""
    nonzero = int(np.count_nonzero(plane))
    if nonzero == 0:
        return Stream.ZEROS, b""
    if nonzero < plane.size * (1 - _MAP_FROM_ZEROS):
        is_set = plane != 0
        bit_map = compress(np.packbits(is_set, bitorder="little"))
        # By their places: indexing by a mask takes three times as long.
        stream = len(bit_map).to_bytes(4, "little") + bit_map + compress(plane.take(np.flatnonzero(is_set)))
        if len(stream) < plane.size * _KEEP_BELOW:
            return Stream.MAP, stream
    elif not _is_noise(plane):
        stream = compress(plane)
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
    if kind == Stream.MAP:
        places, values = decode_map(stream, size)
        plane = np.zeros(size, np.uint8)
        plane[places] = values
        return plane
    raise IntegrityError("a byte plane is damaged")


def decode_map(stream: memoryview, size: int) -> tuple[npt.NDArray[np.intp], _Bytes]:
    """Where the plane's bytes are not zero, of a stream of kind MAP, and what they are. Raises IntegrityError."""
    if len(stream) < 4:
        raise IntegrityError("a byte plane is cut short")
    end = 4 + int.from_bytes(stream[:4], "little")
    bit_map = np.frombuffer(decompress(stream[4:end], (size + 7) // 8), np.uint8)
    places = np.flatnonzero(np.unpackbits(bit_map, count=size, bitorder="little").view(np.bool_))
    return places, np.frombuffer(decompress(stream[end:], len(places)), np.uint8)


def compress(data: _Bytes | bytes) -> bytes:
    """One zstd frame of bytes without repetitions."""
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        parameters = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=20, write_content_size=True
        )
        found = _local.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return found.compress(data)  # type: ignore[arg-type]


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
    # Contexts are costly to make and not safe to share between threads.
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def _is_noise(plane: _Bytes) -> bool:
    """Whether a plane looks as if no code could shrink it, by a sample from its middle."""
    if plane.size < 2 * _SAMPLE_BYTES:
        return False
    start = (plane.size - _SAMPLE_BYTES) // 2
    counts = np.bincount(plane[start : start + _SAMPLE_BYTES], minlength=256)
    shares = counts[counts > 0] / _SAMPLE_BYTES
    return bool(-(shares * np.log2(shares)).sum() > _NOISE_BITS)
