"""Packs: immutable files of many encoded chunks. A pack describes itself twice, in records and in an index.

    header   16 B   magic "casspack", u16 format, u16 requires, u32 hash (1: BLAKE3-256)
    records         48 B header, extension, encoded bytes (see `_RECORD`)
    index           zstd of msgpack: [[digest, offset, length, raw bytes, encoding, base, grouping], ...]
    trailer  52 B   u64 index offset, u32 index length, BLAKE3-256 of the index, magic "packtail"

Integers are little-endian. docs/format.md is the contract.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import zstandard

from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage import files
from casstore.storage.bounded_msgpack import Unpacking
from casstore.storage.coding import documents
from casstore.storage.readable import Readable
from casstore.storage.recipe import MAX_CHUNK_BYTES

FORMAT = 1
_HASH_BLAKE3_256 = 1
_HEADER = struct.Struct("<8sHHI")
_HEADER_MAGIC = b"casspack"
# magic, encoding, flags, extension bytes, raw bytes, encoded bytes, digest of the raw bytes
_RECORD = struct.Struct("<4sBBHII32s")
_RECORD_MAGIC = b"chnk"
MAX_RECORD_BYTES = _RECORD.size + 0xFFFF + MAX_CHUNK_BYTES
_FLAG_BASE = 1  # the extension begins with the digest of the chunk that a delta is against
_FLAG_GROUPING = 2  # and goes on with that of the chunk which groups its elements, where it is not the base
_TRAILER = struct.Struct("<QI32s8s")
_TRAILER_MAGIC = b"packtail"
_WRITE_BYTES = 4 << 20
_WRITEBACK_BYTES = 8 << 20
# Bounds what a damaged trailer can make a reader allocate; an entry takes some 90 bytes, so a pack of a
# million chunks stays well below.
_MAX_INDEX_BYTES = 256 << 20
_MAX_ROW_BYTES = 1024
_MAX_ENTRY_BYTES = 128  # of a row that this release writes, not compressed: three digests and four numbers
_MAX_ROW_ITEMS = 16


class PackEntry(NamedTuple):
    """Where one chunk stands in a pack: its record's offset and whole length, and how it is encoded."""

    digest: Digest
    offset: int
    length: int
    raw_bytes: int
    encoding: int
    base: Digest | None = None
    grouping: Digest | None = None


class EncodedChunk(NamedTuple):
    """A chunk ready to be written into a pack. A delta has a base, and a grouping: the base itself, or another."""

    digest: Digest
    raw_bytes: int
    encoding: int
    data: bytes | memoryview
    base: Digest | None = None
    grouping: Digest | None = None


class PackStream:
    """Writes a pack, from front to back, through `write`. It is one once `end` has returned."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self.entries: list[PackEntry] = []
        self._write = write
        self._buffer = bytearray(_HEADER.pack(_HEADER_MAGIC, FORMAT, 0, _HASH_BLAKE3_256))
        self._flushed = 0

    @property
    def size(self) -> int:
        """Bytes so far, index and trailer not counted."""
        return self._flushed + len(self._buffer)

    def add(self, chunk: EncodedChunk) -> PackEntry:
        """Append a chunk's record. Raises OSError."""
        flags, extension = 0, b""
        if chunk.base is not None:
            flags, extension = _FLAG_BASE, bytes(chunk.base)
            if chunk.grouping not in (None, chunk.base):
                flags, extension = flags | _FLAG_GROUPING, extension + bytes(chunk.grouping or b"")
        header = _RECORD.pack(
            _RECORD_MAGIC, chunk.encoding, flags, len(extension), chunk.raw_bytes, len(chunk.data), chunk.digest
        )
        length = len(header) + len(extension) + len(chunk.data)
        entry = PackEntry(
            chunk.digest, self.size, length, chunk.raw_bytes, chunk.encoding, chunk.base, chunk.grouping or chunk.base
        )
        return self._append(entry, header, extension, chunk.data)

    def copy(self, record: bytes) -> PackEntry:
        """Append a record of another pack as it stands. Raises IntegrityError, OSError."""
        entry, _ = _parse_record(record, self.size)
        if entry.length != len(record):
            raise IntegrityError("a pack record is cut short")
        return self._append(entry, record)

    def _append(self, entry: PackEntry, *parts: bytes | memoryview) -> PackEntry:
        for part in parts:
            self._buffer += part
        self.entries.append(entry)
        if len(self._buffer) >= _WRITE_BYTES:
            self.flush()
        return entry

    def end(self) -> int:
        """Write index and trailer; returns the size of the whole in bytes."""
        index = _pack_index(self.entries)
        trailer = _TRAILER.pack(self.size, len(index), Digest.of(index), _TRAILER_MAGIC)
        self._buffer += index + trailer
        self.flush()
        return self._flushed

    def flush(self) -> None:
        """Let what was added so far be read by others."""
        self._write(memoryview(self._buffer))
        self._flushed += len(self._buffer)
        self._buffer = bytearray()


