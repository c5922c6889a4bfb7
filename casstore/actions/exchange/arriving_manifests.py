"""Manifests from outside, out of an archive or a remote: checked as if a stranger had written them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from casstore.actions.sources.source import check_collisions
from casstore.actions.workspace import Workspace
from casstore.catalog.commits import left_to_a_remote
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidMetadata, InvalidSource, TagExists, UnsafeArchive
from casstore.storage.manifest import Manifest
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe

# The same limit as for archives of other formats.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4096
_MAX_DEPTH = 200
_NOTHING = Digest.of(b"")


def checked_manifest(manifest: Manifest, name: str) -> Manifest:
    """A manifest from an archive, in the form that a save would write. Raises InvalidSource, IntegrityError."""
    paths = [file.path for file in manifest.files]
    directories = list(manifest.directories)
    for path in map(as_stored, [*paths, *directories]):
        parts = path.split("/")
        is_long = len(parts) > _MAX_DEPTH or len(path.encode("utf-8")) > _MAX_PATH_BYTES
        if is_long or any(len(part.encode("utf-8")) > _MAX_NAME_BYTES for part in parts):
            raise UnsafeArchive(f"{name} has a file whose name is too long: {path[:60]!r}...")
    check_collisions([*paths, *directories])
    if paths != sorted(paths, key=as_stored) or directories != sorted(set(directories), key=as_stored):
        raise IntegrityError(f"the files of {manifest.tag} in {name} are not in order")
    if full := {parent for path in [*paths, *directories] for parent in _parents(path)}.intersection(directories):
        raise IntegrityError(f"the directory {min(full)!r} of {manifest.tag} in {name} is not empty as it says")
    said = manifest.description.completed()
    try:
        description = replace(said, metadata=said.numbers).checked()
    except InvalidMetadata as error:
        raise InvalidSource(f"what {name} says of {manifest.tag} cannot be kept: {error}") from error
    if len(manifest.casstore_version) > _MAX_NAME_BYTES:
        raise InvalidSource(f"what {name} says of the release that wrote {manifest.tag} is too long")
    return replace(manifest, description=description, created_at_ns=min(manifest.created_at_ns, time.time_ns()))


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def by_known_recipes(workspace: Workspace, manifests: Sequence[Manifest], name: str) -> list[Manifest]:
    """The manifests, with one recipe for each blob: the store's own if it has one.

    Raises IntegrityError if they contradict each other or the catalog.
    """
    told: dict[Digest, Recipe] = {}
    for manifest in manifests:
        for file in manifest.files:
            recipe = manifest.recipe_of(file)
            # A blob without a stored recipe is one chunk of the same digest, or is not stored.
            if not recipe.is_stored and (recipe.digests or [_NOTHING]) != [file.digest]:
                raise IntegrityError(f"a file in {name} is not what its digest says: {file.path} of {manifest.tag}")
            if told.setdefault(file.digest, recipe) != recipe:
                raise IntegrityError(f"{name} says in two ways what {file.path} of {manifest.tag} is made of")
    known = workspace.catalog.index.as_known(told)
    for digest, recipe in known.items():
        if recipe.size != told[digest].size:
            raise IntegrityError(f"a file in {name} has {recipe.size:,} bytes, not {told[digest].size:,}: {digest}")
    return [
        replace(manifest, recipes={f.digest: known[f.digest] for f in manifest.files if known[f.digest].is_stored})
        for manifest in manifests
    ]


def present(workspace: Workspace, manifest: Manifest) -> VersionRow | None:
    """The saved version of this tag, if it is the same; None if there is none. Raises TagExists for another, here or
    left to a remote.
    """
    row = workspace.catalog.versions.find(manifest.tag)
    if row is None:
        left = workspace.catalog.remotes.elsewhere(manifest.tag.name)
        if any(each.tag == manifest.tag and each.digest != manifest.digest for each in left):
            raise TagExists(left_to_a_remote(manifest.tag))
        return None
    saved = row.described().completed().marked(is_untrusted=False)
    if row.digest != manifest.digest or saved != manifest.description.marked(is_untrusted=False):
        what = "files" if row.digest != manifest.digest else "labels, metadata or other parts of its description"
        raise TagExists(
            f"another {manifest.tag} is saved already ({what} differ), and saved versions never change; delete it, or "
            "import this one as another version with --as NAME:VERSION (in Python: as_tag=...)"
        )
    return row
