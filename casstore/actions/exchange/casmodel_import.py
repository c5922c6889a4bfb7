"""Reading a `.casmodel`: chunks that the store lacks go into packs as they arrive, and the versions appear at the end.

Packs are recorded as they are completed, though no version needs them yet. So an interrupted import leaves what it has
received until the next gc, and running the same import again continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from casstore.actions.exchange.arrivals import Arrival, Wishes
from casstore.actions.packs.receiving import Receiving, check_blobs
from casstore.actions.saving.commit import commit_stored
from casstore.actions.saving.needed import find_lost
from casstore.actions.saving.trust import Trust
from casstore.actions.sources.source import check_collisions
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.archive.limits import FREE_BYTES, MAX_RATIO
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidMetadata, InvalidSource, TagExists, UnsafeArchive
from casstore.progress import Progress
from casstore.storage.manifest import Manifest
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.tag import Tag

# The same limit as for archives of other formats.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4096
_MAX_DEPTH = 200
_NOTHING = Digest.of(b"")


@dataclass(slots=True)
class CasmodelImport:
    """The import of one archive. It may be run again if gc has interfered. `name`: what errors call the archive."""

    workspace: Workspace
    session: Session
    name: str
    wishes: Wishes
    progress: Progress
    _done: set[Tag] = field(default_factory=set)
    _read_bytes: int = 0

    def run(self, stream: BinaryIO) -> list[Arrival]:
        """Import every version of the archive, which begins at the current position of `stream`.

        Raises IntegrityError, UnsafeArchive, InvalidSource, TagExists, OSError before any version is visible. Raises
        ChunkVanished if gc removed chunks on which this had relied; then run it again.
        """
        self._read_bytes = 0
        reader = casmodel.Reader(stream, self.name, self._advance)
        manifests = self._manifests(reader)
        named = {digest for manifest in manifests for digest in _chunks_of(manifest)}
        manifests = _by_known_recipes(self.workspace, manifests, self.name)
        new = [manifest for manifest in manifests if _present(self.workspace, manifest) is None]
        self._receive(reader, manifests, new, named)
        for manifest in new:
            self._commit(manifest)
        rows = [self.workspace.catalog.versions.find(manifest.tag) for manifest in manifests]
        return [Arrival(row, row.tag in self._done) for row in rows if row is not None]

    def _advance(self, read_bytes: int) -> None:
        self._read_bytes += read_bytes
        self.progress.advance(read_bytes)

    def _manifests(self, reader: casmodel.Reader) -> list[Manifest]:
        """The manifests of the archive, under the requested tags. Raises InvalidSource, UnsafeArchive."""
        manifests = [_checked(manifest, self.name) for manifest in reader.manifests()]
        if self.wishes.tag is not None:
            if len(manifests) != 1:
                raise InvalidSource(
                    f"{self.name} holds {len(manifests)} versions, which one tag cannot name; leave out --as"
                )
            manifests = [replace(manifests[0], tag=self.wishes.tag)]
        _check_tags(manifests, self.name)
        return manifests

    def _receive(
        self, reader: casmodel.Reader, manifests: Sequence[Manifest], new: Sequence[Manifest], named: set[Digest]
    ) -> None:
        """Store the chunks that the store lacks, and check the blobs. `named`: the chunks that the archive has."""
        incoming = Receiving(self.workspace, self.session, self.wishes.durable, self.name, find_lost)
        try:
            # Also those of versions that are here already: some of their chunks may be lost.
            recipes = (manifest.recipe_of(file) for manifest in manifests for file in manifest.files)
            incoming.take_all(reader, recipes, named)
            if self.wishes.trust is not Trust.GIVEN:
                _check_proportion(new, self._read_bytes, self.name)
            blobs = {file.digest: manifest.recipe_of(file) for manifest in new for file in manifest.files}
            check_blobs(self.workspace, blobs, self.name, self.progress)
        except BaseException as error:
            incoming.salvage()
            if isinstance(error, IntegrityError) and incoming.has_lost():
                raise ChunkVanished from error
            raise

    def _commit(self, manifest: Manifest) -> None:
        durable, trust = self.wishes.durable, self.wishes.trust
        try:
            commit_stored(self.workspace, self.session, manifest, durable=durable, trust=trust)
            self._done.add(manifest.tag)
        except TagExists:
            if _present(self.workspace, manifest) is None:
                raise


def _checked(manifest: Manifest, name: str) -> Manifest:
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


def _by_known_recipes(workspace: Workspace, manifests: Sequence[Manifest], name: str) -> list[Manifest]:
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


def _chunks_of(manifest: Manifest) -> Iterator[Digest]:
    for file in manifest.files:
        yield from manifest.recipe_of(file).digests


def _check_tags(manifests: Sequence[Manifest], name: str) -> None:
    seen: set[Tag] = set()
    for manifest in manifests:
        if manifest.tag in seen:
            raise UnsafeArchive(f"{name} holds two versions of the tag {manifest.tag}")
        seen.add(manifest.tag)


def _present(workspace: Workspace, manifest: Manifest) -> VersionRow | None:
    """The saved version of this tag, if it is the same; None if there is none. Raises TagExists for another."""
    row = workspace.catalog.versions.find(manifest.tag)
    if row is None:
        return None
    saved = row.described().completed().marked(is_untrusted=False)
    if row.digest != manifest.digest or saved != manifest.description.marked(is_untrusted=False):
        what = "files" if row.digest != manifest.digest else "labels, metadata or other parts of its description"
        raise TagExists(
            f"another {manifest.tag} is saved already ({what} differ), and saved versions never change; delete it, or "
            "import this one as another version with --as NAME:VERSION (in Python: as_tag=...)"
        )
    return row


def _check_proportion(new: Sequence[Manifest], read_bytes: int, name: str) -> None:
    """Refuse versions, and directories of the newest of each name, that are out of proportion. Raises UnsafeArchive."""
    most = FREE_BYTES + MAX_RATIO * read_bytes
    newest: dict[str, Manifest] = {}
    for manifest in sorted(new, key=lambda manifest: manifest.created_at_ns):
        newest[manifest.tag.name] = manifest
        if manifest.size > most:
            raise _out_of_proportion(str(manifest.tag), manifest.size, read_bytes, name)
    total = sum(manifest.size for manifest in newest.values())
    if total > most:
        raise _out_of_proportion(f"the newest versions of {len(newest):,} names", total, read_bytes, name)


def _out_of_proportion(what: str, size: int, read_bytes: int, name: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"{what} would take {size:,} bytes out of {read_bytes:,} in {name}; if you trust it, import it with --trust "
        "(in Python: trust=True)"
    )
