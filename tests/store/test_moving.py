"""move=True: refused before anything is saved where the files may not be taken away, and told where some are left."""

from __future__ import annotations

import codecs
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import casstore
from tests.kit import Child, contents, plant

USER, OTHER = 61_004, 61_005
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def shared():
    """A directory that every user reaches; pytest's own are closed to all others."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    yield root
    shutil.rmtree(root)


@as_root
@pytest.mark.parametrize(
    ("mode", "owner", "text"),
    [
        (0o755, OTHER, "nothing can be taken away from .*/out/sub, which may not be written to"),
        (0o1777, OTHER, "out/sub/w.bin belongs to another user"),
    ],
)
def test_a_move_that_cannot_be_is_refused_before(shared, mode, owner, text) -> None:
    source = plant(shared / "out", {"a.bin": b"a" * 100_000, "sub/w.bin": b"w" * 100_000})
    for path in (source, source / "a.bin"):
        os.chown(path, USER, USER)
    for path in (source / "sub", source / "sub/w.bin"):
        os.chown(path, owner, owner)
    (source / "sub").chmod(mode)

    def run():
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        with casstore.Store(shared / "store", auto_gc=False) as store:
            with pytest.raises(casstore.InvalidSource, match=text) as caught:
                store.save("m:1", source, move=True)
            assert "save without --move" in str(caught.value)
            assert store.tags() == []
            store.save("m:1", source)

    codecs.lookup("ascii")  # where Python is below root's own directory, other users can import nothing more
    before = os.stat(source / "a.bin")
    assert Child(run).wait() == 0
    after = os.stat(source / "a.bin")
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)
    assert (source / "sub/w.bin").read_bytes() == b"w" * 100_000


def test_what_is_left_after_a_move_is_told(
    store: casstore.Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody writes anew while it is saved is his, and stays."""
    source = plant(tmp_path / "out", {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000})

    class Writer:
        def start(self, step, total_bytes):
            pass

        def advance(self, done_bytes):
            pass

        def finish(self):
            if (source / "a.bin").exists():
                (source / "a.bin").unlink()
                (source / "a.bin").write_bytes(b"new")

    model = store.save("m:1", source, move=True, progress=Writer())
    assert f"m:1 is saved, and these are still there: {source}/a.bin" in caplog.text
    assert contents(model)["a.bin"] == b"a" * 100_000
    assert [(path.name, path.read_bytes()) for path in source.iterdir()] == [("a.bin", b"new")]


def test_a_move_takes_links_and_leaves_what_they_lead_to(store: casstore.Store, tmp_path: Path) -> None:
    elsewhere = plant(tmp_path / "elsewhere", {"w.bin": b"w" * 100_000})
    source = plant(tmp_path / "out", {"a.bin": b"a" * 100_000})
    (source / "link.bin").symlink_to(elsewhere / "w.bin")
    model = store.save("m:1", source, move=True)
    assert sorted(contents(model)) == ["a.bin", "link.bin"]
    assert not source.exists()
    assert (elsewhere / "w.bin").exists()


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
@as_root
def test_a_directory_that_keeps_its_files(store: casstore.Store, tmp_path: Path) -> None:
    """Root may write to it whatever its mode, and not where an attribute forbids it."""
    source = plant(tmp_path / "out", {"a.bin": b"a" * 100_000, "sub/b.bin": b"b" * 100_000})
    if subprocess.run(["chattr", "+i", source / "sub"], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable directories")
    try:
        with pytest.raises(casstore.InvalidSource, match=r"nothing can be taken away from .*/out/sub"):
            store.save("m:1", source, move=True)
    finally:
        subprocess.run(["chattr", "-i", source / "sub"], check=True)
    assert store.tags() == []
    assert (source / "a.bin").exists()


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
@as_root
def test_a_file_that_nobody_may_change_is_copied_and_told(
    store: casstore.Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = plant(tmp_path / "out", {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000})
    if subprocess.run(["chattr", "+i", source / "b.bin"], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")

    class Interrupting:
        def start(self, step, _total_bytes):
            if step == "store":
                raise KeyboardInterrupt

        def advance(self, done_bytes):
            pass

        def finish(self):
            pass

    try:
        with pytest.raises(KeyboardInterrupt):
            store.save("m:1", source, move=True, progress=Interrupting())
        assert (source / "a.bin").stat().st_mode & 0o777 == 0o644
        model = store.save("m:1", source, move=True)
    finally:
        subprocess.run(["chattr", "-i", source / "b.bin"], check=True)
    assert f"m:1 is saved, and these are still there: {source}/b.bin" in caplog.text
    assert contents(model) == {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000}
    assert [path.name for path in source.iterdir()] == ["b.bin"]
