"""What `capture` records of where a version was made, and what it does not."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions.describing.capture import without_secrets
from tests.kit import Save

_SAVE = """
import pathlib, sys, casstore
with casstore.Store(sys.argv[1]) as store:
    with store.create("m:1", capture=True) as draft:
        pathlib.Path(draft.path, "a").write_bytes(b"a")
"""


def git(directory: Path, *words: str) -> str:
    names = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    return subprocess.run(["git", *names, *words], cwd=directory, check=True, capture_output=True, text=True).stdout


def captured(home: Path, directory: Path, *arguments: str) -> dict[str, Any]:
    """What a program captures that runs in a directory."""
    program = directory.parent / "train.py"
    program.write_text(_SAVE)
    environment = {**os.environ, "MY_API_KEY": "hunter2-in-the-environment", "CASSTORE_AUTO_GC": "0"}
    subprocess.run([sys.executable, program, home, *arguments], cwd=directory, check=True, env=environment)
    with casstore.Store(home) as store:
        found: dict[str, Any] = dict(store.get("m:1").metadata)["capture"]
        assert "hunter2" not in json.dumps(found)
        return found


def test_where_a_version_was_made(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    git(code, "init", "-q", "-b", "trunk")
    (code / "a.py").write_text("1")
    git(code, "add", "a.py")
    git(code, "commit", "-q", "-m", "first")
    (code / "untracked").write_text("2")
    found = captured(tmp_path / "store", code, "--lr", "3e-4", "--token", "hunter2")
    assert found["git"] == {"branch": "trunk", "commit": git(code, "rev-parse", "HEAD").strip(), "is_dirty": False}
    assert found["command"][-4:] == ["--lr", "3e-4", "--token", "[left out]"]
    assert found["host"] == socket.gethostname()
    assert found["python"] == platform.python_version()
    assert found["packages"]["casstore"] == casstore.__version__
    assert list(found["packages"]) == sorted(found["packages"])
    (code / "a.py").write_text("3")
    assert captured(tmp_path / "again", code)["git"]["is_dirty"] is True


def test_without_a_repository(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    assert "git" not in captured(tmp_path / "store", tmp_path / "code")


def test_nothing_is_captured_unasked_and_what_is_said_counts(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "capture" not in save("m:1", {"a": b"a"}).metadata
    monkeypatch.setenv("PATH", "/nonexistent")
    mine = save("m:2", {"a": b"a"}, capture=True, metadata={"capture": "mine", "x": 1})
    assert dict(mine.metadata) == {"capture": "mine", "x": 1}
    assert "git" not in save("m:3", {"a": b"a"}, capture=True).metadata["capture"]


SECRET = "hunter2x"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--token", SECRET],
        ["--hf-token", SECRET],
        ["--api_key", f"-{SECRET}"],
        [f"--api-key={SECRET}"],
        [f"WANDB_API_KEY={SECRET}"],
        [f"password:={SECRET}"],
        ["-password", SECRET],
        [f"trainer.secrets={SECRET}"],
        [f"hf_{SECRET}{SECRET}"],
        [f"x=ghp_{SECRET}{SECRET}"],
        [f"sk-proj-{SECRET}{SECRET}"],
        [SECRET * 5],
        [f"https://ann:{SECRET}@example.org/x"],
        [f"https://example.org/x?a=1&signature={SECRET}"],
        ["-c", f"login(token='{SECRET}', x=1)"],
        ["-c", f'password = "{SECRET}"'],
    ],
)
def test_what_looks_like_a_secret_is_left_out(arguments: list[str]) -> None:
    kept = without_secrets(["python", *arguments, "--lr", "3e-4"])
    assert SECRET not in "".join(kept)
    assert "[left out]" in "".join(kept)
    assert (kept[0], kept[-2:]) == ("python", ["--lr", "3e-4"])


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "train.py",
            "--tokenizer",
            "bert-base-uncased",
            "--max-tokens=512",
            "data/2026-11-29/run_17_of_20/part-0001.jsonl",
        ],
        ["--config", "experiments/llama-3-8b-instruct-finetune-v2.yaml", "lr:=3e-4", "https://example.org/a?b=c"],
        ["-m", "casstore", "save", "bert:v1", "out/", "-l", "stage=dev", "monkey=1", ""],
    ],
)
def test_what_does_not_is_kept(arguments: list[str]) -> None:
    assert without_secrets(arguments) == arguments


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_command_line_can_be_recorded(arguments: list[str]) -> None:
    kept = without_secrets([*arguments, "a\udcff"])
    assert len(kept) == len(arguments) + 1
    json.dumps(kept).encode()
    "".join(kept).encode("utf-8")
