"""What a save has hashed is what it keeps: a file is looked at again when it is linked, and before the commit.

A writer that goes on may put another file in the place of one that has been hashed, or write to that very file.
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

# What open(2) says where a file has been taken away, or a link or a pipe been put in its place.
_ANOTHER = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
_FOLLOWING = os.O_RDONLY | os.O_NONBLOCK
_DIRECT = _FOLLOWING | os.O_NOFOLLOW
# A time of whole hundredths of a second tells of a clock as coarse as FAT's, which ticks every 2 s.
_COARSE_NS = 10_000_000
_COARSE_TICK_NS = 2_000_000_000


def changed(path: str) -> FileChanged:
    """The error for a file that is not what it was when it was hashed."""
    return FileChanged(f"{path} was written to or replaced while it was being saved; save again when it is complete")


def open_as_found(location: str, *, is_direct: bool) -> tuple[Descriptor, os.stat_result]:
    """A regular file, open for reading, and its status. With `is_direct`, none that a link now leads to.

    Raises FileChanged where there is no such file any more, OSError.
    """
    try:
        file = opened(location, _DIRECT if is_direct else _FOLLOWING)
        status = os.fstat(file.fileno())
    except OSError as error:
        if error.errno in _ANOTHER:
            raise changed(location) from error
        raise
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise changed(location)
    return file, status


def lstat_or_none(path: str) -> os.stat_result | None:
    """What stands at a path; None where nothing does."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def put(source: files.StrPath, target: str, known: Collection[tuple[int, int]] | None) -> None:
    """rename(2) into one of the `known` directories; into any where there are none.

    Raises InvalidSource or FileChanged where another directory stands there by now, OSError.
    """
    if known is None:
        files.rename(source, target)
        return
    try:
        files.rename_into(source, target, known)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise displaced(os.path.dirname(target)) from error


def is_racy(status: os.stat_result) -> bool:
    """Whether a file may be written to again without its time of change telling: it was, in this tick of the clock.

    The status must be from after casstore has set the file's mode, so that its last time says when that was.
    """
    since = status.st_ctime_ns - status.st_mtime_ns
    return since == 0 or (status.st_mtime_ns % _COARSE_NS == 0 and 0 < since < _COARSE_TICK_NS)


def is_same(now: os.stat_result, seen: os.stat_result) -> bool:
    """Whether two looks saw one file of one size and time of change."""
    return (
        now.st_ino == seen.st_ino
        and now.st_mtime_ns == seen.st_mtime_ns
        and now.st_size == seen.st_size
        and now.st_dev == seen.st_dev
    )


def is_untouched(location: str, seen: os.stat_result) -> bool:
    """Whether the very file that was seen stands at `location`, and not even its status has changed."""
    try:
        now = os.lstat(location)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return now.st_ctime_ns == seen.st_ctime_ns and now.st_ino == seen.st_ino and now.st_dev == seen.st_dev


def check_linked(link: str, seen: os.stat_result, location: str) -> os.stat_result:
    """The status of a new link, to be of the file that was seen. Raises FileChanged, naming the file's `location`."""
    now = lstat_or_none(link)
    if now is None or not is_same(now, seen):
        raise changed(location)
    return now


def link(location: str, target: str, seen: os.stat_result | None) -> os.stat_result | None:
    """Hardlink the file at `location`, and see that it is the one that was seen; returns the link's status.

    None where no link can be had. Raises FileChanged, OSError.
    """
    try:
        if not files.try_link(location, target):
            return None
    except FileNotFoundError as error:
        now = lstat_or_none(location)
        if seen is None or (now is not None and is_same(now, seen)):
            raise
        raise changed(location) from error
    return os.lstat(target) if seen is None else check_linked(target, seen, location)


def check_still(
    location: str, seen: os.stat_result, digest: Digest, noted: Mapping[Fingerprint, Digest], *,
    is_racy: bool = False, is_shared: bool = False,
) -> os.stat_result:  # fmt: skip
    """The status of the file at `location`, which must be the one that was seen, with the bytes of that digest.

    It is read again when only its last time has changed, as it does when its times are put back after a write, or if
    `is_racy`. `noted` are links that the caller has made since. `is_shared`: other saves may be linking it too.
    Raises FileChanged.
    """
    now = lstat_or_none(location)
    if now is None or not is_same(now, seen):
        raise changed(location)
    is_known = is_shared or now.st_ctime_ns == seen.st_ctime_ns or noted.get(Fingerprint.of(now)) == digest
    if (is_racy or not is_known) and hash_file(location) != digest:
        raise changed(location)
    return now


def check_directories(root: str, paths: Iterable[str], known: Collection[tuple[int, int]]) -> None:
    """See that `root`, and every directory between it and these paths in it, is one of those (device, inode).

    Raises InvalidSource for one that has become a link, FileChanged.
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
    """The error for a directory that another stands in place of, or a link."""
    if not os.path.islink(directory):
        return changed(directory)
    return InvalidSource(
        f"{directory} has been replaced by a link to {os.readlink(directory)}, where nothing is taken from; write "
        "the files into the directory itself, or save the other one with store.save()"
    )
