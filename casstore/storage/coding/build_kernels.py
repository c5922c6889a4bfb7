"""Builds the compiled kernels while casstore is being installed; not part of what is installed.

Where the compiler is missing or fails, casstore is installed without them, and works in numpy.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path("casstore", "storage", "coding")
_SOURCE, _LIBRARY = _HERE / "kernels.c", _HERE / "_kernels.lib.so"
# For any processor of its kind: a wheel is for other machines too.
_FLAGS = ("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-shared")


def compile_kernels(source: Path, library: Path) -> str | None:
    """Compile with `$CC`, `cc` by default, and `$CFLAGS`; returns what is wrong, None for nothing.

    A library that stands there, which may be in use, is replaced or, where this fails, removed.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    flags = [*_FLAGS, f"-DSOURCE={zlib.crc32(source.read_bytes())}", *shlex.split(os.environ.get("CFLAGS", ""))]
    command = [*compiler, *flags, "-o", str(library), str(source)]
    library.unlink(missing_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        library.unlink(missing_ok=True)
        return f"{error}\n{error.stderr}".rstrip()
    except OSError as error:
        return f"{shlex.join(command)}: {error}"
    return None


def platform_tag() -> str:
    """This machine's, as names of wheels have it. It holds for this machine alone: see docs/contributing.md."""
    name = sysconfig.get_platform()
    if name.endswith("-universal2"):  # a Python for two processors, but the library is for one
        name = name.replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")


class BuildKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to a wheel, which is then for one platform, and for every release of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called by hatchling before it collects the files of a wheel. `version` is "editable" for `pip install -e`."""
        root = Path(self.root)
        fault = compile_kernels(root / _SOURCE, root / _LIBRARY)
        if fault is not None:
            self.app.display_warning(f"casstore is built without compiled kernels, and will be slower.\n{fault}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        build_data["artifacts"].append(f"/{_LIBRARY}")
