"""Making sure of a version before another copy of it goes."""

from __future__ import annotations

import os

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import IntegrityError
from casstore.storage import files
from casstore.storage.recipe import Recipe


def secure(workspace: Workspace, row: VersionRow) -> None:
    """Read every byte of a version, and bring to disk what was saved as relaxed.

    Raises IntegrityError when it is damaged, OSError.
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
    homes = index.unsynced_homes(owners.keys() | index.bases_of(owners.keys()))
    for home in homes:
        path = home.path(workspace.layout)
        try:
            files.sync_file(path)
            files.sync_directory(os.path.dirname(path))
        except OSError:
            index.distrust(home)
            raise
    workspace.catalog.versions.note_synced(homes)
