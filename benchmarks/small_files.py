"""How long does it take to commit a draft of 10,000 small files?

    python benchmarks/small_files.py [--dir DIR] [--rounds N]

Method: files of 4 KiB of random bytes, in directories of 100, are written into a draft; what is timed is leaving
the `with` block. Every draft has bytes that are new; `os.sync()` comes before it is written. casstore with
durability "full" stands against BentoML's exit followed by `os.sync()`, casstore "relaxed" against the exit alone.
Nothing is deleted until the end: ext4 without a journal will not reuse an inode for a minute after its deletion and
looks at each of them for every new file, which makes new files up to ten times slower, BentoML's most of all. For
the same reason, let a minute pass between two runs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

import casstore

FILE_BYTES = 4096
FILES_PER_DIRECTORY = 100


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    arguments = parser.parse_args()
    bentoml = measure.bento()
    seeds = itertools.count()
    kept: list[Any] = []  # BentoML deletes a model's temporary directory with the object
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore") as store:
        peer_store = measure.bento_store(place)

        def write_draft(directory: str) -> None:
            os.sync()
            for number in range(arguments.files):
                path = Path(directory, f"{number // FILES_PER_DIRECTORY:04}", f"{number:06}.bin")
                if number % FILES_PER_DIRECTORY == 0:
                    path.parent.mkdir()
                measure.write_random(path, FILE_BYTES, next(seeds))

        def ours(durability: str) -> float:
            draft = store.create("small", durability=durability).__enter__()
            write_draft(draft.path)
            return measure.seconds(lambda: draft.__exit__(None, None, None))

        def peer(finish: Callable[[], None]) -> float:
            context = bentoml.models.create("small", _model_store=peer_store)
            model = context.__enter__()
            write_draft(model.path)

            def leave() -> None:
                context.__exit__(None, None, None)
                finish()

            taken = measure.seconds(leave)
            kept.append(model)
            return taken

        figures = measure.in_turns(
            arguments.rounds,
            {
                "casstore, full": lambda: ours("full"),
                "BentoML, then os.sync": lambda: peer(os.sync),
                "casstore, relaxed": lambda: ours("relaxed"),
                "BentoML, nothing synced": lambda: peer(lambda: None),
            },
        )
        kept.clear()
        report = measure.Report(f"Commit of a draft of {arguments.files} files of {FILE_BYTES} bytes", place)
    for name, taken in figures.items():
        report.add(name, taken, "s")
    full = measure.ratios(figures["BentoML, then os.sync"], figures["casstore, full"])
    report.add("full: BentoML+os.sync / casstore", full, "x", at_least=2)
    relaxed = measure.ratios(figures["BentoML, nothing synced"], figures["casstore, relaxed"])
    report.add("relaxed: BentoML / casstore", relaxed, "x")
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
