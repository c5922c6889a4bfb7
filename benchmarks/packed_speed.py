"""How fast are packing and opening a packed version, beside programs that make a store small when they save?

    python benchmarks/packed_speed.py CHECKPOINTS [--sets SET ...] [--rounds N] [--dir DIR]

Method: every set is measured by itself, all parts of a round in turns, and ratios are taken within a round. All
programs run as processes with their defaults (peers.py), so small sets show start-up as well: what that is stands in
a table of its own. finetune-bf16 has 221 MB in five versions; finetune-fp32 and adam are two and five times as large.

Packing: "casstore save" saves all versions, "casstore gc --evict-all" then makes deltas of them and takes the
directories away. borg and restic do both at once: one archive or snapshot a version, in a repository that was made
before. These all fsync what they write. BentoML copies, with `sync -f` after it and without.
The files are in the page cache before.

Opening: each version of a packed store is opened cold, by `casstore path` against `borg extract`, `restic restore`
and `cp -r` of the same files, all followed by `sync -f`. Cold: before each, everything in the page cache that is clean
is dropped, directories and inodes too (as root, by /proc/sys/vm/drop_caches, which slows down whatever else
runs; else file by file with posix_fadvise). Then the same program opens a version of a tiny repository of its own, so
that code is not read from the disk in what is timed. After each, what was opened goes away again
(`gc --evict-all`). The newest version of casstore is at the end of the longest chain; the mean is over all versions.

Targets: gc faster than `borg create`; opening at least twice as fast as `borg extract` and `restic restore`, and in at
most three times the time of `cp -r`.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import measure
import peers

SETS = ("finetune-bf16", "contrastive-bf16", "finetune-fp32", "adam")
OPENERS = (peers.Casstore, peers.Borg, peers.Restic, peers.Copies)
STARTERS = (peers.Casstore, peers.Borg, peers.Restic, peers.BentoML, peers.Copies)
TINY_BYTES = 256 * measure.KIB


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--skip", choices=("packing", "opening"), help="leave out one of the two")
    arguments = parser.parse_args()
    peers.require(*STARTERS)
    with measure.workplace(arguments.dir) as place:
        print(measure.machine(place), end="\n\n")
        start_up(arguments.rounds, place)
        for name in arguments.sets:
            paths = peers.versions(arguments.checkpoints / name)
            if arguments.skip != "packing":
                packing(paths, arguments.rounds, place)
            if arguments.skip != "opening":
                opening(paths, arguments.rounds, place)


def start_up(rounds: int, place: Path) -> None:
    made = [kind(place / kind.name) for kind in STARTERS]
    for peer in made:
        peer.start()
    figures = measure.in_turns(rounds, {peer.name: partial(measure.seconds, peer.start) for peer in made})
    rows = [[f"`{_shown(peer)}`", measure.spread(figures[peer.name], ".3f")] for peer in made]
    measure.print_markdown("Start-up alone", ["", "s"], rows)
    for peer in made:
        measure.remove(peer.place)


def _shown(peer: peers.Peer) -> str:
    command = "casstore --version" if isinstance(peer, peers.Casstore) else " ".join(peer.START)
    return command.replace(sys.executable, "python")


def packing(paths: list[Path], rounds: int, place: Path) -> None:
    """All versions of one set, saved and packed."""
    raw = peers.version_bytes(paths)
    casstore: list[peers.Casstore] = []

    def save(kind: type[peers.Peer], *, sync: bool = False, keep: bool = False) -> float:
        for path in paths:
            for file in path.iterdir():
                measure.read_through(file)
        peer = kind(place / "peer")
        # What is dirty from before must not be written during this.
        os.sync()

        def all_versions() -> None:
            for path in paths:
                peer.save(path.name, path)
            if sync:
                peer.run("sync", "-f", peer.repository)

        taken = measure.seconds(all_versions)
        if keep:
            casstore.append(peer)
        else:
            measure.remove(peer.place)
        return taken

    def pack() -> float:
        peer = casstore.pop()
        os.sync()
        taken = measure.seconds(peer.pack)
        measure.remove(peer.place)
        return taken

    saved, packed, borg = "casstore save", "casstore gc --evict-all", "borg create"
    figures = measure.in_turns(
        rounds,
        {
            saved: partial(save, peers.Casstore, keep=True),
            packed: pack,
            borg: partial(save, peers.Borg),
            "restic backup": partial(save, peers.Restic),
            "BentoML and `sync -f`": partial(save, peers.BentoML, sync=True),
            "BentoML, not synced": partial(save, peers.BentoML),
        },
    )
    both = "casstore, save and gc"
    figures[both] = [first + second for first, second in zip(figures[saved], figures[packed], strict=True)]
    rows = [
        [
            name, measure.spread(taken), measure.spread([raw / each / 1e6 for each in taken], ".0f"),
            measure.spread(measure.ratios(figures[borg], taken)),
        ]
        for name, taken in figures.items()
    ]  # fmt: skip
    title = f"Packing {paths[0].parent.name}: {len(paths)} versions, {raw / 1e6:.0f} MB; load {os.getloadavg()[0]:.1f}"
    measure.print_markdown(title, ["", "s", "MB/s of raw bytes", "times as fast as `borg create`"], rows)


def opening(paths: list[Path], rounds: int, place: Path) -> None:
    """Every version of one set, opened cold."""
    with Cold(OPENERS, place / "tiny") as cold:
        repositories = [kind(place / kind.name) for kind in OPENERS]
        for peer in repositories:
            for path in paths:
                peer.save(path.name, path)
            peer.pack()
        figures = measure.in_turns(
            rounds,
            {
                f"{peer.name} {path.name}": partial(cold.seconds_to_open, peer, path.name)
                for path in paths
                for peer in repositories
            },
        )
    newest, everything = paths[-1], [path.name for path in paths]
    rows = []
    for peer in repositories:
        of_newest = figures[f"{peer.name} {newest.name}"]
        of_all = _means(figures, peer.name, everything)
        ours_newest, ours_all = figures[f"casstore {newest.name}"], _means(figures, "casstore", everything)
        rows.append([
            peer.name,
            measure.spread(of_newest),
            measure.spread([peers.version_bytes([newest]) / each / 1e6 for each in of_newest], ".0f"),
            measure.spread(measure.ratios(of_newest, ours_newest)),
            measure.spread([peers.version_bytes(paths) / len(paths) / each / 1e6 for each in of_all], ".0f"),
            measure.spread(measure.ratios(of_all, ours_all)),
        ])  # fmt: skip
        measure.remove(peer.place)
    title = f"Opening {paths[0].parent.name} cold: {len(paths)} versions; load {os.getloadavg()[0]:.1f}"
    header = ["", "newest, s", "MB/s", "times casstore's time", "mean of all, MB/s", "times casstore's time"]
    measure.print_markdown(title, header, rows)


def _means(figures: Mapping[str, list[float]], name: str, versions: list[str]) -> list[float]:
    """For each round, the mean over all versions."""
    rounds = zip(*(figures[f"{name} {version}"] for version in versions), strict=True)
    return [statistics.fmean(each) for each in rounds]


class Cold:
    """Opens versions with nothing of their repository in memory, but the program's code.

    A context manager: it keeps a tiny repository for each kind of peer below `place`.
    """

    def __init__(self, kinds: tuple[type[peers.Peer], ...], place: Path) -> None:
        self.place = place
        source = place / "source"
        source.mkdir(parents=True)
        self.tiny = {kind.name: kind(place / kind.name) for kind in kinds}
        for version in ("v1", "v2"):
            # The second is a delta, so that all code for these is used.
            measure.write_weights(source / "model.safetensors", TINY_BYTES, changed=version == "v2")
            for peer in self.tiny.values():
                peer.save(version, source)
            (source / "model.safetensors").unlink()
        for peer in self.tiny.values():
            peer.pack()

    def seconds_to_open(self, peer: peers.Peer, version: str) -> float:
        """Until the directory is on the disk."""
        measure.forget([peer.place])
        tiny = self.tiny[peer.name]
        tiny.run("sync", "-f", tiny.open("v2"))
        tiny.close()
        os.sync()
        taken = measure.seconds(lambda: peer.run("sync", "-f", peer.open(version)))
        peer.close()
        return taken

    def __enter__(self) -> Cold:
        return self

    def __exit__(self, *_: object) -> None:
        measure.remove(self.place)


if __name__ == "__main__":
    main()
