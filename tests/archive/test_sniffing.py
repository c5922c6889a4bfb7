"""The format of an archive does not depend on what its header's times and sums happen to be."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.archive.formats import Format, sniff
from casstore.archive.tar import has_checksum

MTIMES = st.integers(0, 2**32 - 1)


def tar_of(name: str, data: bytes, form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


# Zeros compress to bytes that repeat, some of them zeros: in the place of a tar's check sum, too.
ZEROS = gzip.compress(tar_of("zeros.bin", bytes(1 << 20)), mtime=0)


def compressed_at(mtime: int) -> bytes:
    return ZEROS[:4] + struct.pack("<L", mtime) + ZEROS[8:]


def v7(block: bytes) -> bytes:
    """The header as the first tar wrote it: no magic, no names."""
    bare = bytearray(block[:257] + bytes(255))
    bare[148:156] = b" " * 8
    bare[148:156] = b"%06o\0 " % sum(bare)
    return bytes(bare)


def test_a_gzip_is_told_at_every_time() -> None:
    """The check sum is one of some hundred values, so these times hold several at which it fits."""
    assert {sniff(compressed_at(mtime)[:512]) for mtime in range(0, 65_536, 7)} == {Format.GZ}


@given(mtime=MTIMES, name=st.binary(max_size=40).filter(lambda name: b"\0" not in name), rest=st.binary(max_size=600))
def test_what_begins_like_a_gzip_is_one(mtime, name, rest) -> None:
    head = b"\x1f\x8b\x08\x08" + struct.pack("<L", mtime) + b"\x00\x03" + name + b"\0" + rest + bytes(512)
    assert sniff(head[:512]) is Format.GZ


@pytest.mark.parametrize("name", ["casmodel/a", "BZh9", "PK\x03\x04", "x"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_is_one_whatever_its_first_name_begins_with(name, form) -> None:
    assert sniff(tar_of(name, b"1", form)[:512]) is Format.TAR


def test_a_tar_without_a_magic_is_told_by_its_sum() -> None:
    block = v7(tar_of("x", b"1")[:512])
    assert sniff(block) is Format.TAR
    high = bytearray(v7(tar_of("\xe9\xe8", b"1")[:512]))
    assert sniff(bytes(high)) is Format.TAR
    high[148:156] = b" " * 8
    high[148:156] = b"%6o\0 " % (sum(high) - 256 * sum(byte > 127 for byte in high))  # as some summed, with signs
    assert sniff(bytes(high)) is Format.TAR


@pytest.mark.parametrize("field", [bytes(8), b" " * 8, b"\0" * 7 + b"0", b"0\0garbag"])
def test_a_check_sum_has_digits_and_nothing_else(field) -> None:
    """With -256 in signed bytes the sum of a block of blanks and bytes of -1 is 0."""
    block = bytearray(512)
    block[:256] = b"\xff" * 256
    block[148:156] = field
    assert not has_checksum(bytes(block))
