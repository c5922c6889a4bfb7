"""Reading the files of one version from its chunks, with what can be looked up for many of them looked up once."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from casstore.actions import resolve
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.buffers import checked_target
from casstore.storage.chunk_sequence import Locations
from casstore.storage.manifest import FileEntry
from casstore.storage.names import as_stored
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# A larger file is looked up by itself: its chunks may be thousands.
_SMALL_BYTES = 1 << 20
# How many small files one look-up covers: few at first, since no other may be wanted.
_FIRST_LOOK_UP, _LARGEST_LOOK_UP = 4, 256
# How much is read together.
_BATCH_BYTES = 2 << 20


class _LookedUp(NamedTuple):
    """The numbers of the files that were looked up last, with what was found."""

    numbers: range
    recipes: Mapping[Digest, Recipe]
    locations: Locations


class Contents:
    """The files of a version, by path. They are compared with its digest once: a version never changes.

    Threads may share it.
    """

    def __init__(self, workspace: Workspace, row: VersionRow) -> None:
        """Raises TagNotFound when the version has been deleted, IntegrityError."""
        self._workspace = workspace
        self._row = row
        self._listed = tuple(resolve.files(workspace.catalog, row))
        self._numbers = {file.path: number for number, file in enumerate(self._listed)}
        self._found = _LookedUp(range(0), {}, {})

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files, by path."""
        return self._listed

    def __contains__(self, path: str) -> bool:
        return path in self._numbers

    def check_stands(self) -> None:
        """Raises TagNotFound when the version has been deleted since."""
        resolve.check_stands(self._workspace.catalog, self._row)

    def open(self, path: str) -> io.BufferedReader:
        """A reader of one file, as `Objects.open_blob` gives it. Raises FileNotFoundError."""
        recipe, locations = self._looked_up(self._number(path))
        return self._workspace.objects.open_blob(recipe, f"{path} of {self._row.tag}", locations)

    def read_into(self, path: str, buffer: WriteableBuffer) -> None:
        """Fill a buffer with one file. Raises FileNotFoundError, TypeError, ValueError, IntegrityError, OSError."""
        number = self._number(path)
        name = f"{path} of {self._row.tag}"
        target = checked_target(buffer, self._listed[number].size, name)
        recipe, locations = self._looked_up(number)
        try:
            self._workspace.objects.read_blob_into(recipe, target, locations)
        except IntegrityError as error:
            raise unreadable(name, error) from error

    def entry(self, path: str) -> tuple[FileEntry, Recipe]:
        """One of the files, and the recipe of its content. Raises FileNotFoundError, IntegrityError."""
        number = self._number(path)
        return self._listed[number], self._looked_up(number)[0]

    def recipes(self, wanted: Collection[FileEntry]) -> dict[Digest, Recipe]:
        """The recipes of some of the files, by blob. Raises IntegrityError."""
        stored = self._workspace.catalog.index.recipes({file.digest for file in wanted})
        return {file.digest: stored.get(file.digest) or _of_one_chunk(file) for file in wanted}

    def read(self, paths: Sequence[str]) -> Iterator[bytes]:
        """The bytes of each of these files in turn, small ones together. Raises FileNotFoundError, IntegrityError."""
        index = self._workspace.catalog.index
        for batch in _batches([self._listed[self._number(path)] for path in paths]):
            stored = index.recipes({file.digest for file in batch})
            recipes = [stored.get(file.digest) or _of_one_chunk(file) for file in batch]
            reading = self._bytes_of(recipes)
            for file in batch:
                try:
                    yield next(reading)
                except IntegrityError as error:
                    raise unreadable(f"{file.path} of {self._row.tag}", error) from error

    def _bytes_of(self, recipes: Sequence[Recipe]) -> Iterator[bytes]:
        objects = self._workspace.objects
        if recipes[0].size > _SMALL_BYTES:
            yield b"".join(objects.read_blob(recipes[0]))
        else:
            yield from objects.read_small_blobs(recipes)

    def _number(self, path: str) -> int:
        number = self._numbers.get(path)
        if number is None:
            stored = (number for number, file in enumerate(self._listed) if as_stored(file.path) == path)
            number = next(stored, None)
        if number is None:
            raise FileNotFoundError(f"{self._row.tag} has no file {path!r}; model.files lists what it has")
        return number

    def _looked_up(self, number: int) -> tuple[Recipe, Locations | None]:
        """A file's recipe and, of a small one, where its chunks were when it was looked up."""
        file = self._listed[number]
        index = self._workspace.catalog.index
        if file.size > _SMALL_BYTES:
            return index.recipes([file.digest]).get(file.digest) or _of_one_chunk(file), None
        found = self._found
        if number not in found.numbers:
            is_run = number == found.numbers.stop and number > 0
            count = min(4 * len(found.numbers), _LARGEST_LOOK_UP) if is_run else _FIRST_LOOK_UP
            numbers = range(number, min(number + count, len(self._listed)))
            small = [each for each in self._listed[number : numbers.stop] if each.size <= _SMALL_BYTES]
            stored = index.recipes({each.digest for each in small})
            recipes = {each.digest: stored.get(each.digest) or _of_one_chunk(each) for each in small}
            found = self._found = _LookedUp(numbers, recipes, self._workspace.objects.look_up(recipes.values()))
        return found.recipes[file.digest], found.locations


def _batches(files: Iterable[FileEntry]) -> Iterator[list[FileEntry]]:
    """The files in their order: a large one by itself, and as many small ones as are read together."""
    batch: list[FileEntry] = []
    size = 0
    for file in files:
        size += file.size
        if batch and (size > _BATCH_BYTES or len(batch) == _LARGEST_LOOK_UP or file.size > _SMALL_BYTES):
            yield batch
            batch, size = [], file.size
        batch.append(file)
        if file.size > _SMALL_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _of_one_chunk(file: FileEntry) -> Recipe:
    return Recipe.of_one_chunk(file.digest, file.size)
