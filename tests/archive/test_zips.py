from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from casstore.archive import zips
from casstore.archive.formats import Format
from casstore.errors import InvalidSource, UnsafeArchive


def pack(*members: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.create_system = 3
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


FILE = stat.S_IFREG | 0o644
A = ("a", b"some text " * 20, FILE)
B = ("b", b"other text " * 20, FILE)


def change(archive: bytes, magic: bytes, offset: int, value: bytes, which: int = 0) -> bytes:
    """The archive with some bytes of a header changed: of a local one, of the directory, or of the end."""
    position = -1
    for _ in range(which + 1):
        position = archive.index(magic, position + 1)
    changed = bytearray(archive)
    changed[position + offset : position + offset + len(value)] = value
    return bytes(changed)


LOCAL, ENTRY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_directories_and_links(read: Callable[..., Any], method: int) -> None:
    archive = pack(
        ("d/", b"", stat.S_IFDIR | 0o755),
        ("e/f", b"1", FILE),
        ("run", b"2", stat.S_IFREG | 0o755),
        ("l", b"e/f", stat.S_IFLNK | 0o777),
        ("dos", b"3", 0),
        ("dir/", b"", 0),
        method=method,
        comment=b"a comment",
    )
    expected = {"d": None, "e/f": b"1", "run!": b"2", "l": b"1", "dos": b"3", "dir": None}
    assert read(archive)[1] == expected


def test_modes_of_other_systems_mean_nothing(read: Callable[..., Any]) -> None:
    archive = change(pack(("a", b"", stat.S_IFLNK | 0o777)), ENTRY, 5, b"\0")
    assert read(archive)[1] == {"a": b""}


def test_names_in_utf8_without_the_mark(read: Callable[..., Any]) -> None:
    archive = pack(("\u00e9", b"1", FILE))
    for magic, offset in ((LOCAL, 6), (ENTRY, 8)):
        archive = change(archive, magic, offset, b"\0\0")
    assert read(archive)[1] == {"\u00e9": b"1"}
    with pytest.raises(UnsafeArchive, match="is not UTF-8"):
        read(archive.replace("\u00e9".encode(), b"\x82\x83"))


def test_a_name_marked_as_utf8_that_is_not(read: Callable[..., Any]) -> None:
    with pytest.raises(UnsafeArchive, match="the zip archive cannot be read: 'utf-8' codec"):
        read(pack(("\u00e9", b"1", FILE)).replace("\u00e9".encode(), b"\x82\x83"))


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (change(pack(A), ENTRY, 8, b"\1"), "'a' in the zip archive is encrypted; decrypt it first"),
        (change(pack(A), ENTRY, 8, b"\x40"), "'a' in the zip archive is encrypted"),
        (change(pack(A), ENTRY, 9, b"\x20"), "'a' in the zip archive is encrypted"),
        (change(pack(A), LOCAL, 6, b"\1"), "'a' in the zip archive is described differently in its own header"),
        (change(pack(A), LOCAL, 8, b"\0"), "'a' in the zip archive is described differently"),
        (change(pack(A), LOCAL, 30, b"b"), "'a' in the zip archive has another name in its own header"),
        (change(pack(A), LOCAL, 26, b"\2"), "'a' in the zip archive has another name in its own header"),
        (change(pack(A), ENTRY, 34, b"\1"), "'a' in the zip archive begins in another part"),
        (change(pack(A), END, 4, b"\1\0"), "one of several parts; join them first"),
        (change(pack(A), END, 4, b"\1\0\1\0"), "one of several parts; join them first"),
        (change(pack(A), END, 8, b"\2"), "one of several parts"),
        (change(pack(A), END, 8, b"\2\0\2\0"), "says it has 2 members, and has 1"),
        (pack(A) + b"x", "goes on after its end"),
        (pack(A, comment=b"c" * 9) + b"x", "goes on after its end"),
        (change(pack(A), ENTRY, 42, b"\1"), "'a' in the zip archive is not where the central directory says"),
        (change(pack(A), ENTRY, 42, b"\xff\xff\xff\x7f"), "'a' in the zip archive begins after the end"),
        (change(pack(A, B), ENTRY, 20, b"\xff"), "'a' in the zip archive overlaps what follows it"),
        (change(pack(A), ENTRY, 20, b"\xff"), "'a' in the zip archive overlaps what follows it"),
        (change(pack(A, B), ENTRY, 42, b"\0", 1), "another name in its own"),
        (pack(A, method=zipfile.ZIP_BZIP2), "'a' in the zip archive is compressed by method 12; pack it again"),
        (pack(A, method=zipfile.ZIP_LZMA), "'a' in the zip archive is compressed by method 14"),
        (change(pack(A, method=zipfile.ZIP_STORED), ENTRY, 24, b"\1"), "is stored as it is, but with two sizes"),
        (change(pack(A), ENTRY, 24, b"\xff"), "'a' in the zip archive has 200 bytes, not 255 as it says"),
        (change(pack(A), ENTRY, 24, b"\x05"), "the zip archive is damaged: Bad CRC-32 for file 'a'"),
        (change(pack(A), ENTRY, 16, b"\1\2"), "the zip archive is damaged: Bad CRC-32"),
        (change(pack(A), LOCAL, 31, b"\xff\xff"), "the zip archive is damaged: "),
        (change(pack(A), ENTRY, 6, b"\xff"), "the zip archive cannot be read: zip file version"),
        (change(pack(A), ENTRY, 0, b"x"), "the zip archive is damaged: Bad magic number for central directory"),
        (change(pack(A), END, 16, b"\xff\xff"), "the zip archive is not where its offsets say"),
        (change(pack(A), END, 16, b"\0"), "the zip archive is not where its offsets say"),
        (LOCAL + pack(A), "the zip archive is not where its offsets say"),
        (pack(A)[:-1], "the zip archive is damaged: "),
        (pack(A)[:40], "the zip archive is damaged: "),
        (LOCAL, "the zip archive is damaged: "),
        (pack(("a", b"", stat.S_IFIFO)), "'a' in the zip archive is a device, a pipe or a socket"),
        (pack(("a", b"", stat.S_IFSOCK)), "is a device, a pipe or a socket"),
        (pack(("a", b"", stat.S_IFCHR)), "is a device, a pipe or a socket"),
        (pack(("a", b"", stat.S_IFDIR)), "'a' in the zip archive is a directory by its name or by its mode, but"),
        (pack(("a/", b"", FILE)), "'a/' in the zip archive is a directory by its name or by its mode, but"),
        (pack(("a/", b"1", stat.S_IFDIR)), "'a/' in the zip archive is a directory with 1 bytes of content"),
        (pack(("l", b"x" * 4097, stat.S_IFLNK)), "'l' in the zip archive is a link with a target of 4097 bytes"),
        (pack(("l", b"\xff", stat.S_IFLNK)), "is not UTF-8"),
        (pack(("l", b"../x", stat.S_IFLNK)), "leads out of the archive"),
    ],
)
def test_what_contradicts_itself_is_refused(read: Callable[..., Any], archive: bytes, message: str) -> None:
    with pytest.raises(UnsafeArchive, match=message):
        read(archive)


