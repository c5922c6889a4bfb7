"""What is written into a version's directory while that is being taken away."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

import casstore
from casstore.actions.directories.materialize import _Builder
from casstore.actions.directories.standing import Standing
from casstore.actions.workspace import Workspace
from casstore.storage import files
from tests.kit import Save, bento, noise


@pytest.fixture
def just_before_it_goes(monkeypatch: pytest.MonkeyPatch):
    """just_before_it_goes(action): done with the directory when it has been looked at, before it is set aside."""
    real = Workspace.set_aside

    def run(action):
        def set_aside(self, directory, session):
            action(Path(directory))
            return real(self, directory, session)

        monkeypatch.setattr(Workspace, "set_aside", set_aside)

    return run


def test_a_deletion_keeps_what_comes_late(store: casstore.Store, save: Save, just_before_it_goes) -> None:
    save("m:1", {"w": b"weights", "d/x": b"x"})

    def write(directory):
        (directory / "mine").write_bytes(b"mine")
        (directory / "d/also").write_bytes(b"also mine")

    just_before_it_goes(write)
    kept = store.delete("m:1")
    assert sorted(Path(path).read_bytes() for path in kept) == [b"also mine", b"mine"]


def test_what_gc_has_just_rescued_is_not_emptied_out(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a deletion that was cut short, with somebody's file in the directory."""
    save("m:1", {"w": b"weights"})
    (Path(store.get("m:1").path) / "mine").write_bytes(b"mine")
    (home / "quarantine/old").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr("casstore.actions.saving.delete.take_away", _fail)
        store.delete("m:1")
    report = store.gc(empty_quarantine=True)
    assert [Path(path).read_bytes() for path in report.quarantined] == [b"mine"]
    assert not (home / "quarantine/old").exists()
    store.gc(empty_quarantine=True)
    assert not any(Path(path).exists() for path in report.quarantined)


def _fail(*_, **__):
    raise OSError(5, "as where a process is killed")


def _kept(home):
    """The files in quarantine/changed/: their paths in the version and their content."""
    shelf = home / "quarantine/changed"
    found = [path for path in shelf.glob("*/*/**/*") if path.is_file()]
    return sorted((str(Path(*path.relative_to(shelf).parts[2:])), path.read_bytes()) for path in found)


def test_gc_keeps_what_comes_late(
    store: casstore.Store, save: Save, home: Path, just_before_it_goes, caplog: pytest.LogCaptureFixture
) -> None:
    save("m:1", {"w": b"weights", "d/x": b"x", "empty": None})

    def write(directory):
        (directory / "mine").write_bytes(b"mine")
        (directory / "new/deep").mkdir(parents=True)
        (directory / "new/deep/too").write_bytes(b"mine too")
        (directory / "empty/late").write_bytes(b"late")
        (directory / "d/x").unlink()
        (directory / "d/x").write_bytes(b"changed")

    just_before_it_goes(write)
    report = store.gc(evict_all=True)
    assert not (home / "models/m/1").exists()
    kept = [("d/x", b"changed"), ("empty/late", b"late"), ("mine", b"mine"), ("new/deep/too", b"mine too")]
    assert _kept(home) == kept
    assert "m:1" in caplog.text
    assert report.quarantined
    assert all(Path(each).exists() for each in report.quarantined)
    assert (Path(store.get("m:1").path) / "d/x").read_bytes() == b"x"


def _a_file(directory):
    directory.rename(directory.with_name("elsewhere"))
    directory.write_bytes(b"mine")


def _a_link(directory):
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")


def _a_directory(directory):
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()
    (directory / "w").write_bytes(b"mine")


@pytest.mark.parametrize("put", [_a_file, _a_link, _a_directory])
@pytest.mark.parametrize("verb", [lambda store: store.gc(evict_all=True), lambda store: store.delete("m:1")])
def test_what_took_the_place_of_a_directory_is_kept(
    store: casstore.Store, save: Save, home: Path, just_before_it_goes, put, verb
) -> None:
    save("m:1", {"w": b"weights"})
    just_before_it_goes(put)
    verb(store)
    kept = list((home / "quarantine").rglob("*"))
    assert any(path.is_symlink() or (path.is_file() and path.read_bytes() == b"mine") for path in kept)


