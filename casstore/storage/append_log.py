"""Files that are only ever appended to: lines of JSON, each with a digest of its own.

What only the catalog knows and no manifest says is written in them too, so that a new catalog can be made from them.
A line that a crash has cut, or that is damaged otherwise, is passed over: the others stand by themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from casstore.digest import Digest
from casstore.plain_json import canonical_json
from casstore.storage import files

_CHECK = "check"
_CHECK_CHARACTERS = 16
_MOST_BYTES = 1 << 30
_END_BYTES = 64 << 10


class Lines(NamedTuple):
    """What a log says, in order, and how many lines of it are damaged. The last may be what a crash has left."""

    documents: list[dict[str, Any]]
    damaged: int


def append(path: Path, documents: Iterable[Mapping[str, Any]]) -> None:
    """Add these lines, which are on disk when it returns. The file and its directory are made where they are missing.

    Whoever calls it sees to it that nobody else appends meanwhile. Raises OSError; some of the lines may be there then.
    """
    files.append(path, written(documents))


def read(path: Path) -> Lines:
    """The sound lines of a log; none where there is no such file. Raises OSError."""
    try:
        data = files.read_file(path, _MOST_BYTES)
    except FileNotFoundError:
        return Lines([], 0)
    found, damaged = [], 0
    for line in data.split(b"\n"):
        if line:
            document = _parsed(line)
            found += [] if document is None else [document]
            damaged += document is None
    return Lines(found, damaged)


def last(path: Path) -> dict[str, Any] | None:
    """The last sound line of a log, of which only the end is read; None where there is none there. Raises OSError."""
    try:
        with files.open_regular(path) as descriptor:
            size = os.fstat(descriptor).st_size
            end = os.pread(descriptor, _END_BYTES, max(0, size - _END_BYTES))
    except FileNotFoundError:
        return None
    parsed = (_parsed(line) for line in reversed(end.split(b"\n")) if line)
    return next((each for each in parsed if each is not None), None)


def written(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of a log that says this, as they stand in its file."""
    return "".join(f"{canonical_json({**document, _CHECK: _check(document)})}\n" for document in documents).encode(
        "utf-8"
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
        check = document.pop(_CHECK)
        return document if check == _check(document) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _check(document: Mapping[str, Any]) -> str:
    return Digest.of(canonical_json(document).encode("utf-8")).hex()[:_CHECK_CHARACTERS]
