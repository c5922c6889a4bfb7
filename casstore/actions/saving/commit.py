"""The end of every save: what has been stored becomes a version in one transaction, or is removed again.

stored -> written (on disk, with its manifest) -> committed -> published (under its final names).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace
from enum import Enum, auto
from pathlib import Path

from casstore.actions.directories.leavings import make_way
from casstore.actions.directories.placing import check_replaceable, publish, settle
from casstore.actions.packs.durability import bring_to_disk
from casstore.actions.saving.needed import Needed
from casstore.actions.saving.trust import Trust, marked, objects_of
from casstore.actions.sources.source import Source, check_as_found
from casstore.actions.workspace import Workspace
from casstore.catalog.commits import Commit, Place
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.events import Noted
from casstore.catalog.index import Fingerprint
from casstore.catalog.versions import DirectoryRow, NewContainer
from casstore.digest import Digest
from casstore.errors import TagExists
from casstore.late_classes import dataclass
from casstore.progress import SILENT, Progress
from casstore.storage import annotation_log, files
from casstore.storage.annotation_log import Subject
from casstore.storage.container import Container, Kind
from casstore.storage.manifest import Manifest
from casstore.storage.sessions import Session
from casstore.storage.write_back import WriteBack
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class Terms:
    """How a version is to be committed. `durable`: once committed it must survive a power cut. `trust`: what the caller
    says of its Python objects. `place`: its place among the versions of its name. `event`: what is noted of it."""

    durable: bool
    trust: Trust
    place: Place
    event: Noted


@dataclass(frozen=True, slots=True)
class Stored:
    """A version whose chunks are all in the store, where `needed` was found or in the new `containers`.

    `paths`: the new files, which are removed if the version is not committed. `directory`: what stands in the draft.
    `fingerprints`: those of files whose content has become known.
    """

    manifest: Manifest
    needed: Needed
    containers: Sequence[NewContainer] = ()
    paths: Sequence[files.StrPath] = ()
    directory: DirectoryRow | None = None
    fingerprints: Mapping[Fingerprint, Digest] = field(default_factory=dict)

    @property
    def new_bytes(self) -> int:
        """How many bytes are new to the store, before compression."""
        return sum(chunk.raw_bytes for new in self.containers for chunk in new.chunks)


@dataclass(frozen=True, slots=True)
class Written:
    """A version whose files and manifest are on disk as far as required. `paths`: the new files, as in `Stored`."""

    commit: Commit
    paths: Sequence[files.StrPath]


@dataclass(frozen=True, slots=True)
class Target:
    """The directory that a version is to have. `draft`: what becomes it; None if it is to have none yet. `watched`: the
    files that have been saved, if they must still be as found. `standing`: the files of a directory that already stands
    in the version's place and becomes its directory."""

    tag: Tag
    draft: Path | None = None
    watched: Source | None = None
    standing: Source | None = None


class Outcome(Enum):
    """The outcome of the transaction that makes a version visible."""

    NOT = auto()
    COMMITTED = auto()
    UNSURE = auto()  # the version is not visible, but may be after a crash


def write(
    workspace: Workspace, session: Session, stored: Stored, terms: Terms, progress: Progress,
    write_back: WriteBack | None = None,
) -> Written:  # fmt: skip
    """Bring to disk what a version needs, and write its manifest. Raises OSError; then new files are removed.

    `write_back`: has begun to write the new files.
    """
    relied_on = _relied_on(workspace, stored)
    manifest_id = session.new_file_id()
    paths = (*stored.paths, workspace.layout.pending_manifest(manifest_id))
    try:
        synced = _sync(workspace, stored.containers, relied_on, progress, write_back) if terms.durable else []
        _write_manifest(workspace, session, stored.manifest, manifest_id, durable=terms.durable)
    except BaseException:
        remove(paths)
        raise
    return Written(_commit(stored, terms, manifest_id, relied_on, synced), paths)


