"""How long do a first and a later backup take, beside `cp -a` and `rsync -a` of the same store?

    python benchmarks/backup.py [--dir DIR] [--target DIR] [--rounds N]

Method: a store of 20 versions of 50 MiB that are packed, and one that has a directory. In turns, each copies it to a
new place: casstore with `copy`, and without, which links where `--target` is on the store's file system; `cp -a` and
`rsync -a`, if it is installed, followed by an fsync of what they have written, as casstore syncs. They may do so only
because nobody uses the store. Then a version more is saved each round, and copies that can be
are brought up to date.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import measure

import casstore

VERSIONS = 20


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=50, help="size of each version")
    parser.add_argument("--target", type=Path, help="where the copies go, such as another disk (default: as --dir)")
    arguments = parser.parse_args()
    with (
        measure.workplace(arguments.dir) as place,
        measure.workplace(arguments.target or arguments.dir) as there,
        casstore.Store(place / "store", auto_gc=False) as store,
    ):
        for number in range(VERSIONS):
            save(store, place, arguments.mib, number)
        store.gc(evict_all=True)
        save(store, place, arguments.mib, VERSIONS)
        report = measure.Report(f"Backups of {VERSIONS + 1} versions of {arguments.mib} MiB", place)
        turns(report, store, place, there, arguments)
    report.print(as_json=arguments.json)


def turns(report: measure.Report, store: casstore.Store, place: Path, there: Path, arguments: object) -> None:
    rounds, mib = arguments.rounds, arguments.mib  # type: ignore[attr-defined]
    fresh = itertools.count()
    numbers = itertools.count(VERSIONS + 1)
    kept = {name: there / f"kept-{name}" for name in ("casstore", "linked", "rsync")}

    def copying(*command: str) -> measure.Part:
        def run() -> float:
            target = there / f"new-{next(fresh)}"

            def work() -> None:
                subprocess.run([*command, f"{store.home}/", f"{target}/"], check=True)
                measure.sync_tree(target)

            taken = measure.seconds(work)
            measure.remove(target)
            return taken

        return run

    def backing_up(*, copy: bool) -> measure.Part:
        def run() -> float:
            target = there / f"new-{next(fresh)}"
            taken = measure.seconds(lambda: store.backup(target, copy=copy))
            measure.remove(target)
            return taken

        return run

    def rsync_again() -> float:
        def work() -> None:
            subprocess.run(["rsync", "-a", "--delete", f"{store.home}/", f"{kept['rsync']}/"], check=True)
            measure.sync_tree(kept["rsync"])

        return measure.seconds(work)

    def back_up_again() -> float:
        save(store, place, mib, next(numbers))  # once a round: rsync, which comes later, finds the same one new
        return measure.seconds(lambda: store.backup(kept["casstore"], copy=True))

    has_rsync = shutil.which("rsync") is not None
    first = {
        "casstore backup --copy": backing_up(copy=True),
        "casstore backup": backing_up(copy=False),
        "cp -a, fsync": copying("cp", "-a"),
    }
    again: dict[str, measure.Part] = {
        "again: casstore backup --copy": back_up_again,
        "again: casstore backup": lambda: measure.seconds(lambda: store.backup(kept["linked"])),
    }
    if has_rsync:
        first["rsync -a, fsync"] = copying("rsync", "-a")
        again["again: rsync -a --delete, fsync"] = rsync_again
        rsync_again()
    store.backup(kept["casstore"], copy=True)
    store.backup(kept["linked"])
    figures = measure.in_turns(rounds, first) | measure.in_turns(rounds, again)
    for name, taken in figures.items():
        report.add(name, taken, "s")
    report.add(
        "cp -a / backup --copy", measure.ratios(figures["cp -a, fsync"], figures["casstore backup --copy"]), "times"
    )
    report.add("stored", [store.stats().stored_bytes / 1e6], "MB")


def save(store: casstore.Store, place: Path, mib: int, number: int) -> None:
    source = place / "source"
    source.mkdir()
    measure.write_random(source / "model.bin", mib * measure.MIB, number)
    store.save("m", source, move=True)
    measure.remove(source)


if __name__ == "__main__":
    main()
