"""verify: compare what stands on disk with its digests and with the catalog, and name what is damaged.

Changes nothing but the note of when containers were read. `inspect` finds, `verify` reports what it found, and `repair`
goes by the same findings.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from casstore.actions.consistency.moments import describe
from casstore.actions.consistency.takeup import holders
from casstore.actions.directories.changed import kept_files
from casstore.actions.directories.standing import Standing
from casstore.actions.directories.survey import disagreement, is_missing
from casstore.actions.missing import what_is_gone
from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import CatalogDamaged, IntegrityError, StoreError
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import files, pack
from casstore.storage.container import Container
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.tag import Tag

# Reading is bound by the disk or by the decoder; more threads than this make neither faster.
_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a version whose stored bytes are damaged. While a copy of it stands, it may be read from that.

    Attributes
    ----------
    tag
        The version.
    path
        The file in it.
    """

    tag: str
    path: str


@dataclass(frozen=True, slots=True)
class VerifyReport(Shown):
    """What verify read and found.

    `unknown_directories`, `missing_directories`, `added_files` and `kept_files` are not damage.

    Attributes
    ----------
    chunks, read_bytes
        What has been read; 0 if quick.
    damage
        Files of versions whose stored bytes are damaged: lost, unless repair finds a copy of them.
    damaged_copies
        Paths of redundant files that are damaged, altered or missing, while what they say is safe elsewhere: copies of
        files, directories' files, manifests.
    damaged_records
        Tags of which the catalog does not say what their manifests say.
    reasons
        One line for each damaged chunk, copy or record, before them for a directory that is gone, and after them for
        each file, unknown to the catalog, that holds what is missing.
    unknown_directories
        Paths in models/ that casstore did not make, for `Store.sync_tree` to see to.
    missing_directories
        Tags of versions whose directory was taken away, for `Store.sync_tree` to see to.
    mixed
        One line where catalog and files seem to be from different moments, empty where they are from one.
    added_files
        Paths of what stands in versions' directories and was not saved with them.
    kept_files
        Directories in quarantine/ with what was found changed or added, which gc removes after `keep_days`.
    tags
        The versions that were asked for, which all this is about then; none where it was everything.
    """

    chunks: int
    read_bytes: int
    damage: tuple[Damage, ...]
    damaged_copies: tuple[str, ...]
    damaged_records: tuple[str, ...]
    reasons: tuple[str, ...]
    unknown_directories: tuple[str, ...] = ()
    missing_directories: tuple[str, ...] = ()
    mixed: str = ""
    added_files: tuple[str, ...] = ()
    kept_files: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.damage or self.damaged_copies or self.damaged_records)

    @property
    def damaged_tags(self) -> list[str]:
        """The tags of versions with damaged files or records, sorted."""
        return sorted({damage.tag for damage in self.damage} | set(self.damaged_records))


@dataclass(slots=True)
class Findings:
    """What is wrong with a store. Each maps what is wrong to the reason.

    `chunks`: whose bytes cannot be read. `files`: loose files with a damaged or missing part that is a mere copy.
    `directories`: versions with the files of their directories that are not what was put there; `additions`: with
    what else is in them, which harms nothing.
    `manifests`: versions whose manifest is missing or damaged. `records`: versions whose rows differ from it.
    """

    chunks: dict[Digest, str] = field(default_factory=dict)
    files: dict[Container, str] = field(default_factory=dict)
    directories: dict[Tag, list[str]] = field(default_factory=dict)
    additions: dict[Tag, list[str]] = field(default_factory=dict)
    manifests: dict[Tag, str] = field(default_factory=dict)
    records: dict[Tag, str] = field(default_factory=dict)
    read_chunks: int = 0
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Scope:
    """Versions to be looked at alone: their `chunks`, with all that decoding these needs, their `blobs`, and the
    `containers`, with their sizes, in which some of that stands."""

    rows: tuple[VersionRow, ...]
    chunks: Set[Digest]
    blobs: Set[Digest]
    containers: Sequence[tuple[Container, int]]

    @classmethod
    def of(cls, workspace: Workspace, rows: Iterable[VersionRow]) -> Scope:
        rows = tuple(rows)
        index = workspace.catalog.index
        chunks: set[Digest] = set()
        blobs: set[Digest] = set()
        for row in rows:
            # What cannot be read of the catalog is found when it is compared with the manifest.
            with contextlib.suppress(IntegrityError, ValueError):
                listed = {file.digest for file in workspace.catalog.versions.files(row.id) if file.size}
                recipes = index.recipes(listed)
                chunks |= {digest for recipe in recipes.values() for digest in recipe.digests}
                chunks |= listed - recipes.keys()
                blobs |= listed
        chunks |= index.bases_of(chunks)
        homes = {home.container.id for home in index.locate(chunks).values()}
        copies = {each.container.id for found in index.loose_files(blobs).values() for each in found}
        return cls(rows, chunks, blobs, index.containers(homes | copies))