@pytest.fixture
def just_before_it_is_mended(monkeypatch: pytest.MonkeyPatch):
    """just_before_it_is_mended(action): done with a path when it has been looked at, before it is replaced."""
    real = _Builder._keep_changed

    def run(action):
        def keep_changed(self, root, path, digest):
            seen = real(self, root, path, digest)
            action(Path(root), path)
            return seen

        monkeypatch.setattr(_Builder, "_keep_changed", keep_changed)

    return run


def _replace(root, path):
    (root / "temporary").write_bytes(b"late")
    (root / "temporary").rename(root / path)


def _make_anew(root, path):
    (root / path).unlink(missing_ok=True)
    (root / path).write_bytes(b"late")


def _make_a_directory(root, path):
    (root / path).unlink(missing_ok=True)
    (root / path).mkdir()
    (root / path / "file").write_bytes(b"late")


@pytest.mark.parametrize(
    "written",
    list(product([_replace, _make_anew, _make_a_directory], ["w", "model.yaml"])),
    ids=lambda each: f"{each[0].__name__} {each[1]}",
)
@pytest.mark.parametrize("has_exchange", [True, False])
def test_mending_keeps_what_comes_late(
    store: casstore.Store, save: Save, just_before_it_is_mended, monkeypatch: pytest.MonkeyPatch, has_exchange, written
) -> None:
    late, file = written
    model = save("m:1", {"w": b"weights"})
    path = Path(model.path)
    described = (path / "model.yaml").read_bytes()
    (path / file).unlink()
    (path / file).write_bytes(b"early")
    if not has_exchange:
        monkeypatch.setattr("casstore.storage.files.rename_at", lambda *_: False)
    just_before_it_is_mended(late)
    assert store.get("m:1").path
    assert (path / "w").read_bytes() == b"weights"
    assert (path / "model.yaml").read_bytes() == described
    assert sorted(content for _, content in _kept(store.home)) == [b"early", b"late"]


@pytest.mark.parametrize("has_exchange", [True, False])
def test_mending_keeps_what_comes_late_where_nothing_stood(
    store: casstore.Store,
    save: Save,
    home: Path,
    just_before_it_is_mended,
    monkeypatch: pytest.MonkeyPatch,
    has_exchange,
) -> None:
    path = Path(save("m:1", {"w": b"weights"}).path)
    (path / "w").unlink()
    if not has_exchange:
        monkeypatch.setattr("casstore.storage.files.rename_at", lambda *_: False)
    just_before_it_is_mended(lambda root, name: (root / name).write_bytes(b"late"))
    assert store.get("m:1").path
    assert (path / "w").read_bytes() == b"weights"
    assert _kept(home) == [("w", b"late")]


def test_a_repair_that_takes_a_directory_away_keeps_what_comes_late(
    store: casstore.Store, save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version that has lost a file, so that its directory cannot be mended."""
    path = Path(save("m:1", {"big": noise(300_000), "w": b"weights", "d/x": b"x"}).path)
    for each in (home / "objects").rglob("*"):
        if each.is_file():
            each.unlink()
    (path / "big").unlink()
    (path / "big").write_bytes(b"mine")
    real = Standing.unaltered

    def unaltered(standing):
        found = real(standing)
        (path / "w").unlink()
        (path / "w").write_bytes(b"late")
        return found

    monkeypatch.setattr(Standing, "unaltered", unaltered)
    report = store.repair()
    assert not path.exists()
    kept = [each.read_bytes() for each in (home / "quarantine").rglob("*") if each.is_file()]
    assert b"late" in kept
    assert b"x" not in kept
    assert all(Path(each).exists() for each in report.quarantined)


@pytest.mark.parametrize("has_exchange", [True, False])
def test_adopting_in_place_keeps_what_comes_late(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch, has_exchange
) -> None:
    """When the files have been looked at for the last time, and the descriptor is about to be replaced."""
    bento(home / "models", "m:1", {"w.bin": b"w"})
    target = home / "models/m/1/model.yaml"
    if not has_exchange:
        monkeypatch.setattr("casstore.storage.files.rename_at", lambda *_: False)
    real = files.swap_into

    def swap_into(mine, theirs):
        if str(theirs) == str(target):
            target.unlink()
            target.write_bytes(b"late")
        return real(mine, theirs)

    monkeypatch.setattr(files, "swap_into", swap_into)
    store.sync_tree()
    assert target.read_bytes() != b"late"
    kept = [each.read_bytes() for each in (home / "quarantine").iterdir() if each.is_file()]
    assert kept == [b"late"]
