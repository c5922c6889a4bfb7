"""The SHA-256 of stored contents: computed once, by streaming, several files at a time, and kept in the catalog."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from casstore.actions.workspace import Workspace
from casstore.digest import Digest
from casstore.progress import Progress
from casstore.storage.manifest import FileEntry
from casstore.storage.recipe import Recipe

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# SHA-256 runs at 0.5 to 2 GB/s a thread, and more threads than these wait for a disk, or for the chunks to be decoded.
_THREADS = min(4, os.cpu_count() or 1)


def sha256_of(
    workspace: Workspace, entries: Iterable[FileEntry], progress: Progress, *, fresh: bool = False
) -> dict[Digest, bytes]:
    """The SHA-256 of these files' contents. With `fresh` all are read, whatever the catalog says.

    Raises IntegrityError where stored bytes are damaged, OSError.
    """
    sizes = {file.digest: file.size for file in entries}
    known = {} if fresh else workspace.catalog.sha256.known(sizes)
    missing = [digest for digest in sizes if digest not in known]
    recipes = workspace.catalog.index.recipes(missing)

    def compute(digest: Digest) -> bytes:
        sha256 = hashlib.sha256()
        for piece in pieces(workspace, recipes.get(digest) or Recipe.of_one_chunk(digest, sizes[digest])):
            sha256.update(piece)
            progress.advance(len(piece))
        return sha256.digest()

    computed: dict[Digest, bytes] = {}
    progress.start("hash", sum(sizes[digest] for digest in missing))
    try:
        computed.update(in_threads(compute, missing))
    finally:
        progress.finish()
        workspace.catalog.sha256.note(computed)
    return {**known, **computed}


def pieces(workspace: Workspace, recipe: Recipe) -> Iterator[bytes]:
    """The bytes of a blob, in order, each compared with its digest. Raises IntegrityError, OSError."""
    if recipe.size:
        yield from workspace.objects.read_blob(recipe)


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[_Item, _Result]]:
    """Each item with what has come of it, in order; at an exception what has not begun is given up."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for item, future in zip(items, futures, strict=True):
                yield item, future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
