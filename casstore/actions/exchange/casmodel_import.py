"""Reading a `.casmodel`: chunks that the store lacks go into packs as they come, and the versions appear at the end.

Packs are made known as they are completed, though no version needs them yet. So an import that was cut short leaves
what had come, until the next gc, and the same import, run again, takes up from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import blake3

from casstore.actions.describing.descriptor import describe
from casstore.actions.packs.bases import encode_chunk
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.packs.freshness import Freshness
from casstore.actions.saving import comparing
from casstore.actions.saving.save import commit_stored, find_lost
from casstore.actions.saving.trust import Trust
from casstore.actions.sources.source import check_collisions
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.archive.limits import FREE_BYTES, MAX_RATIO
from casstore.catalog.index import Link
from casstore.catalog.versions import ChunkVanished, NewChunk, NewContainer, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidMetadata, InvalidSource, TagExists, UnsafeArchive
from casstore.progress import Progress
from casstore.storage import files, not_finite, pack
from casstore.storage.coding import delta
from casstore.storage.coding.codec import Encoding
from casstore.storage.container import MAX_LINKS, Container, Kind, Location
from casstore.storage.manifest import Manifest
from casstore.storage.names import as_stored
from casstore.storage.objects import Objects
from casstore.storage.pack import PackEntry
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.storage.tensors.elements import Element, element_of
from casstore.tag import Tag

# What an import that is cut short may have to read again.
_PACK_BYTES = 256 << 20
# Records that are written and then checked together; their raw bytes are in memory one by one.
_BATCH_BYTES = 32 << 20
# As of archives of other formats.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4096
_MAX_DEPTH = 200
_NOTHING = Digest.of(b"")


def import_versions(
    workspace: Workspace, session: Session, stream: BinaryIO, name: str, *, tag: Tag | None, trust: Trust,
    durable: bool, done: set[Tag], progress: Progress,
) -> list[tuple[VersionRow, bool]]:  # fmt: skip
    """Import every version of an archive; returns them, and whether each is new. `tag`: instead of the only one's.

    Raises IntegrityError, UnsafeArchive, InvalidSource, TagExists, OSError before any version is visible, and
    ChunkVanished when gc took chunks on which this had relied: then it is to be run again. The tags of what it has
    saved by then are added to `done`.
    """
    read_bytes = 0

    def advance(done_bytes: int) -> None:
        nonlocal read_bytes
        read_bytes += done_bytes
        progress.advance(done_bytes)

    reader = casmodel.Reader(stream, name, advance)
    manifests = [_checked(manifest, name) for manifest in reader.manifests()]
    if tag is not None:
        if len(manifests) != 1:
            raise InvalidSource(f"{name} holds {len(manifests)} versions, which one tag cannot name; leave out --as")
        manifests = [replace(manifests[0], tag=tag)]
    _check_tags(manifests, name)
    named = {digest for manifest in manifests for digest in _chunks_of(manifest)}
    manifests = _by_known_recipes(workspace, manifests, name)
    new = [manifest for manifest in manifests if _present(workspace, manifest) is None]
    incoming = _Incoming(workspace, session, durable, name)
    try:
        # Of versions that are here already too: what has been lost of them.
        incoming.take_all(reader, manifests, named)
        if trust is not Trust.GIVEN:
            _check_proportion(new, read_bytes, name)
        _check_blobs(workspace, new, name, progress)
    except BaseException as error:
        incoming.salvage()
        if isinstance(error, IntegrityError) and incoming.has_lost():
            raise ChunkVanished from error
        raise
    for manifest in new:
        try:
            commit_stored(workspace, session, manifest, durable=durable, trust=trust)
            done.add(manifest.tag)
        except TagExists:
            if _present(workspace, manifest) is None:
                raise
    rows = [(workspace.catalog.versions.find(manifest.tag), manifest.tag in done) for manifest in manifests]
    return [(row, is_new) for row, is_new in rows if row is not None]


def _checked(manifest: Manifest, name: str) -> Manifest:
    """A manifest that has been read, as a save would write it. Raises InvalidSource, IntegrityError."""
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
    keys = ("labels", "metadata", "module", "api_version", "signatures", "options", "context")
    said = comparing.completed(manifest.description)
    try:
        description = describe(**{key: said[key] for key in keys} | {"metadata": not_finite.restored(said)})
    except (InvalidMetadata, KeyError) as error:
        raise InvalidSource(f"what {name} says of {manifest.tag} cannot be kept: {error}") from error
    if len(manifest.casstore_version) > _MAX_NAME_BYTES:
        raise InvalidSource(f"what {name} says of the release that wrote {manifest.tag} is too long")
    return replace(manifest, description=description, created_at_ns=min(manifest.created_at_ns, time.time_ns()))


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _by_known_recipes(workspace: Workspace, manifests: Sequence[Manifest], name: str) -> list[Manifest]:
    """The manifests, with one recipe for each blob: the store's own, where it has one.

    Raises IntegrityError where they contradict themselves or what is known.
    """
    told: dict[Digest, Recipe] = {}
    for manifest in manifests:
        for file in manifest.files:
            recipe = manifest.recipe_of(file)
            # What has no recipe that is stored is one chunk of the same digest, or nothing.
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
    """The saved version of that tag, if it is this one; None when there is none. Raises TagExists for another."""
    row = workspace.catalog.versions.find(manifest.tag)
    if row is None:
        return None
    saved = {**comparing.completed(row.described()), "untrusted": None}
    if row.digest != manifest.digest or saved != {**manifest.description, "untrusted": None}:
        what = "files" if row.digest != manifest.digest else "labels, metadata or what else is said of it"
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


def _check_blobs(workspace: Workspace, manifests: Sequence[Manifest], name: str, progress: Progress) -> None:
    """Compare each new file as a whole with its digest: sound chunks in a wrong order would make a wrong file, and
    every save of the right one would then be taken for it. Raises IntegrityError.
    """
    index = workspace.catalog.index
    recipes = {file.digest: manifest.recipe_of(file) for manifest in manifests for file in manifest.files}
    known = index.recipes(recipes.keys())
    # A chunk's bytes are those of its digest; how many there are is for the manifest to claim.
    single = {digest: recipe.size for digest, recipe in recipes.items() if recipe.size and not recipe.is_stored}
    for digest, home in index.locate(single.keys()).items():
        if home.raw_bytes != single[digest]:
            raise IntegrityError(f"a file in {name} has {home.raw_bytes:,} bytes, not {single[digest]:,}: {digest}")
    unchecked = [recipe for digest, recipe in recipes.items() if recipe.is_stored and digest not in known]
    progress.start("verify", sum(recipe.size for recipe in unchecked))
    try:
        for recipe in unchecked:
            hasher = blake3.blake3()
            with contextlib.closing(workspace.objects.read_blob(recipe)) as chunks:
                for chunk in chunks:
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
    name: str
    _builder: PackBuilder = field(init=False)
    _objects: Objects = field(init=False)
    _wanted: dict[Digest, Element] = field(default_factory=dict)
    _relied_on: set[Digest] = field(default_factory=set)
    _lost_homes: set[int] = field(default_factory=set)
    _lost: set[Digest] = field(default_factory=set)
    _whole: set[Digest] = field(default_factory=set)
    _links: dict[Digest, Link] = field(default_factory=dict)
    _here: dict[Digest, Location] = field(default_factory=dict)  # of the pack that is being written
    _unchecked: list[Digest] = field(default_factory=list)
    _unchecked_bytes: int = 0

    def __post_init__(self) -> None:
        self._builder = PackBuilder(self.workspace, self.session, self.durable, lambda _: None, _PACK_BYTES)
        self._objects = Objects(self.workspace.layout, self._locate)

    def take_all(self, reader: casmodel.Reader, manifests: Sequence[Manifest], named: set[Digest]) -> None:
        """Store what the store lacks of these versions. The archive has the chunks that are `named`, each once.

        Raises IntegrityError where it does not have all, or has others.
        """
        index = self.workspace.catalog.index
        for manifest in manifests:
            for recipe in map(manifest.recipe_of, manifest.files):
                for segment in recipe.segments:
                    for digest, _ in segment.chunks:
                        self._wanted.setdefault(digest, element_of(segment.dtype))
        homes = index.usable_homes(self._wanted.keys())
        stale = Freshness.of(self.workspace).stale(set(homes.values()))
        doubted = {digest for digest, home in homes.items() if home in stale and digest in named}
        self._lost_homes, self._lost = find_lost(self.workspace, homes, {}, doubted)
        self._relied_on = homes.keys() - self._lost
        for digest in self._relied_on:
            del self._wanted[digest]
        # What deltas stand on stays whole, also where its home cannot be relied on and it is stored anew.
        self._whole = index.with_dependents(self._wanted.keys())
        for entry in reader.entries():
            if entry.digest not in named:
                raise IntegrityError(f"{self.name} has chunk {entry.digest} twice, or no version in it needs that")
            named.discard(entry.digest)
            if entry.digest in self._wanted:
                self._take(entry, reader.record(), self._wanted.pop(entry.digest))
        if self._wanted:
            raise IntegrityError(f"{self.name} lacks {len(self._wanted):,} chunks that its versions need")
        self._complete(self._builder.finish())

    def has_lost(self) -> bool:
        """Whether gc has taken what was here at the start, so that an error may be no fault of the archive."""
        return self._relied_on != self.workspace.catalog.index.usable_homes(self._relied_on).keys()

    def salvage(self) -> None:
        """Keep what has come so far and is sound, for the next try."""
        try:
            self._check()
            self._complete(self._builder.finish())
        except Exception:  # noqa: BLE001 - the error that led here says more
            self._builder.abort()

    def _take(self, entry: PackEntry, record: bytes, element: Element) -> None:
        generation = 0
        if (entry.base is None) != (entry.encoding != Encoding.DELTA):
            raise IntegrityError(f"chunk {entry.digest} in {self.name} is a delta without a base, or none with one")
        if entry.base is not None:
            base, grouping = self._link(entry.base), self._link(entry.grouping)
            if base is None or grouping is None:
                raise IntegrityError(
                    f"chunk {entry.digest} in {self.name} is a delta against a chunk that has not come before it"
                )
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
            raise self._damaged(entry.digest)
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
        container = Container(0, file_id, Kind.PACK)
        for chunk in chunks[len(self._here) :]:
            self._here[chunk.digest] = _location(chunk, container)
        with contextlib.closing(self._objects.read_ahead(self._unchecked)) as ahead:
            for digest, future in ahead:
                self._check_chunk(digest, future)
        self._unchecked, self._unchecked_bytes = [], 0

    def _check_chunk(self, digest: Digest, future: Future[bytes]) -> None:
        home = self._here[digest]
        try:
            raw = future.result()
        except IntegrityError as error:
            for needed in (home.base, home.grouping):
                if needed is not None and needed not in self._here:
                    self._objects.read_chunk(needed)  # if it is that which is damaged, its error says so
            raise self._damaged(digest) from error
        if len(raw) != home.raw_bytes:
            raise self._damaged(digest)

    def _damaged(self, digest: Digest) -> IntegrityError:
        return IntegrityError(
            f"{self.name} is damaged: chunk {digest} in it is not what its digest says; fetch or copy it again"
        )

    def _complete(self, finished: NewContainer | None) -> None:
        if finished is None:
            return
        self._check(finished)
        if self.durable:
            files.sync_directory(self.workspace.layout.packs)
        self.workspace.catalog.versions.store([finished], self._lost, self._lost_homes)
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
