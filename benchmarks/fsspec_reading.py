"""How fast are files read through `casstore://`, beside fsspec's own local file system?

    python benchmarks/fsspec_reading.py [--dir DIR] [--rounds N]

Method: one version of 1,000 files of 2 KiB of random bytes and one of 256 MB, read warm through one file system object
of fsspec for each side: `cat` of all small files in one call (target: at most 2 times the local file system), each
opened by itself, `find`, `info` of each, and the large file whole and by 500 ranges of 64 KiB. Once with the version's
directory standing, once packed. The local file system verifies nothing; casstore compares all bytes with their digests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import fsspec
import measure

import casstore

FILE_BYTES = 2048
RANGE_BYTES = 64 << 10
RANGES = 500
TARGET = 2.0


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--mb", type=int, default=256)
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "store") as store:
        source = place / "source"
        source.mkdir()
        names = [f"{number:05}.json" for number in range(arguments.files)]
        for number, name in enumerate(names):
            measure.write_random(source / name, FILE_BYTES, number)
        measure.write_random(source / "large", arguments.mb * 10**6, len(names))
        store.save("bench:v1", source)
        sides = {
            "local": works(fsspec.filesystem("file"), str(source), names, arguments.mb),
            "casstore": works(
                fsspec.filesystem("casstore", home=str(place / "store")), "bench:v1", names, arguments.mb
            ),
        }
        for state in ("with its directory", "packed"):
            if state == "packed":
                store.gc(evict_all=True)
            show(state, sides, arguments.rounds)


def works(system: Any, root: str, names: list[str], mb: int) -> dict[str, Callable[[], object]]:
    """What is measured, by its name."""
    paths = [f"{root}/{name}" for name in names]
    large = f"{root}/large"
    starts = [random.Random(1).randrange(mb * 10**6 - RANGE_BYTES) for _ in range(RANGES)]

    def each() -> None:
        for path in paths:
            with system.open(path) as file:
                file.read()

    return {
        f"cat of {len(names):,} files of 2 KiB": lambda: system.cat(paths),
        "each opened and read by itself": each,
        "find": lambda: system.find(root),
        "info of each": lambda: [system.info(path) for path in paths],
        f"cat of {mb} MB": lambda: system.cat_file(large),
        f"{RANGES} ranges of it": lambda: system.cat_ranges(
            [large] * RANGES, starts, [start + RANGE_BYTES for start in starts], on_error="raise"
        ),
    }


def show(state: str, sides: dict[str, dict[str, Callable[[], object]]], rounds: int) -> None:
    rows = []
    for work in sides["local"]:
        parts = {side: (lambda call=calls[work]: measure.seconds(call)) for side, calls in sides.items()}
        for part in parts.values():
            part()  # warm
        figures = measure.in_turns(rounds, parts)
        ratios = measure.ratios(figures["casstore"], figures["local"])
        times = [measure.spread([1000 * each for each in figures[side]], ".1f") for side in sides]
        rows.append([work, *times, measure.spread(ratios)])
    title = f"A version {state}, ms; the first is to take at most {TARGET:g} times as long"
    measure.print_markdown(title, ["", *sides, "ratio"], rows)


if __name__ == "__main__":
    main()
