"""The encodings that there are: apart from what encodes, for those who only count them."""

from __future__ import annotations

from enum import IntEnum


class Encoding(IntEnum):
    """How a chunk's bytes stand in a pack. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3
