"""`casstore mount`: the operations that FUSE asks for, a real mount where there can be one, and what is missing."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import casstore
from casstore.cli.mounted import Mounted
from tests.cli.conftest import COMMAND, Cli
from tests.kit import noise, plant, why_no_fuse

FILES = {"config.json": b'{"hidden": 4}', "sub/run.sh": b"#!/bin/sh\necho ran\n", "w.bin": noise(3_000_000)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    source = plant(tmp_path / "out", FILES)
    (source / "sub/run.sh").chmod(0o755)
    with casstore.Store(tmp_path / "home") as store:
        store.save("bert:v1", source)
        store.save("bert:v2", plant(source, {"config.json": b"{}"}))
        store.set_alias("bert@prod", "bert:v1")
    return tmp_path / "home"


@pytest.fixture
def mounted(home: Path) -> Mounted:
    fsspec = pytest.importorskip("fsspec", reason="needs casstore[fsspec]")
    return Mounted(fsspec.filesystem("casstore", home=str(home), pull=False), lambda: None)


def opened(mounted: Mounted, path: str) -> SimpleNamespace:
    """What FUSE tells of an open file."""
    info = SimpleNamespace(flags=os.O_RDONLY, direct_io=False, keep_cache=False)
    assert mounted("open", path, info) == 0
    return info


def test_the_operations_of_fuse(mounted: Mounted) -> None:
    assert mounted("readdir", "/", 0) == [".", "..", "bert:v2", "bert:v1"]
    assert mounted("readdir", "/bert:v1", 0) == [".", "..", "config.json", "sub", "w.bin"]
    for path, mode, size in (
        ("/", stat.S_IFDIR | 0o555, 0), ("/bert:v1", stat.S_IFDIR | 0o555, 0),
        ("/bert:v1/sub", stat.S_IFDIR | 0o555, 0),
        ("/bert:v1/w.bin", stat.S_IFREG | 0o444, 3_000_000), ("/bert:v2/sub/run.sh", stat.S_IFREG | 0o555, 19),
        ("/bert", stat.S_IFLNK | 0o777, 7), ("/bert@prod", stat.S_IFLNK | 0o777, 7),
    ):  # fmt: skip
        found = mounted("getattr", path, None)
        assert (found["st_mode"], found["st_size"]) == (mode, size), path
        assert (found["st_uid"], found["st_gid"]) == (os.getuid(), os.getgid())
    assert (mounted("readlink", "/bert"), mounted("readlink", "/bert@prod")) == ("bert:v2", "bert:v1")
    first, second = (opened(mounted, "/bert:v1/w.bin") for _ in range(2))
    for handle, offset in [(first, 0), (second, 2_999_990), (first, 4096), (second, 0), (first, 3_000_000)]:
        assert mounted("read", "/bert:v1/w.bin", 4096, offset, handle) == FILES["w.bin"][offset : offset + 4096]
    mounted("release", "/bert:v1/w.bin", first)
    mounted("destroy", "/")
    with pytest.raises(KeyError):
        mounted("read", "/bert:v1/w.bin", 1, 0, second)


@pytest.mark.parametrize("path", ["/bert:v9", "/none", "/.git", "/bert:v1/nothing", "/bert:", "/größe", "/a b/c"])
def test_what_is_not_there(mounted: Mounted, path: str) -> None:
    for call in (("getattr", path, None), ("open", path, SimpleNamespace(flags=os.O_RDONLY)), ("readdir", path, 0)):
        with pytest.raises(OSError, match=r"no .* in this store|no file|cannot be|ends in") as caught:
            mounted(*call)
        assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
def test_nothing_is_opened_for_writing(mounted: Mounted, flags: int) -> None:
    with pytest.raises(OSError, match="Read-only") as caught:
        mounted("open", "/bert:v1/config.json", SimpleNamespace(flags=flags))
    assert caught.value.errno == errno.EROFS


def test_damage_is_an_error_of_the_disk(mounted: Mounted, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (large,) = [path for path in (home / "objects").rglob("*") if path.is_file() and path.stat().st_size == 3_000_000]
    large.chmod(0o644)
    large.write_bytes(bytes(3_000_000))
    handle = opened(mounted, "/bert:v1/w.bin")
    with pytest.raises(OSError, match=r"w\.bin of bert:v1 cannot be read") as caught:
        mounted("read", "/bert:v1/w.bin", 10, 0, handle)
    assert caught.value.errno == errno.EIO
    assert "casstore verify" in caplog.text


@pytest.fixture
def mount(home: Path, tmp_path: Path) -> Iterator[Any]:
    """mount(): the process of a mount at `tmp_path / "models"`, once it is there."""
    why = why_no_fuse()
    if why:
        pytest.skip(why)
    directory = tmp_path / "models"
    directory.mkdir()
    started = []

    def run(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "mount", str(directory), "--home", str(home), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        process.said = process.stdout.readline()  # type: ignore[attr-defined, union-attr]
        if not process.said:  # type: ignore[attr-defined]
            said = process.communicate()[1]
            assert "could not be mounted" in said, said
            pytest.skip(f"this user may not mount here: {said}")
        return process

    yield run
    subprocess.run(["fusermount", "-u", directory], capture_output=True, check=False)
    for process in started:
        process.communicate()


def test_a_store_is_mounted(mount, home: Path, tmp_path: Path) -> None:
    process, models = mount(), tmp_path / "models"
    assert process.said == f"{models} shows the versions of {home}, read-only\n"
    assert sorted(os.listdir(models)) == ["bert:v1", "bert:v2"]
    for path, raw in FILES.items():
        assert (models / "bert:v1" / path).read_bytes() == raw
        assert (models / "bert@prod" / path).read_bytes() == raw
    assert (models / "bert/config.json").read_bytes() == b"{}"
    assert subprocess.run([models / "bert:v1/sub/run.sh"], capture_output=True, check=True).stdout == b"ran\n"
    with open(models / "bert:v1/w.bin", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[-10:] == FILES["w.bin"][-10:]
    assert not (models / "bert:v9").exists()
    for write in (
        lambda: (models / "bert:v1/new").write_bytes(b"x"), lambda: (models / "bert:v1/config.json").write_bytes(b"x"),
        lambda: (models / "bert:v1/config.json").unlink(), lambda: (models / "new").mkdir(),
        lambda: (models / "bert:v1/config.json").chmod(0o644), lambda: (models / "bert:v1").rename(models / "b:v1"),
    ):  # fmt: skip
        with pytest.raises(OSError, match="Read-only file system"):
            write()
    with casstore.Store(home) as store:
        store.save("new:v1", plant(tmp_path / "out", {"logs": None}))
    assert (models / "new:v1/config.json").read_bytes() == b"{}"
    assert os.listdir(models / "new:v1/logs") == []
    again = subprocess.run([*COMMAND, "mount", models, "--home", home], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert f"is not empty, or mounted already (then `fusermount -u {models}`" in again.stderr
    subprocess.run(["fusermount", "-u", models], check=True)
    assert process.wait() == 0


def at(file: Any, offset: int) -> bytes:
    return os.pread(file.fileno(), 10, offset)


def test_an_open_file_has_one_version(mount, home: Path, tmp_path: Path) -> None:
    of = {number: bytes([number]) * 10 for number in range(4)}
    models, source = tmp_path / "models", tmp_path / "weights"
    with casstore.Store(home) as store:
        for number in (1, 2):
            store.save(f"m:v{number}", plant(source, {"w": bytes([number]) * 8_000_000}))
        store.set_alias("m@prod", "m:v1")
        mount()
        with open(models / "m@prod/w", "rb") as first:
            assert at(first, 0) == of[1]
            store.set_alias("m@prod", "m:v2")
            with open(models / "m@prod/w", "rb") as second:
                assert at(second, 0) == of[2], "at once"
                for offset in (4_000_000, 7_999_990):
                    assert (at(first, offset), at(second, offset)) == (of[1], of[2])
                store.delete("m:v2", now=True, drop_aliases=True)
                store.save("m:v2", plant(source, {"w": bytes([3]) * 9_000_000}))
                with open(models / "m:v2/w", "rb") as third:
                    for offset in (1_000_000, 5_000_000, 7_000_000):
                        assert (at(third, offset), at(second, offset)) == (of[3], of[2])
                    assert [os.fstat(file.fileno()).st_size for file in (first, second, third)] == [
                        8_000_000, 8_000_000, 9_000_000,
                    ]  # fmt: skip
        for name in ("m:v2", "m"):
            assert set((models / name / "w").read_bytes()) == {3}
        assert os.readlink(models / "m:v2") == f"m:v2~{str(store.get('m:v2').digest)[:16]}"
        assert not (models / "m:v2~0123456789abcdef").exists()
        assert sorted(os.listdir(models)) == ["bert:v1", "bert:v2", "m:v1", "m:v2"]


def test_the_kernel_keeps_nothing_of_a_descriptor(mounted: Mounted) -> None:
    """Under the same digest, so in the same directory, there may be another."""
    descriptor, weights = (opened(mounted, f"/bert:v1/{name}") for name in ("model.yaml", "w.bin"))
    assert (descriptor.direct_io, weights.direct_io) == (True, False)
    assert mounted("read", "", 1000, 0, descriptor).startswith(b"name: bert")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts(mount, tmp_path: Path, number: int) -> None:
    process = mount("--json")
    assert json.loads(process.said)["directory"] == str(tmp_path / "models")
    process.send_signal(number)
    assert process.wait() == 0
    assert os.listdir(tmp_path / "models") == []


def test_a_mount_whose_process_was_killed_is_told(mount, home: Path, tmp_path: Path) -> None:
    process = mount()
    process.kill()
    process.wait()
    done = subprocess.run(
        [*COMMAND, "mount", tmp_path / "models", "--home", home], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is still mounted by a process that is gone; `fusermount -u" in done.stderr


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("raise ImportError('no fuse')", "fsspec and fusepy (no fuse): pip install 'casstore[mount]'"),
        ("", "pip install 'casstore[mount]'"),  # another package's
        ("raise OSError('no libfuse')", "the library of FUSE 2 (no libfuse): apt install libfuse2"),
    ],
)
def test_what_is_missing_is_told(untouched: Cli, tmp_path: Path, module: str, text: str) -> None:
    (tmp_path / "fuse.py").write_text(module)
    (tmp_path / "models").mkdir()
    environment = {**untouched.environment, "PYTHONPATH": str(tmp_path)}
    command = [*COMMAND, "mount", str(tmp_path / "models")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert text in done.stderr


@pytest.mark.parametrize("made", [False, True])
def test_the_directory_is_there_and_empty(untouched: Cli, tmp_path: Path, made: bool) -> None:
    why = why_no_fuse()
    if why:
        pytest.skip(why)
    if made:
        plant(tmp_path / "models", {"mine": b"x"})
    said = untouched("mount", tmp_path / "models", code=1).err
    assert ("is not empty" if made else "is not there; make it first: mkdir ") in said


def test_no_disk_is_blamed_where_a_url_is_read_only(untouched: Cli) -> None:
    pytest.importorskip("fsspec", reason="needs casstore[fsspec]")
    said = untouched("export", "bert:v1", "casstore://bert:v9/x.tar", code=1).err
    assert "casstore:// is read-only" in said
    assert "disk" not in said


def test_a_store_must_be_there(cli: Cli, tmp_path: Path) -> None:
    assert "there is no store at" in cli("mount", tmp_path, code=12).err