class PackWriter(PackStream):
    """Writes one new pack. Nothing may refer to it before `finish` has returned."""

    def __init__(self, path: files.StrPath, *, will_be_synced: bool = False) -> None:
        """With `will_be_synced` what has been written is on its way to the disk while more is. Raises OSError."""
        self.path = path
        self._file = files.create_file(path)
        self._descriptor = self._file.fileno()
        self._begun = 0
        super().__init__(self._write_and_begin if will_be_synced else partial(files.write_all, self._descriptor))

    def _write_and_begin(self, data: memoryview) -> None:
        files.write_all(self._descriptor, data)
        written = self._flushed + len(data)
        if written - self._begun >= _WRITEBACK_BYTES:
            files.start_writeback(self._descriptor, self._begun, written - self._begun)
            self._begun = written

    def finish(self, mode: int, *, durable: bool) -> int:
        """Write index and trailer, make the pack read-only, fsync it if `durable`; returns its size in bytes."""
        size = self.end()
        files.set_mode(self._descriptor, mode)
        if durable:
            files.sync_descriptor(self._descriptor)
        self._file.close()
        return size

    @property
    def on_disk(self) -> int:
        """How many of the records are in the file wholly, also after a write that failed."""
        size = os.fstat(self._descriptor).st_size
        return sum(entry.offset + entry.length <= size for entry in self.entries)

    def keep(self, count: int) -> None:
        """Drop all but the first `count` records, which are on disk. Raises OSError."""
        del self.entries[count:]
        end = self.entries[-1].offset + self.entries[-1].length if self.entries else _HEADER.size
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._flushed, self._buffer = end, bytearray()

    def abort(self) -> None:
        """Close and remove the unfinished pack."""
        self._file.close()
        files.remove_file(self.path)


def read_record(container: Readable, offset: int, length: int) -> tuple[PackEntry, memoryview]:
    """One record: its header's fields, and the encoded bytes. Raises IntegrityError, UnsupportedFormat, OSError."""
    if offset < 0 or not _RECORD.size <= length <= MAX_RECORD_BYTES:
        raise IntegrityError(f"a pack record of {length} bytes is of no possible length")
    return split_record(container.pread(offset, length), offset, length)


def split_record(record: bytes | memoryview, offset: int, length: int) -> tuple[PackEntry, memoryview]:
    """The header's fields and the encoded bytes of what was read as a record of that length, at that offset.

    Raises IntegrityError, UnsupportedFormat.
    """
    entry, payload_start = _parse_record(record, offset)
    if entry.length != len(record) or len(record) != length:
        raise IntegrityError("a pack record is cut short")
    return entry, memoryview(record)[payload_start:]


def parse_record(record: bytes, offset: int) -> PackEntry:
    """The entry of a whole record that stands at `offset`. Raises IntegrityError, UnsupportedFormat."""
    entry, _ = _parse_record(record, offset)
    if entry.length != len(record):
        raise IntegrityError("a pack record is cut short")
    return entry


def payload(record: bytes) -> bytes:
    """The encoded bytes in a whole record. Raises IntegrityError."""
    _, start = _parse_record(record, 0)
    return record[start:]


def is_pack(descriptor: int) -> bool:
    """Whether an open file begins as packs do."""
    return os.pread(descriptor, len(_HEADER_MAGIC), 0) == _HEADER_MAGIC