def test_two_entries_of_the_same_bytes(read: Callable[..., Any]) -> None:
    """The zip bomb that needs no nesting: entries that share their compressed bytes."""
    one = pack(("a", bytes(1000), FILE))
    entry = one[one.index(ENTRY) : one.index(END)]
    start = one.index(ENTRY)
    end = struct.pack("<4s4H2LH", END, 0, 0, 2, 2, 2 * len(entry), start, 0)
    with pytest.raises(UnsafeArchive, match="'a' in the zip archive overlaps what follows it"):
        read(one[:start] + entry * 2 + end)


def test_the_directory_is_bounded(read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 5000)
    with pytest.raises(
        UnsafeArchive, match="central directory of the zip archive takes more than 5,000 bytes; use tar"
    ):
        read(pack(*((f"{number}", b"", FILE) for number in range(200))))


def test_many_small_entries_are_refused_before_they_are_parsed(read: Callable[..., Any]) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", ENTRY, 20, 3, 20, 0, 0, 0, 0, 0x21, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    one = pack(("a", b"", FILE))
    start = one.index(ENTRY)
    count = zips.MAX_ENTRIES + 1
    end = struct.pack("<4s4H2LH", END, 0, 0, count & 0xFFFF, count & 0xFFFF, count * len(entry), start, 0)
    with pytest.raises(UnsafeArchive, match="the zip archive has more than 150,000 members; use tar"):
        read(one[:start] + entry * count + end)


class Failing(io.BytesIO):
    """A disk that cannot be read any more, after so many reads."""

    def __init__(self, data: bytes, reads: int) -> None:
        super().__init__(data)
        self.left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_errors_of_the_source_are_no_damage(read: Callable[..., Any]) -> None:
    archive = pack(A, B)
    for reads in range(100):
        try:
            read(Failing(archive, reads))
        except OSError as error:
            assert not isinstance(error, InvalidSource)
            assert error.errno == 5
        else:
            assert reads > 8
            return
    raise AssertionError("it never ends")


def test_a_zip_that_is_said_to_be_one(read: Callable[..., Any]) -> None:
    assert read(pack(A), format=Format.ZIP)[1] == {"a": A[1]}
    with pytest.raises(InvalidSource, match="the source is not an archive of a known format, and not zip"):
        read(b"x" + pack(A), format=Format.ZIP)
