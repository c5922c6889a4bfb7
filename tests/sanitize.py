"""Runs the tests of encodings with kernels that watch themselves: `python -m tests.sanitize [pytest's options]`.

kernels.c is compiled under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process where it reads or
writes what is not its own, or does what C leaves open. The tests are the same, damaged and hostile records among them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from casstore.storage.coding import build_kernels

_ROOT = Path(__file__).parent.parent
_FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
_TESTS = [f"tests/storage/test_{name}.py" for name in ("kernels", "delta", "codec", "entropy", "pack")]
_TESTS += ["tests/crash/test_hostile_files.py", "-k", "not hostile or pack or chunk or delta"]


def main() -> int:
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    runtime = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as place:
        library = Path(place, "_kernels.lib.so")
        os.environ["CFLAGS"] = _FLAGS
        fault = build_kernels.compile_kernels(Path(build_kernels.__file__).with_name("kernels.c"), library)
        if fault is not None:
            sys.exit(fault)
        environment = {
            **os.environ,
            "CASSTORE_TEST_KERNELS": str(library),
            "CASSTORE_KERNELS": "",
            "CFLAGS": "",
            "CASSTORE_TEST_CFLAGS": _FLAGS,
            "LD_PRELOAD": runtime,
            # Python itself leaks at its end; and its bytes are watched only where each is an allocation of its own.
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
        }
        tests = ["-q", "-m", "crash or not crash", *_TESTS, *sys.argv[1:]]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *tests], cwd=_ROOT, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