def read_entries(path: Path) -> list[PackEntry]:
    """What is in a pack, from the pack alone: its index, or, where that is damaged or missing, its records.

    Raises IntegrityError for a file that is not a pack, UnsupportedFormat for a pack that needs a newer casstore.
    """
    with open(path, "rb") as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        try:
            _check_header(os.pread(descriptor, _HEADER.size, 0), path)
        except UnsupportedFormat:
            raise
        except IntegrityError as error:
            with contextlib.suppress(IntegrityError):
                return _read_index(descriptor, size)  # its digest tells that only the header of a pack is damaged
            raise error
        try:
            return _read_index(descriptor, size)
        except IntegrityError:
            return list(_walk_records(descriptor, size))


class PackReader:
    """Reads a pack from front to back, from a stream that need not be seekable, trusting nothing.

    `read(size)` gives exactly `size` bytes or, at the end, fewer. `skip(size)` passes over that many.
    """

    def __init__(self, read: Callable[[int], bytes], skip: Callable[[int], object]) -> None:
        self._read = read
        self._skip = skip
        self._header = b""
        self._unread = 0

    def entries(self) -> Iterator[PackEntry]:
        """The entry of each record in turn; `record` gives its bytes, before the next is asked for.

        At the end the index is compared with what was read. Raises IntegrityError for what is damaged or cut short,
        UnsupportedFormat.
        """
        _check_header(self._read(_HEADER.size), Path("what follows the manifests"))
        offset = _HEADER.size
        entries = []
        while (magic := self._read(len(_RECORD_MAGIC))) == _RECORD_MAGIC:
            self._header = magic + self._read(_RECORD.size - len(magic))
            if len(self._header) == _RECORD.size:
                self._header += self._read(min(_RECORD.unpack(self._header)[3], 2 * DIGEST_BYTES))
            entry, _ = _parse_record(self._header, offset)
            self._unread = entry.length - len(self._header)
            entries.append(entry)
            yield entry
            if self._unread:
                self._skip(self._unread)
                self._unread = 0
            offset += entry.length
        self._check_end(magic, offset, entries)

    def record(self) -> bytes:
        """The whole record of the entry that came last. Raises IntegrityError when it is cut short."""
        rest = self._read(self._unread)
        if len(rest) != self._unread:
            raise IntegrityError("a pack record is cut short")
        self._unread = 0
        return self._header + rest

    def _check_end(self, magic: bytes, offset: int, entries: list[PackEntry]) -> None:
        expected = _pack_index(entries)
        index = magic + self._read(len(expected) - len(magic))
        trailer = self._read(_TRAILER.size)
        if index != expected:
            # Another release of zstd may compress the same index to other bytes: then what it says must be the same.
            rest = index + trailer + self._read(1024 + _MAX_ENTRY_BYTES * len(entries))
            index, trailer = rest[: -_TRAILER.size], rest[-_TRAILER.size :]
        if len(trailer) < _TRAILER.size or self._read(1):
            raise IntegrityError("it is cut short, or more follows")
        start, length, digest, end = _TRAILER.unpack(trailer)
        if (start, length, digest, end) != (offset, len(index), Digest.of(index), _TRAILER_MAGIC):
            raise IntegrityError("its trailer is damaged")
        if index != expected and _index_entries(index, offset) != entries:
            raise IntegrityError("its index says something else than its records")


def check_frame(path: files.StrPath) -> None:
    """Whether header, index and trailer are sound. Raises IntegrityError, OSError."""
    with open(path, "rb") as file:
        _check_header(os.pread(file.fileno(), _HEADER.size, 0), Path(path))
        _read_index(file.fileno(), os.fstat(file.fileno()).st_size)


def _check_header(header: bytes, path: Path) -> None:
    if len(header) < _HEADER.size or header[:8] != _HEADER_MAGIC:
        raise IntegrityError(f"{path} is not a pack")
    _, format_number, requires, hash_number = _HEADER.unpack(header)
    if format_number != FORMAT or requires or hash_number != _HASH_BLAKE3_256:
        raise UnsupportedFormat(f"{path} was written by a newer casstore; upgrade this one")


