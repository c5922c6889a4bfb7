"""Entropy coding of byte planes. zstd does it; what is chosen here is only how the bytes are laid before it.

Planes of exponents, and of small differences, are skewed but hold no repeated strings: what counts is zstd's Huffman
stage, and every match that its search finds costs more than it gains. So the search is made as blind as zstd allows,
which is smaller and faster than levels 1 to 3 (benchmarks/codec.py). Planes of which much is one byte are searched for
long runs; in all others every 65th place is looked at, which is enough to find rows that are equal.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

import zstandard

from casstore.errors import IntegrityError
from casstore.late import LateModule
from casstore.storage.coding.arithmetic import Buffer
from casstore.storage.coding.kernels import kernels
from casstore.storage.recipe import MAX_CHUNK_BYTES

if TYPE_CHECKING:
    from backports import zstd
else:  # reading needs none of it
    zstd = LateModule("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

# A plane that does not shrink by this much stays raw, which is decoded for nothing.
_KEEP_BELOW = 0.97
# Enough to tell noise from the rest: the estimated entropy of 4,096 uniform bytes is 7.95 bits or more.
_SAMPLE_BYTES = 4096
_NOISE_BITS = 7.9
# A plane that is searched has a byte so common that long runs of it are likely, or that a Huffman code, of whole bits,
# costs much.
_SEARCH_FROM_SHARE = 0.4
_STRIDE = 64
# ZSTD_c_literalCompressionMode, without a name in Python, and ZSTD_ps_enable: a stride alone turns Huffman codes off.
# The number is of zstd's experimental ones; whatever it came to mean, a frame would stay a frame.
_LITERALS, _ENABLE = 1002, 1


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
    bits, most = _sample(plane)
    if bits <= _NOISE_BITS:
        stream = _compress(plane, parts, most < _SEARCH_FROM_SHARE)
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


def _compress(plane: Buffer, parts: Sequence[int], is_mixed: bool) -> bytes:
    """One zstd frame, in which a block ends where a part ends: codes are made block by block."""
    compressors = _compressors()
    compressor = compressors.pop(is_mixed, None) or _compressor(is_mixed)
    compressor.set_pledged_input_size(len(plane))
    view = memoryview(plane)
    pieces = [compressor.compress(view[begin:end], compressor.FLUSH_BLOCK) for begin, end in _inner_parts(parts)]
    pieces.append(compressor.compress(view[sum(parts[:-1]) :], compressor.FLUSH_FRAME))
    compressors[is_mixed] = compressor  # not after an exception, which leaves it within a frame
    return b"".join(pieces)


def _inner_parts(parts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each part that is not empty begins and ends; not of the last one."""
    begin = 0
    for length in parts[:-1]:
        if length:
            yield begin, begin + length
        begin += length


def _compressors() -> dict[bool, _Compressor]:
    # Contexts are costly to make and not safe to share between threads.
    found: dict[bool, _Compressor] = _local.__dict__.setdefault("compressors", {})
    return found


def _compressor(is_mixed: bool) -> _Compressor:
    try:
        parameter = zstd.CompressionParameter
    except ImportError:  # Python from 3.14 on may have been built without libzstd, and the backport ends before it
        return _PlainCompressor()
    options: dict[int, int] = {
        parameter.strategy: zstd.Strategy.fast,
        parameter.min_match: 7,
        parameter.hash_log: 6,
        parameter.window_log: 17,
    }
    if is_mixed:
        options |= {parameter.target_length: _STRIDE, _LITERALS: _ENABLE}
    made: zstd.ZstdCompressor = zstd.ZstdCompressor(options=options)
    return made


class _PlainCompressor:
    """python-zstandard in the shape of ZstdCompressor.

    It cannot set the literals' mode, so that it has no stride. Most planes come out within 0.4% of the size and in half
    as much time again; one of which half is zeros took 6% more, and three times as long.
    """

    FLUSH_BLOCK: Literal[1] = 1
    FLUSH_FRAME: Literal[2] = 2

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
        )
        self._context = zstandard.ZstdCompressor(compression_params=parameters)

    def set_pledged_input_size(self, size: int) -> None:
        self._frame = self._context.compressobj(size)

    def compress(self, raw: Buffer, mode: Literal[1, 2]) -> bytes:
        how = zstandard.COMPRESSOBJ_FLUSH_BLOCK if mode == self.FLUSH_BLOCK else zstandard.COMPRESSOBJ_FLUSH_FINISH
        return self._frame.compress(raw) + self._frame.flush(how)


_Compressor: TypeAlias = "zstd.ZstdCompressor | _PlainCompressor"


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


def _sample(plane: Buffer) -> tuple[float, float]:
    """The entropy of a byte, and the share of the commonest, by a sample over the plane; 0 and 1 for a short one."""
    if len(plane) < 2 * _SAMPLE_BYTES:
        return 0.0, 1.0
    counts = kernels().byte_counts(plane, len(plane) // _SAMPLE_BYTES)
    total = sum(counts)
    return math.log2(total) - sum(map(_weights().__getitem__, counts)) / total, max(counts) / total


@functools.cache
def _weights() -> list[float]:
    """n log2 n of every number that may be counted: a sample is smaller than twice what is wanted of it."""
    return [0.0, *(count * math.log2(count) for count in range(1, 2 * _SAMPLE_BYTES + 1))]
