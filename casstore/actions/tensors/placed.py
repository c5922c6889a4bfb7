"""Where the tensors of a file stand in it, from its recipe and, of PyTorch's files, the names of their parameters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

from casstore.actions.tensors.info import TensorInfo
from casstore.digest import Digest
from casstore.storage.recipe import Chunk, Recipe, RecipeSegment
from casstore.storage.tensors.headers import tells_tensors
from casstore.storage.tensors.parameters import Strided
from casstore.storage.tensors.segments import ELEMENT_BITS, MAX_DIMENSIONS, Segment
from casstore.storage.tensors.strides import Arrangement, arrangement, contiguous

_EMPTY = Digest.of(b"")


class Placed(NamedTuple):
    """A tensor of a file: what is known of it, and where its bytes stand.

    `chunks` are those of the file that it reaches into, and the first `skip` bytes of them are not its own; `strides`
    count elements. `is_whole`: nothing of them is another's. `arranged`: how its elements stand there; None where that
    is not known. `storage` is where that begins in the file in which it stands, which others may share. `is_pickled`: a
    pickle of PyTorch's tells all that; else a header of numpy's may tell that the first dimension runs fastest.
    """

    info: TensorInfo
    chunks: tuple[Chunk, ...]
    skip: int
    strides: tuple[int, ...]
    is_whole: bool
    arranged: Arrangement | None
    storage: int
    is_pickled: bool = False

    @property
    def start(self) -> int:
        """Where its first byte stands in the file."""
        return self.chunks[0].offset + self.skip if self.chunks else self.storage


class _Stored(NamedTuple):
    """A named segment, where it begins in its file, its chunks, and where each of them ends in the segment."""

    segment: RecipeSegment
    start: int
    chunks: tuple[Chunk, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, segment: RecipeSegment, start: int) -> _Stored:
        if len(segment.chunks) == 1:  # as of most tensors
            ((digest, length),) = segment.chunks
            return cls(segment, start, (Chunk(digest, start, length),), (length,))
        ends = tuple(accumulate(length for _, length in segment.chunks))
        chunks = tuple(
            Chunk(digest, start + end - length, length)
            for (digest, length), end in zip(segment.chunks, ends, strict=True)
        )
        return cls(segment, start, chunks, ends)


def has_tensors(recipe: Recipe) -> bool:
    """Whether there may be tensors in a file."""
    return tells_tensors(recipe)


def placed_in(path: str, recipe: Recipe, parameters: Mapping[str, Strided]) -> Iterator[Placed]:
    """The tensors of a file: `parameters`, whose keys are names in its recipe, and what else has a name there."""
    starts = accumulate((segment.length for segment in recipe.segments), initial=0)
    stored = {
        segment.name: _Stored.of(segment, start)
        for segment, start in zip(recipe.segments, starts, strict=False)
        if segment.name is not None
    }
    named = set()
    for name, parameter in parameters.items():
        placed = _placed(path, name, parameter, stored.get(parameter.key))
        if placed is not None:
            named.add(parameter.key)
            yield placed
    for name, (segment, start, chunks, _) in stored.items():
        if name in named:
            continue
        dtype, shape, arranged = segment.dtype, segment.shape, None
        strides: tuple[int, ...] = ()
        if dtype is not None and shape is not None and _is_plain(dtype, shape, segment.length):
            strides = contiguous(shape)
            arranged = arrangement(shape, strides)
        info = TensorInfo(path, name, dtype, shape, segment.length, _digest(chunks))
        yield Placed(info, chunks, 0, strides, True, arranged, start)


def empty_one(path: str, segment: Segment) -> Placed:
    """A tensor of no bytes, of which recipes know nothing."""
    shape = segment.shape or (0,)
    info = TensorInfo(path, segment.name or "", segment.dtype, shape, 0, _EMPTY)
    return Placed(info, (), 0, contiguous(shape), True, None, segment.offset)


def _is_plain(dtype: str, shape: Sequence[int], length: int) -> bool:
    """Whether a segment, which may be of a stranger's manifest, is what its dtype and shape say."""
    is_sane = len(shape) <= MAX_DIMENSIONS and min(shape, default=1) > 0
    return dtype in ELEMENT_BITS and is_sane and prod(shape) * ELEMENT_BITS[dtype] == 8 * length


def _placed(path: str, name: str, parameter: Strided, stored: _Stored | None) -> Placed | None:
    """A parameter, and where it stands in its storage; None where it cannot stand there."""
    dtype, shape, strides = parameter.dtype, parameter.shape, parameter.strides
    if dtype is None:
        return None
    width = ELEMENT_BITS[dtype] // 8
    if 0 in shape:
        info = TensorInfo(path, name, dtype, shape, 0, _EMPTY)
        return Placed(info, (), 0, strides, True, None, 0, is_pickled=True)
    if stored is None or not stored.ends:
        return None
    first = parameter.offset * width
    stop = first + width * (1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
    if stop > stored.ends[-1]:
        return None
    from_, to = bisect_right(stored.ends, first), bisect_left(stored.ends, stop) + 1
    chunks = stored.chunks[from_:to]
    skip = first - (chunks[0].offset - stored.start)
    arranged = arrangement(shape, strides) if parameter.is_plain else None
    is_whole = skip == 0 and stop == stored.ends[to - 1] and arranged is not None and arranged.is_dense
    is_plain = is_whole and arranged is not None and arranged.is_in_order and arranged.count == prod(shape)
    place = b"" if is_plain else repr((skip, dtype, shape, strides)).encode()
    place += b"" if parameter.is_plain else b"changed when read"
    told = dtype if parameter.is_plain else None
    info = TensorInfo(path, name, told, shape, prod(shape) * width, _digest(chunks, place))
    return Placed(info, chunks, skip, strides, is_whole, arranged, stored.start, is_pickled=True)


def _digest(chunks: Sequence[Chunk], place: bytes = b"") -> Digest:
    if len(chunks) == 1 and not place:
        return chunks[0].digest
    return Digest.of(b"".join(chunk.digest for chunk in chunks) + place)
