"""What the arithmetic of encodings is: kernels, of which there are compiled ones and those in numpy.

Both give identical bytes, and neither knows the format: what a record must look like is checked in `delta`, `codec` and
`entropy`, for both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from casstore.late_classes import dataclass
from casstore.storage.tensors.segments import Element

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes."""

DENSE_ABOVE = 0.75
"""Groups from the first one on with more differences than this are written without a bit map: larger exponents, which
come later, differ less often."""


@dataclass(frozen=True, slots=True)
class Differences:
    """How a chunk differs from its base, in the grouped order: what a delta's streams hold.

    Attributes
    ----------
    dense
        How many groups, from the first one on, have no bit map.
    nonzero
        Of each group, how many elements differ.
    bit_map
        Of the other groups' elements, which differ.
    planes
        The differences, folded, as byte planes: all of the dense groups, and those in the bit map.
    """

    dense: int
    nonzero: list[int]
    bit_map: Buffer
    planes: list[Buffer]


class Sum(Protocol):
    """Differences that add up, in the grouped order."""

    def add(self, sparse_from: int, bit_map: Buffer | None, planes: Sequence[Buffer | None], values: int) -> None:
        """Add one link's folded `values`, in planes; None for planes of zeros.

        Those of the first `sparse_from` elements come first, then those whose bits are set; None for no bit. Raises
        IntegrityError where the numbers do not fit.
        """

    def put_back(self, base: Buffer, tail: Buffer) -> bytes:
        """A chunk: each element of `base` and its difference, in their places, and then the tail. Ends this sum."""


class Order(Protocol):
    """The order in which a delta's elements stand: by group, and within a group by place."""

    @property
    def sizes(self) -> list[int]:
        """How many elements each group has."""

    def differences(self, raw: Buffer, base: Buffer) -> Differences:
        """How `raw` differs from `base`, both of the length of what was ordered."""

    def sum(self) -> Sum:
        """A sum of nothing yet."""


class Kernels(Protocol):
    """Pure functions over buffers, for all threads. Elements are unsigned and little-endian."""

    @property
    def name(self) -> str:
        """What `casstore --version` calls them: `compiled` or `numpy`."""

    def key_counts(self, raw: Buffer, element: Element, every: int) -> list[int]:
        """How often each key, an element's exponent, is among those of the elements 0, `every`, 2 * `every`, ..."""

    def order(self, raw: Buffer, element: Element, last_keys: Sequence[int]) -> Order:
        """The order by groups, which end with these keys; the last of them is the largest key that there is."""

    def count_set(self, bit_map: Buffer, size: int) -> int:
        """How many of the first `size` bits are set."""

    def split(self, raw: Buffer, width: int) -> list[Buffer]:
        """The planes of all whole elements."""

    def join(self, planes: Sequence[Buffer | None], count: int, tail: Buffer) -> bytes:
        """A chunk from its planes of `count` bytes each; None for planes of zeros."""

    def is_zeros(self, plane: Buffer) -> bool:
        """Whether all bytes are 0."""

    def byte_counts(self, plane: Buffer, every: int) -> list[int]:
        """How often each of the 256 bytes is among those at 0, `every`, 2 * `every`, ..."""
