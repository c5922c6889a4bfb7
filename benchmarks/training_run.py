"""What do 100 checkpoints of one training run take, and how long does it take to open any of them?

    python benchmarks/training_run.py RUN [--sample N] [--peer-sample N] [--direct] [--dir DIR]

Method: RUN is a set of one version a step, as `checkpoints.py --only run-bf16` makes it. Every version is saved by
`casstore save`, then `casstore gc --evict-all` packs all of them. With --direct a second store gets the versions by
`create(..., materialize=False)`, which encodes straight into packs. borg gets one archive a version.
Then every version is opened cold, as in packed_speed.py, by `casstore path` and `sync -f`; ten of them, evenly spread
with the last among them, also by `borg extract` and `sync -f`, in turns. One round: the spread is over versions.

"Links" are how many deltas are undone to read a chunk, as the catalog says; the mean is over raw bytes of all chunks.

Targets: stored at most 0.06 of raw, and the slowest version opens at least as fast as borg extracts it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import sys
from pathlib import Path

import measure
import packed_speed
import peers

import casstore


class Direct(peers.Casstore):
    name = "casstore, direct"

    def save(self, version: str, source: Path) -> None:
        with (
            casstore.Store(self.repository) as store,
            store.create(f"model:{version}", materialize=False) as draft,
        ):
            shutil.copytree(source, draft.path, dirs_exist_ok=True)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sample", type=int, help="open only so many versions (default: all)")
    parser.add_argument("--peer-sample", type=int, default=10, help="how many versions the peer extracts")
    parser.add_argument("--direct", action="store_true", help="also a store that was written with materialize=False")
    arguments = parser.parse_args()
    kinds = (peers.Casstore, *((Direct,) if arguments.direct else ()), peers.Borg)
    peers.require(*kinds)
    paths = peers.versions(arguments.run)
    raw = peers.version_bytes(paths)
    with measure.workplace(arguments.dir) as place, packed_speed.Cold(kinds, place / "tiny") as cold:
        print(measure.machine(place), end="\n\n")
        rows = []
        repositories = []
        for kind in kinds:
            peer = kind(place / kind.name)
            repositories.append(peer)
            saved_s = measure.seconds(lambda peer=peer: save_all(peer, paths))
            packed_s = measure.seconds(peer.pack)
            rows.append([
                peer.name, f"{peer.stored_bytes() / raw:.4f}", f"{saved_s:.0f}",
                f"{packed_s:.0f}" if isinstance(peer, peers.Casstore) else "", links(peer),
            ])  # fmt: skip
        measure.print_markdown(
            f"{len(paths)} versions of {paths[0].parent.name}, {raw / 1e9:.2f} GB; load {os.getloadavg()[0]:.1f}",
            ["", "stored, share of raw", "save all, s", "gc --evict-all, s", "links: mean, most"], rows,
        )  # fmt: skip

        sampled = spread_evenly(paths, arguments.sample or len(paths))
        # Only versions that casstore opens too: they are compared.
        of_peer = spread_evenly(sampled, arguments.peer_sample)
        seconds: dict[str, dict[str, float]] = {peer.name: {} for peer in repositories}
        for path in sampled:
            for peer in repositories:
                if isinstance(peer, peers.Casstore) or path in of_peer:
                    print(f"\r{peer.name}: {path.name:20}", end="\r", file=sys.stderr, flush=True)
                    seconds[peer.name][path.name] = cold.seconds_to_open(peer, path.name)
    measure.print_markdown(
        f"Opened cold, with `sync -f`; load {os.getloadavg()[0]:.1f}",
        ["", "versions", "fastest, s", "median, s", "slowest, s", "which", "median of the peer's versions, s"],
        [opened(name, found, [path.name for path in of_peer]) for name, found in seconds.items()],
    )


def save_all(peer: peers.Peer, paths: list[Path]) -> None:
    for path in paths:
        print(f"\r{peer.name}: saving {path.name:20}", end="\r", file=sys.stderr, flush=True)
        peer.save(path.name, path)


def spread_evenly(paths: list[Path], count: int) -> list[Path]:
    """`count` of these at equal distances, the last among them."""
    count = min(count, len(paths))
    return [paths[(number + 1) * len(paths) // count - 1] for number in range(count)]


def opened(name: str, found: dict[str, float], shared: list[str]) -> list[str]:
    slowest = max(found, key=lambda version: found[version])
    figures = list(found.values())
    return [
        name, str(len(found)), f"{min(figures):.2f}", f"{statistics.median(figures):.2f}", f"{found[slowest]:.2f}",
        slowest, f"{statistics.median(found[version] for version in shared):.2f}",
    ]  # fmt: skip


def links(peer: peers.Peer) -> str:
    """Read from the catalog behind casstore's back: nothing public tells."""
    if not isinstance(peer, peers.Casstore):
        return ""
    connection = sqlite3.connect(f"file:{peer.repository / 'catalog.db'}?mode=ro", uri=True)
    try:
        mean, most = connection.execute(
            "SELECT sum(depth * raw_bytes) / sum(raw_bytes * 1.0), max(depth) FROM chunk"
        ).fetchone()
    finally:
        connection.close()
    return f"{mean:.2f}, {most}"


if __name__ == "__main__":
    main()
