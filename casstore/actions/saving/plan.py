"""The plan of a save: how each file is stored. It is made from values alone, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from casstore.digest import Digest
from casstore.storage.recipe import Chunk, Recipe

# Smaller files go into a pack: a loose file would cost an inode and an fsync.
SMALL_FILE_BYTES = 1 << 20
# A larger file goes into a pack if less than this share of its bytes is new; above it, adopting writes nothing.
MOSTLY_KNOWN_SHARE = 0.25


class Way(Enum):
    """How the store comes to hold a file."""

    PACK = auto()  # its new chunks are encoded into a pack
    ADOPT = auto()  # it becomes a loose file, the container of its new chunks
    SHARE = auto()  # all its chunks are stored; its directory links to a loose file, or it becomes one
    NOTHING = auto()  # all its chunks are stored, and no directory is to hold it


class Step(NamedTuple):
    """How one file is stored. `new`: the chunks that it brings; no other step brings them."""

    way: Way
    new: Mapping[Digest, Chunk]


def plan(recipes: Iterable[Recipe], have: set[Digest], *, materialize: bool) -> Iterator[Step]:
    """A step for each recipe, in order. `have`: the chunks that can be relied on; it must not change meanwhile.

    The steps are generated one by one, since the step of a file of terabytes names millions of chunks.
    """
    planned: set[Digest] = set()
    for recipe in recipes:
        new: dict[Digest, Chunk] = {}
        if not have.issuperset(recipe.digests):
            chunks = recipe.chunks()
            new = {c.digest: c for c in chunks if c.digest not in have and c.digest not in planned}
        yield Step(_way(recipe, new, materialize), new)
        planned.update(new)


def _way(recipe: Recipe, new: Mapping[Digest, Chunk], materialize: bool) -> Way:
    if not new:
        return Way.SHARE if materialize and recipe.size else Way.NOTHING
    if not materialize or recipe.size < SMALL_FILE_BYTES:
        return Way.PACK
    new_bytes = sum(chunk.length for chunk in new.values())
    return Way.PACK if new_bytes < recipe.size * MOSTLY_KNOWN_SHARE else Way.ADOPT
