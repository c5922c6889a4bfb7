from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from casstore.errors import StoreLocked
from casstore.storage import files, machine
from casstore.storage.locks import Lock

NOBODY = 65534


def run_forked(function: Callable[[], None], *, unprivileged: bool = False) -> None:
    """Run in a forked child, where it must succeed; without root's right to pass over permissions, if asked."""
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork while threads live; the children here take no locks of others.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            if unprivileged and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            function()
            os._exit(0)
        finally:
            # Whatever was raised must not return into the copy of pytest that this process is.
            os.write(2, f"in the child: {sys.exc_info()[1]!r}\n".encode())
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that `run_forked(unprivileged=True)` owns; it cannot reach those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="casstore-test-"))
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Recorder:
    """Logs the calls that change files, in order, and fails at one of them if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, fail_at: int = -1) -> None:
        self.log: list[str] = []
        self.root = root
        self.names: dict[int, str] = {}
        self.fail_at = fail_at
        for name in ("open", "write", "pwrite", "fchmod", "fsync", "rename", "close"):
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **keywords: Any) -> Any:
            known = str(target).startswith(str(self.root)) or target in self.names
            if known and name != "close":
                if self.fail_at == len(self.log):
                    self.fail_at = -1
                    raise OSError(errno.ENOSPC, "No space left on device")
                path = self.names[target] if isinstance(target, int) else os.fspath(target)
                self.log.append(f"{name} {os.path.relpath(path, self.root)}")
            result = real(target, *arguments, **keywords)
            if name == "open" and known:
                self.names[result] = os.fspath(target)
            elif name == "close":
                self.names.pop(target, None)
            return result

        return call


DURABLE_WRITE = [
    "open temporary",
    "write temporary",
    "fchmod temporary",
    "fsync temporary",
    "rename temporary",
    "open .",
    "fsync .",
]


def write(path: Path, data: bytes, *, durable: bool = False) -> None:
    files.write_file(path, data, 0o444, temporary=path.parent / "temporary", durable=durable)


def test_a_durable_write_syncs_the_file_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, tmp_path)
        write(tmp_path / "name", b"data", durable=True)
    assert recorder.log == DURABLE_WRITE
    assert recorder.names == {}
    assert (tmp_path / "name").read_bytes() == b"data"
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o444


def test_a_write_that_is_not_durable_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, tmp_path)
        write(tmp_path / "name", b"data")
    assert recorder.log == [line for line in DURABLE_WRITE[:5] if not line.startswith("fsync")]


@pytest.mark.parametrize("step", range(5))
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    (tmp_path / "name").write_bytes(b"before")
    with monkeypatch.context() as patch:
        Recorder(patch, tmp_path, fail_at=step)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "name", b"after", durable=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"name": b"before"}


def test_a_write_that_cannot_sync_its_directory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Recorder(patch, tmp_path, fail_at=6)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "name", b"after", durable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_what_stands_at_the_temporary_path_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "temporary").write_bytes(b"of a process that was killed")
    write(tmp_path / "name", b"data")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"name": b"data"}


@pytest.mark.parametrize("durable", [False, True])
def test_a_new_file_is_synced_but_not_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, tmp_path)
        files.write_new_file(tmp_path / "name", b"data", 0o400, durable=durable)
    assert recorder.log == ["open name", "write name", "fchmod name", *(["fsync name"] if durable else [])]
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o400
    with pytest.raises(FileExistsError):
        files.write_new_file(tmp_path / "name", b"other", 0o400)
    assert (tmp_path / "name").read_bytes() == b"data"


@pytest.mark.parametrize("step", range(4))
def test_a_new_file_that_fails_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    with monkeypatch.context() as patch:
        Recorder(patch, tmp_path, fail_at=step)
        with pytest.raises(OSError, match="No space left"):
            files.write_new_file(tmp_path / "name", b"data", 0o400, durable=True)
    assert list(tmp_path.iterdir()) == []


def can_trace() -> bool:
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not there or not allowed")
def test_what_the_kernel_sees_of_a_durable_write(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from casstore.storage import files;"
        "files.write_file(Path(sys.argv[1]), b'data', 0o444, temporary=sys.argv[1] + '.new', durable=True)"
    )
    log = tmp_path / "log"
    directory = tmp_path / "directory"
    directory.mkdir()
    calls = "trace=write,pwrite64,fsync,fdatasync,?rename,renameat,renameat2,?chmod,fchmod"
    traced = ["strace", "-f", "-y", "-e", calls, "-o", str(log)]
    subprocess.run([*traced, sys.executable, "-c", script, str(directory / "name")], check=True)
    lines = [line for line in log.read_text().splitlines() if str(directory) in line]
    assert [re.sub(r"^\d+ +(\w+?)(at2?|64)?\(.*", r"\1", line) for line in lines] == [
        "write",
        "fchmod",
        "fsync",
        "rename",
        "fsync",
    ]
    assert f"<{directory}>" in lines[-1]


def test_a_new_file_is_never_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"before")
    with pytest.raises(FileExistsError), files.create_file(tmp_path / "name"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), files.create_file(tmp_path / "link"):
        pass
    with files.create_file(tmp_path / "new") as descriptor:
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("name", ["write", "pwrite"])
def test_partial_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = getattr(os, name)
    data = bytes(range(256)) * 5
    with files.create_file(tmp_path / "file") as descriptor, monkeypatch.context() as patch:
        patch.setattr(os, name, lambda to, view, *offset: real(to, view[:100], *offset))
        files.write_all(descriptor, memoryview(data), *([7] if name == "pwrite" else []))
    assert (tmp_path / "file").read_bytes() == (bytes(7) if name == "pwrite" else b"") + data


def test_syncing(tmp_path: Path) -> None:
    write(tmp_path / "file", b"x")
    files.sync_file(tmp_path / "file")
    files.sync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.sync_file(tmp_path / "missing")
    with pytest.raises(NotADirectoryError):
        files.sync_directory(tmp_path / "file")


def test_modes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.create_file(path) as descriptor:
        files.set_mode(descriptor, 0o640)
        before = os.fstat(descriptor)
        files.set_mode(descriptor, 0o555)
        assert files.is_executable(os.fstat(descriptor))
    files.restore_mode(path, before)
    assert path.stat().st_mode & 0o7777 == 0o640
    assert not files.is_executable(path.stat())
    files.restore_mode(tmp_path / "missing", before)
    assert files.stored_mode(False, 0o022) == 0o444
    assert files.stored_mode(True, 0o077) == 0o500


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_a_mode_is_given_back_to_the_same_file_only(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "file", b"x")
    before = (tmp_path / "file").stat()
    write(tmp_path / "other", b"x")
    (tmp_path / "other").chmod(0o400)
    (tmp_path / "file").rename(tmp_path / "moved")
    if kind == "file":
        (tmp_path / "other").rename(tmp_path / "file")
    elif kind == "link":
        (tmp_path / "file").symlink_to("other")
    else:
        os.mkfifo(tmp_path / "file", 0o400)
    files.restore_mode(tmp_path / "file", before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o400


def test_a_rename_into_a_directory_does_not_follow_a_link(tmp_path: Path) -> None:
    for name in ("real", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("outside")
    write(tmp_path / "file", b"x")
    identities = [(status.st_dev, status.st_ino) for status in [(tmp_path / "real").stat()]]
    with pytest.raises(NotADirectoryError):
        files.rename_into(tmp_path / "file", tmp_path / "link/file")
    with pytest.raises(NotADirectoryError):
        files.rename_into(tmp_path / "file", tmp_path / "outside/file", identities)
    with pytest.raises(OSError, match="link"):
        files.set_directory_mode(tmp_path / "link", 0o700)
    assert (tmp_path / "file").read_bytes() == b"x"
    files.rename_into(tmp_path / "file", tmp_path / "real/file", identities)
    files.rename_into(tmp_path / "real/file", tmp_path / "outside/file")
    assert (tmp_path / "outside/file").read_bytes() == b"x"


def test_removing_a_link_to_a_tree_leaves_the_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub").chmod(0o755)
    (tmp_path / "link").symlink_to(outside)
    files.remove_tree(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "link")
    assert (outside / "sub").stat().st_mode & 0o777 == 0o755


def test_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(*_: object, **__: object) -> None:
        raise FileNotFoundError

    before = os.umask(0o027)
    try:
        assert machine.umask() == 0o027
        monkeypatch.setattr(files, "open", no_proc, raising=False)
        assert machine.umask() == 0o027
        assert machine.umask() == 0o027
    finally:
        os.umask(before)


def test_the_boot_is_the_same_for_all_processes() -> None:
    script = "from casstore.storage import machine; print(machine.boot_id())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert machine.boot_id() == machine.boot_id() != ""
    if sys.platform == "linux":
        assert other.stdout.strip() == machine.boot_id()


def test_removing_what_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.remove_file(tmp_path / "file")
    assert not files.remove_file(tmp_path / "file")
    files.make_directory(tmp_path / "a" / "b", parents=True)
    files.make_directory(tmp_path / "a" / "b")
    assert not files.remove_empty_directory(tmp_path / "a")
    assert files.remove_empty_directory(tmp_path / "a" / "b")
    assert not files.remove_empty_directory(tmp_path / "a" / "b")


def test_removing_a_tree(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    (tree / "link").symlink_to(kept)
    (tree / "dangling").symlink_to("nowhere")
    files.remove_tree(tree)
    files.remove_tree(tree)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept"]


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o300, 0o000])
def test_removing_a_tree_with_locked_directories(shared_directory: Path, mode: int) -> None:
    tree = shared_directory / "tree"

    def build_and_remove() -> None:
        for parts in ("a", "b/c", "b/c/d"):
            (tree / parts).mkdir(parents=True)
            (tree / parts / "file").touch()
            (tree / parts / "file").chmod(0o444)
        for parts in ("b/c/d", "b/c", "b", "a", "."):
            (tree / parts).chmod(mode)
        files.remove_tree(tree)

    run_forked(build_and_remove, unprivileged=True)
    assert list(shared_directory.iterdir()) == []


def test_two_may_remove_the_same_tree(tmp_path: Path) -> None:
    for _ in range(10):
        tree = tmp_path / "tree"
        for number in range(200):
            (tree / str(number % 10) / str(number)).mkdir(parents=True)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(files.remove_tree, [tree] * 3))
        assert not tree.exists()


def test_linking(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert files.try_link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")
    with pytest.raises(FileExistsError):
        files.try_link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        files.try_link(tmp_path / "missing", tmp_path / "c")


@pytest.mark.parametrize("name", ["EXDEV", "EPERM", "EOPNOTSUPP", "EMLINK", "EACCES"])
def test_where_links_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), "refused")

    monkeypatch.setattr(os, "link", refuse)
    assert not files.try_link(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
def test_errors_of_links_that_a_copy_would_meet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), "refused")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="refused"):
        files.try_link(tmp_path / "a", tmp_path / "b")


def test_linking_across_devices(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "a").touch()
    assert not files.try_link(elsewhere / "a", tmp_path / "b")


def copy(source: Path, target: Path) -> list[int]:
    told: list[int] = []
    with source.open("rb") as reading, files.create_file(target) as writing:
        files.copy_file(reading.fileno(), writing, told.append)
    return told


@pytest.mark.parametrize("size", [0, 1, 1000, 2500])
def test_copying_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(files, "_COPY_BYTES", 1000)
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert sum(copy(tmp_path / "a", tmp_path / "b")) == size
    assert (tmp_path / "b").read_bytes() == data


@pytest.mark.skipif(sys.platform != "linux", reason="FICLONE is Linux's")
def test_a_reflink_copies_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _target, request, _source: asked.append(request))
    assert copy(tmp_path / "a", tmp_path / "b") == [5]
    assert asked == [0x40049409]
    assert (tmp_path / "b").read_bytes() == b""


lease = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells, by a lease")


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """A read-only file that nobody holds open."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o444)
    return path


