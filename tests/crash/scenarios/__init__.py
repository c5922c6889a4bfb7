"""What is done to small stores while the system fails them, and what must hold of any store afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import msgpack

import casstore
from tests.kit import SIXTH_BACK

Files = dict[str, bytes]
Expected = Mapping[str, Files]


@dataclass(frozen=True)
class Scenario:
    """An operation on a store that `prepare` has made.

    `before`: the versions that stand, and go on standing. `new`: what the operation adds, `gone`: what it takes away;
    until it is acknowledged both may be there or not. `again`: how to go on after a crash (default: the operation).
    `damaged`: versions that may be unreadable, until the operation is acknowledged. `trashed`: versions that are in the
    trash where they are not here. `is_emptied`: the operation empties the trash.
    `around`: makes what the operation finds beside the store. `origin`: the tree in which the new versions stand until
    they are saved.
    """

    prepare: Callable[[Path], object]
    operation: Callable[[Path], object]
    before: Expected = field(default_factory=dict)
    new: Expected = field(default_factory=dict)
    gone: Expected = field(default_factory=dict)
    again: Callable[[Path], None] | None = None
    damaged: frozenset[str] = frozenset()
    around: Callable[[Path], object] = lambda _: None
    origin: Callable[[Path], Path] | None = None
    trashed: Expected = field(default_factory=dict)
    is_emptied: bool = False


# By name, in the order in which they are written down; of those that change nothing the names stand apart.
SCENARIOS: dict[str, Callable[[Path], Scenario]] = {}
READING: list[str] = []


def scenario(name: str, *, changes: bool = True) -> Callable[[Callable[[Path], Scenario]], Callable[[Path], Scenario]]:
    """Register a function that makes the scenario of that name; it is given a directory, for what is beside the store.

    Every call of a scenario is one run of it, so it is small. Without `changes` it is of no interest to who kills.
    """

    def register(make: Callable[[Path], Scenario]) -> Callable[[Path], Scenario]:
        assert name not in SCENARIOS
        SCENARIOS[name] = make
        if not changes:
            READING.append(name)
        return make

    return register


def copy_store(template: Path, home: Path) -> None:
    """Copy a store so that nothing tells that it is a copy: what the catalog says of inodes is put right."""
    subprocess.run(["cp", "-a", "--", str(template), str(home)], check=True)
    if not (home / "catalog.db").exists():
        return
    copied = dict(_inodes(home))
    inodes: dict[Any, int] = {inode: copied[path] for path, inode in _inodes(template)}
    connection = apsw.Connection(str(home / "catalog.db"))
    try:
        with connection:
            for row_id, inode in connection.execute("SELECT id, inode FROM container WHERE inode > 0").fetchall():
                connection.execute("UPDATE container SET inode = ? WHERE id = ?", (inodes.get(inode, 0), row_id))
            for (packed,) in connection.execute("SELECT value FROM store WHERE key = 'instance'").fetchall():
                name, _, _, _, boot = json.loads(str(packed))
                status = os.stat(home / "instance")
                instance = json.dumps([name, status.st_dev, status.st_ino, status.st_ctime_ns, boot])
                connection.execute("UPDATE store SET value = ? WHERE key = 'instance'", (instance,))
            for version, inode, packed in connection.execute(
                "SELECT version_id, inode, entries FROM directory"
            ).fetchall():
                rows = msgpack.unpackb(packed)
                times = rows[-1:] if type(rows[-1]) is dict else []  # of directories, which a copy keeps
                files = rows[: len(rows) - len(times)]
                entries = [[path, inodes.get(old, 0), *rest] for path, old, *rest in files] + times
                connection.execute(
                    "UPDATE directory SET inode = ?, entries = ? WHERE version_id = ?",
                    (inodes.get(inode, 0), msgpack.packb(entries), version),
                )
    finally:
        connection.close()


def _inodes(home: Path) -> Iterator[tuple[str, int]]:
    """Every path in a store with its inode. The catalog's own files, of which SQLite keeps track, are left out."""
    for directory, _, names in os.walk(home):
        below = directory.removeprefix(str(home))
        yield below, os.lstat(directory).st_ino
        for name in names:
            if not name.startswith("catalog.db"):
                yield f"{below}/{name}", os.lstat(f"{directory}/{name}").st_ino


