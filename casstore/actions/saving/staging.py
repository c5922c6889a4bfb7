"""First half of a save: every source file becomes a read-only file of known content in the draft.

A draft's own file is frozen where it stands. What the caller keeps, or may still write to, is copied; what the
store has already is linked from there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import NamedTuple

from casstore.actions import loose_files
from casstore.actions.packs.freshness import Freshness
from casstore.actions.saving.request import SaveRequest
from casstore.actions.saving.unchanged import changed, check_linked, is_racy, link, lstat_or_none, open_as_found, put
from casstore.actions.sources.source import Source, SourceFile, is_unchanged
from casstore.actions.workspace import Workspace
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.digest import Digest
from casstore.errors import FileChanged, InvalidSource, StoreUnwritable
from casstore.late_classes import dataclass
from casstore.progress import SILENT, Progress
from casstore.storage import chunking, files
from casstore.storage.container import LINK_FROM_BYTES, FileStamp
from casstore.storage.descriptors import opened
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.storage.write_back import FROM_BYTES, Follow, WriteBack, unfollowed
from casstore.storage.writers import open_here, writer_of

_log = logging.getLogger(__name__)

# A file may be written to again within one tick of the clock that stamps it, which stat does not show. Git calls such
# index entries "racy". FAT's 2 s are the coarsest clock in use.
_SETTLED_NS = 2_000_000_000
# The bytes of small files that are held in memory between hashing and packing.
_KEEP_BYTES = 64 << 20
# Hashing this much takes as long as a tick of the kernel's clock, which is 1 to 10 ms.
_WAIT_FROM_BYTES = 8 << 20
_TICK_S, _TICKS = 0.001, 20
_ONE_CALL_BYTES = io.DEFAULT_BUFFER_SIZE
# A write(2) that set the file's time this long ago has ended, unless the machine stands still.
_UNDER_WAY_NS = 1_000_000_000
_PAUSE_S, _PAUSES = 0.01, 25  # per save: there may be many logs that are open and were just written to
# A time in whole hundredths of a second suggests a clock as coarse as FAT's.
_COARSE_NS = 10_000_000
# Copying this much, and reading the copy, takes long enough to be shown as a step of its own.
_SHOWN_COPY_BYTES = 64 << 20
_UNSHOWN = contextlib.nullcontext(SILENT.advance)


class StagedFile(NamedTuple):
    """A file of the new version: it stands in the draft at `path`, read-only, with this content.

    `is_linked`: it is already a hardlink of one of the store's loose files. `content`: the bytes of a small file.
    `disk_path`: where its bytes can be read: in the draft or, if nothing is to stand there, at the source. `seen`: for
    a file that other programs know by a path, its last status, which must hold until the commit. `is_racy`: stat may
    not show a write to it, so it is read once more.
    """

    path: str
    executable: bool
    recipe: Recipe
    stamp: FileStamp
    is_linked: bool
    disk_path: str
    content: bytes | None = None
    seen: os.stat_result | None = None
    is_racy: bool = False


@dataclass(frozen=True, slots=True)
class Staged:
    """The result of staging. `fingerprints`: those of files whose content has become known. `containers`: those
    found by look-ups. `gc_epoch`: the epoch before the first look-up, by which the commit proves that all containers
    still hold."""

    files: Sequence[StagedFile]
    fingerprints: Mapping[Fingerprint, Digest]
    containers: Mapping[Digest, int]
    gc_epoch: int

    @property
    def found(self) -> tuple[int, Mapping[Digest, int]]:
        """The epoch, and the containers found since."""
        return self.gc_epoch, self.containers

    def by(self, recipes: Mapping[Digest, Recipe]) -> Staged:
        """A copy of this in which each file has the recipe given for its blob."""
        pairs = [(file, recipes[file.recipe.blob]) for file in self.files]
        staged = [file if recipe is file.recipe else file._replace(recipe=recipe) for file, recipe in pairs]
        return replace(self, files=staged)


@dataclass(slots=True)
class Staging:
    """One save's staging. Without `request.materialize` the source files are only read, and the draft stays empty.

    A file that a process holds open for writing is refused if it is to be taken or is watched, and the system tells;
    otherwise it is copied as it stands. `write_back` writes what is to be synced to disk meanwhile.
    """

    workspace: Workspace
    session: Session
    draft: Path
    request: SaveRequest
    progress: Progress
    write_back: WriteBack
    _fingerprints: dict[Fingerprint, Digest] = field(default_factory=dict)
    _gc_epoch: int = field(init=False)
    _containers: dict[Digest, int] = field(default_factory=dict)
    _frozen: list[tuple[str, os.stat_result]] = field(default_factory=list)
    _frozen_in_place: list[tuple[str, os.stat_result]] = field(default_factory=list)
    # The directories in a draft that the caller knows; None for a draft that only this save knows.
    _known: frozenset[tuple[int, int]] | None = None
    _directories: set[str] = field(default_factory=set)
    _loose: dict[tuple[Digest, bool], list[LooseFile]] = field(default_factory=dict)
    _freshness: Freshness = field(init=False)
    _seen: set[int] = field(default_factory=set)  # containers
    _stale: set[int] = field(default_factory=set)  # the containers that have not been read for long
    _takes: bool = field(init=False)
    _may_link: bool = field(init=False)
    _may_reflink: bool = field(init=False)
    _user: int = field(init=False)
    _open_here: frozenset[tuple[int, int]] | None = None  # of this process, once looked up
    _pauses: int = _PAUSES
    _copied: dict[str, list[str]] = field(default_factory=dict)  # files copied instead of taken over, by the reason
    _kept_bytes: int = 0
    _left_bytes: int = 0  # recipes of the files that have yet to be staged
    _scanned: Mapping[str, Recipe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._takes = self.request.handling.takes
        self._may_link = self.workspace.may_link()
        self._may_reflink = not self._may_link and self.workspace.may_reflink()
        self._user = os.geteuid()
        self._freshness = Freshness.of(self.workspace)
        self._gc_epoch = self.workspace.catalog.index.gc_epoch()

    def stage(self, source: Source) -> Staged:
        """Stage all files. Raises InvalidSource, FileChanged, OSError; `undo` then gives the files back."""
        in_place = source.root == self.draft
        self._known = source.directories if in_place else None
        if not in_place and self.request.materialize:
            for path in source.empty_directories:
                files.make_directory(f"{self.draft}/{path}", parents=True)
        recognised = self._recognise(source, in_place)
        self._scanned = source.scanned
        self._left_bytes = source.size
        self.progress.start("hash", source.size)
        try:
            staged = [self._stage(file, recognised.get(file.path)) for file in source.files]
        except StoreUnwritable:
            raise
        except PermissionError as error:
            raise InvalidSource(f"{error.filename or source.root} cannot be read: {error.strerror}") from error
        finally:
            self.progress.finish()
            self._tell_copied()
        return Staged(staged, self._fingerprints, self._containers, self._gc_epoch)

    def _tell_copied(self) -> None:
        """Log which files were copied instead of taken over, which takes time and, for a while, space."""
        for reason, paths in self._copied.items():
            others = f", and {len(paths) - 1:,} more for that reason" if len(paths) > 1 else ""
            _log.info("%s was copied, not taken over, since %s%s", paths[0], reason, others)
            for path in paths[1:]:
                _log.debug("%s was copied, too", path)

    def undo(self) -> None:
        """Restore the modes of frozen files, so that a failed `move=True` leaves its source as it was, and a kept draft
        can be written to."""
        for path, status in self._frozen:
            files.restore_owner(path, status)
            files.restore_mode(path, status)
        for path, status in self._frozen_in_place:
            with contextlib.suppress(OSError):
                files.restore_mode(path, status, unless_linked=True)

    def _recognise(self, source: Source, in_place: bool) -> Mapping[str, Recipe]:
        """The recipes of the files whose content is known and stored already, by path. They need not be read."""
        index = self.workspace.catalog.index
        # A draft's own file of one link can be neither a loose file of ours nor known from before.
        unknown = [file for file in source.files if not (in_place and file.is_direct and file.status.st_nlink == 1)]
        if not unknown:
            return {}
        # Fingerprints are also recorded of loose files when they are linked: in a store restored from a backup, another
        # file may have their inode numbers, sizes and modification times.
        known = index.fingerprints({(f.status.st_dev, f.status.st_ino) for f in unknown})
        digests: dict[str, Digest] = {}
        for file in unknown:
            if (fingerprint := Fingerprint.of(file.status)) in known:
                digests[file.path] = known[fingerprint]
        sizes = {digests[file.path]: file.status.st_size for file in unknown if file.path in digests}
        recipes = self._stored(sizes)
        self._loose = index.loose_files({digest for digest in recipes if sizes[digest] >= LINK_FROM_BYTES})
        return {path: recipes[digest] for path, digest in digests.items() if digest in recipes}

    def _stored(self, sizes: Mapping[Digest, int]) -> dict[Digest, Recipe]:
        """The recipes of the blobs among these, given with sizes, that are stored whole and can be relied on."""
        index = self.workspace.catalog.index
        recipes = index.recipes(sizes)
        for digest, size in sizes.items():
            recipes.setdefault(digest, Recipe.of_one_chunk(digest, size))
        chunks = {digest for recipe in recipes.values() for digest in recipe.digests}
        usable = index.usable_containers(chunks)
        self._containers |= usable
        if unseen := set(usable.values()) - self._seen:
            self._seen |= unseen
            self._stale |= self._freshness.stale(unseen)
        return {digest: recipe for digest, recipe in recipes.items() if usable.keys() >= set(recipe.digests)}

    def _stage(self, file: SourceFile, known: Recipe | None) -> StagedFile:
        # Taking a file removes it from where its writer has it.
        is_taken = self._takes and file.is_direct
        self._left_bytes -= file.status.st_size
        if self.request.handling.is_watched or (is_taken and known is not None):
            self._check_closed(file.disk_path)
        if not self.request.materialize:
            return self._read(file, known)
        target = f"{self.draft}/{file.path}"
        if file.disk_path != target and (parent := os.path.dirname(target)) not in self._directories:
            files.make_directory(parent, parents=True)
            self._directories.add(parent)
        executable = files.is_executable(file.status)
        if known is not None:
            linked = self._link(file, target, executable, known)
            if linked is not None:
                self.progress.advance(file.status.st_size)
                return linked
        reason = self._why_copied(file.status, is_direct=file.is_direct) if self._takes else ""
        if self._takes and not reason:
            taken = self._take(file, target, executable)
            if isinstance(taken, StagedFile):
                return taken
            reason = taken
        return self._copy(file, target, executable, reason)

    def _why_copied(self, status: os.stat_result, *, is_direct: bool) -> str:
        """Why a file with this status cannot be taken over; empty if it can be."""
        if not is_direct:
            return "it is reached by a link"
        if status.st_uid != self._user:
            return "it belongs to another user"
        return "" if status.st_nlink == 1 else "it has another name elsewhere (a hardlink)"

    def _read(self, file: SourceFile, known: Recipe | None) -> StagedFile:
        """Hash a file where it is, unless its content is known. Packing its chunks checks each digest again."""
        executable = files.is_executable(file.status)
        recipe = known
        if recipe is None:
            opened, before = open_as_found(file.disk_path, is_direct=file.is_direct)
            with opened as descriptor:
                is_taken = self._takes and file.is_direct
                if is_taken:
                    self._check_written(file.disk_path, descriptor, before)
                is_watched = not is_taken and _may_be_torn(before)
                if is_watched:
                    before = _wait_until_told(descriptor, before)
                    began_ns = time.time_ns()
                recipe = self._known_or_hashed(file, descriptor, before)
                if is_watched and (self._is_written(file, descriptor, before) or not _is_told(before, began_ns)):
                    self._check_same(file.disk_path, descriptor, recipe)
                    self._check_unchanged(file.disk_path, descriptor, before)
                self._remember(descriptor, before, recipe)
        else:
            self.progress.advance(recipe.size)
        return StagedFile(file.path, executable, recipe, FileStamp.of(file.status), False, file.disk_path)

    def _remember(self, descriptor: int, status: os.stat_result, recipe: Recipe) -> None:
        """Record the fingerprint of a hashed source file, so that it need not be read the next time."""
        is_settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) >= _SETTLED_NS
        # Writes through a mapping that is already dirty do not change the times until it is written back.
        if is_settled and not files.is_writable_by_others(descriptor):
            self._fingerprints[Fingerprint.of(status)] = recipe.blob

    def _link(self, file: SourceFile, target: str, executable: bool, recipe: Recipe) -> StagedFile | None:
        """Put a hardlink, or a reflink, of the store's loose file at `target`; None if that cannot be done."""
        if recipe.size < LINK_FROM_BYTES or not (self._may_link or self._may_reflink):
            return None
        candidates = self._loose.get((recipe.blob, executable)) or loose_files.find(
            self.workspace, recipe.blob, executable
        )
        if self._stale and any(self._containers[digest] in self._stale for digest in recipe.digests):
            # The stored bytes have not been read for long: the file's own bytes are kept.
            candidates = [each for each in candidates if self._is_as_good(each, file)]
        is_free = file.disk_path != target
        place = target if is_free else str(self.session.new_path())
        if self._may_link:
            stamp = loose_files.link(self.workspace, candidates, place, noted=self._fingerprints)
        else:
            stamp = loose_files.reflink(self.workspace, candidates, place, hash_first=False, noted=self._fingerprints)
        if stamp is None:
            return None
        linked = os.lstat(place)
        if not is_free:
            self._put(file.status, place, target)
            # rename(2) of a link onto another link of the same file does nothing, and leaves both.
            files.remove_file(place)
            linked = check_linked(target, linked, target)
        self._fingerprints[Fingerprint.of(linked)] = recipe.blob
        is_linked = self._may_link
        return StagedFile(file.path, executable, recipe, stamp, is_linked, target, seen=self._watched(linked))

    def _is_as_good(self, loose: LooseFile, file: SourceFile) -> bool:
        """Whether a loose file was read lately, or is itself the file that is being saved."""
        if self._freshness.is_fresh(loose.read_at_ns):
            return True
        standing = lstat_or_none(loose.container.path(self.workspace.layout))
        return standing is not None and os.path.samestat(standing, file.status)

    def _take(self, file: SourceFile, target: str, executable: bool) -> StagedFile | str:
        """Freeze a file that is ours alone, and hash it in place. Returns the reason if it may not be adopted."""
        opened, found = open_as_found(file.disk_path, is_direct=True)
        with opened as descriptor:
            if found.st_ino != file.status.st_ino or found.st_dev != file.status.st_dev:
                raise changed(file.disk_path)  # before its mode is changed
            if reason := self._why_copied(found, is_direct=True):
                return reason
            # A draft's own file may become a link to a stored one, whose mode must stay.
            frozen = self._frozen_in_place if file.disk_path == target else self._frozen
            frozen.append((file.disk_path, found))
            try:
                seen = _freeze(descriptor, self.workspace.file_mode(executable))
            except PermissionError:  # an attribute of the file forbids it, such as that of chattr +i
                frozen.pop()
                return "its mode cannot be changed"
            if files.is_writable_by_others(descriptor):
                files.set_mode(descriptor, stat.S_IMODE(found.st_mode))
                self._check_written(file.disk_path, descriptor, found)
                return "another process may write to it"
            if files.hand_over(descriptor, self.workspace.layout.home):
                seen = os.fstat(descriptor)
            content = self._small_content(file.disk_path, descriptor, seen)
            if content is not None:
                recipe = chunking.scan_bytes(content)
            else:
                follow = self.write_back.follow(descriptor, seen.st_size) if self._is_synced else unfollowed
                recipe = self._hash(file.disk_path, descriptor, seen, follow)
            if file.disk_path != target:  # a link changes the file's change time
                self._check_unchanged(file.disk_path, descriptor, seen)
        racy = is_racy(seen)
        if file.disk_path != target:
            linked = link(file.disk_path, target, seen)
            if linked is None:
                return "no hardlink of it can be made in the store, as on another file system"
            seen = linked
        stamp = FileStamp.of(seen)
        return StagedFile(file.path, executable, recipe, stamp, False, target, content, seen, racy)

    def _copy(self, file: SourceFile, target: str, executable: bool, reason: str) -> StagedFile:
        """Hash the source. Link it if the store has its content; otherwise copy it and hash the copy, which is kept.

        `reason`: why the file is not taken over; empty if it was not to be.
        """
        opened, before = open_as_found(file.disk_path, is_direct=file.is_direct)
        with opened as descriptor:
            if self._takes and file.is_direct:
                self._check_written(file.disk_path, descriptor, before)
            place = target if self._known is None else str(self.session.new_path())
            if not _may_be_torn(before):
                recipe, content, copied = self._copy_at_once(file, descriptor, before, place)
            else:
                content = None
                recipe = self._known_or_hashed(file, descriptor, before)
                self._remember(descriptor, before, recipe)
                linked = self._link_stored(file, target, executable, recipe)
                if linked is not None:
                    return linked
                self._is_written(file, descriptor, before)
                with files.create_file(place) as copy, self._copying(before.st_size) as advance:
                    files.copy_file(descriptor, copy, self._writing_back(place, recipe, advance))
                    self._check_unchanged(file.disk_path, descriptor, before)
                    self._check_same(file.disk_path, copy, recipe, advance)
                    files.set_mode(copy, self.workspace.file_mode(executable))
                    copied = os.fstat(copy)
            if place != target:
                self._put(before, place, target)
                copied = check_linked(target, copied, target)
        if reason:
            self._copied.setdefault(reason, []).append(file.disk_path)
        stamp = FileStamp.of(copied)
        return StagedFile(file.path, executable, recipe, stamp, False, target, content, self._watched(copied))

    def _copy_at_once(
        self, file: SourceFile, descriptor: int, before: os.stat_result, place: str
    ) -> tuple[Recipe, bytes | None, os.stat_result]:
        """Copy a file that programs write with one call: what one call reads is hashed, written and kept for packing.

        Returns its recipe, its bytes if there is room for them, and the copy's status.
        """
        read = os.pread(descriptor, before.st_size + 1, 0)
        if len(read) != before.st_size:
            raise changed(file.disk_path)
        self._check_unchanged(file.disk_path, descriptor, before)
        recipe = chunking.scan_bytes(read)
        self._remember(descriptor, before, recipe)
        with files.create_file(place) as copy:
            files.write_all(copy, read)
            files.set_mode(copy, self.workspace.file_mode(files.is_executable(file.status)))
            copied = os.fstat(copy)
        self.progress.advance(before.st_size)
        is_kept = self._kept_bytes + before.st_size <= _KEEP_BYTES
        self._kept_bytes += before.st_size if is_kept else 0
        return recipe, read if is_kept else None, copied

    def _link_stored(self, file: SourceFile, target: str, executable: bool, recipe: Recipe) -> StagedFile | None:
        """Put a link of the store's loose file at `target`, if it has the content that has just been hashed."""
        if recipe.size < LINK_FROM_BYTES:
            return None
        known = self._stored({recipe.blob: recipe.size}).get(recipe.blob)
        return None if known is None else self._link(file, target, executable, known)

    def _check_closed(self, path: str) -> None:
        with opened(path, os.O_RDONLY) as descriptor:
            self._check_written(path, descriptor, os.fstat(descriptor))

    def _check_written(self, path: str, descriptor: int, status: os.stat_result) -> None:
        """Raise FileChanged if the file is certainly open for writing: what is written later would be lost.

        `descriptor` must be open for reading only. If a lease cannot tell, only this process is looked at.
        """
        is_open = files.is_written_to(descriptor)
        if is_open is None:
            if self._open_here is None:
                self._open_here = open_here()
            is_open = (status.st_dev, status.st_ino) in self._open_here
        if is_open:
            raise FileChanged(
                f"{path} is still open for writing in {writer_of(status)}, and what is written to it later would be "
                "lost; close it before it is saved (file.close(), or `with open(...) as file:`), and save again"
            )

    def _copying(self, size: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return _UNSHOWN if size < _SHOWN_COPY_BYTES else self._shown_copying(size)

    @contextlib.contextmanager
    def _shown_copying(self, size: int) -> Iterator[Callable[[int], None]]:
        """Show the copying of a large file, and the reading of the copy, as a step of its own, for a `with` block."""
        self.progress.finish()
        self.progress.start("copy", 2 * size)
        try:
            yield self.progress.advance
        finally:
            self.progress.finish()
            self.progress.start("hash", self._left_bytes)

    def _put(self, found: os.stat_result, temporary: files.StrPath, target: str) -> None:
        """Replace a file in the draft, if it is still the one that was found. Raises FileChanged, InvalidSource."""
        if not is_unchanged(lstat_or_none(target), found):
            raise changed(target)
        put(temporary, target, self._known)

    def _watched(self, status: os.stat_result) -> os.stat_result | None:
        """The status that a file must keep until the commit; None if only this save knows its directory."""
        return None if self._known is None else status

    def _small_content(self, path: str, descriptor: int, before: os.stat_result) -> bytes | None:
        """The bytes of a small frozen file, kept so that packing them does not read it again; None for others."""
        size = before.st_size
        if size >= LINK_FROM_BYTES or self._kept_bytes + size > _KEEP_BYTES:
            return None
        content = os.pread(descriptor, size + 1, 0)
        if len(content) != size:
            raise changed(path)
        self._kept_bytes += size
        self.progress.advance(size)
        return content

    def _known_or_hashed(self, file: SourceFile, descriptor: int, before: os.stat_result) -> Recipe:
        """The recipe found before, if the file has not changed since; otherwise a new one."""
        recipe = self._scanned.get(file.path)
        if recipe is None or Fingerprint.of(before) != Fingerprint.of(file.status):
            return self._hash(file.disk_path, descriptor, before)
        self.progress.advance(recipe.size)
        return recipe

    @property
    def _is_synced(self) -> bool:
        """Whether new large files are adopted as they stand, and are to be on disk when the save is done."""
        return self.request.durable and self._may_link

    def _writing_back(
        self, copy: files.StrPath, recipe: Recipe, advance: Callable[[int], None]
    ) -> Callable[[int], None]:
        """`advance`, and while a large file of new content is copied, the copy is written to disk."""
        if recipe.size < FROM_BYTES or not self._is_synced or self.write_back.is_mostly_known(recipe.digests):
            return advance
        with opened(copy, os.O_RDONLY) as descriptor:  # a second one for writing would count as a writer's
            follow = self.write_back.follow(descriptor, recipe.size)

        def advanced(length: int) -> None:
            follow(length, ())
            advance(length)

        return advanced

    def _hash(self, path: str, descriptor: int, before: os.stat_result, follow: Follow = unfollowed) -> Recipe:
        try:
            recipe = chunking.scan_file(descriptor, self.progress.advance, before.st_size, follow)
        except EOFError as error:
            raise changed(path) from error
        self._check_unchanged(path, descriptor, before)
        return recipe

    def _is_written(self, file: SourceFile, descriptor: int, before: os.stat_result) -> bool:
        """Whether a file that was read once is open for writing, so that it must be read again.

        A write in progress may have set the file's time before that was looked at. It is given time to go on, or a
        second reading would find it where the first did. Raises FileChanged.
        """
        if not files.is_open_for_writing(descriptor):
            return False
        if time.time_ns() - before.st_mtime_ns < _UNDER_WAY_NS:
            while self._pauses:
                self._pauses -= 1
                time.sleep(_PAUSE_S)
                self._check_unchanged(file.disk_path, descriptor, before)
                if not files.is_open_for_writing(descriptor):
                    break
        return True

    def _check_same(
        self, path: str, descriptor: int, recipe: Recipe, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        try:
            is_same = chunking.scan_file(descriptor, advance).blob == recipe.blob
        except EOFError:
            is_same = False
        if not is_same:
            raise changed(path)

    def _check_unchanged(self, path: str, descriptor: int, before: os.stat_result) -> None:
        if Fingerprint.of(os.fstat(descriptor)) != Fingerprint.of(before):
            raise changed(path)


def _may_be_torn(status: os.stat_result) -> bool:
    """Whether a file may be half written: programs empty a small file, then write it with one call."""
    return not 0 < status.st_size < _ONE_CALL_BYTES


def _is_told(status: os.stat_result, now_ns: int) -> bool:
    """Whether any write to the file from now on will change its times."""
    coarse_ns = _SETTLED_NS if status.st_mtime_ns % _COARSE_NS == 0 else int(_TICK_S * _TICKS * 1e9)
    return abs(now_ns - max(status.st_mtime_ns, status.st_ctime_ns)) >= coarse_ns


def _wait_until_told(descriptor: int, status: os.stat_result) -> os.stat_result:
    """Wait for the next tick of the clock if a large file was written to in this one; returns its status then."""
    for _ in range(_TICKS):
        if status.st_size < _WAIT_FROM_BYTES or _is_told(status, time.time_ns()):
            break
        time.sleep(_TICK_S)
        status = os.fstat(descriptor)
    return status


def _freeze(descriptor: int, mode: int) -> os.stat_result:
    """Make a file read-only; returns its status from then on.

    If a large file was written to in this tick of the clock, this waits for the next, so that its times show any later
    write. A smaller file is read again before the commit, which costs less.
    """
    files.set_mode(descriptor, mode)
    status = os.fstat(descriptor)
    if status.st_size < _WAIT_FROM_BYTES:
        return status
    for _ in range(_TICKS):
        if not is_racy(status):
            break
        time.sleep(_TICK_S)
        files.set_mode(descriptor, mode)
        status = os.fstat(descriptor)
    return status
