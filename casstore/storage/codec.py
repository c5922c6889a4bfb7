"""Encodings of chunks: pure functions over buffers. Each is kept only where it pays (see `encode`)."""

from __future__ import annotations

import struct
import threading
from enum import IntEnum

import zstandard

from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.recipe import MAX_CHUNK_BYTES

# Below this gain a chunk stays raw: decoding it would cost more than the space is worth.
_KEEP_BELOW = 0.95
_ZSTD_LEVEL = 3
# Byte planes either hardly compress (mantissas) or are simply skewed (exponents); a higher level finds no more.
_PLANE_ZSTD_LEVEL = 1


class Encoding(IntEnum):
    """How a chunk's bytes stand in a pack. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3  # reserved: a delta against a base chunk


_local = threading.local()


def encode(raw: bytes | memoryview, element_bytes: int) -> tuple[Encoding, bytes]:
    """The smallest of the encodings that suit elements of that width (1: not known), and the encoded bytes.

    Never larger than the raw bytes; anything above 95% of them is kept raw. Deterministic for one zstandard release.
    """
    data = bytes(raw)
    limit = int(len(data) * _KEEP_BELOW)
    if element_bytes in (2, 4, 8) and len(data) >= element_bytes:
        encoding, encoded = Encoding.PLANES, _encode_planes(data, element_bytes)
    else:
        encoding, encoded = Encoding.ZSTD, _compressor(_ZSTD_LEVEL).compress(data)
    return (encoding, encoded) if len(encoded) < limit else (Encoding.RAW, data)


def decode(encoding: int, encoded: bytes, raw_bytes: int) -> bytes:
    """The raw bytes, `raw_bytes` long. Raises IntegrityError for bytes that no encoder made, UnsupportedFormat
    for an encoding that this release does not know. The caller compares the digest."""
    if not 0 <= raw_bytes <= MAX_CHUNK_BYTES:
        raise IntegrityError(f"a chunk of {raw_bytes} bytes is larger than any that can be stored")
    if encoding == Encoding.RAW:
        raw = encoded
    elif encoding == Encoding.ZSTD:
        raw = _decompress(encoded, raw_bytes)
    elif encoding == Encoding.PLANES:
        raw = _decode_planes(encoded, raw_bytes)
    else:
        raise UnsupportedFormat(f"a chunk has encoding {encoding}, which this casstore does not know; upgrade it")
    if len(raw) != raw_bytes:
        raise IntegrityError(f"a chunk decodes to {len(raw)} bytes instead of {raw_bytes}")
    return raw


# Planes: u8 element width, then per plane u8 (1: zstd) and u32 stored length, then the planes, then the
# bytes after the last whole element.
_PLANE = struct.Struct("<BI")


def _encode_planes(data: bytes, width: int) -> bytes:
    whole = len(data) - len(data) % width
    compressor = _compressor(_PLANE_ZSTD_LEVEL)
    header = [bytes([width])]
    planes = []
    for position in range(width):
        plane = data[position:whole:width]
        packed = compressor.compress(plane)
        shrinks = len(packed) < len(plane) * _KEEP_BELOW
        header.append(_PLANE.pack(shrinks, len(packed if shrinks else plane)))
        planes.append(packed if shrinks else plane)
    return b"".join([*header, *planes, data[whole:]])


def _decode_planes(encoded: bytes, raw_bytes: int) -> bytes:
    width = encoded[0] if encoded else 0
    start = 1 + width * _PLANE.size
    if width not in (2, 4, 8) or len(encoded) < start:
        raise IntegrityError("a chunk of byte planes has a damaged header")
    count = raw_bytes // width
    raw = bytearray(raw_bytes)
    for position in range(width):
        is_packed, length = _PLANE.unpack_from(encoded, 1 + position * _PLANE.size)
        plane = encoded[start : start + length]
        start += length
        if is_packed:
            plane = _decompress(plane, count)
        if len(plane) != count:
            raise IntegrityError("a byte plane has the wrong length")
        raw[position : count * width : width] = plane
    tail = encoded[start:]
    if len(tail) != raw_bytes - count * width:
        raise IntegrityError("a chunk of byte planes has the wrong length")
    raw[count * width :] = tail
    return bytes(raw)


def _decompress(packed: bytes, raw_bytes: int) -> bytes:
    try:
        # A frame that claims more than it may is refused before anything is allocated.
        if zstandard.get_frame_parameters(packed).content_size != raw_bytes:
            raise IntegrityError("a zstd frame has the wrong size")
        return _decompressor().decompress(packed, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a zstd frame cannot be read: {error}") from error


def _compressor(level: int) -> zstandard.ZstdCompressor:
    # Contexts are costly to make and not safe to share between threads.
    name = f"compressor_{level}"
    found: zstandard.ZstdCompressor | None = getattr(_local, name, None)
    if found is None:
        found = zstandard.ZstdCompressor(level=level)
        setattr(_local, name, found)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found
