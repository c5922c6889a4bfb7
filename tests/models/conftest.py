"""casstore.models, without BentoML: its store is the test's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, home: Path):
    monkeypatch.setenv("CASSTORE_HOME", str(home))