def write_together(workspace: Workspace, session: Session, versions: Sequence[tuple[Stored, Terms]]) -> list[Written]:
    """Write several versions that are to be committed together, and then sync what they need at once.

    Their packs have not been synced yet. Raises OSError; then new files are removed.
    """
    written = []
    containers: dict[int, Container] = {}
    paths = [path for stored, _ in versions for path in stored.paths]
    durable: list[files.StrPath] = []
    try:
        for stored, terms in versions:
            relied_on = _relied_on(workspace, stored)
            brought = {chunk.digest for new in stored.containers for chunk in new.chunks}
            manifest_id = session.new_file_id()
            pending = workspace.layout.pending_manifest(manifest_id)
            paths.append(pending)
            _write_manifest(workspace, session, stored.manifest, manifest_id, durable=False)
            if terms.durable:
                durable += [*stored.paths, pending]
                unsynced = workspace.catalog.index.unsynced_containers(relied_on - brought)
                containers |= {each.id: each for each in unsynced}
                stored = replace(stored, containers=[replace(new, synced=True) for new in stored.containers])
            written.append(Written(_commit(stored, terms, manifest_id, relied_on, []), (*stored.paths, pending)))
        synced = bring_to_disk(workspace, containers.values())
        files.sync_files(durable)
        for directory in sorted({os.path.dirname(path) for path in durable}):
            files.sync_directory(directory)
    except BaseException:
        remove(paths)
        raise
    return [replace(each, commit=replace(each.commit, synced_containers=synced)) for each in written]


def _write_manifest(
    workspace: Workspace, session: Session, manifest: Manifest, manifest_id: str, *, durable: bool
) -> None:
    mode = workspace.file_mode(executable=False)
    pending, temporary = workspace.layout.pending_manifest(manifest_id), session.new_path()
    files.write_file(pending, manifest.pack(), mode, temporary=temporary, durable=durable)


def _commit(
    stored: Stored, terms: Terms, manifest_id: str, relied_on: Collection[Digest], synced: Sequence[Container]
) -> Commit:
    manifest, objects = stored.manifest, objects_of(stored.manifest.files)
    return Commit(
        manifest=manifest,
        manifest_id=manifest_id,
        containers=stored.containers,
        recipes=manifest.recipes,
        relied_on=relied_on,
        gc_epoch=stored.needed.gc_epoch,
        durable=terms.durable,
        synced_containers=synced,
        lost_containers=stored.needed.lost_containers,
        lost_chunks=stored.needed.lost_chunks,
        directory=stored.directory,
        fingerprints=stored.fingerprints,
        place=terms.place,
        untrusted=objects if manifest.description.is_untrusted else None,
        trusted=objects if terms.trust is Trust.GIVEN else None,
        event=terms.event,
    )


def _relied_on(workspace: Workspace, stored: Stored) -> set[Digest]:
    """The chunks that must have a container: those of the version, and all that deltas among them need."""
    brought = [chunk for new in stored.containers for chunk in new.chunks]
    relied_on = stored.needed.wanted | {
        base for chunk in brought for base in (chunk.base, chunk.grouping) if base is not None
    }
    relied_on |= workspace.catalog.index.bases_of(relied_on - {chunk.digest for chunk in brought})
    return relied_on


def _sync(
    workspace: Workspace, containers: Collection[NewContainer], relied_on: set[Digest], progress: Progress,
    write_back: WriteBack | None,
) -> list[Container]:  # fmt: skip
    """Bring to disk what the version needs and is not there yet: adopted files, containers saved as relaxed, by their
    names.

    Returns those containers. Raises OSError.
    """
    layout = workspace.layout
    # A chunk that this save brings may also have an older container that was lost in a power cut: leave that alone.
    brought = {chunk.digest for new in containers for chunk in new.chunks}
    unsynced = workspace.catalog.index.unsynced_containers(relied_on - brought)
    adopted = [new.as_container().path(layout) for new in containers if new.synced and new.kind is Kind.LOOSE]
    if adopted or unsynced:
        progress.start("sync to disk", None)
    try:
        for path in adopted:
            files.sync_file(path)
        if write_back is not None:
            write_back.check()
        synced_containers = bring_to_disk(workspace, unsynced)
    finally:
        if adopted or unsynced:
            progress.finish()
    for directory in sorted({os.path.dirname(path) for path in adopted}):
        files.sync_directory(directory)
    return synced_containers


