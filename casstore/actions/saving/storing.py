"""Middle of a save: the content of the staged files comes into the store, in packs or as loose files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import field
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.directories.placing import directory_row
from casstore.actions.packs.bases import tensor_files
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.packs.freshness import Freshness
from casstore.actions.saving.commit import Stored, remove
from casstore.actions.saving.needed import Needed
from casstore.actions.saving.packing import SavePacker
from casstore.actions.saving.plan import Step, Way, plan
from casstore.actions.saving.request import SaveRequest
from casstore.actions.saving.staging import Staged, StagedFile
from casstore.actions.saving.unchanged import (
    check_directories,
    check_linked,
    check_still,
    is_untouched,
    link,
    open_as_found,
    put,
)
from casstore.actions.workspace import Workspace
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.catalog.versions import DirectoryRow, NewChunk, NewContainer
from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import LINK_FROM_BYTES, FileStamp, Kind
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session


@dataclass(frozen=True, slots=True)
class Ground:
    """The draft's directory. If other programs know its path, also the directories in it (`known`), the paths in it
    that the version has, and the `model.yaml` that has been put into it."""

    draft: Path
    known: frozenset[tuple[int, int]] | None = None
    paths: Sequence[str] = ()
    rendered: os.stat_result | None = None

    def check(self, paths: Sequence[str] = ()) -> None:
        """Check that the directories above these paths, and the `model.yaml`, still stand there. Raises FileChanged,
        InvalidSource."""
        if self.known is not None:
            check_directories(str(self.draft), paths, self.known)
            if self.rendered is not None:
                path = f"{self.draft}/{DESCRIPTOR_NAME}"
                check_linked(path, self.rendered, path)


@dataclass(frozen=True, slots=True)
class _Try:
    """What one attempt writes, noted before it is written: containers, all new files, and the adopted blobs."""

    containers: list[NewContainer] = field(default_factory=list)
    paths: list[files.StrPath] = field(default_factory=list)
    adopted: dict[tuple[Digest, bool], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Copies:
    """The loose files that staged files may be linked to. `stale`: containers that have not been read for long."""

    containers: Mapping[Digest, int]
    stale: Set[int]
    freshness: Freshness
    loose: Mapping[tuple[Digest, bool], list[LooseFile]]

    def is_stale(self, file: StagedFile) -> bool:
        """Whether the stored bytes of this file have not been read for long, so that the file's own bytes are kept."""
        return bool(self.stale) and any(self.containers.get(digest) in self.stale for digest in file.recipe.digests)

    def of(self, file: StagedFile) -> list[LooseFile]:
        """The loose files with the file's content; for a stale file, those that have been read lately."""
        found = self.loose.get((file.recipe.blob, file.executable), [])
        return [each for each in found if self.freshness.is_fresh(each.read_at_ns)] if self.is_stale(file) else found


