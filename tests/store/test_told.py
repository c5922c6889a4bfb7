"""What happens unasked, and a user may want to know, is in the log; nothing of it is shown unless that is asked for."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore.storage.locks import Lock
from tests.kit import contents, noise, plant

SIZE = 1_300_000


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "casstore")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("casstore")]


def test_a_file_that_is_taken_over_is_not_worth_a_word(
    store: casstore.Store, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    store.save("m:1", plant(tmp_path / "out", {"w.bin": noise(SIZE), "c.json": b"{}"}), move=True)
    store.save("m:2", plant(tmp_path / "out", {"w.bin": noise(SIZE, 2)}))  # which is to stay: no copy unasked
    assert told() == []


def test_a_copy_instead_of_an_adoption_is_told_with_its_reason(
    store: casstore.Store, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    source = plant(tmp_path / "out", {"a.bin": noise(SIZE), "b.bin": noise(SIZE, 2), "c.bin": noise(SIZE, 3)})
    for name in ("a.bin", "b.bin"):
        os.link(source / name, tmp_path / name)
    store.save("m:1", source, move=True)
    (line,) = told()
    assert line.startswith(f"{source}/a.bin was copied, not taken over, since it has another name elsewhere")
    assert line.endswith(", and 1 more for that reason")


def test_a_copy_from_another_file_system_is_told(
    store: casstore.Store, elsewhere: Path, told: Callable[[], list[str]]
) -> None:
    store.save("m:1", plant(elsewhere / "out", {"w.bin": noise(SIZE)}), move=True)
    (line,) = told()
    assert "copied, not taken over, since no hardlink" in line


def test_a_link_in_a_draft_is_told(store: casstore.Store, tmp_path: Path, told: Callable[[], list[str]]) -> None:
    plant(tmp_path, {"w.bin": noise(SIZE)})
    with store.create("m:1") as draft:
        os.symlink(tmp_path / "w.bin", Path(draft.path, "w.bin"))
    (line,) = told()
    assert "since it is reached by a link" in line


def test_a_copy_in_quarantine_is_told(
    store: casstore.Store, home: Path, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    model = store.save("m:1", plant(tmp_path / "out", {"w.bin": noise(100_000)}))  # packed, and a copy for directories
    (loose,) = (path for path in (home / "objects/loose").rglob("*") if path.is_file())
    shutil.rmtree(home / "models/m/1")
    loose.chmod(0o600)
    loose.write_bytes(bytes(100_000))
    assert contents(model) == {"w.bin": noise(100_000)}
    (kept,) = (home / "quarantine").iterdir()
    assert f"a copy of stored bytes was damaged, was moved to {kept}, and will be made again" in told()


def test_bytes_that_are_not_relied_on_are_told(
    store: casstore.Store, home: Path, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    source = plant(tmp_path / "out", {"w.bin": noise(SIZE)})
    store.save("m:1", source)
    (loose,) = (path for path in (home / "objects/loose").rglob("*") if path.is_file())
    loose.chmod(0o600)
    loose.write_bytes(noise(SIZE - 1))
    model = store.save("m:2", plant(tmp_path / "again", {"w.bin": noise(SIZE), "new": b"new"}))
    assert any(line.startswith(f"{loose} is missing, cut short or was written to") for line in told())
    with model.open("w.bin") as file:
        assert file.read() == noise(SIZE)


def test_waiting_for_another_process_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "casstore")
    is_told = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the signature of a handler
            is_told.set()

    handler = Told()
    logging.getLogger("casstore").addHandler(handler)
    path = tmp_path / "some.lock"
    with Lock(path) as mine, Lock(path) as other:
        assert mine.try_acquire()
        waiting = threading.Thread(target=other.acquire, args=("model 'm'",))
        waiting.start()
        try:
            assert is_told.wait(60)
        finally:
            mine.release()
            waiting.join()
            logging.getLogger("casstore").removeHandler(handler)
    assert [record.getMessage() for record in caplog.records] == ["waiting: model 'm' is locked by another process"]


def test_nothing_is_shown_unasked(home: Path, tmp_path: Path) -> None:
    source = plant(tmp_path / "out", {"w.bin": noise(SIZE)})
    os.link(source / "w.bin", tmp_path / "w.bin")
    save = "import sys, casstore; casstore.Store(sys.argv[1], auto_gc=False).save('m:1', sys.argv[2], move=True)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", save, home, source], capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""
