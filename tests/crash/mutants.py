"""Ways to break the store that a test of it must notice: each takes away one thing that a promise stands on."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from casstore.actions import home
from casstore.actions.consistency import deleted, strays
from casstore.actions.directories import evict, materialize, presence
from casstore.actions.exchange import casmodel_import
from casstore.actions.gc import reclaim
from casstore.actions.packs import repack
from casstore.actions.saving import delete, save
from casstore.catalog import connection, index, marks, repacking, versions
from casstore.storage import files, pack


@dataclass(frozen=True)
class Edit:
    """A change of a function's text, where `old` stands exactly once."""

    function: Callable[..., Any]
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`edits` are made at once. `scenario`: what shows it. `is_slow`: it takes a hundred states or so to show."""

    name: str
    scenario: str
    edits: tuple[Edit, ...]
    is_slow: bool = False

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        """Change the functions wherever they have been imported to. Fails where the text has changed meanwhile."""
        texts: dict[Any, str] = {}
        for edit in self.edits:
            text = texts.get(edit.function) or textwrap.dedent(inspect.getsource(edit.function))
            assert text.count(edit.old) == 1, f"{edit.function.__qualname__} has changed; change {self.name!r} too"
            texts[edit.function] = text.replace(edit.old, edit.new)
        for decorated, text in texts.items():
            function = inspect.unwrap(decorated)
            code = compile(text, function.__code__.co_filename, "exec", annotations.compiler_flag)
            found: dict[str, Any] = {}
            exec(code, dict(function.__globals__), found)
            patch.setattr(function, "__code__", inspect.unwrap(found[function.__name__]).__code__)


def _mutant(name: str, scenario: str, *edits: tuple[Callable[..., Any], str, str], is_slow: bool = False) -> Mutant:
    return Mutant(name, scenario, tuple(Edit(*edit) for edit in edits), is_slow)


_COMMIT = "version_id = self._catalog.versions.commit(commit)\n"

POWER = [
    _mutant(
        "a new store's directories are not synced", "full", (home._make, "files.sync_directory(parent)", "pass")
    ),
    _mutant(
        "adopted files are not synced", "full", (save._Save._sync, "for path in adopted:", "for path in []:")
    ),
    _mutant(
        "what was saved relaxed is not synced", "full",
        (save._Save._sync, "self._catalog.index.unsynced_homes(relied_on - brought)", "[]"),
    ),
    _mutant(
        "names of loose files are not synced", "full",
        (save._Save._sync, "in sorted(directories):", "in sorted(directories & {str(self._layout.packs)}):"),
    ),
    _mutant(
        "names of packs are not synced", "full", (save._Save._sync, "directories.add(str(self._layout.packs))", "pass")
    ),
    _mutant(
        "names of imported packs are not synced", "imports",
        (casmodel_import._Incoming._complete, "files.sync_directory(self.workspace.layout.packs)", "pass"),
    ),
    _mutant("packs are not synced", "full", (pack.PackWriter.finish, "if durable:", "if False:")),
    _mutant("manifests are not synced", "full", (files.write_new_file, "if durable:", "if False:")),
    _mutant("names of manifests are not synced", "full", (files.write_file, "if durable:", "if False:")),
    _mutant(
        "the commit comes before the sync", "full",
        (save._Save.commit, "self._sync(relied_on, stored)\n", "pass\n"),
        (save._Save.commit, _COMMIT, _COMMIT.strip() + "; self._sync(relied_on, stored)\n"), is_slow=True,
    ),
    _mutant(
        "final names come before the commit", "full",
        (
            save._Save.commit, _COMMIT,
            "publish(self._workspace, manifest.tag, manifest_id, self._draft if self._new.materialize else None); "
            + _COMMIT,
        ), is_slow=True,
    ),
    _mutant(
        "SQLite syncs nothing", "full",
        (connection.Connections._set_up, "PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF"),
    ),
    _mutant(
        "SQLite syncs at checkpoints only", "full",
        (connection.Connections._set_up, "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"),
    ),
    _mutant(
        "directories are trusted after a reboot", "full",
        (materialize.is_whole, "recorded.boot_id == workspace.catalog.boot_id", "True"),
    ),
    _mutant(
        "after a reboot only what stat tells is mended", "full",
        (
            materialize._Builder._mend, "if recorded.boot_id != self._workspace.catalog.boot_id:",
            "if recorded.boot_id != self._workspace.catalog.boot_id and not bad:",
        ),
    ),
    _mutant(
        "a save relies on what an earlier boot did not sync", "relaxed",
        (index.Index.usable_homes, "AND (synced OR boot_id = '\" + self._boot_id + \"')\"", "\""),
    ),
    _mutant(
        "gc does not sync the names of packs", "gc",
        (repack.Mover._complete, "files.sync_directory(self._workspace.layout.packs)", "pass"), is_slow=True,
    ),
    _mutant(
        "gc does not sync what its deltas stand on", "gc",
        (repack.Mover._complete, "index.unsynced_homes(bases)", "[]"),
    ),
    _mutant(
        "gc unlinks what it has moved before the move is committed", "gc",
        (
            repack.Mover._complete, "synced = bring_to_disk(self._workspace, index.unsynced_homes(bases))",
            ("synced = bring_to_disk(self._workspace, index.unsynced_homes(bases)); "
            "[files.remove_file(each.path(self._workspace.layout)) for each, _ in"
            " self._workspace.catalog.index.containers(set(self._homes.values()))]"),
        ),
    ),
    _mutant(
        "sync-tree counts the absence of what was not synced", "full",
        (presence.was_certain, "recorded.synced or recorded.boot_id == workspace.catalog.boot_id", "True"),
    ),
    _mutant(
        "an evicted directory may come back", "gc",
        (evict._take_away, "    files.sync_directory(", "    str("), is_slow=True,
    ),
    _mutant(
        "a deleted version's directory may come back", "gc",
        (delete._forget, "files.sync_directory(directory if", "str(directory if"), is_slow=True,
    ),
    _mutant(
        "a deleted version's manifest may come back", "gc",
        (deleted.keep_all, "files.sync_directory(layout.deleted_manifests)", "pass"),
        (deleted.keep_all, "files.sync_directory(parent)", "pass"),
    ),
]  # fmt: skip

INTERLEAVED = [
    _mutant(
        "a commit does not look at gc_epoch", "gc before a commit",
        (versions.Versions.commit, "epoch != new.gc_epoch and not", "False and not"),
    ),
    _mutant(
        "gc does not raise gc_epoch", "gc before a commit",
        (marks.Marks.condemn, "UPDATE store SET value = value + 1 WHERE", "SELECT 1 FROM store WHERE"),
    ),
    _mutant(
        "gc takes what a running save has written for stray", "gc before a commit of what is new",
        (strays.unnamed_files, "session_of(file_id(path)) not in alive", "True"),
    ),
    _mutant(
        "gc does not mark what was saved meanwhile", "a commit before gc condemns",
        (marks.Marks.condemn, 'mark(self._tables, "id > ?", (self._newest,))', "pass"),
    ),
    _mutant(
        "gc unlinks before it has condemned", "a commit before gc condemns",
        (
            reclaim.Reclaim.condemn, "self.marks.condemn(removable",
            ("[files.remove_file(each.path(self.workspace.layout)) for each in candidates];"
            " self.marks.condemn(removable"),
        ),
    ),
    _mutant(
        "a save does not check that its deltas' bases stand", "gc takes a base before a commit",
        (versions.Versions.commit, "epoch != new.gc_epoch and not", "False and not"),
        (versions.Versions._insert_container, "if not may_be_delta", "if False and not may_be_delta"),
    ),
    _mutant(
        "a save makes a delta of what others are stored against", "a delta upon the same chunk before a commit",
        (versions.Versions._insert_container, "if not may_be_delta", "if False and not may_be_delta"),
    ),
    _mutant(
        "gc makes a delta of what others are stored against", "a delta upon a chunk before gc moves it",
        (repacking.Repacking.move, "elif chunk.base is None or may_be_delta(connection, chunk):", "else:"),
    ),
]  # fmt: skip
