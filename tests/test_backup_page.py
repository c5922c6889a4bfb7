"""docs/backup.md: every command of it runs, in its order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.cli.main import cli

PAGE = Path(__file__).parents[1].joinpath("docs/backup.md").read_text(encoding="utf-8")
DISK = "/mnt/disk"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(line): what a shell prints for it, in the home directory of somebody with a store and another disk."""
    (tmp_path / "disk").mkdir()
    monkeypatch.delenv("CASSTORE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CASSTORE_AUTO_GC", "0")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def run(line: str) -> str:
        line = line.replace(DISK, str(tmp_path / "disk"))
        command = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stderr == "", line
        return done.stdout

    return run


def test_its_commands_run(run, tmp_path, noise, plant):
    files = {"w.bin": noise(1_200_000), "config.json": b"{}"}
    with casstore.Store(tmp_path / ".casstore", auto_gc=False) as store:
        store.save("bert:v1", plant(tmp_path / "out", files))
        store.save("bert:v2", plant(tmp_path / "out", {"config.json": b"{2}"}))
    said = {}
    for language, block in re.findall(r"^```(console|crontab)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            assert line.startswith("30 3 * * * " if language == "crontab" else "$ ")
            said[line] = run(line.removeprefix("30 3 * * * ").removeprefix("$ "))
    assert len(said) > 15
    assert json.loads((tmp_path / "disk/last-backup.json").read_text())["new_containers"] == 0
    assert said["$ CASSTORE_HOME=/mnt/disk/new casstore list"].count("bert:v") == 2
    assert all("sound" in text for line, text in said.items() if line.endswith("verify"))
    homes = ("disk/models", "disk/new", "restored", "restored-too", "moved/.casstore", "models-of-today", ".casstore")
    for home in homes:
        with casstore.Store(tmp_path / home, auto_gc=False) as store:
            assert store.tags() == ["bert:v2", "bert:v1"], home
            model = store.get("bert:v1")
            assert {file.path: model.open(file.path).read() for file in model.files} == files, home


def test_its_words_are_real_commands():
    quoted = re.findall(r"`casstore (?:--home \S+ )?([a-z-]+)[^`]*`", PAGE)
    assert set(quoted) <= set(cli.commands)
    for words in re.findall(r"`(repair [^`]*|--[a-z]+)`", PAGE):
        for option in re.findall(r"--[a-z-]+", words):
            assert any(option in parameter.opts for each in cli.commands.values() for parameter in each.params), words
