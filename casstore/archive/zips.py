"""Reading zip archives, by the standard library's zipfile after checking what it takes on trust."""

from __future__ import annotations

import contextlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from casstore.archive.limits import Budget
from casstore.archive.names import decode, show
from casstore.archive.unpacked_tree import UnpackedTree
from casstore.errors import UnsafeArchive
from casstore.storage.window import ReadError, Window

# zipfile reads the whole central directory, and keeps 350 to 700 bytes of an entry, which takes 46 bytes and its name:
# 357,000 entries of 47 bytes took 130 MB, these many with what is kept of them here stay below that.
MAX_DIRECTORY_BYTES = 16 << 20
MAX_ENTRIES = 150_000
_ENTRY_MAGIC = b"PK\x01\x02"
_PIECE_BYTES = 1 << 20
_MAX_TARGET_BYTES = 4096
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
_END = struct.Struct("<4s4HLLH")
_IS_ENCRYPTED = 0x1 | 0x40 | 0x2000  # by password, by strong encryption, with masked headers (APPNOTE.TXT, 4.4.4)
_IS_UTF8 = 0x800
_UNIX = 3


class _Window(Window):
    """The archive as zipfile reads it, from where the stream stood; never much at a time."""

    def __init__(self, source: BinaryIO, start: int, report: Callable[[int], None]) -> None:
        super().__init__(source.seek(0, 2) - start)
        self._source = source
        self._start = start
        self._report = report
        self._unreported = self.size

    def read(self, length: int = -1, /) -> bytes:
        length = self._available(length)
        if length > MAX_DIRECTORY_BYTES:
            raise UnsafeArchive(
                f"the central directory of the zip archive takes more than {MAX_DIRECTORY_BYTES:,} bytes; use tar"
            )
        try:
            self._source.seek(self._start + self._position)
            data = self._source.read(length)
        except OSError as error:
            raise ReadError(error) from error
        if length > 2 * _PIECE_BYTES and data.count(_ENTRY_MAGIC) > MAX_ENTRIES:
            raise UnsafeArchive(f"the zip archive has more than {MAX_ENTRIES:,} members; use tar")
        self._position += len(data)
        self.report_up_to(len(data))
        return data

    def report_up_to(self, count: int) -> None:
        """Some bytes are read twice, and are reported once."""
        count = min(count, self._unreported)
        self._unreported -= count
        if count:
            self._report(count)


def read_zip(source: BinaryIO, start: int, tree: UnpackedTree, budget: Budget, report: Callable[[int], None]) -> None:
    """Unpack the archive from `start` to the end of a seekable stream. Raises UnsafeArchive, OSError."""
    window = _Window(source, start, report)
    try:
        with _naming_faults():
            archive = zipfile.ZipFile(window)
        with archive:
            _check_end(window, archive)
            _check_places(window, archive)
            for info in archive.infolist():
                _unpack(archive, info, tree, budget)
    except ReadError as error:
        raise error.error from error
    window.report_up_to(window.size)


