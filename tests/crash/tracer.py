"""Runs a function in a forked process and stops it at its system calls: to end it there, or to make them fail.

Linux on x86-64, by ptrace(2), which seccomp(2) tells at which calls to stop: all others run at full speed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IS_SUPPORTED = sys.platform == "linux" and os.uname().machine == "x86_64"

# Of /usr/include/x86_64-linux-gnu/asm/unistd_64.h, with the argument that tells the file: a descriptor, a path, or a
# path that counts from the directory in the argument before it. Those that change what is on disk or seen by others:
CHANGING = {
    1: ("write", "fd", 0), 18: ("pwrite64", "fd", 0), 20: ("writev", "fd", 0), 296: ("pwritev", "fd", 0),
    328: ("pwritev2", "fd", 0), 74: ("fsync", "fd", 0), 75: ("fdatasync", "fd", 0), 76: ("truncate", "path", 0),
    77: ("ftruncate", "fd", 0), 277: ("sync_file_range", "fd", 0),
    285: ("fallocate", "fd", 0), 326: ("copy_file_range", "fd", 2),
    40: ("sendfile", "fd", 0), 16: ("ioctl", "fd", 0), 73: ("flock", "fd", 0), 91: ("fchmod", "fd", 0),
    90: ("chmod", "path", 0), 268: ("fchmodat", "at", 1), 82: ("rename", "path", 0), 264: ("renameat", "at", 1),
    316: ("renameat2", "at", 1), 83: ("mkdir", "path", 0), 258: ("mkdirat", "at", 1), 84: ("rmdir", "path", 0),
    86: ("link", "path", 1), 265: ("linkat", "at", 3), 87: ("unlink", "path", 0), 263: ("unlinkat", "at", 1),
    88: ("symlink", "path", 1), 266: ("symlinkat", "at", 2), 85: ("creat", "path", 0), 2: ("open", "path", 0),
    257: ("openat", "at", 1),
}  # fmt: skip
# Those that may fail without having changed anything. Opening a file is in both.
READING = {
    0: ("read", "fd", 0), 17: ("pread64", "fd", 0), 217: ("getdents64", "fd", 0), 2: ("open", "path", 0),
    257: ("openat", "at", 1),
}  # fmt: skip
ALL = CHANGING | READING
CALLS = {number: name for number, (name, _, _) in CHANGING.items()}
_SYNCS = {"fsync", "fdatasync"}
_OPENS = {"open": 1, "openat": 2}  # which argument holds the flags
_FICLONE = 0x40049409
_AT_FDCWD = 0xFFFFFF9C
# Nobody's file: asking for it tells the tracer to let all calls through from now on.
_TRUCE = "/truce"
_ACCESS = 21

_TRACEME, _POKEUSER, _CONT, _SYSCALL, _SETOPTIONS, _INFO = 0, 6, 7, 24, 0x4200, 0x420E
# TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACESECCOMP, EXITKILL
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x100000
_EVENT_SECCOMP = 7
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_WALL = 0x40000000
_SET_SECCOMP, _SET_NO_NEW_PRIVILEGES, _MODE_FILTER = 22, 38, 2
_RET_ERRNO, _RET_TRACE, _RET_ALLOW = 0x00050000, 0x7FF00000, 0x7FFF0000

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as far as a call's number and arguments go."""

    _fields_ = (
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64), ("sp", ctypes.c_uint64), ("nr", ctypes.c_uint64), ("args", ctypes.c_uint64 * 6),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A system call on the file at `path`."""

    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


@dataclass(slots=True)
class Traced:
    """How a traced run ended. `calls`: those that counted, in order, up to the last one reached.

    `killed`: it was ended at the call asked for. `acknowledged`: the function returned. `exit_code`: of the process.
    `repeated_syncs`: files that were synced again, as they were, after a sync of them had been made to fail.
    """

    calls: list[Call] = field(default_factory=list)
    killed: bool = False
    exit_code: int | None = None
    repeated_syncs: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return self.exit_code == 0


class Watcher:
    """Is told of every call of those that are followed, wherever their files are, and of access(2)."""

    __slots__ = ()

    def entry(self, pid: int, number: int, args: list[int]) -> None:
        """A thread is about to make the call of that number."""

    def exit(self, pid: int, result: int) -> None:
        """The thread's call is done; a negative result is an errno."""


