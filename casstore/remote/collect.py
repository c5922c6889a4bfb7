"""gc of a remote that others push to meanwhile: what is condemned is published before it is removed.

Each look lists what may be removed first, and what may need it afterwards. What nothing needs is published
in the next epoch. Open pushes then take note of it, or are ended, before what it condemns is removed, by this run or by
one days later. There are no locks, and no clock but the store's own, which tells what push has been silent for long.

All of this rests on a listing that shows what was written before it began. Where listings may be older, as on NFS, gc
lets that time go by before each listing that has to show what the one before it cannot.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property

from casstore.errors import IntegrityError
from casstore.remote import keys
from casstore.remote.backend import Entry, KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Epoch, PushEnd
from casstore.remote.once import create_once
from casstore.remote.pushing import revoke, roll_forward
from casstore.tag import Tag

# A push without a new object for so long, by the store's clock, is taken for dead.
REVOKE_AFTER_NS = 7 * 86_400 * 10**9
_DELETE_BATCH = 1000
_MOST_CONDEMNED = 500_000  # by one epoch, which is read whole: some 32 MB. What is left is the next one's
_PROBE_NS = 86_400 * 10**9  # no probe of a store takes so long
_Pause = Callable[[float], object]
_Needs = tuple[str, Sequence[str]]


@dataclass(frozen=True)
class Marked:
    """What is in a remote and what of it is needed, as one look at it found.

    Attributes
    ----------
    packs, segments
        Those that stood when the look began, by key.
    pushes
        The pushes that had left a record when those had been listed.
    ends
        How those of them have ended that have.
    live_packs, live_segments
        The keys of what versions need that are there. Sealed pushes had their refs made before these were listed.
    needs
        The segment and the packs of each version, by the key of its ref: objects that never change.
    dead_signatures
        Those of versions that have been deleted. A tag that is pushed again gets another generation, so that no push
        can come to rely on them.
    """

    packs: Mapping[str, Entry]
    segments: Mapping[str, Entry]
    pushes: Mapping[str, keys.PushState]
    ends: Mapping[str, PushEnd]
    live_packs: frozenset[str]
    live_segments: frozenset[str]
    needs: Mapping[str, _Needs] = field(repr=False)
    dead_signatures: Sequence[str] = ()

    def is_open(self, push_id: str) -> bool:
        """Whether a push may still bring what nothing names yet."""
        return push_id in self.open_pushes

    @cached_property
    def open_pushes(self) -> Mapping[str, keys.PushState]:
        """The pushes that have not ended."""
        return {push_id: state for push_id, state in self.pushes.items() if state.is_open and not state.has_ended}

    @property
    def unneeded_segments(self) -> list[str]:
        """Segments that no version names, and none will."""
        return [key for key in self.segments.keys() - self.live_segments if not self._may_come(keys.parse_segment(key))]

    @property
    def unneeded_packs(self) -> frozenset[str]:
        """Packs that no version names, and that no open push has brought."""
        return frozenset(key for key in self.packs.keys() - self.live_packs if not self._may_come(keys.parse_pack(key)))

    def _may_come(self, place: tuple[str, int] | None) -> bool:
        return place is None or self.is_open(place[0])  # what is of no known kind is left


@dataclass(frozen=True, slots=True)
class OpenPush:
    """A push that has not ended: it is under way, or was killed.

    Attributes
    ----------
    id
        What its objects are named by.
    by
        Who pushes: `user@machine`, as that machine says.
    tags
        What it is to bring; of one that packs anew, none.
    opened_at, heard_at
        When it began, and when its last object came, by the store's clock.
    """

    id: str
    by: str
    tags: Sequence[str]
    opened_at: datetime
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class RemoteGcReport:
    """What a gc of a remote has done, or would do.

    Attributes
    ----------
    packs, freed_bytes
        Packs that nothing needs, and their bytes: removed, or with `waiting` to be removed by a later run.
    condemned
        Of those, how many were not condemned before.
    waiting
        Ids of pushes that have to take note of it first.
    revoked
        Ids of pushes that were silent for so long that they were ended.
    records
        Other objects that went: segments and signatures, and what pushes that have ended had left.
    pushes
        What is known of those of `waiting`.
    """

    packs: int
    freed_bytes: int
    condemned: int
    waiting: Sequence[str] = ()
    revoked: Sequence[str] = ()
    records: int = 0
    pushes: Sequence[OpenPush] = ()


def collect(
    bucket: Bucket,
    pool: Executor,
    *,
    dry_run: bool = False,
    revoke_after_ns: int = REVOKE_AFTER_NS,
    pause: _Pause = time.sleep,
) -> RemoteGcReport:
    """Remove what no version of a remote needs, as far as that is safe now; run again, it goes on.

    `revoke_after_ns`: how long a push may have been silent, by the store's clock. `pause` is called where listings may
    be old. Raises IntegrityError where what a version needs cannot be told, RemoteError; nothing that is needed has
    been removed then.
    """
    epoch = bucket.epoch(bucket.newest_epoch())
    marked = mark(bucket, pool, dry_run=dry_run, pause=pause)
    revoked: list[str] = []
    if not dry_run:
        revoked += _revoke(bucket, _silent(bucket, marked, marked.open_pushes, revoke_after_ns))
        if revoked:
            marked = mark(bucket, pool, marked.needs, pause=pause)  # with what these have brought
    before = frozenset(epoch.condemned)
    unneeded = marked.unneeded_packs
    if dry_run:
        waiting = _unheard(bucket, marked.pushes, epoch.number + 1, pool) if unneeded - before else ()
        return _report(marked, unneeded, unneeded - before, waiting=waiting)
    if unneeded - before:
        epoch = _publish(bucket, marked, epoch)
    if not marked.packs.keys().isdisjoint(epoch.condemned):
        # Whoever has published the newest epoch: what it condemns may go once all that are open know of it.
        _settle(bucket, pause)
        pushes = list_pushes(bucket)
        unheard = _unheard(bucket, pushes, epoch.number, pool)
        silent = _silent(bucket, marked, {push_id: pushes[push_id] for push_id in unheard}, revoke_after_ns)
        revoked += _revoke(bucket, silent)
        if len(silent) < len(unheard):
            waiting = [push_id for push_id in unheard if push_id not in silent]
            return _report(marked, unneeded, unneeded - before, waiting=waiting, revoked=revoked)
        marked = mark(bucket, pool, marked.needs, pause=pause)
    doomed = frozenset(epoch.condemned) & (marked.packs.keys() - marked.live_packs)
    _delete(bucket, doomed)
    records = _remove_records(bucket, marked)
    bucket.backend.tidy()
    return _report(marked, doomed, unneeded - before, revoked=revoked, records=records)


def _report(
    marked: Marked,
    packs: Collection[str],
    condemned: Collection[str],
    *,
    waiting: Sequence[str] = (),
    revoked: Sequence[str] = (),
    records: int = 0,
) -> RemoteGcReport:
    freed = sum(marked.packs[key].size for key in packs)
    return RemoteGcReport(len(packs), freed, len(condemned), waiting, revoked, records)


def mark(
    bucket: Bucket,
    pool: Executor,
    known: Mapping[str, _Needs] | None = None,
    *,
    dry_run: bool = False,
    pause: _Pause = time.sleep,
) -> Marked:
    """Look at all of a remote; makes the refs of sealed pushes on the way, unless it is a dry run.

    `known`: what an earlier look has read, which need not be read again. Raises IntegrityError where a version's ref or
    segment is damaged or gone, since what it needs cannot be told then.
    """
    # In this order: what is listed here may be removed, and whatever needs it is listed later.
    packs = {entry.key: entry for entry in bucket.backend.list(keys.PACKS)}
    segments = {entry.key: entry for entry in bucket.backend.list(keys.SEGMENTS)}
    if not dry_run:
        _settle(bucket, pause)
    pushes = list_pushes(bucket)
    ended = [push_id for push_id, state in pushes.items() if state.has_ended]
    ends = {end.push_id: end for end in bucket.ends(ended, pool)}
    sealed = [end for end in ends.values() if end.is_sealed]
    if not dry_run:
        for _ in pool.map(lambda end: roll_forward(bucket, end), sealed):
            pass
        _settle(bucket, pause)
    states = bucket.refs()
    live = keys.live(states)
    known = known or {}
    needs = {key: known[key] for key in live.values() if key in known}
    unread = [(tag, key) for tag, key in live.items() if key not in known]
    needs |= zip((key for _, key in unread), pool.map(lambda pair: _needed(bucket, *pair), unread), strict=True)
    live_packs = {pack for _, packs in needs.values() for pack in packs}
    live_segments = {segment for segment, _ in needs.values()}
    if dry_run:  # whose refs are missing would get them; those of deleted versions stand, beside their tombstones
        standing = {entry.key for entry in bucket.backend.list(keys.REFS)}
        about = {push.push_id for push in sealed if not all(key in standing for key, _ in push.refs)}
        live_packs.update(key for key in packs if (keys.parse_pack(key) or ("",))[0] in about)
    dead = [key for state in states.values() for key in state.dead_signatures]
    return Marked(packs, segments, pushes, ends, frozenset(live_packs), frozenset(live_segments), needs, dead)


def with_pushes(bucket: Bucket, report: RemoteGcReport, pool: Executor) -> RemoteGcReport:
    """The report with what is known of the pushes that are waited for. Raises RemoteError."""
    states = list_pushes(bucket) if report.waiting else {}

    def look(push_id: str) -> OpenPush | None:
        try:
            opened = bucket.opened(push_id)
            by, tags = opened.by, opened.tags
        except KeyMissing:
            return None  # it has ended meanwhile
        except IntegrityError:
            by, tags = "?", ()
        prefixes = (f"{keys.PACKS}{push_id}/", f"{keys.SEGMENTS}{push_id}/")
        brought = [entry.modified_ns for prefix in prefixes for entry in bucket.backend.list(prefix)]
        state = states[push_id]
        return OpenPush(push_id, by, tags, _moment(state.opened_ns), _moment(max(state.modified_ns, *brought, 0)))

    looked = pool.map(look, [push_id for push_id in report.waiting if push_id in states])
    return replace(report, pushes=[each for each in looked if each is not None])


def _moment(at_ns: int) -> datetime:
    return datetime.fromtimestamp(at_ns // 10**9, timezone.utc)


def list_pushes(bucket: Bucket) -> dict[str, keys.PushState]:
    """The pushes that have left a record. Raises RemoteError."""
    return keys.pushes((entry.key, entry.modified_ns) for entry in bucket.backend.list(keys.PUSHES))


def _needed(bucket: Bucket, tag: Tag, key: str) -> _Needs:
    """A version's segment, and the packs that it names."""
    ref = bucket.ref(tag, key)
    try:
        return ref.segment, [info.key for info in bucket.packs_of(ref)]
    except KeyMissing as error:
        state = bucket.state(tag)
        if state.is_live and state.key(tag) != key:  # it was repacked meanwhile
            return _needed(bucket, tag, state.key(tag))
        if not state.is_live:
            return ref.segment, []
        raise IntegrityError(
            f"{ref.segment} is gone from {bucket.name}, and {tag} needs it, so what else it needs cannot be told; "
            f"delete it there (`casstore delete {tag} --remote`), and push it again from where it is"
        ) from error


