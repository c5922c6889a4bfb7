"""Runs a function in a forked process and stops it at its system calls: to end it there, or to make them fail.

Linux on x86-64, by ptrace(2). Only calls that change files count: see `CALLS`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

IS_SUPPORTED = sys.platform == "linux" and os.uname().machine == "x86_64"

# Those of /usr/include/x86_64-linux-gnu/asm/unistd_64.h that change a file, a directory or what is on disk.
CALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 74: "fsync", 75: "fdatasync", 77: "ftruncate",
    82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod", 91: "fchmod",
    257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat", 268: "fchmodat",
    285: "fallocate", 316: "renameat2", 326: "copy_file_range", 16: "ioctl", 73: "flock", 2: "open", 85: "creat",
}  # fmt: skip
_FICLONE = 0x40049409
_SYNCS = {"fsync", "fdatasync"}

_TRACEME, _CONT, _KILL, _SYSCALL, _SETOPTIONS, _POKEUSER, _INFO = 0, 7, 8, 24, 0x4200, 6, 0x420E
_OPTIONS = 0x1 | 0x8 | 0x2 | 0x4 | 0x100000  # TRACESYSGOOD, TRACECLONE, TRACEFORK, TRACEVFORK, EXITKILL
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as far as entries go."""

    _fields_ = (
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64), ("sp", ctypes.c_uint64), ("nr", ctypes.c_uint64), ("args", ctypes.c_uint64 * 6),
    )  # fmt: skip


@dataclass(slots=True)
class Traced:
    """How a traced run ended. `calls`: the names of the calls that counted, in order, up to the last one reached.

    `killed`: it was ended at the call asked for. `acknowledged`: the function returned. `exit_code`: of the process.
    `repeated_syncs`: files that were synced again after a sync of them had been made to fail.
    """

    calls: list[str] = field(default_factory=list)
    killed: bool = False
    exit_code: int | None = None
    repeated_syncs: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return self.exit_code == 0


def run(
    function: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
    kill_at: int | None = None,
    fail_at: int | None = None,
    error: int = 0,
    for_ever: bool = False,
) -> Traced:
    """Run `before` and then `function` in a forked process, the latter under the tracer.

    `kill_at`: SIGKILL when it is about to make its call of that number, from 1 on. `fail_at`: make that call, or with
    `for_ever` it and all that follow, return `error` without being made.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            before()
            _libc.ptrace(_TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - the child must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    return _Tracer(pid, kill_at, fail_at, error, for_ever=for_ever).follow()


class _Tracer:
    def __init__(self, pid: int, kill_at: int | None, fail_at: int | None, error: int, *, for_ever: bool) -> None:
        self._pid = pid
        self._kill_at = kill_at
        self._fail_at = fail_at
        self._error = error
        self._for_ever = for_ever
        self._failing: set[int] = set()  # threads in a call that is being made to fail
        self._failed_syncs: set[str] = set()
        self._traced = Traced()
        self._is_begun = False

    def follow(self) -> Traced:
        """Let it run from call to call until it ends."""
        while True:
            pid, status = os.waitpid(-1 if self._is_begun else self._pid, _WALL)
            if not os.WIFSTOPPED(status):
                if pid == self._pid:
                    self._traced.exit_code = os.waitstatus_to_exitcode(status)
                    return self._traced
                continue
            signum, event = os.WSTOPSIG(status), status >> 16
            deliver = 0
            if not self._is_begun:
                self._is_begun = True
                _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
            elif signum == signal.SIGTRAP | 0x80:
                if not self._at_call(pid):
                    continue
            elif event == 0 and signum != signal.SIGSTOP:
                deliver = signum
            _ptrace(_SYSCALL, pid, 0, deliver)

    def _at_call(self, pid: int) -> bool:
        """At the entry or exit of a call; False when the process has been killed there."""
        info = _Info()
        _libc.ptrace(_INFO, pid, ctypes.sizeof(info), ctypes.byref(info))
        if info.op == _EXIT:
            if pid in self._failing:
                self._failing.discard(pid)
                _ptrace(_POKEUSER, pid, _RAX, -self._error)
            return True
        name = CALLS.get(info.nr)
        if info.op != _ENTRY or name is None or not _changes(pid, name, info):
            return True
        self._traced.calls.append(name)
        number = len(self._traced.calls)
        if number == self._kill_at:
            self._traced.killed = True
            os.kill(self._pid, signal.SIGKILL)
            return False
        if name in _SYNCS:
            path = os.readlink(f"/proc/{pid}/fd/{info.args[0]}")
            if path in self._failed_syncs and not path.endswith(("-wal", ".db")):  # SQLite knows what to do
                self._traced.repeated_syncs.append(path)
        if self._fail_at is not None and (number == self._fail_at or (self._for_ever and number > self._fail_at)):
            if name in _SYNCS and os.path.isfile(path):
                self._failed_syncs.add(path)
            _ptrace(_POKEUSER, pid, _ORIG_RAX, -1)
            self._failing.add(pid)
        return True


def _changes(pid: int, name: str, info: _Info) -> bool:
    """Whether this call changes something that others may see."""
    if name in ("openat", "open"):
        flags = info.args[2 if name == "openat" else 1]
        return bool(flags & (os.O_CREAT | os.O_TRUNC))
    if name == "ioctl":
        return bool(info.args[1] == _FICLONE)
    if name in ("write", "writev", "flock"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{info.args[0]}")
        except OSError:
            return False
        # Pipes, and the unlinked files into which pytest has its processes write what they print.
        return info.args[0] > 2 and path.startswith("/") and not path.endswith(" (deleted)")
    return True


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    # A thread may be gone by the time it is told to go on: the process was killed.
    _libc.ptrace(request, pid, address, data)
