"""Which paths are taken, of up to a million, in 12 to 24 bytes each: a dict of them would take 150."""

from __future__ import annotations

from array import array
from hashlib import blake2b

from casstore.archive.names import fold

_FIRST_SLOTS = 1 << 10


class PathSet:
    """Keeps digests only: of a path as file systems that know no case see it, and half of one of the path itself.

    Two paths of a million have the same digest by chance in one of 37 million archives; it would be refused.
    """

    def __init__(self) -> None:
        self._count = 0
        self._folded = array("Q", bytes(8 * _FIRST_SLOTS))
        self._exact = array("I", bytes(4 * _FIRST_SLOTS))

    def find(self, path: str) -> str | None:
        """What is taken already: this "same" path, an "alike" one, which many file systems take for it, or None."""
        folded, exact = _digests(path)
        slot = self._slot(folded)
        if not self._folded[slot]:
            return None
        return "same" if self._exact[slot] == exact else "alike"

    def add(self, path: str) -> None:
        """Take a path of which nothing is taken yet."""
        if 2 * self._count >= len(self._folded):
            self._grow()
        self._put(*_digests(path))
        self._count += 1

    def _slot(self, folded: int) -> int:
        """Where it is, or where it goes: linear probing, half of the slots are free."""
        mask = len(self._folded) - 1
        slot = folded & mask
        while self._folded[slot] not in (0, folded):
            slot = (slot + 1) & mask
        return slot

    def _put(self, folded: int, exact: int) -> None:
        slot = self._slot(folded)
        self._folded[slot] = folded
        self._exact[slot] = exact

    def _grow(self) -> None:
        folded, exact = self._folded, self._exact
        self._folded = array("Q", bytes(16 * len(folded)))
        self._exact = array("I", bytes(8 * len(folded)))
        for slot, digest in enumerate(folded):
            if digest:
                self._put(digest, exact[slot])


def _digests(path: str) -> tuple[int, int]:
    mine = _digest(path)
    folded = fold(path)
    # Zero marks a free slot.
    return (mine if folded == path else _digest(folded)) or 1, mine & 0xFFFFFFFF


def _digest(path: str) -> int:
    return int.from_bytes(blake2b(path.encode("utf-8"), digest_size=8).digest(), "big")
