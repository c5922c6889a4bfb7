"""What tests of the whole store share: a store, sources, a full picture of a store, and real child processes."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from hypothesis import HealthCheck, settings

import casstore
from casstore.actions.describing import model_yaml
from casstore.actions.gc import autogc
from casstore.settings import Setting
from casstore.storage import sessions
from casstore.storage.coding import compiled
from casstore.storage.manifest import Manifest
from tests.cli.forks import import_all
from tests.kit import Age, Leftovers, Picture, Reader, Sql

# No test is timed: what a busy machine delays is no failure. In CI the examples are the same each time, so that it says
# the same of a commit each time; everywhere else they are new ones.
settings.register_profile(
    "casstore",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("casstore")

# A shell without a terminal has what it puts in the background ignore Ctrl-C, which children would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Other compiled kernels than those that were installed: see tests/sanitize.py.
if os.environ.get("CASSTORE_TEST_KERNELS"):
    compiled.LIBRARY = Path(os.environ["CASSTORE_TEST_KERNELS"])
    assert compiled.load() is not None

import_all()

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


@pytest.fixture
def no_trash() -> Iterator[None]:
    """What this process deletes is gone at once, in every store whose setting trash_days has not been set."""
    kept = casstore.SETTINGS["trash_days"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("dict[str, Setting]", casstore.SETTINGS), "trash_days", kept._replace(default="0"))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take files away open stores which warn of it. Long tests come first, so that none begins last.

    With CASSTORE_TEST_HALF, 0 or 1, only about half of the second tier is tried.
    """
    if half := os.environ.get("CASSTORE_TEST_HALF", ""):
        kept: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            is_of_it = not item.get_closest_marker("crash") or zlib.crc32(item.nodeid.encode()) % 2 == int(half)
            (kept if is_of_it else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = kept
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
def picture(home: Path) -> Picture:
    """picture(): every path of the store with mode, links and content, and every row of its catalog.

    Kept drafts are not in it, since a save that fails may leave one.
    """

    def run() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        found = _files(home)
        return {path: seen for path, seen in found.items() if path.split("/")[0] != "drafts"}, _rows(home)

    return run


@pytest.fixture
def sql(home: Path) -> Sql:
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
def leftovers(home: Path, sql: Sql) -> Leftovers:
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


def _overwrite(path: Path, data: bytes) -> None:
    """Write into a file so that no stat tells."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def age(home: Path, sql: Sql) -> Age:
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


@pytest.fixture
def reader(home: Path) -> Callable[[str, dict[str, bytes]], Reader]:
    """reader(tag, files): a process that opens that version, and goes on checking that its directory holds `files`."""
    return lambda tag, files: Reader(home, tag, files)
