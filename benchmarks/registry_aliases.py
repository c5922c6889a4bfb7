"""What do aliases cost: finding a version by one, and moving one?

    python benchmarks/registry_aliases.py [--dir DIR] [--rounds N] [--versions N] [--names N]

Method: a store as registry_ground.py makes it, with an alias on one version of each name, each moved once before. Warm
and in turns: `get` of random tags, and of the aliases that mean the same versions; then a move of an alias, which is on
disk when the call returns, beside a write of 4 KiB to the end of a file and an fsync of it, on the same disk.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import measure
import registry_ground

import casstore

GETS = 500
MOVES = 100
BLOCK = b"x" * 4096


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--names", type=int, default=1_000)
    arguments = parser.parse_args()
    with (
        measure.workplace(arguments.dir) as place,
        registry_ground.make_store(place / "store", arguments.versions, arguments.names, metrics=20) as store,
    ):
        aliases(store, place, arguments).print(as_json=arguments.json)


def aliases(store: casstore.Store, place: Path, arguments: argparse.Namespace) -> measure.Report:
    """Measure in a store that `registry_ground.make_store` has made."""
    tags = [registry_ground.tag_of(number, arguments.names) for number in range(arguments.versions)]
    rng = random.Random(2)
    meant = {}
    for first in tags[: arguments.names]:
        for tag in (first, rng.choice(tags[tags.index(first) :: arguments.names])):
            store.set_alias(f"{tag.name}@prod", tag)
            meant[f"{tag.name}@prod"] = tag

    def get(by_alias: bool) -> float:
        wanted = rng.choices(list(meant.items()), k=GETS)

        def run() -> None:
            for alias, tag in wanted:
                assert store.get(alias if by_alias else str(tag)).tag == tag

        return measure.seconds(run) / GETS

    def move() -> float:
        mine = tags[0], tags[arguments.names]

        def run() -> None:
            for number in range(MOVES):
                store.set_alias(f"{mine[0].name}@moving", mine[number % 2])

        return measure.seconds(run) / MOVES

    def append() -> float:
        descriptor = os.open(place / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def run() -> None:
            for _ in range(MOVES):
                os.write(descriptor, BLOCK)
                os.fsync(descriptor)

        try:
            return measure.seconds(run) / MOVES
        finally:
            os.close(descriptor)

    figures = measure.in_turns(
        arguments.rounds,
        {
            "get(n:v)": lambda: get(False),
            "get(n@alias)": lambda: get(True),
            "set_alias": move,
            "append 4 KiB, fsync": append,
        },
    )
    report = measure.Report(f"{len(tags):,} versions of {arguments.names:,} names, an alias of each", place)
    for what, taken in figures.items():
        report.add(what, [1000 * each for each in taken], "ms")
    by_alias = measure.ratios(figures["get(n@alias)"], figures["get(n:v)"])
    report.add("get(n@alias) / get(n:v)", by_alias, "x", at_most=1.3)
    moves = measure.ratios(figures["set_alias"], figures["append 4 KiB, fsync"])
    report.add("set_alias / append 4 KiB, fsync", moves, "x", at_most=2)
    return report


if __name__ == "__main__":
    main()
