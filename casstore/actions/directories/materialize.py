"""A version as a directory: made from hardlinks where it can be, checked by stat, mended where it differs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path, PurePosixPath

import msgpack

from casstore.actions.describing import model_yaml
from casstore.actions.directories.changed import ChangedShelf, additions, parents
from casstore.actions.directories.placing import check_replaceable, directory_row, publish, settle
from casstore.actions.sources.source import Source, check_as_found, is_unchanged
from casstore.actions.workspace import LINK_FROM_BYTES, Workspace, hash_file
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.catalog.instances import INHERITED
from casstore.catalog.versions import DirectoryRow, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, InvalidTag, StoreError, StoreUnwritable, TagNotFound
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.names import IS_UTF8, as_opened, as_stored
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.storage.walking import holds_a_file


def materialize(workspace: Workspace, row: VersionRow, progress: Progress) -> Path:
    """The version's directory, made or mended if need be: what was changed or added there goes to quarantine first.

    It stays until somebody evicts it: lease it first to keep it. Raises TagNotFound when the version has been
    deleted, IntegrityError when its bytes are damaged, StoreError when something else stands in its place.
    Where the store can only be read, a directory that stands is served when its names, sizes and small files are
    right, and StoreUnwritable raised for others.
    """
    path = workspace.layout.model(row.tag)
    if is_whole(workspace, row):
        return path
    if not workspace.catalog.read_only:
        _build_or_mend(workspace, row, progress, only_mend=False)
    elif differing_files(workspace, row, is_quick=True):
        raise StoreUnwritable(
            f"{row.tag} has no directory as it was saved in {workspace.layout.home}, which can only be read: read its "
            "files with model.open() or `casstore export`, or copy the store to a place that can be written to"
        )
    return path


def mend(workspace: Workspace, row: VersionRow, progress: Progress) -> None:
    """Mend the version's directory if one stands there; raises as `materialize` does. None is made."""
    if workspace.catalog.read_only:
        return  # every read through casstore is checked
    if _is_standing(workspace, row) and not is_whole(workspace, row):
        _build_or_mend(workspace, row, progress, only_mend=True)


def linked_paths(workspace: Workspace, row: VersionRow) -> list[str]:
    """The files in the version's directory that are hardlinks of loose files."""
    directory = workspace.layout.model(row.tag)
    found = []
    for file in workspace.catalog.versions.files(row.id):
        status = _status(directory / file.path) if file.size >= LINK_FROM_BYTES else None
        if status is not None and status.st_nlink > 1:
            candidates = workspace.find_loose(file.digest, file.executable)
            if link_among(workspace, str(directory / file.path), candidates) is not None:
                found.append(file.path)
    return found


def unshare(workspace: Workspace, row: VersionRow, progress: Progress) -> None:
    """Replace the hardlinks in the version's directory, if one stands, by files of its own; raises as `materialize`."""
    _build_or_mend(workspace, row, progress, only_mend=True, is_linked=True)


def _build_or_mend(
    workspace: Workspace, row: VersionRow, progress: Progress, *, only_mend: bool, is_linked: bool = False
) -> None:
    with workspace.name_lock(row.name):
        current = workspace.catalog.versions.find(row.tag)
        if current is None or current.id != row.id:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        # While this waited for the lock, another may have made the directory, or gc taken it away.
        if (is_whole(workspace, row) and not is_linked) or (only_mend and not _is_standing(workspace, row)):
            return
        with workspace.session() as session:
            _Builder(workspace, session, row, progress).run()