def _settle(bucket: Bucket, pause: _Pause) -> None:
    """Have the next listing show what has been written until now."""
    if bucket.backend.listing_delay_seconds:
        pause(bucket.backend.listing_delay_seconds)


def _publish(bucket: Bucket, marked: Marked, before: Epoch) -> Epoch:
    """Make the next epoch; returns the newest, whoever has made it.

    What was condemned once stays so while it stands, though a version may have come to need it meanwhile.
    """
    still = frozenset(before.condemned) & marked.packs.keys()
    condemned = still | frozenset(sorted(marked.unneeded_packs - still)[:_MOST_CONDEMNED])
    made = Epoch(before.number + 1, secrets.token_hex(16), condemned)
    return Epoch.unpack(create_once(bucket.backend, keys.epoch(made.number), made.pack()), made.number)


def _silent(bucket: Bucket, marked: Marked, pushes: Mapping[str, keys.PushState], after_ns: int) -> list[str]:
    """Those of these pushes that have written nothing for so long, by the store's clock."""
    if not pushes:
        return []
    heard_ns = {push_id: state.modified_ns for push_id, state in pushes.items()}
    for entry in (*marked.packs.values(), *marked.segments.values()):
        push_id, _ = keys.parse_pack(entry.key) or keys.parse_segment(entry.key) or ("", 0)
        if push_id in heard_ns:
            heard_ns[push_id] = max(heard_ns[push_id], entry.modified_ns)
    now_ns = _now_ns(bucket)
    return [push_id for push_id, at_ns in heard_ns.items() if now_ns - at_ns >= after_ns]


