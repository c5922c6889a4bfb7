"""A draft in which something cannot be listed is kept, and can be saved, like any other."""

# ruff: noqa: PT012, SIM117 - what is refused is refused at the end of a with block
from __future__ import annotations

import codecs
import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import Child, known

USER, OTHER = 61_001, 61_002
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place():
    """A directory in which an ordinary user may make a store."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def run_as_user():
    """run_as_user(function): in a process of one whom modes keep from files, unlike root."""

    def run(function):
        def become():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(USER)
                os.setuid(USER)
            function()

        # What is imported late, where Python is below a directory of root's.
        time.strptime("2000", "%Y")
        codecs.lookup("ascii")
        assert Child(become).wait() == 0

    return run


@pytest.fixture
def immutable():
    """immutable(path): it is, within a `with` block, also to root."""

    @contextlib.contextmanager
    def held(path):
        chattr = shutil.which("chattr")
        if chattr is None or subprocess.run([chattr, "+i", path], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be made immutable here")
        try:
            yield
        finally:
            subprocess.run([chattr, "-i", path], check=True)

    return held


def _keep(store, write):
    """Have a draft with these files be kept, and return it."""
    with pytest.raises(casstore.CasstoreError) as caught, store.create("m:v1") as draft:
        write(Path(draft.path))
        draft.metadata["loss"] = []
        draft.metadata["loss"].append(object())
    [kept] = store.drafts()
    assert caught.value.draft_path == kept.path
    return kept


@pytest.mark.parametrize("mode", [0, 0o100, 0o400, 0o555])
@pytest.mark.parametrize("closed", ["", "deep", "deep/er"])
def test_a_directory_that_its_owner_has_closed(place, run_as_user, mode, closed) -> None:
    def write(root):
        (root / "deep/er").mkdir(parents=True)
        (root / "deep/er/w").write_bytes(b"weights")
        (root / closed).chmod(mode)

    def run():
        with casstore.Store(place / "store") as store:
            kept = _keep(store, write)
            assert kept.file_count == 1
            assert store.save_draft(kept).open("deep/er/w").read() == b"weights"
            assert store.drafts() == []
            assert os.listdir(store.home / "drafts") == []
            assert store.verify().is_sound

    run_as_user(run)


def test_one_that_is_closed_while_it_is_kept(place, run_as_user) -> None:
    def run():
        with casstore.Store(place / "store") as store:
            kept = _keep(store, lambda root: (root / "w").write_bytes(b"weights"))
            shutil.copytree(kept.path, f"{kept.path}/more")
            Path(kept.path, "more").chmod(0o555)
            Path(kept.path).chmod(0o555)
            assert store.save_draft(kept).file_count == 2
            assert store.drafts() == []

    run_as_user(run)


def test_other_modes_stay_as_they_are(store: casstore.Store) -> None:
    def write(root):
        (root / "shared").mkdir()
        (root / "shared").chmod(0o2050)

    kept = _keep(store, lambda root: (write(root), (root / "w").write_bytes(b"w")))
    assert Path(kept.path, "shared").stat().st_mode & 0o7777 == 0o2750


@as_root
def test_a_directory_of_another_user(place, run_as_user) -> None:
    """As a container leaves it, in which root has written."""
    kept: list[Any] = []
    read, write = os.pipe()

    def first():
        with casstore.Store(place / "store") as store, pytest.raises(casstore.CasstoreError) as caught:
            with store.create("m:v1") as draft:
                os.write(write, draft.path.encode() + b"\n")
                os.read(go, 1)
        kept.append(caught.value.draft_path)
        assert Path(known(caught.value.draft_path)).is_relative_to(store.home / "drafts")

    go, tell = os.pipe()
    if not (pid := os.fork()):
        os.close(write)
        if not (path := os.read(read, 4096).decode().strip()):  # the other has failed
            os._exit(1)
        os.mkdir(f"{path}/sub")
        Path(path, "sub/w").write_bytes(b"weights")
        os.chown(f"{path}/sub", OTHER, OTHER)
        os.chmod(f"{path}/sub", 0o700)
        os.write(tell, b"!")
        os._exit(0)
    try:
        run_as_user(first)
    finally:
        os.close(write)
        os.waitpid(pid, 0)

    def second():
        with casstore.Store(place / "store") as store:
            [draft] = store.drafts()
            with pytest.raises(casstore.InvalidSource) as caught:
                store.save_draft(draft)
            assert f"{draft.path}/sub belongs to another user" in str(caught.value)
            assert f"chown -R {USER} {draft.path}" in str(caught.value)
            assert "--move" not in str(caught.value)
            assert store.drafts() == [draft]

    run_as_user(second)
    [path] = place.glob("store/drafts/*/files/sub")
    os.chown(path, USER, USER)

    def third():
        with casstore.Store(place / "store") as store:
            assert store.save_draft(store.drafts()[0], "m:v1").open("sub/w").read() == b"weights"

    run_as_user(third)


def test_a_directory_that_an_attribute_keeps_as_it_is(store: casstore.Store, immutable) -> None:
    def write(root):
        (root / "sub").mkdir()
        (root / "sub/w").write_bytes(b"weights")

    kept = _keep(store, write)
    with immutable(Path(kept.path, "sub")), pytest.raises(casstore.InvalidSource) as caught:
        store.save_draft(kept)
    assert f"{kept.path}/sub is immutable" in str(caught.value)
    assert f"`sudo chattr -R -i {kept.path}`" in str(caught.value)
    assert "another user" not in str(caught.value)
    assert store.save_draft(kept).open("sub/w").read() == b"weights"


@as_root
def test_a_directory_that_is_mounted_read_only(store: casstore.Store) -> None:
    kept = _keep(store, lambda root: ((root / "sub").mkdir(), (root / "sub/w").write_bytes(b"weights")))
    place = Path(kept.path, "sub")
    if subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        with pytest.raises(casstore.InvalidSource, match="sub is on a disk that is mounted read-only") as caught:
            store.save_draft(kept)
        assert "another user" not in str(caught.value)
    finally:
        subprocess.run(["umount", place], check=True)
    assert store.save_draft(kept).file_count == 1


def test_a_directory_of_the_store_that_an_attribute_keeps_as_it_is(store: casstore.Store, immutable) -> None:
    place = store.home / "sessions"
    with immutable(place), pytest.raises(casstore.StoreUnwritable) as caught:
        store.save("m:v1", __file__)
    assert f"{place} is immutable" in str(caught.value)
    assert f"`sudo chattr -i {place}`" in str(caught.value)


def test_what_has_too_long_a_path(store: casstore.Store) -> None:
    """Nothing but a file that no path leads to any more."""

    def write(root):
        here = os.open(root, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=here)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("w", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)

    kept = _keep(store, write)
    assert os.listdir(kept.path)
    store.remove_draft(kept)
    assert os.listdir(store.home / "drafts") == []


def test_a_process_with_no_descriptor_left(home: Path) -> None:
    """Which can neither save nor look, but move the draft."""

    def run():
        store = casstore.Store(home)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with pytest.raises(casstore.InvalidSource, match="Too many open files") as caught, store.create("m") as draft:
            Path(draft.path, "w").write_bytes(b"weights")
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert Path(known(caught.value.draft_path), "w").read_bytes() == b"weights"
        [kept] = store.drafts()
        assert store.save_draft(kept, "m:v1").open("w").read() == b"weights"

    assert Child(run).wait() == 0


def test_empty_directories_alone_are_nothing_to_keep(place, run_as_user) -> None:
    def run():
        with casstore.Store(place / "store") as store:
            with pytest.raises(casstore.CasstoreError) as caught, store.create("m:v1") as draft:
                Path(draft.path, "deep/er").mkdir(parents=True)
                Path(draft.path, "deep").chmod(0o555)
                draft.metadata["loss"] = object()
            assert caught.value.draft_path is None
            assert store.drafts() == []

    run_as_user(run)
