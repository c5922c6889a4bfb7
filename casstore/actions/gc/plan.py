"""The plan of a gc, as a value: made without changing anything. A dry run prints it, and `apply` carries it out."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from casstore.actions import keeping
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.held import Held
from casstore.actions.consistency.moments import check_nothing_is_missing
from casstore.actions.consistency.strays import foreign_files, unnamed_files
from casstore.actions.directories import latest
from casstore.actions.directories.evict import (
    Evictions,
    Unsettled,
    eviction_rule,
    plan_evictions,
    unleased,
    unsettled_evictions,
)
from casstore.actions.gc.report import GcOptions, GcReport, GcStep
from casstore.actions.packs.estimate import packed_bytes
from casstore.actions.packs.repack import needed_bytes, sparse_packs
from casstore.actions.registry import trash
from casstore.actions.saving import drafts
from casstore.actions.saving.drafts import KeptDraft
from casstore.actions.saving.finish import unfinished_saves, without_directory
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import ColdFile, Marks, SparsePack
from casstore.catalog.trash import Due
from casstore.errors import StoreError
from casstore.storage import sessions
from casstore.storage.container import Container
from casstore.storage.sessions import session_of
from casstore.storage.walking import walk
from casstore.tag import Tag

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What was interrupted after its commit: directories marked as evicting, the tombstones of deleted versions with
    their manifests' ids, the ids of manifests without a name, models whose file `latest` is not up to date, and those
    whose log of aliases lacks something."""

    evictions: tuple[Unsettled, ...]
    tombstones: tuple[tuple[str, Tag], ...]
    manifest_ids: tuple[str, ...]
    names: tuple[str, ...]
    alias_logs: tuple[str, ...]

    @property
    def count(self) -> int:
        parts = (self.evictions, self.tombstones, self.manifest_ids, self.names, self.alias_logs)
        return sum(map(len, parts))


