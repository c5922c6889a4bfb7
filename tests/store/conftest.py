"""What tests of packing share: weights that change as training changes them, and what must hold of every catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.exchange import adopt
from casstore.storage.container import MAX_DELTA_LINKS
from tests.kit import Check, Files, Leftovers, Rot, Save, Sql, counts, flip, plant


@pytest.fixture
def save(store: casstore.Store) -> Save:
    """save(tag, files, ...): save these files in the store."""

    def run(tag: str, files: Files, **options: Any) -> casstore.Model:
        with options.pop("into", store).create(tag, **options) as draft:
            plant(draft.path, files)
        return draft.model

    return run


@pytest.fixture
def rot(sql: Sql) -> Rot:
    """rot(path, offset): flip a bit of a file, by default in its middle, as a failing disk would: without a trace."""

    def rot(path: Path, offset: int | None = None) -> None:
        flip(path, path.stat().st_size // 2 if offset is None else offset)
        # A change time cannot be put back, so what is known of the file's gets the new one.
        now = path.stat()
        sql("UPDATE fingerprint SET ctime_ns = ? WHERE inode = ?", (now.st_ctime_ns, now.st_ino))

    return rot


@pytest.fixture
def check_catalog(sql: Sql) -> Check:
    """check_catalog(): what must hold of chunks and containers after every transaction."""

    def check() -> None:
        chunks = {
            row[0]: row[1:] for row in sql("SELECT digest, base, grouping, depth, encoding, container FROM chunk")
        }
        containers = {row[0] for row in sql("SELECT id FROM container WHERE state = 1")}
        for base, grouping, depth, encoding, container in chunks.values():
            assert container in containers
            assert (base is None) == (grouping is None) == (encoding != 3)
            if base is None:
                assert depth == 0
                continue
            assert base in chunks, "the base of a delta has a home"
            assert grouping in chunks
            assert chunks[grouping][0] is None, "no delta groups others"
            assert chunks[base][2] < depth <= MAX_DELTA_LINKS

    return check


@pytest.fixture
def deltas(sql: Sql) -> Callable[[], int]:
    """deltas(): how many chunks are stored as deltas."""
    return lambda: int(sql("SELECT count(*) FROM chunk WHERE base IS NOT NULL")[0][0])


@pytest.fixture
def settled(store: casstore.Store, leftovers: Leftovers, check_catalog: Check) -> Check:
    """settled(): gc has nothing to do any more, no file is left over, and verify finds nothing damaged."""

    def check() -> None:
        again = store.gc(evict_all=True)
        assert set(counts(again).values()) == {0}, again
        assert again.freed_bytes == 0
        assert leftovers() == []
        check_catalog()
        assert store.verify().is_sound

    return check


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was changed a moment ago counts as one that nobody writes to."""
    monkeypatch.setattr(adopt, "QUIET_NS", 0)
