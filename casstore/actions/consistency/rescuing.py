"""Where else the bytes of a chunk stand that is damaged in its container: loose files and directories that hold a
copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from casstore.catalog.catalog import Catalog
from casstore.digest import Digest
from casstore.errors import CasstoreError
from casstore.late_classes import dataclass
from casstore.storage import descriptors
from casstore.storage.layout import Layout
from casstore.storage.recipe import MAX_CHUNK_BYTES, Recipe


@dataclass(frozen=True, slots=True)
class Copies:
    """Finds copies of chunks in the store; called with a chunk's digest, and a blob that it is a piece of if one is
    known, it returns bytes that have that digest, or None. Damage is rare, so it may look through every recipe."""

    layout: Layout
    catalog: Catalog

    def __call__(self, digest: Digest, blob: Digest | None) -> bytes | None:
        likely = {digest} if blob is None else {digest, blob}
        for path, offset, length in self._places(digest, likely):
            raw = _read(path, offset, length)
            if raw is not None and Digest.of(raw) == digest:
                return raw
        return None

    def _places(self, digest: Digest, likely: set[Digest]) -> Iterator[tuple[str, int, int]]:
        for each in likely:
            yield from self._in_copies_of(each, digest)
        for each in self.catalog.index.blobs_naming(digest):
            if each not in likely:
                yield from self._in_copies_of(each, digest)

    def _in_copies_of(self, blob: Digest, chunk: Digest) -> Iterator[tuple[str, int, int]]:
        """Path, offset and length of what should be the chunk in all that should be the blob."""
        copies = list(self._copies(blob))
        if copies and blob == chunk:
            yield from ((path, 0, size) for path, size in copies)
        elif copies:
            for offset, length in _places_in(self._recipes(blob), chunk):
                yield from ((path, offset, length) for path, _ in copies)

    def _recipes(self, blob: Digest) -> Iterable[Recipe]:
        try:
            return self.catalog.index.recipes([blob]).values()
        except CasstoreError:
            return ()

    def _copies(self, blob: Digest) -> Iterator[tuple[str, int]]:
        for candidates in self.catalog.index.loose_files([blob]).values():
            for loose in candidates:
                yield loose.container.path(self.layout), loose.stamp.size
        for tag, path, size in self.catalog.references.standing_copies(blob):
            yield str(self.layout.model(tag) / path), size


def _places_in(recipes: Iterable[Recipe], chunk: Digest) -> Iterator[tuple[int, int]]:
    for recipe in recipes:
        yield from ((each.offset, each.length) for each in recipe.chunks() if each.digest == chunk)


def _read(path: str, offset: int, length: int) -> bytes | None:
    """A part of a file; None if it cannot be read."""
    if not 0 < length <= MAX_CHUNK_BYTES:
        return None
    try:
        with descriptors.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return os.pread(descriptor, length, offset) if is_file else None
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None
