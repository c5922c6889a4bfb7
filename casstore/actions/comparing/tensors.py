"""Which tensors two sides have, and what became of each, from recipes alone.

Only for the names of parameters in PyTorch's files is anything read: the archive's directory and its pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from casstore.actions.comparing.difference import Change, TensorChange, by_name
from casstore.actions.comparing.paths import new_share
from casstore.actions.comparing.sides import Content, Side, fault
from casstore.actions.tensors.info import TensorInfo
from casstore.actions.tensors.names import Names, Within
from casstore.actions.tensors.placed import has_tensors, placed_in
from casstore.errors import IntegrityError
from casstore.storage.recipe import Chunk
from casstore.storage.tensors.parameters import Strided
from casstore.storage.tensors.strides import Arrangement


class Tensor(NamedTuple):
    """A tensor of one side: what is known of it, and where its bytes stand.

    The fields from `chunks` on are those of `Placed`.
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


def tensors_of(side: Side, names: Names, damage: list[str]) -> list[Tensor]:
    """All tensors of a side. Those of a file of which no part can be read go by the names of their storages."""
    found: list[Tensor] = []
    within = Within(side.recipe_at, lambda path, recipe: side.reader.opened(Content(path, recipe)))
    for path, file in side.files.items():
        recipe = side.recipes.get(file.digest)
        if recipe is None or not has_tensors(recipe):
            continue
        parameters: Mapping[str, Strided] = {}
        try:
            parameters = names.of(path, recipe, within)
        except (IntegrityError, OSError) as error:
            damage.append(f"{side.name} {path}: {fault(error)}")
        content = Content(path, recipe)
        found += [Tensor(side, each.info, content, *each[1:6]) for each in placed_in(path, recipe, parameters)]
    return found


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
