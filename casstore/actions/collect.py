"""gc: take away what no version needs. A plan first, then its steps, each of which may be killed and done again."""

from __future__ import annotations

import contextlib
import errno
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from casstore.actions import autogc
from casstore.actions.delete import sweep
from casstore.actions.evict import evict, eviction_rule, finish_evictions
from casstore.actions.finish import finish_saves
from casstore.actions.reclaim import Reclaim
from casstore.actions.repack import cold_files, pack_cold, rewrite_sparse, sparse_packs
from casstore.actions.workspace import Workspace
from casstore.catalog import sessions
from casstore.catalog.sessions import Session, session_of
from casstore.errors import InvalidTag, StoreError, StoreLocked
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.layout import Layout, is_container_name, is_fan_out
from casstore.storage.walking import walk
from casstore.tag import Tag

_FORGET_FINGERPRINTS_AFTER_NS = 90 * 24 * 3600 * 1_000_000_000
# A dot keeps the lock apart from those of models.
_MANIFEST_ID = re.compile("[0-9a-z]{16}-[0-9]+")
_LOCK_NAME = ".gc.lock"
# What would be said of the next thing as well.
_OF_EVERYTHING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class GcStep:
    """What one step of gc did, or, in a dry run, would do: how many things, and how many bytes come back.

    What packing and rewriting free is known when they are done: 0 in a dry run, and below 0 where what does not
    shrink gets the headers of a pack.
    `skipped`: how many more it would have taken but left alone, since somebody has changed something in them.
    `damaged`: chunks that it should have moved, and left where they are because they cannot be read; `verify` names
    the files that need them.
    """

    name: str
    count: int
    freed_bytes: int = 0
    skipped: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class GcReport:
    """The steps of one gc in order; none when it was not due.

    `altered`: the versions whose directories would have gone, were not something in them altered or added.
    `left`: one line for each thing that could not be removed. `foreign`: paths among the store's own files that are
    not casstore's, and were left alone. `quarantined`: paths in quarantine/ of what was found in deleted versions'
    directories and was not theirs.
    """

    steps: tuple[GcStep, ...]
    dry_run: bool
    altered: tuple[Tag, ...] = ()
    left: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()

    @property
    def freed_bytes(self) -> int:
        return sum(step.freed_bytes for step in self.steps)

    @property
    def damaged(self) -> int:
        """Chunks that could not be read, and stay where they are."""
        return sum(step.damaged for step in self.steps)


def collect(workspace: Workspace, progress: Progress, *, dry_run: bool, evict_all: bool = False) -> GcReport:
    """Run gc. Others may save, read and delete meanwhile. Raises StoreLocked while another gc runs, and
    StoreError, with nothing removed, when manifests stand for which the catalog has neither version nor tombstone."""
    workspace.check_writable()
    lock = gc_lock(workspace.layout)
    if not lock.try_acquire():
        raise StoreLocked("another gc is running in this store; wait until it is done")
    with lock:
        return _Gc(workspace, progress, dry_run, evict_all).run()


def collect_if_due(workspace: Workspace, progress: Progress) -> GcReport:
    """Run gc as commits start it: a report without steps when it is switched off, not worth its while, or running.

    Raises StoreError as `collect` does.
    """
    workspace.check_writable()
    lock = gc_lock(workspace.layout)
    if autogc.is_on(workspace) and lock.try_acquire():
        with lock:
            if autogc.is_worthwhile(workspace):
                return _Gc(workspace, progress, dry_run=False, evict_all=False).run()
    return GcReport((), dry_run=False)


def gc_lock(layout: Layout) -> files.Lock:
    """What gc holds while it runs: nobody else takes containers away."""
    return files.Lock(layout.locks / _LOCK_NAME)


def standing_manifests(layout: Layout) -> Iterator[tuple[Tag, str, Path]]:
    """Every manifest that has its final name: the tag and the id that the name says, and its path."""
    for directory in layout.manifests.iterdir():
        if directory != layout.pending_manifests and directory.is_dir():
            paths: list[Path] = []
            with contextlib.suppress(FileNotFoundError):  # its last version is being deleted
                paths = list(directory.iterdir())
            for path in paths:
                version, _, manifest_id = path.name.rpartition(".")
                with contextlib.suppress(InvalidTag):  # what somebody has put there
                    if path.name == path.name.lower() and _MANIFEST_ID.fullmatch(manifest_id):
                        yield Tag(directory.name, version), manifest_id, path


