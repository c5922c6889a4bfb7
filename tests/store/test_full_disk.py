"""A full disk: an error that says so, nothing changed, and the next save works once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

import casstore
from casstore.actions.saving import unsaved
from tests.kit import Picture, contents, draft_of, every, noise, plant

pytestmark = pytest.mark.crash

ALLOCATING = ("write", "pwrite", "link", "mkdir", "rename", "fsync", "fchmod")
STEP = every(5)


def _fail_at(patch, stop):
    """Have the `stop`-th call that may need room on the disk, and all after it, fail; returns the count so far."""
    count = [0]

    def wrap(real, needs_room):
        def call(*args, **kwargs):
            if needs_room(args):
                count[0] += 1
                if count[0] >= stop:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    for name in ALLOCATING:
        patch.setattr(os, name, wrap(getattr(os, name), lambda _: True))
    patch.setattr(os, "open", wrap(os.open, lambda args: args[1] & os.O_CREAT))
    return count


@pytest.fixture
def files():
    return lambda seed: {
        "known.bin": noise(1_500_000),
        "new.bin": noise(1_500_000, seed),
        "mid": noise(100_000, seed + 500),
        "deep/small.txt": str(seed).encode(),
        "empty": b"",
    }


def _check_kept(home, error, files):
    """Where not even a directory can be made, the draft stays in its session until the process ends; take it away."""
    draft = Path(error.draft_path)
    assert {name: (draft / name).read_bytes() for name in files} == files
    assert "until this process ends" in str(error)
    for session in unsaved._unmoved:
        session.close()
    unsaved._unmoved.clear()
    if (home / "drafts").is_dir():
        (home / "drafts").rmdir()


@pytest.mark.parametrize("how", ["draft", "save", "move", "copy"])
def test_no_room_at_every_call(store: casstore.Store, home: Path, tmp_path: Path, picture: Picture, files, how) -> None:
    with store.create("m:first") as draft:
        plant(draft.path, files(0))
    if how == "copy":
        store.set_setting("link_mode", "copy")
    failures = 0
    baseline = None
    for stop in range(1, 400, STEP):
        tag = f"m:{how}{stop}"
        source = tmp_path / f"{how}{stop}"
        plant(source, files(stop))
        with pytest.MonkeyPatch.context() as patch:
            baseline = baseline or picture()
            count = [0]
            try:
                if how in ("draft", "copy"):
                    with store.create(tag) as draft:
                        plant(draft.path, files(stop))
                        count = _fail_at(patch, stop)
                else:
                    count = _fail_at(patch, stop)
                    store.save(tag, source, move=how == "move")
                error = None
            except OSError as raised:
                error = raised
        if error is not None:
            failures += 1
            assert error.errno == errno.ENOSPC
            if how in ("draft", "copy"):
                _check_kept(home, error, {**files(stop)})
            assert picture() == baseline, stop
            assert (source / "new.bin").stat().st_mode & 0o200
            assert store.save(tag, source, move=how == "move").file_count == 5
        expected = files(stop)
        assert contents(store.get(tag)) == expected
        baseline = None
        if count[0] < stop:
            break
    assert count[0] < stop
    assert failures * STEP > 10
    assert store.verify().is_sound
    store.gc()
    assert store.verify().is_sound
    assert contents(store.get("m:first")) == files(0)


@pytest.mark.parametrize("statement", ["INSERT INTO version", "INSERT OR IGNORE INTO blob", "COMMIT"])
def test_no_room_for_the_catalog(
    store: casstore.Store, home: Path, picture: Picture, files, monkeypatch: pytest.MonkeyPatch, statement
) -> None:
    before = picture()

    class Connection(apsw.Connection):
        full = True

        def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            self._refuse(statements)
            return super().execute(statements, *args, **kwargs)

        def executemany(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            self._refuse(statements)
            return super().executemany(statements, *args, **kwargs)

        def _refuse(self, sql):
            if Connection.full and sql.startswith(statement):
                raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(apsw, "Connection", Connection)
    with casstore.Store(home) as other:
        with pytest.raises(OSError, match="no space left") as caught, other.create("m:1") as draft:
            plant(draft.path, files(1))
        assert caught.value.errno == errno.ENOSPC
        Connection.full = False
        [kept] = other.drafts()
        assert draft_of(caught.value) == other.remove_draft(kept).path
        (home / "drafts").rmdir()
        assert picture() == before
        with other.create("m:1") as draft:
            plant(draft.path, files(1))
        assert contents(draft.model) == files(1)


REAL = """
import errno, os, pathlib, subprocess, sys
import casstore
mount = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", mount], check=True)
import random
store = casstore.Store(mount / "store")
with store.create("m:first") as draft:
    pathlib.Path(draft.path, "w.bin").write_bytes(random.Random(0).randbytes(2_000_000))
outcomes = []
for number in range(0, 40, 3):
    ballast = mount / "ballast"
    free = 20_000 + number * 32_000
    room = os.statvfs(mount)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
    tag = f"m:v{number}"
    content = {f"{i}.bin": random.Random(number * 10 + i).randbytes(70_000) for i in range(5)}
    try:
        with store.create(tag) as draft:
            for name, data in content.items():
                pathlib.Path(draft.path, name).write_bytes(data)
        outcomes.append(True)
    except OSError as error:
        assert error.errno == errno.ENOSPC, repr(error)
        outcomes.append(False)
        assert tag not in store.tags()
    assert os.listdir(mount / "store/sessions") == [], number
    ballast.unlink()
    if not outcomes[-1]:
        with store.create(tag) as draft:
            for name, data in content.items():
                pathlib.Path(draft.path, name).write_bytes(data)
    model = store.get(tag)
    assert {name: pathlib.Path(model.path, name).read_bytes() for name in content} == content
    assert store.verify().is_sound
    store.delete(tag, now=True)
    store.gc()
    store.close()
assert True in outcomes and False in outcomes, outcomes
assert store.get("m:first").open("w.bin").read() == random.Random(0).randbytes(2_000_000)
print("done", outcomes.count(False))
"""


def test_a_real_file_system_that_fills_up(tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False) if _has_unshare() else None
    if probe is None or probe.returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    result = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", REAL, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("done")


def _has_unshare() -> bool:
    import shutil

    return shutil.which("unshare") is not None and shutil.which("mount") is not None