def check(home: Path, scenario: Scenario, *, acknowledged: bool, gc_first: bool = False) -> None:
    """What must hold after the operation has ended, however it did; goes on working with the store.

    With `gc_first` gc, and not the next reader, is the one who finds what has been left.
    """
    again = scenario.again or scenario.operation
    _check_origin(home, scenario)
    if not (home / "catalog.db").exists():
        assert not acknowledged
        assert not scenario.before or scenario.again
        again(home)
    if gc_first:
        _check_gc(home, scenario)
    _check_origin(home, scenario)
    check_versions(home, scenario, acknowledged=acknowledged)
    with contextlib.suppress(casstore.TagExists, casstore.TagNotFound):
        again(home)
    _check_gc(home)
    check_versions(home, scenario, acknowledged=True)
    with open_store(home) as store:
        for tag in scenario.trashed.keys() - set(store.tags()):
            _check_bytes(store.undelete(tag), scenario.trashed[tag])
        if scenario.is_emptied:
            assert store.deleted() == []
        report = store.verify()
        assert report.is_sound, report


def _check_gc(home: Path, scenario: Scenario | None = None) -> None:
    with open_store(home) as store:
        store.gc()
        second = store.gc()
        # With `keep_days` at 0, what the first has put into quarantine.
        assert {step.count for step in second.steps if step.name != "quarantine"} == {0}, second
    foreign = set() if scenario is None or scenario.origin is None else {_standing(home, tag) for tag in scenario.new}
    assert foreign.issuperset(leftovers(home))


def _standing(home: Path, tag: str) -> str:
    return str(home / "models" / tag.replace(":", "/"))


def _check_origin(home: Path, scenario: Scenario) -> None:
    """That every byte of what was to be adopted is where it stood, or saved; in the store's own tree always the former,
    as those see it who know of no store."""
    if scenario.origin is None:
        return
    saved = set()
    if (home / "catalog.db").exists():
        with open_store(home) as store:
            saved = set(store.tags())
    tree = scenario.origin(home)
    for tag, files in scenario.new.items():
        directory = tree / tag.replace(":", "/")
        if tag not in saved or tree == home / "models":
            assert {name: (directory / name).read_bytes() for name in files} == files
            assert (directory / "model.yaml").read_text().startswith("name: ")


def check_versions(home: Path, scenario: Scenario, *, acknowledged: bool) -> None:
    """That the catalog is sound, and holds the right versions with the right bytes; wrong ones are never served."""
    assert sql(home, "PRAGMA integrity_check") == [("ok",)]
    assert sql(home, "PRAGMA foreign_key_check") == []
    with open_store(home) as store:
        known = {**scenario.before, **scenario.new, **scenario.gone}
        tags = set(store.tags())
        assert scenario.before.keys() <= tags <= known.keys()
        if acknowledged:
            assert scenario.new.keys() <= tags
            assert scenario.gone.keys().isdisjoint(tags)
        assert scenario.trashed.keys() - tags <= {str(each.tag) for each in store.deleted()}
        for tag in tags:
            is_damaged = not acknowledged and tag in scenario.damaged
            with contextlib.suppress(*[casstore.IntegrityError] if is_damaged else ()):
                _check_bytes(store.get(tag), known[tag])


def _check_bytes(model: casstore.Model, expected: Files) -> None:
    assert {file.path: model.open(file.path).read() for file in model.files} == expected
    root = Path(model.path)
    standing = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert standing.pop("model.yaml")
    assert standing == expected


