"""Reading tensors into memory: planned over all files, decoded in the order of these on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any

from casstore.actions.tensors.arrays import Framework
from casstore.actions.tensors.index import Found, Source
from casstore.actions.tensors.layouts import Located, locate
from casstore.storage.ranges import Range, read_ranges
from casstore.storage.recipe import Recipe

# What every dtype may begin at.
_ALIGNMENT = 16


@dataclass(slots=True)
class _Block:
    """Part of a file that is read into one piece of memory: a tensor, or those that share a storage."""

    recipe: Recipe
    file: str
    start: int
    stop: int
    tensors: dict[str, Located] = field(default_factory=dict)

    def ranges(self, memory: memoryview) -> list[Range]:
        """What is wanted of it: of a storage, what lies between tensors is not."""
        wanted: list[tuple[int, int]] = []
        for layout in sorted((each.layout for each in self.tensors.values()), key=lambda layout: layout.start):
            if wanted and layout.start <= wanted[-1][1]:
                wanted[-1] = wanted[-1][0], max(wanted[-1][1], layout.stop)
            else:
                wanted.append((layout.start, layout.stop))
        return [Range(start, memory[start - self.start : stop - self.start]) for start, stop in wanted]


def load(source: Source, wanted: Mapping[str, Found], into: Framework) -> dict[str, Any]:
    """These tensors by name, in their order. Those that share memory in PyTorch's files do so here.

    Raises TypeError for what the framework has no dtype for, ModuleNotFoundError, IntegrityError, OSError.
    """
    for found in wanted.values():
        source.confirm(found)
    located = locate(source.objects, source.name, wanted)
    into.check({each.layout.dtype for each in located.values()})
    made = {name: into.tensor(None, each.layout) for name, each in located.items() if not each.layout.span}
    for blocks in _by_file(_blocks(located)):
        for block, held in _filled(source, blocks, into):
            for name, each in block.tensors.items():
                layout = replace(each.layout, start=each.layout.start - block.start)
                made[name] = into.tensor(held, layout)
    return {name: made[name] for name in located}


def load_one(source: Source, found: Found, into: Framework, rows: slice | None) -> Any:
    """One tensor, or some of its rows. Raises ValueError for what is no range of rows, and as `load` does."""
    source.confirm(found)
    layout = locate(source.objects, source.name, {found.info.name: found})[found.info.name].layout
    into.check({layout.dtype})
    if rows is not None:
        if not layout.shape or rows.step not in (None, 1):
            what = "has no rows" if not layout.shape else f"is read by rows that follow one another, not {rows}"
            raise ValueError(f"{found.info.name} {what}")
        start, stop, _ = rows.indices(layout.shape[0])
        layout = layout.rows(start, stop)
    block = _Block(found.recipe, found.info.file, layout.start, layout.stop, {"": Located(found, layout)})
    ((_, held),) = _filled(source, [block], into)
    return into.tensor(held, replace(layout, start=0))


def _blocks(located: Mapping[str, Located]) -> list[_Block]:
    """What is to be read, in the order of the files, and in each of the bytes."""
    blocks: dict[tuple[str, int], _Block] = {}
    for name, each in located.items():
        found, layout = each
        if not layout.span:
            continue
        file, storage = found.info.file, found.placed.storage
        start = storage + (layout.start - storage) // _ALIGNMENT * _ALIGNMENT
        block = blocks.setdefault((file, storage), _Block(found.recipe, file, start, layout.stop))
        block.start, block.stop = min(block.start, start), max(block.stop, layout.stop)
        block.tensors[name] = each
    return sorted(blocks.values(), key=lambda block: (block.file, block.start))


def _by_file(blocks: Iterable[_Block]) -> Iterator[list[_Block]]:
    of_file: list[_Block] = []
    for block in blocks:
        if of_file and of_file[0].file != block.file:
            yield of_file
            of_file = []
        of_file.append(block)
    if of_file:
        yield of_file


def _filled(source: Source, blocks: list[_Block], into: Framework) -> Iterator[tuple[_Block, Any]]:
    """Each block with its memory, filled and where it is wanted, while the following are read."""
    waiting = deque((block, into.memory(block.stop - block.start)) for block in blocks)
    if not into.has_memory:
        yield from ((block, memory.held) for block, memory in waiting)
        return
    ends = deque(accumulate(len(block.ranges(memory.view)) for block, memory in waiting))
    ranges = chain.from_iterable(block.ranges(memory.view) for block, memory in tuple(waiting))
    name = f"{blocks[0].file} of {source.name}"
    # Nothing here holds on to memory that has been filled: with a device, more of it goes there than need be here.
    with closing(read_ranges(source.objects, blocks[0].recipe, ranges, name)) as reading:
        for filled in reading:
            while ends and ends[0] <= filled:
                ends.popleft()
                block, memory = waiting.popleft()
                yield block, into.moved(memory.held)
