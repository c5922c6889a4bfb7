"""Checks that a save keeps what it has hashed: a file is looked at again when it is linked, and before the commit.

A program that goes on writing may replace a file that has been hashed, or write to that very file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Mapping

from casstore.actions.workspace import hash_file
from casstore.catalog.index import Fingerprint
from casstore.digest import Digest
from casstore.errors import CasstoreError, FileChanged, InvalidSource
from casstore.storage import files
from casstore.storage.descriptors import Descriptor, opened

# What open(2) reports if a file has been removed, or replaced by a link or a pipe.
_ANOTHER = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
_FOLLOWING = os.O_RDONLY | os.O_NONBLOCK
_DIRECT = _FOLLOWING | os.O_NOFOLLOW
# A time in whole hundredths of a second suggests a clock as coarse as FAT's, which ticks every 2 s.
_COARSE_NS = 10_000_000
_COARSE_TICK_NS = 2_000_000_000


def changed(path: str) -> FileChanged:
    """The error for a file that has changed since it was hashed."""
    return FileChanged(f"{path} was written to or replaced while it was being saved; save again when it is complete")


def open_as_found(disk_path: str, *, is_direct: bool) -> tuple[Descriptor, os.stat_result]:
    """Open a regular file for reading; returns it with its status. With `is_direct` links are not followed.

    Raises FileChanged if there is no such file any more; OSError.
    """
    try:
        file = opened(disk_path, _DIRECT if is_direct else _FOLLOWING)
        status = os.fstat(file.fileno())
    except OSError as error:
        if error.errno in _ANOTHER:
            raise changed(disk_path) from error
        raise
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise changed(disk_path)
    return file, status


def lstat_or_none(path: str) -> os.stat_result | None:
    """The status of what stands at a path; None if nothing does."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def put(source: files.StrPath, target: str, known: Collection[tuple[int, int]] | None) -> None:
    """rename(2) into one of the `known` directories, given by device and inode; into any directory if that is None.

    Raises InvalidSource or FileChanged if another directory stands there by now; OSError.
    """
    if known is None:
        files.rename(source, target)
        return
    try:
        files.rename_into(source, target, known)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise displaced(os.path.dirname(target)) from error


def is_racy(status: os.stat_result) -> bool:
    """Whether a write to the file may not show in its change time, since it was changed in this tick of the clock.

    The status must be from after casstore has set the file's mode, so that its change time says when that was.
    """
    since = status.st_ctime_ns - status.st_mtime_ns
    return since == 0 or (status.st_mtime_ns % _COARSE_NS == 0 and 0 < since < _COARSE_TICK_NS)


def is_same(now: os.stat_result, seen: os.stat_result) -> bool:
    """Whether both statuses are of one file, with the same size and modification time."""
    return (
        now.st_ino == seen.st_ino
        and now.st_mtime_ns == seen.st_mtime_ns
        and now.st_size == seen.st_size
        and now.st_dev == seen.st_dev
    )


def is_untouched(disk_path: str, seen: os.stat_result) -> bool:
    """Whether the file that was seen still stands at `disk_path`, with an unchanged status."""
    try:
        now = os.lstat(disk_path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return now.st_ctime_ns == seen.st_ctime_ns and now.st_ino == seen.st_ino and now.st_dev == seen.st_dev


def check_linked(link: str, seen: os.stat_result, disk_path: str) -> os.stat_result:
    """The status of a new link. Raises FileChanged, naming `disk_path`, if it is not the file that was seen."""
    now = lstat_or_none(link)
    if now is None or not is_same(now, seen):
        raise changed(disk_path)
    return now


def link(disk_path: str, target: str, seen: os.stat_result | None) -> os.stat_result | None:
    """Hardlink the file at `disk_path`, and check that it is the one that was seen; returns the link's status.

    None if no link can be made. Raises FileChanged, OSError.
    """
    try:
        if not files.try_link(disk_path, target):
            return None
    except FileNotFoundError as error:
        now = lstat_or_none(disk_path)
        if seen is None or (now is not None and is_same(now, seen)):
            raise
        raise changed(disk_path) from error
    return os.lstat(target) if seen is None else check_linked(target, seen, disk_path)


def check_still(
    disk_path: str, seen: os.stat_result, digest: Digest, noted: Mapping[Fingerprint, Digest], *,
    is_racy: bool = False, is_shared: bool = False,
) -> os.stat_result:  # fmt: skip
    """Check that the file at `disk_path` is the one that was seen, with these bytes; returns its status.

    It is read again if only its change time differs, as after a write whose modification time was put back, or if
    `is_racy`. `noted`: links that the caller has made since. `is_shared`: other saves may be linking it too. Raises
    FileChanged.
    """
    now = lstat_or_none(disk_path)
    if now is None or not is_same(now, seen):
        raise changed(disk_path)
    is_known = is_shared or now.st_ctime_ns == seen.st_ctime_ns or noted.get(Fingerprint.of(now)) == digest
    if (is_racy or not is_known) and hash_file(disk_path) != digest:
        raise changed(disk_path)
    return now


def check_directories(root: str, paths: Iterable[str], known: Collection[tuple[int, int]]) -> None:
    """Check that `root`, and every directory between it and these paths in it, is one of the `known` (device, inode).

    Raises InvalidSource for one that has been replaced by a link, FileChanged for any other.
    """
    parents = {path.rpartition("/")[0] for path in paths}
    for parent in list(parents):
        below = parent
        while below := below.rpartition("/")[0]:
            parents.add(below)
    for directory in [root, *(f"{root}/{parent}" for parent in sorted(parents) if parent)]:
        status = lstat_or_none(directory)
        if status is None or (status.st_dev, status.st_ino) not in known:
            raise displaced(directory)


def displaced(directory: str) -> CasstoreError:
    """The error for a directory that has been replaced by another or by a link."""
    if not os.path.islink(directory):
        return changed(directory)
    return InvalidSource(
        f"{directory} has been replaced by a link to {os.readlink(directory)}, where nothing is taken from; write "
        "the files into the directory itself, or save the other one with store.save()"
    )
