"""Eviction: remove directories that are not in use. The versions stay; their directories are made again on demand."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.directories.changed import ChangedShelf, parents
from casstore.actions.directories.leavings import late
from casstore.actions.directories.presence import inode_of
from casstore.actions.directories.standing import Standing, unpacked_entries
from casstore.actions.workspace import Workspace
from casstore.catalog.directories import Candidate, EvictionRule, KeptBy
from casstore.catalog.index import Fingerprint
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.storage import files, sessions
from casstore.storage.container import FileStamp
from casstore.storage.locks import Lock
from casstore.storage.sessions import Session
from casstore.storage.walking import walk
from casstore.tag import Tag

_log = logging.getLogger(__name__)
_DAY_NS = 24 * 3600 * 1_000_000_000
# Directories of one name that go under one hold of its lock, with two commits: a commit is an fsync, and one for each
# of thousands of versions would take minutes. Readers of the name wait for the renames of a batch, not for deletions.
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Evictions:
    """The directories that are to go by a rule, those of one name together, and how many bytes of their files have no
    other link. `gone`: how many of them have already been removed by others. `altered`: the directories left alone
    since something in them is not as it was made."""

    rule: EvictionRule | None = None
    candidates: tuple[Candidate, ...] = ()
    gone: int = 0
    freed_bytes: int = 0
    altered: tuple[Tag, ...] = ()

    @property
    def count(self) -> int:
        return len(self.candidates) - self.gone


@dataclass(slots=True)
class Evicted:
    """What was removed: the versions' directories, and the bytes of their files that had no other link, since removing
    one of several links frees nothing. `altered`: the directories left alone since something in them is not as it was
    made. `quarantined`: paths in quarantine/ of what was written into directories while they were being removed.
    """

    version_ids: list[int] = field(default_factory=list)
    freed_bytes: int = 0
    altered: list[Tag] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    def note(self, candidate: Candidate, found: _Compared) -> None:
        """Count one directory by what was found in its place."""
        if found.is_altered:
            _log.info("%s: directory kept, something in it was changed or added", candidate.tag)
            self.altered.append(candidate.tag)
        elif not found.is_gone:
            _log.info("%s: directory evicted (%d bytes)", candidate.tag, found.lone_bytes)
            self.version_ids.append(candidate.version_id)
            self.freed_bytes += found.lone_bytes


def eviction_rule(workspace: Workspace, *, evict_all: bool) -> EvictionRule | None:
    """The rule by which the settings let directories go; None if they keep all."""
    if not evict_all and workspace.catalog.setting("materialize") == "all":
        return None
    keep_ns = int(workspace.catalog.setting("keep_days")) * _DAY_NS
    return EvictionRule(evict_all, time.time_ns(), keep_ns)


def plan_evictions(workspace: Workspace, rule: EvictionRule | None) -> Evictions:
    """Which directories may go by the rule, and what that frees; none without a rule. Changes nothing."""
    idle = [] if rule is None else workspace.catalog.directories.candidates(rule)
    candidates = unleased(workspace, idle)
    if _log.isEnabledFor(logging.DEBUG):
        unused = set(candidates)
        _tell_kept(workspace, rule, [each for each in idle if each not in unused])
    found = [(candidate, _compare(workspace, candidate)) for candidate in candidates]
    going = [(candidate, each) for candidate, each in found if not each.is_altered]
    for candidate, each in found:
        if each.is_altered:
            _log.info("%s: directory kept, something in it was changed or added", candidate.tag)
    return Evictions(
        rule,
        tuple(candidate for candidate, _ in going),
        sum(each.is_gone for _, each in going),
        sum(each.lone_bytes for _, each in going),
        tuple(candidate.tag for candidate, each in found if each.is_altered),
    )


def _tell_kept(workspace: Workspace, rule: EvictionRule | None, leased: Sequence[Candidate]) -> None:
    """Say of each directory that stays by which rule it does."""
    if rule is None:
        _log.debug("every directory is kept, the setting materialize is all")
        return
    for tag, by in workspace.catalog.directories.kept(rule):
        days = f" ({rule.keep_ns // _DAY_NS})" if by is KeptBy.RECENT_USE else ""
        _log.debug("%s: directory kept, %s%s", tag, by.value, days)
    for candidate in leased:
        _log.debug("%s: directory kept, a process is using it", candidate.tag)


def evict(
    workspace: Workspace, session: Session, planned: Evictions, *, may_go: Callable[[VersionRow], bool]
) -> Evicted:
    """Remove the directories that are planned to go, if they still may. `may_go` is asked for each whether what stands
    there is sound elsewhere.

    Each directory is marked as evicting, in a transaction that finds no pin and no lease; compared with what was made;
    and renamed into the session. Then its row is dropped. A reader takes its lease before it looks for the mark, so
    either gc sees the lease or the reader sees the mark. A reader that sees the mark waits for the name's lock and
    makes the directory again. A kill at any point leaves a mark, which `settle_eviction` or the next reader settles,
    and files of a dead session.
    """
    evicted = Evicted()
    if planned.rule is None:
        return evicted
    for name, candidates in itertools.groupby(planned.candidates, lambda c: c.name):
        while batch := list(itertools.islice(candidates, _BATCH)):
            for candidate in unleased(workspace, batch):
                _is_safe(workspace, candidate, may_go)  # now, so that no process waits for it while the lock is held
            doomed: list[_Doomed] = []
            with Lock(workspace.layout.name_lock(name)) as lock:
                # A process that makes a directory of this name may hold the lock for long: left to the next gc.
                if lock.try_acquire():
                    doomed = _take_away(workspace, session, batch, planned.rule, evicted, may_go)
                else:
                    _log.debug("%s: directories kept, another process works on this model", name)
            noted: dict[Fingerprint, Digest] = {}
            for each in doomed:
                evicted.quarantined += _keep_late(workspace, each)
                with loose_files.unlinking(workspace, each.path, each.stamps, noted), contextlib.suppress(OSError):
                    files.remove_tree(each.path)  # the next gc reaps the session, and reports what it cannot remove
            workspace.catalog.index.remember(noted)
    return evicted


def _is_safe(workspace: Workspace, candidate: Candidate, may_go: Callable[[VersionRow], bool]) -> bool:
    row = workspace.catalog.versions.by_id(candidate.version_id)
    return row is None or may_go(row)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A directory that a killed gc had marked as evicting, and whether it still stands."""

    candidate: Candidate
    stands: bool


