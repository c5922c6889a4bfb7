"""backup: a copy of the whole store in another directory, of one moment, while others save, delete and collect.

The catalog is copied first, since it names everything else, then what it names is brought. gc and deletions may have
taken some of that away meanwhile: then the catalog is copied again, and names what stands instead. What is brought has
names that are never used twice, so a later backup brings only what is new.

The copied catalog takes the place of the one that is there when all that it names is on disk, by a rename: that is the
one commit point. Only then what it does not name goes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from casstore.actions import elsewhere_file, signatures
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.deleted import kept_ids
from casstore.actions.exchange import remotes_file
from casstore.actions.exchange.backup_place import reserved
from casstore.actions.registry import policy_log
from casstore.actions.workspace import Workspace
from casstore.catalog import backups
from casstore.catalog.backups import CatalogCopy
from casstore.catalog.index import Fingerprint
from casstore.catalog.schema import SIDE_FILES
from casstore.digest import Digest
from casstore.errors import IntegrityError, StoreError
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import descriptors, files, pack
from casstore.storage.container import Container
from casstore.storage.layout import Layout, new_id
from casstore.storage.locks import Lock
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.storage.sessions import Session
from casstore.tag import Tag

_ROUNDS_BESIDE_GC = 8  # after so many gc has to wait, or a store that never rests would never be copied
_GC_TIMEOUT_S = 4 * 3600.0
_COPY_BYTES = 8 << 20
_CONTAINER_NAME = re.compile(r"[0-9a-z]{16}-[0-9]+\.pack|[0-9a-f]{64}\.[0-9a-z]{16}-[0-9]+")


@dataclass(frozen=True, slots=True)
class BackupReport(Shown):
    """What a backup holds, and what this run did for it.

    Attributes
    ----------
    directory
        The backup.
    versions, containers, stored_bytes
        All that is in it; containers are packs and loose files.
    new_containers
        Containers that this run has added.
    copied_bytes, linked_bytes
        Bytes of the new containers that were copied, and that share their place on the disk with the store's.
    removed, removed_bytes
        Containers that were taken out, since the store does not need them any more.
    damaged
        One line for each file of the store that is missing, or was copied and is not what it should be. Then nothing
        has been removed.
    """

    directory: str
    versions: int
    containers: int
    stored_bytes: int
    new_containers: int
    copied_bytes: int
    linked_bytes: int
    removed: int
    removed_bytes: int
    damaged: tuple[str, ...] = ()


def backup(workspace: Workspace, directory: Path, progress: Progress, *, copy: bool = False) -> BackupReport:
    """Make `directory` a copy of the store, or bring an earlier one up to date; see `Store.backup`."""
    recorded = workspace.catalog.instances.recorded()
    instance = _without_instance(workspace.layout) if recorded is None else recorded.id
    with reserved(workspace.layout, directory, instance) as target, Session(target) as session:
        return _Backup(workspace, target, session, instance, progress, may_share=not copy).run()


def _without_instance(layout: Layout) -> str:
    """For a store that could not be given an identity, since it can only be read."""
    return f"{layout.home} {os.stat(layout.catalog).st_ino}"


class _Backup:
    def __init__(
        self,
        workspace: Workspace,
        target: Layout,
        session: Session,
        instance: str,
        progress: Progress,
        *,
        may_share: bool,
    ) -> None:
        self._workspace = workspace
        self._source = workspace.layout
        self._target = target
        self._session = session
        self._instance = instance
        self._progress = progress
        self._may_link = self._may_reflink = may_share
        self._linked: dict[Fingerprint, Digest] = {}
        self._damaged: dict[str, str] = {}  # by path of a container, or id of a manifest
        self._changed: set[str] = set()  # directories that are to be synced
        self._new = self._copied_bytes = self._linked_bytes = 0

    def run(self) -> BackupReport:
        absent: dict[str, str] = {}
        with contextlib.ExitStack() as held:
            for number in itertools.count():
                if number == _ROUNDS_BESIDE_GC and not self._workspace.catalog.read_only:
                    lock = Lock(self._source.gc_lock)
                    lock.acquire("gc", _GC_TIMEOUT_S)
                    held.enter_context(lock)
                with self._copy_catalog() as copy:
                    seen, absent = absent, self._bring(copy)
                    # What a copy names that was made after it had been missed is not just gone: it is lost.
                    if absent.keys() <= seen.keys():
                        self._damaged.update(absent)
                        return self._commit(copy)
        raise AssertionError

    def _copy_catalog(self) -> CatalogCopy:
        path = self._session.new_path()
        with files.create_file(path) as descriptor:
            files.set_mode(descriptor, stat.S_IMODE(os.stat(self._source.catalog).st_mode))
        copy = self._workspace.catalog.backups.copy(path, self._workspace.catalog.boot_id)
        try:
            if self._target.catalog.exists():
                foreign = copy.foreign_version(self._target.catalog, self._instance)
                if foreign is not None:
                    raise StoreError(
                        f"{self._target.home} holds {foreign}, which {self._source.home} has not: it is another store, "
                        "or a backup of another or of a newer one, or has been saved into; choose another directory"
                    )
        except BaseException:
            copy.close()
            raise
        return copy

    def _bring(self, copy: CatalogCopy) -> dict[str, str]:
        """Bring what the copy names and the target lacks; returns what the store has not, with what to say of it."""
        absent = {}
        for manifest_id, tag in self._new_manifests(copy):
            if manifest_id not in self._damaged and not self._bring_manifest(manifest_id, tag):
                absent[manifest_id] = f"the manifest of {tag} is missing"
        self._bring_deleted(copy)
        missing = [each for each in copy.containers() if not self._has(*each)]
        self._progress.start("copy", sum(size for _, size in missing))
        try:
            for container, size in missing:
                path = container.path(self._source)
                is_synced = container.id not in copy.unsynced
                if path not in self._damaged and not self._bring_container(container, path, size, is_synced):
                    absent[path] = f"{path} is missing"
                self._progress.advance(size)
        finally:
            self._progress.finish()
            self._note_links()
        return absent

    def _new_manifests(self, copy: CatalogCopy) -> Iterator[tuple[str, Tag]]:
        manifests, trashed = copy.manifests(), copy.trashed()
        there = {manifest_id for _, manifest_id, _ in self._target.standing_manifests()}
        there.update(path.name for path in self._target.pending_manifests.iterdir())
        there.update(trashed.keys() & self._target.trashed_ids())
        return ((manifest_id, tag) for manifest_id, tag in {**manifests, **trashed}.items() if manifest_id not in there)

    def _bring_manifest(self, manifest_id: str, tag: Tag) -> bool:
        """Put it where a save does until it is committed; False when it is not in the store."""
        source, final = self._source, self._source.manifest(tag, manifest_id)
        gone = source.trashed_manifest(manifest_id), source.deleted_manifest(manifest_id)
        # It may be getting its name just now, or be on its way into the trash or out of it.
        for path in (final, source.pending_manifest(manifest_id), final, *gone, final):
            try:
                data, mode = path.read_bytes(), stat.S_IMODE(os.stat(path).st_mode)
                Manifest.unpack(data)
            except FileNotFoundError:
                continue
            except IntegrityError as error:
                self._damaged[manifest_id] = f"{path}: {error}"
            except OSError as error:
                files.raise_unless_damage(error)
                self._damaged[manifest_id] = f"{path} cannot be read: {error.strerror}"
                return True
            temporary = self._session.new_path()
            files.write_new_file(temporary, data, mode, durable=True)
            files.rename(temporary, self._target.pending_manifest(manifest_id))
            return True
        return False

    def _bring_deleted(self, copy: CatalogCopy) -> None:
        """Bring the manifests of deleted versions that alone explain a loose file which the copy names."""
        listed: dict[str, Tag | None] = {**dict.fromkeys(kept_ids(self._source)), **copy.deleted}
        there = {manifest_id for _, manifest_id, _ in self._target.standing_manifests()}
        for manifest_id, tag in listed.items():
            kept, pending = self._source.deleted_manifest(manifest_id), self._source.pending_manifest(manifest_id)
            places = [kept] if tag is None else [self._source.manifest(tag, manifest_id), pending, kept]
            target = self._target.deleted_manifest(manifest_id)
            if manifest_id in there or target.exists():
                continue
            data = next(filter(None, map(_read_if_there, places)), None)
            if data is not None and _explains(copy, data):
                temporary = self._session.new_path()
                files.write_new_file(temporary, data, self._workspace.file_mode(executable=False), durable=True)
                files.rename(temporary, target)

    def _has(self, container: Container, size: int) -> bool:
        try:
            return os.stat(container.path(self._target)).st_size == size
        except FileNotFoundError:
            return False

    def _bring_container(self, container: Container, path: str, size: int, is_synced: bool) -> bool:
        """Bring one container, whole and synced; False when it is not in the store."""
        temporary = self._session.new_path()
        try:
            opened = descriptors.opened(path, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, IsADirectoryError):
            return False
        with opened as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return False
            if status.st_size != size:
                self._damaged[path] = f"{path} has {status.st_size} bytes and should have {size}"
            is_known = self._is_known(container, status)
            # Of a shared file whose sync has failed another sync would say that all is well.
            is_shared = is_synced and self._share(path, descriptor, temporary, status)
            if not is_shared and not self._copy(container, path, descriptor, temporary):
                return True
            self._check_frame(container, path, temporary)
        place = container.path(self._target)
        files.rename(temporary, place)
        self._changed.add(os.path.dirname(place))
        if is_known:
            self._linked[Fingerprint.of(os.lstat(place))] = container.blob
        self._new += 1
        self._linked_bytes += status.st_size if is_shared else 0
        self._copied_bytes += 0 if is_shared else status.st_size
        return True

    def _share(self, path: str, descriptor: int, temporary: Path, status: os.stat_result) -> bool:
        """Make a file with the same blocks, else a hardlink, where the file system has them and both are on it."""
        if self._may_reflink:
            with files.create_file(temporary) as target:
                self._may_reflink = files.try_reflink(descriptor, target)
                if self._may_reflink:
                    files.set_mode(target, stat.S_IMODE(status.st_mode))
                    files.sync_descriptor(target)
                    return True
            files.remove_file(temporary)
        if self._may_link and status.st_dev == os.stat(self._session.path).st_dev:
            with contextlib.suppress(FileNotFoundError):  # gc may take it away meanwhile: what is open can be copied
                return files.try_link(path, temporary)
        return False

    def _copy(self, container: Container, path: str, descriptor: int, temporary: Path) -> bool:
        """Copy the bytes; False, with the damage noted, when they cannot be read."""
        hasher = None if container.is_pack else blake3()
        with files.create_file(temporary) as target:
            offset = 0
            while True:
                try:
                    data = os.pread(descriptor, _COPY_BYTES, offset)
                except OSError as error:
                    files.raise_unless_damage(error)
                    self._damaged[path] = f"{path} cannot be read: {error.strerror}"
                    return False
                if not data:
                    break
                files.write_all(target, data)
                files.start_writeback(target, offset, len(data))
                if hasher is not None:
                    hasher.update(data)
                offset += len(data)
            files.set_mode(target, stat.S_IMODE(os.fstat(descriptor).st_mode))
            files.sync_descriptor(target)
        if hasher is not None and hasher.digest() != container.digest:
            self._damaged.setdefault(path, f"{path} does not match its digest")
        return True

    def _check_frame(self, container: Container, path: str, temporary: Path) -> None:
        """Note where what a rebuilding of the catalog reads of a pack is damaged."""
        if container.is_pack:
            try:
                pack.check_frame(temporary)
            except IntegrityError as error:
                self._damaged.setdefault(path, f"{path}: {error}")

    def _is_known(self, container: Container, status: os.stat_result) -> bool:
        """Whether a loose file was not touched. A new link to it changes what tells that, so it is noted
        again afterwards; else the next save of its content would have to read it."""
        if container.is_pack or self._workspace.catalog.read_only:
            return False
        fingerprint = Fingerprint.of(status)
        known = self._workspace.catalog.index.fingerprints([(fingerprint.device, fingerprint.inode)])
        return known.get(fingerprint) == container.digest

    def _note_links(self) -> None:
        noted, self._linked = self._linked, {}
        self._workspace.catalog.index.remember(noted)

    def _commit(self, copy: CatalogCopy) -> BackupReport:
        """Put the copied catalog in its place, and make what stands beside it what the catalog says."""
        target = self._target
        containers, manifests, trashed = copy.containers(), copy.manifests(), copy.trashed()
        leaving = [each for each in target.trashed_ids() if each not in trashed]
        moves = copy.alias_moves()
        doomed = [each for each in target.standing_manifests() if each[1] not in manifests]
        explaining = {path for _, _, path in doomed if _explains(copy, _read_if_there(path))}
        unneeded = [
            path
            for path in map(target.deleted_manifest, kept_ids(target))
            if path.name in manifests or path.name in trashed or not _explains(copy, _read_if_there(path))
        ]
        copy.finish(self._instance, ((manifest_id, tag) for tag, manifest_id, _ in doomed))
        files.sync_file(copy.path)
        rooms = map(str, (target.pending_manifests, target.deleted_manifests, target.trashed_manifests))
        self._sync({*(str(each.parent) for each in target.directories()), *rooms})
        for each in leaving:  # without it a deleted version can still be brought back, by what the catalog says
            files.remove_file(target.trashed_manifest(each))
        for suffix in (*SIDE_FILES, "-journal"):
            files.remove_file(f"{target.catalog}{suffix}")
        files.sync_directory(target.home)  # a log that came back would be applied to the new catalog
        files.rename(copy.path, target.catalog)
        files.sync_directory(target.home)
        self._name_manifests(manifests, trashed)
        self._drop_manifests([path for _, _, path in doomed], explaining, trashed)
        self._set_models_aside()
        remotes_file.copy(self._source, target, self._session.new_path())
        policy_log.copy(self._source, target, self._session.new_path())
        elsewhere_file.copy(self._source, target, self._session.new_path())
        alias_log.copy(moves, target, self._session.new_path())
        self._copy_annotations()
        mode = self._workspace.file_mode(executable=False)
        signatures.copy(self._source, target, self._session.new_path, mode)
        removed = [] if self._damaged else self._drop_containers({container.file_id for container, _ in containers})
        for path in unneeded if not self._damaged else ():
            files.remove_file(path)
        if files.remove_file(target.unfinished_backup):
            files.sync_directory(target.home)
        return BackupReport(
            str(target.home), len(manifests), len(containers), sum(size for _, size in containers), self._new,
            self._copied_bytes, self._linked_bytes, len(removed), sum(removed), tuple(self._damaged.values()),
        )  # fmt: skip

    def _copy_annotations(self) -> None:
        """Copy the logs of annotations. They may be newer than the copied catalog, and do no harm then."""
        room = self._source.annotations
        for path in sorted(room.glob("*.log")) if room.is_dir() else ():
            there, data = self._target.annotations / path.name, path.read_bytes()
            if not there.exists() or there.read_bytes() != data:
                files.make_directory(there.parent)
                mode = stat.S_IMODE(path.stat().st_mode)
                files.write_file(there, data, mode, temporary=self._session.new_path(), durable=True)
                files.sync_directory(self._target.home)

    def _sync(self, more: Iterable[str] = ()) -> None:
        for directory in sorted(self._changed.union(more)):
            files.sync_directory(directory)
        self._changed.clear()

    def _name_manifests(self, manifests: dict[str, Tag], trashed: Collection[str]) -> None:
        """Give those that were brought their names, as after a save's commit; what has become of no version goes."""
        pending = self._target.pending_manifests
        for path in list(pending.iterdir()):
            if path.name in trashed:
                files.rename(path, self._target.trashed_manifest(path.name))
                self._changed.add(str(self._target.trashed_manifests))
                continue
            tag = manifests.get(path.name)
            if tag is None:
                files.remove_file(path)
                continue
            final = self._target.manifest(tag, path.name)
            files.make_directory(final.parent)
            files.rename(path, final)
            self._changed.update((str(final.parent), str(self._target.manifests)))
        self._sync()
        files.sync_directory(pending)  # last: no name shall be gone before the other is there

    def _drop_manifests(
        self, paths: Collection[Path], explaining: Collection[Path], trashed: Collection[str]
    ) -> None:  # fmt: skip
        """Remove the manifests of versions that are gone, then the tombstones that explain them until then."""
        for path in paths:
            manifest_id = path.name.rpartition(".")[2]
            if manifest_id in trashed:
                files.rename(path, self._target.trashed_manifest(manifest_id))
            elif path in explaining:
                files.rename(path, self._target.deleted_manifest(manifest_id))
            files.remove_file(path)
        for room in (self._target.deleted_manifests, self._target.trashed_manifests) if paths else ():
            files.sync_directory(room)
        for directory in {path.parent for path in paths}:
            files.sync_directory(directory)
            files.remove_empty_directory(directory)
        if paths:
            backups.drop_tombstones(self._target.catalog)

    def _set_models_aside(self) -> None:
        """Of directories that were made in the backup, its new catalog knows nothing."""
        models = self._target.models
        if any(models.iterdir()):
            files.rename(models, self._target.quarantine / f"{new_id()}.models")
            files.make_directory(models)

    def _drop_containers(self, needed: set[str]) -> list[int]:
        """Remove containers that the catalog does not name; returns their sizes. Other people's files stay."""
        sizes = []
        for directory in (self._target.packs, *self._target.loose.iterdir()):
            with os.scandir(directory) as entries:
                listed = [entry for entry in entries if _CONTAINER_NAME.fullmatch(entry.name)]
            for entry in listed:
                file_id = entry.name.removesuffix(".pack").rpartition(".")[2]
                if file_id not in needed and entry.is_file(follow_symlinks=False):
                    sizes.append(entry.stat(follow_symlinks=False).st_size)
                    files.remove_file(entry.path)
        return sizes


def _read_if_there(path: Path) -> bytes | None:
    try:
        return read_manifest_file(path)
    except OSError as error:
        files.raise_unless_damage(error)
        return None


def _explains(copy: CatalogCopy, manifest: bytes | None) -> bool:
    """Whether that is a manifest which alone says how a loose file is cut that the copied catalog names."""
    try:
        return manifest is not None and copy.has_unexplained_chunks(Manifest.unpack(manifest).recipes)
    except IntegrityError:
        return False
