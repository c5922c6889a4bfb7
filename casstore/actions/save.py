"""Second half of a save: staged files become objects, and one transaction makes the version appear."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casstore.actions import descriptor, model_yaml
from casstore.actions.bases import tensor_files
from casstore.actions.leavings import take_away
from casstore.actions.packing import Packing
from casstore.actions.placing import check_replaceable, directory_row, publish, settle
from casstore.actions.source import Source, SourceFile, check_as_found, find_source, remove_source
from casstore.actions.staging import StagedFile, Staging
from casstore.actions.workspace import LINK_FROM_BYTES, Workspace
from casstore.catalog.index import Fingerprint
from casstore.catalog.sessions import Session
from casstore.catalog.versions import ChunkVanished, Commit, DirectoryRow, NewChunk, NewContainer, Place
from casstore.digest import Digest
from casstore.errors import InvalidSource, TagExists
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.container import Container, FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME, Layout
from casstore.storage.manifest import Base, FileEntry, Manifest
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

# Below this a file's chunks go into a pack: a file of its own would cost an inode and an fsync.
SMALL_FILE_BYTES = 1 << 20
# A larger file joins a pack when less than this share of its bytes is new; above, adopting it writes nothing.
MOSTLY_KNOWN_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What the caller asks to be saved. `durable`: it must survive a power cut once saved. `materialize`: its
    directory is to stand at once; otherwise all that is new goes encoded into packs. `created_at_ns`: when it was made,
    if not now; it takes its place among the versions of its name by that."""

    tag: Tag
    description: Mapping[str, Any]
    base: Base | None
    durable: bool
    materialize: bool
    casstore_version: str
    created_at_ns: int | None = None


@dataclass(slots=True)
class _Stored:
    """What one attempt has written: containers to be committed, and files to be removed if it fails."""

    containers: list[NewContainer] = field(default_factory=list)
    synced_homes: list[Container] = field(default_factory=list)
    lost_homes: set[int] = field(default_factory=set)
    lost_chunks: set[Digest] = field(default_factory=set)
    paths: list[files.StrPath] = field(default_factory=list)


def save(
    workspace: Workspace, session: Session, draft: Path, source_root: Path, new: NewVersion, *, take: bool,
    allow_empty: bool, custom_objects: bytes | None, progress: Progress, found: Source | None = None,
) -> int:  # fmt: skip
    """Save what is below `source_root` through the directory `draft`; returns the version's row id.

    `take`: the source files may be adopted, and are gone from `source_root` afterwards. `found`: what is there, all of
    which must still be the same at the commit, and not be open for writing; if it then stands where the version's
    directory is to be, and `take` is set, it becomes that directory, file by file, and is never away.
    On any exception nothing is visible and the sources are as they were.
    Raises TagExists, InvalidSource, FileChanged, OSError ...
    """
    _check_apart(workspace.layout, source_root)
    source = find_source(source_root) if found is None else found
    if source.descriptor is not None:
        model_yaml.check_replaceable(source.descriptor)
    if not allow_empty and not source.files:
        raise InvalidSource(
            f"{source_root} holds no files; check the path, or ask for an empty version with --allow-empty "
            "(in Python: allow_empty=True)"
        )
    if custom_objects is not None:
        _add_custom_objects(source, custom_objects, session)
    in_place = source_root == draft
    if in_place and source.links and new.materialize:
        # Links become files of their own in a fresh draft, which the files that stand here move to.
        draft = session.new_path()
        files.make_directory(draft)
    staging = Staging(workspace, session, draft, take, new.materialize, progress, only_closed=found is not None)
    is_standing = found is not None and take and new.materialize and source.root == workspace.layout.model(new.tag)
    work = _Save(workspace, session, draft, new, found, progress, is_standing=is_standing)
    try:
        version_id = work.run(source, staging.stage(source), staging)
    except BaseException:
        if not work.is_committed:
            staging.undo()
        raise
    if take and not in_place and not is_standing:
        remove_source(source)
    return version_id


def commit_stored(workspace: Workspace, session: Session, manifest: Manifest, *, durable: bool) -> int:
    """Save a version whose chunks are all stored already; returns its row id. It gets no directory.

    Raises ChunkVanished when a chunk is not there, TagExists, OSError.
    """
    new = NewVersion(
        manifest.tag, manifest.description, manifest.base, durable, False, manifest.casstore_version,
        created_at_ns=manifest.created_at_ns,
    )  # fmt: skip
    recipes = {file.digest: manifest.recipe_of(file) for file in manifest.files}
    work = _Save(workspace, session, session.path, new, None, SILENT)
    return work.commit(manifest, recipes, [], workspace.catalog.index.gc_epoch(), {})


