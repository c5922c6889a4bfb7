"""How small can the differences between two versions get, at best?

    python benchmarks/delta_entropy.py CHECKPOINTS [--sets SET ...] [--coders]

Method: tensors of the same name and dtype are compared with the version before, as integers of their bit patterns.
Counted is the order-0 entropy of the differences, tensor by tensor, given the exponent of the older value: what
a coder could reach that knows the distributions, with no cost for telling them. Pieces of 1 MiB that did not change
count as nothing; pieces without a counterpart (a tensor that is new or has grown) count whole.

Of a difference, the eight leading bits and their place are the symbol, and the bits below count as they are. For
bf16 that is nearly always the whole difference. In fp32, where most values occur once, an entropy of
whole differences would measure how few samples there are: log2 of a tensor's size is all that it could show.

A yardstick, and no bound: a coder that looks at neighbours, at optimizer state or at two versions may go below it.

With `--coders`, how far some would, from the third version on:

- "two versions": differences from last + beta * (last - before), of the beta in BETAS that suits the tensor best
- "link": given, besides the exponent, the element's difference one version earlier: its sign and its bits' number
- "near": given, besides the exponent, how many bits the 16 differences before it in the tensor have on average
- "both": given all of these
- "both, two versions": and the differences those from the best prediction

Each count of a symbol in a context is taken to cost half of log2 of the context's size to learn, or else more contexts
would always look better. That is in "exponent" too, which is what the rest is compared with.
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
BETAS = (0.25, 0.5, 0.75, 1.0)
NEAR = 16


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


def coded_bytes(contexts: Array, symbols: Array) -> float:
    """The entropy of the symbols given their contexts, and what it takes to learn the counts."""
    keys, counts = np.unique((contexts.astype(np.int64) << SYMBOL_BITS) | symbols, return_counts=True)
    _, first, number = np.unique(keys >> SYMBOL_BITS, return_index=True, return_inverse=True)
    sizes = np.add.reduceat(counts, first)
    bits = (counts * np.log2(sizes[number] / counts)).sum()
    learning = 0.5 * (np.log2(sizes) * (np.diff(np.append(first, len(keys))) - 1)).sum()
    return float(bits + learning) / 8


def _bit_lengths(values: Array) -> Array:
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


def coder_bytes(before: Array, last: Array, new: Array, shift: int, mask: int) -> dict[str, float]:
    """What each coder makes of a tensor, of which three versions are known, the newest to be coded."""
    signed = np.dtype(f"<i{new.itemsize}")
    moved = (last - before).view(signed)
    exponents = ((last >> shift) & mask).astype(np.int64)

    def coded(base: Array, *contexts: Array) -> float:
        keys, below = _symbols(base, new, shift, mask)
        joint = exponents
        for context in contexts:
            joint = joint * 64 + context
        return coded_bytes(joint, keys & ((1 << SYMBOL_BITS) - 1)) + below / 8

    lengths = _bit_lengths((new - last).view(signed))
    sums = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(len(new))
    begins = np.maximum(places - NEAR, 0)
    near = (2 * (sums[places] - sums[begins])) // np.maximum(places - begins, 1)
    link = np.sign(moved) * np.minimum(_bit_lengths(moved), 30) + 31
    predicted = [last, *(last + np.rint(beta * moved).astype(signed).view(last.dtype) for beta in BETAS)]
    alone = [coded(base) for base in predicted]
    best = predicted[int(np.argmin(alone))]
    return {
        "exponent": alone[0],
        "two versions": min(alone),
        "link": coded(last, link),
        "near": coded(last, near),
        "both": coded(last, link, near),
        "both, two versions": coded(best, link, near),
    }


def coders(paths: list[Path]) -> dict[str, float]:
    """The bytes of all tensors that changed, by coder; "raw" is what they take as they stand."""
    total: dict[str, float] = {}
    before, last = tensors(paths[0]), tensors(paths[1])
    for path in paths[2:]:
        new = tensors(path)
        for name, (dtype, values) in new.items():
            same = [version[name][1] for version in (before, last) if name in version]
            is_known = len(same) == 2 and all(each.shape == values.shape for each in same)
            if dtype in EXPONENTS and is_known and not np.array_equal(same[1], values):
                found = coder_bytes(*same, values, *EXPONENTS[dtype][1:]) | {"raw": float(values.nbytes)}
                total = {each: total.get(each, 0.0) + size for each, size in found.items()}
        before, last = last, new
    return total


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--coders", action="store_true")
    arguments = parser.parse_args()
    rows = []
    if arguments.coders:
        for name in arguments.sets:
            total = coders(peers.versions(arguments.checkpoints / name))
            raw, start = total.pop("raw"), total["exponent"]
            cells = [f"{size / raw:.4f} ({100 * (size / start - 1):+.1f}%)" for size in total.values()]
            rows.append([name, *cells])
        measure.print_markdown("What coders would make of changed tensors, as a share of them", ["", *total], rows)
        return
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
