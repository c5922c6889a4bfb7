"""The only module that syncs, renames, links, copies, locks and changes modes of files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from casstore.errors import StoreError, StoreLocked

# Paths are plain text where there is one for every file of a version: building a Path costs more than a link(2).
StrPath = str | os.PathLike[str]

# From linux/fs.h: _IOW(0x94, 9, int). Python's fcntl module has no name for it.
_FICLONE = 0x40049409
_COPY_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2  # from linux/fs.h; start writing, wait for nothing
_NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs"),
}
# What says of this process, or of the whole file system, that it lacks something, and nothing of a file's bytes.
_SHORTAGES = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EINTR),
}
# What link(2) says where a hardlink cannot be had: another device, a file system without links, the
# file's link limit, a kernel that protects files of others.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
# What open(2) says where a file has been taken away, or a link or a pipe been put in its place.
_ANOTHER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
# What flock(2) says on a file system that has none, such as some FUSE and network mounts.
_NO_LOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}


def raise_unless_damage(error: Exception) -> None:
    """Raise an error met while reading that tells nothing of the bytes: too many open files, no permission ..."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error


def sync_file(path: StrPath) -> None:
    """fsync a file's bytes and size. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """fsync an open file. Raises OSError."""
    os.fsync(descriptor)


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Have the kernel begin to write this part of a file to disk, and do not wait: sync_file_range(2).

    It promises nothing; it only leaves less to wait for to a sync that follows. Only Linux has it.
    """
    call = _sync_file_range()
    if call is not None:
        call(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes  # takes some milliseconds that most commands do not need

    call: Callable[[int, int, int, int], int] | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)  # type: ignore[attr-defined]
    return call


def set_mode(descriptor: int, mode: int) -> None:
    """fchmod: change the permissions of an open file. Raises OSError."""
    os.fchmod(descriptor, mode)


def restore_mode(path: StrPath, before: os.stat_result) -> None:
    """Give a file the mode that it had; fine if it is gone, or another file or a link stands in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _ANOTHER:
            return
        raise
    try:
        if os.path.samestat(os.fstat(descriptor), before):
            os.chmod(descriptor, stat.S_IMODE(before.st_mode))
    finally:
        os.close(descriptor)


def set_directory_mode(path: Path, mode: int) -> None:
    """chmod of a directory, never of one that a link leads to. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def sync_directory(path: StrPath) -> None:
    """fsync a directory, so that names made or removed in it survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, mode: int, *, temporary: StrPath, durable: bool = False) -> None:
    """Make `path` hold `data`, or leave it as it was: temporary file, write, fsync, rename, fsync of the directory.

    `temporary` is a path on the same file system that nobody else uses; what stands there is overwritten. Without
    `durable` nothing is synced: other processes see all or nothing, a power cut may undo it.
    """
    remove_file(temporary)
    write_new_file(temporary, data, mode, durable=durable)
    try:
        os.rename(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
    if durable:
        sync_directory(path.parent)


def write_new_file(path: StrPath, data: bytes, mode: int, *, durable: bool = False) -> None:
    """Create a file that nobody looks at yet, such as one with a new random name. The directory is not synced."""
    try:
        with create_file(path) as descriptor:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
    except FileExistsError:
        raise
    except BaseException:
        remove_file(path)
        raise


@contextlib.contextmanager
def create_file(path: StrPath) -> Iterator[int]:
    """A descriptor of a new file, open for reading and writing. Raises FileExistsError if the name is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of `data`, at `offset` or at the descriptor's position. Raises OSError, such as ENOSPC."""
    view = memoryview(data)
    while view:
        if offset is None:
            view = view[os.write(descriptor, view) :]
        else:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done


def make_directory(path: StrPath, mode: int = 0o777, *, parents: bool = False) -> None:
    """mkdir; fine if it is there. Raises OSError."""
    Path(path).mkdir(mode=mode, parents=parents, exist_ok=True)


def rename(source: StrPath, target: StrPath) -> None:
    """rename(2): on one file system, replacing a file (or an empty directory) at `target` at once."""
    os.rename(source, target)


def rename_into(source: StrPath, target: StrPath, directories: Collection[tuple[int, int]] | None = None) -> None:
    """rename(2) to a path whose last directory is a directory, and no link to one: what a link leads to stays as it is.

    With `directories` it must be one of these, each a (device, inode). Raises NotADirectoryError, FileNotFoundError.
    """
    path = os.path.dirname(target)
    directory = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(directory)
        if directories is not None and (status.st_dev, status.st_ino) not in directories:
            raise NotADirectoryError(errno.ENOTDIR, "another directory stands there", str(path))
        os.rename(source, os.path.basename(target), dst_dir_fd=directory)
    finally:
        os.close(directory)


