"""Compressing a stream on several threads: it is cut into blocks, each of which becomes a stream of its own.

Concatenated xz, gzip and bzip2 streams are one stream to every program that reads them. What comes out depends
on the bytes alone, not on how they were written or on how many threads there are.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

import zstandard

BLOCK_BYTES = 4 << 20
_MAX_THREADS = 16  # each holds a block, its compressed bytes and an encoder: some 15 MiB

# MB/s of CPU time on one core of an EPYC virtual machine, and size by raw size; fp32 is N(0, 0.02), bf16 its upper
# halves, text is Python's library. Blocks on two cores come to twice as much.
#
#                                     fp32            bf16            text
#   xz preset 6, in one piece      2.2  0.9181     1.5  0.7093     2.2  0.1565
#   xz preset 0                    7.0  0.9187     9.9  0.7378    31.1  0.2094
#   these filters                 10.2  0.8514    10.7  0.7262    32.6  0.2083
#   ... with lc=3, lp=1, 256 KiB   8.1  0.9028     9.0  0.7308    31.6  0.1955
#   ... HC4 and 256 KiB            8.2  0.8565     8.0  0.7308    29.4  0.1961
#   ... HC4 and 1 MiB              2.8  0.8573     5.1  0.7267    27.9  0.1931
#   ... depth 1, nice_len 32      10.6  0.8504    12.0  0.7287    33.9  0.2417
#   gzip level 1                  39.7  0.9287    42.7  0.8025   143.2  0.2709
#   gzip level 4                  33.8  0.9260    22.2  0.7945    92.8  0.2304
#   gzip level 6                  33.7  0.9260    13.0  0.7946    40.6  0.2171
#
# What counts for numbers is lp=2: their bytes are modelled by their place in them. It wants lc=2, as lc + lp <= 4.
_XZ_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 64 << 10,
        "lc": 2,
        "lp": 2,
        "pb": 2,
        "mode": lzma.MODE_FAST,
        "mf": lzma.MF_HC3,
        "nice_len": 128,
        "depth": 8,
    }
]
_GZIP_LEVEL = 4
# Level 1 gives bf16 0.7798 and text 0.2447, level 3 0.7799 and 0.2219 at two thirds of the speed, still above 400 MB/s.
_ZSTD_LEVEL = 3


class Sink(Protocol):
    """Where bytes go in order; `finish` ends what they make up."""

    def write(self, data: bytes, /) -> int: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...


class Output:
    """The caller's stream, of which only `write` is used, and the number of bytes written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._is_abandoned = False
        self._position = 0

    def write(self, data: bytes, /) -> int:
        """Write all. Nothing is written once the archive is given up: zipfile would, when it is collected."""
        rest = data
        while rest and not self._is_abandoned:
            written = self._stream.write(rest)
            if not written:
                raise OSError("the stream took no bytes; its write() has to wait, and to return how many it took")
            # A raw stream may take less than all.
            rest = rest[written:]
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        self._is_abandoned = True


class _Parallel:
    """Blocks are compressed on threads and written, in order, by the thread that calls `write`."""

    def __init__(self, output: Output, compress: Callable[[bytes], bytes]) -> None:
        self._output = output
        self._compress = compress
        threads = _threads()
        self._executor = ThreadPoolExecutor(threads, "casstore-compress")
        self._most_pending = threads + 2  # so that none waits while a block is written
        self._pending: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._is_empty = True

    def write(self, data: bytes, /) -> int:
        self._block += data
        while len(self._block) >= BLOCK_BYTES:
            self._submit(bytes(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]
        return len(data)

    def finish(self) -> None:
        try:
            if self._block or self._is_empty:
                self._submit(bytes(self._block))
            while self._pending:
                self._output.write(self._pending.popleft().result())
        finally:
            self.abandon()

    def abandon(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, block: bytes) -> None:
        self._is_empty = False
        self._pending.append(self._executor.submit(self._compress, block))
        while len(self._pending) >= self._most_pending or (self._pending and self._pending[0].done()):
            self._output.write(self._pending.popleft().result())


class _Zstandard:
    """zstd has threads of its own, and its output does not depend on their number."""

    def __init__(self, output: Output) -> None:
        self._output = output
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True, threads=_threads())
        self._compressor = compressor.compressobj()

    def write(self, data: bytes, /) -> int:
        self._output.write(self._compressor.compress(data))
        return len(data)

    def finish(self) -> None:
        self._output.write(self._compressor.flush())

    def abandon(self) -> None:
        del self._compressor  # and with it the threads


def compress_xz(output: Output) -> Sink:
    return _Parallel(output, lambda block: lzma.compress(block, check=lzma.CHECK_CRC64, filters=_XZ_FILTERS))


def compress_gz(output: Output) -> Sink:
    return _Parallel(output, _deflate)


def compress_bz2(output: Output) -> Sink:
    return _Parallel(output, bz2.compress)


def compress_zst(output: Output) -> Sink:
    return _Zstandard(output)


def _deflate(block: bytes) -> bytes:
    # 16 + 15: gzip's header, without a time, and check sum, the largest window.
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, wbits=31)
    return compressor.compress(block) + compressor.flush()


def _threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)
