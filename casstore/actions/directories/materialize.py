"""A version as a directory: made from hardlinks if possible, checked by stat, and mended where it differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from casstore.actions import loose_files
from casstore.actions.directories.changed import ChangedShelf
from casstore.actions.directories.placing import check_replaceable, directory_row, publish, settle
from casstore.actions.directories.standing import (
    Standing,
    Whose,
    has_digest,
    is_file,
    link_among,
    rendered,
    status_of,
)
from casstore.actions.sources import source as sources
from casstore.actions.workspace import Workspace
from casstore.catalog.index import Fingerprint
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, StoreError, StoreUnwritable, TagNotFound
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.chunk_sequence import Locations
from casstore.storage.container import LINK_FROM_BYTES, FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session

_LOOK_UP = 500  # files whose chunks are looked up at once


def materialize(workspace: Workspace, row: VersionRow, progress: Progress) -> Path:
    """The version's directory, as `made_whole` leaves it. Raises what that raises."""
    return made_whole(workspace, row, progress).path


def made_whole(workspace: Workspace, row: VersionRow, progress: Progress) -> Standing:
    """The version's directory, made or mended if needed. What was changed or added there goes to quarantine first.

    It stays until it is evicted: lease it first to keep it. Raises TagNotFound if the version has been deleted,
    IntegrityError if its bytes are damaged, StoreError if something else stands in its place. In a read-only store, a
    directory is returned if its names, sizes and small files are right; otherwise StoreUnwritable is raised.
    """
    standing = Standing(workspace, row)
    if standing.is_whole():
        return standing
    if not workspace.catalog.read_only:
        _build_or_mend(workspace, row, progress, only_mend=False)
        return Standing(workspace, row)
    if standing.differing(is_quick=True):
        raise StoreUnwritable(
            f"{row.tag} has no directory as it was saved in {workspace.layout.home}, which can only be read: read its "
            "files with model.open() or `casstore export`, or copy the store to a place that can be written to"
        )
    return standing


def mend(workspace: Workspace, row: VersionRow, progress: Progress) -> None:
    """Mend the version's directory if one stands there; do not make one. Raises as `materialize` does."""
    if workspace.catalog.read_only:
        return  # reads through casstore are checked anyway
    standing = Standing(workspace, row)
    if standing.exists() and not standing.is_whole():
        _build_or_mend(workspace, row, progress, only_mend=True)


def unshare(workspace: Workspace, row: VersionRow, progress: Progress) -> None:
    """Replace the hardlinks in the version's directory, if it stands, by copies. Raises as `materialize` does."""
    _build_or_mend(workspace, row, progress, only_mend=True, is_linked=True)


def _build_or_mend(
    workspace: Workspace, row: VersionRow, progress: Progress, *, only_mend: bool, is_linked: bool = False
) -> None:
    with workspace.name_lock(row.name):
        current = workspace.catalog.versions.find(row.tag)
        if current is None or current.id != row.id:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        # While this waited for the lock, another process may have made the directory, or gc may have removed it.
        standing = Standing(workspace, row)
        if (standing.is_whole() and not is_linked) or (only_mend and not standing.exists()):
            return
        with workspace.session() as session:
            _Builder(workspace, session, row, progress).run()


