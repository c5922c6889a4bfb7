"""Second half of a save: staged files become objects, and one transaction makes the version appear."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from casstore.actions.describing import descriptor, model_yaml
from casstore.actions.directories.leavings import make_way
from casstore.actions.directories.placing import check_replaceable, directory_row, publish, settle
from casstore.actions.packs.bases import tensor_files
from casstore.actions.packs.durability import bring_to_disk
from casstore.actions.packs.freshness import Freshness
from casstore.actions.saving import comparing
from casstore.actions.saving.packing import SavePacker
from casstore.actions.saving.staging import StagedFile, Staging
from casstore.actions.saving.trust import Trust, is_untrusted, objects_of
from casstore.actions.saving.unchanged import (
    check_directories,
    check_linked,
    check_still,
    is_untouched,
    link,
    open_as_found,
    put,
)
from casstore.actions.sources.homes import check_holds_none, check_source
from casstore.actions.sources.ignoring import Rules
from casstore.actions.sources.source import (
    Source,
    SourceFile,
    check_as_found,
    check_removable,
    find_source,
    remove_source,
)
from casstore.actions.workspace import LINK_FROM_BYTES, Workspace
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.catalog.versions import ChunkVanished, Commit, DirectoryRow, NewChunk, NewContainer, Place
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, TagExists
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.container import Container, FileStamp, Kind
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Base, FileEntry, Manifest
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.tag import Tag

# Below this a file's chunks go into a pack: a file of its own would cost an inode and an fsync.
SMALL_FILE_BYTES = 1 << 20
# A larger file joins a pack when less than this share of its bytes is new; above, adopting it writes nothing.
MOSTLY_KNOWN_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What the caller asks to be saved. `durable`: it must survive a power cut once saved. `materialize`: its
    directory is to stand at once; otherwise all that is new goes encoded into packs. `created_at_ns`: when it was made,
    if not now; it takes its place among the versions of its name by that. `trust`: whether its Python objects may be
    unpickled unasked. `said_context`: where the very same version may be saved already, what the caller says of the
    context, of which the rest tells nothing; `is_base_said`: whether the caller says the base, too."""

    tag: Tag
    description: Mapping[str, Any]
    base: Base | None
    durable: bool
    materialize: bool
    casstore_version: str
    created_at_ns: int | None = None
    trust: Trust = Trust.AS_KNOWN
    said_context: Mapping[str, Any] | None = None
    is_base_said: bool = False


class Saved(NamedTuple):
    """What came of a save: how many bytes the store had not, and the files that `take` could not take away."""

    new_bytes: int
    left_behind: tuple[str, ...]


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
    rules: Rules | None = None,
) -> Saved:  # fmt: skip
    """Save what is below `source_root` through the directory `draft`.

    `take`: the source files may be adopted, and are gone from `source_root` afterwards. `found`: what is there, all of
    which must still be the same at the commit, and not be open for writing; if it then stands where the version's
    directory is to be, and `take` is set, it becomes that directory, file by file, and is never away. `rules`: what of
    a directory to leave out.
    On any exception nothing is visible and the sources are as they were.
    Raises TagExists, InvalidSource, FileChanged, OSError ...
    """
    is_standing = found is not None and take and new.materialize and source_root == workspace.layout.model(new.tag)
    in_place = source_root == draft
    if not in_place:
        # What becomes the version's directory where it stands is not taken away.
        check_source(workspace.layout, source_root, take=take and not is_standing)
    source = find_source(source_root, rules) if found is None else found
    if not in_place:
        check_holds_none(source_root, (file.path for file in source.files))
        if take and not is_standing:
            check_removable(source)
    if source.descriptor is not None and new.created_at_ns is None:  # else it has been read, and is kept
        model_yaml.check_replaceable(source.descriptor)
    if not allow_empty and not source.files and rules is not None and rules.left_out:
        raise InvalidSource(
            f"nothing is left of {source_root} without {rules}; give other patterns, or --no-ignore "
            "(in Python: ignore=False)"
        )
    if not allow_empty and not source.files:
        raise InvalidSource(
            f"{source_root} holds no files; check the path, or ask for an empty version with --allow-empty "
            "(in Python: allow_empty=True)"
        )
    if custom_objects is not None:
        _add_custom_objects(source, custom_objects, session)
    if _is_same_version(workspace, source, new):
        return Saved(0, tuple(remove_source(source)) if take and not in_place else ())
    if in_place and source.links and new.materialize:
        # Links become files of their own in a fresh draft, which the files that stand here move to.
        draft = session.new_path()
        files.make_directory(draft)
    staging = Staging(workspace, session, draft, take, new.materialize, progress, only_closed=found is not None)
    work = _Save(workspace, session, draft, new, found, progress, is_standing=is_standing)
    try:
        work.run(source, staging.stage(source), staging)
    except BaseException as error:
        if not work.is_committed:
            staging.undo()
        # Somebody may have been faster.
        if not isinstance(error, TagExists) or not _is_same_version(workspace, source, new):
            raise
    is_taken = take and not in_place and not is_standing
    return Saved(work.new_bytes, tuple(remove_source(source)) if is_taken else ())


