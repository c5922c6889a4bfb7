"""The `safe_open` of the package safetensors, for versions: code that calls that reads a version without files."""

from __future__ import annotations

import json
from operator import index as as_index
from typing import Any

from casstore.actions.tensors import arrays, loading
from casstore.actions.tensors.index import Found, NoTensors, TensorNotThere, Tensors
from casstore.model import Model
from casstore.remotes import RemoteModel

__all__ = ["safe_open"]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class safe_open:  # noqa: N801 - the name that it has in safetensors
    """Opens the safetensors files of a version as one, and gives tensors as they are asked for.

    Of a sharded model, the files are those that its index lists, so that names are found in whatever shard. What is
    read is decoded from the chunks in which a tensor stands, and checked.

    Parameters
    ----------
    model
        The version.
    framework
        "pt" (or "torch") or "np" (or "numpy").
    device
        Where PyTorch is to have the tensors.
    file
        Only this file, or files that match a pattern.

    Raises
    ------
    FileNotFoundError
        The version has no such safetensors file, or lacks one that an index of shards lists.
    KeyError
        An index of shards lists a tensor that its shard does not have.
    ValueError
        Two of the files have different tensors of one name; one cannot be read; or `framework` is neither.
    TypeError
        `model` is not a version.
    ModuleNotFoundError
        PyTorch is not installed.
    IntegrityError
        The stored bytes are damaged.
    TagNotFound
        The version has been deleted.
    """

    def __init__(
        self, model: Model | RemoteModel, framework: str, device: Any = "cpu", *, file: str | None = None
    ) -> None:
        if not isinstance(model, Model | RemoteModel):
            raise TypeError(f"safe_open takes a version, such as store.get({str(model)!r}), not {model!r}")
        self._model = model
        self._framework = arrays.framework(framework, device)
        self._tensors: Tensors = model._tensors()
        try:
            self._found = self._tensors.weights(None, file, ("safetensors",))
        except NoTensors:
            what = "no safetensors file" if file is None else f"no tensors in a safetensors file {file!r}"
            raise FileNotFoundError(f"{model.tag} has {what}; model.tensors() lists what it has") from None

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def keys(self) -> list[str]:
        """Give the names of all tensors, sorted."""
        return sorted(self._found)

    def offset_keys(self) -> list[str]:
        """Give the names of all tensors, in the order in which they are stored."""
        return list(self._found)

    def metadata(self) -> dict[str, str] | None:
        """Read what stands under `__metadata__` in the headers of the files.

        Returns
        -------
        dict | None
            Of the first file that says it; None where nothing is said.

        Raises
        ------
        IntegrityError
            The stored bytes are damaged.
        """
        said: dict[str, str] = {}
        for path in dict.fromkeys(each.info.file for each in self._found.values()):
            with self._model.open(path) as file:
                length = min(int.from_bytes(file.read(8), "little"), _MAX_HEADER_BYTES)
                header = json.loads(file.read(length))
            said = {**header.get("__metadata__", {}), **said}
        return said or None

    def get_tensor(self, name: str) -> Any:
        """Read a tensor.

        Parameters
        ----------
        name
            One of `keys`.

        Returns
        -------
        numpy.ndarray | torch.Tensor
            Memory of its own.

        Raises
        ------
        KeyError
            There is none of that name; the text names the nearest.
        TypeError
            The framework has no such dtype.
        IntegrityError
            The stored bytes are damaged.
        """
        return loading.load_one(self._tensors.source, self._named(name), self._framework, None)

    def get_slice(self, name: str) -> SafeSlice:
        """Give a tensor of which only a part is read: `get_slice(name)[10:20]`, `[:, 5]`, `[...]`.

        Parameters
        ----------
        name
            One of `keys`.

        Returns
        -------
        SafeSlice
            What has `get_shape`, `get_dtype`, and is sliced. Only the chunks of its rows are read.

        Raises
        ------
        KeyError
            There is none of that name; the text names the nearest.
        """
        return SafeSlice(self._tensors, self._named(name), self._framework)

    def _named(self, name: str) -> Found:
        if name not in self._found:
            near = self._tensors.nearest(name, self._found)
            advice = "" if near is None else f"; did you mean {near!r}?"
            raise TensorNotThere(f"{self._model.tag} has no tensor {name!r} in a safetensors file{advice}")
        return self._found[name]


class SafeSlice:
    """A tensor that is read when it is sliced: only the chunks of its rows, those of the first dimension."""

    def __init__(self, tensors: Tensors, found: Found, framework: arrays.Framework) -> None:
        self._tensors = tensors
        self._found = found
        self._framework = framework

    def get_shape(self) -> list[int]:
        """Its dimensions."""
        return list(self._found.info.shape or ())

    def get_dtype(self) -> str | None:
        """Its dtype in safetensors' words, such as "F32"."""
        return self._found.info.dtype

    def __getitem__(self, wanted: Any) -> Any:
        """Read a part: integers, slices that go forward, and an ellipsis. Raises IndexError, TypeError, ValueError."""
        parts = wanted if isinstance(wanted, tuple) else (wanted,)
        for part in parts:
            if part is not Ellipsis and not isinstance(part, slice) and not hasattr(part, "__index__"):
                raise TypeError(f"a tensor is sliced by integers, slices and ..., not by {part!r}")
            if isinstance(part, slice) and part.step is not None and part.step < 1:
                raise ValueError(f"a slice of a tensor goes forward, not by {part.step}")
        shape = self.get_shape()
        if len([part for part in parts if part is not Ellipsis]) > len(shape):
            raise IndexError(f"{self._found.info.name} has {len(shape)} dimensions, and {len(parts)} are sliced")
        rows: slice | None = None
        if parts and shape and parts[0] is not Ellipsis:
            rows, first = _of_rows(parts[0], shape[0])
            parts = (first, *parts[1:])
        whole = loading.load_one(self._tensors.source, self._found, self._framework, rows)
        return self._framework.part(whole, parts)


def _of_rows(part: Any, count: int) -> tuple[slice, Any]:
    """The rows that are to be read for a part of the first dimension, and what is taken of those."""
    if isinstance(part, slice):
        start, stop, step = part.indices(count)
        return slice(start, max(start, stop)), slice(None, None, step)
    number = as_index(part)
    if not -count <= number < count:
        raise IndexError(f"row {number} of {count} rows")
    return slice(number % count, number % count + 1), 0
