"""Reading tar archives from a stream that is never sought in.

The standard library's reader is not used: it reads a pax header of any claimed size into memory, keeps every member
until the end, parses some header fields in quadratic time, and passes over bytes after the end and over headers whose
check sum is wrong. This one keeps a member's header at a time. The formats are those of pax(1), "pax interchange
format" and "ustar interchange format", and of GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from casstore.archive import limits
from casstore.archive.decompression import Stream
from casstore.archive.names import decode, show
from casstore.errors import UnsafeArchive

BLOCK_BYTES = 512
_ZEROS = bytes(BLOCK_BYTES)
# No file system holds larger files, and sums of it stay exact everywhere.
_MAX_SIZE = 1 << 62

Kind = Literal["file", "directory", "link", "hard link"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",  # a contiguous file, which POSIX lets be any file
    b"1": "hard link",
    b"2": "link",
    b"5": "directory",
}
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file, which only some programs unpack; pack it without --sparse",
    b"M": "the rest of a file from another volume; join the volumes first",
    b"V": "a volume label; pack it without --label",
    b"D": "a directory of an incremental dump; pack it without --incremental",
}
# Any number of digits would do; none is not 0, or data with zeros in that place would pass for a header.
_CHECKSUM = re.compile(rb" *([0-7]+)[ \0]*")
_PAX_LENGTH = re.compile(rb"([0-9]{1,8}) ")
_PAX_KEYS = {"path", "linkpath", "size"}
_GNU_KEYS = {b"L": "path", b"K": "linkpath"}


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member: its name as it stands in the archive, and where a link leads."""

    name: str
    kind: Kind
    size: int
    is_executable: bool
    target: str


def is_ustar(block: bytes) -> bool:
    """Whether a block is a header of pax(1) or GNU, which say so, as all writers of today do."""
    return block[257:262] == b"ustar" and has_checksum(block)


def has_checksum(block: bytes) -> bool:
    """Whether a block is a header: its sum, of bytes with or without a sign, is what it says."""
    matched = _CHECKSUM.fullmatch(block[148:156])
    if len(block) != BLOCK_BYTES or matched is None:
        return False
    claimed = int(matched[1], 8)
    counted = block[:148] + b" " * 8 + block[156:]
    total = sum(counted)
    return claimed == total or claimed == total - 256 * sum(byte > 127 for byte in counted)


