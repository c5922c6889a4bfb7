"""The only module that syncs, renames, links, copies and changes modes of files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import signal
import stat
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from casstore.late import LateModule
from casstore.storage import access, denials
from casstore.storage.descriptors import Descriptor, OpenDirectory, opened
from casstore.storage.removal import NO_LINK, Removal
from casstore.storage.swapping import EXCHANGE, NO_REPLACE, rename_at

if TYPE_CHECKING:
    import shutil
else:
    shutil = LateModule("shutil")

# Paths are plain text where there is one for every file of a version: building a Path costs more than a link(2).
StrPath = str | os.PathLike[str]

# From linux/fs.h: _IOW(0x94, 9, int). Python's fcntl module has no name for it.
_FICLONE = 0x40049409
_COPY_BYTES = 8 << 20
_SYNC_THREADS = 4
_READ_BYTES = 256 << 10  # of a file that is held in memory as a whole
# From linux/fs.h: wait for what is being written, or start writing and wait for nothing.
_SYNC_FILE_RANGE_WAIT, _SYNC_FILE_RANGE_WRITE = 1, 2
# What sync_file_range(2) reports where a system, a sandbox or a kind of file has no such call.
_NO_WRITEBACK = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP}
# Errors about this process or the whole file system, which say nothing about a file's bytes.
_SHORTAGES = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EINTR),
}
# What link(2) reports if a hardlink cannot be made: another device, a file system without links, the
# file's link limit, a kernel that protects files of others.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
# What open(2) reports if a file has been removed, or replaced by a link or a pipe.
_ANOTHER = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
# What open(2) reports for a link that is not followed or leads nowhere, a socket, a device without a driver.
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}
_MOST_REMOVALS = 100  # of one tree, which others move or remove at the same time


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def explained(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Make a function raise StoreUnwritable, which says what to type, for a PermissionError in a store."""

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except PermissionError as error:
            denial = denials.explained(error)
            if denial is None:
                raise
            raise denial from error

    return call


def raise_unless_damage(error: Exception) -> None:
    """Raise an error met while reading if it says nothing about the bytes: too many open files, no permission ..."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error


@explained
def sync_file(path: StrPath) -> None:
    """fsync a file's bytes and size. Raises OSError."""
    with opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def sync_files(paths: Collection[StrPath]) -> None:
    """fsync many files, some at a time: most of the time of each is waiting. Raises OSError, when all are done."""
    if len(paths) < 2:
        deque(map(sync_file, paths), maxlen=0)
        return
    from concurrent.futures import ThreadPoolExecutor  # takes time that most commands do not need

    with ThreadPoolExecutor(min(len(paths), _SYNC_THREADS)) as pool:
        for future in [pool.submit(sync_file, path) for path in paths]:
            future.result()


def sync_descriptor(descriptor: int) -> None:
    """fsync an open file. Raises OSError."""
    os.fsync(descriptor)


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Make the kernel begin to write this part of a file to disk, without waiting: sync_file_range(2).

    It promises nothing; it only leaves less to wait for to a sync that follows. Does nothing where the system or the
    file system cannot. Raises OSError if the kernel could not write, which a later fsync may not be told of.
    """
    _writeback(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


def await_writeback(descriptor: int) -> None:
    """Wait for what is being written of a file, and not for what is still to be. It promises nothing.

    Raises the OSError of any write since the descriptor was opened that it has not been told of.
    """
    _writeback(descriptor, 0, 0, _SYNC_FILE_RANGE_WAIT)


def _writeback(descriptor: int, offset: int, size: int, flags: int) -> None:
    call = _sync_file_range()
    if call is None or not call(descriptor, offset, size, flags):
        return
    import ctypes

    code = ctypes.get_errno()
    if code not in _NO_WRITEBACK:
        raise OSError(code, os.strerror(code), _path_of(descriptor))


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes  # takes some milliseconds that most commands do not need

    call = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def set_owner(descriptor: int, uid: int, gid: int) -> None:
    """fchown: -1 leaves the user, or the group, as it is. Raises OSError."""
    os.fchown(descriptor, uid, gid)


def set_mode(descriptor: int, mode: int) -> None:
    """fchmod: change the permissions of an open file. Raises OSError."""
    os.fchmod(descriptor, mode)


def restore_mode(path: StrPath, before: os.stat_result, *, unless_linked: bool = False) -> None:
    """Give a file the mode that it had; fine if it is gone, or another file or a link stands in its place.

    `unless_linked`: one with other hardlinks, such as a stored one, stays as it is.
    """
    try:
        with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
            now = os.fstat(descriptor)
            if os.path.samestat(now, before) and not (unless_linked and now.st_nlink > 1):
                os.chmod(descriptor, stat.S_IMODE(before.st_mode))
    except OSError as error:
        if error.errno not in _ANOTHER:
            raise


def restore_owner(path: StrPath, before: os.stat_result) -> None:
    """Give a file back to its former owner; do nothing if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        now = os.lstat(path)
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)


