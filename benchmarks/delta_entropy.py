"""How small can the differences between two versions get, at best?

    python benchmarks/delta_entropy.py CHECKPOINTS [--sets SET ...]

Method: tensors of the same name and dtype are compared with the version before, as integers of their bit patterns.
Counted is the order-0 entropy of the differences, tensor by tensor, given the exponent of the older value: what
a coder could reach that knows the distributions, with no cost for telling them. Pieces of 1 MiB that did not change
count as nothing; pieces without a counterpart (a tensor that is new or has grown) count whole.

Of a difference, the eight leading bits and their place are the symbol, and the bits below count as they are. For
bf16 that is nearly always the whole difference. In fp32, where most values occur once, an entropy of
whole differences would measure how few samples there are: log2 of a tensor's size is all that it could show.

A yardstick, and no bound: a coder that looks at neighbours, at optimizer state or at two versions may go below it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import peers

SETS = (
    "finetune-bf16", "finetune-fp16", "finetune-fp32", "adam", "contrastive-bf16", "contrastive-fp32",
    "contrastive-adam", "last-layer-bf16", "lora-bf16", "rows-added-bf16", "resharded-bf16", "single-bf16",
)  # fmt: skip
Array = np.ndarray[Any, Any]
# The dtype to read as; where the exponent starts; its mask.
EXPONENTS = {"BF16": (np.dtype("<u2"), 7, 0xFF), "F16": (np.dtype("<u2"), 10, 0x1F), "F32": (np.dtype("<u4"), 23, 0xFF)}
LEADING_BITS = 8
# A symbol is 8 leading bits and up to 24 places, and so below 2**13.
SYMBOL_BITS = 13


def tensors(version: Path) -> dict[str, tuple[str, Array]]:
    """Every tensor by name: its dtype, and its bit patterns in a row. Of PyTorch files all are taken for F32."""
    found: dict[str, tuple[str, Array]] = {}
    for path in sorted(version.glob("*.safetensors")):
        data = np.fromfile(path, np.uint8)
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            found[name] = tensor["dtype"], data[start + begin : start + end].view(_dtype(tensor["dtype"]))
    for path in sorted(version.glob("*.pt")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/data/" in name:
                    found[name] = "F32", np.frombuffer(archive.read(name), _dtype("F32"))
    return found


def _dtype(name: str) -> np.dtype[Any]:
    return EXPONENTS[name][0] if name in EXPONENTS else np.dtype(np.uint8)


def entropy_bytes(base: dict[str, tuple[str, Array]], new: dict[str, tuple[str, Array]]) -> float:
    """What the tensors of `new` take when those of `base` are known."""
    total = 0.0
    for name, (dtype, values) in new.items():
        old_dtype, old = base.get(name, (dtype, values[:0]))
        changed: list[Array] = []
        for start in range(0, len(values), measure.MIB // values.itemsize):
            piece = values[start : start + measure.MIB // values.itemsize]
            before = old[start : start + len(piece)]
            if old_dtype != dtype or len(before) != len(piece) or dtype not in EXPONENTS:
                total += piece.nbytes
            elif not np.array_equal(before, piece):
                keys, bits_below = _symbols(before, piece, *EXPONENTS[dtype][1:])
                changed.append(keys)
                total += bits_below / 8
        if changed:
            counts = np.bincount(np.concatenate(changed))
            (seen,) = counts.nonzero()
            counts, exponents = counts[seen], seen >> SYMBOL_BITS
            of_exponent = np.bincount(exponents, counts)[exponents]
            total += float((counts * np.log2(of_exponent / counts)).sum()) / 8
    return total


def _symbols(before: Array, after: Array, shift: int, mask: int) -> tuple[Array, int]:
    """For each element, exponent and symbol in one number; and how many bits of all differences are not in them."""
    signed = (after - before).view(f"<i{after.itemsize}")
    zigzag = ((signed << 1) ^ (signed >> (8 * after.itemsize - 1))).view(after.dtype)
    bit_lengths = np.frexp(zigzag.astype(np.float64))[1]
    below = np.maximum(bit_lengths - LEADING_BITS, 0).astype(after.dtype)
    symbols = (below.astype(np.uint32) << LEADING_BITS) | (zigzag >> below)
    exponents = ((before >> shift) & mask).astype(np.uint32)
    return (exponents << SYMBOL_BITS) | symbols, int(below.sum(dtype=np.int64))


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        paths = peers.versions(arguments.checkpoints / name)
        shares = version_shares(paths)
        rows.append([name, *(f"{share:.4f}" for share in shares), *[""] * (4 - len(shares))])
    measure.print_markdown(
        "Entropy of the differences from the version before, as a share of the version", ["", *"2345"], rows
    )


def version_shares(paths: list[Path]) -> list[float]:
    """For every version but the first: its differences' entropy as a share of its bytes."""
    shares = []
    base = tensors(paths[0])
    for path in paths[1:]:
        new = tensors(path)
        shares.append(entropy_bytes(base, new) / peers.version_bytes([path]))
        base = new
    return shares


if __name__ == "__main__":
    main()
