"""How much memory do saving and reading back a 4 GiB file take at the most?

    python benchmarks/memory.py [--dir DIR]

Method: each step runs in a fresh process, which prints its own `ru_maxrss` at the end: Python, all libraries and
the catalog's cache included, nothing subtracted ("open and list only" shows what that is). The parent stays
small, since Linux carries a parent's peak over to the child. The files are of random bytes with a hole of a
quarter: opaque ones are cut by content, safetensors ones on the grid. Steps:

create: written into a draft by a copy loop of 1 MiB, then committed. save: of a file that the caller keeps, copied.
link: `model.path` after models/ was deleted. open: `model.open` read to the end. rebuild: `model.path` with
link_mode=copy after models/ was deleted, from chunks. verify: the whole store.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import measure

import casstore

STEPS = ("open and list only", "create", "save", "link", "open", "rebuild", "verify")
LIMIT_MIB = 300


def step(name: str, home: Path, source: Path) -> None:
    """One step, in a process of its own."""
    with casstore.Store(home) as store:
        if name == "open and list only":
            store.list()
        elif name == "create":
            with store.create("big:v1") as draft, source.open("rb") as file:
                target = Path(draft.path, source.name)
                with target.open("xb") as copy:
                    while block := file.read(measure.MIB):
                        copy.write(block)
        elif name == "save":
            store.save("big:v2", source)
        elif name == "open":
            with store.get("big:v1").open(source.name) as reader:
                while reader.read(measure.MIB):
                    pass
        elif name == "verify":
            store.verify()
        else:
            store.set_setting("link_mode", "copy" if name == "rebuild" else "auto")
            measure.remove(home / "models")
            (home / "models").mkdir(exist_ok=True)
            path = Path(store.get("big:v1").path, source.name)
            assert path.stat().st_size == source.stat().st_size
            links = path.stat().st_nlink
            assert (links == 1) == (name == "rebuild")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    print(peak * 1024 if sys.platform == "linux" else peak)


def write_source(path: Path, size: int) -> None:
    """Random bytes with a hole in the third quarter. In a child: numpy would count as the parent's memory."""
    if path.suffix == ".safetensors":
        measure.write_safetensors(path, size, 1)
    else:
        measure.write_random(path, size // 2, 1)
        os.truncate(path, size * 3 // 4)
        with path.open("ab") as file:
            tail = path.with_suffix(".tail")
            measure.write_random(tail, size - size * 3 // 4, 2)
            with tail.open("rb") as rest:
                while block := rest.read(measure.MIB):
                    file.write(block)
            tail.unlink()


def main() -> None:
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--run", nargs=3, metavar=("STEP", "HOME", "SOURCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        name, home, source = arguments.run[0], Path(arguments.run[1]), Path(arguments.run[2])
        if name == "write":
            write_source(source, arguments.mib * measure.MIB)
        else:
            step(name, home, source)
        return

    def run(name: str, home: Path, source: Path) -> str:
        print(f"\r{source.name}: {name:40}", end="", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--mib", str(arguments.mib), "--run", name, str(home), str(source)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    with measure.workplace(arguments.dir) as place:
        report = measure.Report(f"Peak memory for a file of {arguments.mib} MiB", place)
        for source in (place / "model.bin", place / "model.safetensors"):
            run("write", place, source)
            peaks: dict[str, list[float]] = {name: [] for name in STEPS}
            for number in range(arguments.rounds):
                home = place / f"{source.suffix[1:]}-{number}"
                for name in STEPS:
                    # In a store that has the file already, nothing would be copied.
                    other = place / f"{home.name}-empty" if name == "save" else home
                    peaks[name].append(int(run(name, other, source)) / measure.MIB)
                    if other != home:
                        measure.remove(other)
                measure.remove(home)
            source.unlink()
            kind = "safetensors" if source.suffix == ".safetensors" else "opaque"
            for name, found in peaks.items():
                report.add(f"{kind}: {name}", found, "MiB", at_most=LIMIT_MIB)
    print(file=sys.stderr)
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
