"""checkout: a version's files in a directory of one's own, whole or not at all, and never the store's own files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.storage import files as file_system
from casstore.storage import files as storage_files
from tests.kit import Child, Picture, Rot, Save, everything, noise

BIG = 3_000_000


@pytest.fixture
def files():
    """Small and large files, an executable, and an empty directory."""
    return {"w.bin": noise(BIG), "sub/c.json": b"{}", "sub/deep/mid": noise(300_000, 1), "run.sh!": b"#!", "e/f": None}


@pytest.fixture(params=["materialized", "evicted", "packed", "copied"])
def saved(request: pytest.FixtureRequest, store: casstore.Store, save: Save, files):
    """m:1, with a directory, without one, from packs alone, or in a store without links."""
    if request.param == "copied":
        store.set_setting("link_mode", "copy")
    save("m:1", files, materialize=request.param != "packed")
    if request.param == "evicted":
        store.close()
        store.gc(evict_all=True)
    return store


def expected(files):
    return {name.removesuffix("!"): content for name, content in files.items() if content is not None}


def standing(root: Path):
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found.pop("model.yaml").startswith(b"name: m\n")
    return found


def test_the_files_are_ones_own(saved, home: Path, files, tmp_path: Path, picture: Picture) -> None:
    """One link each, which onnx asks of external data."""
    before = picture()
    path = saved.checkout("m", tmp_path / "new/out")
    assert path == str(tmp_path / "new/out")
    assert picture() == before
    root = Path(path)
    assert standing(root) == expected(files)
    assert (root / "e/f").is_dir()
    for each in root.rglob("*"):
        if each.is_file():
            assert each.stat().st_nlink == 1
            assert each.stat().st_mode & 0o222
            each.write_bytes(each.read_bytes() + b"\n")
    assert os.access(root / "run.sh", os.X_OK)
    assert saved.verify().is_sound
    assert [each.name for each in root.parent.iterdir()] == ["out"]
    assert saved.save("m:2", root).file_count == 4


def test_links_are_the_stores_own_files(saved, home: Path, files, tmp_path: Path) -> None:
    root = Path(saved.checkout("m:1", tmp_path / "out", link=True))
    assert standing(root) == expected(files)
    directory = home / "models/m/1"
    for name in expected(files):
        assert os.path.samefile(root / name, directory / name)
        assert not (root / name).stat().st_mode & 0o222
    assert saved.verify().is_sound
    saved.close()
    assert saved.gc(evict_all=True).altered == ()
    assert standing(root) == expected(files)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", ["full", "file", "link to a file", "in the store"])
def test_what_is_there_is_never_touched(store: casstore.Store, save: Save, files, tmp_path: Path, kind, link) -> None:
    save("m:1", files)
    target = tmp_path / "there/out"
    target.parent.mkdir()
    if kind == "full":
        target.mkdir()
        (target / "mine").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    elif kind == "link to a file":
        (tmp_path / "there/mine").write_text("mine")
        target.symlink_to("mine")
    else:
        target = store.home / "models/x"
    before = everything(tmp_path / "there"), everything(store.home / "models")
    error = casstore.InvalidSource if kind == "in the store" else FileExistsError
    with pytest.raises(error, match=r"inside the store|not empty|a file stands there"):
        store.checkout("m:1", target, link=link)
    assert (everything(tmp_path / "there"), everything(store.home / "models")) == before


@pytest.mark.parametrize("how", ["empty", "link", "here"])
def test_an_empty_directory_is_filled(
    store: casstore.Store, save: Save, files, tmp_path: Path, how, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", files)
    (tmp_path / "out").mkdir(mode=0o750)
    (tmp_path / "out").chmod(0o750)
    (tmp_path / "link").symlink_to("out")
    if how == "here":
        monkeypatch.chdir(tmp_path / "out")
    target = {"empty": tmp_path / "out", "link": tmp_path / "link", "here": Path()}[how]
    assert store.checkout("m:1", target) == str(tmp_path / "out")
    assert standing(tmp_path / "out") == expected(files)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    if how == "here":
        assert os.path.samefile(os.curdir, tmp_path / "out")
        assert not [each for each in Path().iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize("is_here", [False, True])
def test_what_is_cut_short_leaves_nothing(
    store: casstore.Store, save: Save, files, rot: Rot, is_here, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", files, materialize=False)
    for path in store.home.glob("objects/packs/*"):
        rot(path)
    target = store.home.parent / "out"
    if is_here:
        target.mkdir()
        monkeypatch.chdir(target)
    with pytest.raises(casstore.IntegrityError, match=r"w\.bin|blob|chunk"):
        store.checkout("m:1", target)
    assert list(target.iterdir() if is_here else store.home.parent.glob(".*")) == []
    assert target.exists() == is_here


def test_an_interrupt_leaves_nothing(
    store: casstore.Store, save: Save, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", files)
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(file_system, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.checkout("m:1", tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store"]


def test_a_killed_one_leaves_no_directory(
    store: casstore.Store, save: Save, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    save("m:1", files)

    def die():
        monkeypatch.setattr(storage_files, "rename", lambda *_: os._exit(7))
        casstore.Store(home).checkout("m:1", tmp_path / "out")

    assert Child(die).wait() == 7
    assert not (tmp_path / "out").exists()
    store.checkout("m:1", tmp_path / "out")


def test_links_that_cannot_be_had(store: casstore.Store, save: Save, files, tmp_path: Path) -> None:
    save("m:1", files)
    other = Path("/dev/shm" if os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev else "/var/tmp")
    if os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no other file system")
    target = other / f"casstore-{os.getpid()}"
    with pytest.raises(casstore.InvalidSource, match="leave out --link"):
        store.checkout("m:1", target, link=True)
    assert not list(other.glob(f".*{os.getpid()}*"))
    assert not target.exists()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_volume_is_filled(store: casstore.Store, save: Save, files, tmp_path: Path) -> None:
    save("m:1", files)
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", volume], capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        store.checkout("m:1", volume)
        assert standing(volume) == expected(files)
        with pytest.raises(FileExistsError, match="not empty"):
            store.checkout("m:1", volume)
    finally:
        subprocess.run(["umount", volume], check=True)


def test_as_typed(store: casstore.Store, home: Path, save: Save, files, tmp_path: Path) -> None:
    import json

    save("m:1", files)
    store.close()

    def cli(*arguments):
        command = [sys.executable, "-m", "casstore.cli", *arguments, "--home", str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert cli("checkout", "m", "out").stdout == f"{tmp_path / 'out'}\n"
    again = cli("checkout", "m", "out")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(f"error: {tmp_path / 'out'}: it is not empty; name a directory")
    answer = json.loads(cli("checkout", "m:1", "linked", "--link", "--json").stdout)
    assert answer == {
        "tag": "m:1", "path": str(tmp_path / "linked"), "size_bytes": BIG + 300_004, "file_count": 4
    }  # fmt: skip
    assert cli("checkout", "m:2", "other").returncode == 12
    assert "casstore checkout bert work/" in cli("checkout", "--help").stdout
