"""Fixtures of the crash tests: small stores and what is done to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import casstore
from tests.crash.scenarios import Scenario, leftovers
from tests.crash.scenarios.every import SCENARIOS
from tests.kit import EVERY
from tests.store.conftest import quiet

__all__ = ["quiet"]

_MEMORY = Path("/dev/shm")


def spread(population: Sequence[int], count: int) -> list[int]:
    """So many of them, as far from each other as can be, or all with CASSTORE_TEST_EVERY."""
    if EVERY or len(population) <= count:
        return list(population)
    return [population[(2 * each + 1) * len(population) // (2 * count)] for each in range(count)]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A directory for the stores of many runs: in memory if possible, where what has been written stays after a kill as
    it does on a disk, and 256 directories are made and removed in no time."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="casstore-", dir=_MEMORY) as path:
        yield Path(path)


@pytest.fixture
def scenario(request: pytest.FixtureRequest, ground: Path, quiet: None) -> Scenario:
    """The scenario of the name that is given."""
    return SCENARIOS[request.param](ground)


@pytest.fixture
def settled_store(home: Path, store: casstore.Store):
    """settled_store(): gc leaves nothing to do, no file is left over, and everything is sound."""

    def check() -> None:
        store.gc()
        assert {step.count for step in store.gc().steps} == {0}
        assert store.verify().is_sound
        store.close()
        assert leftovers(home) == []

    return check
