"""Chunks from outside, as an archive or a remote has them: checked, put into packs, and made known pack by pack.

What was received before it was cut short stays until the next gc, and need not come again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from casstore.actions.packs.bases import encode_chunk
from casstore.actions.packs.blob_checks import BlobChecks
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.packs.freshness import Freshness
from casstore.actions.workspace import Workspace
from casstore.catalog.index import DeltaLink, Fingerprint
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.storage import pack
from casstore.storage.coding import delta
from casstore.storage.coding.encodings import Encoding
from casstore.storage.coding.memory import give_freed_memory_back
from casstore.storage.container import MAX_DELTA_LINKS, Container, Kind, Location
from casstore.storage.objects import Objects
from casstore.storage.pack import PackEntry
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.storage.tensors.elements import Element, element_of

# What a receiving that is cut short may have to read again.
_PACK_BYTES = 256 << 20
# Records that are written and then checked together; their raw bytes are in memory one by one.
_BATCH_BYTES = 32 << 20
_CHUNKS_FOR_ROOM = 2

FindLost = Callable[
    [Workspace, Mapping[Digest, int], Mapping[Fingerprint, Digest], Set[Digest]], tuple[set[int], set[Digest]]
]
"""The containers of these chunks that are gone or spoiled, and the chunks lost with them."""


class Records(Protocol):
    """Records of packs as they come, each once, what a delta needs before it."""

    def entries(self) -> Iterator[PackEntry]:
        """Each chunk's entry. Raises IntegrityError, OSError."""

    def record(self) -> bytes:
        """The record of the entry that came last, encoded as it is; nothing in it need have been checked."""


