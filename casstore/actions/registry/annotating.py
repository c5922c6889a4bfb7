"""Annotations: labels and metrics that are known only after the save, beside a version that never changes.

The catalog is the truth. Each is written into annotations/<name>.log too, after the transaction and before the call
returns; what a crash has kept from it is appended by the next annotation of the name, or by gc.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from casstore.actions.workspace import Workspace
from casstore.annotated import LABEL, METRIC, METRICS, Annotation, check_size, checked_metrics, place_of
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import InvalidMetadata, TagNotFound
from casstore.late_classes import dataclass
from casstore.plain_json import checked_text, plain_labels
from casstore.storage import annotation_log, files
from casstore.storage.annotation_log import Subject
from casstore.storage.layout import new_id
from casstore.storage.machine import who

_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be said of a version."""

    labels: Mapping[str, str]
    metrics: Mapping[str, float]
    remove: tuple[str, ...]

    @classmethod
    def checked(cls, labels: Any, metrics: Any, remove: str | Iterable[str]) -> Wanted:
        """What a caller has given. Raises InvalidMetadata."""
        keys = [remove] if isinstance(remove, str) else list(remove)
        wanted = cls(
            plain_labels(labels), checked_metrics(metrics), tuple(checked_text("remove", str(key)) for key in keys)
        )
        check_size(wanted.labels, wanted.metrics)
        if not (wanted.labels or wanted.metrics or wanted.remove):
            raise InvalidMetadata("there is nothing to say: give labels, metrics, or what to remove")
        return wanted


def annotate(workspace: Workspace, row: VersionRow, wanted: Wanted) -> VersionRow:
    """Say it of the version; returns its row as it is then. What holds already is not said again.

    Raises InvalidMetadata, TagNotFound for a version that is gone, StoreLocked, OSError when it may not be in the log
    yet.
    """
    path = workspace.layout.annotation_log(row.name)
    with workspace.name_lock(row.name):
        number = _complete(workspace, row.name, after=annotation_log.last_number(path))
        current = workspace.catalog.versions.by_id(row.id)
        if current is not None and current.tag != row.tag:  # brought back from the trash meanwhile, under another tag
            current = None
        changes = [] if current is None else _changes(current, wanted)
        if changes:
            now_ns, actor = time.time_ns(), who()
            new = [Annotation(number + place, *change, now_ns, actor) for place, change in enumerate(changes, 1)]
            current = workspace.catalog.annotations.add(row, new)
            if current is not None:
                annotation_log.append(path, [(_subject(row), each) for each in new])
        if current is None:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        return current


def _subject(row: VersionRow) -> Subject:
    return Subject(row.version, row.created_at_ns, Digest(row.digest).hex())


def _complete(workspace: Workspace, name: str, *, after: int) -> int:
    """Append to a log what it lacks after that number; returns the number of its last line then."""
    lacking = _said(workspace, name, after=after)
    annotation_log.append(workspace.layout.annotation_log(name), lacking)
    return max((each.number for _, each in lacking), default=after)


def _changes(row: VersionRow, wanted: Wanted) -> list[tuple[str, str, str | float | None]]:
    """Kind, key and value of what is to change. Raises InvalidMetadata."""
    later, saved = row.said_later(), row.described()
    labels, metadata = later.labels_over(saved.labels), later.metadata_over(saved.numbers)
    found = metadata.get(METRICS)
    metrics: dict[str, Any] = found if isinstance(found, dict) else {}
    gone = {(LABEL, key) for key, value in later.labels.items() if value is None}
    gone |= {(METRIC, key) for key, value in later.metrics.items() if value is None}
    changes: dict[tuple[str, str], str | float | None] = {}
    for key in wanted.remove:
        doomed = _doomed(row, key, labels, metrics, gone)
        if doomed not in gone:
            changes[doomed] = None
    for key, text in wanted.labels.items():
        _check_once(changes, (LABEL, key))
        if labels.get(key) != text:
            changes[LABEL, key] = text
    for key, value in wanted.metrics.items():
        _check_once(changes, (METRIC, key))
        place = place_of(metrics, key)
        if place is None or not _same(place[0][place[1]], value):
            changes[METRIC, key] = value
    return [(*kind_and_key, value) for kind_and_key, value in changes.items()]


def _same(held: object, value: float) -> bool:
    return type(held) is type(value) and (held == value or (held != held and value != value))


def _check_once(changes: Mapping[tuple[str, str], object], change: tuple[str, str]) -> None:
    if change in changes:
        raise InvalidMetadata(f"the {change[0]} {change[1]!r:.60} is both set and removed; do one of them")


