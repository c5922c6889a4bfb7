"""A command starts with what it needs: what else takes time to import is left alone until it is used."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import casstore
from casstore.late import LateModule, late_modules
from tests.kit import plant

HEAVY = {
    *["asyncio", "cloudpickle", "concurrent.futures", "hashlib", "multiprocessing", "numpy", "obstore"],
    *["pyfastcdc", "rich", "socket", "ssl", "subprocess", "tarfile", "yaml", "zipfile"],
    *["backports.zstd", "compression.zstd", "zstandard"],
    # What only damage needs.
    *["casstore.actions.consistency.rescuing", "casstore.actions.consistency.takeup"],
}
# What click needs for help, for completion, and where a short option is not its own.
OF_CLICK = {"click.shell_completion", "difflib", "lzma", "shutil"}
_RUN = """\
import sys
from casstore.cli.main import run

code = run(sys.argv[1:])
"""
_TELL = "\nimport json, os\nos.write(2, json.dumps(sorted(sys.modules)).encode())\n"


def imported(code: str, *arguments: str) -> set[str]:
    """The modules that a process has imported once it has run the code."""
    command = [sys.executable, "-c", f"import sys\n{code}{_TELL}", *arguments]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True).stderr))


@pytest.fixture
def home(tmp_path: Path) -> str:
    with casstore.Store(tmp_path / "home") as store:
        source = plant(tmp_path / "source", {"config.json": b"{}", "weights": b"weights" * 1000})
        store.save("bert:v1", source, labels={"stage": "dev"})
    return str(tmp_path / "home")


@pytest.mark.parametrize(
    "words",
    [
        ["--version"], ["--help"], ["save", "--help"], ["path", "bert:v1"], ["show", "bert:v1"],
        ["show", "bert", "--json"], ["list"], ["list", "-l", "stage=dev"], ["list", "--json"], ["ls", "bert:v1"],
        ["config"], ["delete", "bert:v1", "--yes"], ["alias", "set", "bert@prod", "bert:v1"], ["pin", "bert:v1"],
        ["push", "--help"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_commands_start_with_what_they_need(home: str, words: list[str]) -> None:
    found = imported(_RUN, *words, "--home", home)
    assert "casstore.cli.main" in found
    may_need = OF_CLICK if {"--help", "-l"} & {*words} else set()
    assert found & (HEAVY | OF_CLICK - may_need) == set()


_COUNT = """\
import dataclasses

made = set()
make = dataclasses._process_class

def counted(cls, *rest, **given):
    made.add(cls.__qualname__)
    return make(cls, *rest, **given)

