"""renameat2(2), which can exchange two names at once and refuse to replace: Python has no function for it."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable

# From linux/fs.h.
NO_REPLACE = 1
EXCHANGE = 2
_AT_FDCWD = -100  # from linux/fcntl.h
# What is said by a kernel, or a file system such as some FUSE and network mounts, that cannot.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def rename_at(source: str | os.PathLike[str], name: str, directory: int, flags: int) -> bool:
    """Rename a path to `name` in an open directory; False where system or file system cannot do it with these flags.

    Raises OSError, of which FileExistsError with NO_REPLACE, FileNotFoundError with EXCHANGE.
    """
    call = _renameat2()
    if call is None:
        return False
    code = call(os.fsencode(source), directory, os.fsencode(name), flags)
    if code in _CANNOT:
        return False
    if code:
        raise OSError(code, os.strerror(code), os.fspath(source))
    return True


@functools.cache
def _renameat2() -> Callable[[bytes, int, bytes, int], int] | None:
    """The call, which returns an errno, 0 when it is done; None on a system without it."""
    if sys.platform != "linux":
        return None
    import ctypes  # takes some milliseconds that most commands do not need

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

    def call(source: bytes, directory: int, name: bytes, flags: int) -> int:
        return ctypes.get_errno() if function(_AT_FDCWD, source, directory, name, flags) else 0

    return call
