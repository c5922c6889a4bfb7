"""What tests of every room import: contents of files that are always the same, ways to save and to read them, and real
processes. What is bound to one store is a fixture, in conftest.py."""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import yaml

import casstore

# SQL that takes the seventh and the sixth migration of a catalog back.
SIXTH_BACK = (
    "DROP TABLE sha256; "
    + "".join(
        f"DROP INDEX {index}; "
        for index in (
            *("version_in_brief", "version_by_time", "version_by_creation", "version_by_size"),
            *("metadata_by_path", "label_by_key"),
        )
    )
    + "".join(
        f"DROP TABLE {table}; " for table in ("alias", "alias_move", "annotation", "parent", "event", "trash", "policy")
    )
    + "ALTER TABLE version DROP COLUMN annotated; "
)

# The long form of every test that otherwise tries a sample.
EVERY = os.environ.get("CASSTORE_TEST_EVERY", "") not in ("", "0")


def known(value: T | None) -> T:
    """The value, of which the test knows that it is there."""
    assert value is not None
    return value


def flip(path: Path, offset: int) -> None:
    """Flip one bit as a failing disk would: no time stamp tells."""
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def draft_of(error: BaseException) -> str:
    """Where an error, of whichever class, says that a draft is kept."""
    return str(vars(error)["draft_path"])


def every(step: int) -> int:
    """By how much to count what is tried one after another: `step`, or 1 with CASSTORE_TEST_EVERY=1."""
    return 1 if EVERY else step


T = TypeVar("T")
Check = Callable[[], None]
Leftovers = Callable[[], list[str]]
Picture = Callable[[], tuple[dict[str, Any], dict[str, list[Any]]]]
Files = Mapping[str, bytes | None]


class Save(Protocol):
    """What the fixture `save` is; the options are those of Store.create, and `into` another store."""

    def __call__(self, tag: str, files: Files, **options: Any) -> casstore.Model: ...


class Sql(Protocol):
    """What the fixture `sql` is."""

    def __call__(self, statement: str, parameters: tuple[Any, ...] = (), /) -> list[Any]: ...


class Age(Protocol):
    """What the fixture `age` is."""

    def __call__(self, days: float, tag: str | None = None, /) -> None: ...


class Rot(Protocol):
    """What the fixture `rot` is."""

    def __call__(self, path: Path, offset: int | None = None, /) -> None: ...


@functools.lru_cache(64)
def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that neither shrink nor repeat, the same at every call."""
    return random.Random(seed).randbytes(size)


def plant(root: Path | str, files: Files) -> Path:
    """Write files; None makes an empty directory, a name that ends in ! an executable."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name.removesuffix("!")
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if name.endswith("!") else 0o644)
    return root


def contents(model: casstore.Model) -> dict[str, bytes]:
    """Every file, checked to be the same in the directory and straight from the chunks."""
    root = Path(model.path)
    standing = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    standing.pop("model.yaml")
    assert standing or not model.files
    found = streamed(model)
    for file in model.files:
        assert casstore.Digest.of(found[file.path]) == file.digest
        assert len(found[file.path]) == file.size
    assert found == standing
    return found


def streamed(model: casstore.Model) -> dict[str, bytes]:
    """Every file, straight from the chunks. No directory is made, and none leased."""
    found = {}
    for file in model.files:
        with model.open(file.path) as reader:
            found[file.path] = reader.read()
    return found


def everything(root: Path) -> dict[str, Any]:
    """Every path below with its bytes, what a link says, or None for a directory."""
    found: dict[str, Any] = {}
    for directory, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            )
    return found


def part(*seeds: int) -> dict[str, bytes]:
    """Files of 300 kB, each packed as it is saved."""
    return {f"{seed}.bin": noise(300_000, seed) for seed in seeds}


def counts(report: casstore.GcReport) -> dict[str, int]:
    """What each step of gc counted."""
    return {step.name: step.count for step in report.steps}


DTYPES = {"F32": "f4", "F16": "f2", "BF16": "u2"}


@functools.lru_cache(256)
def weights(dtype: str, seed: int, step: int, size: int) -> np.ndarray[Any, Any]:
    """`size` weights as `step` steps of training leave them, as the array that a file of this dtype holds. A step
    changes them a little; they are the same at every call."""
    values = _master(seed, step, size)
    if dtype == "BF16":
        return (values.view("u4") >> 16).astype("u2")
    return values.astype(DTYPES[dtype])


@functools.lru_cache(256)
def _master(seed: int, step: int, size: int) -> np.ndarray[Any, Any]:
    change = np.random.default_rng((seed, step)).normal(size=size).astype("f4")
    return change * np.float32(0.02) if step == 0 else _master(seed, step - 1, size) + change * np.float32(2e-5)


