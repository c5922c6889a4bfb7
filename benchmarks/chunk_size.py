"""Which average and minimum chunk size of FastCDC share most, and what do smaller ones cost?

    python benchmarks/chunk_size.py CHECKPOINTS [--dir DIR] [--rounds N]

Method: CHECKPOINTS is a directory made by checkpoints.py. Every version becomes one opaque file, a tar: its format
is hidden, and tensors stand elsewhere than in the version before. All versions of a set are cut by FastCDC at
several averages and minimums (maximum 1 MiB, normalized), and by their formats' own grid for
comparison. Reported: unique bytes as a share of raw bytes, chunks, speed. "Net" adds 150 bytes for each unique
chunk: its catalog row and its place in a recipe.
"""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import measure

from casstore.digest import Digest
from casstore.storage import chunking
from casstore.storage.recipe import Recipe

SIZES_KIB = ((64, 16), (64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64))
"""(average, minimum). Nothing below the minimum is looked at, so a chunk's mean length is above the average."""
SETS = ("adam", "last-layer-bf16", "rows-added-bf16", "resharded-bf16", "lora-bf16")
ROW_BYTES = 150


def main() -> None:
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="SET")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        report = measure.Report("FastCDC by average chunk size, on opaque versions of real checkpoints", place)
        for name in arguments.sets:
            originals = sorted(path for path in (arguments.checkpoints / name).rglob("*") if path.is_file())
            opaque = pack(arguments.checkpoints / name, place)
            raw_bytes = sum(path.stat().st_size for path in opaque)
            for average_kib, minimum_kib in SIZES_KIB:
                chunking.FASTCDC_AVERAGE_BYTES = average_kib * measure.KIB
                chunking.FASTCDC_MINIMUM_BYTES = minimum_kib * measure.KIB
                rates: list[float] = []
                unique: dict[Digest, int] = {}
                for _ in range(arguments.rounds):
                    started = time.perf_counter()
                    recipes = [scan(path) for path in opaque]
                    rates.append(raw_bytes / measure.GB / (time.perf_counter() - started))
                    unique = unique_chunks(recipes)
                unique_bytes = sum(unique.values())
                row = f"{name}: {average_kib}/{minimum_kib} KiB: "
                report.add(row + "unique share", [unique_bytes / raw_bytes], "")
                report.add(row + "net share", [(unique_bytes + ROW_BYTES * len(unique)) / raw_bytes], "")
                report.add(row + "unique chunks", [len(unique)], "")
                report.add(row + "speed", rates, "GB/s")
            known = sum(unique_chunks([scan(path) for path in originals]).values())
            report.add(f"{name}: by format: unique share", [known / sum(p.stat().st_size for p in originals)], "")
            for path in opaque:
                path.unlink()
    report.print(as_json=arguments.json)


def pack(directory: Path, place: Path) -> list[Path]:
    """A tar of each version."""
    made = []
    for version in sorted(directory.iterdir()):
        target = place / f"{directory.name}-{version.name}.tar"
        with tarfile.open(target, "w") as tar:
            for path in sorted(version.iterdir()):
                tar.add(path, path.name)
        made.append(target)
    return made


def scan(path: Path) -> Recipe:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return chunking.scan_file(descriptor)
    finally:
        os.close(descriptor)


def unique_chunks(recipes: list[Recipe]) -> dict[Digest, int]:
    """The length of every distinct chunk."""
    return {chunk.digest: chunk.length for recipe in recipes for chunk in recipe.chunks()}


if __name__ == "__main__":
    main()
