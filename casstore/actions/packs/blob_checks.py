"""Whole blobs against their digests, while their chunks are received: what is decoded once need not be read again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from blake3 import blake3

from casstore.actions.workspace import Workspace
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage.recipe import Chunk, Recipe
from casstore.storage.tensors.headers import check_header

# Raw bytes of chunks that come before their turn.
_MOST_HELD_BYTES = 64 << 20


@dataclass(slots=True)
class _Reading:
    """A blob, and how many of its chunks have been hashed."""

    recipe: Recipe
    chunks: list[Chunk]
    at: int = 0
    hasher: blake3 = field(default_factory=blake3)

    @property
    def next(self) -> Digest | None:
        return self.chunks[self.at].digest if self.at < len(self.chunks) else None

    def take(self, raw: bytes) -> None:
        self.hasher.update(raw)
        self.at += 1


class BlobChecks:
    """The blobs of these recipes, by digest, that the store does not know yet.

    Sound chunks in a wrong order would make a wrong file, and every save of the right one would then be taken for it.
    Chunks are hashed as they come, as far as they come in about the order of the blobs; `finish` reads the rest.
    """

    def __init__(self, workspace: Workspace, recipes: Mapping[Digest, Recipe], origin: str) -> None:
        self._workspace, self._recipes, self._origin = workspace, recipes, origin
        self._known = workspace.catalog.index.recipes(recipes.keys()).keys()
        self._readings = [
            _Reading(recipe, list(recipe.chunks()))
            for digest, recipe in recipes.items()
            if recipe.is_stored and digest not in self._known
        ]
        self._uses = Counter(chunk.digest for reading in self._readings for chunk in reading.chunks)
        self._waiting: dict[Digest, list[_Reading]] = {}
        for reading in self._readings:
            self._wait(reading)
        self._held: dict[Digest, bytes] = {}
        self._held_bytes = 0

    def take(self, digest: Digest, raw: bytes) -> None:
        """A chunk that has come, whose bytes are what its digest says."""
        if self._uses[digest] and digest not in self._held:
            self._held[digest] = raw
            self._held_bytes += len(raw)
            for reading in self._waiting.pop(digest, ()):
                self._hash(reading)
            if self._held_bytes > _MOST_HELD_BYTES:
                self._let_go(digest)

    def _hash(self, reading: _Reading) -> None:
        """What is at hand of a blob, and is next in it."""
        while (digest := reading.next) is not None and (raw := self._held.get(digest)) is not None:
            if len(raw) != reading.chunks[reading.at].length:
                return  # as reading it will say
            reading.take(raw)
            self._uses[digest] -= 1
            if not self._uses[digest]:
                self._let_go(digest)
        self._wait(reading)

    def _wait(self, reading: _Reading) -> None:
        if reading.next is not None:
            self._waiting.setdefault(reading.next, []).append(reading)

    def _let_go(self, digest: Digest) -> None:
        raw = self._held.pop(digest, None)
        if raw is not None:
            self._held_bytes -= len(raw)

    def finish(self, progress: Progress) -> None:
        """Compare each blob with its digest, and what is recorded of its tensors with its header, when all chunks are
        here. Raises IntegrityError, OSError."""
        self._held.clear()
        index = self._workspace.catalog.index
        # A chunk's bytes are those of its digest; how many there are is for the manifest to claim.
        single = {digest: each.size for digest, each in self._recipes.items() if each.size and not each.is_stored}
        for digest, location in index.locate(single.keys()).items():
            if location.raw_bytes != single[digest]:
                raise IntegrityError(
                    f"a file in {self._origin} has {location.raw_bytes:,} bytes, not {single[digest]:,}: {digest}"
                )
        for digest in self._known - index.recipes(self._known).keys():  # gc has run meanwhile
            self._readings.append(_Reading(self._recipes[digest], list(self._recipes[digest].chunks())))
        progress.start("verify", sum(chunk.length for each in self._readings for chunk in each.chunks[each.at :]))
        try:
            for reading in self._readings:
                with contextlib.closing(self._workspace.objects.read_blob(reading.recipe, reading.at)) as rest:
                    for raw in rest:
                        reading.hasher.update(raw)
                        progress.advance(len(raw))
                if reading.hasher.digest() != reading.recipe.blob:
                    raise IntegrityError(f"a file in {self._origin} is not what its digest says: {reading.recipe.blob}")
                self._check_tensors(reading.recipe)
        finally:
            progress.finish()

    def _check_tensors(self, recipe: Recipe) -> None:
        """Sound bytes, with the names of tensors exchanged, would be loaded wrong. Raises IntegrityError, OSError."""
        name = f"a file in {self._origin}"
        with self._workspace.objects.open_blob(recipe, name) as file:

            def read(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            advice = "do not trust it, and get the version from where it was made"
            check_header(recipe, read, f"{name} ({recipe.blob})", advice)
