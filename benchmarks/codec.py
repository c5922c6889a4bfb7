"""What do the choices in casstore's encodings gain, and how fast are they?

    python benchmarks/codec.py CHECKPOINTS [--sets SET ...] [--rounds N]

Sizes: pieces of 1 MiB of every tensor of the newest version of a set (made by checkpoints.py), each against the same
piece of the version before, in ways that differ from what casstore does in one thing each:

- "by itself": byte planes, no base
- "delta": as casstore stores it, grouped by the exponents of the start of the chain, here the first version
- "by the base": grouped by the exponents of the version before, as a delta without a chain would be
- "not grouped": one code for all elements
- "base: the first": against the first version
- "two versions": against what the two versions before predict, twice the last minus the one before, as bit patterns
- "zstd 1", "zstd 3": those levels, where casstore keeps zstd's search from finding anything
- "pcodec": groups coded by pcodec (`pip install pcodec`), an ANS coder, instead of zstd; left out without it

Shares are of raw bytes, of pieces that differ from both versions before. Pieces that are equal in two versions cost
nothing in any way.

Speed: of the pieces of the largest tensor, in turns with BLAKE3 of the same bytes, by one thread and by two. "Grouping"
is what a delta's elements are ordered by: packing makes it once for each chain, reading once for each chunk. "Decode"
starts from the encoded bytes and the bytes of the base.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import blake3
import delta_entropy
import measure
import numpy as np
import peers

from casstore.storage.coding import codec, delta, entropy
from casstore.storage.coding.plain import PlainOrder
from casstore.storage.tensors.segments import Element, element_of

try:
    import pcodec.standalone
except ImportError:
    pcodec = None

SETS = ("finetune-bf16", "contrastive-bf16", "finetune-fp16", "contrastive-fp32", "contrastive-adam")
PIECE_BYTES = 1 << 20
# Every so many pieces, so that the slow ways take minutes and not hours.
SAMPLE_EVERY = 4


class Piece(NamedTuple):
    """The same place in four versions, the newest last."""

    element: Element
    first: bytes
    before: bytes
    base: bytes
    raw: bytes


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    print(measure.machine(arguments.checkpoints), end="\n\n")
    sizes(arguments.checkpoints, arguments.sets)
    speeds(arguments.checkpoints, arguments.sets, arguments.rounds)


def pieces(directory: Path) -> Iterator[Piece]:
    paths = peers.versions(directory)
    versions = [delta_entropy.tensors(path) for path in (paths[0], *paths[-3:])]
    for name, (dtype, newest) in versions[-1].items():
        same = [version[name][1].tobytes() for version in versions if name in version]
        if len(same) == len(versions) and len({len(each) for each in same}) == 1:
            for start in range(0, newest.nbytes, PIECE_BYTES):
                yield Piece(element_of(dtype), *(each[start : start + PIECE_BYTES] for each in same))


def sizes(checkpoints: Path, sets: list[str]) -> None:
    ways: dict[str, Callable[[Piece], int]] = {
        "by itself": lambda piece: len(codec.encode(piece.raw, piece.element)[1]),
        "delta": lambda piece: delta_bytes(piece, piece.base, piece.first, piece.element),
        "by the base": lambda piece: delta_bytes(piece, piece.base, piece.base, piece.element),
        "not grouped": lambda piece: delta_bytes(piece, piece.base, piece.first, Element(piece.element.width)),
        "base: the first": lambda piece: delta_bytes(piece, piece.first, piece.first, piece.element),
        "two versions": lambda piece: delta_bytes(piece, predicted(piece), piece.first, piece.element),
        "zstd 1": at_level(1),
        "zstd 3": at_level(3),
    }
    if pcodec is not None:
        ways["pcodec"] = by_pcodec
    rows = []
    for name in sets:
        sample = [piece for piece in pieces(checkpoints / name) if piece.raw not in piece[1:4]][::SAMPLE_EVERY]
        raw = sum(len(piece.raw) for piece in sample)
        rows.append([name, *(f"{sum(map(way, sample)) / raw:.4f}" for way in ways.values())])
    measure.print_markdown("Size of the newest version, share of raw", ["", *ways], rows)


def delta_bytes(piece: Piece, base: bytes, grouping: bytes, element: Element) -> int:
    return len(delta.encode_delta(piece.raw, base, delta.Grouping(grouping, element)))


def predicted(piece: Piece) -> bytes:
    last, before = (np.frombuffer(each, f"<u{piece.element.width}") for each in (piece.base, piece.before))
    return (last + (last - before)).tobytes()


def at_level(level: int) -> Callable[[Piece], int]:
    def way(piece: Piece) -> int:
        with compressed_by(entropy.zstd.ZstdCompressor(level=level)):
            return delta_bytes(piece, piece.base, piece.first, piece.element)

    return way


@contextlib.contextmanager
def compressed_by(compressor: Any) -> Iterator[None]:
    """Another compressor in the place of casstore's own."""
    own = entropy._compressors
    entropy._compressors = lambda: {False: compressor, True: compressor}
    try:
        yield
    finally:
        entropy._compressors = own


