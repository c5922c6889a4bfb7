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
_LINE_BYTES = 2 << 10  # more than most lines have
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
    found, damaged, _ = _split(_content(path))
    return Lines(found, damaged)


def settled(path: Path) -> Lines:
    """As `read`, but damaged lines at the end do not count: a crash may have left them, and `drop_cut` drops them."""
    data = _content(path)
    found, damaged, sound_bytes = _split(data)
    return Lines(found, damaged - sum(map(bool, data[sound_bytes:].split(b"\n"))))


def last(path: Path) -> dict[str, Any] | None:
    """The last line that is sound; None where there is none. Of a long log only the end is read. Raises OSError."""
    for most in (_LINE_BYTES, _END_BYTES, _MOST_BYTES):
        for line in reversed(_content(path, most).split(b"\n")):
            if line and (document := _parsed(line)) is not None:
                return document
    return None


def drop_cut(path: Path) -> None:
    """Drop damaged lines at the end, as a crash leaves them. Whoever calls it has seen to it that nobody else appends.

    Raises OSError.
    """
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return
    for most in (_END_BYTES, _MOST_BYTES):
        data = _content(path, most)
        found, _, sound_bytes = _split(data)
        if found or size <= most:
            if sound_bytes < len(data):
                files.shorten(path, size - len(data) + sound_bytes)
            return


def _content(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The whole lines in the last bytes of a log; nothing where there is no such file."""
    try:
        if most == _MOST_BYTES:
            return files.read_file(path, most)
        with files.open_regular(path) as descriptor:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, most, max(0, size - most))
    except FileNotFoundError:
        return b""
    return data if size <= most else data.partition(b"\n")[2]


def _split(data: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """The sound lines, how many are damaged, and where the last sound line ends."""
    found: list[dict[str, Any]] = []
    damaged = place = sound_bytes = 0
    for line in data.split(b"\n"):
        place += len(line) + 1
        document = _parsed(line) if line else None
        if document is not None:
            found.append(document)
            sound_bytes = min(place, len(data))
        damaged += bool(line) and document is None
    return found, damaged, sound_bytes


def written(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of a log that says this, as they stand in its file."""
    return "".join(f"{canonical_json({**document, _CHECK: _check(document)})}\n" for document in documents).encode(
        "utf-8"
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
        del document[_CHECK]
        return document if written([document]) == line + b"\n" else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _check(document: Mapping[str, Any]) -> str:
    return Digest.of(canonical_json(document).encode("utf-8")).hex()[:_CHECK_CHARACTERS]