class Committing:
    """Makes one version visible. `outcome` is valid also after `run` has raised."""

    def __init__(self, workspace: Workspace, session: Session, target: Target) -> None:
        self._workspace = workspace
        self._session = session
        self._target = target
        self.outcome = Outcome.NOT

    def run(self, written: Written, last_look: Callable[[], None] = lambda: None) -> None:
        """Commit and publish, unless `last_look` raises. New files are removed if the version is not committed.

        Raises ChunkVanished if gc removed a chunk meanwhile: store it again, then run again. Raises TagExists, OSError.
        """
        try:
            lock = self._workspace.name_lock(self._target.tag.name)
        except BaseException:
            remove(written.paths)
            raise
        with lock:
            try:
                _clear_the_way(self._workspace, self._session, self._target, durable=written.commit.durable)
                last_look()
                self._workspace.catalog.commits.commit(_with_annotations(self._workspace, written.commit))
                self.outcome = Outcome.COMMITTED
            except BaseException as error:
                self.outcome = _after_failure(self._workspace, written.commit, written.paths, error)
                raise
            # From here on the version is saved. If a later step fails, the next get or gc finishes it.
            with contextlib.suppress(OSError):
                self._publish(written.commit.manifest_id)

    def _publish(self, manifest_id: str) -> None:
        tag, draft, standing = self._target.tag, self._target.draft, self._target.standing
        if standing is not None and draft is not None:
            settle(self._workspace, tag, draft, standing)
            draft = None
        publish(self._workspace, tag, manifest_id, draft)


def commit_together(
    workspace: Workspace, session: Session, versions: Sequence[tuple[Target, Written, Callable[[], None]]]
) -> None:
    """Make versions visible, all or none. None of them gets a directory.

    Each comes with a last look at its files. New files are removed if nothing is committed. Raises ChunkVanished,
    TagExists, FileChanged, OSError.
    """
    paths = [path for _, written, _ in versions for path in written.paths]
    with contextlib.ExitStack() as locks:
        try:
            # In this order everywhere, so that no two processes wait for each other.
            for name in sorted({target.tag.name for target, _, _ in versions}):
                locks.enter_context(workspace.name_lock(name))
        except BaseException:
            remove(paths)
            raise
        committed = False
        try:
            for target, written, last_look in versions:
                _clear_the_way(workspace, session, target, durable=written.commit.durable)
                last_look()
            commits = [_with_annotations(workspace, written.commit) for _, written, _ in versions]
            workspace.catalog.commits.commit_together(commits)
            committed = True
        except BaseException as error:
            _after_failure(workspace, versions[0][1].commit, paths, error)
            raise
        finally:
            if committed:
                for target, written, _ in versions:
                    with contextlib.suppress(OSError):  # the next get or gc finishes it
                        publish(workspace, target.tag, written.commit.manifest_id, None)


def _with_annotations(workspace: Workspace, commit: Commit) -> Commit:
    """Of a version that comes back, such as from a remote, what was said of it is found in the log."""
    if commit.place is Place.LAST:
        return commit
    log = annotation_log.read(workspace.layout.annotation_log(commit.manifest.tag.name))
    return replace(commit, annotations=log.of(Subject.of(commit.manifest)))


