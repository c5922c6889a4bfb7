"""Some chunks of a version as raw bytes, wherever they are at hand: by coalesced ranges, each checked, a batch at a
time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import advice
from casstore.remote.other_places import BadPlaces
from casstore.remote.reading import Local, LocalChunk, Nothing, RemoteVersion
from casstore.remote.records import PackGone, RecordDamaged, RemoteRecords, plan
from casstore.remote.segment import ChunkPlace, Segment, needed
from casstore.storage.container import Container, Kind, Location
from casstore.storage.objects import Objects
from casstore.storage.readable import Readable

# Of records, which are in memory until the chunks that need them have been read: as many ranges as are asked for at
# once have, more or less.
_BATCH_BYTES = 64 << 20
_BATCH = "what has come"
_NOWHERE = Nothing()

Take = Callable[[Digest, bytes], None]


@dataclass(slots=True)
class Fetching:
    """Gives chunks of a version to who wants them, from the store that is at hand or else from the remote.

    A chunk whose place in the remote is damaged or gone is looked for in the other versions of the name.
    """

    version: RemoteVersion
    pool: Executor
    received_bytes: int = 0
    _segment: Segment = field(init=False)
    _bad: BadPlaces = field(default_factory=BadPlaces)

    def __post_init__(self) -> None:
        self._segment = self.version.segment

    def fetch(self, digests: Collection[Digest], take: Take) -> None:
        """Give each of these chunks to `take` once, in any order.

        Raises IntegrityError where one is damaged, and nowhere else to be had, TagNotFound where the version has been
        deleted and its bytes are gone, RemoteError.
        """
        waiting = set(digests)

        def taken(digest: Digest, raw: bytes) -> None:
            take(digest, raw)
            waiting.discard(digest)

        while waiting:
            try:
                for batch in self._batches(waiting):
                    self._fetch_batch(batch, taken)
            except (PackGone, RecordDamaged) as error:
                if not self._bad.add(error.pack, error.digest):
                    raise IntegrityError(
                        f"{error}, and {self.version.ref.tag} needs it; {advice(self.version.ref.tag)}"
                    ) from error
                self._segment = self._elsewhere()

    def _batches(self, digests: Collection[Digest]) -> Iterator[list[Digest]]:
        """These chunks by their places, so many at a time as take a certain number of bytes."""
        chunks = self._segment.chunks
        batch: list[Digest] = []
        size = 0
        for digest in sorted(digests, key=lambda each: chunks[each][:2]):
            batch.append(digest)
            size += sum(chunks[each].length for each in needed([digest], chunks))
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _fetch_batch(self, batch: Collection[Digest], take: Take) -> None:
        failed = self._read(batch, self.version.local, take)
        if failed:  # what was at hand is damaged, or gone
            failed = self._read(failed, _NOWHERE, take)
        for digest, error in failed.items():
            raise error if isinstance(error, RecordDamaged) else self._damaged(digest, error)

    def _read(self, batch: Collection[Digest], local: Local, take: Take) -> dict[Digest, Exception]:
        """Ask for what these chunks need and is not at hand, and decode them; returns which could not be.

        Raises PackGone, RecordDamaged, RemoteError.
        """
        segment = self._segment
        here = local.sizes(needed(batch, segment.chunks))
        records = RemoteRecords(
            self.version.bucket.backend,
            segment,
            plan(segment, batch, here.keys()),
            self.pool,
            lambda _: None,
        )
        came = _Batch(local, here)
        try:
            for entry in records.entries():
                came.add(entry.digest, segment.chunks[entry.digest], records.record())
        finally:
            self.received_bytes += records.received_bytes
        failed: dict[Digest, Exception] = {}
        with contextlib.closing(came.objects.read_ahead(batch)) as ahead:
            for digest, future in ahead:
                try:
                    raw = future.result()
                except IntegrityError as error:
                    failed[digest] = self._first_damaged(came, digest) or error
                else:
                    take(digest, raw)
        return failed

    def _first_damaged(self, came: _Batch, digest: Digest) -> RecordDamaged | None:
        """The error for the first chunk that decoding this one takes and that is not what its digest says."""
        chunks, depths = self._segment.chunks, self._segment.depths
        for each in sorted(needed([digest], chunks) & came.places.keys(), key=depths.__getitem__):
            try:
                came.objects.read_chunk(each)
            except IntegrityError as error:
                return self._damaged(each, error)
        return None

    def _damaged(self, digest: Digest, error: Exception) -> RecordDamaged:
        place = self._segment.chunks[digest]
        pack = self._segment.packs[place.pack].key
        return RecordDamaged(
            f"{pack} in {self.version.bucket.name} is damaged at byte {place.offset:,}: {error}", pack, digest
        )

    def _elsewhere(self) -> Segment:
        """Where the chunks are now, with other places for those whose own are bad, as far as others have any."""
        segment = self.version.look_again()
        if not self._bad.spoils(segment):
            return segment
        bucket, others = self.version.bucket, []
        for tag, key in keys.live(bucket.refs(segment.manifest.tag.name)).items():
            with contextlib.suppress(IntegrityError, KeyMissing):  # one that is damaged is no help, and no harm
                others.append(bucket.segment(bucket.ref(tag, key)))
        return self._bad.avoided(segment, others) or segment


class _Batch:
    """Records that have come, one after the other as in a pack, and the chunks that are at hand."""

    def __init__(self, local: Local, here: Mapping[Digest, int]) -> None:
        self.places: dict[Digest, Location] = {}
        self.objects = Objects(None, self._locate, open_container=self._open)
        self._local = local
        self._here = here
        self._data = bytearray()

    def add(self, digest: Digest, place: ChunkPlace, record: bytes) -> None:
        container = Container(0, _BATCH, Kind.PACK)
        self.places[digest] = Location(container, len(self._data), len(record), *place[3:])
        self._data += record

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        found = {digest: self.places[digest] for digest in digests if digest in self.places}
        here = {digest: LocalChunk.location(digest, self._here[digest]) for digest in digests if digest in self._here}
        return {**found, **here}

    def _open(self, container: Container) -> Readable:
        return self if container.is_pack else LocalChunk(self._local, container.blob)

    @property
    def size(self) -> int:
        """See Readable."""
        return len(self._data)

    def pread(self, offset: int, length: int) -> bytes:
        """See Readable."""
        return bytes(memoryview(self._data)[offset : offset + length])
