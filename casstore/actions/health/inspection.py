"""Finding what is wrong with a store: rows against manifests, directories and containers against what was put there.

Changes nothing but the note of when containers were read. `verify` reports what is found, and `repair` goes by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from casstore.actions import signatures
from casstore.actions.consistency import alias_log
from casstore.actions.directories.standing import Standing
from casstore.actions.health.containers import inspect_containers
from casstore.actions.health.findings import Findings, Scope
from casstore.actions.registry.annotating import damaged_logs
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import CatalogDamaged, IntegrityError
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.tag import Tag


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
    names = None if rows is None else {row.name for row in rows}
    found.alias_logs |= alias_log.faults(workspace, names)
    found.logs |= damaged_logs(workspace, names)
    found.signatures |= signatures.faults(workspace.layout, None if rows is None else {row.digest for row in rows})
    inspect_directories(workspace, found, quick=quick, rows=rows)
    inspect_containers(workspace, found, progress, quick=quick, scope=scope)
    return found


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
        if not _is_known(workspace, tag, manifest_id):
            dead = {each for each, _ in workspace.catalog.deletions.tombstones()}
            if manifest_id not in dead and _is_manifest_of(path, tag) and not _is_known(workspace, tag, manifest_id):
                found[tag] = (
                    f"{path} is the manifest of a version that the catalog does not know; "
                    "`casstore repair --rebuild-catalog` makes it anew"
                )
    return found


def _is_known(workspace: Workspace, tag: Tag, manifest_id: str) -> bool:
    """Whether the version has it after all: one that has just been brought back from the trash."""
    row = workspace.catalog.versions.find(tag)
    return row is not None and row.manifest_id == manifest_id


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
        row.said_later()
        recipes = workspace.catalog.index.recipes({file.digest for file in workspace.catalog.versions.files(row.id)})
        recorded = workspace.catalog.versions.manifest(row, recipes)
    except (IntegrityError, ValueError):
        return replace(manifest, files=())
    if recorded.digest != row.digest or recorded.size != row.size or len(recorded.files) != row.file_count:
        return replace(manifest, files=())
    return replace(recorded, newer_fields=manifest.newer_fields)
