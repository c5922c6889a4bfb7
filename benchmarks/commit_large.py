"""How long does it take to commit a new draft of 1 GiB?

    python benchmarks/commit_large.py [--dir DIR] [--rounds N]

Method: a safetensors file of 1 GiB of random bytes (a dozen tensors) is written into a draft; what is timed is
leaving the `with` block, no more. Every part writes bytes that are new, and first lets the disk come to rest
(`os.sync()` before the draft is written, so that the draft itself is still dirty, as it is in practice).
casstore with durability "full" stands against BentoML's exit followed by `os.sync()`, the only way to know that
BentoML's copy is on disk; `fsync` of the files that BentoML wrote is given too, since `os.sync` also waits for
other programs' files. casstore "relaxed" stands against BentoML's exit alone. The floor is fsync of a draft.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import measure

import casstore


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the draft")
    arguments = parser.parse_args()
    bentoml = measure.bento()
    seeds = itertools.count()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore") as store:
        peer_store = measure.bento_store(place)

        def write_draft(directory: str) -> Path:
            os.sync()
            path = Path(directory) / "model.safetensors"
            measure.write_safetensors(path, arguments.mib * measure.MIB, next(seeds))
            return path

        def ours(durability: str) -> float:
            draft = store.create("large", durability=durability).__enter__()
            write_draft(draft.path)
            taken = measure.seconds(lambda: draft.__exit__(None, None, None))
            store.delete(draft.model.tag)
            store.gc()
            return taken

        def peer(finish: Any) -> float:
            context = bentoml.models.create("large", _model_store=peer_store)
            model = context.__enter__()
            write_draft(model.path)

            def leave() -> None:
                context.__exit__(None, None, None)
                finish(Path(peer_store.get(model.tag).path))

            taken = measure.seconds(leave)
            peer_store.delete(model.tag)
            measure.remove(Path(model.path))
            return taken

        def floor() -> float:
            (place / "alone").mkdir()
            path = write_draft(str(place / "alone"))
            with path.open("rb") as file:
                taken = measure.seconds(lambda: os.fsync(file.fileno()))
            measure.remove(place / "alone")
            return taken

        figures = measure.in_turns(
            arguments.rounds,
            {
                "casstore, full": lambda: ours("full"),
                "BentoML, then os.sync": lambda: peer(lambda _: os.sync()),
                "fsync of the draft alone": floor,
                "BentoML, then fsync of its files": lambda: peer(measure.sync_tree),
                "casstore, relaxed": lambda: ours("relaxed"),
                "BentoML, nothing synced": lambda: peer(lambda _: None),
            },
        )
        report = measure.Report(f"Commit of a new draft of {arguments.mib} MiB", place)
    for name, taken in figures.items():
        report.add(name, taken, "s")
    full, relaxed = figures["casstore, full"], figures["casstore, relaxed"]
    report.add(
        "full: BentoML+os.sync / casstore", measure.ratios(figures["BentoML, then os.sync"], full), "x", at_least=2
    )
    report.add("full: BentoML+fsync / casstore", measure.ratios(figures["BentoML, then fsync of its files"], full), "x")
    report.add("full: casstore / floor", measure.ratios(full, figures["fsync of the draft alone"]), "x")
    report.add(
        "relaxed: BentoML / casstore", measure.ratios(figures["BentoML, nothing synced"], relaxed), "x", at_least=5
    )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
