"""What does adopting a BentoML home take, in time beside `cp -r` of its models, and in bytes beside them?

    python benchmarks/adopt.py [--dir DIR] [--rounds N] [--form FORM] [--names N] [--versions N] [--mib N]

Method: BentoML makes the home, with `models.create`: 10 names of 20 versions, each one file of 10 MiB of random bytes,
which neither shrink nor repeat; with `--form safetensors` they are those of 12 bf16 tensors, by default the file has no
format. From one version to the next 10% of the bytes change, in one piece at a random place. Then, in turns, with all
files of the source in the page cache: `cp -r` of the home, the same with `sync -f` of the copy, `Store.adopt` of the
home into a new store on the same disk, and `adopt` with `move` of the copy that `cp -r` has made. casstore's saves are
"full", so what it has adopted survives a power cut, as a copy does once it is synced. A copy is removed before the next
thing is measured.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

import casstore

CHANGED_SHARE = 0.1


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--form", choices=["raw", "safetensors"], default="raw")
    parser.add_argument("--names", type=int, default=10)
    parser.add_argument("--versions", type=int, default=20, help="of each name")
    parser.add_argument("--mib", type=int, default=10, help="size of each version's file")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        home = place / "home"
        write = {"raw": measure.write_random, "safetensors": measure.write_safetensors}[arguments.form]
        _make_home(place, home, write, arguments.names, arguments.versions, arguments.mib * measure.MIB)
        tree_bytes = measure.file_bytes(home)
        shares: dict[str, list[float]] = {"adopt": [], "adopt --move": []}

        def copy(*, is_synced: bool) -> float:
            measure.remove(place / "copy")
            _warm(home)

            def run() -> None:
                subprocess.run(["cp", "-r", home, place / "copy"], check=True)
                if is_synced:
                    subprocess.run(["sync", "-f", place / "copy"], check=True)

            return measure.seconds(run)

        def adopt(name: str, source: Path, *, move: bool) -> float:
            _warm(source)
            store_home = place / "store"
            versions = arguments.names * arguments.versions

            def run() -> None:
                with casstore.Store(store_home, auto_gc=False) as store:
                    report = store.adopt(source, move=move)
                    assert len(report.adopted) == versions
                    assert not report.refused

            taken = measure.seconds(run)
            shares[name].append(measure.file_bytes(store_home) / tree_bytes)
            measure.remove(store_home)
            return taken

        figures = measure.in_turns(
            arguments.rounds,
            {
                "cp -r, sync -f": lambda: copy(is_synced=True),
                "adopt": lambda: adopt("adopt", home, move=False),
                "cp -r": lambda: copy(is_synced=False),
                "adopt --move": lambda: adopt("adopt --move", place / "copy", move=True),
            },
        )
        size = f"{arguments.mib} MiB, {tree_bytes / 1e9:.2f} GB together"
        title = f"{arguments.names} names of {arguments.versions} versions of {size}, {arguments.form}"
        report = measure.Report(title, place)
    for name, taken in figures.items():
        report.add(name, taken, "s")
    for name in shares:
        report.add(f"cp -r / {name}", measure.ratios(figures["cp -r"], figures[name]), "x", at_least=1)
        report.add(f"cp -r, sync -f / {name}", measure.ratios(figures["cp -r, sync -f"], figures[name]), "x")
        report.add(f"{name}: bytes of the store / of the tree", shares[name], "", at_most=0.25)
    report.print(as_json=arguments.json)


def _make_home(
    place: Path, home: Path, write: Callable[[Path, int, int], None], names: int, versions: int, size: int
) -> None:
    peer_store = _peer_store(home)
    bentoml = measure.bento()
    scratch = place / "scratch"
    for name in range(names):
        chance = random.Random(name)
        write(scratch, size, name)
        data = bytearray(scratch.read_bytes())
        scratch.unlink()
        header = 8 + int.from_bytes(data[:8], "little") if write is measure.write_safetensors else 0
        for version in range(versions):
            if version:
                changed = int(len(data) * CHANGED_SHARE)
                start = chance.randrange(header, len(data) - changed)
                data[start : start + changed] = chance.randbytes(changed)
            labels = {"stage": "dev"}
            with bentoml.models.create(f"name{name}:v{version:02}", labels=labels, _model_store=peer_store) as model:
                Path(model.path_of("weights")).write_bytes(data)


def _peer_store(home: Path) -> Any:
    measure.bento()
    from bentoml._internal.models.model import ModelStore

    (home / "models").mkdir(parents=True)
    return ModelStore(home / "models")


def _warm(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            measure.read_through(path)


if __name__ == "__main__":
    main()