def by_pcodec(piece: Piece) -> int:
    grouping = delta.Grouping(piece.first, piece.element)
    dtype = f"<u{piece.element.width}"
    difference = np.frombuffer(piece.raw, dtype) - np.frombuffer(piece.base, dtype)
    # It wants the middle of the range where the most are.
    order = PlainOrder(piece.first, piece.element, grouping.groups.last_keys)
    arranged = order.arrange(difference) + np.array(1 << (8 * piece.element.width - 1), dtype)
    config = pcodec.ChunkConfig(
        compression_level=8, mode_spec=pcodec.ModeSpec.classic(), delta_spec=pcodec.DeltaSpec.no_op()
    )
    ends = itertools.accumulate(grouping.group_sizes)
    groups = [arranged[end - size : end] for size, end in zip(grouping.group_sizes, ends, strict=True) if size]
    return sum(len(pcodec.standalone.simple_compress(group, config)) for group in groups)


def speeds(checkpoints: Path, sets: list[str], rounds: int) -> None:
    rows = []
    for name in sets:
        found = [piece for piece in pieces(checkpoints / name) if len(piece.raw) == PIECE_BYTES]
        found = [piece for piece in found if piece.raw not in piece[1:4]][:16]
        for title, task in tasks(found).items():
            for threads in (1, 2):
                beside = {"it": task, "BLAKE3": hash_all(found)}
                figures = measure.in_turns(
                    rounds, {each: partial(seconds, run, len(found), threads) for each, run in beside.items()}
                )
                size = sum(len(piece.raw) for piece in found) / 1e6
                rows.append([
                    name, title, str(threads), measure.spread([size / each for each in figures["it"]], ".0f"),
                    measure.spread([size / each for each in figures["BLAKE3"]], ".0f"),
                ])  # fmt: skip
    measure.print_markdown(
        "Speed, MB/s of raw bytes", ["", "", "threads", "speed", "BLAKE3 beside it, as many threads"], rows
    )


def tasks(found: list[Piece]) -> dict[str, Callable[[int], object]]:
    groupings = [delta.Grouping(piece.first, piece.element) for piece in found]
    links = [
        delta.encode_delta(piece.raw, piece.base, grouping) for piece, grouping in zip(found, groupings, strict=True)
    ]
    planes = [codec.encode(piece.raw, piece.element) for piece in found]
    return {
        "grouping": lambda n: delta.Grouping(found[n].first, found[n].element),
        "encode a delta, grouping at hand": lambda n: delta.encode_delta(found[n].raw, found[n].base, groupings[n]),
        "encode by itself": lambda n: codec.encode(found[n].raw, found[n].element),
        "decode one link": lambda n: delta.decode_deltas(found[n].base, [links[n]], found[n].first),
        "decode four links": lambda n: delta.decode_deltas(found[n].base, [links[n]] * 4, found[n].first),
        "decode by itself": lambda n: codec.decode(*planes[n], len(found[n].raw)),
    }


def hash_all(found: list[Piece]) -> Callable[[int], object]:
    return lambda n: blake3.blake3(found[n].raw).digest()


def seconds(task: Callable[[int], object], count: int, threads: int) -> float:
    """How long it takes to call the task for every number below `count`, shared out over threads."""

    def some(first: int) -> None:
        for number in range(first, count, threads):
            task(number)

    def everything() -> None:
        running = [threading.Thread(target=some, args=(first,)) for first in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return measure.seconds(everything)


if __name__ == "__main__":
    main()
