"""Files and directories of a draft that somebody writes to, or puts others in the place of, while it is being saved:
what has been hashed is what is kept, or nothing is, and what is outside of the draft stays as it is."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.saving import commit, staging
from casstore.storage import chunking
from tests.kit import Leftovers, Picture, Save, contents, noise, plant, streamed

pytestmark = pytest.mark.crash

SIZES = {"small": 1000, "linked": 100_000, "adopted": 2_500_000}
SIZE = {**SIZES, "copied": 2_000_000}


def state(root):
    """Every path below with its mode, its bytes, and of files how many links they have."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        is_file = path.is_file()
        found[str(path)] = (status.st_mode, status.st_nlink if is_file else 0, path.read_bytes() if is_file else None)
    return found


@pytest.fixture
def outside(tmp_path: Path):
    """A tree that is no part of any draft, and that must be afterwards what it was before."""
    root = plant(tmp_path / "outside", {"w.bin": noise(SIZES["adopted"], 7), "sub/w.bin": b"outside", "sub/x!": b"x"})
    (root / "sub").chmod(0o755)
    before = state(root)
    yield root
    assert state(root) == before


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """at(moment, act): do it once, when a save has come so far."""

    def install(moment, act):
        done: list[Any] = []

        def once():
            if not done:
                done.append(act())

        module, name = {
            "found": (staging.Staging, "_recognise"),
            "hashed": (chunking, "scan_file"),
            "hashed small": (chunking, "scan_bytes"),
            "staged": (staging.Staging, "stage"),
            "stored": (commit, "_sync"),
        }[moment]
        real = getattr(module, name)

        def hooked(*arguments, **options):
            result = real(*arguments, **options)
            once()
            return result

        monkeypatch.setattr(module, name, hooked)
        return done

    return install


@dataclass(frozen=True)
class Saving:
    """A save that something is done to at a moment, what is beside it, and how to look at the store."""

    at: Callable[[str, Callable[[], object]], list[Any]]
    outside: Path
    leftovers: Leftovers
    picture: Picture


@pytest.fixture
def saving(at, outside: Path, leftovers: Leftovers, picture: Picture) -> Saving:
    return Saving(at, outside, leftovers, picture)


def put_back(path, act):
    """Change a file, and then its times to what they were."""
    status = path.stat()
    act()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def write(path, data):
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(data)


