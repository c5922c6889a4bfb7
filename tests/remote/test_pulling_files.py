"""Some files of a version out of a remote: only what they are made of travels, and they stand there whole or not."""

from __future__ import annotations

import os
import shutil
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import pull_files
from casstore.cli.exits import ExitCode
from casstore.remote import fetching
from casstore.remote.directory import DirectoryBackend
from tests.cli.conftest import Cli
from tests.kit import everything, noise, plant
from tests.remote.counting import Requests, requests
from tests.remote.rewriting import Rewriting, pushed, step
from tests.remote.test_remote_damage import merged

__all__ = ["requests"]
MIB = 1 << 20
FILES = {
    "model.safetensors": noise(3 * MIB, 1),
    "onnx/model.onnx": noise(MIB, 2),
    "onnx/quantized/model.onnx": noise(MIB // 2, 3),
    "config.json": b'{"layers": 2}',
    "same.json": b'{"layers": 2}',
    "empty": b"",
    "bin/run": b"#!/bin/sh\n",
    "a[1].txt": b"of a name with brackets",
}
ONNX = [path for path in sorted(FILES) if path.startswith("onnx/")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    plant(root / "files", FILES)
    (root / "files/bin/run").chmod(0o755)
    with casstore.Store(root / "origin") as store:
        store.save("bert:v1", root / "files")
        store.add_remote("origin", str(root / "remote")).push()
    return root / "remote"


@pytest.fixture
def there(template: Path) -> Iterator[casstore.RemoteModel]:
    with casstore.Remote(str(template)) as alone:
        yield alone.get("bert:v1")


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_asked_for_comes_and_no_more(there: casstore.RemoteModel, requests: Requests, tmp_path: Path) -> None:
    requests.clear()
    done = there.checkout(tmp_path / "out", ["onnx/", "bin/*", "empty"])
    wanted = ["bin/run", "empty", *ONNX]
    assert (done.directory, list(done.written), list(done.left)) == (str(tmp_path / "out"), wanted, [])
    assert read(tmp_path / "out") == {path: FILES[path] for path in wanted}
    assert requests["received"] == done.received_bytes <= 1.6 * MIB
    assert requests.made <= 4
    modes = {path: stat.S_IMODE((tmp_path / "out" / path).stat().st_mode) for path in wanted}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {path: (0o777 if path == "bin/run" else 0o666) & ~mask for path in wanted}


def test_every_file(there: casstore.RemoteModel, tmp_path: Path) -> None:
    assert there.checkout(tmp_path / "out").written == sorted(FILES)
    assert read(tmp_path / "out") == FILES


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("*.json", ["config.json", "same.json"]),
        ("*.onnx", ONNX),
        ("onnx", ONNX),
        ("onnx/*/model.onnx", ONNX[1:]),
        ("a[1].txt", ["a[1].txt"]),
        ("config.jso?", ["config.json"]),
    ],
)
def test_patterns(there: casstore.RemoteModel, tmp_path: Path, pattern: str, fitting: list[str]) -> None:
    assert there.checkout(tmp_path / "out", pattern).written == fitting


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("model.onx", "did you mean onnx/model.onnx"),
        ("confg.json", "did you mean config.json"),
        ("/etc/passwd", "it has a"),
        ("../*", "it has a"),
        ("onn", "is called 'onn'"),
    ],
)
def test_what_fits_nothing_is_told_before_anything_is_made(
    there: casstore.RemoteModel, tmp_path: Path, pattern: str, advice: str
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        there.checkout(tmp_path / "out", ["config.json", pattern])
    assert advice in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays_or_gives_way(there: casstore.RemoteModel, requests: Requests, tmp_path: Path) -> None:
    out = plant(tmp_path / "out", {"config.json": b"mine", "onnx/model.onnx": FILES["onnx/model.onnx"], "other": b"o"})
    before = everything(out)
    requests.clear()
    with pytest.raises(FileExistsError, match="replace") as caught:
        there.checkout(out, ["*.json", "onnx"])
    assert caught.value.filename == str(out / "config.json")
    assert (everything(out), requests.made) == (before, 0)
    inode = (out / "onnx/model.onnx").stat().st_ino
    done = there.checkout(out, ["*.json", "onnx"], replace=True)
    assert (done.written, done.left) == (["config.json", "onnx/quantized/model.onnx", "same.json"], ["onnx/model.onnx"])
    assert (out / "onnx/model.onnx").stat().st_ino == inode
    assert done.received_bytes < 0.6 * MIB
    assert there.checkout(out, ["*.json", "onnx"]).received_bytes == 0
    assert (out / "other").read_bytes() == b"o"


def test_nothing_is_written_through_links(there: casstore.RemoteModel, tmp_path: Path) -> None:
    plant(tmp_path / "elsewhere", {"config.json": b"of somebody else"})
    before = everything(tmp_path / "elsewhere")
    out = plant(tmp_path / "out", {})
    out.mkdir(exist_ok=True)
    (out / "onnx").symlink_to(tmp_path / "elsewhere")
    (out / "config.json").symlink_to(tmp_path / "elsewhere/config.json")
    with pytest.raises(FileExistsError, match="a symbolic link stands where"):
        there.checkout(out, "onnx", replace=True)
    with pytest.raises(FileExistsError, match="replace"):
        there.checkout(out, "config.json")
    there.checkout(out, "config.json", replace=True)
    assert (out / "config.json").read_bytes() == FILES["config.json"]
    assert everything(tmp_path / "elsewhere") == before
    (out / "empty").mkdir()
    with pytest.raises(FileExistsError, match="a directory stands where"):
        there.checkout(out, "empty", replace=True)


def test_what_the_store_has_is_not_asked_for(template: Path, requests: Requests, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "store", auto_gc=False) as store:
        plant(tmp_path / "mine", {"weights": FILES["model.safetensors"]})
        store.save("mine:1", tmp_path / "mine")
        model = store.add_remote("origin", str(template), make=False).get("bert")
        requests.clear()
        assert model.checkout(tmp_path / "out", "model.safetensors").received_bytes == requests.made == 0
        assert read(tmp_path / "out") == {"model.safetensors": FILES["model.safetensors"]}
        with model.open("model.safetensors") as file:
            assert file.read() == FILES["model.safetensors"]
        assert requests.made == 0
        assert store.tags() == ["mine:1"]
        with pytest.raises(casstore.InvalidSource, match="inside the store"):
            model.checkout(store.home / "objects/out")


def test_what_is_damaged_here_or_gone_is_asked_for(template: Path, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "store", auto_gc=False) as store:
        plant(tmp_path / "mine", {"weights": FILES["model.safetensors"]})
        store.save("mine:1", tmp_path / "mine", materialize=False)
        for path in (store.home / "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                path.write_bytes(bytes(path.stat().st_size))
        model = store.add_remote("origin", str(template), make=False).get("bert")
        assert model.checkout(tmp_path / "out", "model.safetensors").received_bytes >= 3 * MIB
        assert read(tmp_path / "out") == {"model.safetensors": FILES["model.safetensors"]}
        with model.open("model.safetensors") as file:
            assert file.read() == FILES["model.safetensors"]


def test_deltas_against_what_is_here_and_what_is_not(tmp_path: Path) -> None:
    place = pushed(tmp_path)
    for number in (1, 2, 3):
        with casstore.Remote(str(place)) as alone:
            whole = alone.get(f"run:{number}").checkout(tmp_path / f"out-{number}")
        assert read(tmp_path / f"out-{number}") == step(number)
        with casstore.Store(tmp_path / f"store-{number}", auto_gc=False) as store:
            there = store.add_remote("origin", str(place), make=False)
            there.pull("run:2")
            model = there.get(f"run:{number}")
            part = model.checkout(tmp_path / f"part-{number}")
            assert part.received_bytes < 0.4 * whole.received_bytes
            assert {file.path: model.open(file.path).read() for file in model.files} == step(number)
        assert read(tmp_path / f"part-{number}") == step(number)


def test_damage_is_gone_round_or_named_and_leaves_nothing(tmp_path: Path) -> None:
    remote, files = merged(tmp_path)
    (own,) = {*remote.packs("run:2")} - {*remote.packs("run:1")}
    kept = remote.body(own)
    harms = [lambda: remote.flip(own, len(kept) // 2), lambda: (remote.root / own).unlink()]
    for number, harm in enumerate(harms):
        with casstore.Remote(str(remote.root)) as alone:
            model = alone.get("run:2")
            harm()
            model.checkout(tmp_path / f"out-{number}")
            assert read(tmp_path / f"out-{number}") == files["run:2"]
    remote.put(own, kept)
    lone = Rewriting(pushed(tmp_path / "lone"))
    (own,) = {*lone.packs("run:3")} - {*lone.packs("run:1")} - {*lone.packs("run:2")}
    lone.flip(own, len(lone.body(own)) // 2)
    with casstore.Remote(str(lone.root)) as alone, pytest.raises(casstore.IntegrityError, match=own):
        alone.get("run:3").checkout(tmp_path / "lone/out")
    assert not list((tmp_path / "lone").rglob(".casstore-*"))


def test_a_version_that_is_deleted_or_packed_anew_meanwhile(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "remote")
    with casstore.Remote(str(tmp_path / "remote")) as alone:
        model = alone.get("bert")
        for pack in (tmp_path / "remote/packs").rglob("*.pack"):
            pack.unlink()
        with pytest.raises(casstore.IntegrityError, match=r"is gone.*push it again"):
            model.checkout(tmp_path / "out")
        alone.delete("bert:v1")
        with pytest.raises(casstore.TagNotFound):
            model.checkout(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / "own").mkdir()
        with pytest.raises(casstore.TagNotFound):
            model.checkout(tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


def test_what_has_come_need_not_come_again(
    there: casstore.RemoteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_files, "_GROUP_BYTES", MIB)
    monkeypatch.setattr(fetching, "_BATCH_BYTES", MIB)
    real, asked = DirectoryBackend.get_range, []

    def get_range(backend: DirectoryBackend, key: str, start: int, length: int) -> bytes:
        asked.append(length)
        if len(asked) == 4:
            raise casstore.RemoteError("the line is cut")
        return real(backend, key, start, length)

    monkeypatch.setattr(DirectoryBackend, "get_range", get_range)
    with pytest.raises(casstore.RemoteError, match="the line is cut"):
        there.checkout(tmp_path / "out")
    came = read(tmp_path / "out")
    assert came.items() <= FILES.items()
    assert 0 < len(came) < len(FILES)
    done = there.checkout(tmp_path / "out")
    assert sorted(done.left) == sorted(came)
    assert read(tmp_path / "out") == FILES


def test_a_large_file_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_BATCH_BYTES", 4 * MIB)
    content = noise(48 * MIB, 5)
    with casstore.Store(tmp_path / "store") as store:
        plant(tmp_path / "files", {"w": content})
        store.save("big:1", tmp_path / "files", materialize=False)
        store.add_remote("origin", str(tmp_path / "remote")).push()
    with casstore.Remote(str(tmp_path / "remote")) as alone:
        model = alone.get("big")
        tracemalloc.start()
        try:
            model.checkout(tmp_path / "out", "w")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 32 * MIB
    assert (tmp_path / "out/w").read_bytes() == content


# On the command line.


@pytest.fixture
def cli(template: Path, tmp_path: Path) -> Cli:
    with casstore.Store(tmp_path / "home") as store:
        store.add_remote("origin", str(template), make=False)
    return Cli(tmp_path / "home")


def test_pull_of_files(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "bert-v1"
    assert cli("pull", "bert", "--file", "onnx", "--file", "*.json").out.splitlines() == [
        f"{out}/{path}\tnew" for path in ["config.json", *ONNX, "same.json"]
    ]
    done = cli("pull", "bert:v1", "--file", "config.json", "--json").json
    assert done == {"tag": "bert:v1", "path": str(out), "received_bytes": 0, "written": [], "present": ["config.json"]}
    assert "is there already" in cli.on_terminal("pull", "bert:v1", "--file", "config.json")
    (out / "config.json").write_text("mine")
    done = cli("pull", "bert:v1", "--file", "config.json", code=ExitCode.FAILED)
    assert f"{out}/config.json: " in done.err
    assert "--replace" in done.err
    screen = cli.on_terminal("pull", "bert:v1", "--file", "*.json", "--replace", "-o", out)
    assert "1 file of bert:v1: " in screen
    assert "did you mean config.json" in cli("pull", "bert:v1", "--file", "confg.json", code=ExitCode.NOT_FOUND).err
    assert cli("list").out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("bert", "--replace"), ("bert", "-o", "x"), ("--all", "--file", "x"), ("--file", "x"),
        ("bert", "gpt", "--file", "x"), ("bert", "--as", "a:1", "--file", "x"), ("bert", "--trust", "--file", "x"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(cli: Cli, words: tuple[str, ...]) -> None:
    assert "--file" in cli("pull", *words, code=ExitCode.USAGE).err