@dataclass(frozen=True, slots=True)
class Overdue:
    """What has been kept for `keep_days`: `paths` in quarantine/ with what they hold, the `pruned` manifests among
    them, and `drafts`. `kept_bytes`: the bytes that stay in quarantine/ and drafts/."""

    paths: tuple[Path, ...]
    pruned: tuple[Path, ...]
    drafts: tuple[KeptDraft, ...]
    count: int
    freed_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of processes that died, by id, and the bytes that they left."""

    ids: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Objects:
    """What becomes of containers after the steps before: which go, which packs are rewritten, and which cold loose
    files are packed. `packed_bytes`: an estimate of the size of the new packs, 0 if that was not asked for.

    `would_free`: the bytes that evicting all directories would free at once, and those that it would let gc pack.
    """

    unneeded: tuple[tuple[Container, int], ...]
    sparse: tuple[SparsePack, ...]
    cold: tuple[ColdFile, ...]
    packed_bytes: int
    would_free: tuple[int, int]


@dataclass(frozen=True, slots=True)
class GcPlan:
    """The steps of a gc in their order. It is valid for one store while gc's lock is held, and may be applied again
    after an interruption. Other processes save, read and delete meanwhile, so applying it checks each thing again."""

    wishes: GcOptions
    sessions: Sessions
    unfinished: Unfinished
    evictions: Evictions
    trash: Due
    overdue: Overdue
    strays: tuple[Path, ...]
    foreign: tuple[str, ...]
    objects: Objects
    trash_versions: int

    @property
    def clock_moved_days(self) -> int:
        return round(self.trash.clock_moved_ns / (24 * 3600 * 1_000_000_000))

    def report(self) -> GcReport:
        """The report of a dry run."""
        objects = self.objects
        steps = (
            GcStep("dead sessions", len(self.sessions.ids), self.sessions.freed_bytes),
            GcStep("unfinished work", self.unfinished.count),
            GcStep("trash", len(self.trash.versions)),
            GcStep("idle directories", self.evictions.count, self.evictions.freed_bytes, len(self.evictions.altered)),
            GcStep("quarantine", self.overdue.count, self.overdue.freed_bytes),
            GcStep("stray files", len(self.strays)),
            GcStep("unneeded objects", len(objects.unneeded), sum(size for _, size in objects.unneeded)),
            GcStep("rewritten", len(objects.sparse), sum(pack.size - needed_bytes(pack) for pack in objects.sparse)),
            GcStep("packed", len(objects.cold), sum(file.size for file in objects.cold) - objects.packed_bytes),
        )
        return GcReport(
            steps, True, self.evictions.altered, foreign=self.foreign, evictable_bytes=objects.would_free[0],
            packable_bytes=objects.would_free[1], quarantine_bytes=self.overdue.kept_bytes,
            trash_versions=self.trash_versions, clock_moved_days=self.clock_moved_days,
        )  # fmt: skip


def plan(workspace: Workspace, wishes: GcOptions, *, measured: bool) -> GcPlan:
    """Decide what a gc should do, without changing anything. gc's lock must be held. `measured`: also estimate what
    packing would free, by encoding what is to be packed, or a sample of it.

    Raises StoreError if the catalog has neither version nor tombstone for some manifest, or if a file that a version
    needs is missing or cut short: then nothing may be removed.
    """
    _check_catalog_is_current(workspace)
    doomed = trash.due(workspace, everything=wishes.empty_trash)
    with workspace.catalog.references.marked([version_id for version_id, _ in doomed.versions]) as marks:
        check_nothing_is_missing(workspace, marks)
        dead = tuple(sessions.dead_ids(workspace.layout))
        freed = sum(tree_bytes(workspace.layout.session(each)) for each in dead)
        unfinished = _unfinished(workspace)
        evictions = plan_evictions(workspace, eviction_rule(workspace, evict_all=wishes.evict_all))
        overdue = _overdue(workspace, wishes)
        strays = tuple(unnamed_files(workspace))
        foreign = tuple(map(str, foreign_files(workspace.layout)))
        marks.leave(each.candidate.version_id for each in unfinished.evictions if not each.stands)
        marks.leave(each.version_id for each in evictions.candidates)
        marks.leave(without_directory(workspace, unfinished.manifest_ids))
        marks.hold(Held(workspace, set(overdue.pruned)).unseen())
        objects = _objects(workspace, marks, wishes, measured=measured)
    left = workspace.catalog.trash.count() - len(doomed.versions)
    return GcPlan(
        wishes, Sessions(dead, freed), unfinished, evictions, doomed, overdue, strays, foreign, objects, left
    )  # fmt: skip


def _check_catalog_is_current(workspace: Workspace) -> None:
    """Raise StoreError if an old catalog has been put back: what it does not know may be the only copy."""
    layout, catalog = workspace.layout, workspace.catalog
    # A deletion into the trash changes the row, then moves the manifest; one that is for good as below.
    trashed = layout.trashed_ids()
    held = catalog.trash.holds(trashed)
    unknown: list[tuple[Tag | None, str, Path]] = [
        (None, each, layout.trashed_manifest(each)) for each in trashed if each not in held
    ]
    unknown += [each for each in list(layout.standing_manifests()) if not _is_version(workspace, *each[:2])]
    # A deletion adds the tombstone, then removes the manifest, then the tombstone, so look in this order.
    dead = {manifest_id for manifest_id, _ in catalog.deletions.tombstones()}
    for tag, manifest_id, path in unknown:
        # Bringing back adds the tombstone, then the manifest, then gives the version its name and drops the tombstone.
        if manifest_id not in dead and not _is_version(workspace, tag, manifest_id) and path.exists():
            raise StoreError(
                f"{path} is the manifest of a saved version that the catalog does not know, so the catalog is "
                f"older than the store; gc removed nothing. Put the newer {layout.catalog.name} back, or "
                "make a new one with `casstore repair --rebuild-catalog`; to give up a version whose manifest "
                "that cannot read, move the manifest away"
            )


def _is_version(workspace: Workspace, tag: Tag | None, manifest_id: str) -> bool:
    """Whether that is the manifest of the version of this tag; None for any."""
    versions = workspace.catalog.versions
    if tag is None:
        return bool(versions.by_manifest([manifest_id]))
    row = versions.find(tag)
    return row is not None and row.manifest_id == manifest_id


def _unfinished(workspace: Workspace) -> Unfinished:
    catalog = workspace.catalog
    evictions = tuple(unsettled_evictions(workspace))
    tombstones = tuple(catalog.deletions.tombstones())
    manifest_ids = tuple(unfinished_saves(workspace))
    # Finishing either of these writes `latest` too.
    tags = [*(tag for _, tag in tombstones), *catalog.versions.by_manifest(manifest_ids).values()]
    written = {tag.name for tag in tags}
    names = (name for name in catalog.versions.names() if name not in written and latest.is_stale(workspace, name))
    return Unfinished(evictions, tombstones, manifest_ids, tuple(names), tuple(alias_log.behind(workspace)))


def _overdue(workspace: Workspace, wishes: GcOptions) -> Overdue:
    layout, keep_ns = workspace.layout, keeping.keep_ns(workspace)
    pruned = keeping.overdue(layout.pruned_manifests, keep_ns)
    paths = [*keeping.overdue(layout.quarantined_strays, keep_ns), *pruned]
    paths += keeping.overdue(layout.changed_files, keep_ns)
    if wishes.empty_quarantine:
        timed = {layout.quarantined_strays, layout.pruned_manifests, layout.changed_files}
        paths += [path for path in layout.quarantine.iterdir() if path not in timed]
    old = tuple(drafts.overdue(workspace))
    count = sum(map(file_count, paths)) + len(old)
    freed = sum(map(tree_bytes, paths)) + sum(tree_bytes(Path(draft.path)) for draft in old)
    kept = tree_bytes(layout.quarantine) + tree_bytes(layout.drafts) - freed
    return Overdue(tuple(paths), tuple(pruned), old, count, freed, kept)


def _objects(workspace: Workspace, marks: Marks, wishes: GcOptions, *, measured: bool) -> Objects:
    # What no version needs yet may have been stored by a running import. Listed before the sessions.
    unneeded = marks.unreferenced()
    alive = sessions.live_ids(workspace.layout)
    for container, _ in unneeded:
        if session_of(container.file_id) in alive:
            _log.debug("%s: kept, a running process has just stored it", container.file_id)
    unneeded = [(container, size) for container, size in unneeded if session_of(container.file_id) not in alive]
    unneeded += workspace.catalog.references.dead_containers()
    sparse = sparse_packs(workspace, marks, rewrite_all=wishes.rewrite)
    cold = marks.cold()
    size = packed_bytes(workspace, marks, cold) if measured else 0
    would_free = (0, 0) if wishes.evict_all else what_eviction_frees(workspace, marks)
    return Objects(tuple(unneeded), tuple(sparse), tuple(cold), size, would_free)


def what_eviction_frees(workspace: Workspace, marks: Marks) -> tuple[int, int]:
    """The bytes that gc could free, and those that it could pack, if every directory that may go were evicted."""
    rule = eviction_rule(workspace, evict_all=True)
    candidates = [] if rule is None else workspace.catalog.directories.candidates(rule)
    before = _unlinked_bytes(marks)
    marks.leave(each.version_id for each in unleased(workspace, candidates))
    unneeded, cold = _unlinked_bytes(marks)
    return unneeded - before[0], cold - before[1]


def _unlinked_bytes(marks: Marks) -> tuple[int, int]:
    return sum(size for _, size in marks.unreferenced()), sum(file.needed_bytes for file in marks.cold())


def file_count(path: Path) -> int:
    """How many files a path stands for, links and special files included: itself, or those below a directory."""
    if path.is_symlink() or not path.is_dir():
        return int(os.path.lexists(path))
    return sum(not stat.S_ISDIR(status.st_mode) for _, status in walk(str(path), lambda _: None))


def tree_bytes(path: Path) -> int:
    """The bytes that deleting a file or directory frees: those of its files that have no other link."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return _lone_bytes([status])
    return _lone_bytes(status for _, status in walk(str(path), lambda _: None))


def _lone_bytes(statuses: Iterable[os.stat_result]) -> int:
    return sum(status.st_size for status in statuses if stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def check_current(workspace: Workspace) -> None:
    """Raise StoreError if an old catalog has been put back, by which nothing may be deleted."""
    _check_catalog_is_current(workspace)
