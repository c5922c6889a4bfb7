"""Tests beside the real BentoML: nothing of it leaves the test's directory, or the machine."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

_NO_TRACKING = "True"  # BentoML takes no other word for yes, not even 1
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(autouse=True, scope="session")
def bentoml_is_imported():
    """Once, and forgiven for the outdated calls that it makes at import: our warnings are errors."""
    os.environ["BENTOML_DO_NOT_TRACK"] = _NO_TRACKING
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        importlib.import_module("bentoml._internal.bento")
        importlib.import_module("_bentoml_sdk")
        analytics = importlib.import_module("bentoml._internal.utils.analytics.usage_stats")
        assert analytics.do_not_track()


@pytest.fixture(autouse=True)
def own_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path):
    """`BENTOML_HOME` is another than the store's, unless a test says so."""
    monkeypatch.setenv("CASSTORE_HOME", str(home))
    monkeypatch.setenv("CASSTORE_AUTO_GC", "0")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", _NO_TRACKING)
    monkeypatch.setenv("COLUMNS", "200")  # else a table is cut to the width of no terminal


@pytest.fixture
def installed(home: Path):
    """BentoML in this process, with its models in the store at `home`."""
    pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")
    from casstore.integrations import bentoml as integration

    integration.install(str(home))
    yield
    integration.uninstall()


@pytest.fixture
def run(tmp_path: Path):
    """run("bentoml", ...): a real process; `code` is the exit code it must have."""

    def run(*command, code=0, **environment):
        program = [str(SCRIPTS / command[0]) if (SCRIPTS / command[0]).exists() else command[0]]
        done = subprocess.run(
            [*program, *map(str, command[1:])], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + (done.stderr if code else "")

    return run
