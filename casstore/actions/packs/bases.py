"""The bases that chunks could be stored against: chunks at the same place of the version that theirs came from.

The same place is the same tensor, offset, length and dtype. Tensors are found by name, in whatever file they stand,
so resharding and renamed files do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from casstore.actions.workspace import Workspace
from casstore.catalog.index import DeltaLink
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.coding import codec, delta
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.pack import EncodedChunk
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.elements import Element

# How many generations follow one another directly before one goes further back. A delta against the step before is the
# smallest, so most should be that; but each adds a link to what reading decodes. Of 100 checkpoints of a run, every
# fifth goes further back: 0.03 of raw on average, where a delta against 8 steps before takes 0.06
# (benchmarks/training_run.py).
_RUN = 5
# Above these runs, each digit of the generation in this radix is one more link: depth grows with the logarithm.
_RADIX = 4


def skip(generation: int) -> int:
    """The generation that this generation is stored against: skip-deltas, as in Subversion's FSFS.

    Links from generation g to the start: below 5 + log4(g / 5). Raises ValueError below 1.
    """
    if generation < 1:
        raise ValueError("the start of a chain has no base")
    run, step = divmod(generation, _RUN)
    if step:
        return generation - 1
    power = 1
    while run % (power * _RADIX) == 0:
        power *= _RADIX
    return (run - run % (power * _RADIX)) * _RUN


def choose_base(predecessor: Digest, chains: Mapping[Digest, DeltaLink]) -> DeltaLink | None:
    """The base to store a chunk against: its predecessor, or a chunk below it in its chain. `chains` holds them all."""
    link = chains.get(predecessor)
    if link is None:
        return None
    target = skip(link.generation + 1)
    while link.base is not None and (link.generation > target or link.depth >= MAX_DELTA_LINKS):
        following = chains.get(link.base)
        if following is None:
            return None
        link = following
    return link


def predecessors(new: Iterable[tuple[str, Recipe]], old: Iterable[tuple[str, Recipe]]) -> dict[Digest, Digest]:
    """The chunks of the old files at the same places as those of the new ones; both are given as (path, recipe)."""
    by_place: dict[tuple[str, str], RecipeSegment] = {}
    by_name: dict[str, RecipeSegment] = {}
    for path, name, segment in _tensors(old):
        by_place[path, name] = segment
        by_name.setdefault(name, segment)
    found: dict[Digest, Digest] = {}
    for path, name, segment in _tensors(new):
        before = by_place.get((path, name)) or by_name.get(name)
        if before is None or before.dtype != segment.dtype:
            continue
        for (digest, length), (old_digest, old_length) in zip(segment.chunks, before.chunks, strict=False):
            if length == old_length and digest != old_digest:
                found.setdefault(digest, old_digest)
    return found


def _tensors(files: Iterable[tuple[str, Recipe]]) -> Iterator[tuple[str, str, RecipeSegment]]:
    for path, recipe in files:
        for segment in recipe.segments:
            if segment.name is not None:
                yield path, segment.name, segment


def tensor_files(workspace: Workspace, row: VersionRow) -> list[tuple[str, Recipe]]:
    """The (path, recipe) of each of the version's files that may hold tensors."""
    files = workspace.catalog.versions.files(row.id)
    recipes = workspace.catalog.index.recipes({file.digest for file in files})
    return [(file.path, recipes[file.digest]) for file in files if file.digest in recipes]


def encode_chunk(
    workspace: Workspace, digest: Digest, raw: bytes, element: Element, link: DeltaLink | None
) -> EncodedChunk:
    """The chunk encoded by itself, or against `link` if that takes less. A damaged base is not used."""
    against, grouping = None, None
    if link is not None:
        grouping = link.grouping or link.digest
        try:
            base_raw = workspace.objects.read_chunk(link.digest)
            grouping_raw = base_raw if grouping == link.digest else workspace.objects.read_chunk(grouping)
        except IntegrityError:
            link = None
        else:
            if len(base_raw) == len(grouping_raw) == len(raw):
                against = codec.Against(base_raw, delta.Grouping(grouping_raw, element))
    encoding, data = codec.encode(raw, element, against)
    if link is None or against is None or encoding != encoding.DELTA:
        return EncodedChunk(digest, len(raw), encoding, data)
    return EncodedChunk(digest, len(raw), encoding, data, link.digest, grouping)