def set_directory_mode(path: Path, mode: int) -> None:
    """chmod of a directory, never of one that a link leads to. Raises OSError."""
    directory = OpenDirectory(path, NO_LINK)
    try:
        os.fchmod(directory[0], mode)
    finally:
        directory.close()


def hand_over(descriptor: int, home: Path) -> bool:
    """Give an open file of this process's user to the store at `home`; False when it is as it has to be."""
    follows = access.of_home(home)
    return follows is not None and _hand_over(descriptor, follows)


def share_file(path: StrPath, home: Path) -> None:
    """Let all users who share the store write to a file that is written in place, such as the catalog."""
    follows = access.of_home(home)
    if follows is not None:
        with opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            _hand_over(descriptor, follows, 0o666)


def share_directories(root: Path, home: Path) -> None:
    """Open this user's directories, `root` and those below it, to all who share the store at `home`."""
    follows = access.of_home(home)
    if follows is None:
        return
    for _, _, _, descriptor in os.fwalk(root):  # by descriptor: a link put there meanwhile leads nowhere else
        if os.fstat(descriptor).st_uid == os.geteuid():
            _hand_over(descriptor, follows, follows.directory_mode)


def _hand_over(descriptor: int, follows: access.Access, mode: int | None = None) -> bool:
    """Give what this process has made to the home's owner and group, as far as this user may; True if that is new.

    In a shared home it gets `mode`, less the permissions that the home denies to all.
    """
    status = os.fstat(descriptor)
    uid, gid = follows.owner
    is_new = gid != status.st_gid or uid not in (-1, status.st_uid)
    if is_new:
        # EINVAL: a user that this container does not know.
        with contextlib.suppress(PermissionError), _ignored(errno.EINVAL):
            set_owner(descriptor, uid, gid)
    if mode is not None and follows.is_shared:
        os.fchmod(descriptor, mode & ~follows.mask)
    return is_new


@contextlib.contextmanager
def _ignored(code: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != code:
            raise


@explained
def sync_directory(path: StrPath) -> None:
    """fsync a directory, so that names made or removed in it survive a power cut. Raises OSError."""
    opened_directory = OpenDirectory(path)
    try:
        os.fsync(opened_directory[0])
    finally:
        opened_directory.close()


def sync_file_system(path: StrPath) -> None:
    """Bring to disk all that has been written to the file system that `path` is on: syncfs(2). Raises OSError."""
    import ctypes  # takes some milliseconds that most commands do not need

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()
        return
    directory = OpenDirectory(path)
    try:
        if call(directory[0]):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        directory.close()


@explained
def write_file(path: Path, data: bytes, mode: int, *, temporary: StrPath, durable: bool = False) -> None:
    """Make `path` hold `data`, or leave it as it was: temporary file, write, fsync, rename, fsync of the directory.

    `temporary` is a path on the same file system that no other process uses; what stands there is overwritten. Without
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
    """Create a file that no process looks at yet, such as one with a random name. The directory is not synced."""
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


def create_file(path: StrPath) -> Descriptor:
    """A descriptor of a new file, open for reading and writing. Raises FileExistsError if the name is taken."""
    return create(path, 0o600)


@explained
def create(path: StrPath, mode: int) -> Descriptor:
    """A new file, open; in a shared store all who share it may write to it, until it gets another mode."""
    file = opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    follows = access.around(path)
    if follows is not None:
        try:
            _hand_over(file.fileno(), follows, 0o666)
        except BaseException:
            file.close()
            remove_file(path)
            raise
    return file


def make_file(path: StrPath) -> None:
    """Make an empty file that is written to in place; fine if it is there. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        create(path, 0o666).close()


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of `data`, at `offset` or at the descriptor's position. Raises OSError that names the file (ENOSPC)."""
    view = memoryview(data)
    try:
        while view:
            if offset is None:
                view = view[os.write(descriptor, view) :]
            else:
                done = os.pwrite(descriptor, view, offset)
                view, offset = view[done:], offset + done
    except OSError as error:
        error.filename = _path_of(descriptor)
        raise


def _path_of(descriptor: int) -> str | None:
    with contextlib.suppress(OSError):  # a system without /proc
        return os.readlink(f"/proc/self/fd/{descriptor}")
    return None


@explained
def append(path: Path, data: bytes) -> None:
    """Add whole lines to a file that is only appended to, made where it is missing; they are on disk afterwards.

    What a crash has left without an end of line is ended first. Raises OSError; a part may have been written then.
    """
    flags = os.O_RDWR | os.O_APPEND
    try:
        file = opened(path, flags)
    except FileNotFoundError:
        make_directory(path.parent)
        make_file(path)
        file = opened(path, flags)
    with file as descriptor:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        write_all(descriptor, b"\n" + data if is_cut else data)
        os.fsync(descriptor)
    if not size:
        sync_directory(path.parent)
        sync_directory(path.parent.parent)


@explained
def shorten(path: Path, size: int) -> None:
    """Cut a file that is only appended to down to what is sound of it. Raises OSError."""
    with opened(path, os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, size)


@explained
def make_directory(path: StrPath, mode: int = 0o777, *, parents: bool = False) -> None:
    """mkdir; fine if it is there. Raises OSError."""
    follows = access.around(path)
    if follows is None:
        Path(path).mkdir(mode=mode, parents=parents, exist_ok=True)
        return
    parent, name = os.path.split(path)
    if parents and not os.path.isdir(parent):
        make_directory(parent, parents=True)
    try:
        _make_shared_directory(parent, name, mode, follows)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _make_shared_directory(parent: str, name: str, mode: int, follows: access.Access) -> None:
    """mkdir, and hand over what was made: by descriptors, or root could be led to hand over something else."""
    with contextlib.ExitStack() as opened:
        above = open_directory(parent)
        opened.callback(os.close, above)
        try:
            os.mkdir(name, mode, dir_fd=above)
            made = open_directory(name, above)
        except OSError as error:
            error.filename = os.path.join(parent, name)
            raise
        opened.callback(os.close, made)
        _hand_over(made, follows, follows.directory_mode)


def open_directory(path: StrPath, above: int | None = None) -> int:
    """A descriptor of a directory; with `above`, one in which it stands, it must not be a link. Raises OSError."""
    no_link = 0 if above is None else os.O_NOFOLLOW
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | no_link, dir_fd=above)