class _Gc:
    def __init__(self, workspace: Workspace, progress: Progress, dry_run: bool, evict_all: bool) -> None:
        self._workspace = workspace
        self._layout = workspace.layout
        self._catalog = workspace.catalog
        self._progress = progress
        self._dry_run = dry_run
        self._evict_all = evict_all
        self._altered: tuple[Tag, ...] = ()
        self._left: list[str] = []
        self._foreign: list[str] = []
        self._quarantined: list[str] = []
        self._leaving: set[int] = set()  # in a dry run: the versions whose directories would not count by now

    def run(self) -> GcReport:
        self.check_catalog_is_current()
        deleted_bytes = self._catalog.upkeep.deleted_bytes()
        steps = (
            self.sessions(),
            self.unfinished(),
            self.directories(),
            self.strays(),
            self.containers(),
            self.rewrite(),
            self.pack(),
        )
        if not self._dry_run:
            self._catalog.references.forget_old_fingerprints(time.time_ns() - _FORGET_FINGERPRINTS_AFTER_NS)
            autogc.note_collected(self._workspace, deleted_bytes)
            self._catalog.tidy()
        return GcReport(
            steps, self._dry_run, self._altered, tuple(self._left), tuple(self._foreign), tuple(self._quarantined)
        )

    def check_catalog_is_current(self) -> None:
        """Stop when an old catalog has been put back: what it does not know of may be the only copy."""
        unknown = []
        for tag, manifest_id, path in list(standing_manifests(self._layout)):  # listed before the catalog is read
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
        freed = sum(_tree_bytes(self._layout.session(session_id)) for session_id in dead)
        if not self._dry_run:
            dead = [session_id for session_id in dead if self._reap(session_id)]
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
            if self._workspace.is_latest_stale(name):
                count += 1
                if not self._dry_run:
                    with self._workspace.name_lock(name):
                        self._workspace.write_latest(name)
        return GcStep("unfinished work", count)

    def _sweep(self, session: Session, manifest_id: str, tag: Tag) -> None:
        try:
            self._quarantined += sweep(self._workspace, session, manifest_id, tag)
        except OSError as error:
            self._note_left(error)

    def directories(self) -> GcStep:
        """Take away the directories of versions that nobody uses."""
        rule = eviction_rule(self._workspace, evict_all=self._evict_all)
        if rule is None:
            return GcStep("idle directories", 0)
        self._progress.start("evict", None)
        try:
            with self._workspace.session() as session:
                evicted = evict(self._workspace, session, rule, dry_run=self._dry_run)
        finally:
            self._progress.finish()
        self._altered = tuple(evicted.altered)
        self._leaving.update(evicted.version_ids, evicted.gone_ids)
        return GcStep("idle directories", len(evicted.version_ids), evicted.freed_bytes, len(evicted.altered))

    def strays(self) -> GcStep:
        """Unlink files under objects/ that no row names: directories are listed first, the catalog is read second."""
        count = freed = 0
        for directory in self._container_directories():
            listed = self._own_files(directory)
            if not listed:
                continue
            alive = sessions.live_ids(self._layout)
            idle = {_file_id(path): path for path in listed if not _is_live(_file_id(path), alive)}
            for path in self._unnamed(idle):
                try:
                    status = path.stat()
                except FileNotFoundError:  # a reader has put a damaged copy into quarantine
                    continue
                count += 1
                freed += status.st_size if status.st_nlink == 1 else 0
                if not self._dry_run:
                    files.remove_file(path)
        return GcStep("stray files", count, freed)

    def _container_directories(self) -> list[Path]:
        fan_out = [path for path in sorted(self._layout.loose.iterdir()) if is_fan_out(path.name) and path.is_dir()]
        self._note_foreign(path for path in self._layout.loose.iterdir() if path not in fan_out)
        return [self._layout.packs, *fan_out]

    def _own_files(self, directory: Path) -> list[Path]:
        """The containers in a directory, by their names; what else is there is noted."""
        listed = list(directory.iterdir())
        own = {path for path in listed if is_container_name(path) and path.is_file() and not path.is_symlink()}
        self._note_foreign(path for path in listed if path not in own and path.exists())
        return [path for path in listed if path in own]

    def _note_foreign(self, paths: Iterable[Path]) -> None:
        self._foreign += sorted(map(str, paths))

    def _unnamed(self, listed: dict[str, Path]) -> list[Path]:
        named = self._catalog.index.named(listed)
        return [path for file_id, path in listed.items() if file_id not in named]

    def containers(self) -> GcStep:
        """Condemn the containers that nothing needs, and only when that is durable unlink them."""
        references = self._catalog.references
        self._last_id = references.last_version_id()
        references.mark(self._last_id, self._leaving if self._dry_run else ())
        # What no version needs yet may be what an import has stored so far. Listed before the sessions.
        doomed = references.unreferenced()
        alive = sessions.live_ids(self._layout)
        doomed = [(container, size) for container, size in doomed if not _is_live(container.file_id, alive)]
        if self._dry_run:
            doomed += references.dead_containers()
            return GcStep("unneeded objects", len(doomed), sum(size for _, size in doomed))
        reclaim = Reclaim(self._workspace, self._last_id)
        reclaim.condemn([container for container, _ in doomed], self._progress)
        references.drop_unreferenced_blobs()
        return GcStep("unneeded objects", reclaim.containers, reclaim.freed_bytes)

    def rewrite(self) -> GcStep:
        """Rewrite packs that are mostly dead, and merge small ones."""
        if self._dry_run:
            return GcStep("rewritten", len(sparse_packs(self._workspace)), 0)
        reclaim = Reclaim(self._workspace, self._last_id)
        moved = rewrite_sparse(self._workspace, self._progress, reclaim.condemn_rows)
        return GcStep("rewritten", moved.files, reclaim.freed_bytes - moved.bytes, damaged=moved.damaged)

    def pack(self) -> GcStep:
        """Move what only cold loose files hold into packs."""
        if self._dry_run:
            return GcStep("packed", cold_files(self._workspace)[0], 0)
        reclaim = Reclaim(self._workspace, self._last_id)
        moved = pack_cold(self._workspace, self._progress, reclaim.condemn_rows)
        return GcStep("packed", moved.files, reclaim.freed_bytes - moved.bytes, damaged=moved.damaged)


def _file_id(path: Path) -> str:
    """The random part of a container's name: `<id>.pack` or `<digest>.<id>`."""
    return path.stem if path.suffix == ".pack" else path.suffix.removeprefix(".")


def _is_live(file_id: str, alive: set[str]) -> bool:
    return session_of(file_id) in alive


def _tree_bytes(path: Path) -> int:
    """What deleting a directory frees: the bytes of its files that no other link keeps."""
    total = 0
    for _, status in walk(str(path), lambda _: None):
        total += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return total
