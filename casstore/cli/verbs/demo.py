"""casstore demo: four versions of a small model, saved, packed, opened and checked before the user's eyes."""

from __future__ import annotations

import dataclasses
import json
import random
import shlex
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import casstore
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, human_bytes, printable, show_json, show_table, styled
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore demo
  casstore demo --keep demo-store              keep the store, to look around in it
  casstore demo --remote                       push to a remote, clone it, and count what travels
"""
_NAME = "demo"
_WEIGHTS = "model.safetensors"
_HIDDEN = 256
_LAYERS = 9
_VOCABULARY = 2000
_ADDED_ROWS = 48
# How far training moves a weight at the most, in steps of the smallest difference between two fp32 numbers.
_TRAINED_STEPS = 1 << 12
_TRAVELLED = (
    Column("VERSION"),
    Column("SIZE", right=True),
    Column("PUSHED", right=True),
    Column("PULLED", right=True),
)
_COLUMNS = (
    Column("VERSION"),
    Column("WHAT CHANGED"),
    Column("SIZE", right=True),
    Column("NEW BYTES", right=True),
)


@dataclass(frozen=True, slots=True)
class _Saved:
    """One version of the demo: its bytes, and those of them that the store did not have."""

    tag: str
    change: str
    size_bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """All versions as plain copies, in the store while a directory of each stands, and when gc has packed them."""

    plain_bytes: int
    before_gc_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class _Travelled:
    """One version on its way to a remote and into another store: its bytes, and those that went."""

    tag: str
    size_bytes: int
    sent_bytes: int
    received_bytes: int


@click.command(epilog=_EXAMPLES)
@click.option(
    "--keep", metavar="DIR", type=click.Path(path_type=Path), help="Make the store at DIR and leave it there."
)
@click.option("--remote", is_flag=True, help="Also push them to a remote, a directory here, and clone it.")
@common_options
@pass_options
def demo(options: Options, keep: Path | None, remote: bool) -> None:
    """See it work: four versions of a small model.

    Saves them, has gc pack them, opens one, compares every byte, and shows what sharing and packing save. The model
    is made on the spot, as safetensors; the store is a temporary one, or DIR with --keep. Your own store is not
    touched. Exit code 1 when a check fails.
    """
    with tempfile.TemporaryDirectory(prefix="casstore-demo-") as scratch:
        keep = None if keep is None else keep.expanduser()
        home = Path(scratch, "store") if keep is None else keep
        if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise click.UsageError(f"{keep} is there already and not empty; --keep wants a new directory")
        with casstore.Store(home) as store:
            hint(options, "making four versions of a small model, saving them, packing them, reading them back ...")
            originals = _make_versions(Path(scratch, "out"))
            with progress_bar(options) as progress:
                saved = _save_all(store, originals, progress)
                before_gc = store.stats()
                store.gc(evict_all=True, progress=progress)
            on_disk = _OnDisk(before_gc.logical_bytes, before_gc.stored_bytes, store.stats().stored_bytes)
            checks = _check(store, originals)
            travelled = _travel(store, Path(scratch), originals, checks) if remote else []
            if keep is not None and remote:
                store.remove_remote("demo")  # which ends with this program
    _show(options, saved, on_disk, checks, keep, travelled)
    if not all(checks.values()):
        raise click.ClickException("a check failed: this machine or this build of casstore cannot be trusted")


def _make_versions(out: Path) -> list[tuple[str, Path, str]]:
    """Write four model directories; returns for each its tag, its directory, and what changed in it."""
    source = random.Random(0)  # noqa: S311 - the same weights in every run
    tensors = {"embed.weight": _weights(source, _VOCABULARY, 2 * _HIDDEN)}
    for layer in range(_LAYERS):
        tensors[f"layer.{layer}.weight"] = _weights(source, 4 * _HIDDEN, _HIDDEN)
    tensors["norm.weight"] = _weights(source, 1, 2 * _HIDDEN)
    tensors["head.bias"] = _weights(source, 1, _VOCABULARY)
    versions = [(f"{_NAME}:v1", "a first model", dict(tensors))]
    tensors["layer.8.weight"] = _weights(source, 4 * _HIDDEN, _HIDDEN)
    versions.append((f"{_NAME}:v2", "the last layer", dict(tensors)))
    shape, data = tensors["embed.weight"]
    more_shape, more = _weights(source, _ADDED_ROWS, 2 * _HIDDEN)
    tensors["embed.weight"] = ((shape[0] + more_shape[0], shape[1]), data + more)
    tensors["adapter.weight"] = _weights(source, _HIDDEN, 64)
    versions.append((f"{_NAME}:v3", f"{_ADDED_ROWS} rows and a tensor more", dict(tensors)))
    tensors = {name: (shape, _trained(source, data)) for name, (shape, data) in tensors.items()}
    versions.append((f"{_NAME}:v4", "every weight, a little", tensors))
    made = []
    for tag, change, weights in versions:
        directory = out / tag.partition(":")[2]
        directory.mkdir(parents=True)
        _write_safetensors(directory / _WEIGHTS, weights)
        config = {"hidden": _HIDDEN, "layers": _LAYERS, "tensors": len(weights)}
        (directory / "config.json").write_text(json.dumps(config, indent=2))
        made.append((tag, directory, change))
    return made


# The upper byte of small fp32 numbers of either sign: exponents from 2**-11 to 2**-4, as trained weights have.
_UPPER_BYTES = bytes((0x3A + value % 3) | (0x80 if value & 128 else 0) for value in range(256))


def _weights(source: random.Random, rows: int, columns: int) -> tuple[tuple[int, int], bytes]:
    """A tensor of random fp32 numbers that look like weights: small, of either sign, never infinite."""
    data = bytearray(source.randbytes(4 * rows * columns))
    data[3::4] = data[3::4].translate(_UPPER_BYTES)
    return (rows, columns), bytes(data)


def _trained(source: random.Random, data: bytes) -> bytes:
    """These numbers, each moved by a little."""
    import numpy as np

    steps = np.frombuffer(source.randbytes(len(data)), "<u4") % (2 * _TRAINED_STEPS)
    trained = np.frombuffer(data, "<u4") + steps - np.uint32(_TRAINED_STEPS)
    return bytes(trained.astype("<u4").data)


def _write_safetensors(path: Path, tensors: Mapping[str, tuple[tuple[int, int], bytes]]) -> None:
    """https://github.com/huggingface/safetensors#format: header length, JSON header, then the tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


