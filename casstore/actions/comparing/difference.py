"""What a comparison finds, as values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from casstore.actions.tensors.info import TensorInfo

_DIGITS = re.compile(r"(\d+)")


class Change(str, Enum):
    """What became of a file, a value or a tensor.

    `RENAMED` has the same bytes under another name. Of tensors alone: `RESHAPED` has another shape, `DTYPE` another
    dtype, and `UNKNOWN` is a part of a PyTorch storage in which something has changed, perhaps elsewhere: reading the
    values tells.
    """

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    CHANGED = "changed"
    RESHAPED = "reshaped"
    DTYPE = "dtype"
    UNKNOWN = "unknown"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not in both under one path with the same bytes.

    Attributes
    ----------
    change
        ADDED, REMOVED, RENAMED or CHANGED; the last also where a file only became executable, or no longer is.
    path
        Its path, with a "/" at the end for an empty directory; where it was renamed or changed, that in the new one.
    old_path
        Where it was before; None for a file that was added.
    old_size, new_size
        Bytes; None on the side that does not have it.
    share
        Of a file that was changed: the share of its bytes that stand in chunks which the old one does not have.
    old_executable, new_executable
        Whether it may be run; False on the side that does not have it.
    """

    change: Change
    path: str
    old_path: str | None
    old_size: int | None
    new_size: int | None
    share: float | None = None
    old_executable: bool = False
    new_executable: bool = False


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A value in a document, or among labels or metadata, that is not the same.

    Attributes
    ----------
    change
        ADDED, REMOVED or CHANGED.
    path
        Where it stands: `$.layers[3].size` in a document; in labels and metadata without `$.`. A key that is not a
        plain word stands in brackets and quotes: `$["a.b"]`. What was removed is at its place in the old one.
    old, new
        The values; None on the side that does not have one.
    """

    change: Change
    path: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the metadata that is not the same.

    Attributes
    ----------
    path
        Where it stands in the metadata, such as `metrics.f1`.
    old, new
        The numbers; None on the side that does not have it.
    """

    path: str
    old: float | None
    new: float | None

    @property
    def change(self) -> float | None:
        """The new number less the old one, so positive where it grew; None where one is missing."""
        return None if self.old is None or self.new is None else self.new - self.old


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """A JSON or YAML file that is in both and was changed.

    Attributes
    ----------
    path
        The file.
    changes
        What differs in it, in its order; empty where only its layout does, or where `problem` says why nothing is
        known.
    more
        How many changes there are beyond those.
    problem
        Why it could not be compared: too large, no JSON, damaged. Empty where it was.
    """

    path: str
    changes: tuple[ValueChange, ...] = ()
    more: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Values:
    """How the numbers of a tensor have changed. d is the new number less the old one, where both are finite.

    Attributes
    ----------
    elements
        How many there are.
    max_abs
        The largest |d|.
    rms
        The root of the mean of |d|².
    relative
        The Euclidean norm of d by that of the old numbers; None where the old ones are all zero.
    cosine
        Of the angle between old and new; None where one of them is all zero.
    changed
        The share of the elements whose bits differ; where the dtype does, of those whose numbers do.
    new_nan, new_inf
        How many are NaN, or infinite, now and were not.
    norm
        The Euclidean norm of the old numbers.
    """

    elements: int
    max_abs: float
    rms: float
    relative: float | None
    cosine: float | None
    changed: float
    new_nan: int
    new_inf: int
    norm: float


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor of either side, also one that is the same.

    Attributes
    ----------
    change
        What became of it.
    old, new
        The tensor on each side; None where it is not there.
    share
        The share of its bytes that stand in chunks which the old one does not have; None where one is missing.
    values
        How its numbers changed, where that was asked for and could be told.
    problem
        Why they could not be told; empty otherwise.
    """

    change: Change
    old: TensorInfo | None
    new: TensorInfo | None
    share: float | None = None
    values: Values | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """Its name, the new one where it was renamed."""
        either = self.new or self.old
        return "" if either is None else either.name

    @property
    def layer(self) -> str:
        """The layer that it belongs to: its name up to the first number in it, else without its last part."""
        return layer_of(self.name)


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of a layer.

    Attributes
    ----------
    name
        What their names begin with, such as `encoder.layer.11`; empty for those of no layer.
    tensors
        The tensors, by name or, where numbers were compared, those first that changed most.
    """

    name: str
    tensors: tuple[TensorChange, ...]

    @property
    def counts(self) -> dict[Change, int]:
        """How many tensors each change has befallen."""
        return counts_of(self.tensors)

    @property
    def share(self) -> float:
        """The share of bytes in chunks which the old tensor does not have, of the tensors that are in both."""
        both = [(each.new.size, each.share) for each in self.tensors if each.new is not None and each.share is not None]
        total = sum(size for size, _ in both)
        return sum(size * share for size, share in both) / total if total else 0.0

    @property
    def relative(self) -> float | None:
        """The norm of all changes by that of the old numbers, of the tensors whose numbers were compared."""
        values = [each.values for each in self.tensors if each.values is not None]
        norm = math.hypot(*(each.norm for each in values))
        return math.hypot(*(each.rms * math.sqrt(each.elements) for each in values)) / norm if norm else None


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two versions, or a version and a directory: see `Store.diff`.

    Attributes
    ----------
    old, new
        The tags, or the path of the directory.
    files
        Files that were added, removed, renamed or changed, by path.
    same_files
        How many are in both under one path with the same bytes.
    documents
        The JSON and YAML files among those that were changed, with what differs in them.
    labels
        Labels that differ. A directory has neither labels nor metadata, and these are not compared with it.
    metadata
        Values of the metadata that differ and are not numbers.
    metrics
        Numbers of the metadata that differ.
    tensors
        All tensors of either side, in the order of their names, numbers by size.
    damage
        What could not be read, one line each; the rest has been compared.
    """

    old: str
    new: str
    files: tuple[FileChange, ...] = ()
    same_files: int = 0
    documents: tuple[DocumentChange, ...] = ()
    labels: tuple[ValueChange, ...] = ()
    metadata: tuple[ValueChange, ...] = ()
    metrics: tuple[Metric, ...] = ()
    tensors: tuple[TensorChange, ...] = ()
    damage: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether files, labels and metadata are all the same."""
        return not (self.files or self.labels or self.metadata or self.metrics)

    @property
    def counts(self) -> dict[Change, int]:
        """How many tensors each change has befallen."""
        return counts_of(self.tensors)

    @property
    def layers(self) -> Sequence[Layer]:
        """The tensors by layer: in the order of their names, or those first that changed most where numbers were
        compared."""
        by_name: dict[str, list[TensorChange]] = {}
        for each in self.tensors:
            by_name.setdefault(each.layer, []).append(each)
        layers = [Layer(name, tuple(sorted(found, key=_extent))) for name, found in by_name.items()]
        return sorted(layers, key=lambda layer: -(layer.relative or 0.0))


def _extent(tensor: TensorChange) -> float:
    return 0.0 if tensor.values is None else -(tensor.values.relative or 0.0)


def counts_of(tensors: Iterable[TensorChange]) -> dict[Change, int]:
    """How many tensors each change has befallen, those that none has left out."""
    counts: dict[Change, int] = {}
    for each in tensors:
        counts[each.change] = counts.get(each.change, 0) + 1
    return {change: counts[change] for change in Change if change in counts}


def layer_of(name: str) -> str:
    """What a tensor's name begins with, to the first part that is a number; without its last part if none is."""
    parts = name.split(".")
    for number, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: number + 1])
    return ".".join(parts[:-1])


def by_name(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which names are sorted, `layer.2` before `layer.10`."""
    parts = _DIGITS.split(name)
    return tuple([(0, int(part), part) if part.isdecimal() and len(part) < 20 else (1, 0, part) for part in parts])
