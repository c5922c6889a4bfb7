"""Removing trees that others have put things into: all goes that can, and what is left is named."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from casstore.storage import files

MOUNTED = """
import pathlib, subprocess, sys
from casstore.storage import files
tree, elsewhere = map(pathlib.Path, sys.argv[1:])
for mounted in (tree / "a" / "mounted", tree / "again"):
    subprocess.run(["mount", "--bind", elsewhere, mounted], check=True)
for doomed in (tree, tree / "again"):
    try:
        files.remove_tree(doomed)
    except OSError as error:
        print(error.filename)
"""


def nest(root: Path, depth: int) -> None:
    """Directories in directories, of which the deepest has no path that a system call would take."""
    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=descriptor)
        below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("note", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A file that not even root may remove."""
    path = tmp_path / "tree" / "b" / "immutable"
    path.parent.mkdir(parents=True)
    path.touch()
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("no file can be made immutable here")
    yield path
    subprocess.run([chattr, "-i", path], check=True)


def test_a_tree_that_is_deeper_than_paths_and_python_go(tmp_path: Path) -> None:
    nest(tmp_path / "tree", 1500)
    descriptors = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    files.remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_what_cannot_be_removed_keeps_nothing_else(tmp_path: Path, immutable: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / "tree" / name).mkdir()
        (tmp_path / "tree" / name / "file").touch()
    with pytest.raises(PermissionError) as caught:
        files.remove_tree(tmp_path / "tree")
    assert caught.value.filename == str(immutable)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "tree", immutable.parent, immutable]


def test_what_is_mounted_in_it_is_not_entered(tmp_path: Path) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    for directory in (tree / "a" / "mounted", tree / "again", tree / "b", elsewhere):
        directory.mkdir(parents=True)
    (elsewhere / "work").write_text("of somebody's")
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs to mount")
    command: list[str | Path] = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        sys.executable,
        "-c",
        MOUNTED,
        tree,
        elsewhere,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount" in done.stderr and not done.stdout:
        pytest.skip("may not mount")
    assert (elsewhere / "work").read_text() == "of somebody's", done.stderr
    first, second = done.stdout.splitlines()
    assert first in (str(tree / "a" / "mounted"), str(tree / "again"))
    assert second == str(tree / "again")
    assert not (tree / "b").exists()


def test_a_link_or_a_file_in_its_place_is_removed_itself(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "plain").touch()
    for name in ("link", "plain", "missing", "missing/below"):
        files.remove_tree(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == [kept, kept / "file"]


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "link", "too large"])
def test_only_small_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    assert files.read_file(path, 4, follow=False) == b"text"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "too large":
        path.write_bytes(b"longer")
    else:
        path.symlink_to("/dev/zero" if kind == "device" else Path(__file__))
    with pytest.raises(FileNotFoundError) as caught:
        files.read_file(path, 4, follow=kind != "link")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))
