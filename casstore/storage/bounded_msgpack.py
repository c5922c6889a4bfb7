"""Unpacking untrusted msgpack: the items are counted, and documents with too many are refused."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar

import msgpack

_Held = TypeVar("_Held", bound=Sized)


class Unpacking:
    """Unpacks documents that together hold at most `most_items` items, lists and maps counted with what is in them.

    An empty list is one byte in msgpack and 64 in Python, so that a bound on bytes alone bounds nothing: a frame of
    two kilobytes may hold millions.
    """

    def __init__(self, most_items: int) -> None:
        self._left = most_items

    @property
    def left(self) -> int:
        """How many items there may still be."""
        return self._left

    def unpack(self, packed: bytes) -> Any:
        """The value of a document. Raises ValueError, or msgpack's own errors, which are not all ValueErrors."""
        most = max(self._left, 0)
        return msgpack.unpackb(
            packed, max_array_len=most, max_map_len=most, list_hook=self._count, object_hook=self._count
        )

    def _count(self, made: _Held) -> _Held:
        self._left -= 1 + len(made)
        if self._left < 0:
            raise ValueError("more items than there can be")
        return made
