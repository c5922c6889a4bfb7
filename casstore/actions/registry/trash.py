"""The trash: bringing deleted versions back, and taking them for good.

A version's rows stay while it is in the trash, and its manifest stands in `manifests/.trash/`. Bringing it back puts
the manifest in its place first, under a tombstone, and then changes the rows in one transaction. What is cut short
before that is put back by the next gc, as what any deletion has left.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import datetime

from casstore.actions import keeping, resolve
from casstore.actions.describing import times
from casstore.actions.directories import latest
from casstore.actions.directories.materialize import materialize
from casstore.actions.registry.annotating import complete_log
from casstore.actions.saving.delete import Deleted, sweep
from casstore.actions.workspace import Workspace
from casstore.catalog.trash import Due, TrashRow, gone_meanwhile, taken_meanwhile
from casstore.catalog.versions import VersionRow
from casstore.errors import AmbiguousTag, CasstoreError, IntegrityError, InvalidTag, TagNotFound
from casstore.notebook import Shown
from casstore.progress import SILENT
from casstore.storage import files
from casstore.storage.layout import new_id
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.storage.sessions import Session
from casstore.tag import LATEST, Tag, TagQuery

_log = logging.getLogger(__name__)
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class DeletedVersion(Shown):
    """A version in the trash, which `Store.undelete` brings back.

    Attributes
    ----------
    tag
        The tag that it had. Several may have had the same.
    id
        Tells it from others of its tag.
    digest
        The digest of its content, in hexadecimal.
    size, file_count
        Of its files.
    created_at
        When it was made.
    deleted_at, deleted_by
        When, and by whom.
    goes_at
        From when gc may take it for good.
    labels
        Its labels.
    """

    tag: Tag
    id: str
    digest: str
    size: int
    file_count: int
    created_at: datetime
    deleted_at: datetime
    deleted_by: str
    goes_at: datetime
    labels: dict[str, str]


def deleted(workspace: Workspace, name: str | None = None) -> list[DeletedVersion]:
    """What is in the trash, or what of it had this name; the last deleted first."""
    keep_ns = keeping.trash_ns(workspace)
    return [_shown(row, keep_ns) for row in workspace.catalog.trash.select(name)]


def _shown(row: TrashRow, keep_ns: int) -> DeletedVersion:
    version = row.version
    return DeletedVersion(
        tag=version.tag,
        id=version.manifest_id,
        digest=version.digest.hex(),
        size=version.size,
        file_count=version.file_count,
        created_at=times.timestamp(version.created_at_ns),
        deleted_at=times.timestamp(row.deleted_at_ns),
        deleted_by=row.actor,
        goes_at=times.timestamp(row.counted_from_ns + keep_ns),
        labels=version.labels(),
    )


def find(workspace: Workspace, query: TagQuery, which: str | None = None) -> TrashRow:
    """The deleted version meant: exact, or by unique prefix; of several of one tag, the last deleted.

    `which`: the beginning of its id or digest. Raises TagNotFound, AmbiguousTag, InvalidTag.
    """
    if query.version == LATEST:
        raise InvalidTag(f"{query} names no deleted version; say which one to bring back, such as {query.name}:VERSION")
    text = str(query)
    rows = workspace.catalog.trash.with_prefix(query.name, query.version or "")
    rows = [row for row in rows if row.version.version == query.version] or rows
    if which is not None:
        rows = [row for row in rows if _is_meant(row.version, which.lower())]
        text += f" with an id or digest that begins with {which}"
    if not rows:
        raise _not_found(workspace, query, text)
    tags = list(dict.fromkeys(str(row.version.tag) for row in rows))
    if len(tags) > 1:
        more = f" and {len(tags) - _MOST_NAMED} more" if len(tags) > _MOST_NAMED else ""
        raise AmbiguousTag(f"{query} could be {', '.join(tags[:_MOST_NAMED])}{more}; type more of it", tags)
    return rows[0]


def _is_meant(row: VersionRow, which: str) -> bool:
    return row.manifest_id.startswith(which) or row.digest.hex().startswith(which)


def _not_found(workspace: Workspace, query: TagQuery, text: str) -> TagNotFound:
    if resolve.exists(workspace.catalog, query):
        return TagNotFound(f"there is no {text} in the trash; it has not been deleted: `casstore show {query}`")
    return TagNotFound(
        f"there is no {text} in the trash; `casstore list --deleted` shows what is. gc takes a deleted version from "
        "there when its trash_days have passed"
    )


def undelete(workspace: Workspace, found: TrashRow, target: Tag) -> Tag:
    """Bring a deleted version back under this tag, to its old place among the versions of the name.

    It gets a directory if it is the newest of its name, or the setting materialize is "all". Raises TagNotFound if it
    has gone meanwhile, TagExists if another version has the tag, IntegrityError where neither manifest nor catalog say
    what it is, OSError; then it stays in the trash.
    """
    with contextlib.ExitStack() as held:
        session = held.enter_context(workspace.session())
        for name in sorted({found.version.name, target.name}):  # in one order: two of these must not wait for another
            held.enter_context(workspace.name_lock(name))
        _bring_back(workspace, session, found, target)
    _make_directory(workspace, target)
    return target


def _bring_back(workspace: Workspace, session: Session, found: TrashRow, target: Tag) -> None:
    catalog, row = workspace.catalog, found.version
    if catalog.versions.find(target) is not None:
        raise taken_meanwhile(target)
    if catalog.trash.by_number(found.number) is None:
        raise gone_meanwhile(row.tag)
    _finish(workspace, session, row.manifest_id)
    manifest_id = row.manifest_id if target == row.tag else session.new_file_id()
    catalog.trash.begin_return(manifest_id, target)
    try:
        _place_manifest(workspace, session, row, target, manifest_id)
        catalog.trash.bring_back(found.number, target, manifest_id)
    except BaseException:
        now = catalog.versions.find(target)
        if now is None or now.manifest_id != manifest_id:  # else Ctrl-C came after the commit
            with contextlib.suppress(OSError, CasstoreError):  # gc does it
                _finish(workspace, session, manifest_id)
        raise
    try:
        latest.write(workspace, target.name)
        if target != row.tag and row.annotated is not None:
            complete_log(workspace, target.name)  # which says it of the tag that it had
        _finish(workspace, session, row.manifest_id)
    except OSError as error:
        _log.warning("%s is back, and the next `casstore gc` finishes what could not be done now: %s", target, error)


def _finish(workspace: Workspace, session: Session, manifest_id: str) -> None:
    """Finish what the tombstone of this manifest stands for, if there is one. Raises OSError."""
    for each, tag in workspace.catalog.deletions.tombstones():
        if each == manifest_id:
            for _, error in sweep(workspace, session, tag.name, [Deleted(manifest_id, tag)]).failures:
                raise error


def _place_manifest(
    workspace: Workspace, session: Session, row: VersionRow, target: Tag, manifest_id: str
) -> None:  # fmt: skip
    """Put the manifest where that of `target` stands; it is on disk when this returns."""
    layout = workspace.layout
    final, trashed = layout.manifest(target, manifest_id), layout.trashed_manifest(row.manifest_id)
    manifest = _read(workspace, row)
    files.make_directory(final.parent)
    if manifest is not None and target == row.tag:
        files.rename(trashed, final)
    else:
        made = replace(_from_catalog(workspace, row) if manifest is None else manifest, tag=target)
        mode = workspace.file_mode(executable=False)
        files.write_file(final, made.pack(), mode, temporary=session.new_path(), durable=True)
        if manifest is None:  # a new catalog would go by it, and take the version for a deleted one
            with contextlib.suppress(FileNotFoundError):
                files.rename(trashed, layout.quarantine / f"{new_id()}.{row.manifest_id}")
    for directory in (final.parent, layout.manifests, layout.trashed_manifests):
        files.sync_directory(directory)


def _read(workspace: Workspace, row: VersionRow) -> Manifest | None:
    """The manifest in the trash; None if it is damaged or gone. Raises OSError."""
    try:
        manifest = Manifest.unpack(read_manifest_file(workspace.layout.trashed_manifest(row.manifest_id)))
    except (IntegrityError, OSError) as error:
        files.raise_unless_damage(error)
        return None
    return manifest if manifest.tag == row.tag and manifest.digest == row.digest else None


def _from_catalog(workspace: Workspace, row: VersionRow) -> Manifest:
    catalog = workspace.catalog
    listed = catalog.versions.files(row.id, deleted=True)
    made = catalog.versions.manifest(row, catalog.index.recipes({file.digest for file in listed}), deleted=True)
    if made.digest != row.digest:
        raise row.damage()
    return made


def _make_directory(workspace: Workspace, tag: Tag) -> None:
    row, newest = workspace.catalog.versions.find(tag), workspace.catalog.versions.newest(tag.name)
    is_newest = row is not None and newest is not None and newest.id == row.id
    if row is not None and (is_newest or workspace.catalog.setting("materialize") == "all"):
        try:
            materialize(workspace, row, SILENT)
        except (CasstoreError, OSError) as error:
            _log.warning("%s is back; its directory could not be made now: %s", tag, error)


def due(workspace: Workspace, *, everything: bool = False) -> Due:
    """What gc should take from the trash now."""
    now_ns = time.time_ns()
    return workspace.catalog.trash.due(now_ns, keeping.trash_ns(workspace), everything=everything)


def empty(workspace: Workspace, doomed: Due) -> tuple[int, list[tuple[Tag, OSError]]]:
    """Delete these for good, those of one name in one transaction; gc then takes what they alone need.

    What has been brought back meanwhile stays. Returns how many went, and what is left of some, for the next gc.
    """
    workspace.catalog.trash.look(time.time_ns())
    names: dict[str, list[int]] = {}
    for version_id, name in doomed.versions:
        names.setdefault(name, []).append(version_id)
    count, failures = 0, list[tuple[Tag, OSError]]()
    for name, version_ids in names.items():
        with workspace.session() as session, workspace.name_lock(name):
            gone = workspace.catalog.trash.empty(version_ids)
            count += len(gone)
            if gone:
                failures += sweep(workspace, session, name, [Deleted(*each) for each in gone]).failures
    return count, failures
