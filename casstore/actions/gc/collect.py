"""gc: take away what no version needs. A plan first, then its steps, each of which may be killed and done again."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from casstore.actions import keeping
from casstore.actions.consistency.deleted import drop_unneeded
from casstore.actions.consistency.held import Held
from casstore.actions.consistency.moments import check_nothing_is_missing
from casstore.actions.consistency.strays import StrayShelf, foreign_files, unnamed_files
from casstore.actions.directories import latest
from casstore.actions.directories.evict import evict, eviction_rule, finish_evictions, unleased
from casstore.actions.directories.presence import settle_directories
from casstore.actions.gc import autogc
from casstore.actions.gc.reclaim import Reclaim
from casstore.actions.gc.redundancy import Redundancy
from casstore.actions.packs.repack import needed_bytes, pack_cold, rewrite_sparse, sparse_packs
from casstore.actions.saving import drafts
from casstore.actions.saving.delete import sweep
from casstore.actions.saving.finish import finish_saves
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import Marks
from casstore.errors import StoreError, StoreLocked, StoreUnwritable
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import files, sessions
from casstore.storage.locks import Lock
from casstore.storage.reserve import FULL
from casstore.storage.sessions import Session, session_of
from casstore.storage.walking import walk
from casstore.tag import Tag

_FORGET_FINGERPRINTS_AFTER_NS = 90 * 24 * 3600 * 1_000_000_000
# A dot keeps the lock apart from those of models.
# What would be said of the next thing as well.
_OF_EVERYTHING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class GcStep:
    """What one step of gc did, or, in a dry run, would do.

    Attributes
    ----------
    name
        The step, as `casstore gc --help` explains it.
    count
        How many things it took.
    freed_bytes
        How many bytes come back. What packing frees is known when it is done, and 0 in a dry run; what rewriting frees
        is an estimate there. Both are below 0 where what does not shrink gets the headers of a pack.
    skipped
        How many more it would have taken, but left alone, since something in them was changed.
    damaged
        Chunks that it should have moved, and left where they are because they cannot be read; `verify` names the files
        that need them.
    healed
        Chunks that were damaged in their home, and that it stored again from a copy which was to go.
    """

    name: str
    count: int
    freed_bytes: int = 0
    skipped: int = 0
    damaged: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class GcReport(Shown):
    """What one gc did, or, in a dry run, would do.

    Attributes
    ----------
    steps
        The steps in order; none when gc was not due.
    dry_run
        Whether nothing was changed.
    altered
        Versions whose directories were left, since something in them was altered or added.
    strays_kept_in
        The directory in quarantine/ that took the stray files, empty if there were none. A gc that runs `keep_days`
        later removes it.
    left
        One line for each thing that could not be removed.
    foreign
        Paths among the store's own files that are not casstore's, and were left alone.
    quarantined
        Paths in quarantine/ of what stood in directories that were removed, and was not the versions' own.
    evictable_bytes
        What `evict_all` would free at once besides; 0 after it was set.
    packable_bytes
        What directories in recent use keep from being packed; with `evict_all` most of it is freed where versions are
        alike.
    quarantine_bytes
        What stays in quarantine/ and drafts/.
    """

    steps: tuple[GcStep, ...]
    dry_run: bool
    altered: tuple[Tag, ...] = ()
    strays_kept_in: str = ""
    left: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    evictable_bytes: int = 0
    packable_bytes: int = 0
    quarantine_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        """What came back in all; 0 where headers of packs took more than that."""
        return max(0, sum(step.freed_bytes for step in self.steps))

    @property
    def damaged(self) -> int:
        """Chunks that could not be read, and stay where they are."""
        return sum(step.damaged for step in self.steps)

    @property
    def healed(self) -> int:
        """Chunks that were damaged where they are at home, and are not any more."""
        return sum(step.healed for step in self.steps)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a gc may be asked to do besides what it does by itself; see `Store.gc`."""

    evict_all: bool = False
    rewrite: bool = False
    empty_quarantine: bool = False


def collect(workspace: Workspace, progress: Progress, *, dry_run: bool, wishes: Wishes) -> GcReport:
    """Run gc. Others may save, read and delete meanwhile. Raises StoreLocked while another gc runs, and
    StoreError, with nothing removed, when manifests stand for which the catalog has neither version nor tombstone, or
    when a file is missing or cut short that a version needs."""
    workspace.check_writable()
    with Lock(workspace.layout.gc_lock) as lock:
        if not lock.try_acquire():
            raise StoreLocked("another gc is running in this store; wait until it is done")
        return _Gc(workspace, progress, dry_run, wishes).run()


