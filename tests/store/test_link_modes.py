"""What each `link_mode` shares with the store, and what a write into a version's directory then harms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, contents, noise, plant, streamed

BIG = 3_000_000


def overwrite(path):
    """Write into a file as its owner may, and leave no trace in its times."""
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(1_500_000)
        file.write(b"overwritten")
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("mode", ["auto", "hardlink"])
def test_a_write_through_a_hardlink_is_found_and_never_spread(store: casstore.Store, save: Save, mode) -> None:
    store.set_setting("link_mode", mode)
    files = {"w.bin": noise(BIG)}
    save("a:1", files)
    model = store.get("a:1")
    path = Path(model.path) / "w.bin"
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(b"overwritten")
    with pytest.raises(casstore.IntegrityError, match=r"w\.bin of a:1"):
        streamed(model)
    assert store.verify().damaged_tags == ["a:1"]
    # What shares chunks with it, or is the same, is stored from the bytes that the caller has.
    other = {"x/w.bin": noise(BIG)[:2_000_000] + noise(900_000, 5)}
    save("other:1", other)
    assert streamed(store.get("other:1")) == other
    save("b:1", files)
    assert streamed(store.get("b:1")) == files
    assert contents(store.get("b:1")) == files
    assert store.repair().damage == ()
    assert contents(store.get("a:1")) == files
    assert store.verify().is_sound


def test_a_write_that_leaves_no_trace_is_found_by_verify(store: casstore.Store, save: Save) -> None:
    save("a:1", {"w.bin": noise(BIG)})
    overwrite(Path(store.get("a:1").path) / "w.bin")
    with pytest.raises(casstore.IntegrityError, match=r"w\.bin of a:1"):
        streamed(store.get("a:1"))
    assert store.verify(quick=True).is_sound
    assert store.verify().damaged_tags == ["a:1"]


def test_a_write_that_its_times_tell_is_found_when_the_directory_is_asked_for(
    store: casstore.Store, save: Save, tmp_path: Path
) -> None:
    save("a:1", {"w.bin": noise(BIG)})
    path = Path(store.get("a:1").path) / "w.bin"
    path.chmod(0o644)
    path.write_bytes(b"short")
    with pytest.raises(casstore.IntegrityError, match=r"w\.bin of a:1"):
        assert store.get("a:1").path
    assert store.verify(quick=True).damaged_tags == ["a:1"]
    assert store.repair([plant(tmp_path / "backup", {"w": noise(BIG)})]).damage == ()
    assert contents(store.get("a:1")) == {"w.bin": noise(BIG)}


def test_gc_does_not_pack_what_was_written_to(store: casstore.Store, save: Save) -> None:
    save("a:1", {"w.bin": noise(BIG)})
    save("a:2", {"w.bin": noise(BIG, 1)})
    overwrite(Path(store.get("a:1").path) / "w.bin")
    store.close()
    with casstore.Store(store.home) as again:
        report = again.gc(evict_all=True)
        assert report.damaged
        assert again.verify().damaged_tags == ["a:1"]
        assert streamed(again.get("a:2")) == {"w.bin": noise(BIG, 1)}
        assert again.repair().damage
        assert again.verify().damaged_tags == ["a:1"]


def test_a_link_mode_that_the_file_system_lacks_is_refused(store: casstore.Store, home: Path) -> None:
    with open(home / "a", "wb") as one, open(home / "b", "wb") as two:
        from casstore.storage.files import try_reflink

        can = try_reflink(one.fileno(), two.fileno())
    (home / "a").unlink()
    (home / "b").unlink()
    if can:
        store.set_setting("link_mode", "reflink")
        return
    with pytest.raises(casstore.InvalidSetting, match="no reflinks; keep link_mode at auto"):
        store.set_setting("link_mode", "reflink")
    assert store.settings()["link_mode"] == "auto"


REFLINK = """
import os, pathlib, shutil, subprocess, sys
import casstore
image, mount = sys.argv[1:]
subprocess.run(["mount", "-o", "loop", image, mount], check=True)
try:
    with casstore.Store(pathlib.Path(mount, "store"), auto_gc=False) as store:
        store.set_setting("link_mode", "reflink")
        content = os.urandom(20_000_000)
        with store.create("m:1") as draft:
            pathlib.Path(draft.path, "w.bin").write_bytes(content)
        used = shutil.disk_usage(mount).used
        for name in ("m:2", "m:3"):
            with store.create(name) as draft:
                pathlib.Path(draft.path, "w.bin").write_bytes(content)
        store.gc()
        for tag in store.tags():
            standing = pathlib.Path(store.get(tag).path, "w.bin")
            assert standing.stat().st_nlink == 1
        shutil.rmtree(store.get("m:1").path)
        standing = pathlib.Path(store.get("m:1").path, "w.bin")
        assert standing.read_bytes() == content and standing.stat().st_nlink == 1
        assert subprocess.run(["filefrag", "-v", standing], capture_output=True, text=True).stdout.count("shared")
        standing.chmod(0o644)
        with open(standing, "r+b") as file:
            file.write(b"spoiled")
        assert pathlib.Path(store.get("m:1").path, "w.bin").read_bytes() == content
        assert store.verify().is_sound
        print("shared")
finally:
    subprocess.run(["umount", mount], check=True)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_reflinks_share_blocks_and_no_harm(tmp_path: Path) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    image.touch()
    os.truncate(image, 400 << 20)
    made = subprocess.run(["bash", "-c", f"mkfs.xfs -q -m reflink=1 {image}"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no mkfs.xfs")
    done = subprocess.run(
        [sys.executable, "-c", REFLINK, str(image), str(mount)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "mount" in done.stderr and "CalledProcessError" in done.stderr and not done.stdout:
        pytest.skip("may not mount")
    assert done.stdout == "shared\n", done.stderr
