"""What is done to small stores while the system fails them, and what must hold of any store afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import msgpack

import casstore

Files = dict[str, bytes]
Expected = Mapping[str, Files]


@dataclass(frozen=True)
class Scenario:
    """An operation on a store that `prepare` has made.

    `before`: the versions that stand, and go on standing. `new`: what the operation adds, `gone`: what it takes away;
    until it is acknowledged both may be there or not. `again`: how to go on after a crash (default: the operation).
    `damaged`: versions that may be unreadable, until the operation is acknowledged.
    """

    prepare: Callable[[Path], None]
    operation: Callable[[Path], None]
    before: Expected = field(default_factory=dict)
    new: Expected = field(default_factory=dict)
    gone: Expected = field(default_factory=dict)
    again: Callable[[Path], None] | None = None
    damaged: frozenset[str] = frozenset()


def copy_store(template: Path, home: Path) -> None:
    """Copy a store so that nothing tells that it is a copy: what the catalog says of inodes is put right."""
    subprocess.run(["cp", "-a", "--", str(template), str(home)], check=True)
    if not (home / "catalog.db").exists():
        return
    inodes = {path.lstat().st_ino: (home / path.relative_to(template)).lstat().st_ino for path in template.rglob("*")}
    connection = apsw.Connection(str(home / "catalog.db"))
    try:
        with connection:
            for row_id, inode in connection.execute("SELECT id, inode FROM container WHERE inode > 0").fetchall():
                connection.execute("UPDATE container SET inode = ? WHERE id = ?", (inodes.get(inode, 0), row_id))
            for version, inode, packed in connection.execute(
                "SELECT version_id, inode, entries FROM directory"
            ).fetchall():
                entries = [[path, inodes.get(old, 0), *rest] for path, old, *rest in msgpack.unpackb(packed)]
                connection.execute(
                    "UPDATE directory SET inode = ?, entries = ? WHERE version_id = ?",
                    (inodes.get(inode, 0), msgpack.packb(entries), version),
                )
    finally:
        connection.close()


def check(home: Path, scenario: Scenario, *, acknowledged: bool) -> None:
    """What must hold after the operation has ended, however it did; goes on working with the store."""
    again = scenario.again or scenario.operation
    if not (home / "catalog.db").exists():
        assert not acknowledged
        assert not scenario.before or scenario.again
        again(home)
    _check_standing(home, scenario, acknowledged=acknowledged)
    with contextlib.suppress(casstore.TagExists, casstore.TagNotFound):
        again(home)
    _check_standing(home, scenario, acknowledged=True)
    with casstore.Store(home, auto_gc=False) as store:
        store.gc()
        second = store.gc()
        assert {step.count for step in second.steps} == {0}, second
        report = store.verify()
        assert report.is_sound, report
    assert leftovers(home) == []
    _check_standing(home, scenario, acknowledged=True)


def _check_standing(home: Path, scenario: Scenario, *, acknowledged: bool) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        assert sql(home, "PRAGMA integrity_check") == [("ok",)]
        assert sql(home, "PRAGMA foreign_key_check") == []
        known = {**scenario.before, **scenario.new, **scenario.gone}
        tags = set(store.tags())
        assert scenario.before.keys() <= tags <= known.keys()
        if acknowledged:
            assert scenario.new.keys() <= tags
            assert scenario.gone.keys().isdisjoint(tags)
        for tag in tags - (set() if acknowledged else scenario.damaged):
            assert {file.path: store.get(tag).open(file.path).read() for file in store.get(tag).files} == known[tag]
        for tag in tags - (set() if acknowledged else scenario.damaged):
            root = Path(store.get(tag).path)
            standing = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
            assert standing.pop("model.yaml")
            assert standing == known[tag]


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
    stray = [*(home / "sessions").iterdir(), *(home / "manifests/.pending").iterdir()]
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
    *("catalog.db", "catalog.db-wal", "catalog.db-shm"),
    *("objects", "manifests", "models", "sessions", "quarantine", "locks"),
}


def put(home: Path, tag: str, files: Files, **options: Any) -> None:
    """Save these files as a draft of that tag."""
    with casstore.Store(home, auto_gc=False) as store, store.create(tag, **options) as draft:
        write(Path(draft.path), files)


def write(root: Path, files: Files) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def open_store(home: Path) -> casstore.Store:
    return casstore.Store(home, auto_gc=False)


def to_first_schema(home: Path) -> None:
    """Take the second migration back, of a store without deltas."""
    connection = apsw.Connection(str(home / "catalog.db"))
    connection.execute(
        "DROP INDEX chunk_by_base; DROP INDEX chunk_by_grouping; DROP INDEX file_by_digest; DROP TABLE lease;"
        "ALTER TABLE chunk DROP COLUMN depth; ALTER TABLE chunk DROP COLUMN generation;"
        "ALTER TABLE chunk DROP COLUMN grouping; ALTER TABLE version DROP COLUMN pinned;"
        "ALTER TABLE directory DROP COLUMN evicting; PRAGMA user_version = 1"
    )
    connection.close()


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)
