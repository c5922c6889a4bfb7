"""What is written into a version's directory while that is being taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from casstore.actions.workspace import Workspace


@pytest.fixture
def just_before_it_goes(monkeypatch):
    """just_before_it_goes(action): done with the directory when it has been looked at, before it is set aside."""
    real = Workspace.set_aside

    def run(action):
        def set_aside(self, directory, session):
            action(Path(directory))
            return real(self, directory, session)

        monkeypatch.setattr(Workspace, "set_aside", set_aside)

    return run


def test_a_deletion_keeps_what_comes_late(store, save, just_before_it_goes):
    save("m:1", {"w": b"weights", "d/x": b"x"})

    def write(directory):
        (directory / "mine").write_bytes(b"mine")
        (directory / "d/also").write_bytes(b"also mine")

    just_before_it_goes(write)
    kept = store.delete("m:1")
    assert sorted(Path(path).read_bytes() for path in kept) == [b"also mine", b"mine"]


def test_what_gc_has_just_rescued_is_not_emptied_out(store, save, home, monkeypatch):
    """Of a deletion that was cut short, with somebody's file in the directory."""
    save("m:1", {"w": b"weights"})
    (Path(store.get("m:1").path) / "mine").write_bytes(b"mine")
    (home / "quarantine/old").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr("casstore.actions.delete.sweep", _fail)
        store.delete("m:1")
    report = store.gc(empty_quarantine=True)
    assert [Path(path).read_bytes() for path in report.quarantined] == [b"mine"]
    assert not (home / "quarantine/old").exists()
    store.gc(empty_quarantine=True)
    assert not any(Path(path).exists() for path in report.quarantined)


def _fail(*_, **__):
    raise OSError(5, "as where a process is killed")
