"""What tests of the whole store share: a store, sources, a full picture of a store, and real child processes."""

from __future__ import annotations

import functools
import gc
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings

import casstore
from casstore.actions.describing import model_yaml
from casstore.actions.gc import autogc
from casstore.storage import sessions
from casstore.storage.manifest import Manifest

# No test is timed: what a busy machine delays is no failure.
settings.register_profile("casstore", deadline=None)
settings.load_profile("casstore")

# A shell without a terminal has what it puts in the background ignore Ctrl-C, which children would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30
# Besides the crash tests: each has a test of many seconds.
_LONG = {"test_docs.py", "test_backup_page.py", "test_state_machine.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Have temporary directories be made in memory, where a sync takes no time, unless TMPDIR says where; and have
    Python keep what it compiles, which to do anew takes half of the time of each process that is started."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty directory that is not in memory, as far as can be told from its path."""
    with tempfile.TemporaryDirectory(prefix="casstore-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """An empty directory on another file system than `tmp_path`, which is skipped for where there is none."""
    for place in (_MEMORY, Path("/tmp"), Path("/var/tmp")):
        if os.access(place, os.W_OK) and place.stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(prefix="casstore-", dir=place) as path:
                yield Path(path)
            return
    pytest.skip("no other file system here")


@pytest.fixture(autouse=True)
def no_background_gc(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test starts a gc that goes on when it has ended, and none finds that a save has considered it."""
    monkeypatch.setattr(autogc, "start_if_due", lambda _: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take files away open stores which warn of it. Long tests come first, so that none begins last."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:.* seem to be from different moments:RuntimeWarning"))
    items.sort(key=lambda item: item.path.parent.name != "crash" and item.path.name not in _LONG)


def pytest_collection_finish() -> None:
    """What stands by now is no garbage: no collection looks through it, or makes a fork copy it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(home: Path) -> Iterator[casstore.Store]:
    with casstore.Store(home) as opened:
        yield opened


@pytest.fixture
def noise() -> Callable[..., bytes]:
    """noise(size, seed): bytes that neither shrink nor repeat, the same at every call."""
    return _noise


@functools.lru_cache(64)
def _noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def plant() -> Callable[[Path | str, dict[str, bytes | None]], Path]:
    """plant(root, files): write files; None makes an empty directory, a name that ends in ! an executable."""

    def write(root: Path | str, files: dict[str, bytes | None]) -> Path:
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = root / name.removesuffix("!")
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if name.endswith("!") else 0o644)
        return root

    return write


@pytest.fixture
def contents() -> Callable[[casstore.Model], dict[str, bytes]]:
    """contents(model): every file, checked to be the same in the directory and straight from the chunks."""

    def read(model: casstore.Model) -> dict[str, bytes]:
        root = Path(model.path)
        standing = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        standing.pop("model.yaml")
        assert list(standing.keys() | set()) or not model.files
        streamed = {}
        for file in model.files:
            with model.open(file.path) as reader:
                streamed[file.path] = reader.read()
            assert casstore.Digest.of(streamed[file.path]) == file.digest
            assert len(streamed[file.path]) == file.size
        assert streamed == standing
        return streamed

    return read


def _rows(home: Path) -> dict[str, list[Any]]:
    connection = apsw.Connection(str(home / "catalog.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        columns = {
            # When something was read does no harm, nor does what is known of files.
            name: ", ".join(c[1] for c in connection.execute(f"PRAGMA table_info({name})") if c[1] != "read_at")
            for name in names
            if not name.startswith("sqlite_") and name != "fingerprint"
        }
        return {
            name: sorted(connection.execute(f"SELECT {shown} FROM {name}").fetchall(), key=repr)
            for name, shown in columns.items()
        }
    finally:
        connection.close()


def _files(home: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for directory, folders, names in os.walk(home):
        for name in folders + names:
            path = Path(directory, name)
            relative = str(path.relative_to(home))
            # Lock files stay once made, and SQLite's own files are compared by their rows.
            if relative.startswith(("catalog.db", "locks/")):
                continue
            status = path.lstat()
            content = casstore.Digest.of(path.read_bytes()).hex() if stat.S_ISREG(status.st_mode) else ""
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            seen[relative] = (stat.filemode(status.st_mode), links, content)
    return seen


@pytest.fixture
def picture(home: Path) -> Callable[[], tuple[dict[str, Any], dict[str, list[Any]]]]:
    """picture(): every path of the store with mode, links and content, and every row of its catalog.

    Kept drafts are not in it, since a save that fails may leave one.
    """

    def run() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        found = _files(home)
        return {path: seen for path, seen in found.items() if path.split("/")[0] != "drafts"}, _rows(home)

    return run


@pytest.fixture
def sql(home: Path) -> Callable[..., list[Any]]:
    """sql(statement, parameters): run it on the store's catalog, behind the store's back."""

    def run(statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        connection = apsw.Connection(str(home / "catalog.db"))
        connection.set_busy_timeout(10_000)
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    return run


@pytest.fixture
def leftovers(home: Path, sql: Callable[..., list[Any]]) -> Callable[[], list[str]]:
    """leftovers(): files of the store that no row explains; of a store at rest there are none.

    The session in which this process holds its leases, until it closes the store, is not among them.
    """

    def find() -> list[str]:
        named = {row[0] for row in sql("SELECT file_id FROM container")}
        manifests = {row[0] for row in sql("SELECT manifest_id FROM version")}
        versions = {f"{name}/{version}" for name, version in sql("SELECT name, version FROM version")}
        mine = {shared.session.id for shared in sessions._process.shared.values()}
        stray = [str(path) for path in (home / "sessions").iterdir() if path.name.partition(".")[0] not in mine]
        stray += [str(p) for p in (home / "objects/packs").iterdir() if p.stem not in named]
        stray += [str(p) for p in (home / "objects/loose").rglob("*.*") if p.suffix[1:] not in named]
        stray += [str(path) for path in (home / "manifests/.pending").iterdir()]
        stray += [
            str(path) for path in (home / "manifests").glob("[!.]*/*") if path.name.rpartition(".")[2] not in manifests
        ]
        stray += [
            str(path)
            for path in (home / "models").glob("*/*")
            if path.name != "latest" and f"{path.parent.name}/{path.name}" not in versions
        ]
        stray += [str(path) for path in (home / "models").iterdir() if not any(path.iterdir())]
        return stray

    return find


class Child:
    """A forked process that runs one function; a real one, that can be killed."""

    def __init__(self, function: Callable[[], object]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads; none of ours is running
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = int(function() or 0)  # type: ignore[call-overload]
            except BaseException:  # noqa: BLE001 - the child must not go on as pytest
                traceback.print_exc()
            finally:
                os._exit(code)

    def wait(self) -> int:
        """The exit code; the negative number of a signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> int:
        os.kill(self.pid, 9)
        return self.wait()


@pytest.fixture
def child() -> type[Child]:
    """child(function): run it in a forked process."""
    return Child


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """script(text, *arguments): run Python code in a new process."""

    def run(text: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [*options.pop("before", ()), sys.executable, "-c", text, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return run


def _overwrite(path: Path, data: bytes) -> None:
    """Write into a file so that no stat tells."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def age(home: Path, sql: Callable[..., list[Any]]) -> Callable[..., None]:
    """age(days, tag): make a version, or all, look as if saved, and last opened if ever, so many days earlier."""

    def make_older(days: float, tag: str | None = None) -> None:
        by = int(days * 24 * 3600 * 1e9)
        sql(
            "UPDATE version SET created_at = created_at - ?1, ordered_at = ordered_at - ?1, opened_at = opened_at - ?1"
            " WHERE ?2 IS NULL OR name || ':' || version = ?2",
            (by, tag),
        )
        for path in (home / "manifests").glob("[!.]*/*"):
            manifest = Manifest.unpack(path.read_bytes())
            if tag in (None, str(manifest.tag)):
                older = replace(manifest, created_at_ns=manifest.created_at_ns - by)
                _overwrite(path, older.pack())
                if (rendered := home / f"models/{older.tag.name}/{older.tag.version}/model.yaml").exists():
                    _overwrite(rendered, model_yaml.render(older))

    return make_older


class Reader(Child):
    """A process that has asked for a version's directory, and holds it until told to end."""

    def __init__(self, home: Path, tag: str, files: dict[str, bytes]) -> None:
        self._has_path = False
        self._ready, ready = os.pipe()
        hold, self._hold = os.pipe()

        def read() -> None:
            os.close(self._hold)
            with casstore.Store(home) as store:
                path = Path(store.get(tag).path)
                os.write(ready, b"r")
                while True:
                    assert {name: (path / name).read_bytes() for name in files} == files
                    if select.select([hold], [], [], 0.001)[0]:
                        return

        super().__init__(read)
        os.close(ready)
        os.close(hold)

    def wait_for_path(self) -> None:
        if not self._has_path:
            assert os.read(self._ready, 1) == b"r", "the reader failed"
            self._has_path = True

    def end(self) -> None:
        os.close(self._hold)
        os.close(self._ready)
        assert self.wait() == 0


@pytest.fixture
def reader(home: Path) -> Callable[[str, dict[str, bytes]], Reader]:
    """reader(tag, files): a process that opens that version, and goes on checking that its directory holds `files`."""
    return lambda tag, files: Reader(home, tag, files)
