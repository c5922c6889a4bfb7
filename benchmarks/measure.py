"""What the benchmarks share: files to save, timing in turns, the peer, tables, and a place that is cleaned up."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GB = 1_000_000_000
_BLOCK_BYTES = 16 * MIB
_IN_MEMORY = {"tmpfs", "ramfs"}

Part = Callable[[], float]
"""One measured thing: prepares, measures, cleans up, and returns the figure, mostly seconds."""


def parser(docstring: str | None) -> argparse.ArgumentParser:
    """A command line with what every script takes."""
    made = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write (default: here); not a tmpfs")
    made.add_argument("--rounds", type=int, default=5, help="how often each thing is measured, in turns")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


@contextlib.contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A new directory below `parent`, removed at the end. Temporary files of libraries go there too.

    BentoML prepares models in the temporary directory: on another file system it would be measured on two.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if file_system(parent) in _IN_MEMORY:
        sys.exit(f"{parent} is in memory ({file_system(parent)}), where syncing costs nothing; give another --dir")
    place = Path(tempfile.mkdtemp(prefix="casstore-benchmark-", dir=parent)).resolve()
    before, tempfile.tempdir = tempfile.tempdir, str(place)
    try:
        yield place
    finally:
        tempfile.tempdir = before
        remove(place)


def remove(path: Path) -> None:
    """Remove a directory, read-only files in it too."""
    shutil.rmtree(path, ignore_errors=True)


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as "ext4"; "?" where nothing tells."""
    found, depth = "?", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, kind, *_ = line.split()
            if path.resolve().is_relative_to(mount) and len(mount) > depth:
                found, depth = kind, len(mount)
    return found


def machine(path: Path) -> str:
    """One line that says where figures come from."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {file_system(path)}, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_turns(rounds: int, parts: Mapping[str, Part]) -> dict[str, list[float]]:
    """Measure A B C, A B C, ...: what else the machine does falls on all alike. Progress goes to stderr."""
    figures: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds):
        for name, part in parts.items():
            print(f"\rround {number + 1} of {rounds}: {name:40}", end="", file=sys.stderr, flush=True)
            figures[name].append(part())
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
    return figures


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times as long `slow` took, round by round: neighbours in time are compared."""
    return [above / below for above, below in zip(slow, fast, strict=True)]


def spread(figures: Sequence[float], form: str = ".2f") -> str:
    """The median with minimum and maximum, as one cell of a table."""
    median = format(statistics.median(figures), form)
    return median if len(figures) == 1 else f"{median} ({min(figures):{form}} to {max(figures):{form}})"


