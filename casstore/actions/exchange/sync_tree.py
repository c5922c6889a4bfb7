"""Making `models/` and the catalog agree again, after other tools have worked in that tree."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casstore.actions import keeping
from casstore.actions.directories import latest
from casstore.actions.directories.materialize import materialize
from casstore.actions.directories.presence import settle_directories, was_certain
from casstore.actions.directories.standing import Standing
from casstore.actions.directories.survey import Disagreement, disagreement, is_missing, tag_at
from casstore.actions.exchange.adopt import Adoption, Refused, adopting, note_tree
from casstore.actions.exchange.pruned import keep
from casstore.actions.saving.delete import delete
from casstore.actions.saving.finish import finish_saves, unfinished_saves
from casstore.actions.workspace import Workspace
from casstore.catalog.events import Noted
from casstore.catalog.versions import VersionRow
from casstore.errors import CasstoreError, InvalidTag, StoreError, TagNotFound, VersionAliased
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import files


@dataclass(frozen=True, slots=True)
class SyncReport(Shown):
    """How `models/` and the catalog differed, and what was done about it or, with `dry_run`, would be done.

    Attributes
    ----------
    adopted
        Tags of directories that other tools made.
    refused
        Directories that were left alone.
    missing
        Tags of versions whose directory was removed, or replaced by another.
    deleted
        Tags of the missing versions that `prune` has deleted; `Store.undelete` brings them back from the trash.
    made
        Tags of versions that were given a directory, since the setting `materialize` is "all".
    notes
        What could not be kept unchanged, and what in the tree is not a version, one line each.
    dry_run
        Whether nothing was changed.
    """

    adopted: tuple[str, ...]
    refused: tuple[Refused, ...]
    missing: tuple[str, ...]
    deleted: tuple[str, ...]
    made: tuple[str, ...]
    notes: tuple[str, ...]
    dry_run: bool


def sync_tree(workspace: Workspace, *, prune: bool, dry_run: bool, durable: bool, progress: Progress) -> SyncReport:
    """Adopt what other tools have put into `models/`, and handle the versions whose directories they removed.

    With `prune` these versions go to the trash; where the setting trash_days is 0, they are deleted, each after its
    manifest has been put into quarantine, from where `pruned.restore` brings it back until `keep_days` have passed.
    Then a directory that stands in the place of one is adopted. Without `prune` they stay, and if the setting
    `materialize` is "all", every version that lacks a directory gets one. Raises OSError; StoreError, also with `prune`
    if models/ is gone as a whole.
    """
    workspace.check_writable()
    with contextlib.nullcontext() if dry_run else adopting(workspace):
        return _sync_tree(workspace, prune=prune, dry_run=dry_run, durable=durable, progress=progress)


def _sync_tree(workspace: Workspace, *, prune: bool, dry_run: bool, durable: bool, progress: Progress) -> SyncReport:
    if not dry_run:
        finish_saves(workspace, unfinished_saves(workspace))
        settle_directories(workspace)
    found = disagreement(workspace)
    if found.tree is None and prune:
        raise StoreError(
            f"{workspace.layout.models} is gone as a whole, which deletes no version; without prune (--prune) it is "
            "made again"
        )
    work = _TreeSync(workspace, found, Adoption(workspace, durable, True, progress), prune, dry_run)
    work.run(progress)
    adoption = work.adoption
    return SyncReport(
        tuple(adoption.adopted + adoption.present), tuple(adoption.refused), tuple(work.missing), tuple(work.deleted),
        tuple(work.made), tuple(adoption.notes), dry_run,
    )  # fmt: skip


class _TreeSync:
    def __init__(
        self, workspace: Workspace, found: Disagreement, adoption: Adoption, prune: bool, dry_run: bool
    ) -> None:
        self._workspace = workspace
        self._found = found
        self.adoption = adoption
        self._prune = prune
        self._dry_run = dry_run
        self.missing = [str(row.tag) for row in found.missing]
        self.deleted: list[str] = []
        self.made: list[str] = []

    def run(self, progress: Progress) -> None:
        for row in self._found.missing if self._prune else ():
            self._delete(row)
        if self._found.tree is not None:
            note_tree(self.adoption, self._found.tree)
        elif not self._dry_run:
            files.make_directory(self._workspace.layout.models)
        self._adopt(self._found.foreign)
        if self._workspace.catalog.setting("materialize") == "all":
            self._make_all(progress)
        if not self._dry_run:
            for name in self._workspace.catalog.versions.names():
                if latest.is_stale(self._workspace, name):
                    with self._workspace.name_lock(name):
                        latest.write(self._workspace, name)

    def _delete(self, row: VersionRow, *, is_replaced: bool = False) -> None:
        """Delete a version whose directory is still missing, or still replaced."""
        aliases = self._workspace.catalog.aliases.of_version(row.id)
        if aliases:
            names = ", ".join(f"{row.name}@{alias}" for alias in aliases)
            self.adoption.notes.append(f"{row.tag} stays, though its directory is gone: it is what {names} means")
            return
        if not self._dry_run:
            with self._workspace.name_lock(row.name):
                is_still = self._is_replaced(row) if is_replaced else is_missing(self._workspace, row)
            if not is_still:
                return
            if not keeping.trash_ns(self._workspace):
                keep(self._workspace, row)
            try:
                delete(self._workspace, [row.tag], Noted("pruned"))
            except VersionAliased as error:  # an alias has just been moved there
                self.adoption.notes.append(str(error))
                return
            except TagNotFound:
                pass
        self.deleted.append(str(row.tag))

    def _adopt(self, paths: Sequence[Path]) -> None:
        replaced = [row for row in map(self._row_at, paths) if row is not None and self._is_replaced(row)]
        self._adopt_all(paths)
        taken_away = [row for row in replaced if self._workspace.layout.model(row.tag) in self.adoption.conflicts]
        self.missing += [str(row.tag) for row in taken_away]
        if not (taken_away and self._prune):
            return
        for row in taken_away:
            self._delete(row, is_replaced=True)
        again = [self._workspace.layout.model(row.tag) for row in taken_away if str(row.tag) in self.deleted]
        self.adoption.refused = [each for each in self.adoption.refused if Path(each.path) not in again]
        self._adopt_all(again)

    def _adopt_all(self, paths: Sequence[Path]) -> None:
        found = self.adoption.find(paths)
        if self._dry_run:
            known = [each for each in found if str(each.tag) not in self.deleted]
            fresh = [each for each in found if str(each.tag) in self.deleted]
            self.adoption.adopted += [str(each.tag) for each in [*self.adoption.preview(known), *fresh]]
        else:
            self.adoption.take_all(found)

    def _row_at(self, path: Path) -> VersionRow | None:
        with contextlib.suppress(InvalidTag):
            return self._workspace.catalog.versions.find(tag_at(path))
        return None

    def _is_replaced(self, row: VersionRow) -> bool:
        """Whether the version had a directory, and another stands there. Altered files do not make it another."""
        recorded = self._workspace.catalog.directories.find(row.id)
        has_had_one = recorded is not None and not recorded.evicting and was_certain(self._workspace, recorded)
        is_other = Standing(self._workspace, row).inode() is None
        return has_had_one and is_other and os.path.lexists(self._workspace.layout.model(row.tag))

    def _make_all(self, progress: Progress) -> None:
        """Give a directory to every version that has none."""
        for row in list(self._workspace.catalog.versions.select()):
            target = self._workspace.layout.model(row.tag)
            if os.path.lexists(target) or str(row.tag) in self.deleted:
                continue
            try:
                if not self._dry_run:
                    materialize(self._workspace, row, progress)
                self.made.append(str(row.tag))
            except StoreError:
                raise
            except TagNotFound:
                continue  # deleted meanwhile
            except CasstoreError as error:
                self.adoption.refuse(target, str(error))