def move(source: StrPath, target: StrPath) -> None:
    """Rename, or from another file system copy and remove. Raises OSError."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


def remove_file(path: StrPath) -> bool:
    """Unlink; False when it was already gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_empty_directory(path: Path) -> bool:
    """rmdir; False when something is in it, or it is gone."""
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, also read-only directories in it; fine if it is already gone."""

    def unlock(directory: str) -> None:
        if os.path.isdir(directory) and not os.path.islink(directory):
            os.chmod(directory, 0o700)

    def unlock_and_retry(function: Callable[..., object], name: str, _: object) -> None:
        # Another process may be removing the same tree.
        with contextlib.suppress(FileNotFoundError):
            unlock(os.path.dirname(name))
            unlock(name)
            if function is os.unlink:
                os.unlink(name)
                return
            for parent, children, _files in os.walk(name) if not os.path.islink(name) else ():
                for child in children:
                    unlock(os.path.join(parent, child))
            shutil.rmtree(name)

    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        remove_file(path)
        return
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=unlock_and_retry)
    else:
        shutil.rmtree(path, onerror=unlock_and_retry)


def try_link(source: StrPath, target: StrPath) -> bool:
    """Hardlink; False where the file system, the device or the link limit does not allow one.

    Raises FileExistsError, FileNotFoundError and other OSErrors, ENOSPC among them.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def try_reflink(source: int, target: int) -> bool:
    """Make an empty open file share the blocks of another; False where the file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def copy_file(source: int, target: int, advance: Callable[[int], None] = lambda _: None) -> None:
    """Copy all bytes between two descriptors: a reflink where the file system shares extents."""
    if try_reflink(source, target):
        advance(os.fstat(source).st_size)
        return
    offset = 0
    while True:
        data = os.pread(source, _COPY_BYTES, offset)
        if not data:
            return
        write_all(target, data, offset)
        offset += len(data)
        advance(len(data))


def is_writable_by_others(descriptor: int) -> bool:
    """Whether some descriptor may still write to this file, which has just been made read-only.

    `descriptor` must be open for reading only. On Linux a read lease is granted only while nobody holds the file
    open for writing (fcntl(2), F_SETLEASE); elsewhere nothing tells, and the answer is True: copy it.
    """
    if sys.platform != "linux":
        return True
    try:
        # A lease that somebody breaks in the moment it stands sends SIGIO, which would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def is_open_for_writing(descriptor: int) -> bool:
    """Whether some process certainly holds this file open for writing; False also where the system does not tell.

    Asked by a read lease, as in `is_writable_by_others`: that one is for what must be certain to be closed.
    """
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def umask() -> int:
    """The process's umask, read where possible without changing it, since other threads create files too."""
    with (
        contextlib.suppress(OSError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def stored_mode(executable: bool, mask: int) -> int:
    """The mode of a file that the store keeps: read-only, executable or not."""
    return (0o555 if executable else 0o444) & ~mask


def is_executable(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IXUSR)


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that `path` is on where that is one of the network (proc(5), mountinfo)."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return None
    found, longest = "", -1
    for line in lines:
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if path.is_relative_to(point) and len(point) >= longest:
            found, longest = fields[fields.index("-", 6) + 1], len(point)
    return found if found in _NETWORK_FILE_SYSTEMS else None


def boot_id() -> str:
    """What tells one boot of the machine from the next; unique per process where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _UNKNOWN_BOOT


_UNKNOWN_BOOT = secrets.token_hex(16)


_own_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _abandon_in_child() -> None:
    """Or a child would hold gc's and models' locks for its whole life where its parent is killed."""
    for lock in list(_own_locks):
        lock.abandon()


os.register_at_fork(after_in_child=_abandon_in_child)


class Lock:
    """A flock(2) on a file of its own, exclusive unless `shared`. The kernel drops it when the process dies.

    flock works between two descriptors of one process as between processes; the descriptor is closed on exec.
    """

    def __init__(self, path: Path, *, shared: bool = False, is_shared_with_children: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None
        if not is_shared_with_children:
            _own_locks.add(self)

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. The file is made if need be, and made again if its holder removed it.

        Raises StoreError where the file system has no locks, OSError.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, self._kind | fcntl.LOCK_NB)
                if self._still_names(descriptor):
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, OSError) and error.errno in _NO_LOCK:
                    raise StoreError(
                        f"{self.path.parent} is on a file system without locks (flock: {error.strerror}), where "
                        "processes could not keep out of each other's way; keep the store on a local file system"
                    ) from error
                raise
            os.close(descriptor)

    def acquire(self, what: str, timeout_s: float = 60.0) -> None:
        """Wait for the lock. Raises StoreLocked, naming `what` it guards, after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.001
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise StoreLocked(
                    f"{what} has been locked by another process for {timeout_s:.0f} s; "
                    "try again when it is done, or end that process"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    def release(self, *, remove: bool = False) -> None:
        """Let go; with `remove`, unlink the file first, while the lock still holds. Harmless when not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if remove:
                remove_file(self.path)
        finally:
            try:
                # Closing alone would leave it locked while a forked child has a copy of the descriptor.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: forget the lock, which stays the parent's, and close this copy of its descriptor.

        Closing does not unlock: flock belongs to the open file description, which the parent still holds.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        """What an interrupt has cut off from its `with` block is let go."""
        self.abandon()

    def _still_names(self, descriptor: int) -> bool:
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
