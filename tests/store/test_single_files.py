"""One file under a path without its directory, and some files in a directory of their own."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import casstore
from casstore.storage import machine
from tests.kit import Save, noise

FILES = {"sub/w.bin": noise(3_000_000), "config.json": b"{}", "empty": b"", "other.bin": noise(2_000_000, 1)}


@pytest.fixture
def model(save: Save) -> casstore.Model:
    """As it was saved: its files stand as loose files, its directory does not."""
    made = save("m:1", FILES)
    shutil.rmtree(made.path)
    return made


@pytest.fixture
def packed(store: casstore.Store, save: Save) -> casstore.Model:
    save("m:1", FILES)
    store.gc(evict_all=True)
    return store.get("m:1")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")


@pytest.mark.parametrize("how", ["loose", "packed"])
def test_a_file_has_a_path_for_a_while(request, home: Path, temporary: Path, how: str) -> None:
    model = request.getfixturevalue("model" if how == "loose" else "packed")
    for name, content in FILES.items():
        with model.as_file(name) as path:
            assert os.path.basename(path) == os.path.basename(name)
            assert Path(path).read_bytes() == content
            shown = subprocess.run(
                [sys.executable, "-c", f"print(len(open({path!r}, 'rb').read()))"], capture_output=True
            )
            assert int(shown.stdout) == len(content)
        assert not os.path.lexists(path)
    assert list(temporary.iterdir()) == []
    assert not (home / "models/m/1").exists()


def test_a_file_of_a_directory_that_stands_is_that_file(save: Save) -> None:
    model = save("m:1", FILES)
    with model.as_file("sub/w.bin") as path:
        assert path == os.path.join(model.path, "sub/w.bin")


def test_the_descriptor_has_a_path_too(packed: casstore.Model) -> None:
    with packed.as_file("model.yaml") as path:
        assert Path(path).read_text().startswith("name: m\n")


def test_what_was_mapped_outlives_the_path(packed: casstore.Model) -> None:
    with packed.as_file("other.bin") as path, open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapped[:] == FILES["other.bin"]


@linux_only
def test_what_is_lent_cannot_be_written_to(packed: casstore.Model) -> None:
    with packed.as_file("other.bin") as path:
        with pytest.raises(PermissionError), open(path, "r+b", buffering=0) as file:
            file.write(b"x")  # which root comes to
        assert Path(path).read_bytes() == FILES["other.bin"]


@linux_only
def test_no_file_that_shares_bytes_with_the_store_where_none_is_to(
    store: casstore.Store, model: casstore.Model
) -> None:
    store.set_setting("link_mode", "protect")
    inodes = {each.stat().st_ino for each in Path(store.home, "objects/loose").rglob("*")}
    with model.as_file("sub/w.bin") as path:
        assert os.stat(path).st_ino not in inodes


@linux_only
def test_a_file_that_memory_has_no_room_for(
    packed: casstore.Model, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1_000_000)
    with packed.as_file("sub/w.bin") as path:
        assert os.readlink(os.path.realpath(os.path.dirname(path)) + "/w.bin").startswith("/proc/")
        assert Path(path).read_bytes() == FILES["sub/w.bin"]
    assert list(temporary.iterdir()) == []


@linux_only
def test_no_directory_for_temporary_files_is_needed(packed: casstore.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with packed.as_file("config.json") as path:
        assert path.startswith("/proc/")
        assert Path(path).read_bytes() == b"{}"


def test_memory_that_is_available() -> None:
    assert 0 <= machine.available_memory() < 1 << 50
    assert machine.available_memory() or sys.platform != "linux"


def test_a_file_that_is_not_there(store: casstore.Store, packed: casstore.Model) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file 'w.bin'"), packed.as_file("w.bin"):
        pass
    store.delete("m:1")
    with pytest.raises(casstore.TagNotFound), packed.as_file("config.json"):
        pass


def test_damage_is_told_before_there_is_a_path(store: casstore.Store, home: Path, packed: casstore.Model) -> None:
    for pack in (home / "objects/packs").iterdir():
        pack.chmod(0o644)
        pack.write_bytes(bytes(pack.stat().st_size))
    store._workspace.objects.close()
    with pytest.raises(casstore.IntegrityError, match=r"sub/w.bin of m:1 cannot be read"), packed.as_file("sub/w.bin"):
        pass


@pytest.mark.parametrize("how", ["loose", "packed"])
def test_some_files_are_materialized(request, home: Path, how: str) -> None:
    model = request.getfixturevalue("model" if how == "loose" else "packed")
    made = Path(model.materialize(only=["*.bin", "empty"]))
    found = {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert found == {name: content for name, content in FILES.items() if name != "config.json"}
    assert not any(path.stat().st_mode & 0o222 for path in made.rglob("*") if path.is_file())
    assert not (home / "models/m/1").exists()
    assert model.materialize(["sub", "other.bin", "empty"]) == str(made)
    assert os.listdir(model.materialize("config.json")) == ["config.json"]


def test_they_are_gone_with_the_store(home: Path, save: Save) -> None:
    save("m:1", FILES)
    with casstore.Store(home, auto_gc=False) as other:
        made = other.get("m:1").materialize(only="config.json")
        other.gc(evict_all=True)
        assert os.listdir(made) == ["config.json"]
    assert not os.path.exists(made)


def test_all_files_are_the_directory(packed: casstore.Model) -> None:
    assert packed.materialize() == packed.path
    assert os.path.isfile(os.path.join(packed.path, "model.yaml"))


def test_a_pattern_that_fits_none(store: casstore.Store, home: Path, packed: casstore.Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of m:1 is called 'othr.bin'; did you mean other.bin"):
        packed.materialize(only=["config.json", "othr.bin"])
    for link in (False, True):
        with pytest.raises(FileNotFoundError, match="no file of m:1"):
            store.checkout("m:1", tmp_path / "out", only="*.txt", link=link)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [False, True])
def test_some_files_are_checked_out(store: casstore.Store, packed: casstore.Model, tmp_path: Path, link: bool) -> None:
    path = Path(store.checkout("m:1", tmp_path / "out", only=["sub", "config.json"], link=link))
    found = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}
    assert found == {"sub/w.bin", "config.json"}
    assert (path / "sub/w.bin").read_bytes() == FILES["sub/w.bin"]