def unsettled_evictions(workspace: Workspace) -> list[Unsettled]:
    """The directories that a killed gc had marked as evicting. Changes nothing."""
    found = workspace.catalog.directories.evicting()
    return [Unsettled(candidate, _stands(workspace, candidate)) for candidate in found]


def settle_eviction(workspace: Workspace, candidate: Candidate) -> None:
    """Settle a directory that a killed gc had marked as evicting. The name's lock must be held.

    A directory that still stands counts again, until another gc decides; one that is gone loses its row.
    """
    directories = workspace.catalog.directories
    recorded = directories.find(candidate.version_id)
    if recorded is None or not recorded.evicting:
        return  # a reader has settled it already
    if _stands(workspace, candidate):
        directories.undo_evictions([candidate.version_id])
    else:
        directories.end_evictions([candidate.version_id])


def _stands(workspace: Workspace, candidate: Candidate) -> bool:
    row = workspace.catalog.versions.by_id(candidate.version_id)
    return row is not None and Standing(workspace, row).is_ours


def unleased(workspace: Workspace, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The versions among these whose directories no living session leases at present."""
    leases = workspace.catalog.leases
    alive = [each for each in leases.sessions() if sessions.is_live(workspace.layout, each)]
    leased = leases.versions(alive)
    return [candidate for candidate in candidates if candidate.version_id not in leased]


def _take_away(
    workspace: Workspace, session: Session, batch: Sequence[Candidate], rule: EvictionRule, evicted: Evicted,
    may_go: Callable[[VersionRow], bool],
) -> list[_Doomed]:  # fmt: skip
    """Evict one batch; returns the directories that remain to be deleted. The name's lock must be held."""
    directories = workspace.catalog.directories
    is_alive = functools.partial(sessions.is_live, workspace.layout)
    begun = directories.begin_eviction((each.version_id for each in batch), rule, is_alive)
    doomed, kept = list[_Doomed](), []
    for candidate in batch:
        if candidate.version_id not in begun:
            _log.debug("%s: directory kept, it has come into use, or has been pinned or opened", candidate.tag)
            continue
        if not _is_safe(workspace, candidate, may_go):
            _log.info("%s: directory kept, a damaged file could not be stored again", candidate.tag)
            kept.append(candidate.version_id)
            continue
        # Compared only now, after the mark, which may have had to wait: what was put there meanwhile must not go.
        found = _compare(workspace, candidate)
        evicted.note(candidate, found)
        if found.is_altered:
            kept.append(candidate.version_id)
        elif not found.is_gone:
            path = workspace.set_aside(workspace.layout.model(candidate.tag), session)
            doomed.append(_Doomed(path, candidate.tag, found.manifest_id, found.stamps))
    if doomed:
        # Without its row a directory that comes back would count as foreign, and be in the way of the version's own.
        files.sync_directory(workspace.layout.model(batch[0].tag).parent)
    directories.undo_evictions(kept)
    directories.end_evictions([each for each in begun if each not in kept])
    return doomed


@dataclass(frozen=True, slots=True)
class _Compared:
    """What stands in a version's place. `lone_bytes`: the bytes of files without another link. For a directory that is
    as it was made: the `stamps` of its files, and the `manifest_id` of the version."""

    lone_bytes: int = 0
    is_gone: bool = False
    is_altered: bool = False
    manifest_id: str = ""
    stamps: Mapping[str, FileStamp] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Doomed:
    """A directory that has been set aside, and what it held immediately before."""

    path: Path
    tag: Tag
    manifest_id: str
    stamps: Mapping[str, FileStamp]


def _keep_late(workspace: Workspace, doomed: _Doomed) -> list[str]:
    """Move to quarantine what was written into a directory in the moment before it was set aside."""
    found = late(workspace, doomed.tag, doomed.manifest_id, doomed.stamps, doomed.path)
    if not found:
        return []
    shelf = ChangedShelf(workspace, doomed.tag)
    try:
        for path in map(Path, found):
            shelf.take(path, doomed.tag.version if path == doomed.path else str(path.relative_to(doomed.path)))
        files.sync_directory(workspace.layout.changed_files)
    except OSError:  # such as a full disk, on which a rename still works; what stays goes with the session
        whole = workspace.quarantined(doomed.tag, doomed.path.name)
        files.move(doomed.path, whole)
        return [*shelf.kept, str(whole)]
    finally:
        shelf.tell()
    return shelf.kept


def _compare(workspace: Workspace, candidate: Candidate) -> _Compared:
    """Compare a version's directory, by stat, with what was made: it must hold just these files and directories.

    In a store that was copied stat cannot tell, so the bytes are compared.
    """
    row = workspace.catalog.versions.find(candidate.tag)
    if row is None:
        return _Compared(is_gone=True)
    standing = Standing(workspace, row)
    path = standing.path
    inode = inode_of(path)
    recorded = None if inode is None else standing.as_copied()
    if recorded is None:
        return _Compared(is_gone=True)
    stamps = unpacked_entries(recorded)
    own_directories = parents((*stamps, *(f"{path}/" for path in row.directory_paths())))
    expected: dict[str, FileStamp | None] = {**dict.fromkeys(own_directories), **stamps}
    lone_bytes = 0
    try:
        for name, status in walk(str(path)):
            stamp = None if stat.S_ISDIR(status.st_mode) else FileStamp.of(status)
            if name not in expected or expected.pop(name) != stamp:
                return _Compared(is_altered=True)
            lone_bytes += status.st_size if stamp is not None and status.st_nlink == 1 else 0
    except OSError:  # closed to this user, or changing at this moment: not as it was made
        return _Compared(is_altered=True)
    is_altered = inode != recorded.inode or bool(expected)
    return _Compared(lone_bytes, False, is_altered, row.manifest_id, stamps)
