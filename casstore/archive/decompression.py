"""Decompressing a stream piece by piece: no piece is large, whatever the stream says."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from casstore.archive import limits
from casstore.errors import UnsafeArchive

_PIECE_BYTES = 1 << 20
# Compressed bytes are copied once more for each stream that ends in a chunk, so chunks are small.
_CHUNK_BYTES = 64 << 10
# zstandard has no bound for what comes out of one call. A block of 4 bytes gives at most 128 KiB (RFC 8878, 3.1.1.2),
# so this gives at most 16 MiB, twice for a moment; what does not compress still comes at 500 MB/s.
_ZSTD_CHUNK_BYTES = 1 << 9

Read = Callable[[int], bytes]


class _Decoder(Protocol):
    """One compressed stream. `unused_data` is what followed its end."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Bounded:
    """xz and bzip2, whose decoders keep what does not fit into one piece."""

    def __init__(self, decoder: lzma.LZMADecompressor | bz2.BZ2Decompressor) -> None:
        self._decoder = decoder

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._decoder.decompress(data, _PIECE_BYTES)
        while not self._decoder.eof and not self._decoder.needs_input:
            yield self._decoder.decompress(b"", _PIECE_BYTES)


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)  # 16 + 15: gzip's header and check sum, the largest window

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._decoder.decompress(data, _PIECE_BYTES)
            data = self._decoder.unconsumed_tail
            yield piece
            if self._decoder.eof or not data:
                return


class _Zstandard:
    def __init__(self, decompressor: zstandard.ZstdDecompressor) -> None:
        self._decoder = decompressor.decompressobj()
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_CHUNK_BYTES):
            end = start + _ZSTD_CHUNK_BYTES
            yield self._decoder.decompress(data[start:end])
            if self._decoder.eof:
                self.unused_data = self._decoder.unused_data + data[end:]
                return


def decompress_xz(read: Read) -> Iterator[bytes]:
    """The pieces of concatenated xz streams. Raises UnsafeArchive at anything else."""
    return _decompress(
        read,
        lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.MAX_DECODER_BYTES)),
        lambda data: data.startswith(b"\xfd7zXZ\0"),
        "xz",
    )


def decompress_gz(read: Read) -> Iterator[bytes]:
    return _decompress(read, _Gzip, lambda data: data.startswith(b"\x1f\x8b"), "gzip")


def decompress_bz2(read: Read) -> Iterator[bytes]:
    return _decompress(read, lambda: _Bounded(bz2.BZ2Decompressor()), lambda data: data.startswith(b"BZh"), "bzip2")


def decompress_zst(read: Read) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=limits.MAX_DECODER_BYTES)

    def is_frame(data: bytes) -> bool:
        return data.startswith(b"\x28\xb5\x2f\xfd") or (data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50)

    return _decompress(read, lambda: _Zstandard(decompressor), is_frame, "zstd")


def pass_through(read: Read) -> Iterator[bytes]:
    """The pieces of what is not compressed."""
    while piece := read(_PIECE_BYTES):
        yield piece


def _decompress(
    read: Read, new: Callable[[], _Decoder], is_start: Callable[[bytes], bool], name: str
) -> Iterator[bytes]:
    data = read(_CHUNK_BYTES)
    while data:
        decoder = new()
        while True:
            try:
                yield from decoder.feed(data)
            # bz2 says of a malformed stream that it is an OSError; nothing is read from a file here.
            except (lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
                raise _damaged(name, error) from error
            if decoder.eof:
                break
            data = read(_CHUNK_BYTES)
            if not data:
                raise UnsafeArchive(f"the archive is cut short: its {name} stream has no end; fetch or copy it again")
        data = _after_padding(read, decoder.unused_data)
        if data and not is_start(data):
            raise UnsafeArchive(f"bytes that are not {name} follow the end of the archive's {name} stream; remove them")


def _after_padding(read: Read, data: bytes) -> bytes:
    """What follows zeros, of which tapes and the xz format may have any number; enough of it to tell what it is."""
    while not (data := data.lstrip(b"\0")):
        data = read(_CHUNK_BYTES)
        if not data:
            return b""
    return data if len(data) >= 8 else data + read(_CHUNK_BYTES)


def _damaged(name: str, error: Exception) -> UnsafeArchive:
    if "emory" in str(error):
        return UnsafeArchive(
            f"the archive's {name} stream needs more than {limits.MAX_DECODER_BYTES >> 20} MiB of memory "
            "to decompress; compress it again with a smaller dictionary or window"
        )
    return UnsafeArchive(f"the archive's {name} stream is damaged ({error}); fetch or copy it again")


class Stream:
    """Reads what an iterator gives in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.position = 0

    def piece(self, size: int) -> memoryview:
        """Up to `size` bytes, as many as there are at hand; empty only at the end."""
        while not self._rest:
            following = next(self._pieces, None)
            if following is None:
                return memoryview(b"")
            self._rest = memoryview(following)
        piece, self._rest = self._rest[:size], self._rest[size:]
        self.position += len(piece)
        return piece

    def read(self, size: int) -> bytes:
        """`size` bytes, or all there are until the end."""
        found = bytes(self.piece(size)) if size else b""
        while len(found) < size and (piece := self.piece(size - len(found))):
            found += piece
        return found
