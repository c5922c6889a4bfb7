"""A process whose working directory has been removed is told so where a relative path leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import casstore


@pytest.fixture
def gone(tmp_path: Path):
    before = os.open(".", os.O_RDONLY)
    place = tmp_path / "gone"
    place.mkdir()
    os.chdir(place)
    place.rmdir()
    yield
    os.chdir(before)
    os.close(before)


def test_a_relative_home(gone) -> None:
    with pytest.raises(casstore.StoreError, match=r"where st is .* works in is gone.*absolute path"):
        casstore.Store("st")


def test_a_home_of_the_environment(gone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_HOME", "st/ore")
    with pytest.raises(casstore.StoreError, match=r"where st/ore is .*CASSTORE_HOME"):
        casstore.Store()


def test_other_relative_paths(store: casstore.Store, home: Path, gone, tmp_path: Path) -> None:
    store.save("m:1", __file__)
    for use in (
        lambda: store.save("m:2", "out"),
        lambda: store.save("m:2", "out", move=True),
        lambda: store.export("m:1", "m.zip"),
        lambda: store.get("m:1").path and store.checkout("m:1", "out"),
        lambda: store.backup("backup"),
    ):
        with pytest.raises((OSError, casstore.CasstoreError), match="works in is gone") as caught:
            use()
        assert isinstance(caught.value, OSError)
        assert caught.value.filename in ("out", "m.zip", "backup")
    assert store.tags() == ["m:1"]
    assert store.export("m:1", tmp_path / "m.zip")


@pytest.mark.parametrize("arguments", [["list", "--home", "st"], ["save", "m", "."], ["save", "m", "../out"]])
def test_the_command_line(gone, home: Path, arguments) -> None:
    store = [] if "--home" in arguments else ["--home", str(home)]
    command = [sys.executable, "-m", "casstore.cli", *arguments, *store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "works in is gone" in done.stderr
    assert "absolute path" in done.stderr
