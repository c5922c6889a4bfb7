"""Loose files that somebody wrote to through a directory's hardlink, and put their times back: nothing new is made of
them, while what nobody touched is recognised without being read."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from pathlib import Path

import pytest

import casstore
from casstore.actions.saving import staging
from tests.kit import Save, contents, noise, plant, streamed

BIG = 2_500_000


def overwrite(path):
    """Write into a file as its owner may, and leave no trace in its size and times."""
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"overwritten")
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch):
    """reads: grows with every read of a file's content, by its descriptor."""
    found = []
    for name in ("preadv", "pread"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda fd, *rest, real=real: found.append(fd) or real(fd, *rest))
    return found


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch):
    """A file that was changed a moment ago counts as one that has stood for long."""
    monkeypatch.setattr(staging, "_SETTLED_NS", 0)


@pytest.fixture
def touched(store: casstore.Store, save: Save):
    """m:1 with a hardlink of its loose file, which somebody has written to."""
    store.set_setting("link_mode", "auto")
    save("m:1", {"w.bin": noise(BIG)})
    path = Path(store.get("m:1").path) / "w.bin"
    if path.stat().st_nlink < 2:
        pytest.skip("no hardlinks here")
    overwrite(path)
    return path


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("how", ["copy", "move", "draft", "streamed", "link"])
def test_the_same_content_is_stored_from_what_the_caller_has(
    store: casstore.Store, touched, tmp_path: Path, how, is_reopened
) -> None:
    if is_reopened:
        store.close()
    files = {"sub/w.bin": noise(BIG), "small": b"small"}
    source = plant(tmp_path / "source", files)
    if how == "draft":
        with store.create("m:2") as draft:
            plant(draft.path, files)
    elif how == "link":
        with store.create("m:2") as draft:
            shutil.copytree(source, draft.path, copy_function=os.link, dirs_exist_ok=True)
    else:
        store.save("m:2", source, move=how == "move", materialize=how != "streamed")
    assert streamed(store.get("m:2")) == files
    assert contents(store.get("m:2")) == files
    store.repair()
    assert streamed(store.get("m:1")) == {"w.bin": noise(BIG)}
    assert contents(store.get("m:1")) == {"w.bin": noise(BIG)}
    assert store.verify().is_sound


@pytest.mark.parametrize("materialize", [False, True])
def test_what_shares_chunks_is_stored_from_what_the_caller_has(
    store: casstore.Store, touched, save: Save, materialize
) -> None:
    files = {"other.bin": noise(BIG)[:2_000_000] + noise(900_000, 5)}
    save("m:2", files, materialize=materialize)
    assert streamed(store.get("m:2")) == files
    assert contents(store.get("m:2")) == files
    store.repair()
    assert streamed(store.get("m:2")) == files


def test_a_directory_that_was_written_to_is_saved_as_it_stands(store: casstore.Store, touched) -> None:
    """What stands there is what is saved; the version that it was written through does not become right by it."""
    written = touched.read_bytes()
    store.save("m:2", touched.parent)
    assert streamed(store.get("m:2")) == {"w.bin": written}
    assert contents(store.get("m:2")) == {"w.bin": written}
    assert store.verify().damaged_tags == ["m:1"]


@pytest.mark.parametrize("link_mode", ["auto", "hardlink"])
def test_what_nobody_touched_is_not_read_again(
    store: casstore.Store, tmp_path: Path, settled, reads, link_mode, home: Path
) -> None:
    store.set_setting("link_mode", link_mode)
    files = {"w.bin": noise(BIG), "v.bin": noise(BIG, 1)}
    source = plant(tmp_path / "source", files)
    store.save("m:1", source)
    for number in range(2, 5):
        assert reads
        reads.clear()
        model = store.save(f"m:{number}", source)
        assert reads == []
        assert contents(model) == files
    store.close()
    assert reads
    reads.clear()
    store.save("m:5", source)
    assert reads == []


@pytest.fixture
def linked_twice(store: casstore.Store, tmp_path: Path, settled) -> casstore.Model:
    """m:2, whose files are the same as those of m:1, in both directories."""
    store.set_setting("link_mode", "hardlink")
    source = plant(tmp_path / "source", {"w.bin": noise(BIG), "again.bin": noise(BIG), "small": b"x"})
    models = [store.save(f"m:{number}", source) for number in (1, 2)]
    assert os.path.samefile(f"{models[0].path}/w.bin", f"{models[1].path}/again.bin")
    store.close()
    return models[1]


