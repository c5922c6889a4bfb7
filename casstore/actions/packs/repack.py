"""The part of gc that moves bytes: cold loose files into packs, and out of packs that hold little that is needed.

Each pack is a step of its own. It is complete and fsynced before one transaction makes it the container of its chunks,
and only after that are the files it replaces condemned and unlinked. Killed anywhere, gc leaves a pack that no row
names, which the next one removes, or a moved chunk's old container, which it condemns. Others save and read meanwhile:
a chunk that somebody else has moved, or needs as it is, stays where it is.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from types import TracebackType

from casstore.actions.packs.bases import choose_base, predecessors, tensor_files
from casstore.actions.packs.builder import ENCODE_THREADS, MAX_PACK_BYTES, PackBuilder
from casstore.actions.packs.durability import bring_to_disk
from casstore.actions.workspace import Workspace
from casstore.catalog.columns import Columns, PlannedChunk
from casstore.catalog.index import DeltaLink
from casstore.catalog.marks import ColdFile, Marks, SparsePack
from casstore.catalog.versions import NewContainer, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage.coding.codec import Against, encode
from casstore.storage.coding.delta import Grouping
from casstore.storage.coding.encodings import Encoding
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.pack import EncodedChunk
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session, live_ids, session_of
from casstore.storage.tensors.elements import Element, element_of

_log = logging.getLogger(__name__)
# A pack is rewritten when less than this share of it is needed: each byte rewritten then frees one at least.
_SPARSE_BELOW = 0.5
# Where somebody asks for that, each that gets noticeably smaller.
_REWRITE_BELOW = 0.99
# What a pack takes besides its records: an entry in the index for each, and header and trailer.
_ENTRY_BYTES, _PACK_BYTES = 120, 200
# Packs below this size are merged once there are so many of them; merging that many at once keeps the number of
# times that a byte is rewritten to the logarithm of the store's size.
_SMALL_PACK_BYTES = MAX_PACK_BYTES // 16
_MERGE_FROM = 8
# Encoded chunks waiting to be written, and columns being encoded: what bounds memory.
_CHUNKS_AHEAD = 16
_COLUMNS_AHEAD = 4
_PLAN_BATCH = 2000
# Raw chunks of a column kept at hand as bases for the next: the longest chain, and the one it grows from.
_HELD_CHUNKS = MAX_DELTA_LINKS + 2


@dataclass(slots=True)
class Moved:
    """What was moved: from how many files, and what the new packs take. `damaged` chunks stay where they are."""

    files: int = 0
    bytes: int = 0
    damaged: int = 0


Reclaim = Callable[[Collection[int]], None]
"""Called after each pack with the row ids of the containers that it took from: what is empty now may be condemned."""


def pack_cold(
    workspace: Workspace, marks: Marks, cold: Sequence[ColdFile], progress: Progress, reclaim: Reclaim
) -> Moved:
    """Move what only these cold loose files hold into packs.

    Raises OSError (ENOSPC); what has been moved by then stays moved.
    """
    moved = Moved()
    if not cold:
        return moved
    with marks.columns(cold) as columns, workspace.session() as session:
        arrange(workspace, columns)
        progress.start("pack", sum(file.needed_bytes for file in cold))
        try:
            with Mover(workspace, session, reclaim, moved, verbatim=False) as mover:
                _Packer(workspace, mover, progress).run(arranged(columns))
        finally:
            progress.finish()
    return moved


def sparse_packs(workspace: Workspace, marks: Marks, *, rewrite_all: bool) -> list[SparsePack]:
    """The packs worth rewriting: mostly dead ones, small ones where there are many.

    With `rewrite_all` each that gets noticeably smaller.
    """
    below = _REWRITE_BELOW if rewrite_all else _SPARSE_BELOW
    packs = marks.packs()
    # An import that runs fills packs with what no version needs yet. Listed before the sessions.
    alive = live_ids(workspace.layout)
    packs = [pack for pack in packs if session_of(pack.container.file_id) not in alive]
    sparse = [pack for pack in packs if needed_bytes(pack) < pack.size * below]
    small = [pack for pack in packs if pack.size < _SMALL_PACK_BYTES and pack not in sparse]
    # What gc makes of the sparse ones, and then of cold files, may be a small pack each. Counted now, they do not make
    # the next gc merge what this one has left alone.
    coming = bool(sparse) + bool(marks.cold())
    return sparse + small if small and len(small) + coming >= _MERGE_FROM else sparse


def needed_bytes(pack: SparsePack) -> int:
    """About the size of a pack with nothing but what is needed."""
    return pack.needed_bytes + pack.needed_chunks * _ENTRY_BYTES + _PACK_BYTES


def rewrite_sparse(
    workspace: Workspace, marks: Marks, packs: Sequence[SparsePack], progress: Progress, reclaim: Reclaim
) -> Moved:
    """Copy what is needed out of these packs, record by record, into new ones.

    Raises OSError (ENOSPC); what has been moved by then stays moved.
    """
    moved = Moved()
    if not packs:
        return moved
    progress.start("rewrite", sum(pack.needed_bytes for pack in packs))
    try:
        with workspace.session() as session, Mover(workspace, session, reclaim, moved, verbatim=True) as mover:
            for pack in packs:
                _copy_needed(workspace, marks.needed_in(pack.container), pack, mover, progress)
    finally:
        progress.finish()
    return moved


def _copy_needed(
    workspace: Workspace, needed: Sequence[Digest], pack: SparsePack, mover: Mover, progress: Progress
) -> None:
    locations = workspace.catalog.index.locate(needed)
    for digest, future in workspace.objects.read_ahead(needed):
        location = locations.get(digest)
        if location is None or location.container.id != pack.container.id:
            continue
        try:
            future.result()  # raises for a damaged chunk, which a copy of its record would only spread
            mover.copy(digest, workspace.objects.copy_record(digest, location), pack.container.id)
        except (IntegrityError, FileNotFoundError):
            mover.moved.damaged += 1
            _log.info("chunk %s: left in pack %s, it is damaged", digest, pack.container.file_id)
        progress.advance(location.length)


class Mover:
    """Fills packs, and makes each the container of its chunks once it is on disk.

    Leaving it as a context manager does so with the last, and on an error removes that.
    """

    def __init__(
        self, workspace: Workspace, session: Session, reclaim: Reclaim, moved: Moved, *, verbatim: bool
    ) -> None:
        self.moved = moved
        self._workspace = workspace
        self._reclaim = reclaim
        self._verbatim = verbatim
        self._packs = PackBuilder(workspace, session, self._move, durable=True)
        self._containers: dict[Digest, int] = {}
        self._sources: set[int] = set()

    def __enter__(self) -> Mover:
        self._packs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._packs.__exit__(kind, error, trace)

    def add(self, chunk: EncodedChunk, generation: int, container: int) -> None:
        """Append a chunk of that container. Raises OSError."""
        self._containers[chunk.digest] = container
        self._packs.add(chunk, generation)

    def copy(self, digest: Digest, record: bytes, container: int) -> None:
        """Append a chunk's record as it stands in that container. Raises IntegrityError, OSError."""
        self._containers[digest] = container
        self._packs.copy(record)

    def _move(self, new: NewContainer) -> None:
        index = self._workspace.catalog.index
        # The pack counts as synced, so durable versions may rely on it from now on without another look.
        named = {digest for chunk in new.chunks for digest in (chunk.base, chunk.grouping) if digest is not None}
        bases = (named | index.bases_of(named)) - self._containers.keys()
        synced = bring_to_disk(self._workspace, index.unsynced_containers(bases))
        if index.distrusted(bases):  # what stands on them stays where it is
            new = replace(new, chunks=[chunk for chunk in new.chunks if chunk.base is None])
        self._workspace.catalog.repacking.move(new, self._containers, synced, verbatim=self._verbatim)
        self.moved.bytes += new.size
        sources = set(self._containers.values())
        _log.info("pack %s: %d chunks of %d files", new.file_id, len(new.chunks), len(sources))
        self._sources |= sources
        self.moved.files = len(self._sources)
        self._containers = {}
        self._reclaim(sources)