@contextlib.contextmanager
def _naming_faults() -> Iterator[None]:
    """Around zipfile's own work, which says in many ways that an archive is malformed."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error) as error:
        raise UnsafeArchive(f"the zip archive is damaged: {error}; fetch or copy it again") from error
    except UnsafeArchive:
        raise
    except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        raise UnsafeArchive(f"the zip archive cannot be read: {error}; pack it again") from error


def _check_end(window: _Window, archive: zipfile.ZipFile) -> None:
    window.seek(max(window.size - _END.size - len(archive.comment), 0))
    end = window.read(_END.size)
    if len(end) < _END.size or end[:4] != b"PK\x05\x06":
        raise UnsafeArchive("the zip archive goes on after its end; pack it again")
    _, disk, first_disk, here, total, _, offset, comment_size = _END.unpack(end)
    if comment_size != len(archive.comment):
        raise UnsafeArchive("the zip archive goes on after its end; pack it again")
    if not (disk == first_disk == 0 or disk == first_disk == 0xFFFF) or here != total:
        raise UnsafeArchive("the zip archive is one of several parts; join them first (zip -s 0)")
    if total not in (len(archive.infolist()), 0xFFFF):
        raise UnsafeArchive(f"the zip archive says it has {total} members, and has {len(archive.infolist())}")
    # zipfile makes up for the difference, others do not, so they would see other members.
    if offset not in (archive.start_dir, 0xFFFFFFFF) or any(info.header_offset < 0 for info in archive.infolist()):
        raise UnsafeArchive(
            "the zip archive is not where its offsets say; remove what stands before it, or fetch it again"
        )


def _check_places(window: _Window, archive: zipfile.ZipFile) -> None:
    """Every member has its own bytes, and the header before them agrees with the central directory."""
    places = []
    for info in archive.infolist():
        raw = info.orig_filename.encode("utf-8" if info.flag_bits & _IS_UTF8 else "cp437")
        where = f"{show(_name(info))} in the zip archive"
        if (info.flag_bits & _IS_ENCRYPTED) != 0:
            raise UnsafeArchive(f"{where} is encrypted; decrypt it first")
        if info.volume != 0:
            raise UnsafeArchive(f"{where} begins in another part of the archive; join the parts first (zip -s 0)")
        window.seek(info.header_offset)
        header = window.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise UnsafeArchive(f"{where} begins after the end of the archive")
        magic, flags, method, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        if magic != b"PK\x03\x04":
            raise UnsafeArchive(f"{where} is not where the central directory says")
        if window.read(name_size) != raw:
            raise UnsafeArchive(f"{where} has another name in its own header; pack the archive again")
        if method != info.compress_type or (flags ^ info.flag_bits) & (_IS_ENCRYPTED | _IS_UTF8):
            raise UnsafeArchive(f"{where} is described differently in its own header; pack the archive again")
        end = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size + info.compress_size
        places.append((info.header_offset, end, info))
    places.sort(key=lambda place: place[:2])
    following = archive.start_dir
    for start, end, info in reversed(places):
        if end > following:
            raise UnsafeArchive(f"{show(_name(info))} in the zip archive overlaps what follows it; pack it again")
        following = start


def _name(info: zipfile.ZipInfo) -> str:
    """zipfile takes names that are not marked as UTF-8 for a code page of DOS; most that are not ASCII are UTF-8."""
    return info.orig_filename if info.flag_bits & _IS_UTF8 else decode(info.orig_filename.encode("cp437"))


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, tree: UnpackedTree, budget: Budget) -> None:
    name = _name(info)
    where = f"{show(name)} in the zip archive"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Of the other methods zipfile reads a piece of any size into memory.
        raise UnsafeArchive(f"{where} is compressed by method {info.compress_type}; pack it again with deflate")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise UnsafeArchive(f"{where} is stored as it is, but with two sizes")
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    kind = stat.S_IFMT(mode)
    is_directory = name.endswith("/")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise UnsafeArchive(f"{where} is a device, a pipe or a socket")
    if kind and is_directory != (kind == stat.S_IFDIR):
        raise UnsafeArchive(f"{where} is a directory by its name or by its mode, but not by both")
    if is_directory:
        if info.file_size:
            raise UnsafeArchive(f"{where} is a directory with {info.file_size} bytes of content")
        tree.add_directory(name)
    elif kind == stat.S_IFLNK:
        if info.file_size > _MAX_TARGET_BYTES:
            raise UnsafeArchive(f"{where} is a link with a target of {info.file_size} bytes")
        tree.add_link(name, decode(b"".join(_content(archive, info, budget))), is_hard=False)
    else:
        tree.add_file(name, bool(mode & stat.S_IXUSR), _content(archive, info, budget))


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    total = 0
    with _naming_faults():
        member = archive.open(info)
    with member:
        while True:
            with _naming_faults():
                piece = member.read(_PIECE_BYTES)
            if not piece:
                break
            total += len(piece)
            budget.spend(len(piece))
            yield piece
    if total != info.file_size:
        raise UnsafeArchive(
            f"{show(_name(info))} in the zip archive has {total} bytes, not {info.file_size} as it says"
        )
