"""Where the bytes of damaged chunks may still be had: copies in the store, what gc left, files that a user gives."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage import chunking, files, pack
from casstore.storage.coding.codec import decode
from casstore.storage.coding.delta import decode_deltas
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.descriptors import opened
from casstore.storage.readable import OpenFile
from casstore.storage.recipe import Recipe
from casstore.storage.walking import walk

_BLOCK_BYTES = 512  # of st_blocks: stat(2)
_ANY_BYTES = 1 << 30  # are read in a second, holes or not
_MOST_HOLES = 100


class Donors:
    """Looks for the bytes of `wanted`, the damaged chunks; `found` is handed each that turns up, once.

    Nothing is believed: bytes count when they have the digest. `recipes` are those of the blobs concerned.
    """

    def __init__(
        self,
        workspace: Workspace,
        wanted: set[Digest],
        recipes: Iterable[Recipe],
        found: Callable[[Digest, bytes], None],
    ) -> None:
        self.wanted = set(wanted)
        self.needed: set[Digest] = set()  # what deltas that were found need, and no donor has
        self._workspace = workspace
        self._found = found
        self._recipes = list(recipes)
        self.unread: list[str] = []  # what could not be looked at, one line each
        self._by_size: dict[int, list[Recipe]] = {}
        for recipe in self._recipes:
            self._by_size.setdefault(recipe.size, []).append(recipe)

    def search(self, sources: Iterable[Path], progress: Progress) -> None:
        """Look in the store's copies first, then in its packs and its quarantine, then in what the user gives."""
        layout = self._workspace.layout
        progress.start("search", None)
        try:
            for copy, recipe in self._copies():
                if self.wanted:
                    self._offer_copy(copy, recipe)
            for directory in (layout.packs, layout.quarantine, *sources):
                for path in sorted(self._files_below(directory)):
                    if not self.wanted:
                        return
                    self._offer(path)
        finally:
            progress.finish()

    def _copies(self) -> Iterator[tuple[str, Recipe]]:
        """The loose files and the files of directories that should hold blobs with wanted chunks."""
        layout = self._workspace.layout
        recipes = {recipe.blob: recipe for recipe in self._recipes}
        for (blob, _), candidates in self._workspace.catalog.index.loose_files(recipes).items():
            for loose in candidates:
                yield loose.container.path(layout), recipes[blob]
        for tag, file in self._workspace.catalog.references.files_of(set(recipes)):
            yield str(layout.model(tag) / file.path), recipes[file.digest]

    def _offer_copy(self, path: str, recipe: Recipe) -> None:
        try:
            file = opened(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            files.raise_unless_damage(error)
            return
        with file as descriptor:
            self._take_from(descriptor, recipe)

    def _offer(self, path: Path) -> None:
        """A file of unknown content: a pack, a file of a known size, or any that shares a chunk."""
        if path.name.startswith(self._workspace.layout.catalog.name):
            return  # closing it would drop the locks of a store that this process has open (howtocorrupt.html, 2.2)
        try:
            file = files.open_regular(path)
        except OSError as error:
            if not isinstance(error, PermissionError):
                files.raise_unless_damage(error)
            self._note_unread(error)
            return
        try:
            with file as descriptor:
                if pack.is_pack(descriptor):
                    self._take_from_pack(path, descriptor)
                    return
                for recipe in self._by_size.get(os.fstat(descriptor).st_size, ()):
                    self._take_from(descriptor, recipe)
                if self.wanted and not _is_mostly_holes(descriptor):
                    self._take_from(descriptor, chunking.scan_file(descriptor))
                elif self.wanted:
                    self.unread.append(f"{path} is mostly holes, so it was looked at only for whole files of its size")
        except (OSError, EOFError, IntegrityError) as error:
            files.raise_unless_damage(error)
            return  # it cannot be read whole; what it has given stays given

    def _note_unread(self, error: OSError) -> None:
        if error.filename is not None and not isinstance(error, FileNotFoundError):
            self.unread.append(f"{error.filename} cannot be read: {error.strerror}")

    def _files_below(self, root: Path) -> Iterator[Path]:
        """The files in a tree, or that one file. Links to files are followed, and no links to directories."""
        if root.is_file():
            yield root
            return
        for name, status in walk(str(root), self._note_unread):
            path = root / name
            if stat.S_ISREG(status.st_mode) or (stat.S_ISLNK(status.st_mode) and self._leads_to_a_file(path)):
                yield path

    def _leads_to_a_file(self, link: Path) -> bool:
        try:
            return stat.S_ISREG(os.stat(link).st_mode)
        except OSError as error:  # such as a link into a directory that is closed to this user
            self._note_unread(error)
            return False

    def _take_from(self, descriptor: int, recipe: Recipe) -> None:
        for chunk in recipe.chunks():
            if chunk.digest in self.wanted:
                try:
                    self._take(chunk.digest, os.pread(descriptor, chunk.length, chunk.offset))
                except OSError as error:
                    files.raise_unless_damage(error)
                    continue  # a bad sector; the next may be sound

    def _take(self, digest: Digest, raw: bytes) -> None:
        if digest in self.wanted and Digest.of(raw) == digest:
            self.wanted.discard(digest)
            self._found(digest, raw)

    def _take_from_pack(self, path: Path, descriptor: int) -> None:
        entries: dict[Digest, list[pack.PackEntry]] = {}
        for entry in pack.read_entries(path):
            entries.setdefault(entry.digest, []).append(entry)
        for digest in self.wanted & entries.keys():
            raw = self._from_pack(descriptor, entries, digest, MAX_DELTA_LINKS, {})
            if raw is not None:
                self._take(digest, raw)

    def _from_pack(
        self,
        descriptor: int,
        entries: dict[Digest, list[pack.PackEntry]],
        digest: Digest,
        links: int,
        failed: dict[Digest, int],
    ) -> bytes | None:
        """A chunk's bytes out of a pack's records; what its deltas need may stand in the store as well.

        `failed`: what could not be had with so many links, and need not be tried again.
        """
        if failed.get(digest, -1) >= links:
            return None
        for listed in entries.get(digest, ()):
            try:
                entry, encoded = pack.read_record(OpenFile(descriptor), listed.offset, listed.length)
                if entry.base is None or entry.grouping is None:
                    raw = decode(entry.encoding, encoded, entry.raw_bytes)
                elif links:
                    base = self._from_store(entry.base)
                    base = base or self._from_pack(descriptor, entries, entry.base, links - 1, failed)
                    grouping = base if entry.grouping == entry.base else self._from_store(entry.grouping)
                    grouping = grouping or self._from_pack(descriptor, entries, entry.grouping, 0, failed)
                    if base is None:
                        self.needed.add(entry.base)
                    if grouping is None:
                        self.needed.add(entry.grouping)
                    if base is None or grouping is None:
                        continue
                    raw = decode_deltas(base, [encoded], grouping)
                else:
                    continue
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                continue
            if Digest.of(raw) == digest:
                return raw
        failed[digest] = links
        return None

    def _from_store(self, digest: Digest) -> bytes | None:
        try:
            return self._workspace.objects.read_chunk(digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            return None


def _is_mostly_holes(descriptor: int) -> bool:
    """Whether reading a file would take much longer than the bytes that are in it, as with a sparse disk image.

    Allocated blocks are fewer than the size also where a file system compresses, hardly ever a hundred times.
    """
    status = os.fstat(descriptor)
    blocks = getattr(status, "st_blocks", status.st_size // _BLOCK_BYTES + 1)
    return status.st_size > _ANY_BYTES and status.st_size > _MOST_HOLES * blocks * _BLOCK_BYTES
