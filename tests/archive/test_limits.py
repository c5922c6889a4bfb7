"""Archives that expand: bounded on disk and in memory, whatever they say."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from casstore.archive import limits
from casstore.archive.limits import Budget
from casstore.archive.unpacking import unpack
from casstore.errors import UnsafeArchive
from tests.kit import script

pytestmark = pytest.mark.crash

MIB = 1 << 20


def tar_of_zeros(size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def zip_of_zeros(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(size))
    return buffer.getvalue()


BOMBS: dict[str, Callable[[int], bytes]] = {
    "xz": lambda size: lzma.compress(tar_of_zeros(size), preset=0),
    "gz": lambda size: gzip.compress(tar_of_zeros(size)),
    "bz2": lambda size: bz2.compress(tar_of_zeros(size)),
    "zst": lambda size: zstandard.compress(tar_of_zeros(size)),
    "zip": zip_of_zeros,
}


@pytest.mark.parametrize("form", BOMBS)
def test_a_bomb_stops_early_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 4 * MIB)
    archive = BOMBS[form](48 * MIB)
    assert len(archive) < MIB // 16
    with pytest.raises(UnsafeArchive, match=r"expands to [\d,]+ bytes from [\d,]+, more than 100 times .* \(trust\)"):
        unpack(io.BytesIO(archive), tmp_path)
    # A piece of zstd's may be too much by itself, before anything of it is written.
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * MIB + 100 * len(archive)


def test_trust_lifts_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", MIB)
    for form, bomb in BOMBS.items():
        place = tmp_path / form
        place.mkdir()
        assert unpack(io.BytesIO(bomb(20 * MIB)), place, budget=Budget(trust=True)).size == 20 * MIB


def test_what_is_not_compressed_never_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    assert unpack(io.BytesIO(tar_of_zeros(5 * MIB)), tmp_path).size == 5 * MIB


def test_zeros_after_the_end_count(read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", MIB)
    with pytest.raises(UnsafeArchive, match="more than 100 times its size"):
        read(lzma.compress(tar_of_zeros(0) + bytes(20 * MIB)))


def test_members_are_counted_with_their_directories(read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MEMBERS", 100)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(3):
            archive.addfile(tarfile.TarInfo(f"{number}/" * 40 + "f"))
    with pytest.raises(UnsafeArchive, match="the archive has more than 100 members; split it"):
        read(buffer.getvalue())


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_the_descriptor_is_bounded(read: Callable[..., Any], pack: str) -> None:
    size = (16 << 20) + 1
    buffer = io.BytesIO()
    if pack == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("./model.yaml")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    else:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.yaml", bytes(size))
    with pytest.raises(UnsafeArchive, match=r"'model\.yaml' has more than 16,777,216 bytes"):
        read(buffer.getvalue())


# The kernel's own figure of this program: ru_maxrss begins with that of the process that started it.
MEASURE = """
import re, sys
from pathlib import Path
from casstore.archive import limits
from casstore.archive.unpacking import unpack
from casstore.errors import UnsafeArchive

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10

limits.FREE_BYTES = int(sys.argv[3])
before = peak_mib()
try:
    with open(sys.argv[1], "rb") as source:
        unpack(source, Path(sys.argv[2]))
except UnsafeArchive as error:
    print(error)
print(peak_mib() - before)
"""


def members(count: int) -> bytes:
    """Directories with short names, in one another's headers' image: only the name and the check sum differ."""
    info = tarfile.TarInfo("0" * 7)
    info.type = tarfile.DIRTYPE
    first = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    total = sum(first[:148]) + 8 * 32 + sum(first[156:])
    blocks = []
    for number in range(count):
        name = b"%07d" % number
        first[:7] = name
        first[148:155] = b"%06o\0" % (total + sum(name) - 7 * 48)
        blocks.append(bytes(first))
    return b"".join(blocks) + bytes(1024)


def sparse_bomb(kind: str) -> tuple[bytes, str]:
    if kind == "header":
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, (1 << 33) - 1
        return info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048), "take more than 1,048,576 bytes"
    if kind == "zst":
        # One frame with a window of 128 MiB, of blocks that repeat a byte 128 KiB times (RFC 8878, 3.1.1.2).
        block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
        return b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + block * 20_000, "more than 100 times its size"
    if kind == "members":
        return members(2_000), ""
    return BOMBS[kind](64 * MIB), "more than 100 times its size"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
# MiB above what the interpreter and the imports take; the decoder's window is 128 of zstd's.
@pytest.mark.parametrize(
    ("kind", "most_mib"),
    [("xz", 20), ("gz", 15), ("bz2", 20), ("zst", 170), ("zip", 15), ("header", 5), ("members", 3)],
)
def test_memory_is_bounded(tmp_path: Path, kind: str, most_mib: int) -> None:
    archive, message = sparse_bomb(kind)
    (tmp_path / "bomb").write_bytes(archive)
    (tmp_path / "place").mkdir()
    done: subprocess.CompletedProcess[str] = script(MEASURE, tmp_path / "bomb", tmp_path / "place", 40 * MIB)
    assert done.returncode == 0, done.stderr
    *printed, used = done.stdout.splitlines()
    assert message in "".join(printed)
    assert int(used) <= most_mib
