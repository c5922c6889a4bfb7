"""Which tensors two sides have, and what became of each, from recipes alone.

Only for the names of parameters in PyTorch's files is anything read: the archive's directory and its pickle.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from math import prod
from typing import NamedTuple

from casstore.actions.comparing.difference import Change, TensorChange, TensorInfo, by_name
from casstore.actions.comparing.paths import new_share
from casstore.actions.comparing.sides import Content, Side, fault
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.recipe import Chunk, RecipeSegment
from casstore.storage.tensors.numbers import element_bytes, has_numbers
from casstore.storage.tensors.parameters import Strided, find_parameters
from casstore.storage.tensors.segments import MAX_DIMENSIONS
from casstore.storage.tensors.strides import Arrangement, arrangement, contiguous
from casstore.storage.tensors.zips import read_torch_pickle

_KEY_PREFIX = "data/"


class Tensor(NamedTuple):
    """A tensor of one side: what is known of it, and where its bytes stand.

    `chunks` are those of the file that it reaches into, and the first `skip` bytes of them are not its own; `strides`
    count elements. `is_whole`: nothing of them is another's. `arranged`: how its elements stand there; None where that
    is not known.
    """

    side: Side
    info: TensorInfo
    content: Content
    chunks: tuple[Chunk, ...]
    skip: int = 0
    strides: tuple[int, ...] = ()
    is_whole: bool = True
    arranged: Arrangement | None = None

    @property
    def digests(self) -> tuple[bytes, ...]:
        return tuple(chunk.digest for chunk in self.chunks)

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for tensors that are the same to their last bit."""
        return self.digests, self.skip, self.info.dtype, self.info.shape, self.arranged, self.info.size


class Pair(NamedTuple):
    """What became of a tensor, and where it stands; None on a side that does not have it."""

    change: TensorChange
    old: Tensor | None
    new: Tensor | None


class Names:
    """The parameters of PyTorch's files, each file and each pickle read once: to read a pickle takes longest of all."""

    def __init__(self) -> None:
        self._of_blobs: dict[Digest, Mapping[str, Strided]] = {}
        self._of_pickles: dict[bytes, Mapping[str, Strided]] = {}

    def of(self, side: Side, content: Content) -> Mapping[str, Strided]:
        """The parameters of a file. Raises IntegrityError, OSError, FileChanged."""
        blob = content.recipe.blob
        if blob not in self._of_blobs:
            with side.reader.opened(content) as read:
                pickle = read_torch_pickle(read, content.recipe.size)
            if pickle not in self._of_pickles:
                self._of_pickles[pickle] = find_parameters(pickle)
            self._of_blobs[blob] = self._of_pickles[pickle]
        return self._of_blobs[blob]


def tensors_of(side: Side, names: Names, damage: list[str]) -> list[Tensor]:
    """All tensors of a side. Those of a file of which no part can be read go by the names of their storages."""
    found: list[Tensor] = []
    for path, file in side.files.items():
        recipe = side.recipes.get(file.digest)
        if recipe is None or all(segment.name is None for segment in recipe.segments):
            continue
        parameters: Mapping[str, Strided] = {}
        if recipe.plan.startswith("torch/"):
            try:
                parameters = names.of(side, Content(path, recipe))
            except (IntegrityError, OSError) as error:
                damage.append(f"{side.name} {path}: {fault(error)}")
        found += _in_file(side, Content(path, recipe), parameters)
    return found


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


def _in_file(side: Side, content: Content, parameters: Mapping[str, Strided]) -> Iterator[Tensor]:
    starts = accumulate((segment.length for segment in content.recipe.segments), initial=0)
    stored = {
        segment.name: _Stored.of(segment, start)
        for segment, start in zip(content.recipe.segments, starts, strict=False)
        if segment.name is not None
    }
    named = set()
    for name, parameter in parameters.items():
        storage = _KEY_PREFIX + parameter.key
        placed = _placed(parameter, stored.get(storage))
        if parameter.dtype is None or placed is None:
            continue
        named.add(storage)
        size = prod(parameter.shape) * element_bytes(parameter.dtype)
        info = TensorInfo(content.path, name, parameter.dtype, parameter.shape, size)
        yield Tensor(side, info, content, *placed)
    for name, (segment, _, chunks, _) in stored.items():
        if name in named:
            continue
        dtype, shape, arranged = segment.dtype, segment.shape, None
        strides: tuple[int, ...] = ()
        if dtype is not None and shape is not None and _is_plain(dtype, shape, segment.length):
            strides = contiguous(shape)
            arranged = arrangement(shape, strides)
        info = TensorInfo(content.path, name, dtype, shape, segment.length)
        yield Tensor(side, info, content, chunks, 0, strides, True, arranged)


