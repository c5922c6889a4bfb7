"""Ways to break the store that a test of it must notice: each takes away one thing that a promise stands on.

Each acts where one part of the store calls another: a function or a method is wrapped, and what it is given, or the
path that it is given, tells when to leave something out. What goes on inside of one may be written in another way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.consistency import strays
from casstore.actions.directories import placing, presence
from casstore.actions.directories.standing import Standing
from casstore.actions.gc.reclaim import Reclaim
from casstore.actions.packs import durability
from casstore.actions.saving import delete
from casstore.catalog import commits, connection, containers, repacking
from casstore.catalog.commits import Commits
from casstore.catalog.index import Index
from casstore.catalog.marks import Marks
from casstore.catalog.repacking import Repacking
from casstore.digest import Digest
from casstore.storage import files, sessions
from casstore.storage.container import Container, Kind
from casstore.storage.layout import Layout
from casstore.storage.pack import PackWriter

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """`apply` breaks the store. `scenario`: what shows it. `is_slow`: it takes a hundred states or so to show."""

    name: str
    scenario: str
    apply: Break
    is_slow: bool = False


POWER: list[Mutant] = []
INTERLEAVED: list[Mutant] = []


def _power(name: str, scenario: str, *, is_slow: bool = False) -> Callable[[Break], Break]:
    return lambda apply: POWER.append(Mutant(name, scenario, apply, is_slow)) or apply


def _interleaved(name: str, scenario: str) -> Callable[[Break], Break]:
    return lambda apply: INTERLEAVED.append(Mutant(name, scenario, apply)) or apply


def _replace(patch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put make(what is there) in place of a method, or of a function wherever it has been imported to."""
    real = getattr(owner, name)
    new = make(real)
    patch.setattr(owner, name, new)
    if isinstance(owner, type):
        return
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("casstore.") and vars(module).get(name) is real:
            patch.setattr(module, name, new)


