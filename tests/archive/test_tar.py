"""The reader of tar agrees with the standard library's on what that writes, and with the document of each format."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.archive.decompression import Stream
from casstore.archive.tar import TarReader
from casstore.errors import UnsafeArchive

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KINDS = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}

PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cc"]), min_size=1)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join) | st.integers(90, 400).map(lambda size: "n" * size)
MEMBERS = st.builds(
    lambda name, kind, content, mode, target, mtime: (name, kind, content, mode, target, mtime),
    PATHS.filter(lambda name: not name.endswith("/")),
    st.sampled_from(sorted(KINDS)),
    st.binary(max_size=1500),
    st.sampled_from([0o644, 0o755, 0o400, 0o4711, 0]),
    PATHS,
    st.floats(0, 2e9) | st.integers(0, 1 << 32),
)


def pieces(data: bytes, step: int) -> Any:
    return (data[start : start + step] for start in range(0, len(data), step))


def members(data: bytes, step: int = 1000) -> list[tuple[Any, ...]]:
    reader = TarReader(Stream(pieces(data, step)))
    return [
        (member.name, member.kind, b"".join(reader.body()), member.is_executable, member.target) for member in reader
    ]


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60)
@given(written=st.lists(MEMBERS, max_size=5), step=st.integers(1, 5000))
def test_it_agrees_with_tarfile(form: str, written: list[Any], step: int) -> None:
    buffer = io.BytesIO()
    expected = []
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form], encoding="utf-8", errors="strict") as archive:
        for name, kind, content, mode, target, mtime in written:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = KINDS[kind], mode, mtime
            info.uname = info.gname = "Jos\u00e9"
            content = content if kind == "file" else b""
            info.size = len(content)
            info.linkname = target if "link" in kind else ""
            try:
                archive.addfile(info, io.BytesIO(content))
            except ValueError:  # ustar cannot hold that name
                continue
            # tarfile drops the slashes at the end that it writes for directories; we need them for V7.
            expected.append((name, kind, content, bool(mode & 0o100), info.linkname))
    found = members(buffer.getvalue(), step)
    assert [(name.rstrip("/") if kind == "directory" else name, kind, *rest) for name, kind, *rest in found] == [
        (name.rstrip("/") if kind == "directory" else name, kind, *rest) for name, kind, *rest in expected
    ]
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue()), encoding="utf-8") as archive:
        assert [info.name for info in archive] == [name.rstrip("/") for name, *_ in found]


def header(
    name: bytes = b"a", size: bytes = b"0" * 11, flag: bytes = b"0", magic: bytes = b"ustar\00000", **at: Any
) -> bytes:
    block = bytearray(512)
    fields = {0: name, 100: b"0000644", 124: size, 156: flag, 257: magic, **{int(k[2:]): v for k, v in at.items()}}
    for offset, value in fields.items():
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


def body(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: bytes, flag: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header(b"pax", b"%011o" % len(data), flag) + body(data)


def gnu(name: bytes, flag: bytes) -> bytes:
    return header(b"././@LongLink", b"%011o" % len(name), flag, b"ustar  \0") + body(name)


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        (header(flag=b"\0", magic=b"") + END, ("a", "file", b"", False, "")),
        (header(b"d/", flag=b"\0", magic=b"") + END, ("d/", "directory", b"", False, "")),
        (header(b"x" * 100) + END, ("x" * 100, "file", b"", False, "")),
        (header(flag=b"7") + END, ("a", "file", b"", False, "")),
        (header(flag=b"2", at157=b"y" * 100) + END, ("a", "link", b"", False, "y" * 100)),
        (header(at345=b"deep/er") + END, ("deep/er/a", "file", b"", False, "")),
        (header(at345=b"z" * 155) + END, ("z" * 155 + "/a", "file", b"", False, "")),
        (header(at345=b"12345", magic=b"ustar  \0") + END, ("a", "file", b"", False, "")),
        (header(size=b"\x80" + bytes(9) + b"\0\x02") + body(b"hi") + END, ("a", "file", b"hi", False, "")),
        (header(size=b"  2 \0") + body(b"hi") + END, ("a", "file", b"hi", False, "")),
        (header(size=b"00000000002 ") + body(b"hi") + END, ("a", "file", b"hi", False, "")),
        (header(size=b"") + END, ("a", "file", b"", False, "")),
        (header(at100=b"0000100") + END, ("a", "file", b"", True, "")),
        (gnu(b"l" * 300 + b"\0", b"L") + header() + END, ("l" * 300, "file", b"", False, "")),
        (gnu(b"k" * 300 + b"\0", b"K") + header(flag=b"2") + END, ("a", "link", b"", False, "k" * 300)),
        (
            gnu(b"k\0", b"K") + gnu(b"l\0", b"L") + header(flag=b"1") + END,
            ("l", "hard link", b"", False, "k"),
        ),
        (pax(b"9 path=p\n") + header(at345=b"not") + END, ("p", "file", b"", False, "")),
        (pax(b"9 path=p\n", b"9 path=q\n") + header() + END, ("q", "file", b"", False, "")),
        (
            pax(b"10 size=2\n", b"16 comment=hello\n"[:0]) + header() + body(b"hi") + END,
            ("a", "file", b"hi", False, ""),
        ),
        (pax(b"14 linkpath=t\n") + header(flag=b"2") + END, ("a", "link", b"", False, "t")),
        (pax(b"9 path=g\n", flag=b"g") + header() + END, ("g", "file", b"", False, "")),
        (pax(b"9 path=g\n", flag=b"g") + pax(b"9 path=x\n") + header() + END, ("x", "file", b"", False, "")),
        (pax() + header() + END, ("a", "file", b"", False, "")),
        (header() + bytes(512), ("a", "file", b"", False, "")),
        (header() + bytes(512 + 100), ("a", "file", b"", False, "")),
    ],
)
def test_headers_are_read(archive: bytes, expected: tuple[Any, ...]) -> None:
    for step in (1, 511, 5000):
        assert members(archive, step) == [expected]


def test_records_of_a_member_do_not_reach_the_next() -> None:
    archive = pax(b"9 path=p\n") + header() + gnu(b"l\0", b"L") + header() + header() + END
    assert [found[0] for found in members(archive)] == ["p", "l", "a"]


def test_bodies_that_nobody_reads_are_passed_over() -> None:
    archive = header(size=b"%011o" % 1300) + body(b"x" * 1300) + header(b"b") + END
    assert [member.name for member in TarReader(Stream(iter([archive])))] == ["a", "b"]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (header(flag=b"3") + END, "'a' in the archive is a character device"),
        (header(flag=b"4") + END, "'a' in the archive is a block device"),
        (header(flag=b"6") + END, "'a' in the archive is a named pipe"),
        (header(flag=b"S") + END, "'a' in the archive is a sparse file, .*pack it without --sparse"),
        (header(flag=b"M") + END, "'a' in the archive is the rest of a file from another volume"),
        (header(flag=b"V") + END, "'a' in the archive is a volume label"),
        (header(flag=b"D") + END, "'a' in the archive is a directory of an incremental dump"),
        (header(flag=b"Q") + END, "'a' in the archive is of an unknown type, b'Q'"),
        (header(flag=b"\xff") + END, "'a' in the archive is of an unknown type"),
        (pax(b"22 GNU.sparse.major=1\n") + header() + END, "is of a sparse file"),
        (pax(b"21 SCHILY.realsize=5\n") + header() + END, "is of a sparse file"),
        (header(b"a/") + END, "'a/' in the archive is a file with the name of a directory"),
        (header(b"\xff") + END, r"the name of b'\\xff' is not UTF-8"),
        (header(flag=b"2", at157=b"\xff") + END, "is not UTF-8"),
        (pax(b"9 path=\xff\n") + header() + END, "is not UTF-8"),
        (gnu(b"\xff\0", b"L") + header() + END, "is not UTF-8"),
        (header(size=b"0000000000x") + END, "'a' in the archive has a size that is not a number"),
        (header(size=b"-0000000001") + END, "has a size that is not a number"),
        (header(size=b"\xff" * 12) + END, "has a size that is negative"),
        (header(size=b"\x80\xff" + bytes(10)) + END, "has a size that is too large"),
        (header(at100=b"rwxr-xr") + END, "has a mode that is not a number"),
        (pax(b"11 size=-2\n") + header() + END, "a size that is not a number, or too large: '-2'"),
        (pax(b"11 size=\xd9\xa3\n") + header() + END, "a size that is not a number"),
        (pax(b"29 size=99999999999999999999\n") + header() + END, "a size that is not a number, or too large"),
        (pax(b"9 path=pp\n") + header() + END, "a pax record that is malformed"),
        (pax(b"999 path=p\n") + header() + END, "a pax record that is malformed"),
        (pax(b"path=p\n") + header() + END, "a pax record that is malformed"),
        (pax(b"0 path=p\n") + header() + END, "a pax record that is malformed"),
        (pax(b"7 path\n") + header() + END, "a pax record without a value"),
        (
            header(flag=b"5", size=b"00000000005") + body(b"12345") + END,
            "'a' in the archive is a directory with 5 bytes",
        ),
        (header(flag=b"2", size=b"00000000005") + body(b"12345") + END, "'a' in the archive is a link with 5 bytes"),
        (header(flag=b"1", size=b"00000000005") + body(b"12345") + END, "is a hard link with 5 bytes"),
        (pax(b"10 size=5\n") + header(flag=b"5") + END, "is a directory with 5 bytes"),
        (pax(b"9 path=p\n") + gnu(b"l\0", b"L") + header() + END, "gives a path a second time"),
        (gnu(b"l\0", b"L") * 2 + header() + END, "gives a path a second time"),
        (pax(b"9 path=p\n") * 2 + header() + END, "gives a path a second time"),
        (header(size=b"00000000005") + b"123", "'a': the archive is cut short, 2 bytes missing"),
        (header(size=b"00000000005") + b"12345", "it ends at byte 517, in 'a'"),
        (header()[:300], "it ends at byte 300, in the header at byte 0 of the archive"),
        (header(), "it ends at byte 512, in the header at byte 512"),
        (gnu(b"l\0", b"L"), "the archive is cut short"),
        (gnu(b"l\0", b"L")[:513], "the archive is cut short"),
        (gnu(b"l\0", b"L") + END, "'l' is announced, but the archive ends before it"),
        (header() + b"x" * 512 + END, "the header at byte 512 of the archive is damaged: its check sum is wrong"),
        (header() + bytes(512) + header(b"b") + END, "the archive goes on after its end, .*unpack each alone"),
        (header() + END + b"x", "the archive goes on after its end"),
        (header() + bytes(3 << 20) + b"x", "the archive goes on after its end"),
        (header(flag=b"x", size=b"%011o" % (1 << 20)) + bytes(1 << 20) + END, "take more than 1,048,576 bytes"),
        (
            gnu(b"l" * 400_000, b"L") + gnu(b"k" * 400_000, b"K") + pax(b"g" * 400_000, flag=b"g"),
            "take more than 1,048",
        ),
        (header(flag=b"x", size=b"77777777777") + END, "take more than 1,048,576 bytes"),
        (pax(flag=b"g") * 3000 + header() + END, "take more than 1,048,576 bytes"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(archive: bytes, message: str) -> None:
    with pytest.raises(UnsafeArchive, match=message):
        members(archive)


@pytest.mark.parametrize("position", [0, 99, 100, 124, 148, 156, 257, 300, 511])
def test_a_flipped_bit_in_a_header_is_found(position: int) -> None:
    archive = bytearray(header(at345=b"p") + END)
    archive[position] ^= 4
    with pytest.raises(UnsafeArchive):
        members(bytes(archive))


def test_bytes_after_the_end_are_no_member_of_what_is_read(read: Callable[..., Any]) -> None:
    """GNU tar and others stop at the end mark: what follows would be a member that only some see."""
    with pytest.raises(UnsafeArchive, match="goes on after its end"):
        read(header() + END + header(b"hidden") + END)
