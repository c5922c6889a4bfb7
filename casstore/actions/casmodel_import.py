"""Reading a `.casmodel`: chunks that the store lacks go into packs as they come, and the versions appear at the end.

Packs are made known as they are completed, though no version needs them yet. So an import that was cut short leaves
what had come, until the next gc, and the same import, run again, takes up from there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import blake3

from casstore.actions.bases import encode_chunk
from casstore.actions.descriptor import CUSTOM_OBJECTS_NAME, describe
from casstore.actions.packing import PackBuilder
from casstore.actions.save import commit_stored, find_lost
from casstore.actions.source import check_collisions
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.archive.limits import FREE_BYTES, MAX_RATIO
from casstore.catalog.index import Link
from casstore.catalog.sessions import Session
from casstore.catalog.versions import NewChunk, NewContainer, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidMetadata, InvalidSource, TagExists, UnsafeArchive
from casstore.progress import Progress
from casstore.storage import delta, pack
from casstore.storage.container import MAX_LINKS, Container, Location
from casstore.storage.files import sync_directory
from casstore.storage.manifest import Manifest
from casstore.storage.objects import Objects
from casstore.storage.pack import PackEntry
from casstore.storage.tensors import Element, element_of
from casstore.tag import Tag

# What an import that is cut short may have to read again.
_PACK_BYTES = 256 << 20
# Records that are written and then checked together; their raw bytes are in memory one by one.
_BATCH_BYTES = 32 << 20
_MAX_NAME_BYTES = 255


def import_versions(
    workspace: Workspace, session: Session, stream: BinaryIO, name: str, *, tag: Tag | None, trust: bool,
    durable: bool, progress: Progress,
) -> list[tuple[VersionRow, bool]]:  # fmt: skip
    """Import every version of an archive; returns them, and whether each is new. `tag`: instead of the only one's.

    Raises IntegrityError, UnsafeArchive, InvalidSource, TagExists, OSError before any version is visible, and
    ChunkVanished when gc took chunks on which this had relied: then it is to be run again.
    """
    read_bytes = 0

    def advance(done_bytes: int) -> None:
        nonlocal read_bytes
        read_bytes += done_bytes
        progress.advance(done_bytes)

    reader = casmodel.Reader(stream, name, advance)
    manifests = [_checked(manifest, name, trust) for manifest in reader.manifests()]
    if tag is not None:
        if len(manifests) != 1:
            raise InvalidSource(f"{name} holds {len(manifests)} versions, which one tag cannot name; leave out --as")
        manifests = [replace(manifests[0], tag=tag)]
    _check_tags(manifests, name)
    new = [manifest for manifest in manifests if _present(workspace, manifest) is None]
    incoming = _Incoming(workspace, session, durable)
    try:
        incoming.take_all(reader, new)
    except BaseException:
        incoming.salvage()
        raise
    for manifest in new:
        if not trust and manifest.size > FREE_BYTES + MAX_RATIO * read_bytes:
            raise UnsafeArchive(
                f"{manifest.tag} would take {manifest.size:,} bytes out of {read_bytes:,} in {name}; if you trust it, "
                "import it with --trust (in Python: trust=True)"
            )
    _check_blobs(workspace, new, name, progress)
    for manifest in new:
        try:
            commit_stored(workspace, session, manifest, durable=durable)
        except TagExists:
            if _present(workspace, manifest) is None:
                raise
            new = [each for each in new if each is not manifest]
    is_new = {manifest.tag for manifest in new}
    rows = [(workspace.catalog.versions.find(manifest.tag), manifest.tag in is_new) for manifest in manifests]
    return [(row, fresh) for row, fresh in rows if row is not None]


def _checked(manifest: Manifest, name: str, trust: bool) -> Manifest:
    """A manifest that has been read, with a description as a save would write it. Raises InvalidSource."""
    check_collisions([*(file.path for file in manifest.files), *manifest.directories])
    for path in [*(file.path for file in manifest.files), *manifest.directories]:
        if any(len(part.encode("utf-8")) > _MAX_NAME_BYTES for part in path.split("/")):
            raise UnsafeArchive(f"{name} has a file whose name is too long: {path[:60]!r}...")
    keys = ("labels", "metadata", "module", "api_version", "signatures", "options", "context")
    try:
        description = describe(**{key: manifest.description[key] for key in keys})
    except (InvalidMetadata, KeyError) as error:
        raise InvalidSource(f"what {name} says of {manifest.tag} cannot be kept: {error}") from error
    if not trust and any(file.path == CUSTOM_OBJECTS_NAME for file in manifest.files):
        description["untrusted"] = True
    return replace(manifest, description=description, created_at_ns=min(manifest.created_at_ns, time.time_ns()))


def _check_tags(manifests: Sequence[Manifest], name: str) -> None:
    seen: set[Tag] = set()
    for manifest in manifests:
        if manifest.tag in seen:
            raise UnsafeArchive(f"{name} holds two versions of the tag {manifest.tag}")
        seen.add(manifest.tag)


def _present(workspace: Workspace, manifest: Manifest) -> VersionRow | None:
    """The saved version of that tag, if it is this one; None when there is none. Raises TagExists for another."""
    row = workspace.catalog.versions.find(manifest.tag)
    if row is None:
        return None
    saved = {**row.described(), "untrusted": None}
    if row.digest != manifest.digest or saved != {**manifest.description, "untrusted": None}:
        what = "files" if row.digest != manifest.digest else "labels, metadata or what else is said of it"
        raise TagExists(
            f"another {manifest.tag} is saved already ({what} differ), and saved versions never change; delete it, or "
            "import this one as another version with --as NAME:VERSION (in Python: as_tag=...)"
        )
    return row


def _check_blobs(workspace: Workspace, manifests: Sequence[Manifest], name: str, progress: Progress) -> None:
    """Compare each new file as a whole with its digest: sound chunks in a wrong order would make a wrong file, and
    every save of the right one would then be taken for it. Raises IntegrityError.
    """
    files = [file for manifest in manifests for file in manifest.files]
    whole = workspace.catalog.index.locate({file.digest for file in files})
    for file in files:
        if file.digest in whole and whole[file.digest].raw_bytes != file.size:
            raise IntegrityError(f"{file.path} in {name} is not as long as it is said to be")
    recipes = {digest: recipe for manifest in manifests for digest, recipe in manifest.recipes.items()}
    known = workspace.catalog.index.recipes(recipes.keys())
    unchecked = [recipe for digest, recipe in recipes.items() if known.get(digest) != recipe]
    progress.start("verify", sum(recipe.size for recipe in unchecked))
    try:
        for recipe in unchecked:
            hasher = blake3.blake3()
            for chunk in workspace.objects.read_blob(recipe):
                hasher.update(chunk)
                progress.advance(len(chunk))
            if hasher.digest() != recipe.blob:
                raise IntegrityError(f"a file in {name} is not what its digest says: {recipe.blob}")
    finally:
        progress.finish()


@dataclass(slots=True)
class _Incoming:
    """Puts chunks into packs of the session, checks them there, and makes each pack known when it is complete."""

    workspace: Workspace
    session: Session
    durable: bool
    _builder: PackBuilder = field(init=False)
    _objects: Objects = field(init=False)
    _wanted: dict[Digest, Element] = field(default_factory=dict)
    _lost: set[Digest] = field(default_factory=set)
    _whole: set[Digest] = field(default_factory=set)
    _links: dict[Digest, Link] = field(default_factory=dict)
    _here: dict[Digest, Location] = field(default_factory=dict)  # of the pack that is being written
    _unchecked: list[Digest] = field(default_factory=list)
    _unchecked_bytes: int = 0

    def __post_init__(self) -> None:
        self._builder = PackBuilder(self.workspace, self.session, self.durable, lambda _: None, _PACK_BYTES)
        self._objects = Objects(self.workspace.layout, self._locate)

    def take_all(self, reader: casmodel.Reader, manifests: Sequence[Manifest]) -> None:
        """Store what the store lacks of these versions. Raises IntegrityError when the archive does not have it all."""
        index = self.workspace.catalog.index
        for manifest in manifests:
            for recipe in map(manifest.recipe_of, manifest.files):
                for segment in recipe.segments:
                    for digest, _ in segment.chunks:
                        self._wanted.setdefault(digest, element_of(segment.dtype))
        homes = index.usable_homes(self._wanted.keys())
        _, self._lost = find_lost(self.workspace, homes, {})
        # What deltas stand on stays whole, also where its home is lost and it is stored anew.
        self._whole = index.with_dependents(self._lost)
        for digest in homes.keys() - self._lost:
            del self._wanted[digest]
        for entry in reader.entries():
            if entry.digest in self._wanted:
                self._take(entry, reader.record(), self._wanted.pop(entry.digest))
        if self._wanted:
            raise IntegrityError(f"the archive lacks {len(self._wanted):,} chunks that its versions need")
        self._complete(self._builder.finish())

    def salvage(self) -> None:
        """Keep what has come so far and is sound, for the next try."""
        try:
            self._check()
            self._complete(self._builder.finish())
        except Exception:  # noqa: BLE001 - the error that led here says more
            self._builder.abort()

    def _take(self, entry: PackEntry, record: bytes, element: Element) -> None:
        generation = 0
        if entry.base is not None:
            base, grouping = self._link(entry.base), self._link(entry.grouping)
            if base is None or grouping is None:
                raise IntegrityError(f"chunk {entry.digest} is a delta against a chunk that has not come before it")
            if base.depth >= MAX_LINKS or grouping.base is not None or entry.digest in self._whole:
                self._add_whole(entry, record, element)
                return
            generation = base.generation + 1
            self._links[entry.digest] = Link(entry.digest, entry.base, entry.grouping, base.depth + 1, generation)
        else:
            self._links[entry.digest] = Link(entry.digest, None, None, 0, 0)
        finished = self._builder.copy(record, generation)
        self._note(entry.digest, entry.length, finished)

    def _add_whole(self, entry: PackEntry, record: bytes, element: Element) -> None:
        """Store a chunk by itself whose delta has no place here: its chain would become too long."""
        self._check()
        base, grouping = (self._objects.read_chunk(each) for each in (entry.base, entry.grouping) if each is not None)
        raw = delta.decode_deltas(base, [pack.payload(record)], grouping)
        if Digest.of(raw) != entry.digest:
            raise IntegrityError(f"chunk {entry.digest} is damaged")
        encoded = encode_chunk(self.workspace, entry.digest, raw, element, None)
        self._links[entry.digest] = Link(entry.digest, None, None, 0, 0)
        self._note(entry.digest, len(encoded.data), self._builder.add(encoded))

    def _link(self, digest: Digest | None) -> Link | None:
        if digest is None:
            return None
        link = self._links.get(digest)
        if link is None:
            self._links |= self.workspace.catalog.index.chains([digest])
            link = self._links.get(digest)
        return link

    def _note(self, digest: Digest, length: int, finished: NewContainer | None) -> None:
        self._unchecked.append(digest)
        self._unchecked_bytes += length
        if finished is not None:
            self._complete(finished)
        elif self._unchecked_bytes >= _BATCH_BYTES:
            self._check()

    def _check(self, finished: NewContainer | None = None) -> None:
        """Read what has been written since the last time, and compare it with its digests. Raises IntegrityError."""
        written = (finished.file_id, finished.chunks) if finished is not None else self._builder.unfinished
        if written is None:
            return
        file_id, chunks = written
        container = Container(0, file_id, None)
        for chunk in chunks[len(self._here) :]:
            self._here[chunk.digest] = _location(chunk, container)
        for _, future in self._objects.read_ahead(self._unchecked):
            future.result()
        self._unchecked, self._unchecked_bytes = [], 0

    def _complete(self, finished: NewContainer | None) -> None:
        if finished is None:
            return
        self._check(finished)
        if self.durable:
            sync_directory(self.workspace.layout.packs)
        self.workspace.catalog.versions.store([finished], self._lost)
        self._here = {}
        self._objects.close()

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        here = {digest: self._here[digest] for digest in digests if digest in self._here}
        if len(here) < len(digests):
            elsewhere = self.workspace.catalog.index.locate([digest for digest in digests if digest not in here])
            here = {**elsewhere, **here}
        return here


def _location(chunk: NewChunk, container: Container) -> Location:
    return Location(container, chunk.offset, chunk.length, chunk.raw_bytes, chunk.encoding, chunk.base, chunk.grouping)
