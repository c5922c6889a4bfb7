"""A disk that is full to the last block or inode: reading works, and what gives space back works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.crash

FULL = """
import errno, json, os, pathlib, random, subprocess, sys
mount, kind, options = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
elsewhere = mount.parent
mount.mkdir()
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", mount], check=True)
else:
    image = elsewhere / "image"
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *options.split(), image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False, stderr=subprocess.DEVNULL).returncode:
        sys.exit(77)
home = mount / "store"

def do(text, code=0):
    program = "import casstore, sys, os, pathlib; store = casstore.Store(sys.argv[1]);" + text + "; store.close()"
    result = subprocess.run([sys.executable, "-c", program, str(home)], capture_output=True, text=True, check=False)
    assert result.returncode == code, (text, result.returncode, result.stdout, result.stderr[-1500:])
    return result.stdout + result.stderr

first = random.Random(1).randbytes(1_500_000)
(elsewhere / "a").mkdir()
(elsewhere / "b").mkdir()
(elsewhere / "a/w").write_bytes(first)
(elsewhere / "b/w").write_bytes(random.Random(2).randbytes(3_000_000))
do(f"store.save('m:1', {str(elsewhere / 'a')!r}); store.save('m:2', {str(elsewhere / 'b')!r})")

def fill():
    if "nr_inodes" in options:
        number = 0
        while True:
            try:
                (mount / f"file{number}").touch()
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return
            number += 1
    descriptor = os.open(mount / "ballast", os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10, 1):
        while True:
            try:
                os.write(descriptor, bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
    os.fsync(descriptor)
    os.close(descriptor)

fill()
assert "m:2" in do("print(store.tags())")
fill()
do(f"assert store.get('m:1').open('w').read() == pathlib.Path({str(elsewhere / 'a/w')!r}).read_bytes()")
fill()
do(f"store.export('m:1', {str(elsewhere / 'out.tar')!r}, format='tar')")
fill()
do("assert os.path.exists(store.get('m:2').path)")
fill()
do("store.delete('m:2'); assert store.tags() == ['m:1']")
fill()
do("store.undelete('m:2')")
fill()
do("assert len(store.get('m:2').open('w').read()) == 3_000_000; store.delete('m:2')")
fill()
do("store.gc(); assert len(store.deleted()) == 1")
fill()
room = os.statvfs(mount).f_bfree * os.statvfs(mount).f_frsize
do("store.gc(empty_trash=True)")
freed = os.statvfs(mount).f_bfree * os.statvfs(mount).f_frsize - room
assert freed > 2_000_000, freed
do("assert store.tags() == ['m:1'] and store.verify().is_sound")
for path in mount.glob("file*"):
    path.unlink()
(mount / "ballast").unlink(missing_ok=True)
do(f"store.save('m:2', {str(elsewhere / 'b')!r}); assert store.verify().is_sound")
import shutil
shutil.rmtree(home / "locks/.reserve", ignore_errors=True)
fill()
said = do("store.tags()", 1)
assert ("no inodes left" if "nr_inodes" in options else "no space left on the file system of") in said, said
print("done")
"""


TINY = """
import errno, pathlib, subprocess, sys
mount = pathlib.Path(sys.argv[1])
mount.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[2], "none", mount], check=True)

def do(text):
    program = "import casstore, sys; store = casstore.Store(sys.argv[1]);" + text + "; store.close()"
    result = subprocess.run([sys.executable, "-c", program, str(mount / "store")], capture_output=True, text=True)
    assert result.returncode == 0, (text, result.returncode, result.stdout, result.stderr[-1500:])
    return result.stdout

def fill():
    with open(mount / "ballast", "ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1024))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return

(mount.parent / "w").write_bytes(b"weights")
do(f"store.save('m:1', {str(mount.parent / 'w')!r})")
fill()
assert "m:1" in do("print(store.tags())")
fill()
assert do("print(store.get('m:1').open('w').read())") == "b'weights'\\n"
print("done")
"""


def run_in_a_namespace(program, *arguments):
    if not all(map(shutil.which, ("unshare", "mount", "mkfs.ext4"))):
        pytest.skip("needs unshare, mount and mkfs.ext4")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own")
    result = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if result.returncode == 77:
        pytest.skip("a file system in a file cannot be mounted here")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


@pytest.mark.parametrize("size", ["2500k", "4m"])
def test_reading_on_a_full_file_system_of_a_few_mebibytes(tmp_path: Path, size) -> None:
    run_in_a_namespace(TINY, tmp_path / "mount", size)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tmpfs", "size=24m"),
        ("tmpfs", "size=24m,nr_inodes=1500"),
        ("ext4", "-b 1024"),
        ("ext4", "-b 4096"),
    ],
)
def test_reading_deleting_and_gc_on_a_full_disk(tmp_path: Path, kind, options) -> None:
    run_in_a_namespace(FULL, tmp_path / "mount", kind, options)
