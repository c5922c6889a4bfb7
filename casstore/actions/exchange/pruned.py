"""Versions that `sync-tree --prune` has deleted where there is no trash. Their manifests are kept in quarantine/pruned/
for a while, with the bytes that they need, since the user who removed a directory may not have meant the version."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from casstore.actions import keeping
from casstore.actions.consistency.held import held_manifests
from casstore.actions.health.inspection import read_manifest
from casstore.actions.registry import trash
from casstore.actions.saving.commit import commit_stored
from casstore.actions.saving.trust import Trust
from casstore.actions.workspace import Workspace
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.events import Noted
from casstore.catalog.versions import VersionRow
from casstore.errors import AmbiguousTag, IntegrityError, InvalidTag, TagNotFound
from casstore.storage import files
from casstore.tag import Tag, TagQuery


def keep(workspace: Workspace, row: VersionRow) -> None:
    """Keep the manifest of a version that is about to be deleted; it is on disk when this returns. Nothing for one that
    has been deleted. Raises OSError, IntegrityError where neither manifest nor catalog say what the version is."""
    layout = workspace.layout
    try:
        manifest = read_manifest(workspace, row)
    except (IntegrityError, OSError) as error:
        files.raise_unless_damage(error)
        listed = workspace.catalog.versions.checked_files(row)
        recipes = workspace.catalog.index.recipes({file.digest for file in listed})
        manifest = workspace.catalog.versions.manifest(row, recipes)
        if workspace.catalog.versions.by_id(row.id) is None:
            return
    directory = keeping.new_directory(layout.pruned_manifests)
    path = directory / f"{row.name}.{row.version}"
    mode = workspace.file_mode(executable=False)
    with workspace.session() as session:
        files.write_file(path, manifest.pack(), mode, temporary=session.new_path(), durable=True)
    for parent in (layout.pruned_manifests, layout.quarantine):
        files.sync_directory(parent)


def restore(workspace: Workspace, query: TagQuery, *, durable: bool) -> Tag:
    """Bring a version back that `sync-tree --prune` has deleted, from the trash, or by saving it again; returns its
    tag, which the query must name in full.

    Raises InvalidTag, TagNotFound for one that is not kept, TagExists, IntegrityError where bytes of it are lost,
    OSError.
    """
    if query.version is None or query.wants_newest:
        raise InvalidTag(f"{query} names no version; say which one to bring back, such as {query.name}:VERSION")
    tag = Tag(query.name, query.version)
    with contextlib.suppress(TagNotFound, AmbiguousTag):
        trashed = trash.find(workspace, query)
        if trashed.version.tag == tag:
            return trash.undelete(workspace, trashed, tag)
    held = list(held_manifests(workspace))
    found = next(((path, manifest) for path, manifest in reversed(held) if manifest.tag == tag), None)
    if found is None:
        tags = ", ".join(sorted({str(manifest.tag) for _, manifest in held})) or "none"
        raise TagNotFound(
            f"{tag} is not among the versions that sync-tree --prune has deleted and that are kept: {tags}"
        )
    path, manifest = found
    recipes = workspace.catalog.index.as_known({file.digest: manifest.recipe_of(file) for file in manifest.files})
    stored = {digest: recipe for digest, recipe in recipes.items() if recipe.is_stored}
    with workspace.session() as session:
        try:
            known = replace(manifest, recipes=stored)
            commit_stored(workspace, session, known, Noted("restored"), durable=durable, trust=Trust.AS_KNOWN)
        except ChunkVanished as error:
            raise IntegrityError(f"{tag} cannot be brought back: the store does not have all of its bytes") from error
    files.remove_tree(path.parent)
    return tag