def _save_all(
    store: casstore.Store, originals: list[tuple[str, Path, str]], progress: casstore.Progress
) -> list[_Saved]:
    saved: list[_Saved] = []
    known = 0
    for tag, directory, change in originals:
        model = store.save(tag, directory, labels={"made-by": "casstore-demo"}, progress=progress)
        unique = store.stats().unique_bytes
        saved.append(_Saved(tag, change, model.size, unique - known))
        known = unique
    return saved


def _check(store: casstore.Store, originals: list[tuple[str, Path, str]]) -> dict[str, bool]:
    """Compare what comes out with what went in, byte by byte, and verify the store."""
    tag, directory, _ = originals[1]
    model = store.get(tag)
    written = {path.name: path.read_bytes() for path in directory.iterdir()}
    from_directory = {name: Path(model.path, name).read_bytes() for name in written}
    from_chunks = {}
    for name in written:
        with model.open(name) as file:
            from_chunks[name] = file.read()
    return {
        f"{tag} as a directory, made again (model.path): the bytes that were saved": from_directory == written,
        f"{tag} straight from the chunks (model.open): the bytes that were saved": from_chunks == written,
        "the whole store, read and compared with its digests": store.verify().is_sound,
    }


def _travel(
    store: casstore.Store, scratch: Path, originals: list[tuple[str, Path, str]], checks: dict[str, bool]
) -> list[_Travelled]:
    """Push the versions one by one, pull them so into another store, and compare what has come."""
    travelled = []
    is_same = True
    with (
        store.add_remote("demo", str(scratch / "remote")) as there,
        casstore.Store(scratch / "clone") as clone,
        clone.add_remote("demo", str(scratch / "remote"), make=False) as again,
    ):
        for tag, directory, _ in originals:
            (pushed,) = there.push(tag)
            (pulled,) = again.pull(tag)
            travelled.append(_Travelled(tag, pulled.model.size, pushed.sent_bytes, pulled.received_bytes))
            is_same = is_same and all(
                Path(pulled.model.path, path.name).read_bytes() == path.read_bytes() for path in directory.iterdir()
            )
        checks["pushed to a remote and pulled into another store: the bytes that were saved"] = is_same
        checks["the remote, read and compared with its digests"] = there.verify(deep=True).ok
    return travelled


def _show(
    options: Options,
    saved: list[_Saved],
    on_disk: _OnDisk,
    checks: dict[str, bool],
    keep: Path | None,
    travelled: list[_Travelled],
) -> None:
    if options.json:
        show_json(
            {
                "versions": [dataclasses.asdict(version) for version in saved],
                "checks": [{"check": check, "passed": passed} for check, passed in checks.items()],
                **dataclasses.asdict(on_disk),
                **({"travelled": [dataclasses.asdict(each) for each in travelled]} if travelled else {}),
                "store": None if keep is None else str(keep),
            }
        )
        return
    rows = [(s.tag, s.change, Bytes(s.size_bytes), Bytes(s.new_bytes)) for s in saved]
    show_table(_COLUMNS, rows, for_people=True)
    less = on_disk.plain_bytes / on_disk.stored_bytes
    click.echo()
    for size, what in (
        (on_disk.plain_bytes, "as plain copies"),
        (on_disk.before_gc_bytes, "in the store, with a directory of each version ready for use"),
        (on_disk.stored_bytes, f"when gc has packed what no directory is needed for: {less:.1f} times less"),
    ):
        click.echo(f"{human_bytes(size):>9}  {what}")
    if travelled:
        click.echo()
        show_table(
            _TRAVELLED,
            [(t.tag, Bytes(t.size_bytes), Bytes(t.sent_bytes), Bytes(t.received_bytes)) for t in travelled],
            for_people=True,
        )
    click.echo()
    for check, passed in checks.items():
        click.echo(f"{_verdict(passed)}  {check}")
    if options.quiet:
        return
    click.echo("\nTry next:")
    for command in _next_commands(keep):
        click.echo(f"  {printable(command)}")


def _verdict(passed: bool) -> str:
    return styled("ok    ", fg="green") if passed else styled("FAILED", fg="red", bold=True)


def _next_commands(keep: Path | None) -> list[str]:
    if keep is None:
        return ["casstore demo --keep demo-store", "casstore save my-model:v1 path/to/files", "casstore list"]
    home = f"casstore --home {shlex.quote(str(keep))}"
    return [f"{home} list", f"{home} show {_NAME}:v4", f"{home} stats", f"{home} path {_NAME}"]
