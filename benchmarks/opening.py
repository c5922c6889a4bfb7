"""How fast is a packed version opened, and what bounds it?

    python benchmarks/opening.py [--dir DIR] [--rounds N] [--mib N] [--versions N] [--skip PEER ...]

Method: a model is one safetensors file of bf16 weights (normal, 0.02 wide), and every version moves all of its
weights a little (noise of 5e-5 in each step). casstore packs them; borg, restic and plain copies keep the same files
(peers.py). Each figure is taken in turns with the others and its ratio within a round; processor time is what the
programs themselves took, which other work on the machine touches less than it does seconds.

cold: nothing of the repository is in memory (as in packed_speed.py), and what was opened is brought to the disk.
warm: the repository's files are in the page cache, and nothing is synced.
into memory: `Model.read_into`, into memory that was touched before, in a process that has begun. Nothing is left of
opening then but reading, decoding and hashing: it is the bound for every other way.
decoding: the processor time of that which passes in the kernels and zstd, shared out evenly over as many threads as
decode: the bound that their own speed sets, whatever else were made faster.
memory: the most that a process which asks for `path` held (VmHWM: ru_maxrss would be its parent's, where that is more).

With `--versions 100 --mib 40` the version that takes longest is looked for first, by a pass over all of them into
memory, and opened instead of the newest.

Targets: cold twice as fast as `borg extract` and `restic restore`, 0.6 of the speed of `cp -r`; warm 2.5 times
`borg extract`, 0.3 of `cp -r`; 300 MiB.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import measure
import numpy as np
import peers
from packed_speed import Cold

PEERS = (peers.Casstore, peers.Borg, peers.Restic, peers.Copies)
STEP = np.float32(5e-5)
_INTO_MEMORY = """
import json, sys, time, casstore
with casstore.Store(sys.argv[1]) as store:
    taken, memory = {}, None
    for tag in ["warm-up", *sys.argv[2:]]:
        model = store.get(sys.argv[-1] if tag == "warm-up" else tag)
        file = max(model.files, key=lambda file: file.size)
        memory = memory or bytearray(file.size)
        began = time.perf_counter()
        model.read_into(file.path, memory)
        taken[tag] = time.perf_counter() - began
    del taken["warm-up"]
    print(json.dumps(taken))
"""
_DECODING = """
import sys, time, casstore
from casstore.storage.chunk_sequence import decode_threads
from casstore.storage.coding import codec, delta
taken = []
def timed(function):
    def work(*given):
        began = time.thread_time()
        done = function(*given)
        taken.append(time.thread_time() - began)
        return done
    return work
with casstore.Store(sys.argv[1]) as store:
    model = store.get(sys.argv[2])
    file = max(model.files, key=lambda file: file.size)
    memory = bytearray(file.size)
    model.read_into(file.path, memory)
    codec.decode, delta.decode_deltas = timed(codec.decode), timed(delta.decode_deltas)
    model.read_into(file.path, memory)
print(sum(taken) / decode_threads())
"""
_PEAK = """
import re, sys, casstore
with casstore.Store(sys.argv[1]) as store:
    store.get(sys.argv[2]).path
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def write_versions(place: Path, size: int, count: int) -> Iterator[Path]:
    """Directories of versions, each of which may go when the next is asked for."""
    generator = np.random.Generator(np.random.SFC64(1))
    base = place / "base"
    measure.write_weights(base, size, changed=False)
    header = int.from_bytes(base.open("rb").read(8), "little") + 8
    with base.open("rb") as file:
        start = file.read(header)
        weights = np.frombuffer(file.read(), "<u2").astype(np.uint32)
    weights <<= 16
    base.unlink()
    values = weights.view(np.float32)
    for number in range(count):
        if number:
            for begin in range(0, len(values), 1 << 22):
                part = values[begin : begin + (1 << 22)]
                part += generator.standard_normal(len(part), np.float32) * STEP
        directory = place / f"v{number + 1}"
        directory.mkdir()
        with (directory / "model.safetensors").open("wb") as out:
            out.write(start)
            for begin in range(0, len(values), 1 << 22):
                out.write(((weights[begin : begin + (1 << 22)] + 0x8000) >> 16).astype("<u2").tobytes())
        yield directory


