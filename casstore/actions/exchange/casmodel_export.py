"""Writing a `.casmodel`: each chunk once, and against the version before where that is in the archive too."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from casstore.actions import resolve
from casstore.actions.packs.bases import choose_link, encode_chunk, predecessors
from casstore.actions.packs.builder import ENCODE_THREADS
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.catalog.index import Link
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, TagNotFound
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import MAX_LINKS, Location
from casstore.storage.manifest import Manifest
from casstore.storage.pack import EncodedChunk, PackEntry, PackStream
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import Element, element_of

_CHUNKS_AHEAD = 16  # as in packing: some 16 MiB, 256 at the format's hard limit
_LOCATE_BATCH = 2000

_Files = list[tuple[str, Recipe]]
# A chunk ready to be written: encoded now, or a pack's record as it stands.
_Ready = EncodedChunk | bytes


def export_versions(workspace: Workspace, rows: Sequence[VersionRow], sink: BinaryIO, progress: Progress) -> None:
    """Write these versions and every chunk they need. Raises IntegrityError, OSError."""
    rows = sorted(rows, key=lambda row: row.id)  # what a version came from is older than it
    manifests = [_manifest(workspace, row) for row in rows]
    casmodel.write_head(sink.write, (manifest.pack() for manifest in manifests))
    progress.start("export", sum(manifest.size for manifest in manifests))
    try:
        with ThreadPoolExecutor(ENCODE_THREADS) as pool:
            export = _Export(workspace, PackStream(sink.write), pool, progress)
            exported: dict[int, _Files] = {}
            for row, manifest in zip(rows, manifests, strict=True):
                files = [(file.path, manifest.recipe_of(file)) for file in manifest.files]
                base = workspace.catalog.versions.base_of(row)
                export.add(files, exported.get(base.id, []) if base is not None else [])
                exported[row.id] = files
            export.stream.end()
    finally:
        progress.finish()


def _manifest(workspace: Workspace, row: VersionRow) -> Manifest:
    digests = {file.digest for file in resolve.files(workspace.catalog, row)}
    manifest = workspace.catalog.versions.manifest(row, workspace.catalog.index.recipes(digests))
    if manifest.digest != row.digest:  # its rows have gone since they were looked at
        raise TagNotFound(f"{row.tag} has been deleted meanwhile")
    return manifest


@dataclass(slots=True)
class _Export:
    workspace: Workspace
    stream: PackStream
    pool: ThreadPoolExecutor
    progress: Progress
    _begun: set[Digest] = field(default_factory=set)
    _links: dict[Digest, Link] = field(default_factory=dict)  # of what has been written
    _ahead: deque[tuple[Future[_Ready], int]] = field(default_factory=deque)

    def add(self, files: _Files, base_files: _Files) -> None:
        """Write those chunks of a version that are not in the archive yet."""
        before = predecessors(files, base_files)
        pending: dict[Digest, Element] = {}
        for _, recipe in files:
            for segment in recipe.segments:
                element = element_of(segment.dtype)
                for digest, length in segment.chunks:
                    if digest in self._begun:
                        self.progress.advance(length)
                    else:
                        self._begun.add(digest)
                        pending[digest] = element
                if len(pending) >= _LOCATE_BATCH:
                    self._submit(pending, before)
                    pending = {}
            self._submit(pending, before)
            pending = {}
        # The next version's deltas are against what this one has become.
        while self._ahead:
            self._write_next()

    def _submit(self, chunks: Mapping[Digest, Element], before: Mapping[Digest, Digest]) -> None:
        homes = self.workspace.catalog.index.locate(chunks.keys()) if chunks else {}
        for digest, element in chunks.items():
            predecessor = before.get(digest)
            link = None if predecessor is None else choose_link(predecessor, self._links)
            generation = self._links[predecessor].generation + 1 if predecessor in self._links else 0
            home = homes.get(digest)
            task = partial(self._encode, digest, element, link, home if self._may_copy(home, link) else None)
            self._ahead.append((self.pool.submit(task), generation))
            if len(self._ahead) >= _CHUNKS_AHEAD:
                self._write_next()

    def _encode(self, digest: Digest, element: Element, link: Link | None, copied: Location | None) -> _Ready:
        try:
            raw = self.workspace.objects.read_chunk(digest)  # which also checks what may be copied as it stands
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            raw, copied = self.workspace.objects.serve_chunk(digest), None
        if copied is not None:
            with contextlib.suppress(IntegrityError, FileNotFoundError):  # gc has moved it meanwhile
                return self.workspace.objects.copy_record(digest, copied)
        return encode_chunk(self.workspace, digest, raw, element, link)

    def _may_copy(self, home: Location | None, link: Link | None) -> bool:
        """Whether what the store has can go into the archive as it stands."""
        if home is None or not home.container.is_pack:
            return False
        if home.base is None:
            return link is None  # what has a base here takes less when it is encoded anew
        base = self._links.get(home.base)
        grouping = None if home.grouping is None else self._links.get(home.grouping)
        return base is not None and grouping is not None and grouping.base is None and base.depth < MAX_LINKS

    def _write_next(self) -> None:
        future, generation = self._ahead.popleft()
        ready = future.result()
        entry = self.stream.copy(ready) if isinstance(ready, bytes) else self.stream.add(ready)
        self._links[entry.digest] = self._link(entry, generation)
        self.progress.advance(entry.raw_bytes)

    def _link(self, entry: PackEntry, generation: int) -> Link:
        if entry.base is None:
            return Link(entry.digest, None, None, 0, 0)
        return Link(entry.digest, entry.base, entry.grouping, self._links[entry.base].depth + 1, max(1, generation))