def copied_row(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> DirectoryRow:
    """The row that describes a version's directory as it stands, where the store was copied since it was recorded and
    every file is right; `recorded` for all others."""
    is_copy = recorded.boot_id == INHERITED and standing(workspace, row) is Standing.COPY
    if not is_copy or differing_files(workspace, row, is_quick=False):
        return recorded
    directory = workspace.layout.model(row.tag)
    listed = workspace.catalog.versions.files(row.id)
    stamps = {file.path: FileStamp.of(os.lstat(directory / file.path)) for file in listed}
    return directory_row(workspace, directory, stamps, row.directory_paths())


def take_over(workspace: Workspace, row: VersionRow, standing: Source, progress: Progress) -> None:
    """Make the directory that somebody has put in the version's place, with just the version's files, its own.

    Raises FileChanged when it is not as it was found, InvalidSource when it cannot be written to, TagNotFound when the
    version has been deleted, IntegrityError when its bytes are damaged; then the directory is as it was.
    """
    with workspace.name_lock(row.name):
        current = workspace.catalog.versions.find(row.tag)
        if current is None or current.id != row.id:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        check_as_found(standing)
        check_replaceable(standing)
        with workspace.session() as session:
            _Builder(workspace, session, row, progress).take_over(standing)


def _is_standing(workspace: Workspace, row: VersionRow) -> bool:
    return os.path.lexists(workspace.layout.model(row.tag))


def is_whole(workspace: Workspace, row: VersionRow) -> bool:
    """Whether the version's directory stands, every file in it is the one that was put there, and there is no other.

    By stat, except in the first look after a reboot: what had not been synced is hashed then.
    """
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not _is_as_recorded(workspace, row, recorded):
        return False
    if recorded.boot_id == workspace.catalog.boot_id:
        return True
    if _damaged_since_boot(workspace, row):
        return False
    if not workspace.catalog.read_only:
        workspace.catalog.directories.confirm(row.id, recorded)
    return True


def _is_as_recorded(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> bool:
    """Whether the directory is the recorded one, and holds just what was put there, by stat."""
    directory = str(workspace.layout.model(row.tag))
    try:
        rows = msgpack.unpackb(recorded.entries)
        times = rows.pop() if type(rows[-1]) is dict else {}
        now = os.lstat(directory)
        if now.st_ino != recorded.inode or len(rows) != row.file_count + 1:
            return False
        time_ns = now.st_mtime_ns
        for path, inode, size, mtime_ns in rows:
            now = os.lstat(f"{directory}/{as_opened(path)}")
            if now.st_mtime_ns != mtime_ns or now.st_ino != inode or now.st_size != size:
                return False
        # A name that is added or removed changes the time of the directory that it stands in.
        is_same = times.pop("", None) == time_ns
        if is_same and _has_empty(row, times) and (
            not times or all(_mtime_ns(f"{directory}/{as_opened(path)}") == then for path, then in times.items())
        ):  # fmt: skip
            return True
    except (OSError, ValueError, TypeError, IndexError, AttributeError, msgpack.UnpackException):
        return False  # also what a damaged catalog says
    return not (_additions(workspace, row, {as_opened(path) for path, *_ in rows}) or _lost_directories(workspace, row))


def _has_empty(row: VersionRow, times: Collection[str]) -> bool:
    """Whether the times of the version's empty directories have been recorded, which were not always."""
    return row.directories == "[]" or all(as_stored(path) in times for path in row.directory_paths())


def _lost_directories(workspace: Workspace, row: VersionRow) -> list[str]:
    """The version's empty directories that do not stand, or have something else in their place."""
    root = workspace.layout.model(row.tag)
    found = {path: _status(root / path) for path in row.directory_paths()}
    return [path for path, status in found.items() if status is None or not stat.S_ISDIR(status.st_mode)]


def _altered(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> list[str]:
    """The recorded files that are not what they were, and the empty directories that do not stand; every file when the
    directory itself is another or gone."""
    directory = str(workspace.layout.model(row.tag))
    is_ours = _inode(directory) == recorded.inode
    entries = unpacked_entries(recorded)
    is_complete = is_ours and len(entries) == row.file_count + 1
    lost = _lost_directories(workspace, row)
    if is_complete and all(_stamp(f"{directory}/{path}") == stamp for path, stamp in entries.items()):
        return lost
    entries = _entries_of(workspace, row, recorded)
    return [path for path, stamp in entries.items() if not is_ours or _stamp(f"{directory}/{path}") != stamp] + lost


def _additions(workspace: Workspace, row: VersionRow, own_files: Collection[str]) -> list[str]:
    leaves = [f"{path}/" for path in row.directory_paths()]
    return additions(workspace.layout.model(row.tag), own_files, parents((*own_files, *leaves)))


def added_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """What stands in the version's directory and is not the version's; none where no directory counts as standing."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or standing(workspace, row) not in (Standing.OWN, Standing.COPY):
        return []
    return _additions(workspace, row, _entries_of(workspace, row, recorded))


def unpacked_entries(recorded: DirectoryRow) -> dict[str, FileStamp]:
    """The stamps of a directory's files as the catalog has them; none where that is damaged."""
    try:
        rows = msgpack.unpackb(recorded.entries)
        if rows and type(rows[-1]) is dict:  # the times of directories
            rows.pop()
        found = {path: FileStamp(inode, size, mtime) for path, inode, size, mtime in rows}
        if not all(type(path) is str for path in found):
            return {}
        return found if IS_UTF8 else {as_opened(path): stamp for path, stamp in found.items()}
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return {}


def _entries_of(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> dict[str, FileStamp]:
    """The stamp of every file that should be in the directory; that of no file where a damaged catalog does not say."""
    expected = [*(file.path for file in workspace.catalog.versions.files(row.id)), DESCRIPTOR_NAME]
    entries = unpacked_entries(recorded)
    return entries if entries.keys() == set(expected) else dict.fromkeys(expected, FileStamp(0, 0, 0))


class Standing(Enum):
    """What stands in a version's place under `models/`.

    OWN: the directory that casstore made there, be its files altered. COPY: a copy of that, as in a store that was
    copied or put back from a backup; its inode numbers tell nothing, its files have to be compared. FOREIGN: what
    somebody else has put there.
    """

    NOTHING = auto()
    OWN = auto()
    COPY = auto()
    FOREIGN = auto()


def standing(workspace: Workspace, row: VersionRow) -> Standing:
    """Whose directory stands in the version's place: the one place that tells, for all verbs. Raises OSError."""
    directory = workspace.layout.model(row.tag)
    try:
        status = os.lstat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return Standing.NOTHING
    if not stat.S_ISDIR(status.st_mode):
        return Standing.FOREIGN
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is not None and _is_as_made(workspace, row, recorded):
        return Standing.OWN
    if workspace.catalog.versions.is_deleted_directory(row.tag, status.st_ino):
        return Standing.FOREIGN  # which gc takes away
    try:
        is_copy = _is_copy(workspace, row, is_inherited=recorded is not None and recorded.boot_id == INHERITED)
    except (IntegrityError, PermissionError):  # of a damaged catalog, of somebody's own directory
        is_copy = False
    return Standing.COPY if is_copy else Standing.FOREIGN


def _is_copy(workspace: Workspace, row: VersionRow, *, is_inherited: bool) -> bool:
    """Whether what stands in the version's place says that it is the version. `is_inherited`: it had a directory when
    the store was copied, of which the descriptor may have been spoiled since."""
    path = workspace.layout.model(row.tag) / DESCRIPTOR_NAME
    if _has_digest(path, Digest.of(_rendered(workspace, row))):
        return True
    is_described = _is_described(workspace, row) if is_inherited else False
    return _holds_some(workspace, row) if is_described is None else is_described


def directory_inode(workspace: Workspace, row: VersionRow) -> int | None:
    """The inode of the version's directory, a copy of it included; None if what stands there is another's."""
    if standing(workspace, row) in (Standing.OWN, Standing.COPY):
        return _inode(str(workspace.layout.model(row.tag)))
    return None


def _is_as_made(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> bool:
    """Whether the directory that stands there is the very one that casstore made.

    A directory that somebody made after removing ours may have got the same inode number, so unless nothing is in it
    one recorded file at least has to be there too, altered or not. Files may have got theirs as well: then a
    `model.yaml` of another creation tells.
    """
    directory = str(workspace.layout.model(row.tag))
    if _inode(directory) != recorded.inode:
        return False
    entries = unpacked_entries(recorded).items()
    if not any(_inode(f"{directory}/{path}") == stamp.inode for path, stamp in entries):
        return not holds_a_file(directory)
    written = dict(entries).get(DESCRIPTOR_NAME)
    return _stamp(f"{directory}/{DESCRIPTOR_NAME}") == written or _is_described(workspace, row) is not False


def _is_described(workspace: Workspace, row: VersionRow) -> bool | None:
    """Whether the descriptor in the version's directory says that it is the version; None where there is none."""
    try:
        described = model_yaml.load(workspace.layout.model(row.tag) / DESCRIPTOR_NAME)
    except (InvalidSource, InvalidTag):
        return None
    return described.created_at_ns // 1000 == row.created_at_ns // 1000


def _holds_some(workspace: Workspace, row: VersionRow) -> bool:
    """Whether one file of the version stands in its place, or no file at all."""
    directory = workspace.layout.model(row.tag)
    versions = workspace.catalog.versions
    is_held = any(_is_file(directory, file, is_read=True) for file in versions.files(row.id))
    return is_held or not holds_a_file(str(directory))


def differing_files(workspace: Workspace, row: VersionRow, *, is_quick: bool) -> list[str]:
    """The files of the version that do not stand in its directory as they were saved, whatever was recorded of them,
    and the empty directories that do not stand.

    Their kind, size and executable bit are compared, and their bytes; where `is_quick`, those of small files only.
    """
    directory = workspace.layout.model(row.tag)
    differing = [
        file.path
        for file in workspace.catalog.versions.files(row.id)
        if not _is_file(directory, file, is_read=not is_quick or file.size < LINK_FROM_BYTES)
    ]
    if not _has_digest(directory / DESCRIPTOR_NAME, Digest.of(_rendered(workspace, row))):
        differing.append(DESCRIPTOR_NAME)
    return differing + _lost_directories(workspace, row)


def _is_file(directory: Path, file: FileEntry, *, is_read: bool) -> bool:
    """Whether this file of a version stands in a directory, its bytes compared where `is_read`."""
    path = directory / file.path
    status = _status(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        return False
    is_like = files.is_executable(status) == file.executable
    return is_like and (not is_read or _has_digest(path, file.digest))


def _inode(path: str) -> int | None:
    stamp = _stamp(path)
    return None if stamp is None else stamp.inode


def _mtime_ns(path: str) -> int | None:
    stamp = _stamp(path)
    return None if stamp is None else stamp.mtime_ns


def _stamp(path: str) -> FileStamp | None:
    try:
        return FileStamp.of(os.lstat(path))
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None


def altered_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The files of the version's directory that stat says have changed; none where no directory counts as standing."""
    return _altered_now(workspace, row, is_quick=True)


def _altered_now(workspace: Workspace, row: VersionRow, *, is_quick: bool) -> list[str]:
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting:
        return []
    whose = standing(workspace, row)
    if whose is Standing.COPY:
        return differing_files(workspace, row, is_quick=is_quick)
    return _altered(workspace, row, recorded) if whose is Standing.OWN else []


def unaltered_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The files of the version's directory that stat says are those that were put there, of a copy their bytes."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None:
        return []
    if standing(workspace, row) is Standing.COPY:
        altered = set(differing_files(workspace, row, is_quick=False))
    else:
        altered = set(_altered(workspace, row, recorded))
    return [path for path in _entries_of(workspace, row, recorded) if path not in altered]


def damaged_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The same by their bytes, but for hardlinks of loose files that stand, whose bytes are looked at there."""
    altered = _altered_now(workspace, row, is_quick=False)
    if altered or standing(workspace, row) is not Standing.OWN:
        return altered
    recorded = workspace.catalog.directories.find(row.id)
    return [] if recorded is None or recorded.evicting else _damaged(workspace, row, lambda _: True)


def _damaged(workspace: Workspace, row: VersionRow, is_trusted: Callable[[LooseFile], bool]) -> list[str]:
    """The files whose bytes are not what they should be; trusted hardlinks of loose files are not read."""
    listed = workspace.catalog.versions.files(row.id)
    loose = workspace.catalog.index.loose_files({file.digest for file in listed if file.size >= LINK_FROM_BYTES})
    directory = workspace.layout.model(row.tag)
    damaged = []
    for file in listed:
        candidates = [each for each in loose.get((file.digest, file.executable), ()) if is_trusted(each)]
        is_sound = link_among(workspace, f"{directory}/{file.path}", candidates) is not None
        if not is_sound and not _has_digest(directory / file.path, file.digest):
            damaged.append(file.path)
    if not _has_digest(directory / DESCRIPTOR_NAME, Digest.of(_rendered(workspace, row))):
        damaged.append(DESCRIPTOR_NAME)
    return damaged


def link_among(workspace: Workspace, path: str, candidates: Sequence[LooseFile]) -> LooseFile | None:
    """That of the loose files of which the file at `path` is a hardlink."""
    for loose in candidates:
        try:
            if os.path.samestat(os.lstat(path), os.lstat(loose.container.path(workspace.layout))):
                return loose
        except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
            continue
    return None


def linked_files(workspace: Workspace, row: VersionRow, inodes: Set[tuple[int, int]]) -> list[str]:
    """The files of the version's directory, where one counts as standing, that are links to one of these inodes, given
    with their devices."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not inodes:
        return []
    directory = workspace.layout.model(row.tag)
    found = {path: _status(directory / path) for path in _entries_of(workspace, row, recorded)}
    return [path for path, status in found.items() if status and (status.st_dev, status.st_ino) in inodes]


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None


def _has_digest(path: Path, digest: Digest) -> bool:
    try:
        return hash_file(path) == digest
    except OSError as error:
        files.raise_unless_damage(error)
        return False


def _damaged_since_boot(workspace: Workspace, row: VersionRow) -> list[str]:
    return _damaged(workspace, row, lambda loose: loose.synced)


def _rendered(workspace: Workspace, row: VersionRow) -> bytes:
    """The version's descriptor. Raises IntegrityError where a damaged catalog has no whole description."""
    try:
        return model_yaml.render(workspace.catalog.versions.manifest(row, {}))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(
            f"the catalog's record of {row.tag} is damaged; `casstore repair` makes it anew"
        ) from error


class _Builder:
    """Makes or mends one version's directory. The name's lock is held."""

    def __init__(self, workspace: Workspace, session: Session, row: VersionRow, progress: Progress) -> None:
        self._workspace = workspace
        self._session = session
        self._row = row
        self._progress = progress
        self._files = workspace.catalog.versions.checked_files(row)
        self._recipes = workspace.catalog.index.recipes({file.digest for file in self._files})
        self._may_link = workspace.may_link()
        self._may_reflink = workspace.may_reflink()
        self._rebuilt: list[tuple[str, Digest, bool, FileStamp]] = []
        self._known: dict[Fingerprint, Digest] = {}  # linked files, as the link has left them
        self._is_unfinished = workspace.layout.pending_manifest(row.manifest_id).exists()
        self._shelf = ChangedShelf(workspace, row.tag)
        self._home = workspace.layout.model(row.tag).parent
        files.make_directory(self._home)

    def _new_path(self) -> Path:
        """A path that nobody has yet, from where a rename into the directory works."""
        return self._workspace.on_device_of(self._home, self._session.new_path())

    def run(self) -> None:
        target = self._workspace.layout.model(self._row.tag)
        recorded = self._workspace.catalog.directories.find(self._row.id)
        whose = standing(self._workspace, self._row)
        if whose is Standing.FOREIGN and recorded is not None:
            # Adopted in place, and cut short before the first of its files was replaced.
            is_unfinished = self._is_unfinished and _inode(str(target)) == recorded.inode
            whose = Standing.OWN if is_unfinished else whose
        if whose is Standing.FOREIGN and files.remove_empty_directory(target):
            whose = Standing.NOTHING
        if whose is Standing.FOREIGN:
            raise StoreError(
                f"{target} is in the way and was not made by casstore; `casstore sync-tree` takes over what other "
                "tools have put there, and `casstore repair` moves it to quarantine"
            )
        try:
            if whose is Standing.COPY:
                self._mend_copy(target)
            elif whose is Standing.OWN and recorded is not None:
                self._mend(target, recorded)
            else:
                self._build()
        finally:
            self._shelf.tell()

    def _make_directories(self, target: Path) -> None:
        """Make the version's directories that are missing, and take away what was added."""
        own_files = [*(file.path for file in self._files), DESCRIPTOR_NAME]
        for path in _additions(self._workspace, self._row, own_files):
            self._shelf.take_addition(target, path)
        for directory in self._directories():
            standing = target / directory
            if os.path.lexists(standing) and (standing.is_symlink() or not standing.is_dir()):
                self._shelf.take(standing, directory)  # a link would lead what is written out of the store
            files.make_directory(standing)

    def _mend_copy(self, target: Path) -> None:
        """Make a copy of the version's directory its own: what has the right bytes stays, what has others goes to
        quarantine and is made again."""
        self._make_directories(target)
        stamps = {}
        self._progress.start("compare", sum(file.size for file in self._files))
        try:
            for file in self._files:
                before = _status(target / file.path)
                if before is not None and _is_file(target, file, is_read=True):
                    stamps[file.path] = self._kept(file, target, before)
                self._progress.advance(file.size)
        finally:
            self._progress.finish()
        stamps |= self._make(target, [file for file in self._files if file.path not in stamps], mend=True)
        if not _has_digest(target / DESCRIPTOR_NAME, Digest.of(_rendered(self._workspace, self._row))):
            self._mend_descriptor(target)
        self._record(target, stamps)

    def _kept(self, file: FileEntry, root: Path, before: os.stat_result) -> FileStamp:
        """The stamp of a file that has been read and is right; made a link of the blob's loose file if it is none.

        `before`: what stat said when it had not been read yet.
        """
        if not self._may_link or file.size < LINK_FROM_BYTES:
            return FileStamp.of(before)
        candidates = self._workspace.find_loose(file.digest, file.executable)
        path = root / file.path
        loose = link_among(self._workspace, str(path), candidates)
        if loose is not None:
            if loose.stamp != FileStamp.of(before):
                self._workspace.catalog.index.restamp_loose(loose.container, FileStamp.of(before))
            self._known[Fingerprint.of(before)] = file.digest
            return FileStamp.of(before)
        temporary = self._new_path()
        stamp = self._workspace.link_loose(candidates, temporary, hash_first=True)
        if stamp is None:
            return FileStamp.of(before)
        self._put(temporary, root, file.path, before)
        self._known[Fingerprint.of(os.lstat(path))] = file.digest
        return stamp

    def _mend(self, target: Path, recorded: DirectoryRow) -> None:
        """Replace what is not as recorded, file by file."""
        self._make_directories(target)
        bad = set(_altered(self._workspace, self._row, recorded))
        if recorded.boot_id != self._workspace.catalog.boot_id:
            bad.update(_damaged_since_boot(self._workspace, self._row))
        if not self._may_link:
            bad.update(linked_paths(self._workspace, self._row))
        stamps = _entries_of(self._workspace, self._row, recorded)
        stamps |= self._make(target, [file for file in self._files if file.path in bad], mend=True)
        if DESCRIPTOR_NAME in bad:
            self._mend_descriptor(target)
        del stamps[DESCRIPTOR_NAME]
        self._record(target, stamps)

    def _keep_changed(self, root: Path, path: str, digest: Digest) -> os.stat_result | None:
        """Keep in quarantine what is about to be replaced and is not a file of these bytes: it may be somebody's.

        Returns what stood there, None where nothing did.
        """
        standing = root / path
        before = _status(standing)
        if before is None:
            return None
        try:
            is_same = not standing.is_symlink() and _has_digest(standing, digest)
        except PermissionError:
            is_same = False
        if not is_same:
            self._shelf.take(standing, path, stays=True)
        return before

    def _put(self, made: Path, root: Path, path: str, before: os.stat_result | None) -> None:
        """Put a file that has been made in its place, and keep what has come there since `before` was seen there."""
        if files.swap_into(made, root / path):
            if is_unchanged(os.lstat(made), before):
                files.remove_file(made)
            else:
                self._shelf.take(made, path)

    def _build(self) -> None:
        draft = self._new_path()
        try:
            stamps = self._fill(draft)
            # Until it stands for certain, nobody takes its absence for a removal.
            self._record(draft, stamps, is_coming=True)
            publish(self._workspace, self._row.tag, self._row.manifest_id, draft)
            files.sync_directory(self._home)
            self._workspace.catalog.directories.undo_evictions([self._row.id])
        except BaseException:
            files.remove_tree(draft)
            raise

    def _fill(self, draft: Path) -> dict[str, FileStamp]:
        """Make the version's directory, whole, at `draft`; returns the stamps of its files but the descriptor."""
        files.make_directory(draft)
        for directory in self._directories():
            files.make_directory(draft / directory)
        stamps = self._make(draft, self._files, mend=False)
        self._write_descriptor(draft / DESCRIPTOR_NAME)
        return stamps

    def _directories(self) -> list[str]:
        """Every directory below the version's own, parents first."""
        leaves = [*self._row.directory_paths(), *(os.path.dirname(file.path) for file in self._files)]
        found = {str(path) for leaf in leaves for path in (PurePosixPath(leaf), *PurePosixPath(leaf).parents)}
        return sorted(found - {"."})

    def take_over(self, standing: Source) -> None:
        """Make a directory of just these files, that stands in the version's place, the version's own.

        Every file in it is replaced by the version's, and it is never away. The record comes last: who is cut short
        leaves a directory that somebody else has made, of the same content.
        """
        draft = self._new_path()
        try:
            stamps = self._fill(draft)
            settle(self._workspace, self._row.tag, draft, standing)
            files.sync_directory(self._home)
            self._record(standing.root, stamps)
        finally:
            files.remove_tree(draft)

    def _record(self, directory: Path, stamps: dict[str, FileStamp], *, is_coming: bool = False) -> None:
        if self._rebuilt:
            self._workspace.catalog.index.add_loose(self._rebuilt)
        self._workspace.catalog.index.remember(self._known)
        described = directory_row(self._workspace, directory, stamps, self._row.directory_paths())
        row = replace(described, evicting=is_coming)
        self._workspace.catalog.directories.record(self._row.id, row)

    def _write_descriptor(self, path: Path) -> None:
        data = _rendered(self._workspace, self._row)
        files.write_new_file(path, data, self._workspace.file_mode(executable=False))

    def _mend_descriptor(self, directory: Path) -> None:
        made = self._new_path()
        self._write_descriptor(made)
        before = self._keep_changed(directory, DESCRIPTOR_NAME, Digest.of(_rendered(self._workspace, self._row)))
        self._put(made, directory, DESCRIPTOR_NAME, before)

    def _make(self, directory: Path, wanted: Sequence[FileEntry], *, mend: bool) -> dict[str, FileStamp]:
        made = {}
        self._progress.start("materialize", sum(file.size for file in wanted))
        try:
            for file in wanted:
                target = directory / file.path
                temporary = self._new_path() if mend else target
                made[file.path] = self._make_file(file, temporary)
                if mend:
                    before = self._keep_changed(directory, file.path, file.digest)
                    self._put(temporary, directory, file.path, before)
        finally:
            self._progress.finish()
        return made

    def _make_file(self, file: FileEntry, target: Path) -> FileStamp:
        if self._may_link and file.size >= LINK_FROM_BYTES:
            candidates = self._workspace.find_loose(file.digest, file.executable)
            stamp = self._workspace.link_loose(candidates, target, hash_first=True)
            if stamp is not None:
                self._known[Fingerprint.of(os.lstat(target))] = file.digest
                self._progress.advance(file.size)
                return stamp
        elif self._may_reflink and file.size >= LINK_FROM_BYTES:
            candidates = self._workspace.find_loose(file.digest, file.executable)
            stamp = self._workspace.reflink_loose(candidates, target)
            if stamp is not None:
                self._progress.advance(file.size)
                return stamp
        recipe = self._recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
        try:
            stamp = self._workspace.write_file(recipe, file.executable, target, self._progress.advance)
        except IntegrityError as error:
            raise unreadable(f"{file.path} of {self._row.tag}", error) from error
        if self._may_link and file.size >= LINK_FROM_BYTES:
            file_id = self._session.new_file_id()
            if files.try_link(target, self._workspace.layout.loose_file(file.digest, file_id)):
                self._rebuilt.append((file_id, file.digest, file.executable, stamp))
                self._known[Fingerprint.of(os.lstat(target))] = file.digest
        return stamp
