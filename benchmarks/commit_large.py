"""How long does it take to commit a new draft of 1 GiB?

    python benchmarks/commit_large.py [--dir DIR] [--rounds N]

Method: a safetensors file of 1 GiB of random bytes (a dozen tensors) is written into a draft; what is timed is
leaving the `with` block, no more. Every part writes bytes that are new, and first lets the disk come to rest
(`os.sync()` before the draft is written, so that the draft itself is still dirty, as it is in practice).
casstore with durability "full" stands against BentoML's exit followed by `os.sync()`, the only way to know that
BentoML's copy is on disk; `fsync` of the files that BentoML wrote is given too, since `os.sync` also waits for
other programs' files. Its bound is the longer of two things that can be done at once: hashing the file, and fsync of it
alone. casstore "relaxed" stands against BentoML's exit alone; its bound are two passes of BLAKE3 over the file, of its
chunks and of the whole, by two threads, which read it as well. Both are also given in processor time, which a busy
machine blurs less.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import measure
from blake3 import blake3

import casstore
from casstore.storage import chunking

BLOCK_BYTES = 1 * measure.MIB


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

        processor: dict[str, list[float]] = {"relaxed": [], "full": [], "two passes": []}

        def timed(name: str, work: Callable[[], object]) -> float:
            before = time.process_time()
            taken = measure.seconds(work)
            processor[name].append(time.process_time() - before)
            return taken

        def ours(durability: str) -> float:
            draft = store.create("large", durability=durability).__enter__()
            write_draft(draft.path)
            taken = timed(durability, lambda: draft.__exit__(None, None, None))
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

        def alone(work: Callable[[int], object], name: str = "") -> float:
            (place / "alone").mkdir()
            path = write_draft(str(place / "alone"))
            with path.open("rb") as file:
                call = partial(work, file.fileno())
                taken = timed(name, call) if name else measure.seconds(call)
            measure.remove(place / "alone")
            return taken

        figures = measure.in_turns(
            arguments.rounds,
            {
                "casstore, full": lambda: ours("full"),
                "BentoML, then os.sync": lambda: peer(lambda _: os.sync()),
                "fsync of the draft alone": lambda: alone(os.fsync),
                "hashing the draft alone": lambda: alone(chunking.scan_file),
                "BentoML, then fsync of its files": lambda: peer(measure.sync_tree),
                "casstore, relaxed": lambda: ours("relaxed"),
                "two passes of BLAKE3": lambda: alone(two_passes, "two passes"),
                "BentoML, nothing synced": lambda: peer(lambda _: None),
            },
        )
        report = measure.Report(f"Commit of a new draft of {arguments.mib} MiB", place)
    for name, taken in figures.items():
        report.add(name, taken, "s")
    full, relaxed = figures["casstore, full"], figures["casstore, relaxed"]
    report.add(
        "full: BentoML+os.sync / casstore", measure.ratios(figures["BentoML, then os.sync"], full), "x", at_least=2.5
    )
    report.add("full: BentoML+fsync / casstore", measure.ratios(figures["BentoML, then fsync of its files"], full), "x")
    bound = list(map(max, figures["fsync of the draft alone"], figures["hashing the draft alone"]))
    report.add("full: casstore / the longer of fsync and hashing", measure.ratios(full, bound), "x", at_most=1.3)
    report.add(
        "relaxed: two passes / casstore", measure.ratios(figures["two passes of BLAKE3"], relaxed), "x", at_least=0.8
    )
    report.add(
        "relaxed: two passes / casstore, processor time",
        measure.ratios(processor["two passes"], processor["relaxed"]), "x", at_least=0.8,
    )  # fmt: skip
    report.add("full / relaxed, processor time", measure.ratios(processor["full"], processor["relaxed"]), "x")
    report.add("relaxed: BentoML / casstore", measure.ratios(figures["BentoML, nothing synced"], relaxed), "x")
    report.print(as_json=arguments.json)


def two_passes(descriptor: int) -> None:
    """Hash a file's blocks and, in halves, the whole, by two threads."""
    size = os.fstat(descriptor).st_size

    def work(offset: int, end: int) -> None:
        buffer, whole = memoryview(bytearray(BLOCK_BYTES)), blake3()
        while offset < end:
            block = buffer[: os.preadv(descriptor, [buffer[: end - offset]], offset)]
            blake3(block).digest()
            whole.update(block)
            offset += len(block)
        whole.digest()

    threads = [threading.Thread(target=work, args=part) for part in ((0, size // 2), (size // 2, size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
