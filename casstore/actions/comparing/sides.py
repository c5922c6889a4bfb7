"""The two sides of a comparison: a version as the catalog has it, or files as a save would find, hash and cut them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from casstore.actions import resolve
from casstore.actions.sources.ignoring import Rules
from casstore.actions.sources.source import SourceFile, find_source
from casstore.actions.tensors.names import reading
from casstore.actions.workspace import Workspace
from casstore.catalog.index import Fingerprint
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import FileChanged, IntegrityError, InvalidSource
from casstore.progress import Progress
from casstore.storage import chunking, files
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import Objects
from casstore.storage.recipe import MAX_CHUNK_BYTES, Chunk, Recipe, RecipeSegment
from casstore.storage.tensors.segments import ReadAt


class Content(NamedTuple):
    """A file's content: the path of the file, and the recipe of what is in it."""

    path: str
    recipe: Recipe


class Said(NamedTuple):
    """What is said of a version now."""

    labels: Mapping[str, str]
    metadata: Mapping[str, Any]


class Reader(Protocol):
    """Reads the content of one side's files. Every byte is compared with its digest.

    Raises IntegrityError and OSError for what is damaged, FileChanged for a file that is not as it was found.
    """

    def opened(self, content: Content) -> contextlib.AbstractContextManager[ReadAt]:
        """A function that reads anywhere in a file, for a `with` block."""

    def chunks(self, content: Content, wanted: Sequence[Chunk]) -> Iterator[bytes]:
        """The bytes of some chunks of a file, in their order."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side: its files by path, its empty directories, and what is said of it, None for a directory.

    `recipes`: by blob; a file whose recipe cannot be read has none, and `damage` names it.
    """

    name: str
    files: Mapping[str, FileEntry]
    directories: Sequence[str]
    said: Said | None
    recipes: Mapping[Digest, Recipe]
    reader: Reader
    damage: tuple[str, ...] = ()

    def recipe_at(self, path: str) -> Recipe | None:
        """The recipe of a file, if it is there and its recipe can be read."""
        file = self.files.get(path)
        return None if file is None else self.recipes.get(file.digest)


def of_version(workspace: Workspace, row: VersionRow) -> Side:
    """A version. Raises TagNotFound if it has been deleted, IntegrityError if the record of its files is damaged."""
    entries = resolve.files(workspace.catalog, row)
    recipes: dict[Digest, Recipe] = {}
    damage = []
    try:
        stored = workspace.catalog.index.recipes({entry.digest for entry in entries})
    except IntegrityError:
        stored = {}
        for digest in {entry.digest for entry in entries}:
            with contextlib.suppress(IntegrityError):
                stored |= workspace.catalog.index.recipes([digest])
    unknown = workspace.catalog.index.locate({entry.digest for entry in entries} - stored.keys())
    for entry in entries:
        if entry.digest in stored:
            recipes[entry.digest] = stored[entry.digest]
        elif entry.size <= MAX_CHUNK_BYTES and (entry.digest in unknown or not entry.size):
            recipes[entry.digest] = Recipe.of_one_chunk(entry.digest, entry.size)
        else:
            damage.append(f"{row.tag} {entry.path}: the recipe of its content is missing or damaged")
    return Side(
        str(row.tag),
        {entry.path: entry for entry in entries},
        row.directory_paths(),
        Said(row.labels(), row.metadata()),
        recipes,
        _StoreReader(workspace.objects, str(row.tag)),
        tuple(damage),
    )


@dataclass(frozen=True, slots=True)
class _StoreReader:
    objects: Objects
    name: str

    def opened(self, content: Content) -> contextlib.AbstractContextManager[ReadAt]:
        return reading(self.objects, content.recipe, f"{content.path} of {self.name}")

    def chunks(self, content: Content, wanted: Sequence[Chunk]) -> Iterator[bytes]:
        segment = RecipeSegment(tuple((chunk.digest, chunk.length) for chunk in wanted))
        blob, plan = content.recipe.blob, content.recipe.plan
        yield from self.objects.read_blob(Recipe(blob, segment.length, plan, (segment,)))


