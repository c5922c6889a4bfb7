"""Bringing to disk what versions rely on: files of the store that relaxed saves wrote without an fsync."""

from __future__ import annotations

import os
from collections.abc import Iterable

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import IntegrityError
from casstore.storage import files
from casstore.storage.container import Container
from casstore.storage.recipe import Recipe


def bring_to_disk(workspace: Workspace, unsynced: Iterable[Container]) -> list[Container]:
    """Fsync these containers (see `Index.unsynced_containers`) and their names; returns those that gc has not removed.

    A container whose fsync fails is distrusted from then on and never tried again: the kernel may have dropped the
    pages that it could not write, and a second fsync would succeed and prove nothing. Raises OSError.
    """
    index = workspace.catalog.index
    brought: dict[str, list[Container]] = {}
    for container in unsynced:
        path = container.path(workspace.layout)
        try:
            files.sync_file(path)
        except FileNotFoundError:
            continue
        except OSError:
            index.distrust([container])
            raise
        brought.setdefault(os.path.dirname(path), []).append(container)
    for directory, containers in sorted(brought.items()):
        try:
            files.sync_directory(directory)
        except OSError:
            index.distrust(containers)
            raise
    return [container for containers in brought.values() for container in containers]


def secure(workspace: Workspace, row: VersionRow) -> None:
    """Make sure of a version before another copy of it is removed: read every byte, and sync what was saved relaxed.

    Raises IntegrityError if it is damaged or cannot be trusted to be on disk; OSError.
    """
    entries = workspace.catalog.versions.checked_files(row)
    index = workspace.catalog.index
    recipes = index.recipes({file.digest for file in entries})
    owners = {
        digest: file.path
        for file in entries
        for digest in (recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)).digests
    }
    for digest, future in workspace.objects.read_ahead(owners):
        try:
            future.result()
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            raise IntegrityError(
                f"{owners[digest]} of {row.tag} is damaged in the store: {error}; `casstore repair --from DIRECTORY` "
                "heals it from another copy"
            ) from error
    needed = owners.keys() | index.bases_of(owners.keys())
    workspace.catalog.commits.note_synced(bring_to_disk(workspace, index.unsynced_containers(needed)))
    if index.distrusted(needed):
        raise IntegrityError(
            f"{row.tag} may not be on disk: syncing its files has failed before. Delete it and save it again"
        )
