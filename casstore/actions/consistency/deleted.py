"""Manifests of deleted versions, kept in manifests/.deleted/ while a loose file is left that they alone explain.

A loose file does not say how it is cut into chunks; the manifests of its versions do. Another version may need a chunk
of it when the last of these is deleted, until gc has packed that chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage import files
from casstore.storage.layout import Layout, is_file_id
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.tag import Tag


def keep_all(
    layout: Layout, deleted: Sequence[tuple[Tag, str]], trashed: Set[str]
) -> list[tuple[Tag, OSError]]:  # fmt: skip
    """Move the manifests of deleted versions of one name, given by id, to where they belong to no version: those of
    versions in the trash (`trashed`) into `manifests/.trash/`.

    That is on disk when this returns. Returns those that cannot be moved, and why. Raises OSError.
    """
    failures = []
    for tag, manifest_id in deleted:
        try:
            _keep(layout, tag, manifest_id, manifest_id in trashed)
        except OSError as error:
            failures.append((tag, error))
    # A power cut may bring the name in `.pending` back. A manifest in `.deleted` or `.trash` belongs to no version.
    ids = [manifest_id for _, manifest_id in deleted]
    places = [_place(layout, manifest_id, manifest_id in trashed) for manifest_id in ids]
    are_kept = [is_file_id(manifest_id) and place.exists() for manifest_id, place in zip(ids, places, strict=True)]
    for room in sorted({place.parent for place, is_kept in zip(places, are_kept, strict=True) if is_kept}):
        files.sync_directory(room)
    if not trashed >= set(ids) and layout.trashed_manifests.is_dir():
        files.sync_directory(layout.trashed_manifests)  # from where they may have come
    if not all(are_kept):
        files.sync_directory(layout.pending_manifests)
    parent = layout.manifest(*deleted[0]).parent
    if parent.exists():  # also if they were gone already: the process that removed them may have been interrupted
        files.sync_directory(parent)
        files.remove_empty_directory(parent)
    return failures


def _place(layout: Layout, manifest_id: str, is_trashed: bool) -> Path:
    return layout.trashed_manifest(manifest_id) if is_trashed else layout.deleted_manifest(manifest_id)


def _keep(layout: Layout, tag: Tag, manifest_id: str, is_trashed: bool) -> None:
    kept, final = _place(layout, manifest_id, is_trashed), layout.manifest(tag, manifest_id)
    places = [
        final,
        layout.pending_manifest(manifest_id),
        *([] if is_trashed else [layout.trashed_manifest(manifest_id)]),
    ]
    for path in places if is_file_id(manifest_id) else ():  # a damaged catalog may say anything
        with contextlib.suppress(FileNotFoundError):
            files.rename(path, kept)
            break
    for path in places:
        files.remove_file(path)


def kept_ids(layout: Layout) -> list[str]:
    """The ids of the manifests that are kept. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):  # in stores of earlier releases there is no such directory
        return sorted(path.name for path in layout.deleted_manifests.iterdir() if is_file_id(path.name))
    return []


def kept_manifests(layout: Layout) -> Iterator[tuple[str, Manifest]]:
    """The kept manifests that can be read, with their ids. Raises OSError."""
    for manifest_id in kept_ids(layout):
        with contextlib.suppress(IntegrityError, FileNotFoundError):
            yield manifest_id, _read(layout, manifest_id)


def _read(layout: Layout, manifest_id: str) -> Manifest:
    """Raises IntegrityError for one that is damaged, FileNotFoundError, OSError."""
    try:
        return Manifest.unpack(read_manifest_file(layout.deleted_manifest(manifest_id)))
    except OSError as error:
        files.raise_unless_damage(error)
        if isinstance(error, FileNotFoundError):
            raise
        raise IntegrityError(f"a manifest cannot be read: {error}") from error


def drop_unneeded(workspace: Workspace) -> None:
    """Remove the kept manifests without which every loose file can be read. Raises OSError."""
    layout = workspace.layout
    unneeded = [manifest_id for manifest_id in kept_ids(layout) if not _is_needed(workspace, manifest_id)]
    if unneeded:
        files.sync_directory(layout.pending_manifests)  # see `keep_all`
    for manifest_id in unneeded:
        files.remove_file(layout.deleted_manifest(manifest_id))


def _is_needed(workspace: Workspace, manifest_id: str) -> bool:
    references = workspace.catalog.references
    try:
        manifest = _read(workspace.layout, manifest_id)
    except FileNotFoundError:
        return False
    except UnsupportedFormat:
        return True
    except IntegrityError:  # a disk may read later what it cannot now
        return references.has_orphans()
    row = workspace.catalog.versions.find(manifest.tag)
    if row is not None and row.manifest_id == manifest_id:
        # An older catalog has been put back; `repair` makes the manifest again.
        return not workspace.layout.manifest(manifest.tag, manifest_id).exists()
    return references.has_unexplained_chunks(manifest.recipes)
