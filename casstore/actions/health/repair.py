"""repair: heal what is damaged from whatever else holds it, and move what is damaged out of the way.

In this order, so that it may be killed anywhere and run again: rows and manifests are made to agree, files that the
catalog does not know are taken up where they hold what is missing, healed chunks and the sound ones beside damaged ones
get new containers, damaged files go to `quarantine/`, and only then what is lost is
forgotten. No version is ever dropped; a file of one that is lost stays listed, and reading it says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from casstore.actions import signatures
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.takeup import take_up
from casstore.actions.directories.materialize import mend
from casstore.actions.directories.standing import Standing, Whose
from casstore.actions.health.containers import inspect_containers
from casstore.actions.health.findings import Findings
from casstore.actions.health.healing import heal, move_sound
from casstore.actions.health.inspection import check_known, inspect_directories, inspect_records, read_manifest
from casstore.actions.health.verify import Damage, lost_files
from casstore.actions.missing import make_missing
from casstore.actions.registry import policy_log
from casstore.actions.registry.annotating import complete_logs, damaged_logs, write_again
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, StoreLocked, TagNotFound
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import Container, FileStamp
from casstore.storage.layout import new_id
from casstore.storage.locks import Lock
from casstore.storage.recipe import Recipe
from casstore.storage.walking import walk
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class RepairReport(Shown):
    """What repair did.

    Attributes
    ----------
    healed
        Files of versions that could not be read and are whole again.
    damage
        Files of versions that still cannot be read.
    restored
        Tags whose manifest, rows in the catalog or directory were made again.
    quarantined
        Paths under quarantine/ that damaged files were moved to.
    healed_chunks
        How many chunks were found elsewhere.
    made
        Directories of the store itself that were missing, and have been made again.
    taken_up
        Files that hold what versions need, and that the catalog did not know or gc had moved to quarantine as strays:
        now the catalog knows them.
    unread
        One line for each thing below the sources that could not be searched.
    alias_logs
        Names of models whose log of aliases was damaged, and has been written again.
    """

    healed: tuple[Damage, ...]
    damage: tuple[Damage, ...]
    restored: tuple[str, ...]
    quarantined: tuple[str, ...]
    healed_chunks: int
    made: tuple[str, ...] = ()
    taken_up: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    alias_logs: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged any more."""
        return not self.damage


def repair(workspace: Workspace, sources: Sequence[Path], progress: Progress) -> RepairReport:
    """Read everything, and repair what is damaged, also from files anywhere below `sources`.

    Others may read and save meanwhile. Raises StoreLocked while gc runs, CatalogDamaged, InvalidSource for a source
    that is not there, OSError; then nothing is lost, and it can be run again.
    """
    for source in sources:
        if not source.exists():
            raise InvalidSource(f"{source} is not there; give a directory, or a file, that holds what is missing")
    if not workspace.catalog.read_only:
        workspace.made.extend(make_missing(workspace.layout, workspace.catalog, models=True, even_needed=True))
    workspace.check_writable()
    with Lock(workspace.layout.gc_lock) as lock:
        if not lock.try_acquire():
            raise StoreLocked("gc is running in this store; repair when it is done")
        return _Repair(workspace, sources, progress).run()


