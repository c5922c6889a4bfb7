"""What share of real checkpoints' bytes does a packed store take, beside other stores and beside the entropy?

    python benchmarks/stored_share.py CHECKPOINTS [--sets SET ...] [--peers borg restic ...] [--dir DIR]

Method: CHECKPOINTS is a directory made by checkpoints.py. All versions of a set are saved in order into an empty
repository of each program, in casstore's case followed by `casstore gc --evict-all`. All files of the repository
count, the catalog too, by their size (not by blocks), as a share of the raw bytes of all versions. casync's store gets
its directories, one for each few chunks, for nothing. Programs run as peers.py says.

Yardstick: the first version as casstore stores it alone, plus the entropy of the differences of the others
(delta_entropy.py), as a share of all raw bytes. "Deltas" is what casstore takes for versions after the first,
beside that entropy, both as a share of the raw bytes of these versions.

Targets: the shares in TARGETS, and below every peer in every set.
"""

from __future__ import annotations

import sys
from pathlib import Path

import delta_entropy
import measure
import peers

TARGETS = {
    "contrastive-bf16": 0.21, "contrastive-fp32": 0.425, "contrastive-adam": 0.44, "last-layer-bf16": 0.15,
    "rows-added-bf16": 0.175, "resharded-bf16": 0.23, "lora-bf16": 0.185, "single-bf16": 0.68,
}  # fmt: skip
KINDS = {
    "borg": peers.Borg,
    "restic": peers.Restic,
    "restic-max": peers.ResticMax,
    "casync": peers.Casync,
    "bentoml": peers.BentoML,
}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=delta_entropy.SETS)
    parser.add_argument("--peers", nargs="*", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    kinds = [peers.Casstore, *(KINDS[name] for name in arguments.peers)]
    peers.require(*kinds)
    rows = []
    with measure.workplace(arguments.dir) as place:
        print(measure.machine(place), end="\n\n")
        for name in arguments.sets:
            paths = peers.versions(arguments.checkpoints / name)
            raw, raw_after_first = peers.version_bytes(paths), peers.version_bytes(paths[1:])
            stored = [stored_bytes(kind, paths, place) for kind in kinds]
            first = stored_bytes(peers.Casstore, paths[:1], place)
            shares = delta_entropy.version_shares(paths)
            entropy = sum(share * peers.version_bytes([path]) for share, path in zip(shares, paths[1:], strict=True))
            rows.append([
                f"{name}, {len(paths)} versions", f"{TARGETS.get(name, '')}", *(f"{size / raw:.4f}" for size in stored),
                f"{(first + entropy) / raw:.3f}",
                *(
                    f"{size / raw_after_first:.4f}" if raw_after_first else ""
                    for size in (stored[0] - first, entropy)
                ),
            ])  # fmt: skip
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ["", "target", *(kind.name for kind in kinds), "yardstick", "deltas", "their entropy"]
    measure.print_markdown("Stored bytes, as a share of raw bytes", header, rows)


def stored_bytes(kind: type[peers.Peer], paths: list[Path], place: Path) -> int:
    peer = kind(place / "peer")
    for path in paths:
        print(f"\r{kind.name}: {path.parent.name} {path.name:20}", end="\r", file=sys.stderr, flush=True)
        peer.save(path.name, path)
    peer.pack()
    size = peer.stored_bytes()
    measure.remove(peer.place)
    return size


if __name__ == "__main__":
    main()