def _check_apart(layout: Layout, source_root: Path) -> None:
    """Refuse a source that holds the store or is a working part of it: saving would change it, moving destroy it."""
    home, source = Path(os.path.realpath(layout.home)), Path(os.path.realpath(source_root))
    is_part = home in source.parents and source.relative_to(home).parts[0] not in (
        layout.models.name,
        layout.sessions.name,
    )
    if is_part or source == home or source in home.parents:
        raise InvalidSource(f"{source_root} holds the store {layout.home}, or a part of it; save another directory")


def _add_custom_objects(source: Source, pickled: bytes, session: Session) -> None:
    name = descriptor.CUSTOM_OBJECTS_NAME
    if any(file.path == name for file in source.files):
        raise InvalidSource(f"{source.root} holds a {name} already; give custom_objects or the file, not both")
    location = session.new_path()
    files.write_new_file(location, pickled, 0o600)
    source.files.append(SourceFile(name, str(location), os.stat(location), is_direct=True))
    source.files.sort(key=lambda file: file.path)


class _Save:
    def __init__(
        self, workspace: Workspace, session: Session, draft: Path, new: NewVersion, found: Source | None,
        progress: Progress, *, is_standing: bool = False,
    ) -> None:  # fmt: skip
        self._workspace = workspace
        self._catalog = workspace.catalog
        self._layout = workspace.layout
        self._session = session
        self._draft = draft
        self._new = new
        self._found = found
        self._standing = found if is_standing else None
        self._progress = progress
        self._may_link = workspace.may_link()
        self._fingerprints: dict[Fingerprint, Digest] = {}
        self.is_committed = False

    def run(self, source: Source, staged: list[StagedFile], staging: Staging) -> int:
        self._fingerprints = staging.fingerprints
        recipes = self._catalog.index.as_known({file.recipe.blob: file.recipe for file in staged})
        for file in staged:
            file.recipe = recipes[file.recipe.blob]
        manifest = Manifest(
            tag=self._new.tag,
            created_at_ns=time.time_ns() if self._new.created_at_ns is None else self._new.created_at_ns,
            files=tuple(FileEntry(f.path, f.executable, f.recipe.size, f.recipe.blob) for f in staged),
            directories=tuple(source.empty_directories),
            recipes={digest: recipe for digest, recipe in recipes.items() if recipe.is_stored},
            description=self._new.description,
            base=self._new.base,
            casstore_version=self._new.casstore_version,
        )
        if self._new.materialize:
            rendered = self._draft / DESCRIPTOR_NAME
            mode = self._workspace.file_mode(executable=False)
            files.write_file(rendered, model_yaml.render(manifest), mode, temporary=self._session.new_path())
        epoch, homes = staging.gc_epoch, staging.homes
        while True:
            try:
                return self.commit(manifest, recipes, staged, epoch, homes)
            except ChunkVanished:
                epoch, homes = self._catalog.index.gc_epoch(), {}

    def commit(
        self,
        manifest: Manifest,
        recipes: Mapping[Digest, Recipe],
        staged: list[StagedFile],
        epoch: int,
        homes: Mapping[Digest, int],
    ) -> int:
        """One try. `homes` were found since `epoch`; what is not among them is looked up now."""
        relied_on = {digest for recipe in recipes.values() for digest in recipe.digests}
        manifest_id = self._session.new_file_id()
        stored = _Stored()
        try:
            self._store(staged, relied_on, homes, stored)
            brought = [chunk for new in stored.containers for chunk in new.chunks]
            relied_on |= {base for chunk in brought for base in (chunk.base, chunk.grouping) if base is not None}
            relied_on |= self._catalog.index.bases_of(relied_on - {chunk.digest for chunk in brought})
            self._sync(relied_on, stored)
            pending = self._layout.pending_manifest(manifest_id)
            stored.paths.append(pending)
            mode = self._workspace.file_mode(executable=False)
            temporary = self._session.new_path()
            files.write_file(pending, manifest.pack(), mode, temporary=temporary, durable=self._new.durable)
            commit = Commit(
                manifest=manifest,
                manifest_id=manifest_id,
                containers=stored.containers,
                recipes=manifest.recipes,
                relied_on=relied_on,
                gc_epoch=epoch,
                durable=self._new.durable,
                synced_homes=stored.synced_homes,
                lost_homes=stored.lost_homes,
                lost_chunks=stored.lost_chunks,
                directory=self._directory_row(staged),
                fingerprints=self._fingerprints,
                place=Place.LAST if self._new.created_at_ns is None else Place.BY_CREATION,
            )
            lock = self._workspace.name_lock(manifest.tag.name)
        except BaseException:
            _remove(stored.paths)
            raise
        with lock:
            try:
                self._clear_the_way()
                version_id = self._catalog.versions.commit(commit)
                self.is_committed = True
            except BaseException as error:
                # Ctrl-C may come after the transaction went through and before the call returned.
                row = self._catalog.versions.find(self._new.tag)
                self.is_committed = row is not None and row.manifest_id == manifest_id
                # What stands in SQLite's log after a failed fsync of it comes back when the log is recovered, so its
                # files stay (for gc, in case it does not) unless that has been written over.
                is_unsure = isinstance(error, OSError) and error.errno == errno.EIO
                if not self.is_committed and (not is_unsure or self._catalog.write_over_failed()):
                    _remove(stored.paths)
                raise
            # From here on the version is saved. What fails now, the next get or gc finishes.
            with contextlib.suppress(OSError):
                draft = self._draft if self._new.materialize else None
                if self._standing is not None:
                    settle(self._workspace, manifest.tag, self._draft, self._standing)
                    draft = None
                publish(self._workspace, manifest.tag, manifest_id, draft)
        return version_id

    def _directory_row(self, staged: list[StagedFile]) -> DirectoryRow | None:
        if not self._new.materialize:
            return None
        stamps = {file.path: file.stamp for file in staged}
        return directory_row(self._workspace, self._draft, stamps, stands_as=self._standing)

    def _clear_the_way(self) -> None:
        """Refuse a directory that is not ours where the version would stand; take away what a deletion left."""
        target = self._layout.model(self._new.tag)
        if self._found is not None:
            check_as_found(self._found)
        if self._standing is not None:
            check_replaceable(self._standing)
            if self._new.durable:  # so that its absence, later, means that somebody has removed it
                files.sync_directory(target.parent)
                files.sync_directory(self._layout.models)
            return
        try:
            status = os.lstat(target)
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise TagExists(
                f"{target.parent} is in the way and was not made by casstore; move it away or choose another name"
            ) from error
        if self._catalog.versions.find(self._new.tag) is not None:
            return  # the commit says so
        if not self._catalog.versions.is_deleted_directory(self._new.tag, status.st_ino):
            raise TagExists(
                f"{target} is in the way and was not made by casstore; move it away or choose another version"
            )
        for manifest_id, tag in self._catalog.versions.tombstones():
            if tag == self._new.tag:
                take_away(self._workspace, self._session, tag, manifest_id)
                return

    def _store(
        self, staged: list[StagedFile], relied_on: set[Digest], homes: Mapping[Digest, int], stored: _Stored
    ) -> None:
        """Put every new chunk into one container, and give every file a loose file to be linked to."""
        homes = {**homes, **self._catalog.index.usable_homes(relied_on - homes.keys())}
        stored.lost_homes, stored.lost_chunks = find_lost(self._workspace, homes, self._fingerprints)
        have = homes.keys() - stored.lost_chunks
        unlinked = {f.recipe.blob for f in staged if not f.is_linked and f.recipe.size >= LINK_FROM_BYTES}
        loose = self._catalog.index.loose_files(unlinked)
        packs = Packing(
            self._workspace, self._session, self._new.durable, stored.paths, stored.containers, self._base_files,
            unstored=relied_on - have,
        )  # fmt: skip
        adopted: dict[tuple[Digest, bool], str] = {}
        self._progress.start("store", sum(f.recipe.size for f in staged))
        try:
            for file in staged:
                key = (file.recipe.blob, file.executable)
                is_known = have.issuperset(file.recipe.digests)
                new = {} if is_known else {c.digest: c for c in file.recipe.chunks() if c.digest not in have}
                new_bytes = sum(chunk.length for chunk in new.values())
                into_pack = bool(new) and (
                    not self._new.materialize
                    or file.recipe.size < SMALL_FILE_BYTES
                    or new_bytes < file.recipe.size * MOSTLY_KNOWN_SHARE
                )
                if into_pack:
                    packs.add(file, set(new), self._progress.advance)
                else:
                    self._progress.advance(file.recipe.size)
                if new and not into_pack:
                    rows = [NewChunk(c.digest, c.offset, c.length, c.length) for c in new.values()]
                    self._adopt(file, rows, adopted, stored)
                elif file.recipe.size and self._new.materialize:
                    self._share(file, loose.get(key, []), adopted, stored)
                have.update(new)  # |= would copy the set
            packs.finish()
            if not have.issuperset(relied_on):
                raise ChunkVanished
        except BaseException:
            packs.abort()
            raise
        finally:
            self._progress.finish()

    def _base_files(self) -> list[tuple[str, Recipe]]:
        """The files of the version that this one came from; none when it has been deleted."""
        base = self._new.base
        row = None if base is None else self._catalog.versions.find(base.tag)
        return [] if row is None else tensor_files(self._workspace, row)

    def _share(
        self, file: StagedFile, loose: list[Any], adopted: dict[tuple[Digest, bool], str], stored: _Stored
    ) -> None:
        """A file whose chunks have homes elsewhere: link it to the blob's loose file, or make it that."""
        if file.is_linked or file.recipe.size < LINK_FROM_BYTES or not self._may_link:
            return
        twin = adopted.get((file.recipe.blob, file.executable))
        stamp = None
        if twin is not None or loose:
            temporary = self._session.new_path()
            if twin is None:
                stamp = self._workspace.link_loose(loose, temporary, noted=self._fingerprints)
            elif files.try_link(twin, temporary):
                stamp = FileStamp.of(os.lstat(temporary))
        if stamp is None:
            self._adopt(file, [], adopted, stored)
            return
        files.rename(temporary, file.location)
        file.stamp, file.is_linked = stamp, True
        self._note_linked(file)

    def _adopt(
        self,
        file: StagedFile,
        homes: Sequence[NewChunk],
        adopted: dict[tuple[Digest, bool], str],
        stored: _Stored,
    ) -> None:
        """Hardlink a staged file in as a loose file, the home of the given chunks; no byte is copied."""
        file_id = self._session.new_file_id()
        loose = self._layout.loose_file(file.recipe.blob, file_id)
        standing = file.location
        stored.paths.append(loose)
        if not (self._may_link and files.try_link(standing, loose)):
            if not homes:
                return  # its bytes are in the store; without links a second copy is of no use
            files.rename(standing, loose)
            with open(loose, "rb") as original, files.create_file(standing) as copy:
                files.copy_file(original.fileno(), copy)
                files.set_mode(copy, self._workspace.file_mode(file.executable))
            stamp, file.stamp = file.stamp, FileStamp.of(os.lstat(standing))
        else:
            stamp = file.stamp
        synced = bool(homes) and self._new.durable
        stored.containers.append(
            NewContainer(file_id, file.recipe.blob, file.executable, file.recipe.size, synced, stamp, homes)
        )
        adopted[file.recipe.blob, file.executable] = loose
        self._note_linked(file)

    def _note_linked(self, file: StagedFile) -> None:
        self._fingerprints[Fingerprint.of(os.lstat(file.location))] = file.recipe.blob

    def _sync(self, relied_on: set[Digest], stored: _Stored) -> None:
        """Bring to disk what the version needs and is not there: adopted files, homes saved as relaxed, directories."""
        if not self._new.durable:
            return
        # What this save brings itself may also have an older home that was lost in a power cut: leave that alone.
        brought = {chunk.digest for new in stored.containers for chunk in new.chunks}
        stored.synced_homes = self._catalog.index.unsynced_homes(relied_on - brought)
        adopted = [
            self._layout.loose_file(new.digest, new.file_id)
            for new in stored.containers
            if new.synced and new.digest is not None
        ]
        homes = [home.path(self._layout) for home in stored.synced_homes]
        for path in adopted:
            files.sync_file(path)
        for home, path in zip(stored.synced_homes, homes, strict=True):
            try:
                files.sync_file(path)
            except FileNotFoundError:
                pass  # gc took it: the commit will find its chunks gone
            except OSError:
                # A later fsync would succeed and prove nothing.
                self._catalog.index.distrust(home)
                raise
        directories = {os.path.dirname(path) for path in [*adopted, *homes]}
        if any(new.digest is None for new in stored.containers):
            directories.add(str(self._layout.packs))
        for directory in sorted(directories):
            files.sync_directory(directory)


def find_lost(
    workspace: Workspace, homes: Mapping[Digest, int], noted: Mapping[Fingerprint, Digest]
) -> tuple[set[int], set[Digest]]:
    """The containers among these homes whose files are gone, cut short or written to, and the chunks lost with them.

    What they held, and what stands on that, has to be stored anew, which mends it. `noted`: what the caller has linked.
    """
    index = workspace.catalog.index
    bases = index.bases_of(homes.keys())
    homes = {**index.usable_homes(bases), **homes}
    containers = index.containers(set(homes.values()))
    lost_homes = {each.id for each, size in containers if not workspace.is_intact(each, size, noted)}
    lost = {digest for digest, home in homes.items() if home in lost_homes} | (bases - homes.keys())
    if bases and lost:
        links = index.chains(homes.keys()).values()
        while more := {link.digest for link in links if not lost.isdisjoint((link.base, link.grouping))} - lost:
            lost |= more
    return lost_homes, lost


def _remove(paths: Iterable[files.StrPath]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            files.remove_file(path)