def print_markdown(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One table, ready for RESULTS.md."""
    print(f"{title}\n")
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


class Report:
    """Rows of figures, each with its target, printed at the end as one table or one JSON document."""

    def __init__(self, title: str, place: Path) -> None:
        self.title = title
        self.machine = machine(place)
        self.rows: list[dict[str, Any]] = []

    def add(
        self, what: str, figures: Sequence[float], unit: str, *, at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:  # fmt: skip
        """Add a row: the median of `figures` is what a target is held against."""
        median = statistics.median(figures)
        target, is_met = "", None
        if at_least is not None:
            target, is_met = f">= {at_least:g}", median >= at_least
        elif at_most is not None:
            target, is_met = f"<= {at_most:g}", median <= at_most
        self.rows.append(
            {"what": what, "median": median, "min": min(figures), "max": max(figures), "unit": unit, "target": target}
            | ({} if is_met is None else {"is_met": is_met})
        )

    def print(self, *, as_json: bool) -> None:
        if as_json:
            print(json.dumps({"title": self.title, "machine": self.machine, "rows": self.rows}, indent=2))
            return
        width = max(len(row["what"]) for row in self.rows)
        print(f"{self.title}\n{self.machine}\n")
        print(f"{'':{width}} {'median':>10} {'min':>10} {'max':>10}  unit    target")
        for row in self.rows:
            verdict = {True: "met", False: "MISSED", None: ""}[row.get("is_met")]
            cells = " ".join(f"{_number(row[key]):>10}" for key in ("median", "min", "max"))
            print(f"{row['what']:{width}} {cells}  {row['unit']:7} {row['target']} {verdict}".rstrip())


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value)}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def write_random(path: Path, size: int, seed: int) -> None:
    """A file of `size` random bytes: what neither shrinks nor repeats."""
    with path.open("xb") as file:
        _write_random(file.write, size, seed)


def write_safetensors(path: Path, size: int, seed: int, tensors: int = 12) -> None:
    """A safetensors file of about `size` bytes: bf16 tensors of random bytes, their sizes all different."""
    with path.open("xb") as file:
        _write_random(file.write, _write_header(file.write, size, tensors), seed)


def write_weights(path: Path, size: int, *, changed: bool, tensors: int = 12) -> None:
    """As `write_safetensors`, but of values as weights have them; `changed` are the same after a little training."""
    import numpy as np

    weights, noise = (np.random.Generator(np.random.SFC64(seed)) for seed in (1, 2))
    with path.open("xb") as file:
        left = _write_header(file.write, size, tensors)
        while left:
            count = min(_BLOCK_BYTES, left) // 2
            values = weights.standard_normal(count, np.float32) * np.float32(0.02)
            if changed:
                values += noise.standard_normal(count, np.float32) * np.float32(1e-4)
            # The upper half of a float32 is the bf16; half of the lowest bit is added to round.
            file.write(((values.view(np.uint32) + 0x8000) >> 16).astype("<u2").tobytes())
            left -= 2 * count


def _write_header(write: Callable[[bytes], object], size: int, tensors: int) -> int:
    """The start of a safetensors file of about `size` bytes; returns how many bytes of tensors must follow."""
    shares = [3 + 2 * number for number in range(tensors)]
    # Rows of 1024 elements of 2 bytes.
    rows = [max(1, size * share // sum(shares) // 2048) for share in shares]
    header, offset = {}, 0
    for number, count in enumerate(rows):
        end = offset + 2048 * count
        header[f"layers.{number}.weight"] = {
            "dtype": "BF16", "shape": [count, 1024], "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(len(text).to_bytes(8, "little") + text)
    return offset


def _write_random(write: Callable[[bytes], object], size: int, seed: int) -> None:
    # Here and not above: it takes 30 MB, which memory.py would count as casstore's.
    import numpy as np

    generator = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, size, _BLOCK_BYTES):
        write(generator.bytes(min(_BLOCK_BYTES, size - start)))


def sync_tree(directory: Path) -> None:
    """fsync every file and directory below: what `os.sync` does, without the files of others."""
    for folder, _, names in os.walk(directory):
        for path in [*(os.path.join(folder, name) for name in names), folder]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def read_through(path: Path) -> None:
    """Bring a file into the page cache."""
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def drop_page_cache(path: Path) -> None:
    """Make the next read of a file come from the disk; needs no privilege, only clean pages."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def forget(directories: Iterable[Path]) -> None:
    """Make the next read of any file below come from the disk, as on the day when an old version is wanted.

    As root the kernel drops everything that is clean, directories and inodes too. Others can only ask for each file.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for directory in directories:
            for path in directory.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    drop_page_cache(path)


def file_bytes(directory: Path) -> int:
    """What all files below take, each inode once. Directories do not count, nor what blocks are rounded up to."""
    sizes: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def bento() -> Any:
    """The `bentoml` module, which must not phone home while it is measured."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    try:
        import bentoml
    except ImportError:
        sys.exit("BentoML is missing, the peer that is measured beside casstore.\npip install 'casstore[bench]'")
    return bentoml


def bento_store(place: Path) -> Any:
    """An empty BentoML model store, for the `_model_store` argument of `bentoml.models`."""
    bento()
    from bentoml._internal.models.model import ModelStore

    home = place / "bentoml"
    home.mkdir()
    return ModelStore(home)
