"""Compressed streams as other programs make them, and as they come when something went wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from casstore.archive import limits
from casstore.errors import UnsafeArchive
from tests.kit import Pipe

NOISE = bytes(byte for seed in range(40) for byte in zlib.compress(bytes([seed, seed ^ 91, 17]) * 700))


def plain() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("f")
        info.size = len(NOISE)
        archive.addfile(info, io.BytesIO(NOISE))
    return buffer.getvalue()


def compress_zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zstd": compress_zst,
}
each = pytest.mark.parametrize("name", COMPRESS)


@each
def test_streams_may_be_joined_and_padded(read: Callable[..., Any], name: str) -> None:
    tar = plain()
    parts = [COMPRESS[name](tar[start : start + 1000]) for start in range(0, len(tar), 1000)]
    for archive in (
        b"".join(parts),
        (bytes(4) * 3).join(parts),
        b"".join(parts) + bytes(200_000),
        b"".join(part + COMPRESS[name](b"") for part in parts),
    ):
        assert read(archive)[1] == {"f": NOISE}
        assert read(Pipe(archive, 7))[1] == {"f": NOISE}


def test_frames_that_zstd_skips(read: Callable[..., Any]) -> None:
    """pzstd writes one before each of its frames."""
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    tar = plain()
    archive = skipped + compress_zst(tar[:5000]) + skipped + compress_zst(tar[5000:]) + skipped
    assert read(archive)[1] == {"f": NOISE}


@each
def test_every_truncation_is_found(read: Callable[..., Any], name: str) -> None:
    archive = COMPRESS[name](plain())
    for size in [*range(20, len(archive), 61), *range(len(archive) - 20, len(archive))]:
        with pytest.raises(UnsafeArchive, match=r"the archive is cut short|the archive's xz stream is damaged"):
            read(archive[:size])


@each
def test_every_flipped_bit_is_found(read: Callable[..., Any], name: str) -> None:
    """Or has changed nothing: a header has fields that no one reads, such as gzip's time."""
    archive = bytearray(COMPRESS[name](plain()))
    for position in [*range(12), *range(12, len(archive) - 40, 17), *range(len(archive) - 40, len(archive))]:
        archive[position] ^= 16
        try:
            unpacked = read(bytes(archive))[1]
        except ValueError:
            pass
        else:
            assert unpacked == {"f": NOISE}, position
        archive[position] ^= 16


@each
@pytest.mark.parametrize("rubbish", [b"x", b"x" * 100_000, bytes(100) + b"rubbish", lzma.compress(b"")[:6] + b"x"])
def test_rubbish_at_the_end_is_refused(read: Callable[..., Any], name: str, rubbish: bytes) -> None:
    with pytest.raises(UnsafeArchive, match=f"bytes that are not {name} follow the end|cut short|damaged"):
        read(COMPRESS[name](plain()) + rubbish)


@each
def test_the_message_about_rubbish(read: Callable[..., Any], name: str) -> None:
    with pytest.raises(UnsafeArchive, match=f"bytes that are not {name} follow the end of the archive's {name} stream"):
        read(COMPRESS[name](plain()) + b"rubbish")


@each
def test_what_is_compressed_must_be_tar(read: Callable[..., Any], name: str) -> None:
    with pytest.raises(UnsafeArchive, match="the header at byte 0 of the archive is damaged"):
        read(COMPRESS[name](b"no tar".ljust(512)))
    with pytest.raises(UnsafeArchive, match="the archive is cut short: it ends at byte 0"):
        read(COMPRESS[name](b""))


def test_decoders_that_would_take_too_much_memory(read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # An encoder would allocate as much, so the size is changed in the header instead: a byte, and a check sum.
    archive = bytearray(lzma.compress(plain(), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    header_size = (archive[12] + 1) * 4
    archive[16] = 32  # 256 MiB (the .xz file format, 5.3.1)
    archive[12 + header_size - 4 : 12 + header_size] = zlib.crc32(archive[12 : 12 + header_size - 4]).to_bytes(
        4, "little"
    )
    with pytest.raises(UnsafeArchive, match="xz stream needs more than 128 MiB of memory to decompress; compress"):
        read(bytes(archive))
    # Magic, no sizes; a window of 256 MiB (RFC 8878, 3.1.1.1.2); a last raw block of nothing.
    window = b"\x28\xb5\x2f\xfd\x00" + bytes([18 << 3]) + b"\x01\x00\x00"
    with pytest.raises(UnsafeArchive, match="zstd stream needs more than 128 MiB of memory to decompress; compress"):
        read(window)
    allowed = b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + b"\x01\x00\x00"
    with pytest.raises(UnsafeArchive, match="it ends at byte 0"):
        read(allowed)
    monkeypatch.setattr(limits, "MAX_DECODER_BYTES", 1 << 20)
    with pytest.raises(UnsafeArchive, match="xz stream needs more than 1 MiB"):
        read(lzma.compress(plain()))


def test_pieces_that_end_where_output_ends(read: Callable[..., Any]) -> None:
    """Exactly as much as fits in a piece, with nothing left to read: zlib keeps some back."""
    for size in range((1 << 20) - 1024 - 3, (1 << 20) - 1024 + 4):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("f")
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
        for compress in COMPRESS.values():
            assert read(compress(buffer.getvalue()))[1] == {"f": bytes(size)}
