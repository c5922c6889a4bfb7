"""Deleting versions: first the rows, then the directories; a gc removes the bytes, once they are not in the trash."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from casstore.actions import keeping
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.deleted import keep_all
from casstore.actions.directories import latest
from casstore.actions.directories.leavings import take_away
from casstore.actions.directories.standing import Standing, unpacked_entries
from casstore.actions.saving import drafts
from casstore.actions.workspace import Workspace
from casstore.catalog.deletions import Judged
from casstore.catalog.events import DELETED, Noted
from casstore.catalog.index import Fingerprint
from casstore.digest import Digest
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.sessions import Session
from casstore.tag import Tag

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deleted:
    """A version that has no name any more and that has a tombstone. `recorded`: the stamps of its files, if they are
    still known."""

    manifest_id: str
    tag: Tag
    recorded: Mapping[str, FileStamp] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did. `kept`: paths in quarantine/ of what was in the directories and did not belong to the versions.
    `failures`: the versions of which something could not be taken away, and why. `noted`: what is to be remembered of
    loose files that lost a link by it."""

    kept: list[str] = field(default_factory=list)
    failures: list[tuple[Tag, OSError]] = field(default_factory=list)
    noted: dict[Fingerprint, Digest] = field(default_factory=dict)


def by_name(tags: Iterable[Tag]) -> list[list[Tag]]:
    """The distinct tags, grouped by name. Names and versions keep the order of their first appearance."""
    found: dict[str, dict[Tag, None]] = {}
    for tag in tags:
        found.setdefault(tag.name, {})[tag] = None
    return [list(group) for group in found.values()]


def delete(
    workspace: Workspace, tags: Sequence[Tag], event: Noted = DELETED, *, now: bool = False, with_aliases: bool = False,
    judged: Judged | None = None,
) -> list[str]:  # fmt: skip
    """Delete versions of one name, and their aliases if that is said: all of them in one transaction, or none. They go
    to the trash, unless the setting trash_days is 0; with `now` for good. `event`: what is noted of each. `judged`: as
    what they are to go.

    Returns the paths in quarantine/ of what was added to or changed in their directories. What fails after the commit
    is named in the log, and gc finishes it. Raises TagNotFound if one of them is gone or changed, VersionAliased if one
    has aliases, AliasProtected, StoreLocked.
    """
    name = tags[0].name
    with workspace.session() as session, workspace.name_lock(name):
        stamps = {}
        inodes = {}
        for tag in tags:
            row = workspace.catalog.versions.find(tag)
            standing = None if row is None else Standing(workspace, row)
            recorded = None if standing is None else standing.recorded
            inodes[tag] = None if standing is None else standing.inode()
            stamps[tag] = {} if recorded is None else unpacked_entries(recorded)
        for_good = now or not keeping.trash_ns(workspace)
        with alias_log.changing(workspace, name) if with_aliases else contextlib.nullcontext():
            rows = workspace.catalog.deletions.delete(
                inodes, event, for_good=for_good, with_aliases=with_aliases, judged=judged
            )  # fmt: skip
        swept = sweep(workspace, session, name, [Deleted(row.manifest_id, row.tag, stamps[row.tag]) for row in rows])
    for tag, error in swept.failures:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error
        _log.warning(
            "%s is deleted, but not all that it left could be taken away (%s); `casstore gc` takes the rest away "
            "when that is mended",
            tag, reason,
        )  # fmt: skip
    return swept.kept


def sweep(workspace: Workspace, session: Session, name: str, deleted: Collection[Deleted]) -> Swept:
    """Take away what deleted versions of one name left (directories, manifests, tombstones), with one sync for all.
    The name's lock must be held.

    A version of which something cannot be taken away keeps its tombstone, and is among the failures. One that has none
    any more is left alone: it may have been brought back.
    """
    swept = Swept()
    gone = []
    buried = {manifest_id for manifest_id, _ in workspace.catalog.deletions.tombstones()}
    for each in deleted:
        if each.manifest_id not in buried:
            continue
        try:
            drafts.take_away_of(workspace, session, each.manifest_id)  # while the catalog knows that it was saved
            swept.kept.extend(_take_away(workspace, session, each, swept.noted))
            gone.append(each)
        except OSError as error:
            swept.failures.append((each.tag, error))
    try:
        latest.write(workspace, name)
        if gone:
            _forget(workspace, gone, swept)
    except OSError as error:
        failed = {tag for tag, _ in swept.failures}
        swept.failures.extend((each.tag, error) for each in gone if each.tag not in failed)
    return swept


def _take_away(workspace: Workspace, session: Session, each: Deleted, noted: dict[Fingerprint, Digest]) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        inode = os.lstat(workspace.layout.model(each.tag)).st_ino
        if workspace.catalog.deletions.is_deleted_directory(each.tag, inode):
            return take_away(workspace, session, each.tag, each.manifest_id, each.recorded, noted)
    return []


def _forget(workspace: Workspace, gone: Sequence[Deleted], swept: Swept) -> None:
    """Move the manifests away, and drop the tombstones once no directory and no manifest can come back."""
    directory = workspace.layout.model(gone[0].tag).parent
    files.sync_directory(directory if directory.exists() else workspace.layout.models)
    trashed = workspace.catalog.trash.holds([each.manifest_id for each in gone])
    failures = keep_all(workspace.layout, [(each.tag, each.manifest_id) for each in gone], trashed)
    swept.failures.extend(failures)
    failed = {tag for tag, _ in failures}
    buried = [each.manifest_id for each in gone if each.tag not in failed]
    workspace.catalog.deletions.forget_tombstones(buried, swept.noted)
