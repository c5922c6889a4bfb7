"""What does a change cost? The main figures of two checkouts of casstore, measured in turns in one run.

    git worktree add ../before COMMIT
    python benchmarks/beside.py ../before . [--dir DIR] [--rounds N] [--only PART ...]

Method: each part runs in a process of its own, which imports casstore from one checkout or from the other; the two take
turns, and which of them begins changes with every round. A round's figure is the median of a few repetitions in that
process; the ratio is taken round by round between neighbours in time. Each side has a store of its own. The parts are
those of the scripts of the same names, without the peers and smaller: a commit of a new draft of 512 MiB
(commit_large), a directory of 100 files saved again (save_again), a draft of 2,000 files of 4 KiB (small_files), 1,000
versions (many_versions), and two versions of one file of bf16 weights packed by gc and opened cold (packed_speed).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure

SETTLED_S = 2.5  # casstore does not trust the stat of younger files
LARGE_BYTES = 512 * measure.MIB
AGAIN_FILES, AGAIN_BYTES = 100, 256 * measure.MIB
SMALL_FILES = 2000
VERSIONS, GETS = 1000, 500
PACKED_BYTES = 192 * measure.MIB

Figures = dict[str, list[float]]


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--part", help="(what the processes are called with)")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.dir)))
        return
    rows = []
    with measure.workplace(arguments.dir) as place:
        machine = measure.machine(place)
        for part in arguments.only:
            rows += compare(part, [arguments.before, arguments.after], arguments.rounds, place)
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": rows}, indent=2))
        return
    cells = [
        [row["what"], measure.spread(row["before"], ".4g"), measure.spread(row["after"], ".4g"),
         measure.spread(measure.ratios(row["after"], row["before"]))]
        for row in rows
    ]  # fmt: skip
    measure.print_markdown(machine, ["ms", "before", "after", "after / before"], cells)


def compare(part: str, checkouts: list[Path], rounds: int, place: Path) -> Iterator[dict[str, object]]:
    """Run one part in turns in both checkouts."""
    figures: list[Figures] = [{}, {}]
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            print(f"\r{part}: round {number + 1} of {rounds}   ", end="", file=sys.stderr, flush=True)
            own = place / f"{part}-{side}"
            own.mkdir(exist_ok=True)
            for what, taken in run(part, checkouts[side], own).items():
                figures[side].setdefault(what, []).append(statistics.median(taken))
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    for side in (0, 1):
        measure.remove(place / f"{part}-{side}")
    for what, before in figures[0].items():
        yield {"what": f"{part}: {what}", "before": before, "after": figures[1][what]}


def run(part: str, checkout: Path, own: Path) -> Figures:
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, __file__, str(checkout), str(checkout), "--part", part, "--dir", str(own)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def milliseconds(function: Callable[[], object]) -> float:
    return 1000 * measure.seconds(function)


def commit_large(own: Path) -> Figures:
    import casstore

    figures: Figures = {"full": [], "relaxed": []}
    with casstore.Store(own / "store", auto_gc=False) as store:
        for seed, durability in enumerate(["full", "relaxed"] * 3):
            draft = store.create("large", durability=durability).__enter__()
            os.sync()
            measure.write_safetensors(Path(draft.path, "model.safetensors"), LARGE_BYTES, time.time_ns() + seed)
            figures[durability].append(milliseconds(lambda draft=draft: draft.__exit__(None, None, None)))
            store.delete(draft.model.tag)
            store.gc()
    shutil.rmtree(own / "store")
    return figures


def save_again(own: Path) -> Figures:
    import casstore

    source = own / "source"
    with casstore.Store(own / "store", auto_gc=False) as store:
        if not source.exists():
            source.mkdir()
            for number in range(AGAIN_FILES):
                path = source / f"model-{number:05}.safetensors"
                measure.write_safetensors(path, AGAIN_BYTES // AGAIN_FILES, number)
            time.sleep(SETTLED_S)
            store.save("again", source)
        own_directory = store.get("again").path
        return {
            "full": [milliseconds(lambda: store.save("again", source)) for _ in range(9)],
            "relaxed": [milliseconds(lambda: store.save("again", source, durability="relaxed")) for _ in range(9)],
            "of a version's own directory": [milliseconds(lambda: store.save("own", own_directory)) for _ in range(9)],
        }


def small_files(own: Path) -> Figures:
    import casstore

    figures: Figures = {"full": [], "relaxed": []}
    with casstore.Store(own / "store", auto_gc=False) as store:
        for durability in ["full", "relaxed"] * 3:
            draft = store.create("small", durability=durability).__enter__()
            for number in range(SMALL_FILES):
                path = Path(draft.path, f"{number // 100:04}", f"{number:06}.bin")
                path.parent.mkdir(exist_ok=True)
                measure.write_random(path, 4096, time.time_ns() + number)
            os.sync()
            figures[durability].append(milliseconds(lambda draft=draft: draft.__exit__(None, None, None)))
    return figures


def many_versions(own: Path) -> Figures:
    import casstore

    tags = [f"name{number % 20:03}:v{number // 20:05}" for number in range(VERSIONS)]
    with casstore.Store(own / "store", auto_gc=False) as store:
        figures: Figures = {}
        if not store.tags():
            for tag in tags:
                with store.create(tag, labels={"stage": "dev"}, durability="relaxed") as draft:
                    Path(draft.path, "weights.bin").write_bytes(tag.encode())

        def save(durability: str) -> None:
            with store.create("more", labels={"stage": "dev"}, durability=durability) as draft:
                Path(draft.path, "weights.bin").write_bytes(str(time.time_ns()).encode())

        figures["save one, relaxed"] = [milliseconds(lambda: save("relaxed")) for _ in range(60)]
        figures["save one, full"] = [milliseconds(lambda: save("full")) for _ in range(60)]
        figures["list"] = [
            milliseconds(lambda: [(str(model.tag), model.created_at) for model in store.list()]) for _ in range(5)
        ]
        figures["get"] = [milliseconds(lambda: [store.get(tag) for tag in tags[:GETS]]) / GETS for _ in range(5)]
        figures["get and path"] = [
            milliseconds(lambda: [store.get(tag).path for tag in tags[:GETS]]) / GETS for _ in range(5)
        ]
        return figures


def packed_speed(own: Path) -> Figures:
    import casstore

    home = own / "store"
    figures: Figures = {"save": [], "gc --evict-all": [], "open the oldest": [], "open the newest, a delta": []}
    source = own / "source"
    source.mkdir(exist_ok=True)
    with casstore.Store(home, auto_gc=False) as store:
        for version in ("v1", "v2"):
            (source / "model.safetensors").unlink(missing_ok=True)
            measure.write_weights(source / "model.safetensors", PACKED_BYTES, changed=version == "v2")
            figures["save"].append(milliseconds(lambda version=version: store.save(f"bert:{version}", source)))
        os.sync()
        figures["gc --evict-all"].append(milliseconds(lambda: store.gc(evict_all=True)))
    for version, what in (("v1", "open the oldest"), ("v2", "open the newest, a delta")):
        measure.forget([home])
        with casstore.Store(home, auto_gc=False) as store:
            figures[what].append(milliseconds(lambda store=store, version=version: store.get(f"bert:{version}").path))
    shutil.rmtree(home)
    return figures


PARTS: dict[str, Callable[[Path], Figures]] = {
    "commit_large": commit_large,
    "save_again": save_again,
    "small_files": small_files,
    "many_versions": many_versions,
    "packed_speed": packed_speed,
}

if __name__ == "__main__":
    main()
