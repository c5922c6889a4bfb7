"""Fixtures of the crash tests: small stores and what is done to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.archive.casmodel import Reader
from tests.crash import tracer
from tests.crash.scenarios import Scenario, copy_store, leftovers, open_store, put, to_first_schema, write
from tests.kit import EVERY, bento, checkpoint, noise
from tests.store.conftest import quiet

__all__ = ["quiet"]

Operation = Callable[[Path], object]
LARGE = 1_300_000
_MEMORY = Path("/dev/shm")


def spread(population: Sequence[int], count: int) -> list[int]:
    """So many of them, as far from each other as can be, or all with CASSTORE_TEST_EVERY."""
    if EVERY or len(population) <= count:
        return list(population)
    return [population[(2 * each + 1) * len(population) // (2 * count)] for each in range(count)]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A directory for the stores of many runs: in memory if possible, where what has been written stays after a kill as
    it does on a disk, and 256 directories are made and removed in no time."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="casstore-", dir=_MEMORY) as path:
        yield Path(path)


@pytest.fixture
def scenario(request: pytest.FixtureRequest, ground: Path, quiet: None) -> Scenario:
    """The scenario of that name; all of them are small, since every call of each is one run."""
    a, b = {"w.bin": noise(LARGE), "small": noise(700, 9)}, {"mid": noise(80_000, 4), "s": noise(300, 5)}
    steps = [checkpoint(step, size=20_000) for step in range(4)]
    heavy = [checkpoint(step, size=90_000) for step in range(3)]
    outside = write(ground / "outside", {"w.bin": noise(LARGE, 3), "sub/x": b"x"})

    def prepare(**versions: Any) -> Any:
        def run(home: Path) -> None:
            for tag, files in versions.items():
                put(home, tag.replace("_", ":"), files)

        return run

    def pack(home: Path) -> None:
        with open_store(home) as store:
            store.gc(evict_all=True)

    def run(verb: str, *arguments: Any, **options: Any) -> Any:
        def operation(home: Path) -> None:
            with open_store(home) as store:
                getattr(store, verb)(*arguments, **options)

        return operation

    def cold(home: Path) -> None:
        for step in range(3):
            put(home, f"m:{step}", steps[step], materialize=False)

    def open_path(home: Path) -> None:
        with open_store(home) as store:
            assert store.get("m:1").path

    def read(home: Path) -> None:
        with open_store(home) as store, store.get("m:2").open("model.safetensors") as file:
            assert file.read() == steps[2]["model.safetensors"]

    def altered(home: Path) -> None:
        prepare(a_1=a)(home)
        with open_store(home) as store:
            path = Path(store.get("a:1").path) / "small"
        path.unlink()

    def littered(home: Path) -> None:
        """Something for every step of gc: what killed processes have left, what is cold, dead or half-dead."""
        with open_store(home) as store:
            store.set_setting("keep_days", "0")
        for step in range(3):
            put(home, f"m:{step}", heavy[step])
        put(home, "half:1", {str(n): noise(30_000, 40 + n) for n in range(4)}, materialize=False)
        put(home, "half:2", {"0": noise(30_000, 40)})
        put(home, "d:1", {"w": noise(LARGE, 6)})
        put(home, "d:2", {"w": noise(3000, 7)})
        _kill_at(home, run("gc"), "rename /models/")  # a directory that is marked to be taken away
        with open_store(home) as store:
            store.delete("half:1")
            store.delete("d:1")
        save, delete = partial(put, tag="b:1", files=b), run("delete", "d:2")
        _kill_at(home, save, "mkdir /sessions/")  # a draft
        _kill_at(home, save, "fsync /sessions/")  # objects, which no row names
        _kill_at(home, save, "rename /manifests/")  # a version whose manifest has no name yet
        _kill_at(home, delete, "rename /models/")  # a tombstone, and the directory

    def damaged(home: Path) -> None:
        prepare(a_1=a, b_1=b)(home)
        for path in (home / "objects").rglob("*.*"):
            if path.is_file() and path.stat().st_size == LARGE:
                path.chmod(0o644)
                with open(path, "r+b") as file:
                    file.write(b"damaged")
        write(ground / "backup", a)

    def no_catalog(home: Path) -> None:
        prepare(a_1=a, b_1=b)(home)
        cold(home)
        for path in home.glob("catalog.db*"):
            path.unlink()

    def first_schema(home: Path) -> None:
        prepare(a_1=a)(home)
        to_first_schema(home)

    def rebuild(home: Path) -> None:
        casstore.Store.rebuild_catalog(home)

    def foreign(tree: Path) -> None:
        """Directories that BentoML has made: one of their files is known, and one has another link."""
        for number, tag in enumerate(strange):
            bento(tree, tag, strange[tag], created=1 + number)
        (tree / "x/2/twin").unlink()
        os.link(tree / "x/2/small", tree / "x/2/twin")

    def beside(_: Path) -> None:
        shutil.rmtree(ground / "bento", ignore_errors=True)
        foreign(ground / "bento/models")

    def taking(verb: str, *arguments: Any, **options: Any) -> Any:
        """As `run`; a directory that is refused, since a system call on it fails, is an error."""

        def operation(home: Path) -> None:
            with open_store(home) as store:
                report = getattr(store, verb)(*(arguments or (home,) * (verb == "adopt")), **options)
                if report.refused:
                    raise casstore.InvalidSource(str(report.refused))

        return operation

    def in_place(home: Path) -> None:
        prepare(b_1=b)(home)
        foreign(home / "models")

    def out_of_step(home: Path) -> None:
        prepare(b_1=b, c_1=b)(home)
        with open_store(home) as store:
            store.set_setting("materialize", "all")
        put(home, "d:1", a, materialize=False)
        foreign(home / "models")
        shutil.rmtree(home / "models/c/1")

    def sync_again(home: Path) -> None:
        shutil.rmtree(home / "models/c/1", ignore_errors=True)
        taking("sync_tree", prune=True)(home)

    strange = {"x:1": {"w.bin": noise(LARGE, 8), "mid": b["mid"]}, "x:2": {"small": a["small"], "twin": a["small"]}}
    tar, casmodel, exported = (ground / name for name in ("m.tar", "run.casmodel", "exported.casmodel"))
    if request.param in ("import a tar", "import a casmodel", "export"):
        for step in range(4):
            put(ground / "elsewhere", f"m:{step}", steps[step], materialize=False)
        with open_store(ground / "elsewhere") as elsewhere:
            elsewhere.export("m:3", tar)
            elsewhere.export([f"m:{step}" for step in range(4)], casmodel)

    def export(home: Path) -> None:
        """Over what is there, which has to be complete each time."""
        if exported.exists():
            with open(exported, "rb") as file:
                reader = Reader(file, "what was exported", lambda _: None)
                assert len(reader.manifests()) == 3
                assert all(reader.record() for _ in reader.entries())
        run("export", list(run_of_three), exported)(home)

    run_of_three = {f"m:{step}": steps[step] for step in range(3)}
    run_of_heavy = {f"m:{step}": heavy[step] for step in range(3)}
    found: dict[str, Scenario] = {
        "make a store": Scenario(lambda _: None, run("tags")),
        "save": Scenario(prepare(b_1=b), lambda home: put(home, "a:1", a), {"b:1": b}, {"a:1": a}),
        "save a copy": Scenario(
            prepare(b_1=b), run("save", "o:1", outside), {"b:1": b}, {"o:1": {"w.bin": noise(LARGE, 3), "sub/x": b"x"}}
        ),
        "save what is known": Scenario(prepare(a_1=a), lambda home: put(home, "a:2", a), {"a:1": a}, {"a:2": a}),
        "save a delta": Scenario(
            cold, lambda home: put(home, "m:3", steps[3], materialize=False), run_of_three, {"m:3": steps[3]}
        ),
        "save relaxed": Scenario(
            prepare(b_1=b), lambda home: put(home, "a:1", a, durability="relaxed"), {"b:1": b}, {"a:1": a}
        ),
        "materialize": Scenario(cold, open_path, run_of_three),
        "mend": Scenario(altered, run("get", "a:1"), {"a:1": a}),
        "delete": Scenario(prepare(a_1=a, a_2=b), run("delete", "a:1"), {"a:2": b}, gone={"a:1": a}),
        "gc": Scenario(littered, run("gc"), {**run_of_heavy, "half:2": {"0": noise(30_000, 40)}}, {"b:1": b}),
        "evict": Scenario(prepare(a_1=a, b_1=b), run("gc", evict_all=True), {"a:1": a, "b:1": b}),
        "import a tar": Scenario(cold, run("import_archive", tar), run_of_three, {"m:3": steps[3]}),
        "import a casmodel": Scenario(
            prepare(m_0=steps[0]),
            run("import_archive", casmodel),
            {"m:0": steps[0]},
            {f"m:{step}": steps[step] for step in range(1, 4)},
        ),
        "export": Scenario(cold, export, run_of_three),
        "migrate": Scenario(first_schema, run("tags"), {"a:1": a}),
        "config": Scenario(prepare(b_1=b), run("set_setting", "keep_days", "3"), {"b:1": b}),
        "pin": Scenario(prepare(b_1=b), run("pin", "b:1"), {"b:1": b}),
        "open": Scenario(prepare(b_1=b), run("tags"), {"b:1": b}),
        "read": Scenario(cold, read, run_of_three),
        "verify": Scenario(cold, run("verify"), run_of_three),
        "repair": Scenario(
            damaged, run("repair", [ground / "backup"]), {"b:1": b, "a:1": a}, damaged=frozenset({"a:1"})
        ),
        "adopt in place": Scenario(in_place, taking("adopt"), {"b:1": b}, strange, origin=lambda home: home / "models"),
        "adopt and move": Scenario(
            prepare(b_1=b),
            taking("adopt", ground / "bento", move=True),
            {"b:1": b},
            strange,
            around=lambda _: foreign(ground / "bento/models"),
            origin=lambda _: ground / "bento/models",
        ),
        "sync the tree": Scenario(
            out_of_step,
            taking("sync_tree", prune=True),
            {"b:1": b, "d:1": a},
            strange,
            {"c:1": b},
            again=sync_again,
            origin=lambda home: home / "models",
        ),
        "rebuild the catalog": Scenario(no_catalog, rebuild, {"b:1": b, "a:1": a, **run_of_three}, again=rebuild),
    }
    return found[request.param]


def _kill_at(home: Path, operation: Operation, call: str) -> None:
    """Kill the operation at the first call of that kind, on a path in the store that begins like that."""
    name, below = call.split()
    copy = home.parent / "tried"
    copy_store(home, copy)
    tried = tracer.run(lambda: operation(copy), below=copy).calls
    shutil.rmtree(copy)
    is_it = [each.name == name and each.path.startswith(f"{copy}{below}") for each in tried]
    assert tracer.run(lambda: operation(home), below=home, kill_at=is_it.index(True) + 1).killed


NAMES = [
    *("make a store", "save", "save a copy", "save what is known", "save a delta", "save relaxed", "materialize"),
    *("import a tar", "import a casmodel", "export"),
    *("mend", "delete", "gc", "evict", "migrate", "config", "pin", "repair", "rebuild the catalog"),
    *("adopt in place", "adopt and move", "sync the tree"),
]
# Those that change nothing, and so are of no interest to who kills.
READING = ["open", "read", "verify"]


@pytest.fixture
def settled_store(home: Path, store: casstore.Store):
    """settled_store(): gc leaves nothing to do, no file is left over, and everything is sound."""

    def check() -> None:
        store.gc()
        assert {step.count for step in store.gc().steps} == {0}
        assert store.verify().is_sound
        store.close()
        assert leftovers(home) == []

    return check