def _revoke(bucket: Bucket, push_ids: Iterable[str]) -> list[str]:
    """End these pushes; returns those that had not been sealed."""
    return [push_id for push_id in push_ids if not revoke(bucket, push_id).is_sealed]


def _now_ns(bucket: Bucket) -> int:
    """The time by the store's clock, as it stamps an object that is written now. Raises RemoteError.

    What probes that were cut short have left goes on the way.
    """
    key = f"{keys.PROBE}/{secrets.token_hex(16)}"
    bucket.backend.put(key, b"")
    listed = {entry.key: entry.modified_ns for entry in bucket.backend.list(f"{keys.PROBE}/")}
    now_ns = listed.get(key, 0)
    _delete(bucket, [key, *(each for each, modified_ns in listed.items() if now_ns - modified_ns >= _PROBE_NS)])
    return now_ns


def _unheard(bucket: Bucket, pushes: Mapping[str, keys.PushState], epoch: int, pool: Executor) -> list[str]:
    """The open pushes that have not taken note of that epoch."""
    asked = [
        push_id for push_id, state in pushes.items() if state.is_open and not state.has_ended and state.seen < epoch
    ]

    def opened_under(push_id: str) -> int:
        try:
            return bucket.opened(push_id).epoch
        except KeyMissing:
            return epoch  # it has ended, and its records are gone

    return [push_id for push_id, known in zip(asked, pool.map(opened_under, asked), strict=True) if known < epoch]


def _remove_records(bucket: Bucket, marked: Marked) -> int:
    """Remove segments that nothing names, signatures of deleted versions, and what ended pushes have left.

    Returns how many objects went. How a push was revoked stays for ever: else it could still be sealed. The end of a
    sealed one goes last.
    """
    unneeded = [*marked.unneeded_segments, *marked.dead_signatures]
    _delete(bucket, unneeded)
    if any(bucket.backend.list(f"{keys.PROBE}/")):
        _now_ns(bucket)
    left = [
        entry.key for entry in bucket.backend.list(keys.PUSHES)
        if (place := keys.parse_push(entry.key)) is not None and place in marked.ends
    ]  # fmt: skip
    ends = {keys.push_end(push_id): end for push_id, end in marked.ends.items()}
    first = [key for key in left if key not in ends]
    last = [key for key in left if key in ends and ends[key].is_sealed]
    _delete(bucket, first)
    _delete(bucket, last)
    return len(unneeded) + len(first) + len(last)


def _delete(bucket: Bucket, unneeded: Collection[str]) -> None:
    ordered = sorted(unneeded)
    for start in range(0, len(ordered), _DELETE_BATCH):
        bucket.backend.delete(ordered[start : start + _DELETE_BATCH])