def collect_if_due(workspace: Workspace, progress: Progress) -> GcReport:
    """Run gc as commits start it: a report without steps when it is switched off, not worth its while, or running.

    Raises StoreError as `collect` does.
    """
    workspace.check_writable()
    with Lock(workspace.layout.gc_lock) as lock:
        if autogc.is_on(workspace) and lock.try_acquire() and autogc.is_worthwhile(workspace):
            return _Gc(workspace, progress, dry_run=False, wishes=Wishes()).run()
    return GcReport((), dry_run=False)


class _Gc:
    def __init__(self, workspace: Workspace, progress: Progress, dry_run: bool, wishes: Wishes) -> None:
        self._workspace = workspace
        self._layout = workspace.layout
        self._catalog = workspace.catalog
        self._progress = progress
        self._dry_run = dry_run
        self._wishes = wishes
        self._quarantine_bytes = 0
        self._would_free = (0, 0)
        self._altered: tuple[Tag, ...] = ()
        self._redundancy = Redundancy(workspace)
        self._told = (0, 0)  # of what `_redundancy` counts, what a step has told by now
        self._strays_kept_in = ""
        self._left: list[str] = []
        self._foreign: list[str] = []
        self._quarantined: list[str] = []
        self._leaving: set[int] = set()  # in a dry run: the versions whose directories would not count by now

    def run(self) -> GcReport:
        self.check_catalog_is_current()
        with self._catalog.references.marked() as marks:
            check_nothing_is_missing(self._workspace, marks)
        if not self._dry_run:
            settle_directories(self._workspace)
        deleted_bytes = self._catalog.upkeep.deleted_bytes()
        steps = (
            self.sessions(),
            self.unfinished(),
            self.directories(),
            self.quarantine(),
            self.strays(),
            *self.objects(),
        )
        if not self._dry_run:
            self._drop_manifests()
            self._redundancy.note()
            self._catalog.references.forget_old_fingerprints(time.time_ns() - _FORGET_FINGERPRINTS_AFTER_NS)
            autogc.note_collected(self._workspace, deleted_bytes)
            self._catalog.tidy()
        return GcReport(
            steps, self._dry_run, self._altered, self._strays_kept_in,
            tuple(self._left), tuple(self._foreign), tuple(self._quarantined), *self._would_free,
            self._quarantine_bytes,
        )  # fmt: skip

    def _drop_manifests(self) -> None:
        """Remove the manifests of deleted versions that explain no loose file any more."""
        try:
            drop_unneeded(self._workspace)
        except OSError as error:
            self._note_left(error)

    def check_catalog_is_current(self) -> None:
        """Stop when an old catalog has been put back: what it does not know of may be the only copy."""
        unknown = []
        for tag, manifest_id, path in list(self._layout.standing_manifests()):  # listed before the catalog is read
            row = self._catalog.versions.find(tag)
            if row is None or row.manifest_id != manifest_id:
                unknown.append((manifest_id, path))
        # A deletion leaves the tombstone, then removes the file, then the tombstone: so look in that order.
        dead = {manifest_id for manifest_id, _ in self._catalog.versions.tombstones()}
        for manifest_id, path in unknown:
            if manifest_id not in dead and path.exists():
                raise StoreError(
                    f"{path} is the manifest of a saved version that the catalog does not know, so the catalog is "
                    f"older than the store; gc removed nothing. Put the newer {self._layout.catalog.name} back, or "
                    "make a new one with `casstore repair --rebuild-catalog`; to give up a version whose manifest "
                    "that cannot read, move the manifest away"
                )

    def sessions(self) -> GcStep:
        """Reap the directories of processes that died, and drop the leases of those that have ended."""
        dead = sessions.dead_ids(self._layout)
        paths = [self._layout.session(session_id) for session_id in dead]
        freed = sum(map(_tree_bytes, paths))
        if not self._dry_run:
            dead = [session_id for session_id in dead if self._reap(session_id)]
            freed -= sum(map(_tree_bytes, paths))
            leases = self._catalog.leases
            leases.drop([each for each in leases.sessions() if not sessions.is_live(self._layout, each)])
        return GcStep("dead sessions", len(dead), freed)

    def _reap(self, session_id: str) -> bool:
        try:
            return sessions.reap(self._layout, session_id)
        except OSError as error:
            self._note_left(error)
            return False

    def _note_left(self, error: OSError) -> None:
        """Go on after what could not be removed. Raises what says nothing of that one thing, as of a full disk."""
        if isinstance(error, StoreUnwritable):  # what another user has closed is left to that user's gc
            self._left.append(f"something could not be removed: {error}")
            return
        if isinstance(error, StoreError) or error.errno in _OF_EVERYTHING:
            raise error
        self._left.append(f"{error.filename or 'something'} could not be removed: {error.strerror}")

    def unfinished(self) -> GcStep:
        """Finish what was interrupted after its commit: evictions, deletions, the names of manifests, `latest`."""
        evictions = finish_evictions(self._workspace, dry_run=self._dry_run)
        count = len(evictions.version_ids) + len(evictions.gone_ids)
        self._leaving.update(evictions.gone_ids)
        with self._workspace.session() as session:
            for manifest_id, tag in self._catalog.versions.tombstones():
                count += 1
                if not self._dry_run:
                    with self._workspace.name_lock(tag.name):
                        self._sweep(session, manifest_id, tag)
        count += finish_saves(self._workspace, dry_run=self._dry_run)
        for name in self._catalog.versions.names():
            if latest.is_stale(self._workspace, name):
                count += 1
                if not self._dry_run:
                    with self._workspace.name_lock(name):
                        latest.write(self._workspace, name)
        return GcStep("unfinished work", count)

    def _sweep(self, session: Session, manifest_id: str, tag: Tag) -> None:
        try:
            self._quarantined += sweep(self._workspace, session, manifest_id, tag)
        except OSError as error:
            if error.errno not in FULL:  # the name in `.deleted` may need a block; there is room when gc is done
                self._note_left(error)

    def directories(self) -> GcStep:
        """Take away the directories of versions that nobody uses."""
        rule = eviction_rule(self._workspace, evict_all=self._wishes.evict_all)
        if rule is None:
            return GcStep("idle directories", 0)
        self._progress.start("evict", None)
        try:
            with self._workspace.session() as session:
                may_go = self._redundancy.secure
                evicted = evict(self._workspace, session, rule, dry_run=self._dry_run, may_go=may_go)
        finally:
            self._progress.finish()
        self._altered = tuple(evicted.altered)
        self._quarantined += evicted.quarantined
        self._leaving.update(evicted.version_ids, evicted.gone_ids)
        count, damaged, healed = len(evicted.version_ids), *self._news()
        return GcStep("idle directories", count, evicted.freed_bytes, len(evicted.altered), damaged, healed)

    def strays(self) -> GcStep:
        """Move files under objects/ that no row names to quarantine."""
        count = skipped = 0
        shelf = StrayShelf(self._layout)
        for path in unnamed_files(self._workspace):
            with contextlib.suppress(FileNotFoundError):  # a reader has put a damaged copy into quarantine
                if self._dry_run or shelf.take(path):
                    count += 1
                else:
                    skipped += 1
        self._strays_kept_in = str(shelf.directory or "")
        self._foreign = list(map(str, foreign_files(self._layout)))
        return GcStep("stray files", count, skipped=skipped)

    def quarantine(self) -> GcStep:
        """Remove, `keep_days` later, strays that a gc has moved to quarantine, manifests of pruned versions, kept
        drafts, and what was found changed in directories."""
        count = freed = 0
        keep_ns = keeping.keep_ns(self._workspace)
        strays, pruned = (
            keeping.overdue(parent, keep_ns, dry_run=self._dry_run)
            for parent in (self._layout.quarantined_strays, self._layout.pruned_manifests)
        )
        changed = keeping.overdue(self._layout.changed_files, keep_ns, dry_run=self._dry_run)
        self._held = Held(self._workspace, set(pruned))
        others = self._with_no_time() if self._wishes.empty_quarantine else []
        for path in (*strays, *pruned, *changed, *others):
            files_there, bytes_there = _file_count(path), _tree_bytes(path)
            if not self._remove(functools.partial(_remove, path)):
                files_there, bytes_there = files_there - _file_count(path), bytes_there - _tree_bytes(path)
            count, freed = count + files_there, freed + bytes_there
        for draft in drafts.overdue(self._workspace, dry_run=self._dry_run):
            size = _tree_bytes(Path(draft.path))
            if self._remove(functools.partial(drafts.remove_unless_held, self._workspace, draft)):
                count, freed = count + 1, freed + size
        kept = _tree_bytes(self._layout.quarantine) + _tree_bytes(self._layout.drafts)
        self._quarantine_bytes = kept - (freed if self._dry_run else 0)
        return GcStep("quarantine", count, freed)

    def _with_no_time(self) -> list[Path]:
        """What was found damaged, or in deleted versions' directories, and stays until somebody asks for this."""
        timed = {self._layout.quarantined_strays, self._layout.pruned_manifests, self._layout.changed_files}
        # What this gc has just moved there has been seen by nobody.
        return [
            path
            for path in self._layout.quarantine.iterdir()
            if path not in timed and str(path) not in self._quarantined
        ]

    def _remove(self, remove: Callable[[], bool]) -> bool:
        """Whether it is gone, or would be in a run that is not dry."""
        if self._dry_run:
            return True
        try:
            return remove()
        except OSError as error:
            self._note_left(error)
            return False

    def objects(self) -> tuple[GcStep, ...]:
        """What goes by one marking of what is needed."""
        with self._catalog.references.marked() as marks:
            marks.leave(self._leaving if self._dry_run else ())
            marks.hold(self._held.unseen())
            unneeded = self.containers(marks)
            rewritten = self._if_room("rewritten", unneeded, lambda: self.rewrite(marks))
            packed = self._if_room("packed", unneeded, lambda: self.pack(marks))
            if not self._wishes.evict_all:
                self._would_free = self._see_what_eviction_frees(marks)
            return unneeded, rewritten, packed

    def _see_what_eviction_frees(self, marks: Marks) -> tuple[int, int]:
        """What no directory would link to any more if all went that may: unneeded bytes, and bytes to be packed."""
        rule = eviction_rule(self._workspace, evict_all=True)
        candidates = [] if rule is None else self._catalog.directories.candidates(rule)
        leaving = [each.version_id for each in unleased(self._workspace, candidates)]
        before = _unlinked_bytes(marks)
        marks.leave(leaving)
        unneeded, cold = _unlinked_bytes(marks)
        return unneeded - before[0], cold - before[1]

    def _if_room(self, name: str, unneeded: GcStep, step: Callable[[], GcStep]) -> GcStep:
        """A step that writes before it frees: left to the next gc on a full disk, if this one has freed anything."""
        try:
            return step()
        except OSError as error:
            if error.errno not in FULL or not unneeded.freed_bytes:
                raise
            return GcStep(name, 0)

    def containers(self, marks: Marks) -> GcStep:
        """Condemn the containers that nothing needs, and only when that is durable unlink them."""
        references = self._catalog.references
        # What no version needs yet may be what an import has stored so far. Listed before the sessions.
        doomed = marks.unreferenced()
        alive = sessions.live_ids(self._layout)
        doomed = [(container, size) for container, size in doomed if not _is_live(container.file_id, alive)]
        if self._dry_run:
            doomed += references.dead_containers()
            return GcStep("unneeded objects", len(doomed), sum(size for _, size in doomed))
        reclaim = Reclaim(self._workspace, marks, self._redundancy, self._held)
        reclaim.condemn([container for container, _ in doomed], self._progress)
        references.drop_unreferenced_blobs()
        damaged, healed = self._news()
        return GcStep("unneeded objects", reclaim.containers, reclaim.freed_bytes, damaged=damaged, healed=healed)

    def _news(self) -> tuple[int, int]:
        """How many damaged chunks copies were kept for, and how many were healed, since the step before."""
        now = self._redundancy.damaged, self._redundancy.healed
        damaged, healed = now[0] - self._told[0], now[1] - self._told[1]
        self._told = now
        return damaged, healed

    def rewrite(self, marks: Marks) -> GcStep:
        """Rewrite packs that are mostly dead, or with `rewrite` all that hold dead bytes, and merge small ones."""
        packs = sparse_packs(self._workspace, marks, rewrite_all=self._wishes.rewrite)
        if self._dry_run:
            return GcStep("rewritten", len(packs), max(0, sum(pack.size - needed_bytes(pack) for pack in packs)))
        reclaim = Reclaim(self._workspace, marks, self._redundancy, self._held)
        moved = rewrite_sparse(self._workspace, marks, packs, self._progress, reclaim.condemn_rows)
        return GcStep("rewritten", moved.files, reclaim.freed_bytes - moved.bytes, damaged=moved.damaged)

    def pack(self, marks: Marks) -> GcStep:
        """Move what only cold loose files hold into packs."""
        if self._dry_run:
            return GcStep("packed", marks.cold()[0], 0)
        reclaim = Reclaim(self._workspace, marks, self._redundancy, self._held)
        moved = pack_cold(self._workspace, marks, self._progress, reclaim.condemn_rows)
        damaged, healed = self._news()
        freed = reclaim.freed_bytes - moved.bytes
        return GcStep("packed", moved.files, freed, damaged=moved.damaged + damaged, healed=healed)


def _unlinked_bytes(marks: Marks) -> tuple[int, int]:
    return sum(size for _, size in marks.unreferenced()), marks.cold()[1]


def _is_live(file_id: str, alive: set[str]) -> bool:
    return session_of(file_id) in alive


def _remove(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        files.remove_tree(path)
    else:
        files.remove_file(path)
    return True


def _file_count(path: Path) -> int:
    """How many files, links and the like a path stands for: itself, or those below a directory."""
    if path.is_symlink() or not path.is_dir():
        return int(os.path.lexists(path))
    return sum(not stat.S_ISDIR(status.st_mode) for _, status in walk(str(path), lambda _: None))


def _tree_bytes(path: Path) -> int:
    """What deleting a file or directory frees: the bytes of its files that no other link keeps."""
    total = 0
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            return status.st_size
    for _, status in walk(str(path), lambda _: None):
        total += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return total