def of_directory(workspace: Workspace, root: Path, progress: Progress) -> Side:
    """A directory or file that is not saved, hashed and cut as a save would, but for files that are known already.

    Nothing is stored, not even what was learnt. Raises InvalidSource, FileChanged, OSError.
    """
    source = find_source(root, Rules.of((), ignore=True))
    known = _known(workspace, source.files)
    scanned: dict[str, Recipe] = {}
    progress.start("hash", source.size)
    try:
        for file in source.files:
            scanned[file.path] = known.get(file.path) or _scanned(file, progress.advance)
            if file.path in known:
                progress.advance(file.status.st_size)
    except PermissionError as error:
        raise InvalidSource(f"{error.filename or root} cannot be read: {error.strerror}") from error
    finally:
        progress.finish()
    # The catalog may have cut a blob into other chunks, which those of the other side are compared with.
    recipes = workspace.catalog.index.as_known({recipe.blob: recipe for recipe in scanned.values()})
    entries = {
        file.path: FileEntry(file.path, files.is_executable(file.status), recipe.size, recipe.blob)
        for file in source.files
        for recipe in [scanned[file.path]]
    }
    reader = _DirectoryReader({file.path: file for file in source.files})
    return Side(str(root), entries, source.empty_directories, None, recipes, reader)


def _known(workspace: Workspace, found: Sequence[SourceFile]) -> dict[str, Recipe]:
    """The recipes of the larger files that are as they were when they were last hashed, by path."""
    larger = [file for file in found if file.status.st_size > chunking.MAX_CHUNK]
    if not larger:
        return {}
    index = workspace.catalog.index
    fingerprints = index.fingerprints({(file.status.st_dev, file.status.st_ino) for file in larger})
    digests = {
        file.path: fingerprints[seen] for file in larger if (seen := Fingerprint.of(file.status)) in fingerprints
    }
    try:
        recipes = index.recipes(set(digests.values()))
    except IntegrityError:
        return {}
    return {path: recipes[digest] for path, digest in digests.items() if digest in recipes}


def _scanned(file: SourceFile, advance: Callable[[int], None]) -> Recipe:
    with _as_found(file) as descriptor:
        try:
            return chunking.scan_file(descriptor, advance, file.status.st_size)
        except EOFError as error:
            raise _changed(file) from error


@contextlib.contextmanager
def _as_found(file: SourceFile) -> Iterator[int]:
    """A file that is, before and after a `with` block, as it was found. Raises FileChanged, OSError."""
    try:
        opened = files.open_regular(file.disk_path)
    except FileNotFoundError as error:
        raise _changed(file) from error
    with opened as descriptor:
        if Fingerprint.of(os.fstat(descriptor)) != Fingerprint.of(file.status):
            raise _changed(file)
        yield descriptor
        if Fingerprint.of(os.fstat(descriptor)) != Fingerprint.of(file.status):
            raise _changed(file)


def _changed(file: SourceFile) -> FileChanged:
    return FileChanged(
        f"{file.disk_path} was written to or replaced while it was being compared; compare again when it is complete"
    )


@dataclass(frozen=True, slots=True)
class _DirectoryReader:
    files: Mapping[str, SourceFile]

    @contextlib.contextmanager
    def opened(self, content: Content) -> Iterator[ReadAt]:
        with _as_found(self.files[content.path]) as descriptor:
            yield lambda offset, length: os.pread(descriptor, length, offset)

    def chunks(self, content: Content, wanted: Sequence[Chunk]) -> Iterator[bytes]:
        with _as_found(self.files[content.path]) as descriptor:
            for chunk in wanted:
                raw = os.pread(descriptor, chunk.length, chunk.offset)
                if Digest.of(raw) != chunk.digest:
                    raise _changed(self.files[content.path])
                yield raw


def fault(error: Exception) -> str:
    """What could not be read, in words, of an error that a reader raised; raises one that says nothing of the bytes."""
    files.raise_unless_damage(error)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        raise error
    return str(getattr(error, "strerror", None) or error)