def _parse_record(data: bytes | memoryview, offset: int) -> tuple[PackEntry, int]:
    """The entry that the record header at the start of `data` describes, and where its encoded bytes begin."""
    if len(data) < _RECORD.size:
        raise IntegrityError("a pack record is cut short")
    magic, encoding, flags, extension, raw_bytes, encoded_bytes, digest = _RECORD.unpack_from(data)
    if magic != _RECORD_MAGIC or raw_bytes > MAX_CHUNK_BYTES or encoded_bytes > MAX_CHUNK_BYTES:
        raise IntegrityError("a pack record has a damaged header")
    if flags & ~(_FLAG_BASE | _FLAG_GROUPING):
        raise UnsupportedFormat("a pack record needs a newer casstore; upgrade this one")
    if flags == _FLAG_GROUPING:
        raise IntegrityError("a pack record has a damaged header")
    named = [
        Digest.from_bytes(bytes(data[start : start + DIGEST_BYTES]))
        for start in range(_RECORD.size, _RECORD.size + DIGEST_BYTES * flags.bit_count(), DIGEST_BYTES)
        if start + DIGEST_BYTES <= min(len(data), _RECORD.size + extension)
    ]
    if len(named) != flags.bit_count():
        raise IntegrityError("a pack record lacks the base it names")
    start = _RECORD.size + extension
    entry = PackEntry(
        Digest(digest),
        offset,
        start + encoded_bytes,
        raw_bytes,
        encoding,
        named[0] if named else None,
        named[-1] if named else None,
    )
    return entry, start


def _pack_index(entries: list[PackEntry]) -> bytes:
    rows = [[e.digest, e.offset, e.length, e.raw_bytes, e.encoding, e.base, e.grouping] for e in entries]
    return zstandard.ZstdCompressor(level=3).compress(msgpack.packb(rows))


def _read_index(descriptor: int, size: int) -> list[PackEntry]:
    trailer = os.pread(descriptor, _TRAILER.size, max(0, size - _TRAILER.size))
    if len(trailer) < _TRAILER.size:
        raise IntegrityError("no trailer")
    offset, length, digest, magic = _TRAILER.unpack(trailer)
    if magic != _TRAILER_MAGIC or offset + length + _TRAILER.size != size or length > _MAX_INDEX_BYTES:
        raise IntegrityError("a damaged trailer")
    index = os.pread(descriptor, length, offset)
    if Digest.of(index) != digest:
        raise IntegrityError("a damaged index")
    return _index_entries(index, offset)


def _index_entries(index: bytes, offset: int) -> list[PackEntry]:
    """The entries of an index that stands at `offset`."""
    try:
        most = offset // _RECORD.size  # records do not overlap
        document = documents.decompress_document(index, min(_MAX_INDEX_BYTES, 1024 + most * _MAX_ROW_BYTES))
        rows = Unpacking((most + 1) * _MAX_ROW_ITEMS).unpack(document)
        if len(rows) > most:
            raise IntegrityError("an index has more entries than the pack has room for")
        return [_index_entry(row, offset) for row in rows]
    except (msgpack.UnpackException, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"an index cannot be read: {error}") from error


def _index_entry(row: Sequence[Any], end: int) -> PackEntry:
    """What a row of an index says, of records that end before `end`. Raises ValueError, TypeError."""
    digest, offset, length, raw_bytes, encoding, base, *more = row[:7]
    grouping = more[0] if more else None  # indexes of before there were deltas do not have it
    if not _HEADER.size <= offset < offset + length <= end:
        raise ValueError("an entry of an index points outside the records")
    if not all(type(number) is int for number in (offset, length, raw_bytes, encoding)):
        raise TypeError("an entry of an index holds something else than numbers")
    if not (0 <= raw_bytes <= MAX_CHUNK_BYTES and 0 <= encoding <= 255):
        raise ValueError("a number in an index is out of range")
    if length > MAX_RECORD_BYTES:
        raise ValueError("an entry of an index is longer than any record")
    return PackEntry(
        Digest.from_bytes(digest),
        offset,
        length,
        raw_bytes,
        encoding,
        None if base is None else Digest.from_bytes(base),
        None if grouping is None else Digest.from_bytes(grouping),
    )


def _walk_records(descriptor: int, size: int) -> Iterator[PackEntry]:
    """Record after record until the index, the end or the first damage."""
    offset = _HEADER.size
    while offset < size:
        try:
            entry, _ = _parse_record(os.pread(descriptor, _RECORD.size + 2 * DIGEST_BYTES, offset), offset)
        except UnsupportedFormat:
            raise
        except IntegrityError:
            return
        if offset + entry.length > size:
            return
        yield entry
        offset += entry.length
