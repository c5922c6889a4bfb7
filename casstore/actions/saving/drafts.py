"""Drafts that could not be saved: kept in drafts/ for `keep_days` with a record, to be saved later.

The id of a session that saves one begins with the draft's id, and a version's manifest tells its session. So the commit
that makes the version visible also says that the draft is saved: from then on it is not kept, whatever becomes of the
process. It leaves drafts/ by one rename before anything of it is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from casstore.actions import keeping, resolve
from casstore.actions.describing import times
from casstore.actions.sources.source import Source, remove_source
from casstore.actions.workspace import Workspace
from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import CasstoreError, InvalidSetting, InvalidSource, StoreLocked, TagNotFound
from casstore.late_classes import dataclass
from casstore.settings import check_setting
from casstore.storage import denials, files
from casstore.storage.locks import Lock
from casstore.storage.parents import Parent, packed, unpacked
from casstore.storage.sessions import Session
from casstore.storage.walking import walk
from casstore.tag import Tag, TagQuery

# In the directory of a kept draft. It is as deep in the store as a draft, so relative links out of it still work.
FILES, RECORD, OBJECTS = "files", "draft.json", "custom_objects.pkl"
_MOST_RECORD_BYTES = 256 << 20
# The characters of an id. An older casstore has made shorter ones, too few for no session of another to begin so.
ID_LENGTH = 10


@dataclass(frozen=True, slots=True)
class KeptDraft:
    """A draft that was not saved because of an error, and is kept for `keep_days` (a setting of the store).

    Attributes
    ----------
    id
        What `Store.save_draft` and `casstore drafts` take.
    path
        The directory with its files.
    kept_at
        When it was kept, in UTC.
    size
        Bytes of its files.
    file_count
        How many files it has.
    tag
        The tag that it was to have; None if its record is lost.
    reason
        The error, in words.
    left_out
        The labels, metadata and other parts that could not be kept, one line each.
    """

    id: str
    path: str
    kept_at: datetime
    size: int
    file_count: int
    tag: Tag | None
    reason: str
    left_out: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """The directory that holds the files and the record."""
        return Path(self.path).parent


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a draft: what it was to be saved as, and why it was not.

    `description`: the parts that could be kept. `base`: a tag, or empty. `durability`: empty if the store's setting was
    to apply. `parents`: what the caller said that it comes from, as `listed` has them; None if nothing was said.
    """

    tag: str = ""
    reason: str = ""
    left_out: list[str] = field(default_factory=list)
    description: Description = field(default_factory=Description)
    base: str = ""
    materialize: bool = True
    durability: str = ""
    parents: list[Any] | None = None

    def document(self) -> dict[str, Any]:
        """The record as a JSON object; the description is as in a manifest."""
        shallow = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**shallow, "left_out": list(self.left_out), "description": self.description.document()}


_NOTHING = Record()


def kept_drafts(workspace: Workspace) -> list[KeptDraft]:
    """The drafts that are kept, oldest first."""
    read = [_read(directory) for directory in keeping.kept(workspace.layout.drafts)]
    return [draft for draft in read if _is_kept(workspace, draft.directory)]  # and was while it was read


def find(workspace: Workspace, draft_id: str) -> KeptDraft:
    """The draft with this id, or with the only id that begins so. Raises TagNotFound."""
    directories = keeping.kept(workspace.layout.drafts)
    found = [
        each
        for each in directories
        if draft_id and id_of(each).startswith(draft_id) and not is_saved(workspace, id_of(each))
    ]
    if len(found) == 1:
        return _read(found[0])
    if found:
        raise TagNotFound(f"several drafts are kept whose ids begin with {draft_id!r}; type more of it")
    raise TagNotFound(f"no draft {draft_id!r} is kept; `casstore drafts` lists those that are")


def kept_at_ns(draft: KeptDraft) -> int | None:
    """When a draft was kept; None where that is to come, by a clock that went back since."""
    at_ns = keeping.made_at_ns(draft.directory)
    return None if at_ns is None or at_ns > time.time_ns() else at_ns