def verify(
    workspace: Workspace, progress: Progress, *, quick: bool = False, rows: Iterable[VersionRow] | None = None
) -> VerifyReport:
    """Check every chunk, redundant loose file, directory, manifest and row, or those of these rows; see `inspect`."""
    scope = None if rows is None else Scope.of(workspace, rows)
    found = inspect(workspace, progress, quick=quick, scope=scope)
    layout = workspace.layout
    if scope is None:
        tree = disagreement(workspace)
        foreign, missing, mixed = tree.foreign, tree.missing, describe(workspace)
    else:
        foreign, missing, mixed = (), tuple(row for row in scope.rows if is_missing(workspace, row)), ""
    gone = what_is_gone(layout, workspace.catalog)
    copies = {container.path(layout): reason for container, reason in found.files.items()}
    for tag, paths in found.directories.items():
        for path in paths:
            standing = str(layout.model(tag) / path)
            copies[standing] = (
                f"{standing} is not what was put there; `casstore path {tag}` moves it to {layout.changed_files} and "
                "makes it again"
            )
    for tag, reason in found.manifests.items():
        copies[f"{layout.manifests / tag.name}/{tag.version}"] = reason
    tags = () if scope is None else tuple(str(row.tag) for row in scope.rows)
    return VerifyReport(
        found.read_chunks,
        found.read_bytes,
        tuple(damage for damage in lost_files(workspace, found) if scope is None or damage.tag in tags),
        tuple(copies),
        tuple(sorted(map(str, found.records))),
        (
            *([] if gone is None else [gone]),
            *found.chunks.values(),
            *copies.values(),
            *found.records.values(),
            *_unknown_holders(workspace, found),
        ),
        tuple(map(str, foreign)),
        tuple(str(row.tag) for row in missing),
        mixed,
        tuple(str(layout.model(tag) / path) for tag, paths in found.additions.items() for path in paths),
        tuple(map(str, kept_files(layout))),
        tags,
    )


def _unknown_holders(workspace: Workspace, found: Findings) -> list[str]:
    """One line for each file that the catalog does not know and that seems to hold a chunk which cannot be read."""
    if not found.chunks:
        return []
    advice = "holds some of what is missing, and the catalog does not know it; `casstore repair` takes it up"
    return [f"{path} {advice}" for path in holders(workspace, found.chunks)]


def lost_files(workspace: Workspace, found: Findings) -> list[Damage]:
    """The files of versions that the damaged chunks make unreadable."""
    affected = workspace.catalog.references.dependents(set(found.chunks), set())
    return [Damage(str(tag), path) for tag, path in affected]


def inspect(workspace: Workspace, progress: Progress, *, quick: bool, scope: Scope | None = None) -> Findings:
    """Look for damage, everywhere or in the versions of a scope. With `quick` no content is read but manifests:
    containers and directories are checked by what stat says of them, and the catalog by itself.

    Raises CatalogDamaged when the catalog's pages are, OSError.
    """
    found = Findings()
    rows = None if scope is None else scope.rows
    workspace.catalog.check(quick=quick or scope is not None)
    inspect_records(workspace, found, rows)
    if scope is None:
        found.records |= _forgotten(workspace)
    inspect_directories(workspace, found, quick=quick, rows=rows)
    inspect_containers(workspace, found, progress, quick=quick, scope=scope)
    return found


def inspect_containers(
    workspace: Workspace, found: Findings, progress: Progress, *, quick: bool, scope: Scope | None = None
) -> None:
    """Look for chunks that are damaged or missing, and for damaged copies of them."""
    workspace.objects.close()  # a container held open would still read well after its file is gone
    if scope is None:
        missing: Collection[Digest] = workspace.catalog.references.missing_chunks()
    else:
        missing = scope.chunks - workspace.catalog.index.locate(scope.chunks).keys()
    found.chunks = {digest: f"chunk {digest} is missing from the store" for digest in sorted(missing)}
    if quick:
        _stat_containers(workspace, found, scope)
    else:
        _read_containers(workspace, found, progress, scope)
        found.chunks = _still_bad(workspace, found.chunks)