def _after_failure(
    workspace: Workspace, commit: Commit, paths: Iterable[files.StrPath], error: BaseException
) -> Outcome:
    """The outcome of a transaction that ended in an error. Its new files are removed if it is certain to be undone."""
    outcome = _outcome(workspace, commit, error)
    # After a failed fsync the transaction may still be in SQLite's log, and come back when the log is
    # recovered. So its files stay, for gc if it does not come back, unless it can be overwritten.
    is_gone = outcome is Outcome.UNSURE and workspace.catalog.write_over_failed()
    if outcome is Outcome.NOT or is_gone:
        remove(paths)
    return outcome


def _outcome(workspace: Workspace, commit: Commit, error: BaseException) -> Outcome:
    """The outcome of a transaction that ended in an error: Ctrl-C may come after it was committed."""
    row = workspace.catalog.versions.find(commit.manifest.tag)
    if row is not None and row.manifest_id == commit.manifest_id:
        return Outcome.COMMITTED
    is_unsure = isinstance(error, OSError) and error.errno == errno.EIO
    return Outcome.UNSURE if is_unsure else Outcome.NOT


def _clear_the_way(workspace: Workspace, session: Session, target: Target, *, durable: bool) -> None:
    """Refuse a foreign directory in the version's place; take away what a deletion left there."""
    place = workspace.layout.model(target.tag)
    if target.watched is not None:
        check_as_found(target.watched)
    if target.standing is not None:
        check_replaceable(target.standing)
        if durable:  # so that its absence later means that it was removed
            files.sync_directory(place.parent)
            files.sync_directory(workspace.layout.models)
        return
    try:
        status = os.lstat(place)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise TagExists(
            f"{place.parent} is in the way and was not made by casstore; move it away or choose another name"
        ) from error
    deletions = workspace.catalog.deletions
    if workspace.catalog.versions.find(target.tag) is not None:
        return  # the commit says so
    if not deletions.is_deleted_directory(target.tag, status.st_ino):
        raise TagExists(f"{place} is in the way and was not made by casstore; move it away or choose another version")
    for manifest_id, tag in deletions.tombstones():
        if tag == target.tag:
            make_way(workspace, session, tag, manifest_id)
            return


def commit_stored(
    workspace: Workspace, session: Session, manifest: Manifest, event: Noted, *, durable: bool, trust: Trust
) -> None:
    """Commit a version whose chunks are all stored already. It gets no directory.

    Raises ChunkVanished if a chunk is not there, TagExists, OSError.
    """
    stored = _found(workspace, manifest, trust)
    written = write(workspace, session, stored, Terms(durable, trust, Place.BY_CREATION, event), SILENT)
    Committing(workspace, session, Target(manifest.tag)).run(written)


def commit_stored_together(
    workspace: Workspace, session: Session, manifests: Sequence[Manifest], event: Noted, *, durable: bool, trust: Trust
) -> None:
    """Commit versions as `commit_stored` does, all of them or none. Raises what it raises."""
    terms = Terms(durable, trust, Place.BY_CREATION, event)
    found = [(_found(workspace, manifest, trust), terms) for manifest in manifests]
    written = write_together(workspace, session, found)
    versions = [(Target(each.commit.manifest.tag), each, lambda: None) for each in written]
    commit_together(workspace, session, versions)


def _found(workspace: Workspace, manifest: Manifest, trust: Trust) -> Stored:
    """A version whose chunks are all stored already. Raises ChunkVanished if one is not."""
    manifest = replace(manifest, description=marked(workspace, manifest, trust, None))
    wanted = {digest for file in manifest.files for digest in manifest.recipe_of(file).digests}
    needed = Needed.of(workspace, wanted).checked(workspace)
    if wanted - needed.have:
        raise ChunkVanished
    return Stored(manifest, needed)


def remove(paths: Iterable[files.StrPath]) -> None:
    """Remove these files, as far as possible."""
    for path in paths:
        with contextlib.suppress(OSError):
            files.remove_file(path)