@contextlib.contextmanager
def held(workspace: Workspace, draft: KeptDraft) -> Iterator[Record]:
    """Lock a draft for a `with` block, which is given its record.

    Raises StoreLocked if another process holds it, TagNotFound if one has saved or removed it meanwhile.
    """
    workspace.check_writable()
    with _locked(workspace, draft):
        if not _is_kept(workspace, draft.directory):
            raise TagNotFound(f"the draft {draft.id} is not kept any more: another process has taken it")
        yield _record(draft.directory)


@contextlib.contextmanager
def _locked(workspace: Workspace, draft: KeptDraft) -> Iterator[None]:
    with Lock(workspace.layout.draft_lock(draft.id)) as lock:
        if not lock.try_acquire():
            raise StoreLocked(f"another process is saving or removing the draft {draft.id}")
        try:
            yield
        finally:
            lock.release(remove=True)


def is_saved(workspace: Workspace, draft_id: str) -> bool:
    """Whether a version has been made of the draft: what stands of it in drafts/ is left of a process that was killed,
    or is about to go."""
    return len(draft_id) == ID_LENGTH and workspace.catalog.versions.has_session(draft_id)


def _is_kept(workspace: Workspace, directory: Path) -> bool:
    return directory.is_dir() and not is_saved(workspace, id_of(directory))


def open_up(root: Path) -> None:
    """Let this user list and change all directories of a draft, as far as possible. Some programs make them read-only.

    They stand in the store to be saved or removed, and no version records their modes.
    """
    with contextlib.suppress(OSError):
        files.open_up(root)
    for path, status in walk(str(root), lambda _: None):
        if stat.S_ISDIR(status.st_mode):
            with contextlib.suppress(OSError):
                files.open_up(root / path)


def check_open(draft: KeptDraft) -> None:
    """Raise InvalidSource if a directory of a kept draft cannot be opened up, because it belongs to another user, or an
    attribute or a read-only mount prevents it."""
    open_up(Path(draft.path))
    for path, status in walk(draft.path, lambda _: None):
        disk_path = f"{draft.path}/{path}"
        if not stat.S_ISDIR(status.st_mode) or may_use(disk_path, os.R_OK | os.W_OK | os.X_OK):
            continue
        place = shlex.quote(draft.path)
        if denials.is_immutable(disk_path):
            raise InvalidSource(
                f"{disk_path} is immutable, and cannot be taken over: take the attribute away with "
                f"`sudo chattr -R -i {place}`, and save the draft {draft.id} again"
            )
        if os.statvfs(disk_path).f_flag & os.ST_RDONLY:
            raise InvalidSource(
                f"{disk_path} is on a disk that is mounted read-only, and cannot be taken over: mount it so that it "
                f"can be written to, or unmount it there, and save the draft {draft.id} again"
            )
        raise InvalidSource(
            f"{disk_path} belongs to another user, and cannot be taken over: make it yours with "
            f"`sudo chown -R {os.geteuid()} {place}`, and save the draft {draft.id} again"
        )


def may_use(directory: str, what: int) -> bool:
    """Whether access(2) grants this process the mode `what` on a directory."""
    return os.access(directory, what, effective_ids=os.access in os.supports_effective_ids)


def base_of(workspace: Workspace, record: Record) -> Tag | None:
    """The tag of the version that a draft was to come from; None if that is gone."""
    with contextlib.suppress(CasstoreError):
        return resolve.find(workspace.catalog, TagQuery.parse(record.base)).tag
    return None


def listed(parents: Iterable[Parent]) -> list[Any]:
    """Parents as a record has them: [relation, URI], or [relation, tag, digest]."""
    return [
        [each.relation, each.uri] if each.tag is None else [each.relation, str(each.tag), str(each.digest)]
        for each in parents
    ]


def parents_of(record: Record) -> tuple[Parent, ...] | None:
    """What a draft was to come from, be it there or not, as far as the record can be read; None if nothing was said."""
    if record.parents is None:
        return None
    found = []
    for each in record.parents:
        with contextlib.suppress(CasstoreError, ValueError, TypeError, LookupError, AttributeError):
            relation, what, *digest = each
            tag = Tag.parse(what) if digest else None
            found.append(unpacked(packed(Parent(relation, tag, Digest.parse(digest[0]) if digest else None, what))))
    return tuple(found)