def take_away(store: casstore.Store, how: str) -> None:
    """Remove the directory of m:1."""
    if how == "gc":
        store.set_setting("keep_days", "0")
        store.gc()
    else:
        store.delete("m:1", now=how == "delete for good")
    assert not (store.home / "models/m/1").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells of writers, so that every file is read once more")
@pytest.mark.parametrize("how", ["delete", "delete for good", "gc"])
def test_a_link_that_casstore_removes_is_no_touch(
    store: casstore.Store, linked_twice: casstore.Model, tmp_path: Path, reads: list[int], how: str
) -> None:
    take_away(store, how)
    links = tmp_path / "links"
    links.mkdir()
    for name in ("w.bin", "again.bin"):
        (links / name).symlink_to(os.path.join(linked_twice.path, name))
    store.close()
    reads.clear()
    model = store.save("m:3", links)
    assert reads == []
    assert contents(model) == {"w.bin": noise(BIG), "again.bin": noise(BIG)}


@pytest.mark.parametrize("how", ["delete", "gc"])
def test_a_write_before_casstore_removes_a_link_is_found(
    store: casstore.Store, linked_twice: casstore.Model, tmp_path: Path, how: str
) -> None:
    overwrite(Path(linked_twice.path, "w.bin"))
    take_away(store, how)
    files = contents(store.save("m:3", shutil.copytree(tmp_path / "source", tmp_path / "copy")))
    assert files == {"w.bin": noise(BIG), "again.bin": noise(BIG), "small": b"x"}


def test_saves_go_on_after_gc_has_taken_every_directory(
    store: casstore.Store,
    tmp_path: Path,
    settled,
    reads,
) -> None:
    """gc packs what no directory links, and takes it away."""
    files = {"w.bin": noise(BIG), "v.bin": noise(BIG, 1)}
    source = plant(tmp_path / "source", files)
    store.save("m:1", source)
    store.close()
    store.gc(evict_all=True)
    assert contents(store.save("m:2", source)) == files
    reads.clear()
    model = store.save("m:3", source)
    assert reads == []
    assert contents(model) == files
    assert {tag: streamed(store.get(tag)) for tag in ("m:1", "m:2", "m:3")} == dict.fromkeys(
        ("m:1", "m:2", "m:3"), files
    )
    assert store.verify().is_sound


def test_a_write_after_gc_and_another_save_is_found_too(store: casstore.Store, tmp_path: Path, settled) -> None:
    files = {"w.bin": noise(BIG)}
    source = plant(tmp_path / "source", files)
    store.save("m:1", source)
    store.close()
    store.gc(evict_all=True)
    overwrite(Path(store.save("m:2", source).path) / "w.bin")
    shutil.copytree(source, tmp_path / "copy")
    store.save("m:3", tmp_path / "copy")
    assert streamed(store.get("m:3")) == files
    assert contents(store.get("m:3")) == files


@pytest.mark.parametrize("how", ["delete", "gc"])
@pytest.mark.parametrize("writer", ["has it open", "maps it", "opens it"])
def test_a_write_while_casstore_removes_a_link_is_found(
    store: casstore.Store, linked_twice: casstore.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer, how
) -> None:
    path = Path(linked_twice.path, "w.bin")
    status = path.stat()
    path.chmod(0o644)
    unlink = os.unlink
    late: list[bool] = []

    def write() -> None:
        if writer == "maps it":
            mapped[1000:1011] = b"overwritten"
            mapped.flush()
        else:
            descriptor = held if writer == "has it open" else os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.pwrite(descriptor, b"overwritten", 1000)
        path.chmod(status.st_mode & 0o777)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def unlinked(name, **options):
        if os.path.basename(name) in ("w.bin", "again.bin") and not late:
            try:
                write()
                late.append(False)
            except BlockingIOError:  # a writer that waits comes in when the link is gone, and all is noted
                late.append(True)
        return unlink(name, **options)

    # What was done just now is known, as if it had been so when the file was linked.
    with casstore.Store(store.home) as again:
        again.save("m:known", path.parent)
    held = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(held, 0)
    if writer == "opens it":
        mapped.close()
        os.close(held)
    monkeypatch.setattr(os, "unlink", unlinked)
    take_away(store, how)
    if late == [True]:
        write()
    assert late
    store.close()
    copy = shutil.copytree(tmp_path / "source", tmp_path / "copy")
    assert contents(store.save("m:3", copy)) == {"w.bin": noise(BIG), "again.bin": noise(BIG), "small": b"x"}