def safetensors(tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]]) -> bytes:
    """{name: (dtype, array)}: a file of these tensors, in that order."""
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        bounds = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": bounds}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def torch_file(values: bytes) -> bytes:
    """What torch.save writes of one tensor of floats, as far as the format goes."""
    text = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        pickled = b"\x80\x02" + text + b"J" + struct.pack("<i", len(values) // 4) + b"tQ."
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled)  # at a time that is always the same
        archive.writestr(zipfile.ZipInfo("archive/data/0"), values)
    return file.getvalue()


def checkpoint(step: int, dtype: str = "F32", seed: int = 0, size: int = 330_000) -> dict[str, bytes]:
    """The files of one step of a run: three tensors, of which two change."""
    tensors = {
        "layer.0": (dtype, weights(dtype, seed, step, size)),
        "frozen": (dtype, weights(dtype, seed + 1, 0, 100_000)),
        "layer.1": (dtype, weights(dtype, seed + 2, step, size)),
    }
    return {"model.safetensors": safetensors(tensors), "step.txt": b"%d of %d" % (step, seed)}


def private_key(path: Path) -> Path:
    """A file with a key to sign versions with, which is made the first time."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.exists():
        form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, form, secret)
        )
    return path


def bento(tree: Path, tag: str, files: Files, *, created: int = 1, fields: Any = MappingProxyType({})) -> Path:
    """A directory as BentoML 1.4 writes it, in a tree of NAME/VERSION/; returns it.

    `created`: a day of January 2024. `fields`: of model.yaml, instead of what it has; None for no model.yaml.
    """
    name, version = tag.split(":")
    directory = plant(tree / name / version, files)
    if fields is not None:
        document = {
            "name": name, "version": version, "module": "bentoml.sklearn", "labels": {"stage": "dev"},
            "options": {}, "metadata": {"acc": 0.93},
            "context": {
                "framework_name": "scikit-learn", "framework_versions": {"scikit-learn": "1.5.0"},
                "bentoml_version": "1.4.40", "python_version": "3.11.7",
            },
            "signatures": {"predict": {"batchable": True, "batch_dim": [0, 0]}}, "api_version": "v1",
            "creation_time": f"2024-01-{created:02}T10:20:30.123456+00:00", **fields,
        }  # fmt: skip
        (directory / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (directory.parent / "latest").write_text(version, encoding="utf-8")
    return directory


def script(text: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process. `before`: a command that it is given to."""
    command = [*options.pop("before", ()), sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def why_no_fuse() -> str:
    """Why a store cannot be mounted on this machine; empty where it can be."""
    try:
        importlib.import_module("fuse")
    except (ImportError, OSError) as error:
        return f"needs casstore[mount], and the library of FUSE 2: {error}"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"needs /dev/fuse: {error}"
    return "" if shutil.which("fusermount") else "needs the program fusermount"


class Child:
    """A forked process that runs one function; a real one, that can be killed."""

    def __init__(self, function: Callable[[], object]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads; none of ours is running
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = int(function() or 0)  # type: ignore[call-overload]
            except BaseException:  # noqa: BLE001 - the child must not go on as pytest
                traceback.print_exc()
            finally:
                os._exit(code)

    def wait(self) -> int:
        """The exit code; the negative number of a signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> int:
        os.kill(self.pid, 9)
        return self.wait()


class Pipe(io.RawIOBase):
    """Gives some bytes at a time, as a pipe does, and cannot seek."""

    def __init__(self, data: bytes, step: int = 10_007) -> None:
        self._data = memoryview(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._step, len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


class Reader(Child):
    """A process that has asked for a version's directory, and holds it until told to end."""

    def __init__(self, home: Path, tag: str, files: dict[str, bytes]) -> None:
        self._has_path = False
        self._ready, ready = os.pipe()
        hold, self._hold = os.pipe()

        def read() -> None:
            os.close(self._hold)
            with casstore.Store(home) as store:
                path = Path(store.get(tag).path)
                os.write(ready, b"r")
                while True:
                    assert {name: (path / name).read_bytes() for name in files} == files
                    if select.select([hold], [], [], 0.001)[0]:
                        return

        super().__init__(read)
        os.close(ready)
        os.close(hold)

    def wait_for_path(self) -> None:
        if not self._has_path:
            assert os.read(self._ready, 1) == b"r", "the reader failed"
            self._has_path = True

    def end(self) -> None:
        os.close(self._hold)
        os.close(self._ready)
        assert self.wait() == 0
