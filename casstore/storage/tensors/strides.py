"""Where the elements of a tensor stand in its storage, and in which order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The elements of a tensor in the order in which they are stored, none of them twice.

    `dimensions` are (size, stride) from the outermost in storage to the innermost, and `order` says which of the
    tensor's own each one is; those of one element, and those that repeat others (stride 0), are left out. `span` is
    the elements of the storage from the tensor's first to its last, both included.
    """

    dimensions: tuple[tuple[int, int], ...]
    order: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many elements of the storage are the tensor's."""
        return prod(size for size, _ in self.dimensions)

    @property
    def span(self) -> int:
        return 1 + sum((size - 1) * stride for size, stride in self.dimensions)

    @property
    def is_dense(self) -> bool:
        """Whether all elements of the span are the tensor's."""
        return self.span == self.count

    @property
    def is_in_order(self) -> bool:
        """Whether the elements are stored as a list of lists would name them, the last dimension running fastest."""
        return list(self.order) == sorted(self.order)

    def chosen(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Which elements of the span, from `start` to `stop`, are the tensor's."""
        import numpy as np  # takes a tenth of a second that who only asks where tensors stand does not need

        left = np.arange(start, stop)
        is_chosen = np.ones(stop - start, np.bool_)
        for size, stride in self.dimensions:
            number = left // stride
            is_chosen &= number < size
            left -= number * stride
        is_chosen &= left == 0
        return is_chosen


@functools.lru_cache(4096)  # layers of a model repeat each other's shapes
def arrangement(shape: tuple[int, ...], strides: tuple[int, ...]) -> Arrangement | None:
    """How a tensor of one element or more is stored; None where its dimensions overlap, as only made-up ones do."""
    placed = [
        (stride, size, number)
        for number, (size, stride) in enumerate(zip(shape, strides, strict=True))
        if size > 1 and stride
    ]
    placed.sort(key=lambda each: (-each[0], each[2]))
    reach = 0
    for stride, size, _ in reversed(placed):
        if stride <= reach:
            return None
        reach += (size - 1) * stride
    return Arrangement(tuple((size, stride) for stride, size, _ in placed), tuple(number for *_, number in placed))


def in_order(values: npt.NDArray[Any], shape: Sequence[int], strides: Sequence[int]) -> npt.NDArray[Any]:
    """The elements of a tensor as a list of lists would name them, of those of its span."""
    import numpy as np

    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False).reshape(-1)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor that is stored in order and without gaps."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()
