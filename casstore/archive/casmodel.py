"""`.casmodel`: versions with their chunks, encoded and each once, in a file that is written and read front to back.

    header      16 B   magic "casmodel", u16 format, u16 requires, u32 hash (1: BLAKE3-256)
    manifests          u32 how many; of each: u32 length, its BLAKE3-256, the manifest as in manifests/
    pack               one pack, of every chunk that a version here needs; what a delta is against comes before it

Integers are little-endian. docs/format.md is the contract.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.manifest import Allowance, Manifest
from casstore.storage.pack import PackEntry, PackReader

MAGIC = b"casmodel"
FORMAT = 1
_HASH_BLAKE3_256 = 1
_HEADER = struct.Struct("<8sHHI")
_COUNT = struct.Struct("<I")
_MANIFEST = struct.Struct("<I32s")
# Bound what a hostile archive makes a reader hold: of large models, thousands of versions.
_MAX_MANIFESTS = 100_000
_MAX_MANIFESTS_BYTES = 1 << 30
_SKIP_BYTES = 1 << 20


def write_head(write: Callable[[bytes], object], manifests: Iterable[bytes]) -> None:
    """Write all that stands before the pack; each manifest as `Manifest.pack` gives it."""
    packed = list(manifests)
    write(_HEADER.pack(MAGIC, FORMAT, 0, _HASH_BLAKE3_256) + _COUNT.pack(len(packed)))
    for manifest in packed:
        write(_MANIFEST.pack(len(manifest), Digest.of(manifest)) + manifest)


class Reader:
    """Reads an archive from a stream that need not be seekable, trusting nothing. Errors call it `name`.

    `advance` is told the bytes that have been read or passed over.
    """

    def __init__(self, stream: BinaryIO, name: str, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._name = name
        self._advance = advance
        self._pack = PackReader(self._read, self._skip)

    def manifests(self) -> list[Manifest]:
        """What the archive holds; read this first. Raises IntegrityError, UnsupportedFormat."""
        header = self._exactly(_HEADER.size + _COUNT.size)
        magic, format_number, requires, hash_number = _HEADER.unpack_from(header)
        if magic != MAGIC:
            raise IntegrityError(f"{self._name} is not a .casmodel")
        if format_number != FORMAT or requires or hash_number != _HASH_BLAKE3_256:
            raise UnsupportedFormat(f"{self._name} was written by a newer casstore; upgrade this one")
        (count,) = _COUNT.unpack_from(header, _HEADER.size)
        if count > _MAX_MANIFESTS:
            raise IntegrityError(f"{self._name} claims to hold {count:,} versions, which is too many")
        found, left, allowance = [], _MAX_MANIFESTS_BYTES, Allowance()
        for _ in range(count):
            length, digest = _MANIFEST.unpack(self._exactly(_MANIFEST.size))
            left -= length
            if left < 0:
                raise IntegrityError(f"the manifests in {self._name} are too long")
            data = self._exactly(length)
            if Digest.of(data) != digest:
                raise IntegrityError(f"a manifest in {self._name} is damaged")
            try:
                found.append(Manifest.unpack(data, allowance))
            except IntegrityError as error:
                raise type(error)(f"{self._name} cannot be read: {error}") from error
        return found

    def entries(self) -> Iterator[PackEntry]:
        """Each chunk's entry; `record` gives its bytes. At the end all has been checked, also that it is the end."""
        try:
            yield from self._pack.entries()
        except UnsupportedFormat:
            raise
        except IntegrityError as error:
            raise IntegrityError(f"{self._name} is damaged: {error}") from error

    def record(self) -> bytes:
        """The record of the entry that came last, encoded as it is, its digest not checked."""
        return self._pack.record()

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise IntegrityError(f"{self._name} is cut short")
        return data

    def _read(self, size: int) -> bytes:
        parts = []
        while size and (data := self._stream.read(min(size, _SKIP_BYTES))):
            parts.append(data)
            size -= len(data)
            self._advance(len(data))
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        if self._stream.seekable():
            self._stream.seek(size, io.SEEK_CUR)
            self._advance(size)
            return
        while size and (data := self._stream.read(min(size, _SKIP_BYTES))):
            size -= len(data)
            self._advance(len(data))