def objects_of(draft: KeptDraft) -> bytes | None:
    """The pickled Python objects that were to be saved with a draft; None if there are none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return files.read_file(draft.directory / OBJECTS, sys.maxsize, follow=False)
    return None


def remove(workspace: Workspace, directory: Path) -> None:
    """Remove the draft in this directory of drafts/. Raises OSError if not all of it can be removed."""
    with workspace.session() as session:
        doomed = session.new_path()
        files.rename(directory, doomed)
        files.remove_tree(doomed)


def take_away(workspace: Workspace, session: Session, source: Source, tag: Tag) -> list[str]:
    """Remove the draft whose files have become a version.

    What a process has replaced or written to since they were read, and what cannot be removed, is moved to quarantine/;
    returns where those files are now. What cannot be done now is left to gc.
    """
    doomed, root = session.new_path(), source.root
    try:
        files.rename(root.parent, doomed)
        left = remove_source(source.moved(doomed / root.name))
        if not left:
            files.remove_tree(doomed)
            return []
        place = keeping.new_directory(workspace.layout.changed_files) / f"{tag.name}.{tag.version}"
        files.rename(doomed / root.name, place)
    except OSError:
        return []
    return [str(place / os.path.relpath(path, doomed / root.name)) for path in left]


def take_away_of(workspace: Workspace, session: Session, manifest_id: str) -> None:
    """Remove what is left in drafts/ of the draft that the version of this manifest was made of. Raises OSError."""
    for directory in keeping.kept(workspace.layout.drafts):
        if id_of(directory) == manifest_id[:ID_LENGTH]:
            doomed = session.new_path()
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                files.rename(directory, doomed)
                files.remove_tree(doomed)


def overdue(workspace: Workspace) -> Iterator[KeptDraft]:
    """The drafts that have been kept for `keep_days`, and those that have been saved, except those that a process
    holds. Raises OSError."""
    old = set(keeping.overdue(workspace.layout.drafts, keeping.keep_ns(workspace)))
    for directory in keeping.kept(workspace.layout.drafts):
        if directory not in old and not is_saved(workspace, id_of(directory)):
            continue
        draft = _read(directory)
        if not _is_held(workspace, draft):
            yield draft


def remove_unless_held(workspace: Workspace, draft: KeptDraft) -> bool:
    """Remove a draft, unless another process holds it or has removed it. Raises OSError."""
    with contextlib.suppress(StoreLocked, FileNotFoundError), _locked(workspace, draft):
        remove(workspace, draft.directory)
        return True
    return False


def _is_held(workspace: Workspace, draft: KeptDraft) -> bool:
    path = workspace.layout.draft_lock(draft.id)
    if not path.exists():
        return False
    with Lock(path) as lock:
        if not lock.try_acquire():
            return True
        lock.release(remove=True)  # left by a process that was killed
    return False


def id_of(directory: Path) -> str:
    """The id of the draft in this directory of drafts/."""
    return directory.name.rpartition("-")[2]


def _read(directory: Path) -> KeptDraft:
    record = _record(directory)
    statuses = [status for _, status in walk(str(directory / FILES), lambda _: None)]
    sizes = [status.st_size for status in statuses if stat.S_ISREG(status.st_mode)]
    tag = None
    with contextlib.suppress(CasstoreError):
        tag = Tag.parse(record.tag)
    return KeptDraft(
        id_of(directory), str(directory / FILES), times.timestamp(keeping.made_at_ns(directory) or 0),
        sum(sizes), len(sizes), tag, record.reason, tuple(map(str, record.left_out)),
    )  # fmt: skip


def _record(directory: Path) -> Record:
    """The record beside a draft, as far as a full disk let it be written."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        # An older casstore has not recorded a durability.
        read = json.loads(files.read_file(directory / RECORD, _MOST_RECORD_BYTES, follow=False))
        found = {"durability": "", "parents": None, **read}
        found["durability"] = _durability(found["durability"])
        parents = found.pop("parents")
        # Empty if there was no room for it.
        found["description"] = Description.of(found["description"]) if found["description"] else Description()
        record = Record(**{each.name: found[each.name] for each in fields(Record) if each.name != "parents"})
        if all(isinstance(getattr(record, each.name), type(getattr(_NOTHING, each.name))) for each in fields(Record)):
            return replace(record, parents=parents if isinstance(parents, list) else None)
    return _NOTHING


def _durability(value: Any) -> str:
    with contextlib.suppress(InvalidSetting):
        return check_setting("durability", value)
    return ""
