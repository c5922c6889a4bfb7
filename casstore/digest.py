"""BLAKE3-256 digests as a value type."""

from __future__ import annotations

import re

from blake3 import blake3

HASH_NAME = "blake3-256"
DIGEST_BYTES = 32
_HEX = re.compile(r"[0-9a-f]{64}")


class Digest(bytes):
    """A 32-byte BLAKE3 digest. It is `bytes`, so SQLite, msgpack and dict keys take it as it is."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """The digest of `data`; the same 32 bytes that `b3sum` prints in hexadecimal."""
        return cls(blake3(data).digest())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Digest:
        """Take 32 bytes as a digest. Raises ValueError for any other length."""
        if len(raw) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(raw)}")
        return cls(raw)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read 64 lower-case hexadecimal digits. Raises ValueError for anything else."""
        if _HEX.fullmatch(text) is None:
            raise ValueError(f"not a digest (64 hexadecimal digits): {text!r}")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.hex()!r})"
