"""Applying a plan of gc. Each step may be killed at any point, and repeated by this plan or another.

What was planned may be gone or needed by now, since other processes save, read and delete meanwhile. So each thing is
checked again where nothing can change it: under a name's lock, in the transaction that condemns, in the rename.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from casstore.actions import keeping, signatures
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.deleted import drop_unneeded
from casstore.actions.consistency.held import Held, held_manifests
from casstore.actions.consistency.strays import StrayShelf
from casstore.actions.directories import latest
from casstore.actions.directories.evict import evict, settle_eviction
from casstore.actions.directories.presence import settle_directories
from casstore.actions.gc import autogc
from casstore.actions.gc.plan import GcPlan, file_count, tree_bytes, what_eviction_frees
from casstore.actions.gc.reclaim import Reclaim
from casstore.actions.gc.redundancy import Redundancy
from casstore.actions.gc.report import GcReport, GcStep
from casstore.actions.packs.repack import pack_cold, rewrite_sparse
from casstore.actions.registry import trash
from casstore.actions.registry.annotating import complete_logs
from casstore.actions.saving import drafts
from casstore.actions.saving.delete import Deleted, sweep
from casstore.actions.saving.finish import finish_saves
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import Marks
from casstore.errors import StoreError, StoreUnwritable
from casstore.progress import Progress
from casstore.storage import files, sessions
from casstore.storage.reserve import FULL
from casstore.storage.sessions import Session

_log = logging.getLogger(__name__)
_FORGET_FINGERPRINTS_AFTER_NS = 90 * 24 * 3600 * 1_000_000_000
# Errors that would meet the next thing as well.
_OF_EVERYTHING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def apply(workspace: Workspace, plan: GcPlan, progress: Progress) -> GcReport:
    """Apply the plan; returns what was done. gc's lock must be held. Raises OSError, StoreError; what has been done by
    then stays done."""
    return _Application(workspace, plan, progress).run()


class _Application:
    def __init__(self, workspace: Workspace, plan: GcPlan, progress: Progress) -> None:
        self._workspace = workspace
        self._layout = workspace.layout
        self._catalog = workspace.catalog
        self._plan = plan
        self._progress = progress
        self._redundancy = Redundancy(workspace)
        self._told = (0, 0)  # of the counts in `_redundancy`, what steps have reported so far
        self._held = Held(workspace, set(plan.overdue.pruned))
        self._altered = list(plan.evictions.altered)
        self._quarantine_bytes = 0
        self._would_free = (0, 0)
        self._strays_kept_in = ""
        self._left: list[str] = []
        self._quarantined: list[str] = []

    def run(self) -> GcReport:
        settle_directories(self._workspace)
        first = self.sessions(), self.unfinished(), self.trash()
        deleted_bytes = self._catalog.upkeep.deleted_bytes()
        steps = (
            *first,
            self.directories(),
            self.quarantine(),
            self.strays(),
            *self.objects(),
        )
        self._drop_manifests()
        self._complete_logs()
        self._redundancy.note()
        self._catalog.references.forget_old_fingerprints(time.time_ns() - _FORGET_FINGERPRINTS_AFTER_NS)
        autogc.note_collected(self._workspace, deleted_bytes)
        report = GcReport(
            steps, False, tuple(self._altered), self._strays_kept_in, tuple(self._left), self._plan.foreign,
            tuple(self._quarantined), *self._would_free, self._quarantine_bytes, self._catalog.trash.count(),
            self._plan.clock_moved_days,
        )  # fmt: skip
        done = {step.name: step.count for step in steps if step.count}
        if done:  # gc with nothing to do writes nothing
            self._catalog.events.note("gc", freed_bytes=report.freed_bytes, done=done)
        self._catalog.tidy()
        return report

    def _drop_manifests(self) -> None:
        """Remove the manifests of deleted versions that no longer explain any loose file."""
        try:
            drop_unneeded(self._workspace)
        except OSError as error:
            self._note_left(error)

    def _complete_logs(self) -> None:
        """Append to the logs of annotations what a crash has kept from them."""
        try:
            complete_logs(self._workspace)
        except OSError as error:
            self._note_left(error)

    def sessions(self) -> GcStep:
        """Reap the directories of processes that died, and drop the leases of those that have ended."""
        paths = [self._layout.session(session_id) for session_id in self._plan.sessions.ids]
        before = sum(map(tree_bytes, paths))
        count = sum(map(self._reap, self._plan.sessions.ids))
        leases = self._catalog.leases
        leases.drop([each for each in leases.sessions() if not sessions.is_live(self._layout, each)])
        return GcStep("dead sessions", count, before - sum(map(tree_bytes, paths)))

    def _reap(self, session_id: str) -> bool:
        try:
            is_gone = sessions.reap(self._layout, session_id)
            _log.info("session %s: %s", session_id, "removed, its process is dead" if is_gone else "kept, it lives")
            return is_gone
        except OSError as error:
            self._note_left(error)
            return False

    def _note_left(self, error: OSError) -> None:
        """Record what could not be removed, and go on. Raises errors that concern more than it, such as a full disk."""
        if isinstance(error, StoreUnwritable):  # what this user may not enter is left to its owner's gc
            self._left.append(f"something could not be removed: {error}")
            return
        if isinstance(error, StoreError) or error.errno in _OF_EVERYTHING:
            raise error
        self._left.append(f"{error.filename or 'something'} could not be removed: {error.strerror}")

    def unfinished(self) -> GcStep:
        """Finish what was interrupted after its commit: evictions, deletions, names of manifests, `latest` files."""
        unfinished = self._plan.unfinished
        for each in unfinished.evictions:
            with self._workspace.name_lock(each.candidate.name):
                settle_eviction(self._workspace, each.candidate)
        with self._workspace.session() as session:
            deleted: dict[str, list[Deleted]] = {}
            for manifest_id, tag in unfinished.tombstones:  # of one tag there may be several
                deleted.setdefault(tag.name, []).append(Deleted(manifest_id, tag))
            for several in deleted.values():
                self._sweep(session, several)
        finish_saves(self._workspace, unfinished.manifest_ids)
        for manifest_id in unfinished.manifest_ids:
            _log.info("manifest %s: given its name, or removed as that of no version", manifest_id)
        for name in unfinished.names:
            _log.info("model %s: latest written again", name)
            with self._workspace.name_lock(name):
                latest.write(self._workspace, name)
        for name in unfinished.alias_logs:
            _log.info("model %s: the log of its aliases was completed", name)
            alias_log.catch_up(self._workspace, name)
        return GcStep("unfinished work", unfinished.count)

    def _sweep(self, session: Session, deleted: Sequence[Deleted]) -> None:
        name = deleted[0].tag.name
        with self._workspace.name_lock(name):
            swept = sweep(self._workspace, session, name, deleted)
        self._quarantined += swept.kept
        for tag in {each.tag for each in deleted} - {tag for tag, _ in swept.failures}:
            _log.info("%s: what its deletion had left was taken away", tag)
        for tag, error in swept.failures:
            _log.info("%s: something that its deletion has left stays: %s", tag, error)
            if error.errno not in FULL:  # the name in `.deleted` may need a block; there is room when gc is done
                self._note_left(error)

    def trash(self) -> GcStep:
        """Delete for good what has been in the trash for `trash_days`; later steps take what it alone needs."""
        count, failures = trash.empty(self._workspace, self._plan.trash)
        for tag, error in failures:
            _log.info("%s: something that its deletion has left stays: %s", tag, error)
            if error.errno not in FULL:
                self._note_left(error)
        if count:
            _log.info("trash: %d versions taken for good", count)
        return GcStep("trash", count)

    def directories(self) -> GcStep:
        """Take away the directories of versions that are not in use."""
        self._progress.start("evict", None)
        try:
            with self._workspace.session() as session:
                evicted = evict(self._workspace, session, self._plan.evictions, may_go=self._redundancy.secure)
        finally:
            self._progress.finish()
        self._altered += evicted.altered
        self._quarantined += evicted.quarantined
        count, damaged, healed = len(evicted.version_ids), *self._news()
        return GcStep("idle directories", count, evicted.freed_bytes, len(self._altered), damaged, healed)

    def quarantine(self) -> GcStep:
        """Remove what has been kept in quarantine/ and drafts/ for `keep_days`."""
        layout, keep_ns = self._layout, keeping.keep_ns(self._workspace)
        for parent in (layout.quarantined_strays, layout.pruned_manifests, layout.changed_files, layout.drafts):
            keeping.mend_clocks(parent, keep_ns)
        count = freed = 0
        for path in self._plan.overdue.paths:
            files_there, bytes_there = file_count(path), tree_bytes(path)
            _log.info("%s: removed, its keep_days have passed", path)
            if not self._remove(functools.partial(_remove, path)):
                files_there, bytes_there = files_there - file_count(path), bytes_there - tree_bytes(path)
            count, freed = count + files_there, freed + bytes_there
        for draft in self._plan.overdue.drafts:
            size = tree_bytes(Path(draft.path))
            if self._remove(functools.partial(drafts.remove_unless_held, self._workspace, draft)):
                count, freed = count + 1, freed + size
        self._quarantine_bytes = tree_bytes(layout.quarantine) + tree_bytes(layout.drafts)
        return GcStep("quarantine", count, freed)

    def _remove(self, remove: Callable[[], bool]) -> bool:
        try:
            return remove()
        except OSError as error:
            self._note_left(error)
            return False

    def strays(self) -> GcStep:
        """Move files under objects/ that no row of the catalog names to quarantine."""
        count = skipped = 0
        shelf = StrayShelf(self._layout)
        for path in self._plan.strays:
            with contextlib.suppress(FileNotFoundError):  # a reader has put a damaged copy into quarantine
                if shelf.take(path):
                    _log.info("%s: moved to quarantine, it is not in the catalog", path)
                    count += 1
                else:
                    skipped += 1
        self._strays_kept_in = str(shelf.directory or "")
        return GcStep("stray files", count, skipped=skipped)

    def objects(self) -> tuple[GcStep, ...]:
        """The steps that share one marking of what is needed: containers, rewriting and packing."""
        with self._catalog.references.marked() as marks:
            marks.hold(self._held.unseen())
            unneeded = self.containers(marks)
            rewritten = self._if_room("rewritten", unneeded, lambda: self.rewrite(marks))
            packed = self._if_room("packed", unneeded, lambda: self.pack(marks))
            if not self._plan.wishes.evict_all:
                self._would_free = what_eviction_frees(self._workspace, marks)
            return unneeded, rewritten, packed

    def _if_room(self, name: str, unneeded: GcStep, step: Callable[[], GcStep]) -> GcStep:
        """Run a step that writes before it frees; on a full disk leave it to the next gc if this one freed anything."""
        try:
            return step()
        except OSError as error:
            if error.errno not in FULL or not unneeded.freed_bytes:
                raise
            _log.info("%s: left to the next gc, the disk is full", name)
            return GcStep(name, 0)

    def containers(self, marks: Marks) -> GcStep:
        """Condemn the containers that nothing needs, and unlink them once that is durable."""
        reclaim = self._reclaim(marks)
        reclaim.condemn([container for container, _ in self._plan.objects.unneeded], self._progress)
        self._catalog.references.drop_unreferenced_blobs()
        signatures.drop_unneeded(self._workspace, self._signed_contents)
        damaged, healed = self._news()
        return GcStep("unneeded objects", reclaim.containers, reclaim.freed_bytes, damaged=damaged, healed=healed)

    def _signed_contents(self) -> set[bytes]:
        """The contents of versions that are here, or can come back, by their digests."""
        left = {bytes(each.digest) for each in self._catalog.remotes.elsewhere()}
        held = {bytes(manifest.digest) for _, manifest in held_manifests(self._workspace)}
        return self._catalog.versions.digests() | left | held

    def _reclaim(self, marks: Marks) -> Reclaim:
        return Reclaim(self._workspace, marks, self._redundancy, self._held)

    def _news(self) -> tuple[int, int]:
        """How many damaged chunks kept their copies, and how many were healed, since the previous step."""
        now = self._redundancy.damaged, self._redundancy.healed
        damaged, healed = now[0] - self._told[0], now[1] - self._told[1]
        self._told = now
        return damaged, healed

    def rewrite(self, marks: Marks) -> GcStep:
        """Move what is needed out of the planned packs, if they still hold anything."""
        planned = {pack.container for pack in self._plan.objects.sparse}
        packs = [pack for pack in marks.packs() if pack.container in planned]
        reclaim = self._reclaim(marks)
        moved = rewrite_sparse(self._workspace, marks, packs, self._progress, reclaim.condemn_rows)
        return GcStep("rewritten", moved.files, reclaim.freed_bytes - moved.bytes, damaged=moved.damaged)

    def pack(self, marks: Marks) -> GcStep:
        """Move what only the planned loose files hold into packs, if they are still cold."""
        planned = {file.id for file in self._plan.objects.cold}
        cold = [file for file in marks.cold() if file.id in planned]
        reclaim = self._reclaim(marks)
        moved = pack_cold(self._workspace, marks, cold, self._progress, reclaim.condemn_rows)
        damaged, healed = self._news()
        freed = reclaim.freed_bytes - moved.bytes
        return GcStep("packed", moved.files, freed, damaged=moved.damaged + damaged, healed=healed)


def _remove(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        files.remove_tree(path)
    else:
        files.remove_file(path)
    return True
