"""What a killed checkout or export leaves is removed by the next that writes to that place; what lives is let be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import casstore
from casstore.storage import files as file_system
from tests.kit import Child, Save


def _checkout(store, target):
    store.checkout("m:1", target)


def _export_folder(store, target):
    store.export("m:1", target, format="folder")


def _export_file(store, target):
    store.export("m:1", target / "m.casmodel" if target.is_dir() else target)


@pytest.fixture
def stopped(home: Path, monkeypatch: pytest.MonkeyPatch):
    """stopped(write, target): a process that writes there, and has come to the end but for the last rename."""
    started = []

    def run(write, target):
        reading, writing = os.pipe()

        def work():
            def wait(*_):
                os.write(writing, b"!")
                signal.pause()

            file_system.rename = wait
            with casstore.Store(home) as store:
                write(store, target)

        process = Child(work)
        assert os.read(reading, 1) == b"!"
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
    started.clear()


def _left(directory):
    return [path for path in directory.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("write", [_checkout, _export_folder, _export_file])
def test_what_a_killed_one_left_goes(store: casstore.Store, save: Save, stopped, tmp_path: Path, write) -> None:
    save("m:1", {"w": b"weights"})
    place = tmp_path / "place"
    place.mkdir()
    (place / ".mine.part").mkdir()
    dead, alive = stopped(write, place / "out"), stopped(write, place / "out")
    before = set(_left(place))
    os.kill(dead.pid, signal.SIGKILL)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    write(store, place / "other")
    assert len(before - set(_left(place))) == 1
    assert len(_left(place)) == 2
    assert list(place.glob("other*"))
    assert os.waitpid(alive.pid, os.WNOHANG) == (0, 0)


def test_the_directory_that_one_is_in_can_be_filled_again(
    store: casstore.Store, save: Save, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"w": b"weights"})
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    monkeypatch.chdir("here")

    def die():
        file_system.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        casstore.Store(home).checkout("m:1", ".")

    assert Child(die).wait() == -signal.SIGKILL
    assert _left(Path())
    store.checkout("m:1", ".")
    assert sorted(os.listdir()) == ["model.yaml", "w"]
