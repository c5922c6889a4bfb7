"""How fast is a file hashed and cut, and with which window and how many threads?

    python benchmarks/chunking.py [--dir DIR] [--rounds N] [--sweep]

Method: files of 1 GiB of random bytes, in the page cache, one opaque (cut by content) and one safetensors (cut on
the grid), go through `scan_file`: digests of the blob and of every chunk. In the same rounds, the parts it is
made of, each over the whole file: reading it into one buffer, plain BLAKE3 by one thread and by two, FastCDC by one
thread. "Bound" is what two cores could do at best with those parts: read, hash twice and, if opaque, cut.
`--sweep` tries windows of 1 to 16 MiB and 1 to 3 threads instead. `--cpu-time` counts processor time of all threads
instead of wall time: twice that figure is what two free cores could do, and a busy machine blurs it less.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure
import pyfastcdc
from blake3 import blake3

from casstore.storage import chunking

WINDOWS_MIB = (1, 2, 4, 8, 16)
THREADS = (1, 2, 3)
BLOCK_BYTES = 4 * measure.MIB
CORES = 2

Clock = Callable[[], float]


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--sweep", action="store_true", help="compare windows and threads")
    parser.add_argument("--cpu-time", action="store_true", help="GB per second of processor time, not of wall time")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    size = arguments.mib * measure.MIB
    with measure.workplace(arguments.dir) as place:
        opaque, tensors = place / "model.bin", place / "model.safetensors"
        measure.write_random(opaque, size, 1)
        measure.write_safetensors(tensors, size, 2)
        os.sync()
        what = "processor time" if arguments.cpu_time else "wall time"
        report = measure.Report(f"Hash and cut {arguments.mib} MiB from the page cache, {what}", place)
        if arguments.sweep:
            sweep(report, arguments.rounds, clock, {"opaque": opaque, "safetensors": tensors})
        else:
            rates(report, arguments.rounds, clock, opaque, tensors)
    report.print(as_json=arguments.json)


def rates(report: measure.Report, rounds: int, clock: Clock, opaque: Path, tensors: Path) -> None:
    """GB/s of the whole and of its parts."""
    parts: dict[str, Callable[[Path], object]] = {
        "read": read,
        "BLAKE3, 1 thread": functools.partial(plain_blake3, threads=1),
        "BLAKE3, 2 threads": functools.partial(plain_blake3, threads=2),
        "BLAKE3 of each MiB, 1 thread": blake3_of_blocks,
        "FastCDC, 1 thread": cut,
    }
    measured = {
        "opaque: scan_file": functools.partial(rate, clock, scan, opaque),
        "safetensors: scan_file": functools.partial(rate, clock, scan, tensors),
        **{name: functools.partial(rate, clock, part, opaque) for name, part in parts.items()},
    }
    content(opaque)  # once, so that no part is charged with reading it
    figures = measure.in_turns(rounds, measured)
    is_wall = clock is time.perf_counter
    targets = {"opaque: scan_file": 2, "safetensors: scan_file": 4} if is_wall else {}
    for name, found in figures.items():
        report.add(name, found, "GB/s", at_least=targets.get(name))
    rounds_of = zip(
        figures["read"], figures["BLAKE3, 1 thread"], figures["BLAKE3 of each MiB, 1 thread"],
        figures["FastCDC, 1 thread"], strict=True,
    )  # fmt: skip
    bounds = [(1 / r + 1 / whole + 1 / blocks, 1 / cdc) for r, whole, blocks, cdc in rounds_of]
    report.add("opaque: bound", [CORES / (hashing + cutting) for hashing, cutting in bounds], "GB/s")
    report.add("safetensors: bound", [CORES / hashing for hashing, _ in bounds], "GB/s")


def sweep(report: measure.Report, rounds: int, clock: Clock, paths: dict[str, Path]) -> None:
    """GB/s of `scan_file` for every window and number of threads; the best of each kind comes last."""

    def measured(path: Path, window_mib: int, threads: int) -> float:
        chunking.WINDOW_BYTES = window_mib * measure.MIB
        chunking.HASH_THREADS = threads
        return rate(clock, scan, path)

    for kind, path in paths.items():
        parts = {
            f"{kind}: window {window_mib:2} MiB, {threads} threads": functools.partial(
                measured, path, window_mib, threads
            )
            for window_mib in WINDOWS_MIB
            for threads in THREADS
        }
        figures = measure.in_turns(rounds, parts)
        for name, found in figures.items():
            report.add(name, found, "GB/s")
        best = max(figures, key=lambda name: statistics.median(figures[name]))
        report.add(f"best: {best}", figures[best], "GB/s")


def rate(clock: Clock, function: Callable[[Path], object], path: Path) -> float:
    started = clock()
    function(path)
    return path.stat().st_size / measure.GB / (clock() - started)


def scan(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        chunking.scan_file(file.fileno())


def read(path: Path) -> None:
    buffer = bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


@functools.cache
def content(path: Path) -> bytes:
    return path.read_bytes()


def plain_blake3(path: Path, threads: int) -> None:
    blake3(content(path), max_threads=threads).digest()


def blake3_of_blocks(path: Path) -> None:
    view = memoryview(content(path))
    for start in range(0, len(view), measure.MIB):
        blake3(view[start : start + measure.MIB]).digest()


def cut(path: Path) -> None:
    cutter = pyfastcdc.FastCDC(
        chunking.FASTCDC_AVERAGE_BYTES,
        min_size=chunking.FASTCDC_MINIMUM_BYTES,
        max_size=chunking.MAX_CHUNK,
        normalized_chunking=chunking.FASTCDC_NORMALIZATION,
    )
    for _ in cutter.cut_buf(memoryview(content(path))):
        pass


if __name__ == "__main__":
    main()
