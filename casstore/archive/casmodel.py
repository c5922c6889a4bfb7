"""`.casmodel`: versions with their chunks, encoded and each once, in a file that is written and read front to back.

    header      16 B   magic "casmodel", u16 format, u16 requires, u32 hash (1: BLAKE3-256)
    manifests          u32 how many; of each: u32 length, its BLAKE3-256, the manifest as in manifests/
    aliases            where `requires` has bit 0: u32 length, its BLAKE3-256, msgpack [[name, version, alias], ...]
    signatures         where it has bit 1: u32 length, its BLAKE3-256, msgpack [[name, version, bundle], ...]
    pack               one pack, of every chunk that a version here needs; what a delta is against comes before it

Integers are little-endian. docs/format.md is the contract.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import BinaryIO

import msgpack

from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage.bounded_msgpack import Unpacking
from casstore.storage.manifest import Allowance, Manifest
from casstore.storage.pack import PackEntry, PackReader
from casstore.tag import AliasName, Tag

MAGIC = b"casmodel"
FORMAT = 1
_HASH_BLAKE3_256 = 1
_HEADER = struct.Struct("<8sHHI")
_COUNT = struct.Struct("<I")
_MANIFEST = struct.Struct("<I32s")
# Bound what a hostile archive makes a reader hold: of large models, thousands of versions.
_HAS_ALIASES = 1
_HAS_SIGNATURES = 2
_MAX_MANIFESTS = 100_000
_MAX_ALIASES_BYTES = 64 << 20
_MAX_ALIAS_ITEMS = 4_000_000
MAX_SIGNATURES_BYTES = 256 << 20
_MAX_MANIFESTS_BYTES = 1 << 30
_SKIP_BYTES = 1 << 20


def write_head(
    write: Callable[[bytes], object],
    manifests: Iterable[bytes],
    aliases: Sequence[tuple[Tag, str]] | None = None,
    signatures: Sequence[tuple[Tag, bytes]] = (),
) -> None:
    """Write all that stands before the pack; each manifest as `Manifest.pack` gives it. `aliases`: those of versions in
    it; None if it is to say nothing of them. `signatures`: those of versions in it."""
    packed = list(manifests)
    requires = (0 if aliases is None else _HAS_ALIASES) | (_HAS_SIGNATURES if signatures else 0)
    write(_HEADER.pack(MAGIC, FORMAT, requires, _HASH_BLAKE3_256) + _COUNT.pack(len(packed)))
    parts = [*packed, *([] if aliases is None else [msgpack.packb([[t.name, t.version, a] for t, a in aliases])])]
    if signatures:
        parts.append(msgpack.packb([[tag.name, tag.version, bundle] for tag, bundle in signatures]))
    for part in parts:
        write(_MANIFEST.pack(len(part), Digest.of(part)) + part)


class Reader:
    """Reads an archive from a stream that need not be seekable, trusting nothing. Errors call it `name`.

    `advance` is told the bytes that have been read or passed over.
    """

    def __init__(self, stream: BinaryIO, name: str, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._name = name
        self._advance = advance
        self._pack = PackReader(self._read, self._skip)
        self.aliases: list[tuple[Tag, str]] | None = None
        """What aliases mean which versions, known once the manifests are read; None where it says nothing of them."""
        self.signatures: list[tuple[Tag, bytes]] = []
        """Signatures of the versions, known once the manifests are read."""

    def manifests(self) -> list[Manifest]:
        """What the archive holds; read this first. Raises IntegrityError, UnsupportedFormat."""
        header = self._exactly(_HEADER.size + _COUNT.size)
        magic, format_number, requires, hash_number = _HEADER.unpack_from(header)
        if magic != MAGIC:
            raise IntegrityError(f"{self._name} is not a .casmodel")
        if format_number != FORMAT or requires & ~(_HAS_ALIASES | _HAS_SIGNATURES) or hash_number != _HASH_BLAKE3_256:
            raise UnsupportedFormat(f"{self._name} was written by a newer casstore; upgrade this one")
        (count,) = _COUNT.unpack_from(header, _HEADER.size)
        if count > _MAX_MANIFESTS:
            raise IntegrityError(f"{self._name} claims to hold {count:,} versions, which is too many")
        found, left, allowance = [], _MAX_MANIFESTS_BYTES, Allowance()
        for _ in range(count):
            too_long, damaged = f"the manifests in {self._name} are too long", f"a manifest in {self._name} is damaged"
            data = self._part(left, too_long, damaged)
            left -= len(data)
            try:
                found.append(Manifest.unpack(data, allowance))
            except IntegrityError as error:
                raise type(error)(f"{self._name} cannot be read: {error}") from error
        if requires & _HAS_ALIASES:
            self.aliases = self._aliases({manifest.tag for manifest in found})
        if requires & _HAS_SIGNATURES:
            self.signatures = self._signatures({manifest.tag for manifest in found})
        return found

    def _signatures(self, tags: Set[Tag]) -> list[tuple[Tag, bytes]]:
        too_long = f"the signatures in {self._name} are too long"
        data = self._part(MAX_SIGNATURES_BYTES, too_long, f"the signatures in {self._name} are damaged")
        try:
            rows = Unpacking(_MAX_ALIAS_ITEMS).unpack(data)
            found = [(Tag(name, version), bundle) for name, version, bundle in rows]
            if not all(isinstance(bundle, bytes) for _, bundle in found) or not {tag for tag, _ in found} <= tags:
                raise ValueError("one is of no version in it, or is not bytes")
        except (msgpack.UnpackException, ValueError, TypeError, RecursionError, AttributeError) as error:
            raise IntegrityError(f"the signatures in {self._name} cannot be read: {error}") from error
        return found

    def _aliases(self, tags: Set[Tag]) -> list[tuple[Tag, str]]:
        too_long, damaged = f"the aliases in {self._name} are too long", f"the aliases in {self._name} are damaged"
        data = self._part(_MAX_ALIASES_BYTES, too_long, damaged)
        try:
            rows = [(Tag(name, version), alias) for name, version, alias in Unpacking(_MAX_ALIAS_ITEMS).unpack(data)]
            names = [AliasName.parse(f"{tag.name}@{alias}") for tag, alias in rows]
            if [name.alias for name in names] != [alias for _, alias in rows]:
                raise ValueError("one is not written as aliases are")
        except (msgpack.UnpackException, ValueError, TypeError, RecursionError, AttributeError) as error:
            raise IntegrityError(f"the aliases in {self._name} cannot be read: {error}") from error
        if len(set(names)) < len(names) or not {tag for tag, _ in rows} <= tags:
            raise IntegrityError(f"the aliases in {self._name} contradict its versions, or one another")
        return [(tag, name.alias) for (tag, _), name in zip(rows, names, strict=True)]

    def _part(self, most_bytes: int, too_long: str, damaged: str) -> bytes:
        """What stands next, behind its length and digest. Raises IntegrityError, with one of these messages."""
        length, digest = _MANIFEST.unpack(self._exactly(_MANIFEST.size))
        if length > most_bytes:
            raise IntegrityError(too_long)
        data = self._exactly(length)
        if Digest.of(data) != digest:
            raise IntegrityError(damaged)
        return data

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
