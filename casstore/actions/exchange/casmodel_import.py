"""Reading a `.casmodel`: chunks that the store lacks go into packs as they arrive, and the versions appear at the end.

Packs are recorded as they are completed, though no version needs them yet. So an interrupted import leaves what it has
received until the next gc, and running the same import again continues from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from casstore.actions.exchange.arrivals import Arrival, Wishes
from casstore.actions.exchange.arriving_manifests import by_known_recipes, checked_manifest, present
from casstore.actions.exchange.carried import Admitted, check_arrived
from casstore.actions.packs.blob_checks import BlobChecks
from casstore.actions.packs.receiving import Receiving, elements
from casstore.actions.saving.commit import commit_stored, commit_stored_together
from casstore.actions.saving.needed import find_lost
from casstore.actions.saving.trust import Trust
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.archive.limits import FREE_BYTES, MAX_RATIO
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.events import Noted
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, TagExists, UnsafeArchive
from casstore.progress import Progress
from casstore.storage.manifest import Manifest
from casstore.storage.sessions import Session
from casstore.tag import Tag

_MOST_TOGETHER = 32  # versions of one transaction, for which the catalog is locked


@dataclass(slots=True)
class CasmodelImport:
    """The import of one archive. It may be run again if gc has interfered. `name`: what errors call the archive.
    `aliases`: what it says of aliases, once it has been run; None where it says nothing of them."""

    workspace: Workspace
    session: Session
    name: str
    wishes: Wishes
    progress: Progress
    aliases: list[tuple[Tag, str]] | None = None
    _bundles: dict[bytes, list[bytes]] = field(default_factory=dict)  # signatures, by the digests of versions
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
        manifests = by_known_recipes(self.workspace, manifests, self.name)
        new = [manifest for manifest in manifests if present(self.workspace, manifest) is None]
        self._receive(reader, manifests, new, named)
        self._check_signatures(new)
        for start in range(0, len(new), _MOST_TOGETHER):
            self._commit_all(new[start : start + _MOST_TOGETHER])
        rows = [self.workspace.catalog.versions.find(manifest.tag) for manifest in manifests]
        return [self._arrival(row) for row in rows if row is not None]

    def _arrival(self, row: VersionRow) -> Arrival:
        came = ((f"of {row.tag}", bundle) for bundle in self._bundles.get(row.digest, ()))
        return Admitted.of(came).kept(self.workspace, self.session, Arrival(row, row.tag in self._done))

    def _check_signatures(self, new: Sequence[Manifest]) -> None:
        """Check that these versions are signed, if the store says that they must be: their chunks are here by now.

        Raises InvalidSignature, InvalidSource, IntegrityError.
        """
        for manifest in new:
            bundles, name = self._bundles.get(manifest.digest, ()), f"{manifest.tag} in {self.name}"
            check_arrived(self.workspace, manifest, bundles, name, self.progress)

    def _advance(self, read_bytes: int) -> None:
        self._read_bytes += read_bytes
        self.progress.advance(read_bytes)

    def _manifests(self, reader: casmodel.Reader) -> list[Manifest]:
        """The manifests of the archive, under the requested tags. Raises InvalidSource, UnsafeArchive."""
        manifests = [checked_manifest(manifest, self.name) for manifest in reader.manifests()]
        self.aliases = reader.aliases
        digest_of = {manifest.tag: bytes(manifest.digest) for manifest in manifests}
        self._bundles = {}
        for tag, bundle in reader.signatures:
            self._bundles.setdefault(digest_of[tag], []).append(bundle)
        if self.wishes.tag is not None:
            if len(manifests) != 1:
                raise InvalidSource(
                    f"{self.name} holds {len(manifests)} versions, which one tag cannot name; leave out --as"
                )
            manifests = [replace(manifests[0], tag=self.wishes.tag)]
            if self.aliases is not None:
                self.aliases = [(self.wishes.tag, alias) for _, alias in self.aliases]
        _check_tags(manifests, self.name)
        return manifests

    def _receive(
        self, reader: casmodel.Reader, manifests: Sequence[Manifest], new: Sequence[Manifest], named: set[Digest]
    ) -> None:
        """Store the chunks that the store lacks, and check the blobs. `named`: the chunks that the archive has."""
        recipes = {file.digest: manifest.recipe_of(file) for manifest in new for file in manifest.files}
        blobs = BlobChecks(self.workspace, recipes, self.name)
        incoming = Receiving(self.workspace, self.session, self.wishes.durable, self.name, find_lost, blobs)
        try:
            # Also those of versions that are here already: some of their chunks may be lost.
            chunks = elements(manifest.recipe_of(file) for manifest in manifests for file in manifest.files)
            here = incoming.rely_on(chunks.keys(), named)
            incoming.take_all(reader, {digest: chunks[digest] for digest in chunks.keys() - here}, named)
            if self.wishes.trust is not Trust.GIVEN:
                _check_proportion(new, self._read_bytes, self.name)
            blobs.finish(self.progress)
        except BaseException as error:
            incoming.salvage()
            if isinstance(error, IntegrityError) and incoming.has_lost():
                raise ChunkVanished from error
            raise

    def _commit_all(self, manifests: Sequence[Manifest]) -> None:
        """Commit versions in one transaction or, if another process has just saved one of them, each by itself."""
        durable, trust = self.wishes.durable, self.wishes.trust
        if len(manifests) > 1:
            with contextlib.suppress(TagExists):
                event = Noted("imported")
                commit_stored_together(self.workspace, self.session, manifests, event, durable=durable, trust=trust)
                self._done.update(manifest.tag for manifest in manifests)
                return
        for manifest in manifests:
            self._commit(manifest)

    def _commit(self, manifest: Manifest) -> None:
        durable, trust = self.wishes.durable, self.wishes.trust
        try:
            commit_stored(self.workspace, self.session, manifest, Noted("imported"), durable=durable, trust=trust)
            self._done.add(manifest.tag)
        except TagExists:
            if present(self.workspace, manifest) is None:
                raise


def _chunks_of(manifest: Manifest) -> Iterator[Digest]:
    for file in manifest.files:
        yield from manifest.recipe_of(file).digests


def _check_tags(manifests: Sequence[Manifest], name: str) -> None:
    seen: set[Tag] = set()
    for manifest in manifests:
        if manifest.tag in seen:
            raise UnsafeArchive(f"{name} holds two versions of the tag {manifest.tag}")
        seen.add(manifest.tag)


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
