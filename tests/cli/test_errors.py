"""Mistakes and mishaps: one clear line, the documented exit code, no traceback, nothing changed."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import casstore
from casstore.cli import exits
from casstore.storage.locks import Lock
from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["show", "bret:v1"], 12, "did you mean bert?"),
        (["show", "bert:v"], 12, "type more of it"),
        (["save", "../x", "out"], 2, "cannot be a"),
        (["save", "m\n", "out"], 2, "cannot be a"),
        (["save", "bert:latest", "out"], 2, "latest"),
        (["save", "bert:" + "v" * 64, "out"], 2, "63"),
        (["save", "bert:v1", "out"], 13, "already saved"),
        (["save", "bert:v1", "out", "--exist-ok"], 13, "its labels differ"),
        (["save", "bert:v3", "missing"], 1, "missing"),
        (["save", "bert:v3", "out", "-l", "novalue"], 2, "KEY=VALUE"),
        (["save", "bert:v3", "out", "-l", "a=1", "-l", "a=2"], 2, "twice"),
        (["save", "bert:v3", "out", "-m", "loss:=0.5.1"], 2, "write loss=0.5.1"),
        (["save", "bert:v3", "out", "-m", "loss:=1", "-m", "loss=1"], 2, "'loss' twice"),
        (["save", "bert:v3", "out", "-m", ":=1"], 2, "KEY:=JSON"),
        (["save", "bert:v3", "out", "-m", "deep=" + "[" * 100 + "]" * 100], 2, "nested"),
        (["save", "bert:v3", "out", "--base", "bert:v9"], 12, "did you mean"),
        (["save", "bert:v3", "out", "--metadata-file", "out/weights.bin"], 2, "not JSON"),
        (["save", "bert:v3"], 2, "Missing argument"),
        (["delete", "bert:v1"], 2, "--yes"),
        (["delete"], 2, "say what to delete"),
        (["lsit"], 2, "did you mean 'list'"),
        (["xyzzy"], 2, "there is no verb"),
        (["list", "--bogus"], 2, "--bogus"),
        (["list", "bert:v1"], 2, "a tag"),
        (["config", "set", "nothing", "x"], 2, "durability"),
    ],
)
def test_a_mistake_is_named(untouched: Cli, monkeypatch: pytest.MonkeyPatch, arguments, code, text) -> None:
    monkeypatch.chdir(untouched.home.parent)
    done = untouched(*arguments, code=code)
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert text in done.err
    assert done.err.count("did you mean") <= 1


def test_mistakes_have_changed_nothing(untouched: Cli) -> None:
    assert [line.split("\t")[0] for line in untouched("list").out.splitlines()] == ["bert:v2", "bert:v1"]


def test_json_errors_carry_what_a_program_needs(untouched: Cli) -> None:
    error = untouched("lsit", "--json", code=2).error
    assert (error["type"], error["exit_code"]) == ("UsageError", 2)
    error = untouched("show", "bret", "--json", code=12).error
    assert (error["type"], error["suggestion"]) == ("TagNotFound", "bert")
    error = untouched("--json", "show", "bert:v", code=12).error
    assert error["type"] == "AmbiguousTag"
    assert sorted(error["candidates"]) == ["bert:v1", "bert:v2"]


def test_a_warning_is_one_line_said_once(cli: Cli, files: Path) -> None:
    done = cli("save", "BERT:v1", files)
    assert done.out.startswith("bert:v1\t")
    assert done.err.splitlines() == ["warning: the name 'BERT' is kept in lower case, as 'bert'"]
    done = cli("show", "BERT:v1", "--json")
    assert "lower case" in json.loads(done.err)["warning"]


def test_a_home_that_cannot_be_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "error: " in cli("--home", tmp_path / "file" / "below", "list", code=12).err
    assert "error: " in cli("--home", tmp_path / "file" / "below", "init", code=1).err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "thesis.tex" in cli("--home", tmp_path / "full", "list", code=12).err
    assert "thesis.tex" in cli("--home", tmp_path / "full", "init", code=1).err


def test_gc_while_another_gc_runs_is_locked(saved: Cli) -> None:
    saved("gc")
    with open(saved.home / "locks" / ".gc.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert saved("gc", "--json", code=11).error["type"] == "StoreLocked"


def test_a_reader_that_leaves_early_is_no_error(untouched: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "casstore.cli", "list"]
    done = subprocess.run(
        command, env=untouched.environment, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


def test_ctrl_c_in_a_save_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(64 << 20)  # sparse: it costs no disk here
    cli("init")
    name = Lock(cli.home / "locks/big.lock")
    assert name.try_acquire()  # without which the save does not end
    process = cli.start("save", "big:v1", large)
    while not any((cli.home / "sessions").iterdir()) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    name.release()
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "error: interrupted; nothing was saved"
    assert cli("list").out == ""
    assert not [path for path in (cli.home / "objects").rglob("*") if path.is_file()]
    assert not [path for path in (cli.home / "sessions").rglob("*") if path.is_dir()]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/s/x"), 1, "/s/x: No space left on device; free some"),
        (OSError(errno.EACCES, "Permission denied", "/s/x"), 1, "check its permissions"),
        (OSError("odd"), 1, "odd"),
        (casstore.StoreLocked("held"), 11, "held"),
        (casstore.InvalidMetadata("bad"), 2, "bad"),
        (casstore.TagExists("taken"), 13, "taken"),
        (casstore.StoreUnwritable("no"), 1, "no"),
        (casstore.IntegrityError("lost"), 1, "lost"),
        (exits.Interrupted("interrupted"), 130, "interrupted"),
    ],
)
def test_exit_codes_and_messages(error, code, text) -> None:
    assert exits.exit_code(error) == code
    assert text in exits.message(error)
    assert exits.as_document(error)["exit_code"] == code