def run(
    function: Callable[[], object],
    *,
    below: Path = Path("/"),
    calls: dict[int, tuple[str, str, int]] = CHANGING,
    kill_at: int | None = None,
    is_done: bool = False,
    fail_at: int | None = None,
    error: int = 0,
    for_ever: bool = False,
    before: Callable[[], object] = lambda: None,
    watcher: Watcher | None = None,
) -> Traced:
    """Run `before` and a function in a forked process, and follow the latter's calls on files below that directory.

    `kill_at`: SIGKILL when it is about to make its call of that number, from 1 on; with `is_done`, when that call has
    been made. `fail_at`: make that call, or with `for_ever` it and all that follow, return `error` without being made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads; none of ours is running
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            before()
            _libc.ptrace(_TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            _answer({*calls, _ACCESS}, _RET_TRACE)
            function()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - the child must not go on as pytest
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return _Tracer(pid, below, calls, kill_at, is_done, fail_at, error, for_ever, watcher).follow()


def end_errors() -> None:
    """In the function that runs: have no call fail any more."""
    os.access(_TRUCE, os.F_OK)


def refuse(names: set[str], error: int) -> None:
    """From now on these system calls of this process and its children return `error`, as if there were none such."""
    _answer({number for number, name in CALLS.items() if name in names}, _RET_ERRNO | error)


def _answer(numbers: set[int], answer: int) -> None:
    """Set what becomes of these calls of this process: the tracer is told, or they fail."""
    jumps = [struct.pack("=HBBI", 0x15, len(numbers) - i, 0, nr) for i, nr in enumerate(sorted(numbers))]
    code = b"".join(
        [
            struct.pack("=HBBI", 0x20, 0, 0, 0),  # load the number of the call
            *jumps,
            struct.pack("=HBBI", 0x06, 0, 0, _RET_ALLOW),
            struct.pack("=HBBI", 0x06, 0, 0, answer),
        ]
    )
    program = _Program(len(jumps) + 3, code)
    if _libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or _libc.prctl(
        _SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter can be set")


@dataclass(slots=True)
class _Tracer:
    pid: int
    below: Path
    counted: dict[int, tuple[str, str, int]]
    kill_at: int | None
    is_done: bool
    fail_at: int | None
    error: int
    for_ever: bool
    watcher: Watcher | None
    ending: int | None = None  # the thread at the end of whose call the process is to be killed
    is_truce: bool = False
    failed_syncs: dict[tuple[int, int], str] = field(default_factory=dict)
    traced: Traced = field(default_factory=Traced)

    def follow(self) -> Traced:
        """Let it run from call to call until it ends."""
        os.waitpid(self.pid, _WALL)
        _ptrace(_SETOPTIONS, self.pid, 0, _OPTIONS)
        _ptrace(_CONT, self.pid, 0, 0)
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                if thread == self.pid:
                    self.traced.exit_code = os.waitstatus_to_exitcode(status)
                    return self.traced
                continue
            signum, event = os.WSTOPSIG(status), status >> 16
            deliver, is_exit_wanted = 0, False
            if event == _EVENT_SECCOMP:
                self._at_call(thread)
                is_exit_wanted = thread == self.ending or self.watcher is not None
            elif signum == signal.SIGTRAP | 0x80:
                if thread == self.ending:
                    self._kill()
                elif self.watcher is not None:
                    # The result stands where at the entry the call's number did.
                    self.watcher.exit(thread, ctypes.c_int64(_info(thread).nr).value)
            elif event == 0 and signum != signal.SIGSTOP:
                deliver = signum
            _ptrace(_SYSCALL if is_exit_wanted else _CONT, thread, 0, deliver)

    def _kill(self) -> None:
        self.traced.killed = True
        os.kill(self.pid, signal.SIGKILL)

    def _at_call(self, thread: int) -> None:
        info = _info(thread)
        if self.watcher is not None:
            self.watcher.entry(thread, info.nr, list(info.args))
        if info.nr == _ACCESS:
            self.is_truce |= _text(thread, info.args[0]) == _TRUCE
            return
        call = self._call(thread, info)
        if call is None:
            return
        self.traced.calls.append(call)
        number = len(self.traced.calls)
        if number == self.kill_at:
            if self.is_done:
                self.ending = thread
            else:
                self._kill()
            return
        is_failing = self.fail_at is not None and not self.is_truce and (
            number == self.fail_at or (self.for_ever and number > self.fail_at)
        )  # fmt: skip
        self._note_sync(thread, info, call, is_failing)
        if is_failing:
            _ptrace(_POKEUSER, thread, _ORIG_RAX, -1)
            _ptrace(_POKEUSER, thread, _RAX, -self.error)

    def _call(self, thread: int, info: _Info) -> Call | None:
        """The call if it counts."""
        name, how, argument = self.counted[info.nr]
        if name in _OPENS and self.counted is CHANGING and not info.args[_OPENS[name]] & (os.O_CREAT | os.O_TRUNC):
            return None
        if name == "ioctl" and info.args[1] != _FICLONE:
            return None
        try:
            if how == "fd":
                path = os.readlink(f"/proc/{thread}/fd/{info.args[argument]}")
            else:
                path = _text(thread, info.args[argument])
                directory = info.args[argument - 1] & 0xFFFFFFFF if how == "at" else _AT_FDCWD
                if not path.startswith("/"):
                    base = "cwd" if directory == _AT_FDCWD else f"fd/{directory}"
                    path = os.path.join(os.readlink(f"/proc/{thread}/{base}"), path)
        except OSError:
            return None
        return Call(name, path) if path.startswith(os.path.join(self.below, "")) else None

    def _note_sync(self, thread: int, info: _Info, call: Call, is_failing: bool) -> None:
        """The kernel may have dropped what it could not write: a later fsync that succeeds would prove nothing.

        SQLite writes its frames and pages anew before it syncs its files again, and a directory can only be synced
        again. An inode's number may be given to a new file, which has another name.
        """
        if call.name not in _SYNCS or call.path.endswith("-wal") or os.path.exists(f"{call.path}-wal"):
            return
        status = os.stat(f"/proc/{thread}/fd/{info.args[0]}")
        if stat.S_ISDIR(status.st_mode):
            return
        key = status.st_dev, status.st_ino
        if is_failing:
            self.failed_syncs[key] = call.path
        elif self.failed_syncs.get(key) == call.path:
            self.traced.repeated_syncs.append(call.path)


def _info(thread: int) -> _Info:
    info = _Info()
    _libc.ptrace(_INFO, thread, ctypes.sizeof(info), ctypes.byref(info))
    return info


def _text(thread: int, address: int) -> str:
    """The string that stands there in the memory of a stopped thread."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        data = b""
        while b"\0" not in data:
            # Not beyond the page, which may be the last.
            data += os.pread(memory.fileno(), 4096 - (address + len(data)) % 4096, address + len(data))
    return os.fsdecode(data.partition(b"\0")[0])


def _ptrace(request: int, thread: int, address: int, data: int) -> None:
    # A thread may be gone by the time it is told to go on: the process was killed.
    _libc.ptrace(request, thread, address, data)
