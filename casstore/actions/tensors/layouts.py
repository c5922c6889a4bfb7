"""How the elements of a tensor lie in its file, so that they can be laid over memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from typing import BinaryIO, NamedTuple

from casstore.actions.tensors.index import Found
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.segments import ELEMENT_BITS
from casstore.storage.tensors.strides import contiguous
from casstore.storage.tensors.zips import is_fortran

# What stands before an array in an .npz is shorter.
_NPY_HEADER_BYTES = 12_000


@dataclass(frozen=True, slots=True)
class Layout:
    """Elements of a dtype in safetensors' words: where the first stands in the file, and strides in elements.

    GGUF's quantized blocks are bytes, "U8", in rows.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return ELEMENT_BITS[self.dtype] // 8

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        if 0 in self.shape:
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (1 + reach) * self.width

    @property
    def stop(self) -> int:
        return self.start + self.span

    def rows(self, start: int, stop: int) -> Layout:
        """Those of its rows, by the first dimension."""
        first = self.start + start * self.strides[0] * self.width if start < stop else self.start
        return replace(self, shape=(max(0, stop - start), *self.shape[1:]), start=first)


class Located(NamedTuple):
    """A tensor that can be read, and how."""

    found: Found
    layout: Layout


def locate(objects: Objects, name: str, wanted: Mapping[str, Found]) -> dict[str, Located]:
    """How tensors lie in their files; of arrays in an .npz, headers are read. `name`: what errors call the version.

    Raises TypeError for one of a dtype that is not known here, IntegrityError, OSError.
    """
    with closing(_Headers(objects, name)) as headers:
        return {key: _located(headers, name, found) for key, found in wanted.items()}


def _located(headers: _Headers, name: str, found: Found) -> Located:
    placed = found.placed
    info = placed.info
    kind = found.recipe.plan.partition("/")[0]
    dtype, shape, strides = info.dtype, info.shape, placed.strides
    if dtype is None or shape is None or dtype not in ELEMENT_BITS or (info.size and placed.arranged is None):
        if kind != "gguf" or dtype is None or shape is None or dtype in ELEMENT_BITS:
            raise TypeError(_unknown(name, found))
        dtype, shape = "U8", _rows_of_bytes(shape, info.size)
        strides = contiguous(shape)
    may_be_fortran = kind in ("npz", "zips") and not placed.is_pickled and len(shape) > 1 and info.size
    if may_be_fortran and headers.say_fortran(found):
        strides = tuple(reversed(contiguous(shape[::-1])))
    return Located(found, Layout(dtype, shape, strides, placed.start))


def _rows_of_bytes(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The shape of quantized blocks as bytes: the innermost dimension is counted in those."""
    rows = prod(shape[:-1])
    return (*shape[:-1], size // rows) if rows and size % rows == 0 else (size,)


class _Headers:
    """What stands before the arrays in .npz files. A file is opened once for all its arrays."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects = objects
        self._name = name
        self._recipe: Recipe | None = None
        self._file: BinaryIO = BytesIO()

    def say_fortran(self, found: Found) -> bool:
        if found.recipe is not self._recipe:
            self._file.close()
            self._file = self._objects.open_blob(found.recipe, f"{found.info.file} of {self._name}")
            self._recipe = found.recipe
        start = max(0, found.placed.start - _NPY_HEADER_BYTES)
        self._file.seek(start)
        return is_fortran(self._file.read(found.placed.start - start))

    def close(self) -> None:
        self._file.close()


def _unknown(name: str, found: Found) -> str:
    info = found.info
    what = "an unknown dtype" if info.dtype is None else f"dtype {info.dtype}"
    return (
        f"{info.name} in {info.file} of {name} has {what}, or is stored in a way that is not known here; "
        f"model.open({info.file!r}) reads the file's bytes"
    )