def sql(home: Path, statement: str) -> list[Any]:
    """Rows of the store's catalog, read behind its back."""
    connection = apsw.Connection(str(home / "catalog.db"))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def leftovers(home: Path) -> list[str]:
    """Files that no row explains; of a store that nobody has open, after gc, there are none."""
    named = {row[0] for row in sql(home, "SELECT file_id FROM container")}
    manifests = {row[0] for row in sql(home, "SELECT manifest_id FROM version")}
    versions = {f"{name}/{version}" for name, version in sql(home, "SELECT name, version FROM version")}
    rooms = (home / "sessions", home / "manifests/.pending", home / "manifests/.deleted")
    trash = sql(home, "SELECT manifest_id FROM version WHERE name = ''")
    assert {(path.name,) for path in (home / "manifests/.trash").glob("*")} == set(trash)
    stray = [path for room in rooms if room.is_dir() for path in room.iterdir()]
    stray += [path for path in (home / "objects/packs").iterdir() if path.stem not in named]
    stray += [path for path in (home / "objects/loose").rglob("*.*") if path.suffix[1:] not in named]
    stray += [path for path in (home / "manifests").glob("[!.]*/*") if path.name.rpartition(".")[2] not in manifests]
    stray += [
        path
        for path in (home / "models").glob("*/*")
        if path.name != "latest" and f"{path.parent.name}/{path.name}" not in versions
    ]
    stray += [path for path in (home / "models").iterdir() if not any(path.iterdir())]
    stray += [path for path in home.iterdir() if path.name not in _TOP_LEVEL]
    return [str(path) for path in stray]


_TOP_LEVEL = {
    *("catalog.db", "catalog.db-wal", "catalog.db-shm", "instance"),
    *("objects", "manifests", "models", "sessions", "quarantine", "locks"),
    "policies.log",
    *("remotes.toml", "elsewhere.json"),
    *("aliases", "annotations"),
    "drafts",  # of a process that lived when its save failed; not before that
}


def put(home: Path, tag: str, files: Files, **options: Any) -> None:
    """Save these files as a draft of that tag."""
    with open_store(home) as store, store.create(tag, **options) as draft:
        write(Path(draft.path), files)


def write(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


_held: dict[Path, casstore.Store] = {}


@contextlib.contextmanager
def open_store(home: Path) -> Iterator[casstore.Store]:
    """The store there, opened for the block unless somebody holds it open: see `hold`."""
    if home in _held:
        yield _held[home]
        return
    with casstore.Store(home, auto_gc=False) as store:
        yield store


def hold(home: Path) -> None:
    """Have all that this process does in the store be done with one `Store`."""
    _held[home] = casstore.Store(home, auto_gc=False)


def let_go(home: Path) -> None:
    """Undo `hold`."""
    _held.pop(home).close()


def to_first_schema(home: Path) -> None:
    """Take all migrations but the first back, of a store without deltas."""
    connection = apsw.Connection(str(home / "catalog.db"))
    connection.execute(
        f"{SIXTH_BACK}"
        "DROP INDEX chunk_by_base; DROP INDEX chunk_by_grouping; DROP INDEX file_by_digest; DROP TABLE lease;"
        "ALTER TABLE chunk DROP COLUMN depth; ALTER TABLE chunk DROP COLUMN generation;"
        "ALTER TABLE chunk DROP COLUMN grouping; ALTER TABLE version DROP COLUMN pinned;"
        "ALTER TABLE directory DROP COLUMN evicting; ALTER TABLE container DROP COLUMN read_at;"
        "ALTER TABLE directory DROP COLUMN synced; DROP TABLE untrusted; ALTER TABLE container DROP COLUMN kind;"
        "DROP TABLE remote_object; DROP TABLE remote_pack; DROP TABLE remote_push; DROP TABLE elsewhere;"
        "DELETE FROM store WHERE key = 'last_container'; PRAGMA user_version = 1"
    )
    connection.close()


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)