def _is_plain(dtype: str, shape: Sequence[int], length: int) -> bool:
    """Whether a segment, which may be of a stranger's manifest, is what its dtype and shape say."""
    is_sane = len(shape) <= MAX_DIMENSIONS and min(shape, default=1) > 0
    return has_numbers(dtype) and is_sane and prod(shape) * element_bytes(dtype) == length


class _Placed(NamedTuple):
    """The fields of a tensor that say where it stands."""

    chunks: tuple[Chunk, ...]
    skip: int
    strides: tuple[int, ...]
    is_whole: bool
    arranged: Arrangement | None


def _placed(parameter: Strided, stored: _Stored | None) -> _Placed | None:
    """Where a parameter stands in its storage; None where it cannot stand there."""
    dtype, shape, strides = parameter.dtype, parameter.shape, parameter.strides
    if 0 in shape:
        return _Placed((), 0, strides, True, None)
    if dtype is None or stored is None or not stored.ends:
        return None
    width = element_bytes(dtype)
    first = parameter.offset * width
    stop = first + width * (1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
    if stop > stored.ends[-1]:
        return None
    from_, to = bisect_right(stored.ends, first), bisect_left(stored.ends, stop) + 1
    chunks = stored.chunks[from_:to]
    skip = first - (chunks[0].offset - stored.start)
    arranged = arrangement(shape, strides)
    is_whole = skip == 0 and stop == stored.ends[to - 1] and arranged is not None and arranged.is_dense
    return _Placed(chunks, skip, strides, is_whole, arranged)


def matching(tensors: Iterable[Tensor], pattern: str | None) -> list[Tensor]:
    """Those whose names match a pattern as of a shell; all of them without one."""
    return [each for each in tensors if pattern is None or fnmatchcase(each.info.name, pattern)]


def pairs(old: Sequence[Tensor], new: Sequence[Tensor], files: Mapping[str, str]) -> list[Pair]:
    """What became of each tensor, in the order of their names. `files`: paths of the new side's to the old side's.

    Tensors belong together that have one name in the same file; else that have one name, if no other has it; else that
    have the same content.
    """
    left, unpaired, found = list(old), list(new), []
    steps: tuple[tuple[Callable[[Tensor], object], Callable[[Tensor], object], bool], ...] = (
        (lambda old: (old.info.file, old.info.name), lambda new: (files.get(new.info.file), new.info.name), False),
        (lambda old: old.info.name, lambda new: new.info.name, True),
        (lambda old: old.identity, lambda new: new.identity, False),
    )
    for key_of_old, key_of_new, is_only_one in steps:
        waiting = _by_key(left, key_of_old)
        wanted = _by_key(unpaired, key_of_new)
        for key, members in wanted.items():
            partners = waiting.get(key, [])
            if partners and not (is_only_one and (len(partners) > 1 or len(members) > 1)):
                found += [Pair(_compared(*both), *both) for both in zip(partners, members, strict=False)]
        paired = {id(each) for pair in found for each in pair[1:]}
        left = [each for each in left if id(each) not in paired]
        unpaired = [each for each in unpaired if id(each) not in paired]
        if not (left and unpaired):
            break
    found += [Pair(TensorChange(Change.REMOVED, each.info, None), each, None) for each in left]
    found += [Pair(TensorChange(Change.ADDED, None, each.info), None, each) for each in unpaired]
    return sorted(found, key=lambda pair: (by_name(pair.change.name), _files_of(pair.change)))


def _by_key(tensors: Iterable[Tensor], key: Callable[[Tensor], object]) -> dict[object, list[Tensor]]:
    found: dict[object, list[Tensor]] = {}
    for each in tensors:
        found.setdefault(key(each), []).append(each)
    return found


def _files_of(change: TensorChange) -> tuple[str, str]:
    return ("" if change.new is None else change.new.file, "" if change.old is None else change.old.file)


def _compared(old: Tensor, new: Tensor) -> TensorChange:
    before, after = old.info, new.info
    if old.identity == new.identity:
        change = Change.SAME if before.name == after.name else Change.RENAMED
        return TensorChange(change, before, after, 0.0)
    share = new_share({c.digest for c in old.chunks}, ((c.digest, c.length) for c in new.chunks))
    if before.shape != after.shape:
        change = Change.RESHAPED
    elif before.dtype != after.dtype:
        change = Change.DTYPE
    else:
        is_certain = old.is_whole and new.is_whole and old.arranged == new.arranged
        change = Change.CHANGED if is_certain else Change.UNKNOWN
    return TensorChange(change, before, after, share)
