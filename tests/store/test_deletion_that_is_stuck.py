"""A deletion that cannot take a version's directory away says so, and loses nothing."""

from __future__ import annotations

import codecs
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

import casstore
from casstore.actions.workspace import Workspace
from tests.kit import Child

SOMEBODY = 61_004


@pytest.fixture
def as_somebody():
    """as_somebody(function): in a process of a user to whom permissions mean something, given a home of theirs."""
    root = Path(tempfile.mkdtemp())
    os.chown(root, SOMEBODY, SOMEBODY)

    def run(function):
        def become():
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            function(root / "store")

        codecs.lookup("ascii")  # where Python is below root's own directory, other users can import nothing more
        time.strptime("2000", "%Y")
        assert Child(become).wait() == 0

    yield run
    shutil.rmtree(root)


class _Said(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def _listening():
    said = _Said()
    logging.getLogger("casstore").addHandler(said)
    return said.lines


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_added_directory_that_is_read_only(as_somebody) -> None:
    """Which its owner may not move: its `..` would change."""

    def scenario(home):
        said = _listening()
        with casstore.Store(home, auto_gc=False) as store:
            for number in (1, 2):
                with store.create(f"m:{number}") as draft:
                    Path(draft.path, "w").write_bytes(b"weights")
            root = Path(store.get("m:2").path)
            (root / "also").write_bytes(b"also mine")
            (root / "mine").mkdir()
            (root / "mine/note").write_bytes(b"mine")
            (root / "mine").chmod(0o555)
            said.clear()
            store.delete("m:2")
            text = "\n".join(said)
            assert "m:2 is deleted" in text
            assert "chmod u+rwX" in text
            assert str(root / "mine") in text
            assert "casstore gc" in text
            assert (root / "mine/note").read_bytes() == b"mine"
            (kept,) = (home / "quarantine").glob("*.also")
            assert str(kept) in text
            assert (home / "models/m/latest").read_text() == "1"
            assert store.tags() == ["m:1"]
            assert str(root / "mine") in "\n".join(store.gc().left)
            (root / "mine").chmod(0o755)
            (found,) = store.gc().quarantined
            assert (Path(found) / "note").read_bytes() == b"mine"
            assert not root.exists()

    as_somebody(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("verb", ["delete", "gc"])
def test_a_read_only_directory_that_is_added_late(as_somebody, verb) -> None:
    """When the version's directory has been set aside already."""

    def scenario(home):
        real = Workspace.set_aside

        def set_aside(self, directory, session):
            (directory / "mine").mkdir()
            (directory / "mine/note").write_bytes(b"mine")
            (directory / "mine").chmod(0o555)
            return real(self, directory, session)

        with casstore.Store(home, auto_gc=False) as store:
            with store.create("m:1") as draft:
                Path(draft.path, "w").write_bytes(b"weights")
            pytest.MonkeyPatch().setattr(Workspace, "set_aside", set_aside)
            kept = store.delete("m:1") if verb == "delete" else store.gc(evict_all=True).quarantined
            assert not (home / "models/m/1").exists()
            assert b"mine" in [path.read_bytes() for each in kept for path in Path(each).rglob("note")]

    as_somebody(scenario)
