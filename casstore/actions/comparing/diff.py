"""A comparison: both sides are looked at, then files, what is said of the versions, and tensors are compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from casstore.actions.comparing import documents
from casstore.actions.comparing.difference import Change, Diff, DocumentChange, FileChange, Metric, ValueChange
from casstore.actions.comparing.paths import file_changes, pairs_of
from casstore.actions.comparing.sides import Content, Side, fault, of_directory, of_version
from casstore.actions.comparing.tensors import matching, pairs, tensors_of
from casstore.actions.comparing.values import with_values
from casstore.actions.tensors.names import Names
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import IntegrityError
from casstore.progress import Progress

# Of one document; what lies beyond is counted.
MAX_CHANGES = 1000
_MAX_CHANGES_OF_METADATA = 100_000
_MOST_BITS = 1000  # of an integer that fits into a float


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to compare: the numbers of tensors too, and only tensors whose names match a pattern as of a shell."""

    values: bool = False
    tensors: str | None = None


def is_path(text: str) -> bool:
    """Whether this text is a path beyond doubt, which no tag can be."""
    return "/" in text or text.startswith((".", "~"))


def compare(workspace: Workspace, old: VersionRow, new: VersionRow | Path, wishes: Wishes, progress: Progress) -> Diff:
    """What differs between a version and another one, or files that are not saved. Nothing is written.

    Raises TagNotFound if a version has been deleted meanwhile, IntegrityError if the record of its files is damaged,
    InvalidSource for files that could not be saved, FileChanged, OSError.
    """
    before = of_version(workspace, old)
    after = of_directory(workspace, new, progress) if isinstance(new, Path) else of_version(workspace, new)
    paths = pairs_of(before, after)
    changed = file_changes(before, after, paths)
    damage = [*before.damage, *(line for line in after.damage if line not in before.damage)]
    names = Names()
    lists = [matching(tensors_of(side, names, damage), wishes.tensors) for side in (before, after)]
    found = pairs(lists[0], lists[1], paths)
    labels, metadata, metrics = _said(before, after)
    return Diff(
        old=before.name,
        new=after.name,
        files=tuple(changed),
        same_files=sum(path == other and before.files[other] == after.files[path] for path, other in paths.items()),
        documents=tuple(_documents(before, after, changed, damage)),
        labels=labels,
        metadata=metadata,
        metrics=metrics,
        tensors=tuple(with_values(found, damage, progress) if wishes.values else [pair.change for pair in found]),
        damage=tuple(damage),
    )


def _said(old: Side, new: Side) -> tuple[tuple[ValueChange, ...], tuple[ValueChange, ...], tuple[Metric, ...]]:
    """The labels, other metadata and numbers that differ; nothing for a side of which nothing is said."""
    if old.said is None or new.said is None:
        return (), (), ()
    labels = documents.changes(dict(old.said.labels), dict(new.said.labels), "")
    metadata, metrics = [], []
    differing = documents.changes(dict(old.said.metadata), dict(new.said.metadata), "")
    for change in islice(differing, _MAX_CHANGES_OF_METADATA):
        for each in _leaves(change):
            metric = _as_metric(each)
            if metric is None:
                metadata.append(each)
            else:
                metrics.append(metric)
    return tuple(labels), tuple(metadata), tuple(metrics)


def _leaves(change: ValueChange) -> list[ValueChange]:
    """What was added or removed as a mapping, by its values."""
    value = change.new if change.change is Change.ADDED else change.old
    if change.change is Change.CHANGED or not isinstance(value, dict) or not value:
        return [change]
    old, new = ({}, value) if change.change is Change.ADDED else (value, {})
    return [leaf for below in documents.changes(old, new, change.path) for leaf in _leaves(below)]


def _as_metric(change: ValueChange) -> Metric | None:
    """A change of a number, to a number; None for any other."""
    is_old = change.change is Change.ADDED or _is_number(change.old)
    is_new = change.change is Change.REMOVED or _is_number(change.new)
    return Metric(change.path, change.old, change.new) if is_old and is_new else None


def _is_number(value: object) -> bool:
    """Whether that is a number, and one that is not too large to be subtracted from another."""
    return type(value) is float or (type(value) is int and value.bit_length() < _MOST_BITS)


def _documents(old: Side, new: Side, changed: list[FileChange], damage: list[str]) -> list[DocumentChange]:
    found = []
    for file in changed:
        before, after = old.files.get(file.path), new.files.get(file.path)
        limit = documents.most_bytes(file.path)
        if file.change is not Change.CHANGED or before is None or after is None or before.digest == after.digest:
            continue
        if limit is not None:
            found.append(_document(file.path, old, new, limit, damage))
    return found


def _document(path: str, old: Side, new: Side, limit: int, damage: list[str]) -> DocumentChange:
    values = []
    for side in (old, new):
        file = side.files[path]
        if file.size > limit:
            return DocumentChange(path, problem=f"it is larger than {limit >> 20} MiB in {side.name}")
        recipe = side.recipes.get(file.digest)
        if recipe is None:
            return DocumentChange(path, problem=f"it is damaged in {side.name}")
        try:
            raw = b"".join(side.reader.chunks(Content(path, recipe), [*recipe.chunks()]))
        except (IntegrityError, OSError) as error:
            damage.append(f"{side.name} {path}: {fault(error)}")
            return DocumentChange(path, problem=f"it is damaged in {side.name}")
        try:
            values.append(documents.parse(path, raw))
        except ValueError as error:
            return DocumentChange(path, problem=f"in {side.name} {error}")
    try:
        differing = documents.changes(values[0], values[1])
        first = tuple(islice(differing, MAX_CHANGES))
        return DocumentChange(path, first, sum(1 for _ in differing))
    except RecursionError:
        return DocumentChange(path, problem="it nests too deep")
