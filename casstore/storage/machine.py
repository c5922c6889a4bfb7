"""Facts about the machine and the process: the boot, the umask, and the kind of file system that a path is on."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.late import LateModule

if TYPE_CHECKING:
    import getpass
else:
    getpass = LateModule("getpass")

_NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs"),
}


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


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that `path` is on where that is one of the network (proc(5), mountinfo)."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return None
    mounted = [fields for line in lines if "-" in (fields := line.split(" "))[6:]]
    if not any(fields[fields.index("-", 6) + 1] in _NETWORK_FILE_SYSTEMS for fields in mounted):
        return None  # as on most machines; which mount a path is on takes longer to tell
    found, longest = "", -1
    for fields in mounted:
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if path.is_relative_to(point) and len(point) >= longest:
            found, longest = fields[fields.index("-", 6) + 1], len(point)
    return found if found in _NETWORK_FILE_SYSTEMS else None


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """How many bytes of memory this process may still take without harm, as far as Linux tells; else 0."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # a container's own limit; "max" where it has none
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        found.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return max(0, min(found, default=0))


def boot_id() -> str:
    """An id of the machine's present boot; unique per process if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _UNKNOWN_BOOT


_UNKNOWN_BOOT = os.urandom(16).hex()


def who() -> str:
    """The user and the machine, as far as they can be told: for people, never for a decision."""
    return _who(os.getpid(), os.geteuid())


@functools.lru_cache(maxsize=1)
def _who(_process: int, _user: int) -> str:
    """Asked once in each process, for each user that it becomes: it may take a look-up over the network."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "?"
    text = f"{user[:_MOST_NAME_CHARACTERS]}@{os.uname().nodename[:_MOST_NAME_CHARACTERS]}"
    return "".join(each if each.isprintable() else "?" for each in text)  # the environment may say anything


_MOST_NAME_CHARACTERS = 100
