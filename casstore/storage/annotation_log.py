"""annotations/<name>.log: each change of what is said of the versions of a name after their save.

A line says which version it is about by what no other has: its version, the time of its making, and its digest. So
what is saved anew under the tag of a deleted version inherits nothing, and what comes back gets its own again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

from casstore.annotated import LABEL, METRIC, Annotation, as_kept, as_said
from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.storage import append_log
from casstore.storage.manifest import Manifest


class Subject(NamedTuple):
    """The version that a line is about. `digest` is in hexadecimal digits."""

    version: str
    created_at_ns: int
    digest: str

    @classmethod
    def of(cls, manifest: Manifest) -> Subject:
        return cls(manifest.tag.version, manifest.created_at_ns, Digest(manifest.digest).hex())


@dataclass(frozen=True, slots=True)
class AnnotationLog:
    """What a log says: annotations by their subjects, each with its number, and how many lines are damaged, but for
    those at the end, which a crash may have left."""

    said: dict[Subject, dict[int, Annotation]] = field(default_factory=dict)
    damaged: int = 0

    def of(self, subject: Subject) -> list[Annotation]:
        """The annotations of a version, the oldest first."""
        return [each for _, each in sorted(self.said.get(subject, {}).items())]


def read(path: Path) -> AnnotationLog:
    """What the log says; nothing where there is none. Raises OSError."""
    lines = append_log.settled(path)
    log = AnnotationLog(damaged=lines.damaged)
    for document in lines.documents:
        for subject, annotation in _parsed(document):
            log.said.setdefault(subject, {})[annotation.number] = annotation
    return log


def last_number(path: Path) -> int:
    """The largest number in the last line that is sound; 0 where there is none. Raises OSError."""
    return max((each.number for _, each in _parsed(append_log.last(path) or {})), default=0)


def append(path: Path, said: Iterable[tuple[Subject, Annotation]]) -> None:
    """Add these, in one line; it is on disk when it returns. Raises OSError.

    So what a crash has left is the last line, or a part of it: those before it were synced before it was begun.
    """
    entries = [
        {**subject._asdict(), **annotation._asdict(), "value": as_kept(annotation.value)}
        for subject, annotation in said
    ]
    if entries:
        append_log.drop_cut(path)
        append_log.append(path, [{_ENTRIES: entries}])


_ENTRIES = "annotations"


def _parsed(document: dict[str, Any]) -> list[tuple[Subject, Annotation]]:
    """A line's meaning. What a later release has written, which means something else, is passed over."""
    entries = document.get(_ENTRIES)
    parsed = map(_entry, entries) if isinstance(entries, list) else ()
    return [each for each in parsed if each is not None]


def _entry(document: Any) -> tuple[Subject, Annotation] | None:
    try:
        version, created_at_ns, digest = (document[name] for name in Subject._fields)
        number, kind, key, value, annotated_at_ns, actor = (document[name] for name in Annotation._fields)
        value = as_said(kind, value)
    except (LookupError, ValueError, TypeError):
        return None
    texts, numbers = (version, digest, kind, key, actor), (created_at_ns, number, annotated_at_ns)
    is_sound = all(type(each) is str for each in texts) and all(type(each) is int for each in numbers)
    if not is_sound or kind not in (LABEL, METRIC):
        return None
    return Subject(version, created_at_ns, digest), Annotation(number, kind, key, value, annotated_at_ns, actor)
