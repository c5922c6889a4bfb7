"""What stands in a version's place under `models/`: whose directory it is, and what in it has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence, Set
from enum import Enum, auto
from pathlib import Path

import msgpack

from casstore.actions import loose_files
from casstore.actions.describing import model_yaml
from casstore.actions.directories.changed import additions, parents
from casstore.actions.directories.placing import directory_row
from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.boots import NoBoot
from casstore.catalog.index import LooseFile
from casstore.catalog.versions import DirectoryRow, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, InvalidTag
from casstore.storage import files
from casstore.storage.container import LINK_FROM_BYTES, FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.names import IS_UTF8, as_opened, as_stored
from casstore.storage.walking import holds_a_file


class Whose(Enum):
    """Whose directory stands in a version's place.

    NOBODYS: nothing stands there. OWN: the directory that casstore made, even if its files were altered. COPY: a copy
    of that, as in a store that was copied or restored from a backup: its inode numbers do not identify it, so its files
    have to be compared. FOREIGN: anything else.
    """

    NOBODYS = auto()
    OWN = auto()
    COPY = auto()
    FOREIGN = auto()


class Standing:
    """What stands in a version's place, compared with the catalog's record. All verbs use this class.

    `recorded`: the catalog's record when this was made. The disk is looked at in every call but `linked`, which uses
    what `is_whole` has seen.
    """

    def __init__(self, workspace: Workspace, row: VersionRow) -> None:
        self._workspace = workspace
        self._row = row
        self.recorded = workspace.catalog.directories.find(row.id)
        self.path = workspace.layout.model(row.tag)
        self._seen: dict[str, os.stat_result] = {}  # files that may be links

    @property
    def counts(self) -> bool:
        """Whether the catalog says that a directory stands here; False while gc is removing it."""
        return self.recorded is not None and not self.recorded.evicting

    @property
    def is_ours(self) -> bool:
        """Whether what stands here is the version's own directory, or a copy of it. Raises OSError."""
        return self.whose() in (Whose.OWN, Whose.COPY)

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the directory was made, or compared byte by byte, since the machine was started."""
        return self.recorded is not None and self.recorded.boot_id == self._workspace.catalog.boot_id

    def exists(self) -> bool:
        """Whether anything stands here, whoever's."""
        return os.path.lexists(self.path)

    def whose(self) -> Whose:
        """Whose directory this is. Raises OSError."""
        try:
            status = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return Whose.NOBODYS
        if not stat.S_ISDIR(status.st_mode):
            return Whose.FOREIGN
        if self.recorded is not None and self._is_as_made(self.recorded):
            return Whose.OWN
        if self._workspace.catalog.deletions.is_deleted_directory(self._row.tag, status.st_ino):
            return Whose.FOREIGN  # gc is removing it
        try:
            is_inherited = self.recorded is not None and self.recorded.boot_id == NoBoot.INHERITED
            is_copy = self._is_copy(is_inherited=is_inherited)
        except (IntegrityError, PermissionError):  # the catalog is damaged, or the directory is foreign
            is_copy = False
        return Whose.COPY if is_copy else Whose.FOREIGN

    def inode(self) -> int | None:
        """The inode of the version's directory, or of a copy of it; None if what stands here is foreign."""
        return _inode(str(self.path)) if self.is_ours else None

    def is_whole(self) -> bool:
        """Whether the version's directory stands, with exactly the files that were put there.

        Compares by stat, except in the first check after a reboot: files that had not been synced are hashed then.
        """
        recorded = self.recorded
        if recorded is None or recorded.evicting or not self._is_as_recorded(recorded):
            return False
        if self.is_of_this_boot:
            return True
        if self.damaged_since_boot():
            return False
        if not self._workspace.catalog.read_only:
            self._workspace.catalog.directories.confirm(self._row.id, recorded)
        return True

    def entries(self) -> dict[str, FileStamp]:
        """The stamp of every file that should be here; a stamp that matches no file if the catalog is damaged."""
        expected = [*(file.path for file in self._files()), DESCRIPTOR_NAME]
        entries = {} if self.recorded is None else unpacked_entries(self.recorded)
        return entries if entries.keys() == set(expected) else dict.fromkeys(expected, FileStamp(0, 0, 0))

    def altered(self, *, is_quick: bool = True) -> list[str]:
        """The files that have changed by stat, and the missing empty directories; none if no directory counts as
        standing. In a copy the bytes are compared; with `is_quick`, only those of small files."""
        if self.recorded is None or self.recorded.evicting:
            return []
        whose = self.whose()
        if whose is Whose.COPY:
            return self.differing(is_quick=is_quick)
        return self.changed() if whose is Whose.OWN else []

    def damaged(self) -> list[str]:
        """The files whose bytes are not what they should be. Hardlinks of existing loose files are not read, since
        loose files are checked on their own."""
        altered = self.altered(is_quick=False)
        if altered or not self.counts or self.whose() is not Whose.OWN:
            return altered
        return self._damaged(lambda _: True)

    def damaged_since_boot(self) -> list[str]:
        """The files whose bytes are not what they should be. Hardlinks are read unless their loose file was synced."""
        return self._damaged(lambda loose: loose.synced)

    def unaltered(self) -> list[str]:
        """The files that are as they were put here, by stat; in a copy, by their bytes."""
        if self.recorded is None:
            return []
        altered = set(self.differing(is_quick=False) if self.whose() is Whose.COPY else self.changed())
        return [path for path in self.entries() if path not in altered]

    def differing(self, *, is_quick: bool) -> list[str]:
        """The files of the version that are not here as they were saved, whatever was recorded of them, and the missing
        empty directories.

        Compares kind, size, executable bit and bytes; with `is_quick`, only the bytes of small files.
        """
        differing = [
            file.path
            for file in self._files()
            if not is_file(self.path, file, is_read=not is_quick or file.size < LINK_FROM_BYTES)
        ]
        if not self.is_described_right():
            differing.append(DESCRIPTOR_NAME)
        return differing + self._lost_directories()

    def changed(self) -> list[str]:
        """The recorded files that have changed, and the missing empty directories; every file if the directory itself
        is another or gone."""
        directory = str(self.path)
        is_same = self.recorded is not None and _inode(directory) == self.recorded.inode
        entries = {} if self.recorded is None else unpacked_entries(self.recorded)
        is_complete = is_same and len(entries) == self._row.file_count + 1
        lost = self._lost_directories()
        if is_complete and all(_stamp(f"{directory}/{path}") == stamp for path, stamp in entries.items()):
            return lost
        entries = self.entries()
        return [path for path, stamp in entries.items() if not is_same or _stamp(f"{directory}/{path}") != stamp] + lost

    def added(self) -> list[str]:
        """The paths here that do not belong to the version; none if no directory counts as standing."""
        return self.additions(self.entries()) if self.counts and self.is_ours else []

    def additions(self, own_files: Collection[str]) -> list[str]:
        """The paths here besides these files, their directories, and the version's empty directories."""
        leaves = [f"{path}/" for path in self._row.directory_paths()]
        return additions(self.path, own_files, parents((*own_files, *leaves)))

    def linked(self) -> list[str]:
        """The files that are hardlinks of loose files."""
        found = []
        for file in self._files():
            if file.size < LINK_FROM_BYTES:
                continue
            status = self._seen.get(file.path) or status_of(self.path / file.path)
            if status is None or status.st_nlink == 1:
                continue
            candidates = loose_files.find(self._workspace, file.digest, file.executable)
            # In a store that was copied the recorded inode numbers are those of the original: the disk tells there.
            is_recorded = any(loose.stamp.inode == status.st_ino for loose in candidates)
            if is_recorded or link_among(self._workspace, str(self.path / file.path), candidates) is not None:
                found.append(file.path)
        return found

    def links_to(self, inodes: Set[tuple[int, int]]) -> list[str]:
        """The files that are links to one of these (device, inode) pairs; none if no directory counts as standing."""
        if not self.counts or not inodes:
            return []
        found = {path: status_of(self.path / path) for path in self.entries()}
        return [path for path, status in found.items() if status and (status.st_dev, status.st_ino) in inodes]

    def as_copied(self) -> DirectoryRow | None:
        """The row that describes this directory as it stands, if the store was copied since it was recorded and every
        file is right; otherwise `recorded`."""
        if self.recorded is None or self.recorded.boot_id != NoBoot.INHERITED or self.whose() is not Whose.COPY:
            return self.recorded
        if self.differing(is_quick=False):
            return self.recorded
        stamps = {file.path: FileStamp.of(os.lstat(self.path / file.path)) for file in self._files()}
        return directory_row(self._workspace, self.path, stamps, self._row.directory_paths())

    def is_described_right(self) -> bool:
        """Whether the descriptor here has the bytes that it should have."""
        return has_digest(self.path / DESCRIPTOR_NAME, Digest.of(rendered(self._workspace, self._row)))

    def _files(self) -> list[FileEntry]:
        return self._workspace.catalog.versions.files(self._row.id)

    def _is_as_recorded(self, recorded: DirectoryRow) -> bool:
        """Whether the directory is the recorded one and, by stat, holds exactly what was put there."""
        directory = str(self.path)
        try:
            rows = msgpack.unpackb(recorded.entries)
            times = rows.pop() if type(rows[-1]) is dict else {}
            now = os.lstat(directory)
            if now.st_ino != recorded.inode or len(rows) != self._row.file_count + 1:
                return False
            time_ns = now.st_mtime_ns
            for path, inode, size, mtime_ns in rows:
                name = as_opened(path)
                now = os.lstat(f"{directory}/{name}")
                if now.st_mtime_ns != mtime_ns or now.st_ino != inode or now.st_size != size:
                    return False
                if size >= LINK_FROM_BYTES:
                    self._seen[name] = now
            # Adding or removing a name changes the modification time of its directory.
            is_same = times.pop("", None) == time_ns
            if is_same and self._has_empty(times) and (
                not times or all(_mtime_ns(f"{directory}/{as_opened(path)}") == then for path, then in times.items())
            ):  # fmt: skip
                return True
        except (OSError, ValueError, TypeError, IndexError, AttributeError, msgpack.UnpackException):
            return False  # also if the catalog is damaged
        return not (self.additions({as_opened(path) for path, *_ in rows}) or self._lost_directories())

    def _has_empty(self, times: Collection[str]) -> bool:
        """Whether the times of the version's empty directories have been recorded; early versions lack them."""
        return self._row.directories == "[]" or all(as_stored(path) in times for path in self._row.directory_paths())

    def _lost_directories(self) -> list[str]:
        """The version's empty directories that are missing, or have something else in their place."""
        found = {path: status_of(self.path / path) for path in self._row.directory_paths()}
        return [path for path, status in found.items() if status is None or not stat.S_ISDIR(status.st_mode)]

    def _is_as_made(self, recorded: DirectoryRow) -> bool:
        """Whether this is the very directory that casstore made.

        A directory made after ours was removed may have got the same inode number. So unless it is empty, at least one
        recorded file must be there too, altered or not. Files may have got the same inode numbers as well; then a
        `model.yaml` with another creation time shows it.
        """
        directory = str(self.path)
        if _inode(directory) != recorded.inode:
            return False
        entries = unpacked_entries(recorded).items()
        if not any(_inode(f"{directory}/{path}") == stamp.inode for path, stamp in entries):
            return not holds_a_file(directory)
        written = dict(entries).get(DESCRIPTOR_NAME)
        return _stamp(f"{directory}/{DESCRIPTOR_NAME}") == written or self._is_described() is not False

    def _is_copy(self, *, is_inherited: bool) -> bool:
        """Whether what stands here is described as the version. `is_inherited`: the version had a directory when the
        store was copied; its descriptor may have been damaged since."""
        if self.is_described_right():
            return True
        is_described = self._is_described() if is_inherited else False
        return self._holds_some() if is_described is None else is_described

    def _is_described(self) -> bool | None:
        """Whether the descriptor here says that this is the version; None if there is no descriptor."""
        try:
            described = model_yaml.load(self.path / DESCRIPTOR_NAME)
        except (InvalidSource, InvalidTag):
            return None
        return described.created_at_ns // 1000 == self._row.created_at_ns // 1000

    def _holds_some(self) -> bool:
        """Whether at least one file of the version stands here, or no file at all."""
        return any(is_file(self.path, file, is_read=True) for file in self._files()) or not holds_a_file(str(self.path))

    def _damaged(self, is_trusted: Callable[[LooseFile], bool]) -> list[str]:
        """The files whose bytes are not what they should be; trusted hardlinks of loose files are not read."""
        listed = self._files()
        index = self._workspace.catalog.index
        loose = index.loose_files({file.digest for file in listed if file.size >= LINK_FROM_BYTES})
        damaged = []
        for file in listed:
            candidates = [each for each in loose.get((file.digest, file.executable), ()) if is_trusted(each)]
            is_sound = link_among(self._workspace, f"{self.path}/{file.path}", candidates) is not None
            if not is_sound and not has_digest(self.path / file.path, file.digest):
                damaged.append(file.path)
        if not self.is_described_right():
            damaged.append(DESCRIPTOR_NAME)
        return damaged


