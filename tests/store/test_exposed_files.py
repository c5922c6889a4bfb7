"""Root, and whoever may write regardless of modes: what a plain write into a version's directory then does."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.storage import access
from tests.kit import Child, Save, contents, noise, part, plant

BIG = 3_000_000
needs_root = pytest.mark.skipif(not access.ignores_modes(), reason="may not write to read-only files")


@pytest.fixture
def cli(home: Path):
    """cli(*arguments): the finished command on the store."""

    def run(*arguments, check=True):
        command = [sys.executable, "-m", "casstore.cli", *arguments, "--home", str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=check)

    return run


@needs_root
def test_a_plain_write_is_foretold_once(
    store: casstore.Store, home: Path, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        save(f"m:{number}", {"w.bin": noise(BIG, number)})
    store.get("m:1")
    assert not caplog.records
    model = store.get("m:1")
    if os.stat(Path(model.path, "w.bin")).st_nlink == 1:
        pytest.skip("files share blocks here")
    for tag in ("m:1", "m:2"):
        assert store.get(tag).path
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for piece in (str(home / "models/m/1"), "can destroy m:1", "casstore checkout m:1", "link_mode protect"):
        assert piece in record.getMessage()


@needs_root
@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_path_says_it_on_a_terminal_only(store: casstore.Store, home: Path, save: Save, cli, quiet) -> None:
    model = save("m:1", {"w.bin": noise(BIG)})
    if os.stat(Path(model.path, "w.bin")).st_nlink == 1:
        pytest.skip("files share blocks here")
    store.close()
    assert cli("path", "m:1", *quiet).stderr == ""
    above, below = pty.openpty()
    command = [sys.executable, "-m", "casstore.cli", "path", "m:1", "--home", str(home), *quiet]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=below)
    os.close(below)
    said = b""
    try:
        while part := os.read(above, 1000):
            said += part
    except OSError:  # as Linux says that nobody holds the other end
        pass
    os.close(above)
    assert process.communicate()[0].decode().strip() == str(home / "models/m/1")
    assert process.returncode == 0
    assert (b"can destroy" in said) == (not quiet)


def test_a_changed_file_is_named_by_path(store: casstore.Store, home: Path, save: Save, cli) -> None:
    model = save("m:1", {"c.json": b"{}"})
    path = Path(model.path, "c.json")
    path.unlink()
    path.write_bytes(b"other")
    store.close()
    done = cli("path", "m:1")
    assert done.stdout.strip() == str(path.parent)
    assert "warning: m:1 was written to in its directory: c.json moved to" in done.stderr
    assert cli("path", "m:1").stderr == ""
    path.unlink()
    path.write_bytes(b"other")
    assert "c.json moved to" in json.loads(cli("path", "m:1", "--json").stderr)["warning"]


@pytest.mark.parametrize("is_set_later", [True, False])
def test_protect_keeps_what_is_saved_from_any_write(
    store: casstore.Store, save: Save, is_set_later, tmp_path: Path
) -> None:
    files = {"w.bin": noise(BIG), "v.bin": noise(BIG, 1)}
    source = plant(tmp_path / "source", files)
    if not is_set_later:
        store.set_setting("link_mode", "protect")
    store.save("m:1", source)
    save("m:2", files)
    if is_set_later:
        store.close()
        store.set_setting("link_mode", "protect")
    for tag in ("m:1", "m:2"):
        for name in files:
            path = Path(store.get(tag).path, name)
            assert path.stat().st_nlink == 1
            path.chmod(0o644)
            path.write_bytes(b"spoiled")
        assert contents(store.get(tag)) == files
    assert store.verify().is_sound
    kept = [path.read_bytes() for path in (store.home / "quarantine/changed").rglob("*.bin")]
    assert kept == [b"spoiled"] * 4
    assert store.save("m:3", source)
    assert contents(store.get("m:3")) == files


def test_protect_makes_directories_of_copies(store: casstore.Store, save: Save) -> None:
    files = {"w.bin": noise(BIG)}
    save("m:1", files)
    store.close()
    store.gc(evict_all=True)
    store.set_setting("link_mode", "protect")
    assert contents(store.get("m:1")) == files
    assert Path(store.get("m:1").path, "w.bin").stat().st_nlink == 1


@needs_root
def test_protect_finds_the_hardlinks_of_a_store_that_was_copied(
    store: casstore.Store, home: Path, save: Save, tmp_path: Path
) -> None:
    save("m:1", {"w.bin": noise(BIG)})
    store.close()
    subprocess.run(["cp", "-a", home, tmp_path / "copy"], check=True)
    with casstore.Store(tmp_path / "copy") as copy:
        copy.set_setting("link_mode", "protect")
        assert Path(copy.get("m:1").path, "w.bin").stat().st_nlink == 1


def written_over(path: Path, size: int) -> None:
    """As root's plain write does, to a file that is linked to the store's own."""
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(bytes(size))
        file.truncate(size)


@pytest.mark.crash
@pytest.mark.parametrize("size", [BIG, 1000])
def test_a_version_that_is_lost_is_marked(store: casstore.Store, home: Path, save: Save, cli, size) -> None:
    save("m:1", {"w.bin": noise(BIG), "c.json": b"{}"})
    save("m:2", {"w.bin": noise(BIG, 1)})
    save("n:1", {"other/w.bin": noise(BIG)})
    assert store.damaged_tags() == []
    path = Path(store.get("m:1").path, "w.bin")
    if path.stat().st_nlink == 1:
        pytest.skip("files share blocks here")
    os.utime(path, ns=(1, 1))
    assert store.damaged_tags() == []
    written_over(path, size)
    for _ in range(2):
        assert store.damaged_tags() == ["m:1", "n:1"]
    store.close()
    lines = cli("list").stdout.splitlines()
    assert {line.split("\t")[0]: line.split("\t")[5:] for line in lines} == {
        "m:1": ["damaged"], "m:2": [], "n:1": ["damaged"]
    }  # fmt: skip
    versions = json.loads(cli("list", "--json").stdout)["versions"]
    assert {each["tag"]: each["is_damaged"] for each in versions} == {"m:1": True, "m:2": False, "n:1": True}
    for tag in ("m:1", "m:2"):
        assert json.loads(cli("show", tag, "--json").stdout)["is_damaged"] == (tag == "m:1")
        assert ("casstore verify" in cli("show", tag).stdout) == (tag == "m:1")


def test_a_version_whose_container_is_gone_is_marked(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.bin": noise(BIG)})
    save("n:1", part(1))
    save("o:1", part(2))
    (pack, *_) = sorted((home / "objects/packs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    pack.unlink()
    for path in (home / "objects/loose").rglob(f"{casstore.Digest.of(noise(BIG))}*"):
        path.unlink()
    assert store.damaged_tags() == ["m:1", "n:1"]
    save("m:2", {"w.bin": noise(BIG)})
    assert store.damaged_tags() == ["n:1"]


@needs_root
def test_who_may_not_write_to_read_only_files(tmp_path: Path) -> None:
    def look():
        os.setgid(65534)
        os.setuid(65534)
        return int(access.ignores_modes())

    assert Child(look).wait() == 0
    assert access.ignores_modes()


REFLINKS = """
import os, pathlib, subprocess, sys
import casstore
image, mount = sys.argv[1:]
subprocess.run(["mount", "-o", "loop", image, mount], check=True)
try:
    content = os.urandom(20_000_000)
    source = pathlib.Path(mount, "source")
    source.mkdir()
    (source / "w.bin").write_bytes(content)
    def shared(path):
        return subprocess.run(["filefrag", "-v", path], capture_output=True, text=True).stdout.count("shared") > 0
    with casstore.Store(pathlib.Path(mount, "store"), auto_gc=False) as store:
        with store.create("m:1") as draft:
            pathlib.Path(draft.path, "w.bin").write_bytes(content)
        for number in (2, 3):
            store.save(f"m:{number}", source)
        for tag in ("m:1", "m:2", "m:3"):
            path = pathlib.Path(store.get(tag).path, "w.bin")
            assert path.stat().st_nlink == 1 and shared(path), tag
            path.write_bytes(b"spoiled by root")
            assert pathlib.Path(store.get(tag).path, "w.bin").read_bytes() == content
        assert store.verify().is_sound
        print("shared")
finally:
    subprocess.run(["umount", mount], check=True)
"""


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_auto_gives_root_reflinks_where_there_are_any(tmp_path: Path) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    image.touch()
    os.truncate(image, 400 << 20)
    made = subprocess.run(["bash", "-c", f"mkfs.xfs -q -m reflink=1 {image}"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no mkfs.xfs")
    command = [sys.executable, "-W", "error", "-c", REFLINKS, str(image), str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "mount" in done.stderr and "CalledProcessError" in done.stderr and not done.stdout:
        pytest.skip("may not mount")
    assert done.stdout == "shared\n", done.stderr
    assert "share their bytes" not in done.stderr