@explained
def rename(source: StrPath, target: StrPath) -> None:
    """rename(2): on one file system, replacing a file (or an empty directory) at `target` at once."""
    os.rename(source, target)


@explained
def rename_into(source: StrPath, target: StrPath, directories: Collection[tuple[int, int]] | None = None) -> None:
    """rename(2) to a path whose last directory is a directory, and no link to one: what a link leads to stays as it is.

    With `directories` it must be one of these, each a (device, inode). Raises NotADirectoryError, FileNotFoundError.
    """
    path = os.path.dirname(target)
    opened_directory = OpenDirectory(path, NO_LINK | getattr(os, "O_PATH", 0))
    try:
        directory = opened_directory[0]
        status = os.fstat(directory)
        if directories is not None and (status.st_dev, status.st_ino) not in directories:
            raise NotADirectoryError(errno.ENOTDIR, "another directory stands there", str(path))
        os.rename(source, os.path.basename(target), dst_dir_fd=directory)
    finally:
        opened_directory.close()


@explained
def swap_into(source: StrPath, target: StrPath) -> bool:
    """Rename as `rename_into` does, but leave what stood at `target` at `source`; False where nothing did.

    So what another process has put there a moment ago is not lost. There is a moment without it where system or file
    system cannot exchange two names. Raises NotADirectoryError, FileNotFoundError, OSError.
    """
    opened_directory = OpenDirectory(os.path.dirname(target), NO_LINK | getattr(os, "O_PATH", 0))
    try:
        return _swap(os.fspath(source), os.path.basename(target), opened_directory[0])
    finally:
        opened_directory.close()


def _swap(source: str, name: str, directory: int) -> bool:
    while True:
        with contextlib.suppress(FileNotFoundError):
            if not rename_at(source, name, directory, EXCHANGE):
                break
            return True
        with contextlib.suppress(FileExistsError):  # it has come meanwhile
            if not rename_at(source, name, directory, NO_REPLACE):
                break
            return False
    aside = f"{source}.old"
    try:
        os.rename(name, aside, src_dir_fd=directory)
    except FileNotFoundError:
        os.rename(source, name, dst_dir_fd=directory)
        return False
    os.rename(source, name, dst_dir_fd=directory)
    os.rename(aside, source)
    return True