def is_writable(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return files.is_writable_by_others(descriptor)
    finally:
        os.close(descriptor)


@lease
def test_nobody_holds_it(quiet: Path) -> None:
    reading = os.open(quiet, os.O_RDONLY)
    assert not is_writable(quiet)
    assert not is_writable(quiet)
    os.close(reading)


@lease
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_this_process_holds_it_open_for_writing(quiet: Path, flags: int) -> None:
    quiet.chmod(0o644)
    writing = os.open(quiet, flags)
    quiet.chmod(0o444)
    assert is_writable(quiet)
    os.close(writing)
    assert not is_writable(quiet)


@lease
def test_another_process_holds_it_open_for_writing(quiet: Path) -> None:
    quiet.chmod(0o644)
    script = "import sys; file = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(quiet)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        quiet.chmod(0o444)
        assert is_writable(quiet)
        other.stdin.close()
        other.wait()
        assert not is_writable(quiet)


@lease
def test_a_mapping_may_write_after_its_descriptor_is_closed(quiet: Path) -> None:
    quiet.chmod(0o644)
    with quiet.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    quiet.chmod(0o444)
    assert is_writable(quiet)
    mapping.close()
    assert not is_writable(quiet)


@lease
def test_a_mapping_for_reading_does_not_matter(quiet: Path) -> None:
    with quiet.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert not is_writable(quiet)


@lease
def test_the_lease_is_gone_afterwards(quiet: Path) -> None:
    descriptor = os.open(quiet, os.O_RDONLY)
    assert not files.is_writable_by_others(descriptor)
    assert fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_UNLCK
    quiet.chmod(0o644)
    # With a lease in the way this would not be had at once.
    os.close(os.open(quiet, os.O_WRONLY | os.O_NONBLOCK))
    os.close(descriptor)


@lease
def test_a_broken_lease_does_not_end_the_process(quiet: Path) -> None:
    """SIGIO, the default, would. A writer comes while the lease stands."""
    quiet.chmod(0o644)
    script = """if True:
        import fcntl, os, sys, threading, time
        from casstore.storage import files
        real = fcntl.fcntl
        def slow(descriptor, command, *value):
            result = real(descriptor, command, *value)
            if command == fcntl.F_SETLEASE and value == (fcntl.F_RDLCK,):
                threading.Thread(target=os.open, args=(sys.argv[1], os.O_WRONLY)).start()
                time.sleep(0.3)
            return result
        fcntl.fcntl = slow
        files.is_writable_by_others(os.open(sys.argv[1], os.O_RDONLY))
        print("lives")
    """
    done = subprocess.run([sys.executable, "-c", script, str(quiet)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("lives\n", 0), done.stderr


def test_where_nothing_tells_the_answer_is_yes(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, "refused")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert is_writable(quiet)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert is_writable(quiet)


def test_a_lock_excludes_another_of_the_same_process(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.try_acquire()
    assert not other.try_acquire()
    assert not one.try_acquire()
    one.release()
    one.release()
    assert other.try_acquire()
    with other:
        pass
    assert one.try_acquire()
    one.release(remove=True)
    assert not (tmp_path / "lock").exists()


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    one.acquire("the test")
    done: list[str] = []
    timer = threading.Timer(0.2, lambda: (done.append("released"), one.release()))
    timer.start()
    other.acquire("the test", timeout_s=120)
    assert done == ["released"]
    timer.join()
    other.release()


def test_waiting_too_long(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.try_acquire()
    with pytest.raises(StoreLocked, match=r"model 'bert' has been locked by another process for 0 s; try again"):
        other.acquire("model 'bert'", timeout_s=0.05)
    one.release()
    assert other.try_acquire()
    other.release()


def test_a_lock_in_a_missing_directory(tmp_path: Path) -> None:
    """The directory of locks is made again; what that is in is not."""
    lock = Lock(tmp_path / "locks/a.lock")
    assert lock.try_acquire()
    lock.release()
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "no/locks/a.lock").try_acquire()


@pytest.mark.parametrize("remove", [False, True])
def test_threads_hold_a_lock_one_at_a_time(tmp_path: Path, remove: bool) -> None:
    holders = 0
    most = 0
    rounds = 0

    def work() -> None:
        nonlocal holders, most, rounds
        for _ in range(40):
            lock = Lock(tmp_path / "lock")
            lock.acquire("the test")
            holders += 1
            most = max(most, holders)
            time.sleep(0)
            rounds += 1
            holders -= 1
            lock.release(remove=remove)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, rounds) == (1, 240)
    assert (tmp_path / "lock").exists() is not remove


@pytest.mark.parametrize("made_again", [False, True])
def test_a_lock_file_that_is_removed_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_again: bool
) -> None:
    """Its holder unlinks it between the open and the flock: the lock got is on a file that nobody else finds."""
    path = tmp_path / "lock"
    real = fcntl.flock
    calls = 0

    def flock(descriptor: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            path.unlink()
            if made_again:
                path.touch()
        real(descriptor, operation)

    lock = Lock(path)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert lock.try_acquire()
    assert calls == 2
    assert not Lock(path).try_acquire()
    lock.release()


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = """if True:
        import sys, time
        from pathlib import Path
        from casstore.storage.locks import Lock
        lock = Lock(Path(sys.argv[1]))
        assert lock.try_acquire()
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        lock = Lock(path)
        assert not lock.try_acquire()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert lock.try_acquire()
        lock.release()


def test_a_program_that_is_started_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.try_acquire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as other:
        # Closes this process's descriptor and no more, as its death would.
        lock.abandon()
        Lock(tmp_path / "lock").acquire("the test", timeout_s=10)
        assert other.poll() is None
        other.communicate(b"\n")


def test_a_lock_that_is_released_is_free_though_a_forked_child_has_a_copy(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.try_acquire()
    reading, writing = os.pipe()

    def child() -> None:
        os.close(writing)
        os.read(reading, 1)

    done = threading.Event()

    def wait_for_child() -> None:
        run_forked(child)
        done.set()

    waiting = threading.Thread(target=wait_for_child)
    waiting.start()
    time.sleep(0.1)
    lock.release()
    try:
        assert Lock(tmp_path / "lock").try_acquire()
        assert not done.is_set()
    finally:
        os.close(writing)
        waiting.join()
        os.close(reading)
    assert done.is_set()


def test_a_forked_child_that_abandons_a_lock_leaves_it_to_its_parent(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.try_acquire()

    def child() -> None:
        lock.abandon()
        lock.abandon()
        lock.release(remove=True)
        assert not Lock(tmp_path / "lock").try_acquire()

    run_forked(child)
    assert (tmp_path / "lock").exists()
    assert not Lock(tmp_path / "lock").try_acquire()
    lock.release()
    with contextlib.closing(os.fdopen(os.open(tmp_path / "lock", os.O_RDWR))) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("offset", [None, 0])
def test_a_write_that_finds_no_room_names_the_file(offset) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="/dev/full") as caught:
            files.write_all(descriptor, b"x", offset)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    finally:
        os.close(descriptor)


@lease
def test_a_lease_tells_of_who_wants_to_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with files.open_regular(path) as descriptor:
        files.begin_lease(descriptor)
        with files.open_regular(path):
            pass
        assert files.end_lease(descriptor)
        files.begin_lease(descriptor)
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        assert not files.end_lease(descriptor)
        with open(path, "r+b"), pytest.raises(BlockingIOError):
            files.begin_lease(descriptor)
