"""How the numbers of a tensor have changed, read block by block: memory does not grow with the tensor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from casstore.actions.comparing.difference import Change, TensorChange, Values
from casstore.actions.comparing.sides import fault
from casstore.actions.comparing.tensors import Pair, Tensor
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage.recipe import Chunk
from casstore.storage.tensors.numbers import Numbers, element_bytes, has_numbers, numbers, patterns
from casstore.storage.tensors.strides import in_order

# Of numbers at a time: as float64 half a megabyte, which stays in a core's cache.
_BLOCK_ELEMENTS = 1 << 16
# Of a tensor that is held whole, since the other one is stored in another order, such as transposed.
MAX_HELD_BYTES = 64 << 20
# A NumPy array's, before 2.0.
_MAX_ARRAY_DIMENSIONS = 32

_COMPARED = {Change.CHANGED, Change.DTYPE, Change.RESHAPED, Change.UNKNOWN}


class _Unreadable(Exception):
    """The content of a file is damaged."""


def with_values(pairs: Sequence[Pair], damage: list[str], progress: Progress) -> list[TensorChange]:
    """The changes of all tensors, those whose numbers may have changed with the values that tell how."""
    changes = [pair.change for pair in pairs]
    wanted = [number for number, change in enumerate(changes) if change.change in _COMPARED]
    wanted.sort(key=lambda number: _place(pairs[number].new))
    progress.start("read", sum(_size(pairs[number].old) + _size(pairs[number].new) for number in wanted))
    try:
        for number in wanted:
            _, old, new = pairs[number]
            if old is None or new is None:
                continue
            try:
                changes[number] = _measured(changes[number], old, new, progress.advance)
            except _Unreadable as error:
                changes[number] = replace(changes[number], problem=str(error))
                if str(error) not in damage:
                    damage.append(str(error))
    finally:
        progress.finish()
    return changes


def _place(tensor: Tensor | None) -> tuple[str, int]:
    """Where a tensor stands, so that files are read from their beginning to their end."""
    return ("", 0) if tensor is None or not tensor.chunks else (tensor.info.file, tensor.chunks[0].offset)


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else sum(chunk.length for chunk in tensor.chunks)


def _measured(change: TensorChange, old: Tensor, new: Tensor, advance: Callable[[int], None]) -> TensorChange:
    before, after = old.info, new.info
    for info in (before, after):
        if info.dtype is None or info.shape is None or not has_numbers(info.dtype):
            what = "an unknown dtype" if info.dtype is None else f"dtype {info.dtype}"
            return replace(change, problem=f"the numbers of {what} cannot be told")
    if before.dtype is None or after.dtype is None or before.shape is None or after.shape is None:
        return change
    count = prod(after.shape)
    if prod(before.shape) != count:
        return replace(change, problem="it has another number of elements")
    sums = _Sums(before.dtype, after.dtype)
    with contextlib.ExitStack() as opened:
        blocks = _Reading(opened, advance).blocks(old, new)
        if blocks is None:
            return replace(change, problem="it is stored in another order, and too large to be put into the same")
        for raw_old, raw_new in blocks:
            sums.add(raw_old, raw_new)
    values = sums.values(count)
    if change.change is Change.UNKNOWN:
        return replace(change, change=Change.CHANGED if values.changed else Change.SAME, values=values)
    return replace(change, values=values)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads two tensors. What is read ahead ends with `opened`."""

    opened: contextlib.ExitStack
    advance: Callable[[int], None]

    def blocks(self, old: Tensor, new: Tensor) -> Iterator[tuple[bytes, bytes]] | None:
        """The elements of both, block by block, those that belong together side by side; None if that cannot be."""
        if not old.chunks or not new.chunks:
            return iter(())
        if _is_cut_alike(old, new):
            return self._chunk_by_chunk(old, new)
        widths = _width(old), _width(new)
        if _is_in_same_order(old, new):
            return _side_by_side(self._elements(old), self._elements(new), *widths)
        if _may_be_held(old) and _may_be_held(new):
            return _side_by_side(iter([self._held(old)]), iter([self._held(new)]), *widths)
        return None

    def _chunk_by_chunk(self, old: Tensor, new: Tensor) -> Iterator[tuple[bytes, bytes]]:
        """What is the same is read once."""
        both = list(zip(old.chunks, new.chunks, strict=True))
        pieces = self._pieces(new, [after for before, after in both if before.digest != after.digest])
        step = _BLOCK_ELEMENTS * _width(old)
        for (before, after), raw_old in zip(both, self._pieces(old, old.chunks), strict=True):
            raw_new = raw_old
            if before.digest == after.digest:
                self.advance(after.length)
            else:
                raw_new = next(pieces)
            for start in range(0, len(raw_old), step):
                piece = raw_old[start : start + step]
                yield piece, piece if raw_new is raw_old else raw_new[start : start + step]

    def _elements(self, tensor: Tensor) -> Iterator[bytes]:
        """The bytes of a tensor's elements in the order in which they are stored, without what stands between them."""
        if tensor.arranged is None:
            return
        width, span = _width(tensor), tensor.arranged.span
        stream = _Stream(self._pieces(tensor, tensor.chunks))
        stream.take(tensor.skip)
        for start in range(0, span, _BLOCK_ELEMENTS):
            stop = min(span, start + _BLOCK_ELEMENTS)
            raw = stream.take((stop - start) * width)
            if not tensor.arranged.is_dense:
                raw = np.frombuffer(raw, f"V{width}")[tensor.arranged.chosen(start, stop)].tobytes()
            if raw:
                yield raw

    def _held(self, tensor: Tensor) -> bytes:
        """All elements of a tensor, as a list of lists would name them."""
        raw = b"".join(self._pieces(tensor, tensor.chunks))
        width = _width(tensor)
        stored = np.frombuffer(raw, f"V{width}", (len(raw) - tensor.skip) // width, tensor.skip)
        return in_order(stored, tensor.info.shape or (), tensor.strides).tobytes()

    def _pieces(self, tensor: Tensor, chunks: Sequence[Chunk]) -> Iterator[bytes]:
        return self.opened.enter_context(contextlib.closing(_pieces(tensor, chunks, self.advance)))


def _width(tensor: Tensor) -> int:
    return element_bytes(str(tensor.info.dtype))


def _is_cut_alike(old: Tensor, new: Tensor) -> bool:
    """Whether each chunk of one holds the same elements as a chunk of the other, and nothing else."""
    lengths = [chunk.length for chunk in old.chunks]
    return (
        old.is_whole
        and new.is_whole
        and old.info.dtype == new.info.dtype
        and _is_in_same_order(old, new)
        and lengths == [chunk.length for chunk in new.chunks]
        and not any(length % _width(old) for length in lengths)
    )


def _is_in_same_order(old: Tensor, new: Tensor) -> bool:
    if old.arranged is None or new.arranged is None:
        return False
    if old.info.shape == new.info.shape:
        return old.arranged.order == new.arranged.order
    repeats_none = old.arranged.count == new.arranged.count == prod(old.info.shape or ())
    return repeats_none and old.arranged.is_in_order and new.arranged.is_in_order


def _pieces(tensor: Tensor, chunks: Sequence[Chunk], advance: Callable[[int], None]) -> Generator[bytes, None, None]:
    """The bytes of chunks of a tensor's file. Raises _Unreadable, FileChanged."""
    side = tensor.side
    try:
        for raw in side.reader.chunks(tensor.content, chunks):
            advance(len(raw))
            yield raw
    except (IntegrityError, OSError) as error:
        raise _Unreadable(f"{side.name} {tensor.content.path}: {fault(error)}") from error


def _may_be_held(tensor: Tensor) -> bool:
    shape, strides, width = tensor.info.shape or (), tensor.strides, _width(tensor)
    is_small = max(_size(tensor), prod(shape) * width) <= MAX_HELD_BYTES
    if not is_small or len(shape) > _MAX_ARRAY_DIMENSIONS or len(strides) != len(shape):
        return False
    # NumPy would read beyond the end of what a stranger's manifest says is larger than it is.
    reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return tensor.skip + reach * width <= _size(tensor)


def _side_by_side(
    old: Iterator[bytes], new: Iterator[bytes], old_width: int, new_width: int
) -> Iterator[tuple[bytes, bytes]]:
    before, after = _Stream(old), _Stream(new)
    while raw := before.take(_BLOCK_ELEMENTS * old_width):
        yield raw, after.take(len(raw) // old_width * new_width)


class _Stream:
    """Pieces of any lengths as pieces of those that are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")

    def take(self, length: int) -> bytes:
        """That many bytes, fewer only at the end."""
        taken = []
        while length:
            if not self._held:
                self._held = memoryview(next(self._pieces, b""))
                if not self._held:
                    break
            taken.append(self._held[:length])
            self._held = self._held[len(taken[-1]) :]
            length -= len(taken[-1])
        return b"".join(taken)


@dataclass(slots=True)
class _Sums:
    """What is added up over the blocks of a tensor."""

    old_dtype: str
    new_dtype: str
    elements: int = 0
    finite: int = 0
    changed: int = 0
    new_nan: int = 0
    new_inf: int = 0
    largest: float = 0.0
    squares: float = 0.0
    old_squares: float = 0.0
    new_squares: float = 0.0
    products: float = 0.0

    def add(self, raw_old: bytes, raw_new: bytes) -> None:
        with np.errstate(all="ignore"):
            self._add(raw_old, raw_new)

    def _add(self, raw_old: bytes, raw_new: bytes) -> None:
        old = numbers(self.old_dtype, raw_old)
        new = old if raw_new is raw_old else numbers(self.new_dtype, raw_new)
        self.elements += len(old)
        if new is not old:
            if self.old_dtype == self.new_dtype:
                differs = (patterns(self.old_dtype, raw_old) != patterns(self.new_dtype, raw_new)).any(axis=1)
            else:
                differs = (old != new) & ~(np.isnan(old) & np.isnan(new))
            self.changed += int(np.count_nonzero(differs))
        is_finite = np.isfinite(old) & np.isfinite(new)
        if not is_finite.all():
            self.new_nan += int(np.count_nonzero(np.isnan(new) & ~np.isnan(old)))
            self.new_inf += int(np.count_nonzero(np.isinf(new) & ~np.isinf(old)))
            old, new = old[is_finite], new[is_finite]
        self.finite += len(old)
        if len(old):
            self._add_up(old, new)

    def _add_up(self, old: Numbers, new: Numbers) -> None:
        distance = _distance(old, new)
        # A complex number counts as two: of the product of one with the other's conjugate only the real part is wanted.
        before, after = _as_floats(old).view(np.float64), _as_floats(new).view(np.float64)
        self.largest = max(self.largest, float(distance.max()))
        self.squares += _dot(distance, distance)
        self.old_squares += _dot(before, before)
        self.new_squares += _dot(after, after)
        self.products += _dot(before, after)

    def values(self, count: int) -> Values:
        """The figures, of a tensor of `count` elements, which may repeat those that were added."""
        repeats = count // self.elements if self.elements else 1
        norm, new_norm, distance = map(math.sqrt, (self.old_squares, self.new_squares, self.squares))
        relative = distance / norm if norm else (None if distance else 0.0)
        cosine = self.products / norm / new_norm if norm and new_norm else None
        return Values(
            elements=count,
            max_abs=self.largest,
            rms=math.sqrt(self.squares / self.finite) if self.finite else 0.0,
            relative=_finite(relative),
            cosine=None if cosine is None or not math.isfinite(cosine) else max(-1.0, min(1.0, cosine)),
            changed=self.changed / self.elements if self.elements else 0.0,
            new_nan=self.new_nan * repeats,
            new_inf=self.new_inf * repeats,
            norm=norm * math.sqrt(repeats),
        )


def _dot(left: Numbers, right: Numbers) -> float:
    # Not np.dot: its threads wait for each other by turning round, which takes seconds on a machine that is busy.
    return float(np.einsum("i,i->", left, right))


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def _as_floats(values: Numbers) -> Numbers:
    return values.astype(np.float64) if values.dtype.kind in "iu" else values


def _distance(old: Numbers, new: Numbers) -> np.ndarray[Any, np.dtype[np.float64]]:
    """|new - old| of each element, exact where both are integers of 64 bits until it is made a float."""
    if old.dtype == new.dtype and old.dtype.kind in "iu":
        larger, smaller = np.maximum(old, new).view(np.uint64), np.minimum(old, new).view(np.uint64)
        return (larger - smaller).astype(np.float64)
    found: np.ndarray[Any, np.dtype[np.float64]] = np.abs(_as_floats(new) - _as_floats(old))
    return found