@explained
def move(source: StrPath, target: StrPath) -> None:
    """Rename, or from another file system copy and remove. Raises OSError."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


@explained
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


def remove_tree(path: StrPath) -> None:
    """Remove a directory, or a file, with all it holds, also read-only directories in it; fine if it is already gone.

    However deep it is: nothing here recurses, or opens a path longer than a name. Links are removed and not followed,
    and nothing that is mounted in it is entered. What cannot be removed does not keep the rest: raises the first
    OSError, with its path, when all else is gone.
    """
    for _ in range(_MOST_REMOVALS):
        removal = Removal(os.fspath(path), _open_directory)
        if removal.run():
            if removal.error is not None:
                raise removal.error
            return
    raise OSError(errno.EBUSY, "another process keeps moving what is in it", os.fspath(path))


def _open_directory(name: str, within: int | None) -> OpenDirectory:
    """A directory that its owner may list and change, for which its mode is changed if need be.

    Raises OSError, also for a link.
    """
    try:
        directory = OpenDirectory(name, NO_LINK, within)
    except PermissionError:
        if os.chmod in os.supports_follow_symlinks and os.chmod in os.supports_dir_fd:
            os.chmod(name, 0o700, dir_fd=within, follow_symlinks=False)
        else:
            # On Linux a mode is changed by the descriptor: what follows a name might follow a link to elsewhere.
            closed = OpenDirectory(name, NO_LINK | os.O_PATH, within)
            try:
                os.chmod(f"/proc/self/fd/{closed[0]}", 0o700)
            finally:
                closed.close()
        return OpenDirectory(name, NO_LINK, within)
    if os.fstat(directory[0]).st_mode & 0o700 != 0o700:
        with contextlib.suppress(OSError):
            os.fchmod(directory[0], 0o700)
    return directory


def open_up(path: StrPath) -> None:
    """Let a directory's owner list and change it; what else its mode says stays. Raises OSError, also for a link."""
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if mode & 0o700 != 0o700:
        directory = _open_directory(os.fspath(path), None)
        try:
            os.fchmod(directory[0], mode | 0o700)
        finally:
            directory.close()


def read_file(path: StrPath, most_bytes: int, *, follow: bool = True) -> bytes:
    """The bytes of a regular file; waits for no pipe, and reads no device.

    Raises FileNotFoundError also where something else stands, such as a directory, with `follow=False` a link, or a
    file of more than `most_bytes`; OSError.
    """
    with open_regular(path, follow=follow) as descriptor:
        found = bytearray()
        while data := os.read(descriptor, min(_READ_BYTES, most_bytes + 1 - len(found))):
            found += data
            if len(found) > most_bytes:
                raise FileNotFoundError(errno.ENOENT, f"what stands there has more than {most_bytes} bytes", str(path))
        return bytes(found)


@explained
def open_regular(path: StrPath, *, follow: bool = True) -> Descriptor:
    """A regular file open for reading. Raises FileNotFoundError also where something else stands; OSError."""
    try:
        file = opened(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in _NO_FILE:
            raise FileNotFoundError(errno.ENOENT, "what stands there is not a file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "what stands there is not a file", str(path))
    return file


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


def has_reflinks(directory: Path) -> bool:
    """Whether files in a directory can share blocks: tried once with files that have no name."""
    try:
        return _has_reflinks(str(directory), os.stat(directory).st_dev)
    except OSError:
        return False


@functools.cache
def _has_reflinks(directory: str, device: int) -> bool:  # noqa: ARG001 - another file system may be mounted there
    if sys.platform != "linux":
        return False
    flags = os.O_TMPFILE | os.O_RDWR
    with opened(directory, flags, 0o600) as source, opened(directory, flags, 0o600) as target:
        return try_reflink(source, target)


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

    `descriptor` must be open for reading only. On Linux a read lease is granted only while no process holds the file
    open for writing (fcntl(2), F_SETLEASE); elsewhere nothing tells, and the answer is True: copy it.
    """
    return is_written_to(descriptor) is not False


def is_open_for_writing(descriptor: int) -> bool:
    """Whether some process certainly holds this file open for writing; False also where the system does not tell.

    Asked by a read lease, as in `is_writable_by_others`: that one is for what must be certain to be closed.
    """
    return is_written_to(descriptor) is True


def is_written_to(descriptor: int) -> bool | None:
    """Whether some process holds this file open for writing; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        begin_lease(descriptor)
        end_lease(descriptor)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


def begin_lease(descriptor: int) -> None:
    """Have whoever opens this file for writing wait until `end_lease`; the system lets none wait longer than a minute.

    `descriptor` must be open for reading only. Raises OSError where some process has it open for writing, by a mapping
    too, or where the system does not tell.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    # A lease that another process breaks in the moment it stands sends SIGIO, which would end the process.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def end_lease(descriptor: int) -> bool:
    """Whether nobody has opened the file for writing since `begin_lease`. Raises OSError."""
    if sys.platform != "linux":
        return False
    is_held = fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return is_held


def stored_mode(executable: bool, mask: int) -> int:
    """The mode of a file that the store keeps: read-only, executable or not."""
    return (0o555 if executable else 0o444) & ~mask


def is_executable(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IXUSR)
