"""How fast are weights loaded without files, beside safetensors' own loading of a plain file?

    python benchmarks/loading.py [--dir DIR] [--rounds N] [--mib N] [--tensors N]

Needs torch and safetensors. Method: a version is one safetensors file of bf16 weights (normal, 0.02 wide), and the
second has all of them moved a little. casstore packs both with nothing but packs left: the first whole, the second as
deltas. Beside them a store keeps the first as it was saved, as a loose file. Everything happens in one process that has
imported torch and loaded a small file before; each figure is taken in turns with the others, its ratio within a round.

load_file: `safetensors.torch.load_file` of the plain file and a clone of each tensor, so that all of it has been read.
cold: before each, everything in the page cache that is clean is dropped (as root; else file by file).
one tensor: `store.get(tag).tensor(name, "torch")` of a tensor of the middle, in a store that has just been opened.
plan: `store.get(tag).tensors()`, likewise.

Targets: cold, deltas at least 0.7 of the speed of load_file, no deltas 1.0; one tensor 30 ms.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import measure

import casstore

WHOLE, DELTA, LOOSE = "no deltas, packed", "deltas", "as it was saved"


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=1600, help="how large the file is")
    parser.add_argument("--tensors", type=int, default=200)
    arguments = parser.parse_args()
    try:
        import torch  # noqa: F401 - not to be imported while the clock runs
        from safetensors.torch import load_file
    except ImportError as error:
        sys.exit(f"{error}\npip install torch safetensors")

    def plain(path: Path) -> float:
        return measure.seconds(lambda: {name: each.clone() for name, each in load_file(path).items()})

    with measure.workplace(arguments.dir) as place:
        report = measure.Report("Loading weights", place)
        file, places = prepared(place, arguments.mib * measure.MIB, arguments.tensors)

        def cold(part: measure.Part) -> float:
            measure.forget([place])
            return part()

        loads: dict[str, measure.Part] = {name: partial(load, *where) for name, where in places.items()}
        loads["load_file"] = partial(plain, file)
        for load_once in loads.values():
            load_once()
        figures = measure.in_turns(arguments.rounds, {name: partial(cold, part) for name, part in loads.items()})
        warm = measure.in_turns(arguments.rounds, loads)
        for name in places:
            target = 0.7 if name == DELTA else 1.0
            report.add(f"cold, {name}", figures[name], "s")
            ratio = measure.ratios(figures["load_file"], figures[name])
            report.add(f"cold, {name}: of load_file's speed", ratio, "times", at_least=target)
            report.add(f"warm, {name}: of load_file's speed", measure.ratios(warm["load_file"], warm[name]), "times")
        report.add("cold, load_file and clones", figures["load_file"], "s")
        report.add("warm, load_file and clones", warm["load_file"], "s")
        for name, (home, tag) in places.items():
            for what, part in (("one tensor", one), ("plan", plan)):
                taken = [1000 * part(home, tag) for _ in range(5 * arguments.rounds)]
                at_most = 30 if what == "one tensor" else None
                report.add(f"{what}, {name}", taken, "ms", at_most=at_most)
            taken = [1000 * cold(partial(one, home, tag)) for _ in range(arguments.rounds)]
            report.add(f"one tensor, cold, {name}", taken, "ms")
        report.print(as_json=arguments.json)


def prepared(place: Path, size: int, tensors: int) -> tuple[Path, dict[str, tuple[Path, str]]]:
    """The plain file, and where its versions are."""
    packed, loose = place / "packed", place / "loose"
    plain = place / "plain.safetensors"
    measure.write_weights(plain, size, changed=False, tensors=tensors)
    source = place / "source"
    source.mkdir()
    with casstore.Store(packed, auto_gc=False) as store:
        for number in (1, 2):
            measure.write_weights(source / "model.safetensors", size, changed=number == 2, tensors=tensors)
            store.save(f"m:{number}", source)
            (source / "model.safetensors").unlink()
        store.gc(evict_all=True)
    with casstore.Store(loose, auto_gc=False) as store:
        measure.write_weights(source / "model.safetensors", size, changed=False, tensors=tensors)
        store.save("m:1", source)
    measure.remove(source)
    return plain, {WHOLE: (packed, "m:1"), DELTA: (packed, "m:2"), LOOSE: (loose, "m:1")}


def load(home: Path, tag: str) -> float:
    """All of a version, in a store that has just been opened."""
    with casstore.Store(home, auto_gc=False) as store:
        return measure.seconds(lambda: store.get(tag).state_dict(framework="torch"))


def one(home: Path, tag: str) -> float:
    """One tensor of the middle."""
    with casstore.Store(home, auto_gc=False) as store:
        names = [each.name for each in store.get(tag).tensors()]
        return measure.seconds(lambda: store.get(tag).tensor(names[len(names) // 2], "torch"))


def plan(home: Path, tag: str) -> float:
    """Which tensors there are."""
    with casstore.Store(home, auto_gc=False) as store:
        return measure.seconds(lambda: store.get(tag).tensors())


if __name__ == "__main__":
    main()
