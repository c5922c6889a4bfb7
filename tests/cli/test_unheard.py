"""What nobody can read decides nothing; and words that mean something else than one thinks are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["save", "Cert:v1", "files"], 0), (["save", "g:1", "files", "--exclude", "a"], 0), (["show", "nope"], 12)],
)
def test_an_unwritable_stderr(saved: Cli, tmp_path: Path, arguments, code) -> None:
    (tmp_path / "files").mkdir()
    for name in "ab":
        (tmp_path / "files" / name).write_text(name)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "casstore", "--home", saved.home, *arguments], cwd=tmp_path, stderr=full, check=False
        )
    assert done.returncode == code


def test_an_empty_home_is_no_default(saved: Cli) -> None:
    assert "unset" in saved("--home", "", "delete", "bert:v1", "--yes", code=2).err
    assert "bert:v1" in saved("list").out


def test_a_slug_is_made_before_the_order_is_looked_at(
    saved: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta-llama/Llama-3").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/q").write_text("q")
    assert saved("save", "meta-llama/Llama-3:v1", "weights/", "--slug").out.startswith("meta-llama--llama-3:v1")


def test_a_module_that_is_no_text(saved: Cli, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("w")
    assert "not Unicode" in saved("save", "g:3", tmp_path / "w", "--module", "\udcff", code=2).err
