"""Locks between processes: flock(2) on files of their own, which the kernel drops when a process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from casstore.errors import StoreError, StoreLocked
from casstore.storage import access, files
from casstore.storage.descriptors import Descriptor, opened
from casstore.storage.uncopied import Uncopied

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 0.05
# What flock(2) says on a file system that has none, such as some FUSE and network mounts.
_NO_LOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}

_own_locks: weakref.WeakSet[Descriptor] = weakref.WeakSet()


def _abandon_in_child() -> None:
    """Or a child would hold gc's and models' locks for its whole life where its parent is killed."""
    for file in list(_own_locks):
        file.close()


os.register_at_fork(after_in_child=_abandon_in_child)


@files.explained
def _open_lock(path: Path) -> Descriptor:
    try:
        if access.around(path) is None:
            return opened(path, os.O_RDWR | os.O_CREAT, 0o666)
        while True:
            with contextlib.suppress(FileExistsError):
                return files.create(path, 0o666)
            with contextlib.suppress(FileNotFoundError):  # its holder has just removed it
                return opened(path, os.O_RDWR)
    except PermissionError as error:
        try:
            # Another user has made it for themselves alone; flock(2) does not ask for more than reading.
            return opened(path, os.O_RDONLY)
        except OSError:
            raise error from None


def try_lock(descriptor: int) -> bool | None:
    """Lock what is open until it is closed; False where another has it locked, None where it can have no lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (*_NO_LOCK, errno.EBADF):  # EBADF: NFS, of what is open for reading
            return None
        raise
    return True


class _Exit:
    """A lock's `__exit__`: fetched before the block begins, and let go of when the interpreter has left the block.

    So a guard that goes with it lets go of the lock where an interrupt comes at the first instruction of what is called
    at the end, whose frame, and the lock with it, may live on in a traceback.
    """

    def __get__(self, lock: Lock | None, _: type[Lock]) -> Callable[..., None]:
        if lock is None:  # as contextlib.ExitStack asks for it
            return _leave
        leave = functools.partial(_leave, lock)
        leave.__dict__["guard"] = _Guard(lock)
        return leave


def _leave(lock: Lock, *_: object) -> None:
    lock.release()


class Lock(Uncopied):
    """A flock(2) on a file of its own, exclusive unless `shared`. The kernel drops it when the process dies.

    flock works between two descriptors of one process as between processes; the descriptor is closed on exec.
    """

    _file: Descriptor | None = None

    def __init__(self, path: Path, *, shared: bool = False, is_shared_with_children: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._is_own = not is_shared_with_children

    @property
    def is_held(self) -> bool:
        return self._file is not None and not self._file.closed

    def try_acquire(self) -> bool:
        """Take the lock if it is free. The file is made if need be, and made again if its holder removed it.

        An interrupt leaves it free. Raises StoreError where the file system has no locks, OSError.
        """
        while True:
            file = self._open()
            try:
                if not self._is_taken(file.fileno()):
                    file.close()
                    return False
                if self._still_names(file.fileno()):
                    if self._is_own:
                        file.holder = (os.fspath(self.path), threading.get_ident())
                        _own_locks.add(file)
                    self._file = file
                    return True
            except BaseException:
                self._file = None
                file.close()
                raise
            file.close()

    def _is_taken(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, self._kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCK:
                raise StoreError(
                    f"{self.path.parent} is on a file system without locks (flock: {error.strerror}), where "
                    "processes could not keep out of each other's way; keep the store on a local file system"
                ) from error
            raise
        return True

    def _open(self) -> Descriptor:
        try:
            return _open_lock(self.path)
        except FileNotFoundError:
            # Directories that hold only locks may be missing in a copy of a store, or be removed; not what they are in.
            files.make_directory(self.path.parent)
            return _open_lock(self.path)

    def acquire(self, what: str, timeout_s: float = 60.0) -> None:
        """Wait for the lock. Raises StoreLocked, naming `what` it guards, after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.001
        try:
            while not self.try_acquire():
                if time.monotonic() > deadline:
                    raise StoreLocked(
                        f"{what} has been locked by another process for {timeout_s:.0f} s; "
                        "try again when it is done, or end that process"
                    )
                time.sleep(pause_s)
                if pause_s < _LONGEST_PAUSE_S <= 2 * pause_s:  # once, and not of a lock that is soon free
                    _log.info("waiting: %s is locked by another process", what)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except BaseException:
            self.release()
            raise

    def check_not_mine(self, what: str) -> None:
        """Raise StoreLocked where this very thread holds the lock, as when a signal's handler interrupts what does.

        It would wait for itself.
        """
        holder = (os.fspath(self.path), threading.get_ident())
        if any(file.holder == holder and not file.closed for file in list(_own_locks)):
            raise StoreLocked(
                f"{what} is locked by this very thread, in the middle of something else; a signal's handler or a "
                "callback may use it when that is done: let it set a flag, and act on that later"
            )

    def release(self, *, remove: bool = False) -> None:
        """Let go; with `remove`, unlink the file first, while the lock still holds. Harmless when not held."""
        if self._file is None or self._file.closed:
            return
        with self._file as descriptor:  # known to this object until it is closed
            try:
                if remove:
                    files.remove_file(self.path)
            finally:
                # Closing alone would leave it locked while a forked child has a copy of the descriptor.
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def abandon(self) -> None:
        """In a forked child: forget the lock, which stays the parent's, and close this copy of its descriptor.

        Closing does not unlock: flock belongs to the open file description, which the parent still holds.
        """
        if self._file is not None:
            self._file.close()

    @property
    def held(self) -> Descriptor:
        """What holds the lock from now on: for a `with` block, whose beginning and end no interrupt can come into."""
        if self._file is None:
            raise ValueError(f"{self.path} is not locked")
        return self._file

    def _still_names(self, descriptor: int) -> bool:
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def __enter__(self) -> Lock:
        return self

    __exit__ = _Exit()


class _Guard(Uncopied):
    """Lets go of a lock when nothing refers to the guard any more."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __del__(self) -> None:
        self._lock.release()