def _is_same_version(workspace: Workspace, source: Source, new: NewVersion) -> bool:
    """Whether the version is saved already, where that is fine. Raises TagExists where another has its tag."""
    row = None if new.said_context is None else workspace.catalog.versions.find(new.tag)
    if row is None:
        return False
    context = {**row.described()["context"], **(new.said_context or {})}
    described = model_yaml.Descriptor(new.tag, {**new.description, "context": context}, row.created_at_ns)
    difference = comparing.difference(workspace, row, source, described)
    if difference is None and new.is_base_said and new.base is not None:
        difference = comparing.difference_of_base(row, new.base)
    if difference is not None:
        raise TagExists(
            f"another {new.tag} is saved already ({difference}), and saved versions never change; choose another "
            "version"
        )
    return True


def commit_stored(workspace: Workspace, session: Session, manifest: Manifest, *, durable: bool, trust: Trust) -> int:
    """Save a version whose chunks are all stored already; returns its row id. It gets no directory.

    Raises ChunkVanished when a chunk is not there, TagExists, OSError.
    """
    new = NewVersion(
        manifest.tag, manifest.description, manifest.base, durable, False, manifest.casstore_version,
        created_at_ns=manifest.created_at_ns, trust=trust,
    )  # fmt: skip
    recipes = {file.digest: manifest.recipe_of(file) for file in manifest.files}
    manifest = replace(manifest, description=_marked(workspace, new, manifest.files, None))
    work = _Save(workspace, session, session.path, new, None, SILENT)
    return work.commit(manifest, recipes, [], workspace.catalog.index.gc_epoch(), {})