def change(how, path, outside):
    size = path.stat().st_size
    other = b"\0" * size
    if how == "replaced":
        (path.parent / "next").write_bytes(other)
        os.replace(path.parent / "next", path)
    elif how == "linked":
        (path.parent / "next").symlink_to(outside / "w.bin")
        os.replace(path.parent / "next", path)
    elif how == "piped":
        os.mkfifo(path.parent / "next")
        os.replace(path.parent / "next", path)
    elif how == "written":
        write(path, other)
    elif how == "written, times put back":
        put_back(path, lambda: write(path, other))
    elif how == "truncated":
        path.chmod(0o644)
        os.truncate(path, size // 2)
    else:
        path.unlink()


WAYS = ["replaced", "linked", "piped", "written", "written, times put back", "truncated", "removed"]
IN_PLACE = {"written", "written, times put back", "truncated"}


def length(how, size):
    return SIZE[size] // (2 if how == "truncated" else 1)


def moment_of(moment, size):
    return "hashed small" if (moment, size) == ("hashed", "small") else moment


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("moment", ["found", "hashed", "staged", "stored"])
@pytest.mark.parametrize("size", [*SIZES, "copied"])
def test_a_file_of_a_draft(store: casstore.Store, size, moment, how, saving: Saving) -> None:
    if size == "copied":
        store.set_setting("link_mode", "copy")
    before = saving.picture()
    # What is written to before it is hashed is saved as it then stands.
    is_saved = moment == "found" and how in IN_PLACE
    error = (
        contextlib.nullcontext() if is_saved else pytest.raises(casstore.FileChanged, match=r"w\.bin was written to")
    )
    with error, store.create("m:1") as draft:
        path = Path(draft.path, "w.bin")
        path.write_bytes(noise(SIZE[size]))
        done = saving.at(moment_of(moment, size), lambda: change(how, path, saving.outside))
    assert done
    if is_saved:
        assert len(contents(draft.model)["w.bin"]) == length(how, size)
    else:
        assert saving.picture() == before
    assert saving.leftovers() == []
    assert store.verify().is_sound


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("moment", ["found", "hashed", "staged", "stored"])
@pytest.mark.parametrize("size", ["small", "adopted"])
def test_a_file_that_is_moved_in(store: casstore.Store, size, moment, how, saving: Saving) -> None:
    files = {"w.bin": noise(SIZES[size]), "z": b"z"}
    source = plant(saving.outside.parent / "source", files)
    path = source / "w.bin"
    mode = path.stat().st_mode
    saving.at(moment_of(moment, size), lambda: change(how, path, saving.outside))
    try:
        model = store.save("m:1", source, move=True)
    except casstore.FileChanged:
        assert store.tags() == []
        assert (source / "z").read_bytes() == b"z"
        if how == "replaced":
            assert path.read_bytes() == bytes(SIZES[size])
            assert path.stat().st_mode == mode
    else:
        assert moment in ("staged", "stored") or (moment == "found" and how in IN_PLACE)
        assert how not in IN_PLACE or moment == "found"
        assert contents(model) == streamed(model)
        assert moment == "found" or streamed(model) == files
        if how in ("replaced", "linked", "piped"):
            assert os.path.lexists(path)
    assert saving.leftovers() == []
    assert store.verify().is_sound


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("moment", ["found", "hashed", "staged"])
@pytest.mark.parametrize("size", ["small", "adopted"])
def test_a_file_of_a_draft_without_a_directory(store: casstore.Store, size, moment, how, saving: Saving) -> None:
    try:
        with store.create("m:1", materialize=False) as draft:
            path = Path(draft.path, "w.bin")
            path.write_bytes(noise(SIZES[size]))
            saving.at("hashed" if moment == "hashed" else moment, lambda: change(how, path, saving.outside))
    except casstore.FileChanged:
        assert store.tags() == []
    else:
        assert moment == "found"
        assert how in {*IN_PLACE, "replaced"}
        assert len(streamed(draft.model)["w.bin"]) == length(how, size)
    assert saving.leftovers() == []
    assert store.verify().is_sound


@pytest.mark.parametrize("how", ["replaced", "written", "written, times put back"])
@pytest.mark.parametrize("moment", ["found", "staged", "stored"])
@pytest.mark.parametrize("kind", ["linked here", "known", "twin"])
def test_a_file_of_a_draft_whose_content_is_known(
    store: casstore.Store, save: Save, kind, moment, how, saving: Saving
) -> None:
    """It is replaced by a link to what the store has, unless it is another by then."""
    if how in IN_PLACE and moment != "found" and kind != "twin":
        pytest.skip("it is the store's own file by then")
    content = noise(SIZES["adopted"])
    save("known:1", {"w.bin": content})
    try:
        with store.create("m:1") as draft:
            path = Path(draft.path, "w.bin")
            if kind == "linked here":  # by somebody, so it cannot be taken
                (saving.outside.parent / "mine").write_bytes(content)
                os.link(saving.outside.parent / "mine", path)
            else:
                path.write_bytes(noise(SIZES["adopted"], 3) if kind == "twin" else content)
            if kind == "twin":
                shutil.copy(path, path.with_name("a.bin"))
            saving.at(moment, lambda: change(how, path, saving.outside))
    except casstore.FileChanged:
        assert store.tags() == ["known:1"]
    else:
        assert moment == "found" or how in IN_PLACE
        for name, data in streamed(draft.model).items():
            assert Path(draft.model.path, name).read_bytes() == data
    assert streamed(store.get("known:1")) == {"w.bin": content}


def test_a_writer_that_goes_on_leaves_no_version_that_cannot_be_read(store: casstore.Store) -> None:
    """Each acknowledged version holds one checkpoint in full, and its directory the same."""
    size = 300_000
    saved = 0
    for _ in range(40):
        stop, ready = threading.Event(), threading.Event()
        refused = (
            casstore.FileChanged,
            casstore.InvalidSource,
        )  # the latter of a file that is gone when it is looked at
        with contextlib.suppress(*refused), store.create("m", durability="relaxed") as draft:
            writer = threading.Thread(target=keep_replacing, args=(draft.path, size, stop, ready))
            writer.start()
            ready.wait()
            try:
                draft.__exit__(None, None, None)
            finally:
                stop.set()
                writer.join()
        if draft._model is not None:
            saved += 1
            (name, data), *_ = sorted(streamed(draft.model).items())
            assert (name, len(data), len(set(data))) == ("ckpt.bin", size, 1)
            assert Path(store.get(draft.tag).path, name).read_bytes() == data
    assert store.verify().is_sound


def keep_replacing(directory, size, stop, ready):
    path = Path(directory)
    for number in itertools.count():
        try:
            (path / "next").write_bytes(bytes([number % 256]) * size)
            os.replace(path / "next", path / "ckpt.bin")
        except OSError:
            return  # the directory has become the version's
        finally:
            ready.set()
        if stop.is_set():
            return


# Directories: of the whole draft, or one in it.


@pytest.mark.parametrize("materialize", [True, False])
def test_a_draft_that_has_become_a_link(store: casstore.Store, outside, picture: Picture, materialize) -> None:
    before = picture()
    draft = store.create("m:1", materialize=materialize).__enter__()
    os.rmdir(draft.path)
    os.symlink(outside, draft.path)
    with pytest.raises(casstore.InvalidSource, match=r"replaced by a link to .*outside, .*store\.save"):
        draft.__exit__(None, None, None)
    assert picture() == before


def test_a_draft_whose_directory_is_made_again_is_saved(store: casstore.Store, outside) -> None:
    with store.create("m:1") as draft:
        os.rmdir(draft.path)
        shutil.copytree(outside, draft.path)
    assert contents(draft.model).keys() == {"w.bin", "sub/w.bin", "sub/x"}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("swapped", list(itertools.product(["", "sub"], ["another", "the same, moved"])), ids=" ".join)
@pytest.mark.parametrize("moment", ["found", "hashed", "staged", "stored"])
def test_a_directory_of_a_draft_that_becomes_a_link(
    store: casstore.Store, save: Save, moment, swapped, known, saving: Saving
) -> None:
    below, kind = swapped
    files = {"sub/w.bin": noise(SIZES["adopted"]), "sub/small": b"s", "w.bin": noise(SIZES["linked"], 1)}
    if known:
        save("known:1", {"a": files["sub/w.bin"]})
    before = saving.picture()
    moved = saving.outside.parent / "moved"

    def swap():
        directory = Path(draft.path, below)
        directory.rename(moved)
        directory.symlink_to(moved if kind == "the same, moved" else saving.outside / below)

    draft = store.create("m:1").__enter__()
    plant(draft.path, files)
    if known:
        os.unlink(Path(draft.path, "sub/w.bin"))
        plant(saving.outside.parent, {"mine": files["sub/w.bin"]})
        os.link(saving.outside.parent / "mine", Path(draft.path, "sub/w.bin"))
    done = saving.at(moment, swap)
    with pytest.raises((casstore.InvalidSource, casstore.FileChanged)):
        draft.__exit__(None, None, None)
    assert done
    assert known or saving.picture() == before
    assert store.tags() == (["known:1"] if known else [])
    assert store.verify().is_sound
    assert {path.stat().st_mode & 0o444 for path in moved.rglob("*")} == {0o444}


def test_a_version_whose_directory_is_a_link_is_deleted_without_what_it_leads_to(
    store: casstore.Store, save: Save, outside
) -> None:
    """As stores have them that were written before."""
    save("m:1", {"w": b"w"})
    directory = Path(store.get("m:1").path)
    shutil.rmtree(directory)
    directory.symlink_to(outside)
    store.delete("m:1")
    store.gc()


@pytest.mark.parametrize("how", ["replaced", "linked", "piped"])
def test_a_failed_move_gives_nobody_else_s_file_a_mode(store: casstore.Store, at, outside, how) -> None:
    source = plant(outside.parent / "source", {"a.bin": noise(SIZES["adopted"]), "w.bin": noise(SIZES["adopted"], 1)})

    def swap():
        change(how, source / "a.bin", outside)
        change("written", source / "w.bin", outside)
        if how == "replaced":
            (source / "a.bin").chmod(0o400)

    at("staged", swap)
    with pytest.raises(casstore.FileChanged):
        store.save("m:1", source, move=True)
    if how == "replaced":
        assert (source / "a.bin").stat().st_mode & 0o777 == 0o400
    assert (source / "w.bin").stat().st_mode & 0o777 == 0o644