def _running(patch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[], bool]:
    """Tells whether that function or method is being called."""
    calls: list[None] = []

    def make(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            try:
                return real(*arguments, **options)
            finally:
                calls.pop()

        return call

    _replace(patch, owner, name, make)
    return lambda: bool(calls)


def _unsynced(patch: pytest.MonkeyPatch, name: str, leaves_out: Callable[[Path], bool]) -> None:
    """Leave out those calls of a function of storage/files.py that are given such a path."""
    _replace(patch, files, name, lambda real: lambda path: None if leaves_out(Path(path)) else real(path))


def _is_packs(path: Path) -> bool:
    return path.name == "packs"


def _is_of_loose_files(path: Path) -> bool:
    return path.parent.name == "loose"


def _is_of_directories(path: Path) -> bool:
    return "models" in (path.name, path.parent.name)


def _is_of_manifests(path: Path) -> bool:
    return path.parent.name == "manifests"


def _is_in_a_new_store(path: Path) -> bool:
    return any((each / "objects").is_dir() and not (each / "catalog.db").exists() for each in (path, *path.parents))


def _remove(home: Path, containers: list[Container]) -> None:
    for each in containers:
        files.remove_file(each.path(Layout(home)))


@_power("a new store's directories are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, "sync_directory", _is_in_a_new_store)


@_power("adopted files are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    is_relied_on = _running(patch, durability, "bring_to_disk")
    _unsynced(patch, "sync_file", lambda _: not is_relied_on())


@_power("what was saved relaxed is not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Index, "unsynced_containers", lambda _, __: [])


@_power("names of loose files are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, "sync_directory", _is_of_loose_files)


@_power("names of packs are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _unsynced(patch, "sync_directory", _is_packs)


@_power("names of imported packs are not synced", "imports")
def _(patch: pytest.MonkeyPatch) -> None:
    is_importing = _running(patch, casstore.Store, "import_archive")
    _unsynced(patch, "sync_directory", lambda path: is_importing() and _is_packs(path))


@_power("what is adopted together is not synced", "adopts")
def _(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, files, "sync_files", lambda _: lambda __: None)


@_power("packs are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, PackWriter, "finish", lambda real: lambda self, mode, **_: real(self, mode, durable=False))


@_power("manifests are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, files, "write_new_file", lambda real: lambda path, data, mode, **_: real(path, data, mode))


@_power("names of manifests are not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    is_writing = _running(patch, files, "write_file")
    _unsynced(patch, "sync_directory", lambda _: is_writing())


@_power("the commit comes before the sync", "full", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []

    def later(real: Any) -> Any:
        return lambda path: waiting.append(lambda: real(path)) if "objects" in Path(path).parts else real(path)

    def commit(real: Any) -> Any:
        def run(self: Commits, new: Any) -> Any:
            result = real(self, new)
            while waiting:
                waiting.pop(0)()
            return result

        return run

    _replace(patch, files, "sync_file", later)
    _replace(patch, files, "sync_directory", later)
    _replace(patch, Commits, "commit", commit)


@_power("final names come before the commit", "full", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []

    def publish(real: Any) -> Any:
        def run(*arguments: Any) -> None:
            real(*arguments)
            while waiting:
                waiting.pop(0)()

        return run

    _replace(patch, Commits, "commit", lambda real: lambda self, new: waiting.append(lambda: real(self, new)))
    _replace(patch, placing, "publish", publish)


@_power("SQLite syncs nothing", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection, "SYNCHRONOUS", "OFF")


@_power("SQLite syncs at checkpoints only", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection, "SYNCHRONOUS", "NORMAL")


@_power("directories are trusted after a reboot", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    is_looking = _running(patch, Standing, "is_whole")
    _replace(patch, Standing, "damaged_since_boot", lambda real: lambda self: [] if is_looking() else real(self))


@_power("after a reboot only what stat tells is mended", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def altered(real: Any) -> Any:
        def run(*arguments: Any) -> list[str]:
            found[:] = real(*arguments)
            return list(found)

        return run

    is_looking = _running(patch, Standing, "is_whole")
    _replace(patch, Standing, "changed", altered)
    _replace(
        patch, Standing, "damaged_since_boot",
        lambda real: lambda self: [] if found and not is_looking() else real(self),
    )  # fmt: skip


@_power("a save relies on what an earlier boot did not sync", "relaxed")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Index, "usable_containers",
        lambda self, digests: {digest: found.container.id for digest, found in self.locate(digests).items()},
    )  # fmt: skip


@_power("gc does not sync the names of packs", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    is_collecting = _running(patch, casstore.Store, "gc")
    _unsynced(patch, "sync_directory", lambda path: is_collecting() and _is_packs(path))


@_power("gc does not sync what its deltas stand on", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    is_collecting = _running(patch, casstore.Store, "gc")
    _replace(
        patch,
        Index,
        "unsynced_containers",
        lambda real: lambda self, digests: [] if is_collecting() else real(self, digests),
    )


@_power("gc unlinks what it has moved before the move is committed", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    def move(real: Any) -> Any:
        def run(self: Repacking, new: Any, containers: Any, *arguments: Any, **options: Any) -> None:
            with self._connections.read() as reading:
                sql = "SELECT id, file_id, kind, digest, executable FROM container"
                rows: list[Any] = [row for row in reading.execute(sql).fetchall() if row[0] in set(containers.values())]
            sources = [
                Container(row_id, file_id, Kind(kind), None if digest is None else Digest(digest), bool(executable))
                for row_id, file_id, kind, digest, executable in rows
            ]
            _remove(self._connections.path.parent, sources)
            real(self, new, containers, *arguments, **options)

        return run

    _replace(patch, Repacking, "move", move)


@_power("sync-tree counts the absence of what was not synced", "full")
def _(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, presence, "was_certain", lambda _: lambda *_: True)


@_power("an evicted directory may come back", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    is_collecting = _running(patch, casstore.Store, "gc")
    is_settling = _running(patch, presence, "settle_directories")
    is_sweeping = _running(patch, delete, "sweep")
    _unsynced(
        patch, "sync_directory",
        lambda path: is_collecting() and not is_settling() and not is_sweeping() and _is_of_directories(path),
    )  # fmt: skip


@_power("a deleted version's directory may come back", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    is_sweeping = _running(patch, delete, "sweep")
    _unsynced(patch, "sync_directory", lambda path: is_sweeping() and _is_of_directories(path))


@_power("a deleted version's manifest may come back", "gc", is_slow=True)
def _(patch: pytest.MonkeyPatch) -> None:
    is_deleting = _running(patch, casstore.Store, "delete")
    is_collecting = _running(patch, casstore.Store, "gc")
    _unsynced(
        patch, "sync_directory", lambda path: (is_deleting() or is_collecting()) and _is_of_manifests(path)
    )  # fmt: skip


@_interleaved("a commit does not look at gc_epoch", "gc before a commit")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commits, "_all_stored", lambda *_: True)


@_interleaved("gc does not raise gc_epoch", "gc before a commit")
def _(patch: pytest.MonkeyPatch) -> None:
    def condemn(real: Any) -> Any:
        def run(self: Marks, *arguments: Any) -> Any:
            with self._connections.read() as reading:
                epoch = reading.execute("SELECT value FROM store WHERE key = 'gc_epoch'").get
            condemned = real(self, *arguments)
            with self._connections.write() as writing:
                writing.execute("UPDATE store SET value = ? WHERE key = 'gc_epoch'", (epoch,))
            return condemned

        return run

    _replace(patch, Marks, "condemn", condemn)


@_interleaved("gc takes what a running save has written for stray", "gc before a commit of what is new")
def _(patch: pytest.MonkeyPatch) -> None:
    is_listing = _listing(patch)
    _replace(patch, sessions, "live_ids", lambda real: lambda layout: set() if is_listing() else real(layout))


def _listing(patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Tells whether stray files are being looked for."""
    calls: list[None] = []

    def make(real: Any) -> Any:
        def run(workspace: Any) -> Any:
            calls.append(None)
            try:
                return iter(list(real(workspace)))
            finally:
                calls.pop()

        return run

    _replace(patch, strays, "unnamed_files", make)
    return lambda: bool(calls)


@_interleaved("gc does not mark what was saved meanwhile", "a commit before gc condemns")
def _(patch: pytest.MonkeyPatch) -> None:
    def condemn(real: Any) -> Any:
        def run(self: Marks, *arguments: Any) -> Any:
            patch.setattr(self, "_newest", 1 << 62)
            return real(self, *arguments)

        return run

    _replace(patch, Marks, "condemn", condemn)


@_interleaved("gc unlinks before it has condemned", "a commit before gc condemns")
def _(patch: pytest.MonkeyPatch) -> None:
    def condemn(real: Any) -> Any:
        def run(self: Reclaim, candidates: Any, *arguments: Any) -> None:
            _remove(self.workspace.layout.home, list(candidates))
            real(self, candidates, *arguments)

        return run

    _replace(patch, Reclaim, "condemn", condemn)


@_interleaved("a save does not check that its deltas' bases stand", "gc takes a base before a commit")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commits, "_all_stored", lambda *_: True)
    patch.setattr(containers, "may_be_delta", lambda *_: True)


@_interleaved("a save makes a delta of what others are stored against", "a delta upon the same chunk before a commit")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(containers, "may_be_delta", lambda *_: True)


@_interleaved("gc makes a delta of what others are stored against", "a delta upon a chunk before gc moves it")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repacking, "may_be_delta", lambda *_: True)