def unpacked_entries(recorded: DirectoryRow) -> dict[str, FileStamp]:
    """The recorded stamps of a directory's files; empty if the record is damaged."""
    try:
        rows = msgpack.unpackb(recorded.entries)
        if rows and type(rows[-1]) is dict:  # an entry with the times of directories
            rows.pop()
        found = {path: FileStamp(inode, size, mtime) for path, inode, size, mtime in rows}
        if not all(type(path) is str for path in found):
            return {}
        return found if IS_UTF8 else {as_opened(path): stamp for path, stamp in found.items()}
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return {}


def is_file(directory: Path, file: FileEntry, *, is_read: bool) -> bool:
    """Whether this file of a version stands in a directory. With `is_read` its bytes are compared."""
    path = directory / file.path
    status = status_of(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        return False
    is_like = files.is_executable(status) == file.executable
    return is_like and (not is_read or has_digest(path, file.digest))


def link_among(workspace: Workspace, path: str, candidates: Sequence[LooseFile]) -> LooseFile | None:
    """The loose file among these of which the file at `path` is a hardlink; None if there is none."""
    for loose in candidates:
        try:
            if os.path.samestat(os.lstat(path), os.lstat(loose.container.path(workspace.layout))):
                return loose
        except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
            continue
    return None


def rendered(workspace: Workspace, row: VersionRow) -> bytes:
    """The bytes of the version's descriptor. Raises IntegrityError if the catalog's record is damaged."""
    try:
        return model_yaml.render(workspace.catalog.versions.manifest(row, {}))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(
            f"the catalog's record of {row.tag} is damaged; `casstore repair` writes it again"
        ) from error


def has_digest(path: Path, digest: Digest) -> bool:
    """Whether a file can be read and has this digest. Raises OSError if that cannot be told."""
    try:
        return hash_file(path) == digest
    except OSError as error:
        files.raise_unless_damage(error)
        return False


def status_of(path: Path) -> os.stat_result | None:
    """The status of what stands at a path, without following links; None if nothing does."""
    try:
        return os.lstat(path)
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None


def _stamp(path: str) -> FileStamp | None:
    try:
        return FileStamp.of(os.lstat(path))
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None


def _inode(path: str) -> int | None:
    stamp = _stamp(path)
    return None if stamp is None else stamp.inode


def _mtime_ns(path: str) -> int | None:
    stamp = _stamp(path)
    return None if stamp is None else stamp.mtime_ns
