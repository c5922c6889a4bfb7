"""Repacking a remote: what is alive in packs that are mostly dead goes into new ones, beside whoever pushes and pulls.

It is a push that brings no version. Records are copied as they stand; each version that needs one of them gets a new
segment, under `.s<k>` of its ref. The packs that nothing needs then go with a later gc.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from casstore.digest import Digest
from casstore.errors import IntegrityError, RemoteError
from casstore.progress import Progress
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.remote.pushing import Push, PushRevoked, revoke, roll_forward
from casstore.remote.records import PackGone, read_range
from casstore.remote.segment import ChunkPlace, PackInfo, Segment
from casstore.storage.pack import PackStream
from casstore.tag import Tag

MOSTLY_DEAD = 0.5
PACK_BYTES = 32 << 20
_READ_BYTES = 8 << 20
_SMALL_BYTES = 4 << 20  # many small packs cost a request each


@dataclass(frozen=True, slots=True)
class RemoteRepackReport:
    """What a repacking of a remote has done, or would do.

    Attributes
    ----------
    packs
        How many were, or would be, rewritten.
    versions
        How many versions need them.
    freed_bytes
        What the next gc frees by it: dead bytes in those packs.
    """

    packs: int
    versions: int
    freed_bytes: int


@dataclass(slots=True)
class _Use:
    """What of a pack versions need: the records by offset, with their lengths."""

    live: dict[int, int] = field(default_factory=dict)

    @property
    def live_bytes(self) -> int:
        return sum(self.live.values())


@dataclass(frozen=True, slots=True)
class _Version:
    tag: Tag
    state: keys.RefState
    ref: Ref
    segment: Segment


def repack(bucket: Bucket, pool: Executor, progress: Progress, *, dry_run: bool = False) -> RemoteRepackReport:
    """Rewrite packs of which at least half is dead, and those that a gc has condemned and that are needed all the same.

    Raises RemoteError, also where a gc or a deletion was faster: then run it again; IntegrityError.
    """
    push = None if dry_run else Push.begin(bucket, [], Digest.of(secrets.token_bytes(32)))
    try:
        condemned = push.condemned if push is not None else frozenset(bucket.epoch(bucket.newest_epoch()).condemned)
        versions = list(_versions(bucket, pool))
        uses = _uses(versions)
        doomed = {info for info, use in uses.items() if _is_worth_it(info, use, condemned)}
        affected = [version for version in versions if not doomed.isdisjoint(version.segment.packs)]
        freed = sum(info.size - uses[info].live_bytes for info in doomed)
        report = RemoteRepackReport(len(doomed), len(affected), freed)
        if push is None:
            return report
        if not doomed:
            push.seal([])
            return report
        moved = _Mover(bucket, push, progress).run({info: uses[info] for info in doomed})
        refs = [
            (version.state.next_repacked(version.tag), push.put_segment(_rewritten(version.segment, moved)))
            for version in affected
        ]
        # Where another repacking was faster with one of them, that one's stands, and these packs go again.
        roll_forward(bucket, push.seal(refs))
        return report
    except BaseException as error:
        if push is not None:
            with contextlib.suppress(RemoteError):  # the error that led here says more
                revoke(bucket, push.id)
        if isinstance(error, PackGone | KeyMissing | PushRevoked):
            raise RemoteError(f"{bucket.name} was changed by another while it was repacked; run it again") from error
        raise


def _versions(bucket: Bucket, pool: Executor) -> Iterator[_Version]:
    states = {tag: state for tag, state in bucket.refs().items() if state.is_live}

    def read(tag: Tag) -> _Version:
        ref = bucket.ref(tag, states[tag].key(tag))
        return _Version(tag, states[tag], ref, bucket.segment(ref))

    yield from pool.map(read, states)


def _uses(versions: Collection[_Version]) -> dict[PackInfo, _Use]:
    found: dict[PackInfo, _Use] = {}
    for version in versions:
        for place in version.segment.chunks.values():
            use = found.setdefault(version.segment.packs[place.pack], _Use())
            use.live[place.offset] = place.length
    return found


def _is_worth_it(info: PackInfo, use: _Use, condemned: frozenset[str]) -> bool:
    return info.key in condemned or use.live_bytes <= (1 - MOSTLY_DEAD) * info.size


@dataclass(slots=True)
class _Mover:
    """Copies live records into new packs."""

    bucket: Bucket
    push: Push
    progress: Progress
    _moved: dict[tuple[str, int], tuple[PackInfo, int]] = field(default_factory=dict)
    _pieces: list[bytes] = field(default_factory=list)
    _stream: PackStream | None = None
    _begun: list[tuple[tuple[str, int], int]] = field(default_factory=list)

    def run(self, uses: Mapping[PackInfo, _Use]) -> dict[tuple[str, int], tuple[PackInfo, int]]:
        """Where each record is now, by the key of its pack and its offset there. Raises PackGone, RemoteError."""
        self.progress.start("repack", sum(use.live_bytes for use in uses.values()))
        try:
            for info, use in uses.items():
                if not self.bucket.is_sound(info):
                    # Copied, it would get a digest that fits, and nobody would notice before it is pulled.
                    raise IntegrityError(
                        f"{info.key} in {self.bucket.name} does not match its digest, so nothing was rewritten; "
                        "`casstore remote verify --deep` tells which versions need it"
                    )
                for start, end, offsets in _runs(use.live):
                    data = read_range(self.bucket.backend, info.key, start, end - start)
                    for offset in offsets:
                        self._copy((info.key, offset), data[offset - start : offset - start + use.live[offset]])
            self._end()
        finally:
            self.progress.finish()
        return self._moved

    def _copy(self, old: tuple[str, int], record: bytes) -> None:
        if self._stream is None:
            self._stream = PackStream(lambda data: self._pieces.append(bytes(data)))
        try:
            entry = self._stream.copy(record)
        except IntegrityError as error:
            raise IntegrityError(f"{old[0]} in {self.bucket.name} is damaged at byte {old[1]:,}: {error}") from error
        self._begun.append((old, entry.offset))
        self.progress.advance(len(record))
        if self._stream.size >= PACK_BYTES:
            self._end()

    def _end(self) -> None:
        if self._stream is None:
            return
        self._stream.end()
        body = b"".join(self._pieces)
        info = self.push.new_pack(body)
        self.bucket.backend.put(info.key, body)
        self._moved |= {old: (info, offset) for old, offset in self._begun}
        self._stream, self._pieces, self._begun = None, [], []


def _runs(live: Mapping[int, int]) -> Iterator[tuple[int, int, list[int]]]:
    """Ranges of records that stand side by side, or nearly."""
    start = end = -1
    offsets: list[int] = []
    for offset in sorted(live):
        if offsets and (offset - end > _SMALL_BYTES or offset + live[offset] - start > _READ_BYTES):
            yield start, end, offsets
            offsets = []
        if not offsets:
            start = offset
        offsets.append(offset)
        end = offset + live[offset]
    if offsets:
        yield start, end, offsets


def _rewritten(segment: Segment, moved: Mapping[tuple[str, int], tuple[PackInfo, int]]) -> Segment:
    """The same version with its chunks where they have been moved to."""
    packs: dict[PackInfo, int] = {}
    chunks: dict[Digest, ChunkPlace] = {}
    for digest, place in segment.chunks.items():
        info = segment.packs[place.pack]
        now, offset = moved.get((info.key, place.offset), (info, place.offset))
        chunks[digest] = place._replace(pack=packs.setdefault(now, len(packs)), offset=offset)
    return Segment(segment.manifest, list(packs), chunks)
