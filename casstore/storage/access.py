"""Owner, group and mode of what is made in a store: they follow the store's home, not the process."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Access(NamedTuple):
    """Owner, group and mode of a store's home, which decide those of everything made below it.

    A home that its group, or everybody, may write to is shared: modes follow it. In any other the umask holds.
    """

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, home: Path) -> Access:
        """Raises OSError."""
        status = os.stat(home)
        return cls(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    @property
    def is_shared(self) -> bool:
        return bool(self.mode & 0o022)

    @property
    def is_ordinary(self) -> bool:
        """Whether what this process makes gets the right owner and mode from the system."""
        return not self.is_shared and (os.geteuid() != 0 or self.uid == 0)

    @property
    def mask(self) -> int:
        """The umask of everything in a shared home."""
        return 0o777 & ~self.mode

    @property
    def directory_mode(self) -> int:
        """The mode of every directory in a shared home."""
        return self.mode & 0o2777

    def opened(self, mode: int) -> int:
        """`mode`, in a shared home, with its owner's permissions given to all others to whom the home gives them."""
        return mode | ((mode >> 6 & 7) * 0o111 & ~self.mask)

    @property
    def owner(self) -> tuple[int, int]:
        """The user id, -1 where only root could set it, and the group id of what is made."""
        return (self.uid if os.geteuid() == 0 else -1), self.gid


_OVERRIDE = 1 << 1  # CAP_DAC_OVERRIDE, from linux/capability.h


def ignores_modes() -> bool:
    """Whether this process may write to files that are read-only: capabilities(7) tell, elsewhere being root does."""
    return _ignores_modes(os.geteuid())


@functools.cache
def _ignores_modes(uid: int) -> bool:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return any(int(line.split()[1], 16) & _OVERRIDE for line in lines if line.startswith("CapEff:"))
    except (OSError, ValueError, IndexError):
        return uid == 0


# The homes that this process follows, but for the ordinary ones: those cost nothing then. It is not handed down from
# call to call, so that no call that makes something can forget it.
_followed: dict[str, Access] = {}


def follow(home: Path) -> None:
    """Look at the home again: what this process makes below it from now on follows its owner, group and mode."""
    try:
        access = Access.of(home)
    except OSError:  # not there yet, or closed to this user, who can make nothing in it then
        _followed.pop(str(home), None)
        return
    if access.is_ordinary:
        _followed.pop(str(home), None)
    else:
        _followed[str(home)] = access


def of_home(home: Path) -> Access | None:
    """The access that is followed in the store at `home`; None for an ordinary home, or one not followed."""
    return _followed.get(str(home)) if _followed else None


def around(path: str | os.PathLike[str]) -> Access | None:
    """The access that a new file or directory at `path` follows; None outside of stores, and in ordinary ones."""
    if not _followed:
        return None
    text = os.fspath(path)
    while text:
        text = text.rpartition("/")[0]
        access = _followed.get(text)
        if access is not None:
            return access
    return None