def take_over(workspace: Workspace, row: VersionRow, standing: sources.Source, progress: Progress) -> None:
    """Take over a foreign directory that stands in the version's place and holds just the version's files.

    Raises FileChanged if it is not as it was found, InvalidSource if it cannot be written to, TagNotFound if the
    version has been deleted, IntegrityError if its bytes are damaged; then the directory is as it was.
    """
    with workspace.name_lock(row.name):
        current = workspace.catalog.versions.find(row.tag)
        if current is None or current.id != row.id:
            raise TagNotFound(f"{row.tag} has been deleted meanwhile")
        sources.check_as_found(standing)
        check_replaceable(standing)
        with workspace.session() as session:
            _Builder(workspace, session, row, progress).take_over(standing)


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
        self._small: Locations = {}  # of what the next small files are made of
        self._known: dict[Fingerprint, Digest] = {}  # the status of linked files after the link
        self._is_unfinished = workspace.layout.pending_manifest(row.manifest_id).exists()
        self._shelf = ChangedShelf(workspace, row.tag)
        self._target = workspace.layout.model(row.tag)
        self._name_directory = self._target.parent
        files.make_directory(self._name_directory)

    def _new_path(self) -> Path:
        """A new path, from which a rename into the directory works."""
        return self._workspace.on_device_of(self._name_directory, self._session.new_path())

    def run(self) -> None:
        standing = Standing(self._workspace, self._row)
        whose = self._whose(standing)
        try:
            if whose is Whose.COPY:
                self._mend_copy(standing)
            elif whose is Whose.OWN:
                self._mend(standing)
            else:
                self._build()
        finally:
            self._shelf.tell()

    def _whose(self, standing: Standing) -> Whose:
        """Whose directory stands here. Raises StoreError if it is foreign."""
        whose = standing.whose()
        if whose is not Whose.FOREIGN:
            return whose
        if standing.recorded is not None and self._is_unfinished:
            # An adoption in place was interrupted before the first file was replaced.
            status = status_of(standing.path)
            if status is not None and status.st_ino == standing.recorded.inode:
                return Whose.OWN
        if files.remove_empty_directory(standing.path):
            return Whose.NOBODYS
        raise StoreError(
            f"{standing.path} is in the way and was not made by casstore; `casstore sync-tree` takes over what other "
            "tools have put there, and `casstore repair` moves it to quarantine"
        )

    def _make_directories(self, standing: Standing) -> None:
        """Make the version's directories that are missing, and move away what was added."""
        own_files = [*(file.path for file in self._files), DESCRIPTOR_NAME]
        for path in standing.additions(own_files):
            self._shelf.take_addition(standing.path, path)
        for directory in self._directories():
            below = standing.path / directory
            if os.path.lexists(below) and (below.is_symlink() or not below.is_dir()):
                self._shelf.take(below, directory)  # through a link, files would be written outside the store
            files.make_directory(below)

    def _mend_copy(self, standing: Standing) -> None:
        """Make a copy of the version's directory its own: files with the right bytes stay, others go to quarantine and
        are made again."""
        target = standing.path
        self._make_directories(standing)
        stamps = {}
        self._progress.start("compare", sum(file.size for file in self._files))
        try:
            for file in self._files:
                before = status_of(target / file.path)
                if before is not None and is_file(target, file, is_read=True):
                    stamps[file.path] = self._kept(file, target, before)
                self._progress.advance(file.size)
        finally:
            self._progress.finish()
        stamps |= self._make(target, [file for file in self._files if file.path not in stamps], mend=True)
        if not standing.is_described_right():
            self._mend_descriptor(target)
        self._record(target, stamps)

    def _kept(self, file: FileEntry, root: Path, before: os.stat_result) -> FileStamp:
        """The stamp of a file whose bytes are right. If it is not a link of the blob's loose file, it is made one.

        `before`: its status before it was read.
        """
        if not self._may_link or file.size < LINK_FROM_BYTES:
            return FileStamp.of(before)
        candidates = loose_files.find(self._workspace, file.digest, file.executable)
        path = root / file.path
        loose = link_among(self._workspace, str(path), candidates)
        if loose is not None:
            if loose.stamp != FileStamp.of(before):
                self._workspace.catalog.index.restamp_loose(loose.container, FileStamp.of(before))
            self._known[Fingerprint.of(before)] = file.digest
            return FileStamp.of(before)
        temporary = self._new_path()
        stamp = loose_files.link(self._workspace, candidates, temporary, hash_first=True)
        if stamp is None:
            return FileStamp.of(before)
        self._put(temporary, root, file.path, before)
        self._known[Fingerprint.of(os.lstat(path))] = file.digest
        return stamp

    def _mend(self, standing: Standing) -> None:
        """Replace the files that are not as recorded, one by one."""
        target = standing.path
        self._make_directories(standing)
        bad = set(standing.changed())
        if not standing.is_of_this_boot:
            bad.update(standing.damaged_since_boot())
        if not self._may_link:
            bad.update(standing.linked())
        stamps = standing.entries()
        stamps |= self._make(target, [file for file in self._files if file.path in bad], mend=True)
        if DESCRIPTOR_NAME in bad:
            self._mend_descriptor(target)
        del stamps[DESCRIPTOR_NAME]
        self._record(target, stamps)

    def _keep_changed(self, root: Path, path: str, digest: Digest) -> os.stat_result | None:
        """Move what is about to be replaced to quarantine, unless it is a file of these bytes: it may be a user's work.

        Returns the status of what stood there, None if nothing did.
        """
        standing = root / path
        before = status_of(standing)
        if before is None:
            return None
        try:
            is_same = not standing.is_symlink() and has_digest(standing, digest)
        except PermissionError:
            is_same = False
        if not is_same:
            self._shelf.take(standing, path, stays=True)
        return before

    def _put(self, made: Path, root: Path, path: str, before: os.stat_result | None) -> None:
        """Put a new file in its place, and keep what was written there since the status `before` was taken."""
        if files.swap_into(made, root / path):
            if sources.is_unchanged(os.lstat(made), before):
                files.remove_file(made)
            else:
                self._shelf.take(made, path)

    def _build(self) -> None:
        draft = self._new_path()
        try:
            stamps = self._fill(draft)
            # Until it certainly stands, its absence does not count as a removal.
            self._record(draft, stamps, is_coming=True)
            publish(self._workspace, self._row.tag, self._row.manifest_id, draft)
            files.sync_directory(self._name_directory)
            self._workspace.catalog.directories.undo_evictions([self._row.id])
        except BaseException:
            files.remove_tree(draft)
            raise

    def _fill(self, draft: Path) -> dict[str, FileStamp]:
        """Make the whole directory of the version at `draft`; returns the stamps of its files except the descriptor."""
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

    def take_over(self, standing: sources.Source) -> None:
        """Make a directory that stands in the version's place and holds just its files the version's own.

        Every file in it is replaced by the version's, and the directory is never away. The record comes last: an
        interruption leaves a foreign directory with the same content.
        """
        draft = self._new_path()
        try:
            stamps = self._fill(draft)
            settle(self._workspace, self._row.tag, draft, standing)
            files.sync_directory(self._name_directory)
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
        data = rendered(self._workspace, self._row)
        files.write_new_file(path, data, self._workspace.file_mode(executable=False))

    def _mend_descriptor(self, directory: Path) -> None:
        made = self._new_path()
        self._write_descriptor(made)
        before = self._keep_changed(directory, DESCRIPTOR_NAME, Digest.of(rendered(self._workspace, self._row)))
        self._put(made, directory, DESCRIPTOR_NAME, before)

    def _make(self, directory: Path, wanted: Sequence[FileEntry], *, mend: bool) -> dict[str, FileStamp]:
        made = {}
        self._progress.start("materialize", sum(file.size for file in wanted))
        try:
            for number, file in enumerate(wanted):
                if number % _LOOK_UP == 0:
                    small = [each for each in wanted[number : number + _LOOK_UP] if each.size < LINK_FROM_BYTES]
                    self._small = self._workspace.objects.look_up(map(self._recipe, small))
                target = directory / file.path
                temporary = self._new_path() if mend else target
                made[file.path] = self._make_file(file, temporary)
                if mend:
                    before = self._keep_changed(directory, file.path, file.digest)
                    self._put(temporary, directory, file.path, before)
        finally:
            self._progress.finish()
        return made

    def _recipe(self, file: FileEntry) -> Recipe:
        return self._recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)

    def _make_file(self, file: FileEntry, target: Path) -> FileStamp:
        if self._may_link and file.size >= LINK_FROM_BYTES:
            candidates = loose_files.find(self._workspace, file.digest, file.executable)
            stamp = loose_files.link(self._workspace, candidates, target, hash_first=True)
            if stamp is not None:
                self._known[Fingerprint.of(os.lstat(target))] = file.digest
                self._progress.advance(file.size)
                return stamp
        elif self._may_reflink and file.size >= LINK_FROM_BYTES:
            candidates = loose_files.find(self._workspace, file.digest, file.executable)
            stamp = loose_files.reflink(self._workspace, candidates, target)
            if stamp is not None:
                self._progress.advance(file.size)
                return stamp
        recipe = self._recipe(file)
        locations = self._small if file.size < LINK_FROM_BYTES else None
        try:
            stamp = self._workspace.write_file(recipe, file.executable, target, self._progress.advance, locations)
        except IntegrityError as error:
            raise unreadable(f"{file.path} of {self._row.tag}", error) from error
        if self._may_link and file.size >= LINK_FROM_BYTES:
            file_id = self._session.new_file_id()
            if files.try_link(target, self._workspace.layout.loose_file(file.digest, file_id)):
                self._rebuilt.append((file_id, file.digest, file.executable, stamp))
                self._known[Fingerprint.of(os.lstat(target))] = file.digest
        return stamp
