"""A version as a directory: made from hardlinks where it can be, checked by stat, mended where it differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

import msgpack

from casstore.actions import model_yaml
from casstore.actions.placing import check_replaceable, directory_row, publish, settle
from casstore.actions.source import Source, check_as_found
from casstore.actions.workspace import LINK_FROM_BYTES, Workspace, hash_file
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.catalog.sessions import Session
from casstore.catalog.versions import DirectoryRow, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, StoreError, TagNotFound
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe
from casstore.storage.walking import holds_a_file


def materialize(workspace: Workspace, row: VersionRow, progress: Progress) -> Path:
    """The version's directory, made or mended if need be. Files that nobody recorded there are left alone.

    It stays until somebody evicts it: lease it first to keep it. Raises TagNotFound when the version has been
    deleted, IntegrityError when its bytes are damaged, StoreError when something else stands in its place.
    """
    path = workspace.layout.model(row.tag)
    if not is_whole(workspace, row):
        _build_or_mend(workspace, row, progress, only_mend=False)
    return path


def mend(workspace: Workspace, row: VersionRow, progress: Progress) -> None:
    """Mend the version's directory if one stands there; raises as `materialize` does. None is made."""
    if workspace.catalog.read_only:
        return  # every read through casstore is checked
    if _is_standing(workspace, row) and not is_whole(workspace, row):
        _build_or_mend(workspace, row, progress, only_mend=True)


def _build_or_mend(workspace: Workspace, row: VersionRow, progress: Progress, *, only_mend: bool) -> None:
    with workspace.name_lock(row.name):
        current = workspace.catalog.versions.find(row.tag)
        if current is None or current.id != row.id:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        # While this waited for the lock, another may have made the directory, or gc taken it away.
        if is_whole(workspace, row) or (only_mend and not _is_standing(workspace, row)):
            return
        with workspace.session() as session:
            _Builder(workspace, session, row, progress).run()


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
    """Whether the version's directory stands, and every file in it is the one that was put there.

    By stat, except in the first look after a reboot: what had not been synced is hashed then.
    """
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or _altered(workspace, row, recorded):
        return False
    if recorded.boot_id == workspace.catalog.boot_id:
        return True
    if _damaged_since_boot(workspace, row, recorded):
        return False
    if not workspace.catalog.read_only:
        workspace.catalog.directories.confirm(row.id, recorded)
    return True


def _altered(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> list[str]:
    """The recorded files that are not what they were; every one when the directory itself is another or gone."""
    directory = str(workspace.layout.model(row.tag))
    entries = unpacked_entries(recorded)
    try:
        is_ours = os.lstat(directory).st_ino == recorded.inode
    except (FileNotFoundError, NotADirectoryError):
        is_ours = False
    is_complete = is_ours and len(entries) == row.file_count + 1
    if is_complete and all(_stamp(f"{directory}/{path}") == stamp for path, stamp in entries.items()):
        return []
    entries = _entries_of(workspace, row, recorded)
    return [path for path, stamp in entries.items() if not is_ours or _stamp(f"{directory}/{path}") != stamp]


def unpacked_entries(recorded: DirectoryRow) -> dict[str, FileStamp]:
    """The stamps of a directory's files as the catalog has them; none where that is damaged."""
    try:
        rows = msgpack.unpackb(recorded.entries)
        found = {path: FileStamp(inode, size, mtime) for path, inode, size, mtime in rows}
        return found if all(type(path) is str for path in found) else {}
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}


