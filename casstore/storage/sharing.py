"""Opening a store that stands to the users who are to share it."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys
from collections.abc import Iterator, Set
from pathlib import Path

from casstore.storage import access, files

# From linux/posix_acl.h and linux/posix_acl_xattr.h.
_ACL_VERSION = 2
_ACL_OWNER, _ACL_GROUP, _ACL_OTHERS = 0x01, 0x04, 0x20
_ACL_NO_ID = 0xFFFFFFFF


def share_home(home: Path, mode: int, gid: int | None) -> None:
    """Add permissions to a home's mode, and give it to a group. Raises PermissionError unless it is this user's."""
    descriptor = files.open_directory(home)
    try:
        status = os.fstat(descriptor)
        if gid is not None:
            files.set_owner(descriptor, -1, gid)
        files.set_mode(descriptor, stat.S_IMODE(status.st_mode) | mode)  # a change of owner may take setgid away
    finally:
        os.close(descriptor)


def share_tree(root: Path, home: Path, *, drafts: Path, skipped: Set[str]) -> Iterator[tuple[str, bool]]:
    """Open `root` and all below it to those who share the store at `home`.

    Yields the path of everything that was closed to them, and whether it is open now: it is not if it is another
    user's. What root has made becomes the home's owner's, if root asks. Links are not followed, what has one of the
    `skipped` paths is left alone, and so are files in directories of `drafts`, which are their users' own.
    """
    follows = access.of_home(home)
    if follows is None:
        return
    if not os.access(root, os.R_OK | os.X_OK):
        yield str(root), False
        return
    for directory, folders, names, descriptor in os.fwalk(root):
        status = os.fstat(descriptor)
        wanted = status.st_mode | follows.directory_mode
        if (status.st_mode, status.st_gid) != (wanted, follows.gid) or _is_left_by_root(status, follows):
            yield directory, _open_up(descriptor, status, follows, wanted)
        if os.geteuid() in (0, status.st_uid):
            _pass_on(descriptor, follows)
        folders[:] = [name for name in folders if f"{directory}/{name}" not in skipped]
        for name in folders:
            if not os.access(name, os.R_OK | os.X_OK, dir_fd=descriptor):
                yield f"{directory}/{name}", False
        for name in [] if Path(directory).is_relative_to(drafts) and directory != str(drafts) else names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                is_ours = stat.S_ISREG(status.st_mode) and f"{directory}/{name}" not in skipped
                if is_ours and not _is_open(status, follows):
                    yield f"{directory}/{name}", _open_file_up(name, descriptor, status, follows)


def _is_open(status: os.stat_result, follows: access.Access) -> bool:
    group_may_as_owner = status.st_gid == follows.gid or status.st_mode & 7 == status.st_mode >> 6 & 7
    is_mode_right = follows.opened(status.st_mode) == status.st_mode
    return group_may_as_owner and is_mode_right and not _is_left_by_root(status, follows)


def _is_left_by_root(status: os.stat_result, follows: access.Access) -> bool:
    return status.st_uid == 0 != follows.uid


def _open_file_up(name: str, above: int, before: os.stat_result, follows: access.Access) -> bool:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=above)
    except PermissionError:
        return False
    try:
        status = os.fstat(descriptor)
        is_same = os.path.samestat(status, before)
        return is_same and _open_up(descriptor, status, follows, follows.opened(status.st_mode))
    finally:
        os.close(descriptor)


def _open_up(descriptor: int, status: os.stat_result, follows: access.Access, mode: int) -> bool:
    try:
        uid = follows.owner[0] if _is_left_by_root(status, follows) else -1
        if uid != -1 or status.st_gid != follows.gid:
            files.set_owner(descriptor, uid, follows.gid)
        files.set_mode(descriptor, stat.S_IMODE(mode))
    except PermissionError:
        return False
    return True


def _pass_on(descriptor: int, follows: access.Access) -> None:
    """Have all that is made in a directory from now on, also by other programs, open to those who share the store.

    A default ACL (acl(5)) holds in place of the umask. Where there are none, modes are set one by one.
    """
    if sys.platform != "linux":
        return
    entries = ((_ACL_OWNER, 7), (_ACL_GROUP, follows.mode >> 3 & 7), (_ACL_OTHERS, follows.mode & 7))
    packed = struct.pack("<I", _ACL_VERSION)
    packed += b"".join(struct.pack("<HHI", tag, may, _ACL_NO_ID) for tag, may in entries)
    with contextlib.suppress(OSError):
        has_own = "system.posix_acl_default" in os.listxattr(descriptor) and len(
            os.getxattr(descriptor, "system.posix_acl_default")
        ) != len(packed)
        if not has_own:  # one that names users or groups is an administrator's
            os.setxattr(descriptor, "system.posix_acl_default", packed)
