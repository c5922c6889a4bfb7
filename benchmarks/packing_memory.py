"""How much memory do packing two versions of 4 GiB and opening the packed ones take at the most?

    python benchmarks/packing_memory.py [--dir DIR] [--mib N]

Method: as in memory.py each step is a fresh process that prints its own `ru_maxrss`, to which that of its largest
child is added if it had any. The model is one safetensors file of bf16 weights (normal, 0.02 wide, a dozen tensors);
the second version is the first plus noise of 1e-4. Both are saved by moving them in, so there is one copy of each.
It needs 20 GB of free disk at 4096 MiB, and frees them at the end.

save: both versions. pack: `gc(evict_all=True)`, planes for the first version, deltas for the second. open: the second
is read to the end by `model.open`. path: it gets its directory again. evict: that is taken away again.
verify: the whole store.

Target: 500 MiB in every step.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import measure

import casstore

STEPS = ("save", "pack", "open", "path", "evict", "verify")
LIMIT_MIB = 500
# Two versions, their packs and one that is opened: a bit under five times the size of one.
FREE_DISK_FACTOR = 4.7


def step(name: str, home: Path, sources: list[Path]) -> None:
    """One step, in a process of its own."""
    with casstore.Store(home) as store:
        if name == "save":
            for number, source in enumerate(sources, start=1):
                store.save(f"big:v{number}", source, move=True)
        elif name in ("pack", "evict"):
            store.gc(evict_all=True)
        elif name == "open":
            with store.get("big:v2").open(sources[1].name) as reader:
                while reader.read(measure.MIB):
                    pass
        elif name == "path":
            assert Path(store.get("big:v2").path, sources[1].name).is_file()
        else:
            assert store.verify().is_sound
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Linux counts KiB, macOS bytes.
    print(sum(peaks) * (1024 if sys.platform == "linux" else 1))


def main() -> None:
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--run", nargs=2, metavar=("STEP", "PLACE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        name, place = arguments.run[0], Path(arguments.run[1])
        sources = [place / f"{version}.safetensors" for version in ("first", "second")]
        if name == "write":
            for source in sources:
                measure.write_weights(source, arguments.mib * measure.MIB, changed=source == sources[1])
        else:
            step(name, place / "store", sources)
        return

    def run(name: str, place: Path) -> str:
        print(f"\r{name:20}", end="\r", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--mib", str(arguments.mib), "--run", name, str(place)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    needed = int(FREE_DISK_FACTOR * arguments.mib * measure.MIB)
    arguments.dir.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(arguments.dir).free < needed:
        sys.exit(f"{arguments.dir} has not the {needed / 1e9:.0f} GB free that this takes; give another --dir or --mib")
    with measure.workplace(arguments.dir) as place:
        print(measure.machine(place), end="\n\n")
        peaks: dict[str, list[float]] = {name: [] for name in STEPS}
        sizes: dict[str, int] = {}
        for _ in range(arguments.rounds):
            run("write", place)
            for name in STEPS:
                peaks[name].append(int(run(name, place)) / measure.MIB)
                sizes[name] = measure.file_bytes(place / "store")
            measure.remove(place / "store")
    rows = [
        [
            name, measure.spread(found, ".0f"), "met" if max(found) <= LIMIT_MIB else "**missed**",
            f"{sizes[name] / (arguments.mib * measure.MIB):.2f}",
        ]
        for name, found in peaks.items()
    ]  # fmt: skip
    measure.print_markdown(
        f"Peak memory for two versions of {arguments.mib} MiB",
        ["", "MiB", f"target {LIMIT_MIB}", "store after it, in sizes of a version"], rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
