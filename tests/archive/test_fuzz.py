"""Whatever the bytes are: they unpack inside the directory, or are refused. `read` checks what stands around it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.errors import InvalidSource
from tests.kit import Pipe


def tar(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind, content, target in (
            ("./", tarfile.DIRTYPE, b"", ""),
            ("./model.yaml", tarfile.REGTYPE, b"name: x", ""),
            ("./d/", tarfile.DIRTYPE, b"", ""),
            ("./d/f", tarfile.REGTYPE, b"content" * 100, ""),
            ("./" + "long/" * 25 + "f", tarfile.REGTYPE, b"1", ""),
            ("./h", tarfile.LNKTYPE, b"", "./d/f"),
            ("./l", tarfile.SYMTYPE, b"", "d/../d"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), target
            archive.addfile(info, io.BytesIO(content))
    data = buffer.getvalue().rstrip(b"\0")
    return data + bytes(-len(data) % 512 + 1024)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.yaml", b"name: x")
        archive.writestr("d/", b"")
        archive.writestr("d/f", b"content" * 100)
        archive.writestr(zipfile.ZipInfo("s"), b"stored")
        link = zipfile.ZipInfo("l")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"d/f")
    return buffer.getvalue()


SEEDS = {
    "ustar": tar(tarfile.USTAR_FORMAT),
    "gnu": tar(tarfile.GNU_FORMAT),
    "pax": tar(tarfile.PAX_FORMAT),
    "zip": zipped(),
    "xz": lzma.compress(tar(tarfile.PAX_FORMAT)),
    "gz": gzip.compress(tar(tarfile.PAX_FORMAT)),
    "bz2": bz2.compress(tar(tarfile.PAX_FORMAT)),
    "zst": zstandard.compress(tar(tarfile.PAX_FORMAT)),
}
TELLING = [
    b"../",
    b"/",
    b"\0",
    b"\\",
    b"..",
    b"C:",
    b"\xff",
    b"7777",
    b"PK\5\6",
    b"PK\1\2",
    b"1",
    b"2",
    b"x",
    b"L",
    b"S",
]
EDITS = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.sampled_from(["set", "insert", "delete", "double", "swap"]),
        st.sampled_from(TELLING) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def edit(data: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    for place, how, value in edits:
        at = place % (len(data) + 1)
        end = at + len(value)
        block = at // 512 * 512
        if how == "set":
            data = data[:at] + value + data[end:]
        elif how == "insert":
            data = data[:at] + value + data[at:]
        elif how == "delete":
            data = data[:at] + data[end:]
        elif how == "double":
            data = data[: block + 512] + data[block:]
        else:
            data = data[:block] + data[block + 512 : block + 1024] + data[block : block + 512] + data[block + 1024 :]
    return data


def seal(data: bytes) -> bytes:
    """Make the check sum of every block that has one right again, so that changes get past it."""
    sealed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            sealed[start + 148 : start + 156] = b" " * 8
            sealed[start + 148 : start + 156] = b"%06o\0 " % sum(sealed[start : start + 512])
    return bytes(sealed)


@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=60)
@given(edits=EDITS, is_sealed=st.booleans())
def test_changed_archives(read: Callable[..., Any], seed: str, edits: Any, is_sealed: bool) -> None:
    archive = edit(SEEDS[seed], edits)
    if is_sealed:
        archive = seal(archive)
    try:
        whole = read(archive)
    except InvalidSource as error:
        assert str(error)
        with pytest.raises(InvalidSource):
            read(Pipe(archive, 100), spool=tempfile.TemporaryFile)
    else:
        assert read(Pipe(archive, 100), spool=tempfile.TemporaryFile) == whole


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress, zstandard.compress])
@settings(max_examples=40)
@given(edits=EDITS)
def test_changed_archives_in_sound_streams(read: Callable[..., Any], compress: Any, edits: Any) -> None:
    archive = compress(seal(edit(SEEDS["gnu"], edits)))
    try:
        read(archive)
    except InvalidSource as error:
        assert str(error)


@settings(max_examples=60)
@given(
    magic=st.sampled_from([b"", b"PK\3\4", b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd"]),
    data=st.binary(),
)
def test_any_bytes(read: Callable[..., Any], magic: bytes, data: bytes) -> None:
    with pytest.raises(InvalidSource):
        read(magic + data)


def test_the_seeds_are_sound(read: Callable[..., Any]) -> None:
    """Else the tests above would change what is refused anyway."""
    for name, archive in SEEDS.items():
        unpacked, tree = read(archive)
        assert unpacked.descriptor == b"name: x", name
        assert tree["d/f"] == b"content" * 100
        assert len(tree) >= 3
        assert seal(archive) == archive or name not in ("ustar", "gnu", "pax")
