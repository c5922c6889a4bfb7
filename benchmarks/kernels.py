"""How fast are the compiled kernels beside those in numpy, and beside zstd, which bounds both?

    python benchmarks/kernels.py CHECKPOINTS [--sets SET ...] [--rounds N]

Pieces of 1 MiB of the largest tensors of the newest version of a set (made by checkpoints.py), each against the
version before, grouped by the first one, by one thread and by two, with both kernels and zstd alone in turns. zstd's is
the time for the same streams: compressing those that are stored as frames, decompressing these.

Speeds are GB of raw bytes for each second of all threads together, and for each second of one thread's processor time,
where other work on the machine does not count. Ratios are of neighbours in time. Memory is the peak of what a call
allocates, as tracemalloc and numpy tell it, in multiples of the chunk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import codec as pieces_of
import measure

from casstore.storage.coding import entropy, kernels

SETS = ("finetune-bf16", "contrastive-fp32")
PIECES = 16
Task = Callable[[int], object]


class Figures(NamedTuple):
    """Of all pieces once: seconds, and seconds of processor time of all threads."""

    wall: float
    cpu: float


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """These kernels instead of those that were chosen."""
    with mock.patch.dict(os.environ, {kernels.VARIABLE: name}):
        kernels.kernels.cache_clear()
        assert kernels.kernels().name == name
        yield
    kernels.kernels.cache_clear()


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    print(measure.machine(arguments.checkpoints), end="\n\n")
    rows = []
    for name in arguments.sets:
        found = [piece for piece in pieces_of.pieces(arguments.checkpoints / name) if len(piece.raw) == 1 << 20]
        found = [piece for piece in found if piece.raw not in piece[1:4]][:PIECES]
        rows += speeds(name, found, arguments.rounds)
    header = [
        "", "", "threads", "compiled", "numpy", "zstd alone", "compiled to numpy", "compiled, of processor time",
        "numpy", "zstd alone", "compiled to numpy", "memory, chunks: compiled", "numpy",
    ]  # fmt: skip
    measure.print_markdown("Speed, GB/s of raw bytes", header, rows)


def speeds(name: str, found: list[pieces_of.Piece], rounds: int) -> list[list[str]]:
    raw_gb = sum(len(piece.raw) for piece in found) / measure.GB
    compiled, numpy, bounds = tasks("compiled", found), tasks("numpy", found), zstd_alone(found)
    rows = []
    for title in compiled:
        for threads in (1, 2):
            ways = {"compiled": compiled[title], "numpy": numpy[title]}
            if title in bounds:
                ways["zstd"] = bounds[title]
            taken: dict[str, list[Figures]] = {way: [] for way in ways}
            measure.in_turns(rounds, {way: partial(add_to, taken[way], way, ways[way], threads) for way in ways})
            wall, cpu = ({way: [each[n] for each in taken[way]] for way in ways} for n in (0, 1))
            rows.append([
                name, title, str(threads),
                *(cell for figures in (wall, cpu) for cell in cells(figures, raw_gb)),
                *(f"{memory(way, ways[way]) / len(found[0].raw):.1f}" for way in ("compiled", "numpy")),
            ])  # fmt: skip
    return rows


def cells(figures: dict[str, list[float]], raw_gb: float) -> Iterator[str]:
    for way in ("compiled", "numpy", "zstd"):
        yield measure.spread([raw_gb / each for each in figures[way]]) if way in figures else ""
    yield measure.spread(measure.ratios(figures["numpy"], figures["compiled"]), ".1f")


def add_to(taken: list[Figures], way: str, task: Task, threads: int) -> float:
    with contextlib.nullcontext() if way == "zstd" else using(way):
        taken.append(timed(task, PIECES, threads))
    return taken[-1].wall


def memory(way: str, task: Task) -> int:
    with using(way):
        task(0)
        tracemalloc.start()
        try:
            task(1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def tasks(name: str, found: list[pieces_of.Piece]) -> dict[str, Task]:
    with using(name):  # what is decoded is made by them, too
        return dict(pieces_of.tasks(found))


def zstd_alone(found: list[pieces_of.Piece]) -> dict[str, Task]:
    """What of each task is zstd's: calls of it are noted and made again."""
    made: dict[str, list[list[Callable[[], object]]]] = {}
    compress, decompress = entropy._compress, entropy.decompress
    for title, task in tasks("compiled", found).items():
        made[title] = []
        for number in range(len(found)):
            calls: list[Callable[[], object]] = []

            with (
                mock.patch.object(entropy, "_compress", partial(noted, calls, compress)),
                mock.patch.object(entropy, "decompress", partial(noted, calls, decompress)),
                using("compiled"),
            ):
                task(number)
            made[title].append(calls)
    return {title: partial(again, calls) for title, calls in made.items() if any(calls)}


def again(calls: list[list[Callable[[], object]]], number: int) -> None:
    for call in calls[number]:
        call()


def noted(calls: list[Callable[[], object]], function: Callable[..., bytes], *given: object) -> bytes:
    calls.append(partial(function, *given))
    return function(*given)


def timed(task: Task, count: int, threads: int) -> Figures:
    """Calls the task for every number below `count`, shared out over threads."""
    cpu = [0.0] * threads

    def some(first: int) -> None:
        started = time.thread_time()
        for number in range(first, count, threads):
            task(number)
        cpu[first] = time.thread_time() - started

    running = [threading.Thread(target=some, args=(first,)) for first in range(threads)]
    started = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return Figures(time.perf_counter() - started, sum(cpu))


if __name__ == "__main__":
    main()
