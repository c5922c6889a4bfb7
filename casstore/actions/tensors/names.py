"""The names of parameters in PyTorch's files: all that is read for them is the archive's directory and its pickle."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.parameters import Strided, find_parameters
from casstore.storage.tensors.segments import ReadAt
from casstore.storage.tensors.zips import read_torch_pickle


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


class Names:
    """The parameters of PyTorch's files, each file and each pickle read once: to read a pickle takes longest of all."""

    def __init__(self) -> None:
        self._of_blobs: dict[Digest, Mapping[str, Strided]] = {}
        self._of_pickles: dict[bytes, Mapping[str, Strided]] = {}

    def of(self, recipe: Recipe, opened: Callable[[], AbstractContextManager[ReadAt]]) -> Mapping[str, Strided]:
        """The parameters of a file; `opened` opens it. Raises what that raises, and what its reader does."""
        blob = recipe.blob
        if blob not in self._of_blobs:
            with opened() as read:
                pickle = read_torch_pickle(read, recipe.size)
            if pickle not in self._of_pickles:
                self._of_pickles[pickle] = find_parameters(pickle)
            self._of_blobs[blob] = self._of_pickles[pickle]
        return self._of_blobs[blob]
