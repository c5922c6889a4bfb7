"""casstore.models, without BentoML: its store is the test's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_home(monkeypatch, home):
    monkeypatch.setenv("CASSTORE_HOME", str(home))
