"""What is not casstore's: it goes to quarantine or stays where it is, work goes on, and what was left is said."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest

import casstore
from casstore.actions.health.donors import Donors
from casstore.actions.saving import delete as delete_action
from casstore.storage import sessions
from tests.kit import Child, Save, counts, noise, part

BIG = 300_000
DESKTOP = (".DS_Store", "._note", "Thumbs.db", "desktop.ini", ".nfs000000000003f2a100000001", "lost+found/#17", "a b")


def kept(home):
    """What is in quarantine: the last part of each name, and its bytes."""
    found = {}
    for path in sorted((home / "quarantine").iterdir()):
        name = path.name.split(".", 3)[-1]
        found[name] = path.read_bytes() if path.is_file() else sorted(each.name for each in path.rglob("*"))
    return found


def opened(path):
    """Make a directory of the store's, which may be read-only, one to write into."""
    path.chmod(0o755)
    return path


def test_a_note_in_a_versions_directory_outlives_it(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.bin": noise(BIG), "sub/s.txt": b"small", "empty": None})
    root = Path(store.get("m:1").path)
    (opened(root) / "note.txt").write_text("never to be lost")
    opened(root / "sub").joinpath("evaluation").mkdir()
    (root / "sub/evaluation/results.csv").write_text("1,2")
    (root / "sub/nothing in it").mkdir()
    (root / "sub/s.txt").unlink()
    (root / "sub/s.txt").write_text("small, and changed by hand")
    paths = store.delete("m:1")
    assert kept(home) == {
        "note.txt": b"never to be lost", "evaluation": ["results.csv"], "s.txt": b"small, and changed by hand"
    }  # fmt: skip
    assert sorted(paths) == sorted(map(str, (home / "quarantine").iterdir()))
    assert not root.exists()
    assert counts(store.gc())["unfinished work"] == 0


def test_what_is_the_versions_own_goes_as_ever(store: casstore.Store, home: Path, save: Save) -> None:
    save("m:1", {"w.bin": noise(BIG), "s.txt": b"small", "run.sh!": b"#!", "a/b/c": b"deep", "e/f": None})
    root = Path(store.get("m:1").path)
    os.utime(root / "s.txt", ns=(1, 1))  # its stamp is another, and its bytes are not
    assert list(store.delete("m:1")) == []
    assert kept(home) == {}
    assert not root.exists()


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_note_outlives_a_deletion_that_was_cut_short(
    store: casstore.Store,
    home: Path,
    save: Save,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_manifest,
) -> None:
    """gc, or the next save of that tag, ends it: by then the catalog knows nothing of the version's files."""
    for tag in ("m:1", "n:1"):
        save(tag, {"w.bin": noise(BIG), "s.txt": b"small", "e": None})
        (opened(Path(store.get(tag).path)) / "note.txt").write_text(tag)
    with monkeypatch.context() as patch:
        patch.setattr(delete_action, "sweep", lambda *_: delete_action.Swept())  # as if killed right after the commit
        store.delete("m:1")
        store.delete("n:1")
    if not has_manifest:
        for path in home.glob("manifests/?/*"):
            path.unlink()
    save("n:1", {"w.bin": b"another"})
    assert caplog.text.count("note.txt") == 1
    report = store.gc()
    assert len(report.quarantined) == (1 if has_manifest else len(report.quarantined))
    texts = sorted(path.read_text() for path in (home / "quarantine").rglob("*note.txt"))
    assert texts == ["m:1", "n:1"]
    if has_manifest:
        assert len(list((home / "quarantine").iterdir())) == 2
    assert not (home / "models/m").exists()


def test_delete_says_where_it_went(store: casstore.Store, home: Path, save: Save, run_cli) -> None:
    save("m:1", {"s.txt": b"small"})
    (opened(Path(store.get("m:1").path)) / "note.txt").write_text("mine")
    store.close()
    (path,) = run_cli("delete", "m:1", "--yes", "--json", "--home", str(home))["quarantined"]
    assert Path(path).read_text() == "mine"


@pytest.fixture
def run_cli():
    """run_cli(*arguments): what the command says as JSON."""
    import json

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "casstore.cli", *arguments], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("name", DESKTOP)
def test_what_a_desktop_leaves_stays_and_stops_nothing(store: casstore.Store, home: Path, save: Save, name) -> None:
    save("m:1", {"w.bin": noise(BIG)})
    inside = ["objects/packs", "objects/loose", "objects/loose/ab", "sessions", "manifests", "manifests/.pending"]
    inside += ["manifests/m", "locks", "quarantine", "models/m", "models", "objects", "."]
    for directory in inside:
        path = home / directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not casstore's")
    report = store.gc(evict_all=True)
    first = name.split("/")[0]
    listed = {str(Path(path).relative_to(home)) for path in report.foreign}
    assert listed == {f"objects/packs/{first}", f"objects/loose/{first}", f"objects/loose/ab/{first}"}
    assert store.gc(dry_run=True).foreign == report.foreign
    save("m:2", {"w.bin": noise(BIG, 1)})
    assert store.verify().is_sound
    store.repair()
    store.delete("m:1")
    store.gc()
    store.close()
    assert casstore.Store.rebuild_catalog(home).tags == ("m:2",)
    with store.get("m:2").open("w.bin") as reader:
        assert reader.read() == noise(BIG, 1)
    assert [directory for directory in inside if not (home / directory / name).exists()] == []


