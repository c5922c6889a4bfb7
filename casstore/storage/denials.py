"""Why a user may not change something in a store, and what to type about it."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.errors import StoreError, StoreUnwritable
from casstore.late import LateModule
from casstore.storage.access import Access
from casstore.storage.descriptors import OpenDirectory

if TYPE_CHECKING:
    import shlex
else:
    shlex = LateModule("shlex")

_CATALOG_NAME = "catalog.db"  # what tells a home from other directories


def explained(error: PermissionError) -> StoreUnwritable | None:
    """The error to raise in place of a PermissionError in a store; None for files outside stores."""
    if isinstance(error, StoreError):
        return None
    paths = [path for path in (error.filename, error.filename2) if isinstance(path, str | os.PathLike)]
    for path in paths:
        home = _home_of(path)
        if home is not None:
            found = StoreUnwritable(f"{error.strerror}: {advice(home, *paths)}")
            found.errno = error.errno  # there are callers who tell by it what is damage from what is not
            return found
    return None


def advice(home: Path, *paths: str | os.PathLike[str]) -> str:
    """A message: what keeps this user from changing one of the paths in the store at `home`, and what to do."""
    if home.is_dir() and os.statvfs(home).f_flag & os.ST_RDONLY:  # for which every permission seems to be denied
        return (
            f"{home} is mounted read-only; mount it so that it can be written to, or choose another store with --home "
            "or CASSTORE_HOME"
        )
    denying = next((found for path in paths if (found := _denying(Path(path))) is not None), None)
    if denying is None:
        return (
            f"{paths[0]} cannot be changed, though its permissions allow it; see whether attributes (`lsattr -d`) "
            "keep it as it is, and whether its disk is mounted read-only"
        )
    if is_immutable(denying):
        place = shlex.quote(str(denying))
        return f"{denying} is immutable, by an attribute that binds root too; run `sudo chattr -i {place}`"
    status = os.lstat(denying)
    if not denying.is_relative_to(home):
        return (
            f"{denying} belongs to {user_name(status.st_uid)} and is closed to {user_name(os.geteuid())}; "
            "have it opened, or choose another store with --home or CASSTORE_HOME"
        )
    return f"{denying} belongs to {user_name(status.st_uid)}{_remedy(home, denying, status)}"


def _remedy(home: Path, path: Path, status: os.stat_result) -> str:
    access, me = Access.of(home), os.geteuid()
    place, store = shlex.quote(str(path)), shlex.quote(str(home))
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid == me:
        return f" and is closed even to its owner ({mode}); run `chmod u+rwX {place}`"
    if me == access.uid and not access.is_shared:
        return f", in a store of yours; run `sudo chown -R {user_name(me)}:{group_name(access.gid)} {store}`"
    if not access.is_shared and access.uid == 0:
        whole = f"{user_name(me)}:{group_name(os.getegid())}"
        return (
            f", and {user_name(me)} may not write to it; if the store is to be {user_name(me)}'s, run "
            f"`sudo chown -R {whole} {store}`, else choose another with --home or CASSTORE_HOME"
        )
    if not access.is_shared:
        return (
            f", and {user_name(me)} may not write to it: choose another store with --home or CASSTORE_HOME, or have "
            f"{user_name(access.uid)} share this one with a group of yours by "
            f"`casstore init --shared --group GROUP --home {store}`"
        )
    group = group_name(access.gid)
    if me != access.uid and access.gid not in (os.getegid(), *os.getgroups()) and not access.mode & 0o002:
        return (
            f", and the store is shared with the group {group}, of which {user_name(me)} is not a member: "
            f"`sudo usermod -aG {group} {user_name(me)}`, and log in again"
        )
    bits = "g+rwxs" if stat.S_ISDIR(status.st_mode) else "g+rw" if status.st_mode & stat.S_IWUSR else "g+r"
    return (
        f" and is closed to the group {group} ({mode}): {user_name(status.st_uid)}, or root, has to run "
        f"`chgrp {group} {place} && chmod {bits} {place}`; for all there is in the store, "
        f"`casstore init --shared --home {store}`"
    )


def _denying(path: Path) -> Path | None:
    """The first part of the way to `path` that keeps this user from changing it."""
    for directory in [*reversed(path.parents)]:
        if not _may(directory, os.X_OK) and os.path.lexists(directory):
            return directory
    if os.path.lexists(path) and not _may(path, os.R_OK):
        return path
    parent = next(each for each in path.parents if os.path.lexists(each))
    if not _may(parent, os.W_OK | os.X_OK):
        return parent
    if os.path.isdir(path):
        return None if _may(path, os.R_OK | os.W_OK | os.X_OK) else path
    is_meant_to_be = os.path.lexists(path) and os.lstat(path).st_mode & stat.S_IWUSR
    return path if is_meant_to_be and not _may(path, os.W_OK) else None


def _home_of(path: str | os.PathLike[str]) -> Path | None:
    return next((each for each in Path(path).parents if os.path.lexists(each / _CATALOG_NAME)), None)


def _may(path: Path, how: int) -> bool:
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16  # FS_IOC_GETFLAGS, as of most processors, from linux/fs.h
_IMMUTABLE = 0x10


def is_immutable(path: str | os.PathLike[str]) -> bool:
    """Whether an attribute keeps every user from changing a file or directory, as `chattr +i` does: ioctl_iflags(2).
    False where that cannot be told."""
    flags = bytearray(struct.calcsize("l"))
    try:
        opened = OpenDirectory(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.ioctl(opened[0], _GET_FLAGS, flags)
        finally:
            opened.close()
    except OSError:
        return False
    return bool(int.from_bytes(flags[:4], sys.byteorder) & _IMMUTABLE)  # an int, be it asked for as a long


def user_name(uid: int) -> str:
    """The name of a user, or the number if the system has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or the number if the system has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
