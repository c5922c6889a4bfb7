"""What share do PyTorch's distributed checkpoints take, beside the same tensors as safetensors?

    python benchmarks/dcp.py [--versions N] [--dir DIR]

Two processes hold a state dict of BF16 weights, sharded by rows (DTensor, gloo), and save it with
`torch.distributed.checkpoint` after each update: a small one of every weight, of a size that differs by weight, as an
optimizer makes. The same local shards are written as one safetensors file for each rank. Each kind is saved in order
into a store of its own, then `gc` with `evict_all`; all files of the store count.

Needs torch and safetensors. Target: at most 1.1 times what the safetensors take.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import measure

import casstore

RANKS, LAYERS, SIZE = 2, 6, 1024
TARGET = 1.1


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=4)
    arguments = parser.parse_args()
    import torch.multiprocessing

    with measure.workplace(arguments.dir) as place:
        print(measure.machine(place), end="\n\n")
        torch.multiprocessing.spawn(_train, (place, arguments.versions), RANKS)
        rows, stored = [], {}
        for kind in ("safetensors", "dcp"):
            versions = sorted((place / kind).iterdir())
            stored[kind] = _stored(place / f"store-{kind}", versions)
            raw = sum(_bytes(version) for version in versions)
            rows.append([kind, f"{raw:,}", f"{stored[kind]:,}", f"{stored[kind] / raw:.4f}"])
        measure.print_markdown(f"{arguments.versions} versions", ["", "raw bytes", "stored", "share"], rows)
        ratio = stored["dcp"] / stored["safetensors"]
        print(f"\ndcp beside safetensors: {ratio:.3f} (target: at most {TARGET})")
        sys.exit(ratio > TARGET)


def _train(rank: int, place: Path, versions: int) -> None:
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file
    from torch.distributed.tensor import DTensor, Shard

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{place / 'rendezvous'}", rank=rank, world_size=RANKS)
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    random = torch.Generator().manual_seed(rank)
    shapes = {"attention": (SIZE, SIZE), "mlp": (2 * SIZE, SIZE), "norm": (SIZE,)}
    state = {
        f"layers.{layer}.{name}.weight": torch.randn(shape[0] // RANKS, *shape[1:], generator=random) * 0.02
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    }
    for version in range(versions):
        local = {name: weight.bfloat16() for name, weight in state.items()}
        sharded = {name: DTensor.from_local(weight, mesh, [Shard(0)]) for name, weight in local.items()}
        dcp.save(sharded, checkpoint_id=place / "dcp" / f"v{version}")
        (place / "safetensors" / f"v{version}").mkdir(parents=True, exist_ok=True)
        save_file(local, place / "safetensors" / f"v{version}" / f"rank-{rank}.safetensors")
        for weight in state.values():
            weight += torch.randn(weight.shape, generator=random) * weight.abs() * 2e-3
    dist.barrier()
    dist.destroy_process_group()


def _stored(home: Path, versions: list[Path]) -> int:
    with casstore.Store(home) as store:
        for version in versions:
            store.save(f"run:{version.name}", version)
        store.gc(evict_all=True)
    return _bytes(home)


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
