"""The formats of archives: their names, their files' extensions, and how they begin."""

from __future__ import annotations

from enum import Enum

from casstore.archive.tar import BLOCK_BYTES, has_checksum, is_ustar
from casstore.errors import InvalidSource


class Format(str, Enum):
    """How a version leaves and enters. BENTOMODEL and XZ are the same bytes under two names."""

    BENTOMODEL = "bentomodel"
    TAR = "tar"
    GZ = "gz"
    XZ = "xz"
    BZ2 = "bz2"
    ZST = "zst"
    ZIP = "zip"
    FOLDER = "folder"
    CASMODEL = "casmodel"

    @classmethod
    def parse(cls, text: str) -> Format:
        """A format by its name or by a file's extension, such as "tar.gz". Raises InvalidSource if there is none."""
        found = _find(text.strip().lower().removeprefix("."))
        if found is None:
            known = ", ".join(each.value for each in cls)
            raise InvalidSource(f"{text!r} is not an archive format; known are {known}")
        return found


_ALIASES = {
    "tgz": Format.GZ,
    "gzip": Format.GZ,
    "txz": Format.XZ,
    "tbz": Format.BZ2,
    "tbz2": Format.BZ2,
    "bzip2": Format.BZ2,
    "tzst": Format.ZST,
    "zstd": Format.ZST,
    "dir": Format.FOLDER,
    "directory": Format.FOLDER,
}
_COMPRESSED_TARS = {Format.GZ, Format.XZ, Format.BZ2, Format.ZST}
_NOT_BY_EXTENSION = {Format.FOLDER}


def _find(text: str) -> Format | None:
    inner = text.removeprefix("tar.")
    found = _ALIASES.get(inner)
    if found is None and inner in {each.value for each in Format}:
        found = Format(inner)
    if inner != text and found not in _COMPRESSED_TARS:
        return None
    return found


def guess(path: str, default: Format = Format.BENTOMODEL) -> Format:
    """The format by a file name's extension, as BentoML guesses it: `default` where that says nothing."""
    _, dot, extension = path.replace("\\", "/").rpartition("/")[2].rpartition(".")
    found = _find(extension.lower()) if dot else None
    return default if found is None or found in _NOT_BY_EXTENSION else found


def sniff(head: bytes) -> Format | None:
    """The format by the first 512 bytes of a file; None where they are of no format known here."""
    block = head[:BLOCK_BYTES]
    # First what no other can be, since a tar begins with a member's name; last a sum, which can be right by chance.
    if is_ustar(block):
        return Format.TAR
    # A frame that zstd skips may come first: pzstd writes sizes into it.
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return Format.ZST
    found = next((found for magic, found in _MAGICS if head.startswith(magic)), None)
    return Format.TAR if found is None and has_checksum(block) else found


_MAGICS = (
    (b"\xfd7zXZ\0", Format.XZ),
    (b"\x1f\x8b", Format.GZ),
    (b"BZh", Format.BZ2),
    (b"\x28\xb5\x2f\xfd", Format.ZST),
    (b"PK\x03\x04", Format.ZIP),
    (b"PK\x05\x06", Format.ZIP),
    (b"PK\x07\x08", Format.ZIP),
    (b"casmodel", Format.CASMODEL),
)
