"""Making `models/` and the catalog agree again, after other tools have worked in that tree."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from casstore.actions import adopt
from casstore.actions.adopt import Adoption, Refused
from casstore.actions.delete import delete
from casstore.actions.materialize import materialize
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import CasstoreError, StoreError, TagNotFound
from casstore.progress import Progress


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How `models/` and the catalog differed, and what was done about it; with `dry_run`, what would be.

    `adopted`: tags, or for a dry run paths, of directories that some other tool made. `refused`: those left alone.
    `missing`: versions whose directory somebody has taken away. `deleted`: those of them that were deleted, for which
    `prune` asks. `made`: versions that were given a directory, since the setting `materialize` is "all".
    `notes`: what could not be kept as it stood.
    """

    adopted: tuple[str, ...]
    refused: tuple[Refused, ...]
    missing: tuple[str, ...]
    deleted: tuple[str, ...]
    made: tuple[str, ...]
    notes: tuple[str, ...]
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """`foreign`: directories in the tree that casstore did not make. `missing`: versions whose directory is gone."""

    foreign: tuple[str, ...]
    missing: tuple[VersionRow, ...]


def disagreement(workspace: Workspace) -> Disagreement:
    """How tree and catalog differ now. Directories are listed first: what is deleted meanwhile is neither."""
    paths = list(adopt.version_directories(workspace.layout.models))
    foreign = tuple(str(path) for path in paths if not adopt.is_own(workspace, path) and path.is_dir())
    missing = [row for row in workspace.catalog.versions.select() if _is_missing(workspace, row)]
    return Disagreement(foreign, tuple(missing))


def _is_missing(workspace: Workspace, row: VersionRow) -> bool:
    if os.path.lexists(workspace.layout.model(row.tag)):
        return False
    recorded = workspace.catalog.directories.find(row.id)
    return recorded is not None and not recorded.evicting


def sync_tree(workspace: Workspace, *, prune: bool, dry_run: bool, durable: bool, progress: Progress) -> SyncReport:
    """Adopt what other tools have put into `models/`; see to the versions whose directories they took away.

    Those are deleted with `prune` only. Without, they stay, and get their directory back if the setting `materialize`
    is "all", as then has every version that lacks one. Raises OSError, StoreError.
    """
    workspace.check_writable()
    found = disagreement(workspace)
    missing = tuple(str(row.tag) for row in found.missing)
    keeps_all = workspace.catalog.setting("materialize") == "all"
    if dry_run:
        pruned = set(missing) if prune else set()
        bare = [str(row.tag) for row in _bare(workspace) if str(row.tag) not in pruned] if keeps_all else []
        return SyncReport(found.foreign, (), missing, tuple(sorted(pruned)), tuple(bare), (), True)
    deleted = []
    for row in found.missing if prune else ():
        with workspace.name_lock(row.name):
            is_still = _is_missing(workspace, row)
        if is_still:
            with contextlib.suppress(TagNotFound):
                delete(workspace, row.tag)
                deleted.append(str(row.tag))
    adoption = Adoption(workspace, durable, progress)
    adopt.run(adoption, [workspace.layout.home / path for path in found.foreign], move=True)
    made = []
    for row in _bare(workspace) if keeps_all else ():
        try:
            materialize(workspace, row, progress)
            made.append(str(row.tag))
        except StoreError:
            raise
        except CasstoreError as error:
            adoption.refused.append(Refused(str(workspace.layout.model(row.tag)), str(error)))
    for name in workspace.catalog.versions.names():
        if workspace.is_latest_stale(name):
            with workspace.name_lock(name):
                workspace.write_latest(name)
    return SyncReport(
        tuple(adoption.adopted + adoption.present), tuple(adoption.refused), missing, tuple(deleted), tuple(made),
        tuple(adoption.notes), False,
    )  # fmt: skip


def _bare(workspace: Workspace) -> list[VersionRow]:
    """The versions that have no directory."""
    return [row for row in workspace.catalog.versions.select() if not os.path.lexists(workspace.layout.model(row.tag))]