def arrange(workspace: Workspace, columns: Columns) -> None:
    """Bring the cold chunks into columns: the same place in versions that came from one another."""
    recent: OrderedDict[int, list[tuple[str, Recipe]]] = OrderedDict()

    def files_of(row: VersionRow) -> list[tuple[str, Recipe]]:
        found = recent.pop(row.id, None)
        recent[row.id] = tensor_files(workspace, row) if found is None else found
        while len(recent) > 2:  # a version and the one before it
            recent.popitem(last=False)
        return recent[row.id]

    for version_id in columns.versions():
        row = workspace.catalog.versions.by_id(version_id)
        if row is None:
            continue
        before = workspace.catalog.versions.base_of(row)
        old = [] if before is None else files_of(before)
        new = files_of(row)
        columns.add(_places(new, predecessors(new, old)))
    if columns.unplanned():
        for digest, packed in columns.needed_recipes():
            columns.add(_places([("", Recipe.unpack(digest, packed))], {}))
        columns.add_rest()


def _places(
    files_of_version: list[tuple[str, Recipe]], before: dict[Digest, Digest]
) -> Iterator[tuple[Digest, str | None, Digest | None]]:
    for _, recipe in files_of_version:
        for segment in recipe.segments:
            for digest, _ in segment.chunks:
                yield digest, segment.dtype, before.get(digest)


def _planned(columns: Columns) -> Iterator[PlannedChunk]:
    after = (0, 0)
    while batch := columns.planned(after, _PLAN_BATCH):
        yield from batch
        after = (batch[-1].column, batch[-1].number)


