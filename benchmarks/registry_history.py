"""What do events cost a save, and how long does it take to annotate a version of a name that has many?

    python benchmarks/registry_history.py [--dir DIR] [--versions N] [--pairs N]

Method: one file of 1,000 bytes is saved under new versions, in turns with and without the note of it; the difference is
the median of that of the pairs, in wall time and in time of the processor, which a busy machine disturbs less. Then
the versions of a name are annotated, each save being materialize=False; then all events are read.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import casstore
from casstore.catalog import commits


def cost_of_notes(store: casstore.Store, source: Path, pairs: int) -> dict[str, tuple[float, float]]:
    """Of wall and processor: seconds of a save without the note, and what the note adds."""
    noting = commits.note_event
    kinds: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
    taken: dict[tuple[str, bool], list[float]] = {(kind, noted): [] for kind in kinds for noted in (True, False)}
    try:
        for number in range(pairs):
            for noted in (True, False) if number % 2 else (False, True):
                source.write_bytes(random.randbytes(1000))
                commits.note_event = noting if noted else lambda *_, **__: None
                before = {kind: clock() for kind, clock in kinds.items()}
                store.save("small", source)
                for kind, clock in kinds.items():
                    taken[kind, noted].append(clock() - before[kind])
    finally:
        commits.note_event = noting
    return {
        kind: (
            statistics.median(taken[kind, False]),
            statistics.median(a - b for a, b in zip(taken[kind, True], taken[kind, False], strict=True)),
        )
        for kind in kinds
    }


def seconds(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir")
    parser.add_argument("--versions", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as place, casstore.Store(f"{place}/store") as store:
        source = Path(place, "weights")
        for kind, (without, added) in cost_of_notes(store, source, arguments.pairs).items():
            share = added / without
            print(f"save, {kind}: {1000 * without:.2f} ms, and its note {1e6 * added:.0f} µs ({share:.2%})")
        source.write_bytes(b"the same")
        for number in range(arguments.versions):
            store.save(f"many:v{number:06}", source, materialize=False, durability="relaxed")
        taken = [
            seconds(lambda number=number: store.annotate(f"many:v{number:06}", metrics={"f1": number}))
            for number in range(0, arguments.versions, max(1, arguments.versions // 200))
        ]
        print(f"annotate, of {arguments.versions:,} versions: {1000 * statistics.median(taken):.2f} ms")
        appended = os.open(f"{place}/appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        syncs = [seconds(lambda: (os.write(appended, bytes(4096)), os.fsync(appended))) for _ in range(100)]
        os.close(appended)
        print(f"an fsynced append of 4 KiB: {1000 * statistics.median(syncs):.2f} ms")
        count = len(store.events())
        print(f"events, all {count:,}: {1000 * seconds(store.events):.1f} ms")


if __name__ == "__main__":
    main()
