from __future__ import annotations

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casstore.digest import DIGEST_BYTES, Digest

# The test vectors of the BLAKE3 reference implementation (test_vectors.json), lengths 0 and 1.
OF_NOTHING = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
OF_ZERO = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_it_is_plain_blake3() -> None:
    assert str(Digest.of(b"")) == OF_NOTHING
    assert str(Digest.of(b"\0")) == OF_ZERO


@given(st.binary())
def test_round_trips(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest == blake3(data).digest()
    assert Digest.of(bytearray(data)) == Digest.of(memoryview(data)) == digest
    assert Digest.parse(str(digest)) == digest
    assert Digest.from_bytes(bytes(digest)) == digest
    assert type(Digest.parse(str(digest))) is type(Digest.from_bytes(digest)) is Digest
    assert repr(digest) == f"Digest('{digest}')"


def test_it_is_bytes_to_those_who_store_it() -> None:
    digest = Digest.of(b"x")
    assert msgpack.unpackb(msgpack.packb(digest)) == digest
    assert {bytes(digest): 1}[digest] == 1


@pytest.mark.parametrize(
    "text",
    ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", " " + "0" * 63, "\u0660" * 64, "0x" + "0" * 62],
)
def test_text_that_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        Digest.parse(text)


@pytest.mark.parametrize("length", [0, DIGEST_BYTES - 1, DIGEST_BYTES + 1, 64])
def test_bytes_that_are_no_digest(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        Digest.from_bytes(bytes(length))
