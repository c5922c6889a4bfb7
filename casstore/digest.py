"""BLAKE3-256 digests as a value type."""

from __future__ import annotations

import re

from blake3 import blake3

HASH_NAME = "blake3-256"
DIGEST_BYTES = 32
_HEX = re.compile(r"[0-9a-f]{64}")


class Digest(bytes):
    """A 32-byte BLAKE3 digest. It is `bytes`, so SQLite, msgpack and dict keys take it as it is; as text it is
    hexadecimal.

    Examples
    --------
    >>> str(casstore.Digest.of(b"weights"))[:8]
    '3edc5c4a'
    """

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """Compute the digest of some bytes: the 32 bytes that `b3sum` prints in hexadecimal.

        Parameters
        ----------
        data
            The bytes.

        Returns
        -------
        Digest
            Their digest.
        """
        return cls(blake3(data).digest())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Digest:
        """Take 32 bytes as a digest.

        Parameters
        ----------
        raw
            The 32 bytes.

        Returns
        -------
        Digest
            The digest.

        Raises
        ------
        ValueError
            `raw` has another length.
        """
        if len(raw) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(raw)}")
        return cls(raw)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read a digest as `str` writes it.

        Parameters
        ----------
        text
            64 lower-case hexadecimal digits.

        Returns
        -------
        Digest
            The digest.

        Raises
        ------
        ValueError
            `text` is anything else.
        """
        if _HEX.fullmatch(text) is None:
            raise ValueError(f"not a digest (64 hexadecimal digits): {text!r}")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.hex()!r})"
