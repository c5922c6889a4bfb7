"""Documents in one zstd frame: manifests, indexes of packs, and what stands in a remote."""

from __future__ import annotations

import zstandard

from casstore.errors import IntegrityError

# Of a frame of unknown content at once: at zstd's best ratio they become 128 MiB.
_FEED_BYTES = 4096


def compress_document(plain: bytes) -> bytes:
    """One zstd frame with a checksum: nothing else would tell a flipped bit in it from what was written."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(plain)


def decompress_document(frame: bytes, most_bytes: int) -> bytes:
    """The content of the one zstd frame that these bytes are: at most `most_bytes`, and what the frame claims.

    Memory is taken for what comes out, not for what a damaged or hostile frame claims. Raises IntegrityError.
    """
    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed > most_bytes:
            raise IntegrityError("a zstd frame claims an impossible size")
        stream = zstandard.ZstdDecompressor().decompressobj()
        pieces, size, end = [], 0, 0
        while not stream.eof and end < len(frame):
            pieces.append(stream.decompress(frame[end : end + _FEED_BYTES]))
            end += _FEED_BYTES
            size += len(pieces[-1])
            if size > claimed:
                break
        if not stream.eof or stream.unused_data or end < len(frame) or size != claimed:
            raise IntegrityError("a zstd frame has the wrong size")
        return b"".join(pieces)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a zstd frame cannot be read: {error}") from error
