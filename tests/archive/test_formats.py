from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
import zstandard

from casstore.archive.formats import Format, guess, sniff
from casstore.errors import InvalidSource


@pytest.mark.parametrize("form", Format)
def test_every_format_is_parsed_by_its_own_name(form: Format) -> None:
    assert Format.parse(form.value) is form
    assert Format.parse(f" .{form.value.upper()} ") is form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("tar.gz", Format.GZ),
        ("tgz", Format.GZ),
        ("tar.xz", Format.XZ),
        ("tar.bz2", Format.BZ2),
        ("tbz2", Format.BZ2),
        ("tar.zst", Format.ZST),
        ("zstd", Format.ZST),
        (".zip", Format.ZIP),
    ],
)
def test_extensions_are_parsed(text: str, form: Format) -> None:
    assert Format.parse(text) is form


@pytest.mark.parametrize("text", ["", "rar", "tar.zip", "tar.tar", "tar.", "7z", "tar.bentomodel", "folder/"])
def test_other_names_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidSource, match="known are bentomodel, tar, gz, xz, bz2, zst, zip, folder, casmodel"):
        Format.parse(text)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("a/bert.bentomodel", Format.BENTOMODEL),
        ("bert.tar", Format.TAR),
        ("bert.tar.gz", Format.GZ),
        ("bert.TGZ", Format.GZ),
        ("bert.xz", Format.XZ),
        ("s3://bucket/a.b/bert.bz2", Format.BZ2),
        ("bert.tar.zst", Format.ZST),
        ("bert.zip", Format.ZIP),
        ("bert.casmodel", Format.CASMODEL),
        ("bert", Format.BENTOMODEL),
        ("bert-1.0", Format.BENTOMODEL),
        ("zip", Format.BENTOMODEL),
        ("models.zip/bert", Format.BENTOMODEL),
        ("bert.folder", Format.BENTOMODEL),
        ("", Format.BENTOMODEL),
    ],
)
def test_formats_are_guessed_by_the_extension(path: str, form: Format) -> None:
    assert guess(path) is form


def test_the_default_of_a_guess_is_the_callers() -> None:
    assert guess("bert", Format.ZIP) is Format.ZIP
    assert guess("bert.tar", Format.ZIP) is Format.TAR


def made_by_tarfile(name: str, form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def made_by_zipfile() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (made_by_tarfile("a", tarfile.USTAR_FORMAT), Format.TAR),
        (made_by_tarfile("\u00e4" * 90, tarfile.PAX_FORMAT), Format.TAR),
        (made_by_tarfile("\u00e4" * 90, tarfile.GNU_FORMAT), Format.TAR),
        (made_by_tarfile("PK\x03\x04", tarfile.USTAR_FORMAT), Format.TAR),
        (made_by_tarfile("BZh9", tarfile.USTAR_FORMAT), Format.TAR),
        (lzma.compress(b""), Format.XZ),
        (gzip.compress(b"", mtime=0), Format.GZ),
        (bz2.compress(b""), Format.BZ2),
        (zstandard.compress(b""), Format.ZST),
        (b"\x53\x2a\x4d\x18\x00\x00\x00\x00", Format.ZST),
        (made_by_zipfile(), Format.ZIP),
        (b"casmodel\x01", Format.CASMODEL),
        (b"", None),
        (b"PK", None),
        (bytes(512), None),
        (b"a model".ljust(512), None),
        (made_by_tarfile("a", tarfile.USTAR_FORMAT)[:511], None),
    ],
)
def test_formats_are_known_by_how_they_begin(data: bytes, form: Format | None) -> None:
    assert sniff(data[:512]) is form


def test_a_checksum_of_signed_bytes_is_one() -> None:
    """Some old programs summed up `char`, which has a sign on most machines."""
    block = bytearray(made_by_tarfile("\u00e4", tarfile.USTAR_FORMAT)[:512])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert sniff(bytes(block)) is Format.TAR