def arranged(columns: Columns) -> Iterator[list[PlannedChunk]]:
    """The columns, one after another, each in the order of the versions."""
    for _, column in groupby(_planned(columns), attrgetter("column")):
        yield list(column)


class _Stopped(Exception):
    """The packs cannot be written any more; whoever encodes for them may stop."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it is to stand in a pack, its place in its chain, and the container that it is read from."""

    chunk: EncodedChunk
    generation: int
    container: int


class _Packer:
    """Encodes columns in a few threads, and writes what they yield in this one."""

    def __init__(self, workspace: Workspace, mover: Mover, progress: Progress) -> None:
        self._workspace = workspace
        self._mover = mover
        self._progress = progress
        # None ends a column.
        self._encoded: queue.Queue[Encoded | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
        self._stop = threading.Event()

    def run(self, columns: Iterator[list[PlannedChunk]]) -> None:
        running = 0
        with ThreadPoolExecutor(ENCODE_THREADS) as pool:
            try:
                while True:
                    while running < _COLUMNS_AHEAD and (column := next(columns, None)) is not None:
                        pool.submit(self._encode_column, column)
                        running += 1
                    if running == 0:
                        break
                    self._take(item := self._encoded.get())
                    running -= item is None
            finally:
                self._stop.set()

    def _take(self, item: Encoded | BaseException | None) -> None:
        if isinstance(item, IntegrityError):
            _log.info("a chunk stays where it is: %s", item)
            self._mover.moved.damaged += 1
        elif isinstance(item, BaseException):
            raise item
        elif item is not None:
            self._mover.add(item.chunk, item.generation, item.container)
            self._progress.advance(item.chunk.raw_bytes)

    def _put(self, item: Encoded | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._encoded.put(item, timeout=0.2)
            except queue.Full:
                continue
            return
        raise _Stopped

    def _encode_column(self, column: list[PlannedChunk]) -> None:
        with contextlib.suppress(_Stopped):
            try:
                Column(self._workspace, column, self._put).encode()
                self._put(None)
            except _Stopped:
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised where packs are written
                self._put(error)


class Column:
    """Encodes the chunks of one column in order, each against those before it. They share bytes and groupings."""

    def __init__(
        self, workspace: Workspace, column: list[PlannedChunk], put: Callable[[Encoded | BaseException], None]
    ) -> None:
        self._workspace = workspace
        self._column = column
        self._put = put
        inside = {chunk.digest for chunk in column}
        outside = {chunk.predecessor for chunk in column if chunk.predecessor} - inside
        self._delta_links = workspace.catalog.index.chains(outside)
        self._held: OrderedDict[Digest, bytes] = OrderedDict()
        self._grouping: tuple[Digest, Element, Grouping] | None = None

    def encode(self) -> None:
        for chunk in self._column:
            try:
                raw = self._read(chunk.digest)
            except IntegrityError as error:
                self._put(error)
                continue
            encoded, generation = self._encode(chunk, raw)
            depth = 0 if encoded.base is None else self._delta_links[encoded.base].depth + 1
            self._delta_links[chunk.digest] = DeltaLink(chunk.digest, encoded.base, encoded.grouping, depth, generation)
            self._put(Encoded(encoded, generation, chunk.container))

    def _encode(self, chunk: PlannedChunk, raw: bytes) -> tuple[EncodedChunk, int]:
        element = element_of(chunk.dtype)
        predecessor = None if chunk.is_base else chunk.predecessor
        link = None if predecessor is None else choose_base(predecessor, self._delta_links)
        against = None if link is None else self._against(link, element, len(raw))
        encoding, data = encode(raw, element, against)
        if encoding is not Encoding.DELTA or link is None or predecessor is None:
            return EncodedChunk(chunk.digest, len(raw), encoding, data), 0
        encoded = EncodedChunk(chunk.digest, len(raw), encoding, data, link.digest, link.grouping or link.digest)
        return encoded, self._delta_links[predecessor].generation + 1

    def _against(self, link: DeltaLink, element: Element, length: int) -> Against | None:
        """The base's bytes and the grouping; None where they are damaged: then the chunk stands alone."""
        by = link.grouping or link.digest
        try:
            base = self._read(link.digest)
            if len(base) != length:
                return None
            if self._grouping is None or self._grouping[:2] != (by, element):
                self._grouping = (by, element, Grouping(self._read(by), element))
        except IntegrityError:
            return None
        return Against(base, self._grouping[2]) if self._grouping[2].raw_bytes == length else None

    def _read(self, digest: Digest) -> bytes:
        raw = self._held.pop(digest, None)
        self._held[digest] = self._workspace.objects.read_chunk(digest) if raw is None else raw
        while len(self._held) > _HELD_CHUNKS:
            self._held.popitem(last=False)
        return self._held[digest]
