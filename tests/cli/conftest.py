"""The command line as a user runs it: a process, and for what a terminal shows, a process on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.cli.forks import Forks

COMMAND = (sys.executable, "-m", "casstore.cli")
_TIMEOUT_S = 120
INTERRUPT = "\x03"


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


@dataclass
class Cli:
    """Runs `casstore` in a store of its own."""

    home: Path
    extra_environment: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        # pytest's workers are told a width of the screen, which would be taken for that of each terminal here.
        unwanted = ("CASSTORE", "_CASSTORE", "COLUMNS", "LINES")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        return {
            **kept,
            "CASSTORE_HOME": str(self.home),
            "CASSTORE_AUTO_GC": "0",
            "TERM": "xterm",
            "PAGER": "cat",
            "TZ": "UTC",
            **self.extra_environment,
        }

    def __call__(self, *arguments: str | Path, code: int = 0, stdin: str | None = None) -> Result:
        command = list(map(str, arguments))
        if stdin is None:
            done = Result(*_forks().run(command, self.environment, _TIMEOUT_S))
        else:
            ended = subprocess.run(
                [*COMMAND, *command], env=self.environment, capture_output=True, text=True, timeout=_TIMEOUT_S,
                input=stdin, check=False,
            )  # fmt: skip
            done = Result(ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in done.err, done.err
        assert done.code == code, done
        return done

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def on_terminal(self, *arguments: str | Path, code: int = 0, typed: str = "", columns: int = 120) -> str:
        """What the screen gets when all three streams are a terminal; `typed` is entered when it asks."""
        parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=self.environment, stdin=child, stdout=child, stderr=child,
            # Its controlling terminal, so that a typed Ctrl-C becomes a signal.
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(child)
        screen, asked = b"", False
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                if not select.select([parent], [], [], 2)[0]:
                    # A signal that comes before input() waits is seen at the next key only.
                    if asked and typed == INTERRUPT and b"interrupted" not in screen:
                        os.write(parent, typed.encode())
                    continue
                try:
                    data = os.read(parent, 1 << 16)
                except OSError:  # Linux's way of saying that the other side is closed
                    break
                if not data:
                    break
                screen += data
                if typed and not asked and b"[y/N]" in screen:
                    asked = True
                    time.sleep(0.3 if typed == INTERRUPT else 0)  # it waits by then, mostly
                    os.write(parent, typed.encode())
            try:
                process.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pytest.fail(f"it waits for something: {screen!r}")
            assert process.returncode == code, screen
        finally:
            process.kill()
            process.wait()
            os.close(parent)
        return screen.decode()


_forks = functools.cache(Forks)


@pytest.fixture(scope="session", autouse=True)
def _end_of_forks() -> Iterator[None]:
    yield
    if _forks.cache_info().currsize:
        _forks().close()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small model to be saved."""
    return write_model(tmp_path / "out")


def fill(home: Path, files: Path) -> None:
    # In this process: starting one takes longer than saving.
    with casstore.Store(home) as store:
        store.save("bert:v1", files, labels={"stage": "dev"}, durability="relaxed")
        (files / "config.json").write_text('{"hidden": 8}')
        store.save("bert:v2", files, labels={"stage": "prod"}, metadata={"accuracy": 0.93}, durability="relaxed")


def write_model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"hidden": 4}')
    (directory / "weights.bin").write_bytes(bytes(range(256)) * 8192)
    return directory


@pytest.fixture
def saved(cli: Cli, files: Path) -> Cli:
    """A store with bert:v1 and, newer, bert:v2."""
    fill(cli.home, files)
    return cli


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The same store, for tests that must not change it; `out` beside it is a model."""
    directory = tmp_path_factory.mktemp("untouched")
    fill(directory / "home", write_model(directory / "out"))
    return Cli(directory / "home")