def inspect_records(workspace: Workspace, found: Findings, rows: Sequence[VersionRow] | None = None) -> None:
    """Compare the rows of every version, or of some, with their manifests."""
    for row in list(workspace.catalog.versions.select()) if rows is None else rows:
        manifest_reason = record_reason = ""
        try:
            manifest = read_manifest(workspace, row)
            if manifest != _as_recorded(workspace, row, manifest):
                record_reason = f"the catalog does not say of {row.tag} what its manifest says"
        except OSError as error:
            files.raise_unless_damage(error)
            manifest_reason = f"the manifest of {row.tag}: {error.strerror}; the catalog says what it said"
        except IntegrityError as error:
            manifest_reason = f"the manifest of {row.tag} is damaged: {error}; the catalog says what it said"
        if (manifest_reason or record_reason) and workspace.catalog.versions.by_id(row.id) is not None:
            if manifest_reason:
                found.manifests[row.tag] = manifest_reason
            else:
                found.records[row.tag] = record_reason


def check_known(workspace: Workspace) -> None:
    """Raise CatalogDamaged where there are manifests of versions that the catalog does not know: an older one has been
    put back."""
    for reason in _forgotten(workspace).values():
        raise CatalogDamaged(reason)


def _forgotten(workspace: Workspace) -> dict[Tag, str]:
    found = {}
    for tag, manifest_id, path in list(workspace.layout.standing_manifests()):
        row = workspace.catalog.versions.find(tag)
        if row is None or row.manifest_id != manifest_id:
            dead = {each for each, _ in workspace.catalog.deletions.tombstones()}
            if manifest_id not in dead and _is_manifest_of(path, tag):
                found[tag] = (
                    f"{path} is the manifest of a version that the catalog does not know; "
                    "`casstore repair --rebuild-catalog` makes it again"
                )
    return found


def _is_manifest_of(path: Path, tag: Tag) -> bool:
    try:
        return Manifest.unpack(read_manifest_file(path)).tag == tag
    except (IntegrityError, OSError) as error:
        files.raise_unless_damage(error)
        return False


def inspect_directories(
    workspace: Workspace, found: Findings, *, quick: bool, rows: Sequence[VersionRow] | None = None
) -> None:
    """Compare every standing directory, or those of some versions, with what was put there: by stat, and unless
    `quick` by its bytes.

    Where the catalog's record is damaged, that is not known.
    """
    for row in list(workspace.catalog.versions.select()) if rows is None else rows:
        if row.tag not in found.records:
            # Twice: gc, a deletion, or a process that mends it, may be at it.
            altered = _altered(workspace, row, quick) and _altered(workspace, row, quick)
            if altered:
                found.directories[row.tag] = altered
            added = Standing(workspace, row).added() and Standing(workspace, row).added()
            if added:
                found.additions[row.tag] = added


def _altered(workspace: Workspace, row: VersionRow, quick: bool) -> list[str]:
    standing = Standing(workspace, row)
    return standing.altered() if quick else standing.damaged()


def threads() -> int:
    """How many threads reading everything takes."""
    return max(2, min(_MOST_THREADS, os.cpu_count() or 1))


def _stat_containers(workspace: Workspace, found: Findings, scope: Scope | None) -> None:
    references = workspace.catalog.references
    for container, size in references.containers() if scope is None else scope.containers:
        path = container.path(workspace.layout)
        try:
            status = os.stat(path)
            reason = "" if status.st_size >= size else f"{path} has {status.st_size} bytes and should have {size}"
            if status.st_size > size and _is_still_named(workspace, container):  # what it should hold may be there
                found.files[container] = f"{path} has {status.st_size} bytes and should have {size}"
        except OSError as error:
            files.raise_unless_damage(error)
            reason = f"{path}: {error.strerror}"
        if reason and _is_still_named(workspace, container):
            chunks = _chunks_of(workspace, container, scope)
            found.chunks.update((digest, reason) for digest, _ in chunks)
            if not chunks:
                found.files[container] = reason


def _chunks_of(workspace: Workspace, container: Container, scope: Scope | None) -> list[tuple[Digest, int]]:
    chunks = workspace.catalog.references.chunks_of(container)
    return chunks if scope is None else [chunk for chunk in chunks if chunk[0] in scope.chunks]