@dataclass(slots=True)
class Receiving:
    """Puts chunks that come from outside into packs of the session, checks them there, and makes each pack known when
    it is complete, though no version needs it yet.

    A delta that comes stays one where what it needs is here, and its chain is not too long; else its chunk is stored
    whole. `origin` is what errors call where the chunks come from. `find_lost` tells which of the chunks that the
    store has cannot be relied on: see `saving.save.find_lost`. `blobs` are told of each chunk that is sound. `damaged`
    makes the error for a chunk that is not what its digest says.
    """

    workspace: Workspace
    session: Session
    durable: bool
    origin: str
    find_lost: FindLost
    blobs: BlobChecks
    damaged: Callable[[Digest], IntegrityError] | None = None
    _packs: PackBuilder = field(init=False)
    _objects: Objects = field(init=False)
    _wanted: dict[Digest, Element] = field(default_factory=dict)
    _relied_on: set[Digest] = field(default_factory=set)
    _lost_containers: set[int] = field(default_factory=set)
    _lost: set[Digest] = field(default_factory=set)
    _whole: set[Digest] = field(default_factory=set)
    _delta_links: dict[Digest, DeltaLink] = field(default_factory=dict)
    # Of the pack that is being written: where its chunks stand, and how many of them have been checked.
    _here: dict[Digest, Location] = field(default_factory=dict)
    _checked: int = 0
    _unchecked_bytes: int = 0

    def __post_init__(self) -> None:
        self._packs = PackBuilder(
            self.workspace, self.session, self._complete, durable=self.durable, most_bytes=_PACK_BYTES
        )
        self._objects = Objects(self.workspace.layout, self._locate)

    def rely_on(self, chunks: Collection[Digest], may_come: Set[Digest]) -> Set[Digest]:
        """Which of these chunks the store has, so that they need not come. What `may_come` is doubted sooner."""
        containers = self.workspace.catalog.index.usable_containers(chunks)
        stale = Freshness.of(self.workspace).stale(set(containers.values()))
        doubted = {digest for digest, container in containers.items() if container in stale and digest in may_come}
        self._lost_containers, self._lost = self.find_lost(self.workspace, containers, {}, doubted)
        self._relied_on = containers.keys() - self._lost
        return self._relied_on

    def take_all(self, coming: Records, wanted: Mapping[Digest, Element], named: set[Digest]) -> None:
        """Store the chunks that are wanted, tensors' with their type. Those that are `named` come, each once.

        Raises IntegrityError where not all come, or others do.
        """
        index = self.workspace.catalog.index
        self._wanted = dict(wanted)
        # What deltas stand on stays whole, also where its container cannot be relied on and it is stored anew.
        self._whole = index.with_dependents(self._wanted.keys())
        for entry in coming.entries():
            if entry.digest not in named:
                raise IntegrityError(f"{self.origin} has chunk {entry.digest} twice, or no version in it needs that")
            named.discard(entry.digest)
            if entry.digest in self._wanted:
                self._take(entry, coming.record(), self._wanted.pop(entry.digest))
        if self._wanted:
            raise IntegrityError(f"{self.origin} lacks {len(self._wanted):,} chunks that its versions need")
        self._check_unfinished()  # before the pack is complete, so that what is sound can be kept without the rest
        self._packs.finish()

    def has_lost(self) -> bool:
        """Whether gc has taken what was here at the start, so that an error may be no fault of what comes."""
        return self._relied_on != self.workspace.catalog.index.usable_containers(self._relied_on).keys()

    def salvage(self) -> None:
        """Keep what has come so far and is sound, for the next try."""
        with contextlib.suppress(Exception), self._packs:  # the error that led here says more
            with contextlib.suppress(Exception):
                self._check_what_is_there()
            self._packs.keep(self._checked)

    def _check_what_is_there(self) -> None:
        """Check as much of what has come as could be written."""
        try:
            self._check_unfinished()
        except OSError:  # of a disk that is full: what goes makes room for an index, and for the catalog
            self._packs.keep(max(0, self._packs.on_disk - _CHUNKS_FOR_ROOM))
            self._check_unfinished()

    def _take(self, entry: PackEntry, record: bytes, element: Element) -> None:
        generation = 0
        if (entry.base is None) != (entry.encoding != Encoding.DELTA):
            raise IntegrityError(f"chunk {entry.digest} in {self.origin} is a delta without a base, or none with one")
        if entry.base is not None:
            base, grouping = self._delta_link(entry.base), self._delta_link(entry.grouping)
            if base is None or grouping is None:
                raise IntegrityError(
                    f"chunk {entry.digest} in {self.origin} is a delta against a chunk that has not come before it"
                )
            if base.depth >= MAX_DELTA_LINKS or grouping.base is not None or entry.digest in self._whole:
                self._add_whole(entry, record, element)
                return
            generation = base.generation + 1
            self._delta_links[entry.digest] = DeltaLink(
                entry.digest, entry.base, entry.grouping, base.depth + 1, generation
            )
        else:
            self._delta_links[entry.digest] = DeltaLink(entry.digest, None, None, 0, 0)
        self._unchecked_bytes += entry.length
        self._packs.copy(record, generation)
        self._check_if_many()

    def _add_whole(self, entry: PackEntry, record: bytes, element: Element) -> None:
        """Store a chunk by itself whose delta has no place here: its chain would become too long."""
        self._check_unfinished()
        base, grouping = (self._objects.read_chunk(each) for each in (entry.base, entry.grouping) if each is not None)
        raw = delta.decode_deltas(base, [pack.payload(record)], grouping)
        if Digest.of(raw) != entry.digest:
            raise self._damaged(entry.digest)
        encoded = encode_chunk(self.workspace, entry.digest, raw, element, None)
        self._delta_links[entry.digest] = DeltaLink(entry.digest, None, None, 0, 0)
        self._unchecked_bytes += len(encoded.data)
        self._packs.add(encoded)
        self._check_if_many()

    def _delta_link(self, digest: Digest | None) -> DeltaLink | None:
        if digest is None:
            return None
        link = self._delta_links.get(digest)
        if link is None:
            self._delta_links |= self.workspace.catalog.index.chains([digest])
            link = self._delta_links.get(digest)
        return link

    def _check_if_many(self) -> None:
        if self._unchecked_bytes >= _BATCH_BYTES:
            self._check_unfinished()

    def _check_unfinished(self) -> None:
        written = self._packs.unfinished
        if written is not None:
            self._check(*written)

    def _check(self, file_id: str, chunks: Sequence[NewChunk]) -> None:
        """Read what has been written since the last time, and compare it with its digests. Raises IntegrityError."""
        container = Container(0, file_id, Kind.PACK)
        unchecked = chunks[self._checked :]
        self._here |= {chunk.digest: _location(chunk, container) for chunk in unchecked}
        with contextlib.closing(self._objects.read_ahead([chunk.digest for chunk in unchecked])) as ahead:
            for digest, future in ahead:
                self._check_chunk(digest, future)
                self._checked += 1
        self._unchecked_bytes = 0

    def _check_chunk(self, digest: Digest, future: Future[bytes]) -> None:
        location = self._here[digest]
        try:
            raw = future.result()
        except UnsupportedFormat:
            raise
        except IntegrityError as error:
            for needed in (location.base, location.grouping):
                if needed is not None and needed not in self._here:
                    self._objects.read_chunk(needed)  # if it is that which is damaged, its error says so
            raise self._damaged(digest) from error
        if len(raw) != location.raw_bytes:
            raise self._damaged(digest)
        self.blobs.take(digest, raw)

    def _damaged(self, digest: Digest) -> IntegrityError:
        if self.damaged is not None:
            return self.damaged(digest)
        return IntegrityError(
            f"{self.origin} is damaged: chunk {digest} in it is not what its digest says; fetch or copy it again"
        )

    def _complete(self, new: NewContainer) -> None:
        self._check(new.file_id, new.chunks)
        self.workspace.catalog.commits.store([new], self._lost, self._lost_containers)
        self._here, self._checked = {}, 0
        self._objects.close()
        give_freed_memory_back()

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        here = {digest: self._here[digest] for digest in digests if digest in self._here}
        if len(here) < len(digests):
            elsewhere = self.workspace.catalog.index.locate([digest for digest in digests if digest not in here])
            here = {**elsewhere, **here}
        return here


def _location(chunk: NewChunk, container: Container) -> Location:
    return Location(container, chunk.offset, chunk.length, chunk.raw_bytes, chunk.encoding, chunk.base, chunk.grouping)


def elements(recipes: Iterable[Recipe]) -> dict[Digest, Element]:
    """The chunks of these recipes, each with the type of the tensor that it is a piece of."""
    found: dict[Digest, Element] = {}
    for recipe in recipes:
        for segment in recipe.segments:
            element = element_of(segment.dtype)
            for digest, _ in segment.chunks:
                found.setdefault(digest, element)
    return found
