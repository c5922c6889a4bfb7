"""What share of real checkpoints' bytes is left when what repeats is kept once?

    python benchmarks/unique_bytes.py CHECKPOINTS [--dir DIR]

Method: CHECKPOINTS is a directory made by checkpoints.py. All versions of a set are saved into an empty store in
order, and the store's own figures are read: unique bytes (distinct chunks, raw) as a share of raw bytes (what plain
copies take). "Ideal" is the same over whole tensors and files, found by hashing them without any store: what no
cutting on tensor borders can beat unless tensors themselves grow. For a vocabulary that grows it does.
"""

from __future__ import annotations

import json
from pathlib import Path

import measure

import casstore
from casstore.digest import Digest

TARGETS = {"last-layer-bf16": 0.27, "rows-added-bf16": 0.265, "resharded-bf16": 0.34, "lora-bf16": 0.315}
OTHERS = ("finetune-bf16", "finetune-fp16", "finetune-fp32", "adam")


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    arguments = parser.parse_args()
    names = [name for name in (*TARGETS, *OTHERS) if (arguments.checkpoints / name).is_dir()]
    with measure.workplace(arguments.dir) as place:
        report = measure.Report("Unique bytes of all versions, as a share of raw bytes", place)
        for name in names:
            versions = sorted((arguments.checkpoints / name).iterdir())
            home = place / name
            with casstore.Store(home) as store:
                for version in versions:
                    store.save(f"{name}:{version.name}", version, durability="relaxed")
                usage = store.stats()
            raw = usage.logical_bytes
            files = [path for path in (arguments.checkpoints / name).rglob("*") if path.is_file()]
            assert raw == sum(path.stat().st_size for path in files)
            report.add(
                f"{name}, {len(versions)} versions", [usage.unique_bytes / raw], "share", at_most=TARGETS.get(name)
            )
            report.add(f"{name}, ideal", [ideal(files) / raw], "share")
            report.add(f"{name}, catalog", [(home / "catalog.db").stat().st_size / raw], "share")
            measure.remove(home)
    report.print(as_json=arguments.json)


def ideal(files: list[Path]) -> int:
    """Bytes of all distinct tensors, and of all distinct files that hold none."""
    distinct: dict[Digest, int] = {}
    for path in files:
        data = memoryview(path.read_bytes())
        pieces = [data]
        if path.suffix == ".safetensors":
            start = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(bytes(data[8:start]))
            header.pop("__metadata__", None)
            spans = [tensor["data_offsets"] for tensor in header.values()]
            pieces = [data[:start], *(data[start + begin : start + end] for begin, end in spans)]
        for piece in pieces:
            distinct[Digest.of(piece)] = len(piece)
    return sum(distinct.values())


if __name__ == "__main__":
    main()
