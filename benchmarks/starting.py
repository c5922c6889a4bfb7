"""How long does a command take that has little to do, beside a process that only imports three libraries?

    python benchmarks/starting.py [--dir DIR] [--rounds N]

Method: each is a new process: `python -c "import click, apsw, msgpack"`, which is what the command line and the catalog
stand on, and in turns with it the `casstore` command and `import casstore`, in a store of one small version. Python has
kept what it compiled, as it has where casstore was installed. CPU time is that of the child, user and system; ratios
are taken within a round.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import measure

import casstore

BASE = "import click, apsw, msgpack"
TARGETS = {"casstore --version": 1.6, "casstore path TAG": 2.0, "casstore show TAG": 2.5}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=25)
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        source = place / "source"
        source.mkdir()
        for name in ("config.json", "weights.bin", "vocab.txt"):
            (source / name).write_bytes(os.urandom(10_000))
        with casstore.Store(place / "home", auto_gc=False) as store:
            store.save("bert:v1", source)
        processor: dict[str, list[float]] = {}
        commands = _commands(source)
        for command in commands.values():  # Python keeps what it compiles, and files are in the page cache
            _run(command, place)
        wall = measure.in_turns(
            arguments.rounds, {name: _part(name, command, place, processor) for name, command in commands.items()}
        )
        _show(wall, processor, measure.machine(place))


def _commands(source: Path) -> dict[str, list[str]]:
    casstore_command = [sys.executable, "-m", "casstore"]
    return {
        f'python -c "{BASE}"': [sys.executable, "-c", BASE],
        'python -c "import casstore"': [sys.executable, "-c", "import casstore"],
        "casstore --version": [*casstore_command, "--version"],
        "casstore path TAG": [*casstore_command, "path", "bert:v1"],
        "casstore show TAG": [*casstore_command, "show", "bert:v1"],
        "casstore list": [*casstore_command, "list"],
        "casstore save, unchanged": [*casstore_command, "save", "bert:v1", str(source), "--exist-ok"],
    }


def _run(command: list[str], place: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "CASSTORE_HOME": str(place / "home"), "CASSTORE_AUTO_GC": "0"}
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _part(name: str, command: list[str], place: Path, processor: dict[str, list[float]]) -> Callable[[], float]:
    def part() -> float:
        before = getrusage(RUSAGE_CHILDREN)
        taken = measure.seconds(lambda: _run(command, place))
        after = getrusage(RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        processor.setdefault(name, []).append(used)
        return taken

    return part


def _show(wall: dict[str, list[float]], processor: dict[str, list[float]], machine: str) -> None:
    base = next(iter(wall))
    rows = []
    for name in wall:
        target = TARGETS.get(name)
        beside = measure.ratios(processor[name], processor[base])
        held = "" if target is None else f"<= {target}: {'yes' if median(beside) <= target else 'no'}"
        rows.append([
            name,
            measure.spread([1000 * each for each in processor[name]], ".0f"),
            measure.spread([1000 * each for each in wall[name]], ".0f"),
            measure.spread(beside),
            measure.spread(measure.ratios(wall[name], wall[base])),
            held,
        ])  # fmt: skip
    header = ["process", "CPU, ms", "wall, ms", "times, CPU", "times, wall", "wanted"]
    measure.print_markdown(f"A process that has little to do ({machine})", header, rows)


if __name__ == "__main__":
    main()
