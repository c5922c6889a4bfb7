"""The names of parameters in PyTorch's files: all that is read for them is an archive's directory and its pickle."""

from __future__ import annotations

import contextlib
import errno
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import NamedTuple

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.distributed import MAX_METADATA_BYTES, Place, find_distributed, find_places
from casstore.storage.tensors.parameters import NAMELESS, Strided, find_parameters
from casstore.storage.tensors.segments import ReadAt
from casstore.storage.tensors.zips import read_torch_pickle

_ONE_TENSOR = {NAMELESS}


class DamagedRead(OSError):
    """An IntegrityError, for those who expect no such thing of a file."""

    def __init__(self, error: IntegrityError) -> None:
        super().__init__(errno.EIO, str(error))
        self.error = error


@contextlib.contextmanager
def reading(objects: Objects, recipe: Recipe, name: str) -> Iterator[ReadAt]:
    """A function that reads anywhere in a stored blob, for a `with` block. It raises OSError, and DamagedRead."""
    with objects.open_blob(recipe, name) as file:

        def read(offset: int, length: int) -> bytes:
            try:
                file.seek(offset)
                return file.read(length)
            except IntegrityError as error:  # zipfile would take it for a malformed archive
                raise DamagedRead(error) from error

        yield read


class Within(NamedTuple):
    """The files among which one stands: the recipe of the file at a path, if there is one, and how a file is opened."""

    recipe_at: Callable[[str], Recipe | None]
    opened: Callable[[str, Recipe], AbstractContextManager[ReadAt]]


class Names:
    """The parameters of PyTorch's files, each file and each pickle read once: to read a pickle takes longest of all."""

    def __init__(self) -> None:
        self._of_blobs: dict[Digest, Mapping[str, Strided]] = {}
        self._of_pickles: dict[bytes, Mapping[str, Strided]] = {}
        self._places: dict[Digest, dict[str, list[Place]]] = {}
        self._distributed: dict[tuple[Digest, Digest, str], Mapping[str, Strided]] = {}

    def of(self, path: str, recipe: Recipe, within: Within) -> Mapping[str, Strided]:
        """The parameters of a file, none where it is not PyTorch's. The key of each is the name of its segment.

        Raises what opening a file raises, and what its reader does.
        """
        kind = recipe.plan.partition("/")[0]
        if kind not in ("torch", "zips"):
            return {}
        own = {} if kind == "zips" else self._of_archive(path, recipe, within)
        # Other files are not asked of, so that one that is damaged takes nothing else away.
        if own and own.keys() != _ONE_TENSOR:
            return own
        return self._of_distributed(path, recipe, within) or own

    def _of_archive(self, path: str, recipe: Recipe, within: Within) -> Mapping[str, Strided]:
        """Those of one archive, by its own pickle."""
        blob = recipe.blob
        if blob not in self._of_blobs:
            with within.opened(path, recipe) as read:
                pickle = read_torch_pickle(read, recipe.size)
            if pickle not in self._of_pickles:
                found = find_parameters(pickle)
                self._of_pickles[pickle] = {name: each._replace(key=f"data/{each.key}") for name, each in found.items()}
            self._of_blobs[blob] = self._of_pickles[pickle]
        return self._of_blobs[blob]

    def _of_distributed(self, path: str, recipe: Recipe, within: Within) -> Mapping[str, Strided]:
        """Those of one archive, or of several, by the `.metadata` of torch.distributed.checkpoint beside."""
        directory, slash, name = path.rpartition("/")
        beside = f"{directory}{slash}.metadata"
        said = within.recipe_at(beside)
        if said is None or said.size > MAX_METADATA_BYTES:
            return {}
        if said.blob not in self._places:
            with within.opened(beside, said) as read:
                self._places[said.blob] = find_places(read(0, said.size))
        places = self._places[said.blob].get(name)
        if not places:
            return {}
        key = said.blob, recipe.blob, name
        if key not in self._distributed:
            with within.opened(path, recipe) as read:
                found = find_distributed(read, recipe.size, places)
            self._distributed[key] = _in_segments(recipe, found)
        return self._distributed[key]


def _in_segments(recipe: Recipe, found: Mapping[str, tuple[Place, Strided]]) -> dict[str, Strided]:
    """Tensors of archives by the segments in which they stand: of the first of several "0/data/0", and so on."""
    starts = accumulate((segment.length for segment in recipe.segments), initial=0)
    named = [(start, each.name) for start, each in zip(starts, recipe.segments, strict=False) if each.name is not None]
    parameters = {}
    for name, (place, tensor) in found.items():
        first = bisect_left(named, (place.offset, ""))
        # One of no bytes may have no segment.
        is_there = first < len(named) and named[first][0] < place.offset + place.length
        archive = named[first][1].partition("data/")[0] if is_there else "none/"
        parameters[name] = tensor._replace(key=f"{archive}data/{tensor.key}")
    return parameters