def _marked(workspace: Workspace, new: NewVersion, entries: Sequence[FileEntry], source: Path | None) -> dict[str, Any]:
    """The description of a new version, with the mark of Python objects that are not trusted where it needs one."""
    description = {key: value for key, value in new.description.items() if key != "untrusted"}
    objects = objects_of(entries)
    if objects is None or new.trust in (Trust.GIVEN, Trust.MADE_NOW):
        return description
    if new.trust is Trust.NONE or is_untrusted(workspace, objects, source):
        description["untrusted"] = True
    return description


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
        # Of a draft that the caller knows: the directories in it, and those of them that the version has.
        self._known: frozenset[tuple[int, int]] | None = None
        self._paths: list[str] = []
        self._rendered: os.stat_result | None = None
        self.is_committed = False
        self.new_bytes = 0

    def run(self, source: Source, staged: list[StagedFile], staging: Staging) -> int:
        self._fingerprints = staging.fingerprints
        if source.root == self._draft:
            self._known = source.directories
            # What a link in the draft leads to is read from there, and nothing of it stays in the draft.
            direct = (file.path for file in source.files if file.is_direct)
            self._paths = [*direct, *(f"{path}/" for path in source.empty_directories if not source.links)]
        recipes = self._catalog.index.as_known({file.recipe.blob: file.recipe for file in staged})
        for file in staged:
            file.recipe = recipes[file.recipe.blob]
        entries = tuple(FileEntry(f.path, f.executable, f.recipe.size, f.recipe.blob) for f in staged)
        manifest = Manifest(
            tag=self._new.tag,
            created_at_ns=time.time_ns() if self._new.created_at_ns is None else self._new.created_at_ns,
            files=entries,
            directories=tuple(source.empty_directories),
            recipes={digest: recipe for digest, recipe in recipes.items() if recipe.is_stored},
            description=_marked(self._workspace, self._new, entries, source.root),
            base=self._new.base,
            casstore_version=self._new.casstore_version,
        )
        if self._new.materialize:
            self._write_descriptor(manifest)
        epoch, homes = staging.gc_epoch, staging.homes
        while True:
            try:
                return self.commit(manifest, recipes, staged, epoch, homes)
            except ChunkVanished:
                epoch, homes = self._catalog.index.gc_epoch(), {}

    def _write_descriptor(self, manifest: Manifest) -> None:
        temporary = self._session.new_path()
        mode = self._workspace.file_mode(executable=False)
        files.write_new_file(temporary, model_yaml.render(manifest), mode)
        self._rendered = os.lstat(temporary)
        put(temporary, f"{self._draft}/{DESCRIPTOR_NAME}", self._known)

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
            self.new_bytes = sum(chunk.raw_bytes for chunk in brought)
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
                directory=self._directory_row(staged, manifest.directories),
                fingerprints=self._fingerprints,
                place=Place.LAST if self._new.created_at_ns is None else Place.BY_CREATION,
                untrusted=objects_of(manifest.files) if manifest.description.get("untrusted") else None,
                trusted=objects_of(manifest.files) if self._new.trust is Trust.GIVEN else None,
            )
            lock = self._workspace.name_lock(manifest.tag.name)
        except BaseException:
            _remove(stored.paths)
            raise
        with lock:
            try:
                self._clear_the_way()
                self._check_still(staged)
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

    def _directory_row(self, staged: list[StagedFile], empty: Sequence[str]) -> DirectoryRow | None:
        if not self._new.materialize:
            return None
        stamps = {file.path: file.stamp for file in staged}
        self._check_places([])
        return directory_row(self._workspace, self._draft, stamps, empty, stands_as=self._standing)

    def _check_still(self, staged: list[StagedFile]) -> None:
        """See that what others may have reached meanwhile is what was hashed. Raises FileChanged, InvalidSource."""
        for file in staged:
            if file.seen is not None and (file.is_racy or not is_untouched(file.location, file.seen)):
                check_still(
                    file.location, file.seen, file.recipe.blob, self._fingerprints,
                    is_racy=file.is_racy, is_shared=file.is_linked,
                )  # fmt: skip
        self._check_places(self._paths)

    def _check_places(self, paths: Sequence[str]) -> None:
        """See that a draft that the caller knows has the directories above these paths, and the `model.yaml`, still."""
        if self._known is not None:
            check_directories(str(self._draft), paths, self._known)
            if self._rendered is not None:
                path = f"{self._draft}/{DESCRIPTOR_NAME}"
                check_linked(path, self._rendered, path)

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
                make_way(self._workspace, self._session, tag, manifest_id)
                return

    def _store(
        self, staged: list[StagedFile], relied_on: set[Digest], homes: Mapping[Digest, int], stored: _Stored
    ) -> None:
        """Put every new chunk into one container, and give every file a loose file to be linked to."""
        homes = {**homes, **self._catalog.index.usable_homes(relied_on - homes.keys())}
        freshness = Freshness.of(self._workspace)
        stale = freshness.stale(set(homes.values()))
        bare = self._bare(staged, homes, stale)
        stored.lost_homes, stored.lost_chunks = find_lost(self._workspace, homes, self._fingerprints, bare)
        have = homes.keys() - stored.lost_chunks
        unlinked = {f.recipe.blob for f in staged if not f.is_linked and f.recipe.size >= LINK_FROM_BYTES}
        loose = self._catalog.index.loose_files(unlinked)
        packs = SavePacker(
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
                new_bytes = sum(chunk.length for chunk in new.values()) if new else 0
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
                    candidates = loose.get(key, [])
                    is_stale = bool(stale) and any(homes.get(digest) in stale for digest in file.recipe.digests)
                    if is_stale:  # a copy that has been read lately is as good as the file's own bytes
                        candidates = [each for each in candidates if freshness.is_fresh(each.read_at_ns)]
                    self._share(file, candidates, adopted, stored, is_stale=is_stale)
                have.update(new)  # |= would copy the set
            packs.finish()
            if not have.issuperset(relied_on):
                raise ChunkVanished
        except BaseException:
            packs.abort()
            raise
        finally:
            self._progress.finish()

    def _bare(self, staged: list[StagedFile], homes: Mapping[Digest, int], stale: set[int]) -> set[Digest]:
        """The chunks in stale homes of files that the store keeps no copy of: what is there must be read."""
        if not stale:
            return set()
        keeps_copies = self._new.materialize and self._may_link
        return {
            digest
            for file in staged
            if not (file.is_linked or (keeps_copies and file.recipe.size >= LINK_FROM_BYTES))
            for digest in file.recipe.digests
            if homes.get(digest) in stale
        }

    def _base_files(self) -> list[tuple[str, Recipe]]:
        """The files of the version that this one came from; none when it has been deleted."""
        base = self._new.base
        row = None if base is None else self._catalog.versions.find(base.tag)
        return [] if row is None else tensor_files(self._workspace, row)

    def _share(
        self, file: StagedFile, loose: list[LooseFile], adopted: dict[tuple[Digest, bool], str], stored: _Stored, *,
        is_stale: bool,
    ) -> None:  # fmt: skip
        """A file whose chunks have homes elsewhere: link it to the blob's loose file, or make it that.

        `is_stale`: nobody has read these homes for long, so its own bytes are kept.
        """
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
            self._adopt(file, [], adopted, stored, is_wanted=is_stale)
            return
        linked = os.lstat(temporary)
        self._check_file(file)
        put(temporary, file.location, self._known)
        file.stamp, file.is_linked, file.is_racy = stamp, True, False
        self._note_linked(file, check_linked(file.location, linked, file.location))

    def _adopt(
        self,
        file: StagedFile,
        homes: Sequence[NewChunk],
        adopted: dict[tuple[Digest, bool], str],
        stored: _Stored,
        *,
        is_wanted: bool = False,
    ) -> None:
        """Hardlink a staged file in as a loose file, the home of the given chunks; no byte is copied.

        One that is the home of none is made where it costs nothing, or `is_wanted`.
        """
        file_id = self._session.new_file_id()
        loose = self._layout.loose_file(file.recipe.blob, file_id)
        standing = file.location
        stored.paths.append(loose)
        self._check_file(file)
        linked = link(standing, loose, file.seen) if self._may_link else None
        if linked is not None:
            self._note_linked(file, linked)
        elif not (homes or is_wanted):
            return  # its bytes are in the store; without links a second copy is of no use
        else:
            linked = self._copy_in(file, loose)
        synced = bool(homes) and self._new.durable
        stamp = FileStamp.of(linked)
        stored.containers.append(
            NewContainer(file_id, Kind.LOOSE, file.recipe.blob, file.executable, file.recipe.size, synced, stamp, homes)
        )
        adopted[file.recipe.blob, file.executable] = loose

    def _copy_in(self, file: StagedFile, loose: str) -> os.stat_result:
        """Make a loose file that is a copy of a staged file; returns its status."""
        opened, before = open_as_found(file.location, is_direct=True)
        with opened as descriptor, files.create_file(loose) as copy:
            files.copy_file(descriptor, copy)
            files.set_mode(copy, self._workspace.file_mode(file.executable))
            copied = os.fstat(copy)
        self._check_file(file)
        self._note_linked(file, check_linked(file.location, before, file.location))
        self._fingerprints[Fingerprint.of(copied)] = file.recipe.blob
        return copied

    def _check_file(self, file: StagedFile) -> None:
        """See that a staged file is as it was hashed, before it is linked or replaced. Raises FileChanged."""
        if file.seen is not None:
            check_still(file.location, file.seen, file.recipe.blob, self._fingerprints, is_shared=file.is_linked)

    def _note_linked(self, file: StagedFile, status: os.stat_result) -> None:
        self._fingerprints[Fingerprint.of(status)] = file.recipe.blob
        if file.seen is not None:
            file.seen = status

    def _sync(self, relied_on: set[Digest], stored: _Stored) -> None:
        """Bring to disk what the version needs and is not there: adopted files, homes saved as relaxed, directories."""
        if not self._new.durable:
            return
        # What this save brings itself may also have an older home that was lost in a power cut: leave that alone.
        brought = {chunk.digest for new in stored.containers for chunk in new.chunks}
        unsynced = self._catalog.index.unsynced_homes(relied_on - brought)
        adopted = [
            self._layout.loose_file(new.digest, new.file_id)
            for new in stored.containers
            if new.synced and new.digest is not None
        ]
        if adopted or unsynced:
            self._progress.start("sync to disk", None)
        try:
            for path in adopted:
                files.sync_file(path)
            stored.synced_homes = bring_to_disk(self._workspace, unsynced)
        finally:
            if adopted or unsynced:
                self._progress.finish()
        directories = {os.path.dirname(path) for path in adopted}
        if any(new.digest is None for new in stored.containers):
            directories.add(str(self._layout.packs))
        for directory in sorted(directories):
            files.sync_directory(directory)


def find_lost(
    workspace: Workspace,
    homes: Mapping[Digest, int],
    noted: Mapping[Fingerprint, Digest],
    doubted: Set[Digest] = frozenset(),
) -> tuple[set[int], set[Digest]]:
    """The containers among these homes whose files are gone, cut short or written to, and the chunks lost with them,
    or among those that are `doubted`, which are read.

    What they held, and what stands on that, has to be stored anew, which mends it. `noted`: what the caller has linked.
    """
    index = workspace.catalog.index
    bases = index.bases_of(homes.keys())
    homes = {**index.usable_homes(bases), **homes}
    containers = index.containers(set(homes.values()))
    lost_homes = {each.id for each, size in containers if not workspace.is_intact(each, size, noted)}
    lost = {digest for digest, home in homes.items() if home in lost_homes} | (bases - homes.keys())
    lost |= _unreadable(workspace, [digest for digest in homes if digest in doubted and digest not in lost])
    if bases and lost:
        links = index.chains(homes.keys()).values()
        while more := {link.digest for link in links if not lost.isdisjoint((link.base, link.grouping))} - lost:
            lost |= more
    return lost_homes, lost


def _unreadable(workspace: Workspace, doubted: Collection[Digest]) -> set[Digest]:
    """Those of the chunks that are damaged where they stand. What is found sound is noted as read."""
    if not doubted:
        return set()
    began_ns = time.time_ns()
    bad = set()
    for digest, future in workspace.objects.read_ahead(doubted):
        try:
            future.result()
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            bad.add(digest)
    workspace.catalog.index.note_read_chunks(set(doubted) - bad, began_ns)
    return bad


def _remove(paths: Iterable[files.StrPath]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            files.remove_file(path)