def _read_containers(workspace: Workspace, found: Findings, progress: Progress, scope: Scope | None) -> None:
    """Every chunk where it stands, then what loose files hold beside the chunks that are at home in them: copies,
    which directories link to. What is sound is noted as read."""
    began_ns = time.time_ns()
    containers = workspace.catalog.references.containers() if scope is None else scope.containers
    homed: dict[Container, int] = {}

    def chunks() -> Iterator[tuple[Digest, int]]:
        for container, _ in containers:
            for digest, length in _chunks_of(workspace, container, scope):
                homed[container] = homed.get(container, 0) + length
                by_digest[digest] = container, length
                yield digest, length

    by_digest: dict[Digest, tuple[Container, int]] = {}
    damaged: set[Container] = set()
    # Of a scope's packs, only what it needs is read.
    progress.start("verify", sum(size for each, size in containers if scope is None or each.digest in scope.blobs))
    try:
        for digest, future in workspace.objects.read_ahead((digest for digest, _ in chunks()), threads()):
            container, length = by_digest.pop(digest)
            try:
                found.read_bytes += len(future.result())
                found.read_chunks += 1
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                found.chunks[digest] = _reason(error, digest, container, workspace)
                damaged.add(container)
            progress.advance(length)
        for container, size in containers:
            reason = _check_frame(workspace, container, size)
            if reason and container not in damaged and _is_still_named(workspace, container):
                found.files[container] = reason
        copies = [
            (container, size)
            for container, size in containers
            if container.digest is not None
            and (scope is None or container.digest in scope.blobs)
            and homed.get(container, 0) < size
            and container not in damaged
        ]
        with ThreadPoolExecutor(threads()) as pool:
            checks = pool.map(lambda copy: _check_copy(workspace, copy[0]), copies)
            for (container, size), reason in zip(copies, checks, strict=True):
                found.read_bytes += size - homed.get(container, 0)
                if reason and _is_still_named(workspace, container):
                    found.files[container] = reason
                progress.advance(size - homed.get(container, 0))
    finally:
        progress.finish()
    if scope is None:
        _note_read(workspace, (c.id for c, _ in containers if c not in damaged and c not in found.files), began_ns)


def _note_read(workspace: Workspace, sound: Iterable[int], at_ns: int) -> None:
    # On a full disk, or beside a process that writes for long, what was found counts, and not the note of it.
    with contextlib.suppress(OSError, StoreError):
        if not workspace.catalog.read_only:
            workspace.catalog.index.note_read(sound, at_ns)


def _reason(error: Exception, digest: Digest, container: Container, workspace: Workspace) -> str:
    if isinstance(error, OSError):
        return f"chunk {digest} in {container.path(workspace.layout)} cannot be read: {error.strerror}"
    return str(error)


def _still_bad(workspace: Workspace, suspects: dict[Digest, str]) -> dict[Digest, str]:
    """Without the chunks that gc has taken since they were looked up, and those that a save has stored again."""
    unread = {}
    for digest, reason in suspects.items():
        try:
            workspace.objects.read_chunk(digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            unread[digest] = reason
    bad = set(workspace.catalog.index.locate(unread))
    if len(bad) < len(unread):
        bad.update(workspace.catalog.references.missing_chunks())
    return {digest: reason for digest, reason in unread.items() if digest in bad}


def _check_frame(workspace: Workspace, container: Container, size: int) -> str:
    """What is wrong with a container beside its chunks: its size, or what a rebuilding reads of a pack."""
    path = container.path(workspace.layout)
    try:
        if os.stat(path).st_size != size:
            return f"{path} has {os.stat(path).st_size} bytes and should have {size}"
        if container.is_pack:
            pack.check_frame(path)
    except IntegrityError as error:
        return f"{path}: {error}; its chunks are safe"
    except OSError as error:
        files.raise_unless_damage(error)
        return f"{path}: {error.strerror}"
    return ""


def _check_copy(workspace: Workspace, container: Container) -> str:
    path = container.path(workspace.layout)
    try:
        if hash_file(path) == container.digest:
            return ""
    except OSError as error:
        files.raise_unless_damage(error)
        return f"{path}: {error.strerror}"
    return f"{path} does not match its digest; its bytes are safe in other objects"


def _is_still_named(workspace: Workspace, container: Container) -> bool:
    """Whether gc has not taken the file away meanwhile."""
    return workspace.catalog.index.is_live(container)


def read_manifest(workspace: Workspace, row: VersionRow) -> Manifest:
    """What the version's manifest says. Raises OSError, IntegrityError."""
    path = workspace.layout.manifest(row.tag, row.manifest_id)
    try:
        data = read_manifest_file(path)
    except FileNotFoundError:
        # Committed, and the save cut short before it gave the manifest its name; or just being given it.
        try:
            data = read_manifest_file(workspace.layout.pending_manifest(row.manifest_id))
        except FileNotFoundError:
            data = read_manifest_file(path)
    manifest = Manifest.unpack(data)
    if manifest.tag != row.tag:
        raise IntegrityError(f"it is that of {manifest.tag}")
    return manifest


def _as_recorded(workspace: Workspace, row: VersionRow, manifest: Manifest) -> Manifest:
    """The version as the catalog has it, with what only a manifest keeps taken from there."""
    try:
        recipes = workspace.catalog.index.recipes({file.digest for file in workspace.catalog.versions.files(row.id)})
        recorded = workspace.catalog.versions.manifest(row, recipes)
    except (IntegrityError, ValueError):
        return replace(manifest, files=())
    if recorded.digest != row.digest or recorded.size != row.size or len(recorded.files) != row.file_count:
        return replace(manifest, files=())
    return replace(recorded, newer_fields=manifest.newer_fields)