def test_a_dead_session_that_cannot_be_removed_stops_no_gc(store: casstore.Store, home: Path, save: Save) -> None:
    """A directory a thousand deep, which is, and an immutable file, which is not; another session is reaped."""
    save("m:1", part(1))
    dead = []
    for number in (1, 2, 3):

        def die(number=number):
            session = sessions.Session(casstore.Store(home)._workspace.layout)
            (session.path / f"{number}").mkdir()
            (session.path / f"{number}/file").touch()
            os._exit(0)

        before = set((home / "sessions").iterdir())
        assert Child(die).wait() == 0
        (path,) = {path for path in set((home / "sessions").iterdir()) - before if path.is_dir()}
        dead.append(path)
    deep, stuck, _ = dead
    at = deep / "1"
    for _ in range(1000):
        at = at / "d"
        at.mkdir()
    chattr = shutil.which("chattr") or ""
    locked = chattr and not subprocess.run([chattr, "+i", stuck / "2/file"], capture_output=True).returncode
    try:
        report = store.gc()
        assert not deep.exists()
        assert not dead[2].exists()
        if locked:
            assert report.left == (f"{stuck / '2/file'} could not be removed: Operation not permitted",)
            assert counts(report)["dead sessions"] == 2
            assert len(store.gc().left) == 1
    finally:
        if locked:
            subprocess.run([chattr, "-i", stuck / "2/file"], check=True)
    assert store.gc().left == ()
    assert not stuck.exists()


@pytest.mark.parametrize("kind", ["pipe", "directory", "link to a device", "link to nothing", "socket", "large"])
@pytest.mark.parametrize("name", ["model.yaml", "latest"])
def test_what_stands_where_casstore_writes(store: casstore.Store, home: Path, save: Save, kind, name, alarm) -> None:
    """No verb waits for a pipe, reads a device, or stops; what was put there is kept."""
    save("m:1", {"w.bin": noise(BIG), "s.txt": b"small"})
    model = store.get("m:1")
    root = Path(model.path)
    path = root / name if name == "model.yaml" else root.parent / name
    text = path.read_bytes()
    opened(root)

    def put():
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
            (path / "note").write_text("mine")
        elif kind == "socket":
            import socket

            here = os.getcwd()
            os.chdir(path.parent)  # the names of sockets are short
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
            os.chdir(here)
        elif kind == "large":
            path.write_bytes(b"mine" * 5_000)
        else:
            path.symlink_to("/dev/zero" if kind == "link to a device" else "nowhere")

    put()
    with alarm():
        store.verify()
        assert Path(store.get("m:1").path) == root
        store.gc()
        save("m:2", {"s.txt": b"other"})
        assert (path.read_bytes() == text) == (name == "model.yaml")
        assert path.is_file()
        assert not path.is_symlink()
    put()
    with alarm():
        save("m:3", {"s.txt": b"other"})
        store.delete("m:3")
        store.delete("m:1")
        store.delete("m:2")
        store.gc()
    assert store.tags() == []
    if kind == "directory":
        assert len(list((home / "quarantine").rglob("note"))) == 2
    assert not (home / "models/m").exists()