def into_memory(home: Path, *versions: str) -> dict[str, float]:
    """Seconds that each version takes, in one process."""
    command = [sys.executable, "-c", _INTO_MEMORY, str(home), *(f"model:{version}" for version in versions)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {tag.partition(":")[2]: taken for tag, taken in json.loads(done.stdout).items()}


def decoding(home: Path, version: str) -> float:
    """Seconds that decoding alone would take."""
    command = [sys.executable, "-c", _DECODING, str(home), f"model:{version}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Openings:
    """Opens one version in turns by all programs; keeps what each warm one took of the processors."""

    def __init__(self, cold: Cold, repositories: list[peers.Peer], version: str) -> None:
        self.cold = cold
        self.repositories = repositories
        self.version = version
        self.processors: dict[str, list[float]] = {}

    def seconds(self, peer: peers.Peer, how: str) -> float:
        """Open and take away again."""
        if how == "cold":
            return self.cold.seconds_to_open(peer, self.version)
        for path in peer.repository.rglob("*"):
            if path.is_file() and "models" not in path.parts:
                measure.read_through(path)
        os.sync()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = measure.seconds(lambda: peer.open(self.version))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.processors.setdefault(peer.name, []).append(used)
        peer.close()
        return taken

    def report(self, how: str, rounds: int, size: int) -> None:
        """Measure, and print a table."""
        parts = {peer.name: partial(self.seconds, peer, how) for peer in self.repositories}
        if how == "warm":
            casstore = self.repositories[0]
            parts["into memory"] = lambda: into_memory(casstore.repository, self.version)[self.version]
            parts["decoding"] = lambda: decoding(casstore.repository, self.version)
        figures = measure.in_turns(rounds, parts)
        rows = []
        for name, taken in figures.items():
            used = self.processors.get(name)
            rows.append([
                name, measure.spread(taken), measure.spread([size / each / 1e6 for each in taken], ".0f"),
                measure.spread(measure.ratios(taken, figures["casstore"])),
                "" if used is None else measure.spread(used),
            ])  # fmt: skip
        title = f"Opening {self.version}, {size / 1e6:.0f} MB, {how}; load {os.getloadavg()[0]:.1f}"
        header = ["", "s", "MB/s", "times casstore's time", "processor s"]
        measure.print_markdown(title, header, rows)


def peak_mib(home: Path, version: str) -> float:
    command = [sys.executable, "-c", _PEAK, str(home), f"model:{version}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=1520)
    parser.add_argument("--versions", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=(), metavar="PEER")
    arguments = parser.parse_args()
    kinds = tuple(kind for kind in PEERS if kind.name not in arguments.skip)
    peers.require(*kinds)
    with measure.workplace(arguments.dir) as place:
        print(measure.machine(place), end="\n\n")
        repositories = [kind(place / kind.name) for kind in kinds]
        names = []
        for directory in write_versions(place, arguments.mib * measure.MIB, arguments.versions):
            names.append(directory.name)
            size = measure.file_bytes(directory)
            for peer in repositories:
                peer.save(directory.name, directory)
            measure.remove(directory)
        began = time.perf_counter()
        for peer in repositories:
            peer.pack()
        print(f"packed in {time.perf_counter() - began:.1f} s: {size * len(names) / 1e6:.0f} MB", end="\n\n")
        home = repositories[0].repository
        version = names[-1]
        if len(names) > 3:
            taken = into_memory(home, *names)
            version = max(taken, key=taken.__getitem__)
            print(
                f"into memory: mean {statistics.fmean(taken.values()):.3f} s, most {taken[version]:.3f} s ({version})\n"
            )
        with Cold(kinds, place / "tiny") as cold:
            openings = Openings(cold, repositories, version)
            for how in ("cold", "warm"):
                openings.report(how, arguments.rounds, size)
        print(f"memory of `path`: {peak_mib(home, version):.0f} MiB")


if __name__ == "__main__":
    main()