def _octal(field: bytes) -> int:
    digits = field.partition(b"\0")[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError("no octal number")
    return int(digits or b"0", 8)


def _number(field: bytes, what: str, where: str) -> int:
    """An octal number, or one of GNU's in base 256."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    elif field[0] & 0x80:
        raise UnsafeArchive(f"{where} has a {what} that is negative or no number")
    else:
        try:
            number = _octal(field)
        except ValueError as error:
            raise UnsafeArchive(f"{where} has a {what} that is not a number: {field!r}") from error
    if number > _MAX_SIZE:
        raise UnsafeArchive(f"{where} has a {what} that is too large: {number}")
    return number


class TarReader:
    """Iterates over the members of a tar archive. The bytes of a file come from `body()`, before the next member.

    Iterating raises UnsafeArchive at what is cut short, damaged, ambiguous, or no file, directory or link.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._size = 0
        self._left_bytes = 0
        self._name = ""
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[TarMember]:
        own: dict[str, str] = {}
        header_bytes = 0
        while True:
            where = f"the header at byte {self._stream.position:,} of the archive"
            block = self._read(BLOCK_BYTES, where)
            if block == _ZEROS:
                if own:
                    raise UnsafeArchive(f"{show(own.get('path', ''))} is announced, but the archive ends before it")
                self._check_end()
                return
            if not has_checksum(block):
                raise UnsafeArchive(f"{where} is damaged: its check sum is wrong")
            kind = block[156:157]
            if kind not in b"xgLK":
                yield self._member(block, own, where)
                self._skip()
                own, header_bytes = {}, 0
                continue
            size = _number(block[124:136], "size", where)
            header_bytes += BLOCK_BYTES + size
            if header_bytes > limits.MAX_HEADER_BYTES:
                raise UnsafeArchive(f"{where} and its neighbours take more than {limits.MAX_HEADER_BYTES:,} bytes")
            data = self._read(size, where)
            self._read(-size % BLOCK_BYTES, where)
            if kind == b"g":
                self._global.update(_pax_records(data, where))
                continue
            told = _pax_records(data, where) if kind == b"x" else {_GNU_KEYS[kind]: decode(data.rstrip(b"\0"))}
            # Programs differ in which of two they take.
            if told.keys() & own.keys():
                raise UnsafeArchive(f"{where} gives a {' and a '.join(sorted(told.keys() & own.keys()))} a second time")
            own.update(told)

    def body(self) -> Iterator[memoryview]:
        """The bytes of the member that was yielded last, in pieces. Raises UnsafeArchive where they are cut short."""
        while self._left_bytes:
            piece = self._stream.piece(self._left_bytes)
            if not piece:
                raise UnsafeArchive(f"{show(self._name)}: the archive is cut short, {self._left_bytes:,} bytes missing")
            self._left_bytes -= len(piece)
            yield piece

    def _skip(self) -> None:
        size = self._size
        for _ in self.body():
            pass
        self._read(-size % BLOCK_BYTES, show(self._name))

    def _read(self, size: int, where: str) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise UnsafeArchive(f"the archive is cut short: it ends at byte {self._stream.position:,}, in {where}")
        return data

    def _check_end(self) -> None:
        """After the first block of zeros nothing but zeros may come, and all is read for the check sums' sake."""
        while piece := self._stream.piece(1 << 20):
            if bytes(piece) != bytes(len(piece)):
                raise UnsafeArchive(
                    f"the archive goes on after its end, near byte {self._stream.position:,}; "
                    "if it was joined from several, unpack each alone"
                )

    def _member(self, block: bytes, own: dict[str, str], where: str) -> TarMember:
        told = {**self._global, **own}
        name = told["path"] if "path" in told else _name(block)
        self._name = name
        where = f"{show(name)} in the archive"
        flag = block[156:157]
        if flag in _REFUSED:
            raise UnsafeArchive(f"{where} is {_REFUSED[flag]}")
        kind = _KINDS.get(flag)
        if kind is None:
            raise UnsafeArchive(f"{where} is of an unknown type, {flag!r}")
        if name.endswith("/") and kind == "file":
            # The first tar had no type for directories.
            if flag != b"\0":
                raise UnsafeArchive(f"{where} is a file with the name of a directory")
            kind = "directory"
        size = _number(block[124:136], "size", where)
        if "size" in told:
            size = _decimal(told["size"], where)
        if size and kind != "file":
            raise UnsafeArchive(f"{where} is a {kind} with {size} bytes of content, which programs read differently")
        target = told["linkpath"] if "linkpath" in told else decode(block[157:257].partition(b"\0")[0])
        self._left_bytes = self._size = size
        return TarMember(name, kind, size, bool(_number(block[100:108], "mode", where) & 0o100), target)


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    # GNU's magic is "ustar  ": it keeps times where ustar has the first part of a long name.
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return decode(name)


def _decimal(text: str, where: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or int(text) > _MAX_SIZE:
        raise UnsafeArchive(f"{where} has a size that is not a number, or too large: {show(text)}")
    return int(text)


def _pax_records(data: bytes, where: str) -> dict[str, str]:
    """The records that matter of a pax header: each is "length key=value\\n", of which the length counts all."""
    found = {}
    position = 0
    while position < len(data):
        matched = _PAX_LENGTH.match(data, position)
        end = position + int(matched[1]) if matched else 0
        if not matched or not matched.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise UnsafeArchive(f"{where} holds a pax record that is malformed")
        key, equals, value = data[matched.end() : end - 1].partition(b"=")
        if not equals:
            raise UnsafeArchive(f"{where} holds a pax record without a value")
        if key.startswith(b"GNU.sparse.") or key == b"SCHILY.realsize":
            raise UnsafeArchive(f"{where} is of {_REFUSED[b'S']}")
        name = key.decode("ascii", "replace")
        if name in _PAX_KEYS:
            found[name] = decode(value)
        position = end
    return found