@pytest.fixture
def alarm():
    """with alarm(): what does not end within a minute fails, rather than the whole run."""
    import contextlib
    import signal

    @contextlib.contextmanager
    def guarded():
        def fail(*_):
            raise AssertionError("it waits for something that never comes")

        before = signal.signal(signal.SIGALRM, fail)
        signal.alarm(60)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return guarded


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize("is_link", [True, False])
def test_a_file_that_only_says_that_it_is_empty(store: casstore.Store, tmp_path: Path, materialize, is_link) -> None:
    """It is refused, and not saved as empty."""
    source = Path("/proc/self/status")
    if is_link:
        (tmp_path / "made").mkdir()
        (tmp_path / "made/empty").touch()
        (tmp_path / "made/link").symlink_to(source)
        source = tmp_path / "made"
    with pytest.raises(casstore.InvalidSource, match="says that it is empty and is not"):
        store.save("m:1", source, materialize=materialize)
    assert store.tags() == []


def test_a_search_for_lost_bytes_ends(store: casstore.Store, home: Path, save: Save, tmp_path: Path, alarm) -> None:
    """Beside what has them: a file of 8 TiB of nothing, a pipe, loops, directories and links that are closed."""
    save("m:1", {"w.bin": noise(2_000_000)})
    store.gc(evict_all=True)
    for path in home.glob("objects/*/**/*"):
        if path.is_file():
            path.unlink()
    given = tmp_path / "given"
    (given / "closed").mkdir(parents=True)
    (given / "closed/inside").write_bytes(b"x")
    (given / "a link into it").symlink_to(given / "closed/inside")
    (given / "loop").symlink_to(given)
    os.mkfifo(given / "pipe")
    with open(given / "a sparse file", "wb") as sparse:
        sparse.write(b"head")
        try:
            sparse.truncate(8 << 40)
        except OSError:
            sparse.truncate(15 << 40 >> 3)
    (given / "z.bin").write_bytes(b"a longer head" + noise(2_000_000))
    (given / "zz.bin").write_bytes(noise(2_000_000))
    (given / "closed").chmod(0)
    with alarm():
        report = store.repair([given])
    assert report.is_sound
    assert any(line.startswith(f"{given / 'a sparse file'} is mostly holes") for line in report.unread)
    (given / "closed").chmod(0o755)


def test_what_a_user_may_not_read_is_named_and_passed_over(tmp_path: Path) -> None:
    """To root nothing is closed, so another asks."""
    shared = Path(tempfile.mkdtemp(prefix="casstore-test-"))
    try:
        (shared / "closed").mkdir()
        (shared / "closed/inside").touch()
        (shared / "link").symlink_to("closed/inside")
        (shared / "open").touch()
        shared.chmod(0o755)
        (shared / "closed").chmod(0)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                donors = Donors(cast(Any, None), set(), [], lambda *_: None)
                found = sorted(path.name for path in donors._files_below(shared))
                os.write(write, repr((found, sorted(donors.unread))).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        expected = [
            f"{shared}/closed/ cannot be read: Permission denied",
            f"{shared}/link cannot be read: Permission denied",
        ]
        assert os.read(read, 10_000).decode() == repr((["open"], expected))
        os.close(read)
        os.close(write)
    finally:
        (shared / "closed").chmod(0o755)
        shutil.rmtree(shared)


def test_verify_beside_others_finds_no_damage(store: casstore.Store, home: Path, save: Save) -> None:
    """Saves, deletions, gc and eviction go on while it reads."""
    save("kept:1", {"w.bin": noise(BIG), "s.txt": b"small"})
    read, write = os.pipe()

    def work():
        os.close(write)
        with casstore.Store(home) as other:
            number = 0
            while not select.select([read], [], [], 0)[0]:
                number += 1
                for materialize in (True, False):
                    with other.create(
                        f"m:{number}-{int(materialize)}", materialize=materialize, durability="relaxed"
                    ) as draft:
                        Path(draft.path, "w.bin").write_bytes(noise(BIG, number % 3))
                other.gc(evict_all=bool(number % 2))
                for tag in other.tags():
                    if tag.startswith("m:"):
                        other.delete(tag)
                other.gc()
        return 0

    process = Child(work)
    os.close(read)
    try:
        for number in range(12):
            report = store.verify(quick=bool(number % 2))
            assert report.is_sound, report.reasons
    finally:
        os.close(write)
    assert process.wait() == 0


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_a_manifest_that_is_no_file(store: casstore.Store, home: Path, save: Save, kind, alarm) -> None:
    save("m:1", part(1))
    (path,) = home.glob("manifests/m/*")
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with alarm():
        assert not store.verify().is_sound
        assert store.repair().restored == ("m:1",)
        assert store.verify().is_sound
        store.delete("m:1")
        store.gc()
    assert store.tags() == []
