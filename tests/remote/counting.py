"""A remote in a directory that counts what is asked of it, as an object store would bill it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from casstore.remote.backend import Entry
from casstore.remote.directory import DirectoryBackend


class Requests(Counter[str]):
    """How many requests of each kind were made, and `sent` and `received`: bytes of bodies."""

    @property
    def made(self) -> int:
        """All requests; listings of less than 1,000 objects are one each."""
        return sum(count for kind, count in self.items() if kind.isupper())

    def taken(self) -> dict[str, int]:
        """What was counted since this was last asked for."""
        found = {"total": self.made, **{kind: count for kind, count in sorted(self.items()) if count}}
        self.clear()
        return found


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Counts the requests to all remotes in directories."""
    counted = Requests()
    create, get = DirectoryBackend.create, DirectoryBackend.get
    get_range, list_, delete = DirectoryBackend.get_range, DirectoryBackend.list, DirectoryBackend.delete

    def count_create(self: DirectoryBackend, key: str, body: bytes) -> None:
        counted.update(PUT=1, sent=len(body))
        create(self, key, body)

    def count_get(self: DirectoryBackend, key: str) -> bytes:
        counted.update(GET=1)
        body = get(self, key)
        counted.update(received=len(body))
        return body

    def count_get_range(self: DirectoryBackend, key: str, start: int, length: int) -> bytes:
        counted.update(GET=1)
        body = get_range(self, key, start, length)
        counted.update(received=len(body))
        return body

    def count_list(self: DirectoryBackend, prefix: str, after: str = "") -> Iterator[Entry]:
        counted.update(LIST=1)
        return list_(self, prefix, after)

    def count_delete(self: DirectoryBackend, keys: Sequence[str]) -> None:
        counted.update(DELETE=1 if keys else 0)
        delete(self, keys)

    for name, call in (
        ("create", count_create), ("get", count_get), ("get_range", count_get_range),
        ("list", count_list), ("delete", count_delete),
    ):  # fmt: skip
        monkeypatch.setattr(DirectoryBackend, name, call)
    return counted