class Storing:
    """Stores one save's staged files, and does so again if gc has removed chunks that it relied on."""

    def __init__(
        self, workspace: Workspace, session: Session, request: SaveRequest, staged: Staged, ground: Ground,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._workspace = workspace
        self._session = session
        self._request = request
        self._ground = ground
        self._progress = progress
        self._may_link = workspace.may_link()
        self._files = list(staged.files)  # in their present state
        self._noted = dict(staged.fingerprints)

    def store(self, manifest: Manifest, needed: Needed) -> Stored:
        """Put every new chunk into a container, and give every file a loose file to be linked to.

        On any exception the new files are removed. Raises ChunkVanished, FileChanged, InvalidSource, OSError.
        """
        freshness = Freshness.of(self._workspace)
        stale = freshness.stale(set(needed.found.values()))
        needed = needed.checked(self._workspace, self._noted, self._bare(needed.found, stale))
        unlinked = {f.recipe.blob for f in self._files if not f.is_linked and f.recipe.size >= LINK_FROM_BYTES}
        copies = _Copies(needed.found, stale, freshness, self._workspace.catalog.index.loose_files(unlinked))
        done = _Try()
        try:
            self._store_files(needed, copies, done)
            directory = self._directory_row(manifest.directories)
        except BaseException:
            remove(done.paths)
            raise
        return Stored(manifest, needed, tuple(done.containers), tuple(done.paths), directory, dict(self._noted))

    def check_still(self) -> None:
        """Check that files which other programs can reach are as hashed. Raises FileChanged, InvalidSource."""
        for file in self._files:
            if file.seen is not None and (file.is_racy or not is_untouched(file.disk_path, file.seen)):
                check_still(
                    file.disk_path, file.seen, file.recipe.blob, self._noted,
                    is_racy=file.is_racy, is_shared=file.is_linked,
                )  # fmt: skip
        self._ground.check(self._ground.paths)

    def _directory_row(self, empty: Sequence[str]) -> DirectoryRow | None:
        if not self._request.materialize:
            return None
        stamps = {file.path: file.stamp for file in self._files}
        self._ground.check()
        return directory_row(self._workspace, self._ground.draft, stamps, empty, stands_as=self._request.standing)

    def _store_files(self, needed: Needed, copies: _Copies, done: _Try) -> None:
        have = needed.have
        unstored = needed.wanted - have
        missing = set(unstored)
        builder = PackBuilder(
            self._workspace, self._session, done.containers.append,
            durable=self._request.durable, announce=done.paths.append,
        )  # fmt: skip
        self._progress.start("store", sum(f.recipe.size for f in self._files))
        try:
            with builder, SavePacker(self._workspace, builder, self._base_files, unstored) as packer:
                steps = plan([file.recipe for file in self._files], have, materialize=self._request.materialize)
                for number, step in enumerate(steps):
                    self._files[number] = self._take(self._files[number], step, packer, copies, done)
                    missing.difference_update(step.new)
            if missing:
                raise ChunkVanished
        finally:
            self._progress.finish()

    def _take(self, file: StagedFile, step: Step, packer: SavePacker, copies: _Copies, done: _Try) -> StagedFile:
        """Store one file as planned; returns its new state."""
        if step.way is Way.PACK:
            packer.add(file, set(step.new), self._progress.advance)
        else:
            self._progress.advance(file.recipe.size)
        if step.way is Way.ADOPT:
            chunks = [NewChunk(c.digest, c.offset, c.length, c.length) for c in step.new.values()]
            return self._adopt(file, chunks, done)
        if step.way is Way.SHARE or (step.way is Way.PACK and self._request.materialize):
            return self._share(file, copies, done)
        return file

    def _bare(self, containers: Mapping[Digest, int], stale: Set[int]) -> set[Digest]:
        """The chunks in stale containers of files of which the store keeps no copy: they must be read where they
        are."""
        if not stale:
            return set()
        keeps_copies = self._request.materialize and self._may_link
        return {
            digest
            for file in self._files
            if not (file.is_linked or (keeps_copies and file.recipe.size >= LINK_FROM_BYTES))
            for digest in file.recipe.digests
            if containers.get(digest) in stale
        }

    def _base_files(self) -> list[tuple[str, Recipe]]:
        """The files of the version that this one came from; none if it has been deleted."""
        base = self._request.base
        row = None if base is None else self._workspace.catalog.versions.find(base.tag)
        return [] if row is None else tensor_files(self._workspace, row)

    def _share(self, file: StagedFile, copies: _Copies, done: _Try) -> StagedFile:
        """Link a file whose chunks stand elsewhere to the loose file of its blob, or make it that loose file."""
        if file.is_linked or file.recipe.size < LINK_FROM_BYTES or not self._may_link:
            return file
        twin = done.adopted.get((file.recipe.blob, file.executable))
        loose = copies.of(file)
        stamp = None
        if twin is not None or loose:
            temporary = self._session.new_path()
            if twin is None:
                stamp = loose_files.link(self._workspace, loose, temporary, noted=self._noted)
            elif files.try_link(twin, temporary):
                stamp = FileStamp.of(os.lstat(temporary))
        if stamp is None:
            return self._adopt(file, [], done, is_wanted=copies.is_stale(file))
        linked = os.lstat(temporary)
        self._check_file(file)
        put(temporary, file.disk_path, self._ground.known)
        file = file._replace(stamp=stamp, is_linked=True, is_racy=False)
        return self._with_link(file, check_linked(file.disk_path, linked, file.disk_path))

    def _adopt(
        self, file: StagedFile, chunks: Sequence[NewChunk], done: _Try, *, is_wanted: bool = False
    ) -> StagedFile:
        """Hardlink a staged file in as a loose file, the container of the given chunks; no byte is copied.

        A loose file that is no chunk's container is made if it costs nothing, or if `is_wanted`.
        """
        file_id = self._session.new_file_id()
        loose = self._workspace.layout.loose_file(file.recipe.blob, file_id)
        done.paths.append(loose)
        self._check_file(file)
        linked = link(file.disk_path, loose, file.seen) if self._may_link else None
        if linked is not None:
            file = self._with_link(file, linked)
        elif not (chunks or is_wanted):
            return file  # its bytes are in the store; without links a second copy is of no use
        else:
            file, linked = self._copy_in(file, loose)
        synced = bool(chunks) and self._request.durable
        stamp = FileStamp.of(linked)
        done.containers.append(
            NewContainer(
                file_id, Kind.LOOSE, file.recipe.blob, file.executable, file.recipe.size, synced, stamp, chunks
            )
        )
        done.adopted[file.recipe.blob, file.executable] = loose
        return file

    def _copy_in(self, file: StagedFile, loose: str) -> tuple[StagedFile, os.stat_result]:
        """Copy a staged file to a loose file; returns the staged file's new state, and the copy's status."""
        opened, before = open_as_found(file.disk_path, is_direct=True)
        with opened as descriptor, files.create_file(loose) as copy:
            files.copy_file(descriptor, copy)
            files.set_mode(copy, self._workspace.file_mode(file.executable))
            copied = os.fstat(copy)
        self._check_file(file)
        file = self._with_link(file, check_linked(file.disk_path, before, file.disk_path))
        self._noted[Fingerprint.of(copied)] = file.recipe.blob
        return file, copied

    def _check_file(self, file: StagedFile) -> None:
        """Check that a staged file is as it was hashed, before it is linked or replaced. Raises FileChanged."""
        if file.seen is not None:
            check_still(file.disk_path, file.seen, file.recipe.blob, self._noted, is_shared=file.is_linked)

    def _with_link(self, file: StagedFile, status: os.stat_result) -> StagedFile:
        """The file with the status that it has after casstore itself has linked it."""
        self._noted[Fingerprint.of(status)] = file.recipe.blob
        return file if file.seen is None else file._replace(seen=status)
