"""Has a fuzzer that is guided by coverage look for input that a parser does not bear: `tox -e fuzz`.

`python -m tests.crash.fuzz [--seconds N] [PARSER ...]`, with the package atheris. Each parser gets a process of its
own, which libFuzzer ends when one input takes too long or too much memory.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_RUNS = re.compile(r"Done (\d+) runs in (\d+) second")
_COVERAGE = re.compile(r"cov: (\d+)")


def main() -> int:
    """Fuzz the parsers one after another, and print a line for each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parsers", nargs="*", help="which parsers; all of them by default")
    arguments.add_argument("--seconds", type=int, default=300, help="for each parser")
    arguments.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.inside:
        _fuzz(*given.inside)
    from tests.crash.hostile import PARSERS

    failed = 0
    for name in given.parsers or PARSERS:
        with tempfile.TemporaryDirectory() as corpus:
            for number, seed in enumerate(PARSERS[name].seeds):
                Path(corpus, f"seed-{number}").write_bytes(seed)
            command = [
                *(sys.executable, "-m", "tests.crash.fuzz", "--inside", name, corpus),
                *(f"-max_total_time={given.seconds}", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"),
                f"-artifact_prefix={tempfile.gettempdir()}/",
            ]
            result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        runs, coverage = _RUNS.search(result.stderr), _COVERAGE.findall(result.stderr)
        if result.returncode or runs is None:
            failed += 1
            print(f"{name}: FAILED\n{result.stderr[-4000:]}", flush=True)
        else:
            print(f"{name}: {runs[1]} inputs in {runs[2]} s, {coverage[-1]} branches reached, none failed", flush=True)
    return failed


def _fuzz(name: str, *arguments: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["casstore"]):
        from tests.crash.hostile import PARSERS
    parser = PARSERS[name]

    def one(data: bytes) -> None:
        with contextlib.suppress(*parser.refusals):
            parser.parse(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()  # does not return


if __name__ == "__main__":
    sys.exit(main())