def _entries_of(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> dict[str, FileStamp]:
    """The stamp of every file that should be in the directory; that of no file where a damaged catalog does not say."""
    expected = [*(file.path for file in workspace.catalog.versions.files(row.id)), DESCRIPTOR_NAME]
    entries = unpacked_entries(recorded)
    return entries if entries.keys() == set(expected) else dict.fromkeys(expected, FileStamp(0, 0, 0))


def directory_inode(workspace: Workspace, row: VersionRow) -> int | None:
    """The inode of the version's directory; None if what stands there is not what casstore made.

    A directory that somebody made after removing ours may have got the same inode number, so unless nothing is in it
    one recorded file at least has to be there too, altered or not. Files may have got theirs as well: then a
    `model.yaml` of another creation tells.
    """
    recorded = workspace.catalog.directories.find(row.id)
    directory = str(workspace.layout.model(row.tag))
    if recorded is None or _inode(directory) != recorded.inode:
        return None
    entries = unpacked_entries(recorded).items()
    if not any(_inode(f"{directory}/{path}") == stamp.inode for path, stamp in entries):
        return None if holds_a_file(directory) else recorded.inode
    written = dict(entries).get(DESCRIPTOR_NAME)
    is_another = _stamp(f"{directory}/{DESCRIPTOR_NAME}") != written and _is_of_another_creation(workspace, row)
    return None if is_another else recorded.inode


def _is_of_another_creation(workspace: Workspace, row: VersionRow) -> bool:
    """Whether the descriptor in the version's directory is one, and says that it was created at another time."""
    try:
        described = model_yaml.load(workspace.layout.model(row.tag) / DESCRIPTOR_NAME)
    except InvalidSource:
        return False
    return described.created_at_ns // 1000 != row.created_at_ns // 1000


def _inode(path: str) -> int | None:
    stamp = _stamp(path)
    return None if stamp is None else stamp.inode


def _stamp(path: str) -> FileStamp | None:
    try:
        return FileStamp.of(os.lstat(path))
    except (OSError, ValueError):  # ValueError: a path that a damaged catalog has put a NUL into
        return None


def altered_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The files of the version's directory that stat says have changed; none where no directory counts as standing."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not _is_standing(workspace, row):
        return []
    return _altered(workspace, row, recorded)


def unaltered_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The files of the version's directory that stat says are those that were put there."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None:
        return []
    altered = set(_altered(workspace, row, recorded))
    return [path for path in _entries_of(workspace, row, recorded) if path not in altered]


def damaged_files(workspace: Workspace, row: VersionRow) -> list[str]:
    """The same by their bytes, but for hardlinks of loose files that stand, whose bytes are looked at there."""

    def stands(loose: LooseFile) -> bool:
        stamp = _stamp(loose.container.path(workspace.layout))
        return stamp is not None and stamp.inode == loose.stamp.inode

    recorded = workspace.catalog.directories.find(row.id)
    altered = altered_files(workspace, row)
    if recorded is None or recorded.evicting or altered or not _is_standing(workspace, row):
        return altered
    return _damaged(workspace, row, recorded, stands)


def _damaged(
    workspace: Workspace, row: VersionRow, recorded: DirectoryRow, is_trusted: Callable[[LooseFile], bool]
) -> list[str]:
    """The files whose bytes are not what they should be; trusted hardlinks of loose files are not read."""
    entries = {path: stamp.inode for path, stamp in _entries_of(workspace, row, recorded).items()}
    loose = workspace.catalog.index.loose_by_inode(set(entries.values()))
    directory = workspace.layout.model(row.tag)
    damaged = []
    for file in workspace.catalog.versions.files(row.id):
        known = loose.get(entries[file.path])
        is_sound = known is not None and known.container.digest == file.digest and is_trusted(known)
        if not is_sound and not _has_digest(directory / file.path, file.digest):
            damaged.append(file.path)
    if not _has_digest(directory / DESCRIPTOR_NAME, Digest.of(_rendered(workspace, row))):
        damaged.append(DESCRIPTOR_NAME)
    return damaged


def linked_files(workspace: Workspace, row: VersionRow, inodes: Set[int]) -> list[str]:
    """The files of the version's directory, where one counts as standing, that are links to one of these inodes."""
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not inodes:
        return []
    return [path for path, stamp in _entries_of(workspace, row, recorded).items() if stamp.inode in inodes]


def _has_digest(path: Path, digest: Digest) -> bool:
    try:
        return hash_file(path) == digest
    except OSError as error:
        files.raise_unless_damage(error)
        return False


def _damaged_since_boot(workspace: Workspace, row: VersionRow, recorded: DirectoryRow) -> list[str]:
    return _damaged(workspace, row, recorded, lambda loose: loose.synced)


def _rendered(workspace: Workspace, row: VersionRow) -> bytes:
    return model_yaml.render(workspace.catalog.versions.manifest(row, {}))


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
        self._is_doubtful = False  # what is not as recorded may be somebody's only copy
        self._home = workspace.layout.model(row.tag).parent
        files.make_directory(self._home)

    def _new_path(self) -> Path:
        """A path that nobody has yet, from where a rename into the directory works."""
        return self._workspace.on_device_of(self._home, self._session.new_path())

    def run(self) -> None:
        target = self._workspace.layout.model(self._row.tag)
        recorded = self._workspace.catalog.directories.find(self._row.id)
        stands = os.path.lexists(target)
        is_ours = directory_inode(self._workspace, self._row) is not None or (
            # Adopted in place, and cut short before the first of its files was replaced.
            recorded is not None and _inode(str(target)) == recorded.inode and self._is_unfinished
        )
        if stands and not is_ours:
            stands = not files.remove_empty_directory(target)
        if stands and not is_ours:
            raise StoreError(
                f"{target} is in the way and was not made by casstore; `casstore sync-tree` takes over what other "
                "tools have put there, and `casstore repair` moves it to quarantine"
            )
        if stands and recorded is not None:
            self._mend(target, recorded)
        else:
            self._build()

    def _mend(self, target: Path, recorded: DirectoryRow) -> None:
        """Replace what is not as recorded, file by file; what else stands there is not ours to touch."""
        for directory in self._directories():
            standing = target / directory
            if standing.is_symlink():
                files.rename(standing, self._new_path())  # it would lead what is written out of the store
            elif os.path.lexists(standing) and not standing.is_dir():
                self._keep(standing)
            files.make_directory(standing)
        bad = set(_altered(self._workspace, self._row, recorded))
        # Not one file is as it was put there, so this may be another directory, which has got the inode numbers of one
        # that was removed; or its adoption was cut short, and has replaced nothing yet.
        self._is_doubtful = len(bad) == len(self._files) + 1 or self._is_unfinished
        if recorded.boot_id != self._workspace.catalog.boot_id:
            bad.update(_damaged_since_boot(self._workspace, self._row, recorded))
        stamps = _entries_of(self._workspace, self._row, recorded)
        stamps |= self._make(target, [file for file in self._files if file.path in bad], mend=True)
        if DESCRIPTOR_NAME in bad:
            self._keep_doubtful(target / DESCRIPTOR_NAME, Digest.of(_rendered(self._workspace, self._row)))
            self._write_descriptor(target)
        del stamps[DESCRIPTOR_NAME]
        self._record(target, stamps)

    def _keep_doubtful(self, path: Path, digest: Digest) -> None:
        """Move what is about to be replaced to quarantine, where it may be somebody's: what is no file, such as a
        directory or a pipe, and, of a directory that may be somebody's as a whole, a file with other bytes."""
        if not os.path.lexists(path) or path.is_symlink():
            return
        if not path.is_file() or (self._is_doubtful and not _has_digest(path, digest)):
            self._keep(path)

    def _keep(self, path: Path) -> None:
        if not path.is_dir() or not files.remove_empty_directory(path):
            files.move(path, self._workspace.quarantined(self._row.tag, path.name))

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
        self._write_descriptor(draft)
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
        row = replace(directory_row(self._workspace, directory, stamps), evicting=is_coming)
        self._workspace.catalog.directories.record(self._row.id, row)

    def _write_descriptor(self, directory: Path) -> None:
        mode = self._workspace.file_mode(executable=False)
        data = _rendered(self._workspace, self._row)
        files.write_file(directory / DESCRIPTOR_NAME, data, mode, temporary=self._new_path())

    def _make(self, directory: Path, wanted: Sequence[FileEntry], *, mend: bool) -> dict[str, FileStamp]:
        made = {}
        self._progress.start("materialize", sum(file.size for file in wanted))
        try:
            for file in wanted:
                target = directory / file.path
                temporary = self._new_path() if mend else target
                made[file.path] = self._make_file(file, temporary)
                if mend:
                    self._keep_doubtful(target, file.digest)
                    files.rename(temporary, target)
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
        return stamp