def _doomed(
    row: VersionRow, key: str, labels: Mapping[str, str], metrics: dict[str, Any], gone: set[tuple[str, str]]
) -> tuple[str, str]:
    """The label or metric that is to be removed: `labels.X` and `metrics.X` say which it is. Raises InvalidMetadata."""
    meant = [(LABEL, key), (METRIC, key)]
    meant += [(kind, key.removeprefix(f"{kind}s.")) for kind in (LABEL, METRIC) if key.startswith(f"{kind}s.")]
    there = [each for each in meant if (each[1] in labels if each[0] == LABEL else place_of(metrics, each[1]))]
    if len(there) > 1:
        raise InvalidMetadata(f"{row.tag} has both a label and a metric {key!r:.60}; say labels.{key} or metrics.{key}")
    for each in there or [each for each in meant if each in gone]:
        return each
    has = ", ".join([*(f"labels.{each}" for each in labels), *(f"metrics.{each}" for each in metrics)][:_MOST_SHOWN])
    raise InvalidMetadata(f"{row.tag} has no label and no metric {key!r:.60}; it has {has or 'none at all'}")


def complete_logs(workspace: Workspace) -> None:
    """Append to the logs of all names what they lack. Raises StoreLocked, OSError."""
    for name in workspace.catalog.annotations.names():
        path = workspace.layout.annotation_log(name)
        if _lacking(workspace, name, annotation_log.read(path).said):
            with workspace.name_lock(name):
                complete_log(workspace, name)


def complete_log(workspace: Workspace, name: str) -> None:
    """Append to the log of a name what it lacks. The name's lock must be held. Raises OSError."""
    path = workspace.layout.annotation_log(name)
    annotation_log.append(path, _lacking(workspace, name, annotation_log.read(path).said))


def _lacking(
    workspace: Workspace, name: str, said: Mapping[Subject, Mapping[int, Annotation]]
) -> list[tuple[Subject, Annotation]]:
    return [pair for pair in _said(workspace, name) if pair[1].number not in said.get(pair[0], {})]


def _said(workspace: Workspace, name: str, *, after: int = 0) -> list[tuple[Subject, Annotation]]:
    """What the catalog has of a name after that number, the oldest first."""
    found = workspace.catalog.annotations.of_name(name, after=after)
    return [(Subject(each.version, each.created_at_ns, Digest(each.digest).hex()), each.annotation) for each in found]


def damaged_logs(workspace: Workspace, names: Iterable[str] | None = None) -> dict[Path, str]:
    """Logs with damaged lines, or that cannot be read, and what to say of each."""
    directory = workspace.layout.annotations
    if names is None:
        paths = sorted(directory.glob("*.log")) if directory.is_dir() else []
    else:
        paths = [workspace.layout.annotation_log(name) for name in names]
    found = {}
    for path in paths:
        try:
            damaged = annotation_log.read(path).damaged
        except OSError as error:
            files.raise_unless_damage(error)
            found[path] = f"{path}: {error.strerror}; the catalog says what it said; `casstore repair` writes it again"
            continue
        if damaged:
            lines = "a line is" if damaged == 1 else f"{damaged:,} lines are"
            found[path] = (
                f"{path}: {lines} damaged; the catalog has what versions need of it; `casstore repair` writes it again"
            )
    return found


def write_again(workspace: Workspace, path: Path) -> Path | None:
    """Write a damaged log again, from its sound lines and the catalog; returns where the damaged one is now."""
    name, kept = path.stem, workspace.layout.quarantine / f"{new_id()}.{path.name}"
    with workspace.session() as session, workspace.name_lock(name):
        said: Mapping[Subject, Mapping[int, Annotation]] = {}
        try:
            log = annotation_log.read(path)
            if not log.damaged:
                return None
            said = log.said
            mode = workspace.file_mode(executable=False)
            files.write_file(kept, path.read_bytes(), mode, temporary=session.new_path(), durable=True)
        except OSError as error:
            files.raise_unless_damage(error)
            files.move(path, kept)
        lines = [(subject, each) for subject, several in said.items() for each in several.values()]
        lines += _lacking(workspace, name, said)
        new = session.new_path()
        annotation_log.append(new, sorted(lines, key=lambda pair: pair[1].number))
        if lines:
            files.rename(new, path)
        files.sync_directory(path.parent)
    return kept


def history(workspace: Workspace, row: VersionRow) -> Sequence[Annotation]:
    """All that was said of a version after its save, the oldest first."""
    return workspace.catalog.annotations.of(row.id)