dataclasses._process_class = counted
"""


@pytest.mark.parametrize("words", ["path bert:v1", "show bert:v1", "list"])
def test_commands_make_the_data_classes_that_they_use(home: str, words: str) -> None:
    """To make one takes a tenth of the time of reading a version: see casstore.late_classes."""
    command = [sys.executable, "-c", f"{_COUNT}{_RUN}\nprint(len(made))", *words.split(), "--home", home]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert 3 < int(answer.splitlines()[-1]) <= 14


def test_python_starts_with_what_it_needs(home: str) -> None:
    assert {each for each in imported("import casstore") if each.startswith("casstore")} == {
        *["casstore", "casstore.late", "casstore.release"]
    }
    reading = f"import casstore\nwith casstore.Store({home!r}) as store:\n    store.get('bert:v1').path, store.list()\n"
    assert imported(reading) & HEAVY == set()


def test_a_heavy_import_would_be_seen(home: str, tmp_path: Path) -> None:
    """What a new version needs is not there before, and there after."""
    source = plant(tmp_path / "other", {"weights": b"new" * 1000})
    assert {"zstandard", "pyfastcdc"} <= imported(_RUN, "save", "other", str(source), "--home", home)


@pytest.mark.skipif(casstore.kernels_in_use() == "numpy", reason="casstore was installed without a compiler")
def test_packs_are_written_and_read_without_numpy(home: str, tmp_path: Path) -> None:
    floats = np.random.default_rng(1).normal(size=100_000).astype("<f4")
    for tag, weights in (("floats:v1", floats), ("floats:v2", floats * np.float32(1.0001))):
        source = plant(tmp_path / tag, {"model.safetensors": one_tensor(weights.tobytes())})
        assert "numpy" not in imported(_RUN, "save", tag, str(source), "--home", home)
    packing = imported(_RUN, "gc", "--evict-all", "--home", home)
    assert "casstore.storage.coding.compiled" in packing
    assert "numpy" not in packing
    reading = imported(_RUN, "path", "floats:v2", "--home", home)
    assert "casstore.storage.coding.compiled" in reading
    assert not {"numpy", "yaml"} & reading
    with casstore.Store(home) as store:
        assert Path(store.get("floats:v2").path, "model.safetensors").read_bytes()[-400_000:] == weights.tobytes()


def one_tensor(data: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_public_names_are_where_type_checkers_find_them() -> None:
    """The imports for type checkers and the table say the same, and all of `__all__`."""
    tree = ast.parse(Path(casstore.__file__).read_text(encoding="utf-8"))
    (for_types,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    places = {
        alias.name: node.module for node in for_types.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert places == casstore._PLACES
    assert {*places, "__version__"} == set(casstore.__all__)
    assert set(casstore.__all__) <= set(dir(casstore))
    for name, place in places.items():
        assert getattr(casstore, name) is getattr(import_module(str(place)), name)


def test_names_that_are_not_there_are_missed() -> None:
    assert not hasattr(casstore, "Stoer")
    assert not hasattr(casstore.actions, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'Stoer' from 'casstore'"):
        exec("from casstore import Stoer")


def test_modules_of_the_package_need_no_import_of_their_own() -> None:
    code = "import casstore\nassert casstore.errors.TagNotFound is casstore.TagNotFound\nassert casstore.tag.Tag"
    assert "casstore.errors" in imported(code)


def test_all_public_names_can_be_imported_at_once() -> None:
    assert "casstore.store" in imported("from casstore import *\nassert Store and slug and __version__")


def test_a_late_module_is_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateModule("tests.kit")
    kit = import_module("tests.kit")
    assert late.plant is kit.plant
    assert dir(late) == dir(kit)
    with monkeypatch.context() as patch:
        patch.setattr(late, "plant", None)
        assert kit.plant is None
    assert late.plant is kit.plant is plant
    late.added = 1
    assert kit.added == 1
    del late.added
    assert not hasattr(kit, "added")


def test_a_package_has_its_late_modules_only() -> None:
    late = late_modules("tests", "kit")
    assert isinstance(late("kit"), ModuleType)
    with pytest.raises(AttributeError, match="module 'tests' has no attribute 'kin'"):
        late("kin")


def test_half_of_one_release_and_half_of_another_are_not_run(tmp_path: Path) -> None:
    """As where a training outlives an upgrade: what it has imported goes on, and nothing of the other is imported."""
    shutil.copytree(Path(casstore.__file__).parent, tmp_path / "casstore")
    code = f"""
import casstore, pathlib
store = casstore.Store({str(tmp_path / "home")!r}, auto_gc=False)
source = pathlib.Path({str(plant(tmp_path / "source", {"weights": b"weights"}))!r})
store.save("bert:v1", source)
assert len(store.list()) == 1
source.joinpath("weights").write_bytes(b"newer weights" * 10_000)
release = pathlib.Path(casstore.release.__file__)
assert release.is_relative_to({str(tmp_path)!r})
release.write_text(release.read_text().replace(casstore.__version__, "77.0"))
store.save("bert:v2", source)
assert [str(model.tag) for model in store.list()] == ["bert:v2", "bert:v1"]
try:
    store.gc()
except casstore.CasstoreError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("casstore 77.0 has been installed while this process runs casstore "), done
    assert "start the process again" in done.stdout