class _Repair:
    def __init__(self, workspace: Workspace, sources: Sequence[Path], progress: Progress) -> None:
        self._workspace = workspace
        self._catalog = workspace.catalog
        self._sources = sources
        self._progress = progress
        self._quarantined: list[str] = []
        self._restored: set[Tag] = set()

    def run(self) -> RepairReport:
        self._catalog.check()
        found = Findings()
        check_known(self._workspace)
        inspect_records(self._workspace, found)
        self._restore_records(found)
        self._restore_manifests(found)
        self._write_logs_again()
        for path in signatures.faults(self._workspace.layout):
            self._set_aside(path, f"{path.name}.{new_id()}")
        found.records.clear()
        if (kept := policy_log.write_again(self._workspace)) is not None:
            self._quarantined.append(str(kept))
        alias_logs = self._write_alias_logs()
        taken = take_up(self._workspace)
        brought = self._catalog.references.dependents(set(taken.chunks), set())
        inspected = {row.id for row in self._catalog.versions.select()}
        inspect_directories(self._workspace, found, quick=False)
        inspect_containers(self._workspace, found, self._progress, quick=False)
        damaged_before = dict.fromkeys(Damage(str(tag), path) for tag, path in brought)
        damaged_before |= dict.fromkeys(lost_files(self._workspace, found))
        locations = self._catalog.index.locate(found.chunks)
        healed = heal(self._workspace, set(found.chunks), self._sources, self._progress)
        lost = set(healed.lost)
        # Not those of deltas that are readable again now that their bases are.
        unreadable = healed.chunks | lost
        damaged = {
            location.container for digest, location in locations.items() if digest in unreadable
        } | found.files.keys()
        for container in damaged:
            move_sound(self._workspace, container, lost)
        inodes = self._quarantine(damaged)
        if lost or damaged:
            gone = {digest: locations[digest].container for digest in lost if digest in locations}
            self._catalog.repacking.give_up(gone, damaged)
            lost -= self._catalog.index.locate(lost).keys()  # a save has brought these meanwhile
        self._mend(found.directories, inspected, inodes)
        damage = self._catalog.references.dependents(lost, set())
        self._catalog.mending.note_lost(self._catalog.references.missing_chunks())
        still = tuple(Damage(str(tag), path) for tag, path in damage)
        report = RepairReport(
            healed=tuple(each for each in damaged_before if each not in still),
            damage=still,
            restored=tuple(sorted(map(str, self._restored))),
            quarantined=tuple(self._quarantined),
            healed_chunks=len(healed.chunks),
            made=tuple(dict.fromkeys(self._workspace.made)),
            taken_up=tuple(map(str, taken.paths)),
            unread=tuple(healed.unread),
            alias_logs=alias_logs,
        )
        counts = {
            "healed": len(report.healed), "damaged": len(report.damage), "restored": len(report.restored),
            "quarantined": len(report.quarantined), "made": len(report.made), "taken up": len(report.taken_up),
            "logs of aliases": len(report.alias_logs),
        }  # fmt: skip
        if any(counts.values()):  # what finds nothing to do writes nothing
            self._catalog.events.note("repaired", **{name: count for name, count in counts.items() if count})
        return report

    def _write_logs_again(self) -> None:
        for path in damaged_logs(self._workspace):
            kept = write_again(self._workspace, path)
            if kept is not None:
                self._quarantined.append(str(kept))
        complete_logs(self._workspace)

    def _write_alias_logs(self) -> tuple[str, ...]:
        written = {}
        for path in alias_log.faults(self._workspace):
            name = Path(path).stem
            kept = alias_log.write_again(self._workspace, name)
            if kept is not None:
                self._quarantined += map(str, kept)
                written[name] = path
        return tuple(written)

    def _restore_records(self, found: Findings) -> None:
        """The manifest is right where the catalog differs: it is checksummed, and never written twice."""
        for tag in found.records:
            with self._workspace.name_lock(tag.name):  # or another process may delete it meanwhile
                row = self._catalog.versions.find(tag)
                if row is not None:
                    self._restore_record(row, found)

    def _restore_record(self, row: VersionRow, found: Findings) -> None:
        """But where both say what a blob is made of, and differ, its bytes tell: a stranger may have written it."""
        manifest = read_manifest(self._workspace, row)
        told = {file.digest: manifest.recipe_of(file) for file in manifest.files if file.size}
        right = {blob: self._right_recipe(blob, recipe) for blob, recipe in told.items()}
        if right != told:
            found.manifests[row.tag] = f"the manifest of {row.tag} does not say what its files are made of"
            manifest = replace(manifest, recipes={blob: each for blob, each in right.items() if each.is_stored})
        self._catalog.commits.restore(row.id, manifest)
        self._restored.add(row.tag)

    def _right_recipe(self, blob: Digest, told: Recipe) -> Recipe:
        """What the catalog says, where that differs and gives the blob; else what the manifest says."""
        try:
            known = self._catalog.index.as_known({blob: told})[blob]
        except IntegrityError:
            return told
        return known if known != told and self._workspace.objects.is_sound(known) else told

    def _restore_manifests(self, found: Findings) -> None:
        for tag, reason in found.manifests.items():
            with self._workspace.name_lock(tag.name):
                self._restore_manifest(tag, reason)

    def _restore_manifest(self, tag: Tag, reason: str) -> None:
        row = self._catalog.versions.find(tag)
        if row is None:
            return
        recipes = self._catalog.index.recipes({file.digest for file in self._catalog.versions.files(row.id)})
        manifest = self._catalog.versions.manifest(row, recipes)
        if manifest.digest != row.digest:
            raise IntegrityError(f"{reason}; the catalog's record of {tag} is damaged too, so it stays as it is")
        path = self._workspace.layout.manifest(tag, row.manifest_id)
        with self._workspace.session() as session:
            files.make_directory(path.parent)
            pending = self._workspace.layout.pending_manifest(row.manifest_id)
            for standing in (path, pending):  # gc would give one in `.pending` the name of that which is made here
                if standing.exists():
                    self._set_aside(standing, f"{tag.name}.{path.name}.{new_id()}")
            mode = self._workspace.file_mode(executable=False)
            files.write_file(path, manifest.pack(), mode, temporary=session.new_path(), durable=True)
            files.sync_directory(path.parent.parent)
            if files.remove_file(self._workspace.layout.deleted_manifest(row.manifest_id)):  # of after that catalog
                files.sync_directory(self._workspace.layout.deleted_manifests)
        self._restored.add(tag)

    def _quarantine(self, containers: Iterable[Container]) -> set[tuple[int, int]]:
        """Move these files to quarantine; returns their devices and inodes, by which links to them are known."""
        self._workspace.objects.close()
        inodes, parents = set[tuple[int, int]](), {str(self._workspace.layout.quarantine)}
        for container in containers:
            path = container.path(self._workspace.layout)
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                inodes.add((status.st_dev, status.st_ino))
                self._set_aside(path, os.path.basename(path))
                parents.add(os.path.dirname(path))
        # Without its row a file that comes back would be taken for something that a crash has left.
        for parent in sorted(parents):
            files.sync_directory(parent)
        return inodes

    def _set_aside(self, path: files.StrPath, name: str) -> None:
        target = self._workspace.layout.quarantine / name
        files.move(path, target)
        self._quarantined.append(str(target))

    def _mend(self, altered: Mapping[Tag, Sequence[str]], inspected: set[int], inodes: set[tuple[int, int]]) -> None:
        """Make files of directories again that are altered, or hardlinks of what is in quarantine now.

        `inspected`: the versions of which that was found, since another may have got a tag meanwhile.
        """
        for row in list(self._catalog.versions.select()):
            listed = altered.get(row.tag, ()) if row.id in inspected else ()
            with self._workspace.name_lock(row.name):
                is_to_mend = self._clear(row, listed, inodes)
            if is_to_mend:
                try:
                    with contextlib.suppress(TagNotFound):
                        mend(self._workspace, row, self._progress)
                except IntegrityError:  # that file is among what the report says is lost
                    self._take_away(row)

    def _clear(self, row: VersionRow, listed: Sequence[str], inodes: set[tuple[int, int]]) -> bool:
        """Take away what stands wrongly for a version, under its name's lock; returns whether its directory has to be
        mended then."""
        if self._catalog.versions.by_id(row.id) is None:
            return False  # deleted meanwhile, and perhaps another version has its tag
        if self._is_another(row):
            self._set_aside(self._workspace.layout.model(row.tag), f"{row.name}.{row.version}.{new_id()}")
            self._catalog.directories.forget(row.id)
            self._restored.add(row.tag)
            return False
        bad = {*listed, *Standing(self._workspace, row).links_to(inodes)}
        for path in sorted(bad):
            self._take_out(row, path, inodes)
        if bad:
            self._restored.add(row.tag)
        return bool(bad) or Standing(self._workspace, row).whose() is Whose.COPY

    def _is_another(self, row: VersionRow) -> bool:
        """Whether another directory stands where the catalog says that the version's own does."""
        standing = Standing(self._workspace, row)
        return standing.recorded is not None and standing.whose() is Whose.FOREIGN

    def _take_away(self, row: VersionRow) -> None:
        """Take away a directory that cannot be mended, so that what is left of the version can be had."""
        standing = self._workspace.layout.model(row.tag)
        with self._workspace.name_lock(row.name), self._workspace.session() as session:
            before = {path: FileStamp.of(status) for path, status in walk(str(standing), lambda _: None)}
            for path in Standing(self._workspace, row).unaltered():
                aside = self._workspace.on_device_of(standing.parent, session.new_path())
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if path in before:  # not by a link, to what is not the store's
                        files.rename(standing / path, aside)
                        self._drop(row, path, aside, before[path])
            for directory, _, _ in os.walk(standing, topdown=False):
                files.remove_empty_directory(Path(directory))
            with contextlib.suppress(FileNotFoundError):  # unless something was put there
                self._set_aside(standing, f"{row.name}.{row.version}.{new_id()}")
            self._catalog.directories.forget(row.id)
            self._restored.discard(row.tag)

    def _drop(self, row: VersionRow, path: str, aside: Path, before: FileStamp) -> None:
        """Remove a file that has been set aside, unless it has been put in its place since it was looked at."""
        if FileStamp.of(os.lstat(aside)) == before:
            files.remove_file(aside)
        else:
            self._set_aside(aside, self._workspace.quarantined(row.tag, os.path.basename(path)).name)

    def _take_out(self, row: VersionRow, path: str, inodes: set[tuple[int, int]]) -> None:
        """Take a bad file out of a directory: to quarantine, unless it is there by another name."""
        root = self._workspace.layout.model(row.tag)
        standing = root / path
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for parent in reversed(standing.relative_to(root).parents):
                if parent != Path() and (root / parent).is_symlink():  # what it leads to is not the store's
                    self._set_aside(root / parent, f"{row.name}.{row.version}.{new_id()}.link")
                    return
            status = os.lstat(standing)
            if (status.st_dev, status.st_ino) in inodes:
                files.remove_file(standing)
            else:
                self._set_aside(standing, self._workspace.quarantined(row.tag, standing.name).name)
