"""Digests of contents, by streaming, several files at a time: the SHA-256 of what is stored is kept in the catalog."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from blake3 import blake3

from casstore.actions.workspace import Workspace
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
NewHasher = Callable[[], Any]
HASHERS: dict[str, NewHasher] = {"sha256": hashlib.sha256, "blake3": blake3}
# SHA-256 runs at 0.5 to 2 GB/s a thread, and more threads than these wait for a disk, or for the chunks to be decoded.
_THREADS = min(4, os.cpu_count() or 1)
_READ_BYTES = 1 << 20


def sha256_of(
    workspace: Workspace, entries: Iterable[FileEntry], progress: Progress, *, fresh: bool = False
) -> dict[Digest, bytes]:
    """The SHA-256 of these files' contents. With `fresh` all are read, whatever the catalog says.

    Raises IntegrityError where stored bytes are damaged, OSError.
    """
    sizes, names = {}, {}
    for file in entries:
        sizes[file.digest], names[file.digest] = file.size, file.path
    known = {} if fresh else workspace.catalog.sha256.known(sizes)
    missing = [digest for digest in sizes if digest not in known]
    stored = workspace.catalog.index.recipes(missing)
    recipes = [stored.get(digest) or Recipe.of_one_chunk(digest, sizes[digest]) for digest in missing]
    computed: dict[Digest, bytes] = {}
    try:
        computed.update(hashed(workspace, recipes, hashlib.sha256, progress, names))
    finally:
        workspace.catalog.sha256.note(computed)
    return {**known, **computed}


def hashed(
    workspace: Workspace, recipes: Sequence[Recipe], new_hasher: NewHasher, progress: Progress,
    names: Mapping[Digest, str] | None = None,
) -> Iterator[tuple[Digest, bytes]]:  # fmt: skip
    """Each of these blobs, with what the hasher makes of its bytes. `names`: what errors call them.

    Raises IntegrityError, OSError.
    """

    def compute(recipe: Recipe) -> bytes:
        hasher = new_hasher()
        for piece in pieces(workspace, recipe, (names or {}).get(recipe.blob)):
            hasher.update(piece)
            progress.advance(len(piece))
        return bytes(hasher.digest())

    progress.start("hash", sum(recipe.size for recipe in recipes))
    try:
        for recipe, digest in in_threads(compute, recipes):
            yield recipe.blob, digest
    finally:
        progress.finish()


def of_files(paths: Sequence[files.StrPath], new_hasher: NewHasher) -> Iterator[tuple[files.StrPath, bytes]]:
    """Each of these files on disk, with what the hasher makes of its bytes. Raises OSError."""

    def compute(path: files.StrPath) -> bytes:
        with files.open_regular(path) as descriptor:
            return of_file(descriptor, new_hasher)

    return in_threads(compute, paths)


def of_file(descriptor: int, new_hasher: NewHasher) -> bytes:
    """What the hasher makes of the bytes of an open file, from where it stands. Raises OSError."""
    hasher = new_hasher()
    while data := os.read(descriptor, _READ_BYTES):
        hasher.update(data)
    return bytes(hasher.digest())


def pieces(workspace: Workspace, recipe: Recipe, name: str | None = None) -> Iterator[bytes]:
    """The bytes of a blob, in order, each compared with its digest. `name`: what errors call it.

    Raises IntegrityError, OSError.
    """
    try:
        if recipe.size:
            yield from workspace.objects.read_blob(recipe)
    except IntegrityError as error:
        if name is None:
            raise
        raise unreadable(name, error) from error


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
