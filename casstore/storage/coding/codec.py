"""Encodings of chunks: pure functions over buffers. Each is kept only where it pays (see `encode`)."""

from __future__ import annotations

import struct
import threading

import zstandard

from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.late_classes import dataclass
from casstore.storage.coding import entropy
from casstore.storage.coding.delta import Grouping, encode_delta
from casstore.storage.coding.encodings import Encoding
from casstore.storage.coding.kernels import kernels
from casstore.storage.coding.memory import keep_freed_memory
from casstore.storage.recipe import MAX_CHUNK_BYTES
from casstore.storage.tensors.segments import Element

# Below this gain a chunk stays raw: decoding it would cost more than the space is worth.
_KEEP_BELOW = 0.95
_ZSTD_LEVEL = 3
# A delta this small is taken without a look at what the chunk takes by itself: floats never get there.
_SURELY_SMALLER = 0.5
# Decoding a delta needs its base, so it has to save this much of what the chunk takes by itself.
_DELTA_BELOW = 0.9


@dataclass(frozen=True, slots=True)
class Against:
    """What a delta may be against: the base's bytes, and the order of the elements (see `delta`)."""

    base: bytes
    grouping: Grouping


_local = threading.local()
keep_freed_memory()


def encode(
    raw: bytes | memoryview, element: Element, against: Against | None = None
) -> tuple[Encoding, bytes | memoryview]:
    """The smallest of the encodings that suit such elements, and the encoded bytes.

    Never larger than the raw bytes; anything above 95% of them is kept raw. `against` must be of the same length.
    Deterministic for one zstandard release.
    """
    limit = int(len(raw) * _KEEP_BELOW)
    delta = None if against is None else encode_delta(raw, against.base, against.grouping)
    if delta is not None and len(delta) < len(raw) * _SURELY_SMALLER:
        return Encoding.DELTA, delta
    if element.width > 1 and len(raw) >= element.width:
        encoding, encoded = Encoding.PLANES, _encode_planes(raw, element.width)
    else:
        encoding, encoded = Encoding.ZSTD, _compressor().compress(raw)
    if delta is not None and len(delta) < min(len(encoded), limit) * _DELTA_BELOW:
        return Encoding.DELTA, delta
    return (encoding, encoded) if len(encoded) < limit else (Encoding.RAW, raw)


def decode(encoding: int, encoded: bytes | memoryview, raw_bytes: int) -> bytes:
    """The raw bytes of a chunk that needs no other, `raw_bytes` long. The caller compares the digest.

    Raises IntegrityError for bytes that no encoder made, UnsupportedFormat for an encoding that this release does not
    know. `delta.decode_deltas` decodes deltas.
    """
    if not 0 <= raw_bytes <= MAX_CHUNK_BYTES:
        raise IntegrityError(f"a chunk of {raw_bytes} bytes is larger than any that can be stored")
    if encoding == Encoding.RAW:
        raw = bytes(encoded)
    elif encoding == Encoding.ZSTD:
        raw = entropy.decompress(encoded, raw_bytes)
    elif encoding == Encoding.PLANES:
        raw = _decode_planes(encoded, raw_bytes)
    elif encoding == Encoding.DELTA:
        raise IntegrityError("a delta stands where a whole chunk should be")
    else:
        raise UnsupportedFormat(f"a chunk has encoding {encoding}, which this casstore does not know; upgrade it")
    if len(raw) != raw_bytes:
        raise IntegrityError(f"a chunk decodes to {len(raw)} bytes instead of {raw_bytes}")
    return raw


# Planes: u8 element width, then per plane u8 kind of stream (see `entropy`) and u32 stored length, then the planes,
# then the bytes after the last whole element.
_PLANE = struct.Struct("<BI")


def _encode_planes(data: bytes | memoryview, width: int) -> bytes:
    whole = len(data) // width * width
    header = [bytes([width])]
    planes = []
    for plane in kernels().split(data, width):
        kind, stream = entropy.encode_stream(plane)
        header.append(_PLANE.pack(kind, len(stream)))
        planes.append(stream)
    return b"".join([*header, *planes, data[whole:]])


def _decode_planes(encoded: bytes | memoryview, raw_bytes: int) -> bytes:
    view = memoryview(encoded)
    width = view[0] if view else 0
    start = 1 + width * _PLANE.size
    if width not in (2, 4, 8) or len(view) < start:
        raise IntegrityError("a chunk of byte planes has a damaged header")
    count = raw_bytes // width
    planes = []
    for position in range(width):
        kind, length = _PLANE.unpack_from(view, 1 + position * _PLANE.size)
        planes.append(entropy.decode_stream(kind, view[start : start + length], count))
        start += length
    return kernels().join(planes, count, view[start:])


def _compressor() -> zstandard.ZstdCompressor:
    # Contexts are costly to make and not safe to share between threads.
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    return found
