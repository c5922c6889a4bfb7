"""Tensors in files that are several zip archives, one behind another.

`torch.distributed.checkpoint` writes each tensor as a `torch.save` archive of its own into one `.distcp` file
(torch/distributed/checkpoint/filesystem.py, `_write_item`). Archives are found from the end of the file to its
beginning, as only the end record of one tells how long it is (APPNOTE.TXT 4.3.14 to 4.3.16).
"""

from __future__ import annotations

import struct

from casstore.storage.tensors.segments import MAX_TENSORS, HeaderError, ReadAt, Segment, read_exactly
from casstore.storage.tensors.zips import find_zip

# An archive takes up to a tenth of a millisecond, and a byte that is read at most a microsecond. Of a tensor, a
# kilobyte is read: its archive's directory, the pickle and the headers of entries.
MAX_ARCHIVES = 50_000
MAX_READ_BYTES = 64 << 20

_END = struct.Struct("<4s8xII2s")
_LOCATOR = struct.Struct("<4s16x")
_END_64 = struct.Struct("<4s36xQQ")


def find_zips(read: ReadAt, size: int) -> tuple[str, list[Segment]]:
    """As `find_zip`; and ("zips", its segments) of a file that is several archives of PyTorch or numpy.

    What is "data/0" in the first of them is "0/data/0". A file that is not wholly such archives, without a byte
    between, is cut as `find_zip` cuts it.
    """
    try:
        start = start_of(read, size)
        found = _archives(read, size) if start else None
    except ValueError:
        found = None
    return find_zip(read, size) if found is None else ("zips", found)


def _archives(read: ReadAt, size: int) -> list[Segment]:
    starts: list[int] = []
    end = size
    while end:
        if len(starts) == MAX_ARCHIVES:
            raise HeaderError("too many archives")
        starts.append(end := start_of(read, end))
    found: list[Segment] = []
    left = MAX_READ_BYTES
    for number, (start, end) in enumerate(zip(reversed(starts), [*starts[-2::-1], size], strict=True)):
        archive = Archive(read, start, left)
        for each in find_zip(archive.read, end - start)[1]:
            name = None if each.name is None else f"{number}/{each.name}"
            if name is None and found and found[-1].name is None:
                between = found.pop()  # the end of an archive and the beginning of the next
                found.append(Segment(between.offset, between.length + each.length))
            else:
                found.append(Segment(start + each.offset, each.length, name, each.dtype, each.shape))
        if len(found) > 2 * MAX_TENSORS:
            raise HeaderError("too many tensors")
        left = archive.left
    return found


class Archive:
    """An archive within a file, as if it were a file of its own; reads no more than `left` bytes of it."""

    def __init__(self, read: ReadAt, start: int, left: int) -> None:
        self._read = read
        self._start = start
        self.left = left

    def read(self, offset: int, length: int) -> bytes:
        self.left -= length
        if self.left < 0:
            raise HeaderError("what stands beside the tensors is too long")
        return self._read(self._start + offset, length)


def start_of(read: ReadAt, end: int) -> int:
    """Where the archive that ends at `end` begins, by the record at its end. Raises HeaderError."""
    directory_end = end - _END.size
    signature, length, offset, comment = _END.unpack(read_exactly(read, end, directory_end, _END.size))
    if (signature, comment) != (b"PK\x05\x06", bytes(2)):
        raise HeaderError("no end of an archive without a comment")
    before = directory_end - _LOCATOR.size - _END_64.size
    if before >= 0:
        records = read_exactly(read, end, before, _LOCATOR.size + _END_64.size)
        if records.startswith(b"PK\x06\x06") and records.startswith(b"PK\x06\x07", _END_64.size):
            directory_end = before
            length, offset = _END_64.unpack_from(records)[1:]
    start: int = directory_end - length - offset
    if not 0 <= start < directory_end:
        raise HeaderError("an archive begins outside the file")
    return start
