"""The remote protocol as processes that take one request to the bucket at a time: a bounded model of it.

A process is a generator that yields requests, is sent their answers and returns an outcome. Every version has one
chunk, so that any may rely on the pack of any other. What a client keeps on its own disk, its journal, is written in
steps of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum, Flag
from typing import Any, NamedTuple

from tests.remote import bucket
from tests.remote.bucket import (
    EPOCH,
    JOURNAL,
    LOST,
    Alias,
    Chunk,
    Condemned,
    Epoch,
    Open,
    Ref,
    Request,
    Revoked,
    Sealed,
    Segment,
    Version,
    generations,
    live,
)
from tests.remote.rules import ALL, Rule


class Outcome(Enum):
    """What a process says in the end."""

    DONE = "done"
    DELETED = "deleted, or may be yet"
    COMMITTED = "committed"
    ALREADY_THERE = "already there"
    EXISTS = "another version has that tag"
    GAVE_UP = "was revoked too often"
    UNKNOWN = "may still complete"
    FAILED = "failed"
    READ = "read"
    NOT_THERE = "no such version"
    DAMAGED = "damaged"
    MOVED = "moved"
    NOT_MOVED = "another mover came first"


Process = Generator[Request, Any, Outcome]
Steps = Generator[Request, Any, Any]


class Cleaning(Flag):
    """What a gc removes besides packs."""

    PACKS = 0
    SEGMENTS = 1
    RECORDS = 2
    EPOCHS = 4
    ALL = 7


@dataclass(frozen=True)
class Push:
    """`name`: of the client. `polls`: it looks for a new epoch before it writes its segment. `adopts`: it relies on any
    pack that stands, as one does that goes on, under an id of its own, with what an earlier push has brought."""

    name: str
    tag: str
    digest: str = ""
    tries: int = 1
    polls: bool = False
    journals: bool = False
    adopts: bool = False

    @property
    def version(self) -> str:
        return self.digest or self.name


class Journal(NamedTuple):
    """What a client has noted of a push: its id, what it relies on, and what it seals once it has come so far."""

    push: str
    relies_on: Chunk | None = None
    sealing: Sealed | None = None


class Marked(NamedTuple):
    """What gc knows after it has listed pushes, then refs, then read the segments of live versions."""

    pushes: Mapping[str, Any]
    segments: frozenset[str]
    packs: frozenset[str]

    def open_pushes(self) -> set[str]:
        return _open(self.pushes)


class _UnknownError(Exception):
    """A create was tried, and nobody can tell whether it will be done."""


class _DamagedError(Exception):
    """A segment is missing that the refs still name."""


def _open(pushes: Mapping[str, Any]) -> set[str]:
    """The ids of the pushes that have an `open`, and no `end`."""
    ended = {_push_of(key) for key in pushes if key.endswith("/end")}
    return {_push_of(key) for key in pushes if key.endswith("/open")} - ended


def _push_of(key: str) -> str:
    return key.split("/")[1]


def _sealed(pushes: Mapping[str, Any]) -> dict[str, Sealed]:
    return {_push_of(key): body for key, body in pushes.items() if isinstance(body, Sealed)}


def _acknowledged(pushes: Mapping[str, Any], push: str) -> int:
    """The highest epoch that a push has acknowledged."""
    return max(body.epoch for key, body in pushes.items() if isinstance(body, Open) and _push_of(key) == push)


@dataclass(frozen=True)
class Protocol:
    """The processes, which follow these rules.

    `pages`: by prefix, the key at which a listing is cut into two pages, between which other requests come.
    """

    rules: frozenset[Rule] = ALL
    pages: Mapping[str, str] = field(default_factory=dict)

    def without(self, *rules: Rule) -> Protocol:
        return Protocol(self.rules - set(rules), self.pages)

    def _list(self, prefix: str) -> Generator[Request, Any, dict[str, Any]]:
        if prefix not in self.pages:
            return dict((yield bucket.listing(prefix)))
        first = yield bucket.listing(prefix, stop=self.pages[prefix])
        second = yield bucket.listing(prefix, start=self.pages[prefix])
        return dict(first + second)

    def _create_once(self, key: str, body: Any, *, certain: Rule = Rule.READ_BACK, tries: int = 2) -> Steps:
        """Returns what stands under the key. `certain`: the rule that forbids to go on without knowing that."""
        for _ in range(tries):
            found = yield bucket.create(key, body)
            if found is LOST:
                if certain not in self.rules:
                    return None if certain is Rule.READ_BACK else body
                (found,) = yield bucket.get(key)
            if found is not None:
                return found
        raise _UnknownError

    def push(self, push: Push, incarnation: int = 0) -> Process:
        """Make a version. `incarnation`: how often the client was started before, with the same journal."""
        try:
            return (yield from self._push(push, incarnation))
        except _UnknownError:
            return Outcome.UNKNOWN if Rule.UNKNOWN_IS_NO_FAILURE in self.rules else Outcome.FAILED

    def _push(self, push: Push, incarnation: int) -> Process:
        journal: Journal | None = None
        if incarnation:
            (journal,) = yield bucket.get(JOURNAL + push.name)
        for attempt in range(push.tries):
            if journal is None:
                journal = Journal(f"{push.name}{incarnation}{attempt}")
                yield from self._note(push, journal)
            sealed = journal.sealing
            if sealed is None:
                prepared = yield from self._prepare(push, journal, incarnation)
                if isinstance(prepared, Outcome):
                    return prepared
                sealed = prepared
                if Rule.SEAL_IN_JOURNAL in self.rules:
                    yield from self._note(push, journal._replace(sealing=sealed))
            end = yield from self._seal(journal.push, sealed)
            if isinstance(end, Sealed):
                return (yield from self._commit(end))
            if Rule.LOOK_AT_OWN_REFS in self.rules:
                standing = yield bucket.get(*(key for key, _ in sealed.refs))
                if standing == tuple(body for _, body in sealed.refs):
                    return Outcome.COMMITTED
            journal = None
        return Outcome.GAVE_UP

    def _note(self, push: Push, journal: Journal) -> Generator[Request, Any, None]:
        if push.journals:
            yield bucket.put(JOURNAL + push.name, journal)

    def _enter(self, push: str) -> Generator[Request, Any, Epoch]:
        """Open a push, or one that was opened before. Returns the epoch that it has acknowledged."""
        known: Epoch = yield EPOCH
        opened = yield from self._create_once(f"pushes/{push}/open", Open(known.number), certain=Rule.OPEN_IS_CERTAIN)
        if Rule.SECOND_LOOK in self.rules:
            known = yield EPOCH
        if known.number > opened.epoch:
            yield bucket.create(f"pushes/{push}/v{known.number}", Open(known.number))
        return known

    def _prepare(self, push: Push, journal: Journal, incarnation: int) -> Generator[Request, Any, Sealed | Outcome]:
        """Everything up to the segment. Returns what is to be sealed, or why there is nothing to seal."""
        known = yield from self._enter(journal.push)
        refs = yield from self._list("refs/")
        standing = live(refs).get(push.tag)
        if standing and Rule.NEXT_GENERATION in self.rules:
            yield bucket.create(f"pushes/{journal.push}/end", Revoked(push.name))
            is_same = standing.newest.digest == push.version
            return Outcome.ALREADY_THERE if is_same else Outcome.EXISTS
        key = f"refs/{push.tag}/{generations(refs).get(push.tag, -1) + 1}"
        if push.adopts:
            adopted = yield from self._adopt(journal.push, known)
            yield bucket.put(f"segments/{journal.push}/0", Segment(push.version, adopted))
            return Sealed(((key, Ref(journal.push, push.name, f"segments/{journal.push}/0", push.version)),))
        number = incarnation if Rule.NEW_NUMBERS in self.rules else 0
        content = f"{journal.push}.{incarnation}"
        chunk = self._resumed_reliance(journal, known)
        chunk = chunk or (yield from self._usable(live(refs), known))
        if chunk is None and incarnation:
            own = yield bucket.listing(f"packs/{journal.push}/")
            chunk = next((Chunk(*each) for each in own), None) if Rule.NEW_NUMBERS in self.rules else None
        chunk = chunk or (yield from self._upload(journal.push, f"{number}", content))
        yield from self._note_reliance(push, journal, chunk)
        if push.polls:
            chunk = yield from self._poll(journal.push, known, chunk, f"{number}-more")
        segment = f"segments/{journal.push}/{number}"
        yield bucket.put(segment, Segment(push.version, chunk))
        return Sealed(((key, Ref(journal.push, push.name, segment, push.version)),))

    def _adopt(self, push: str, known: Epoch) -> Generator[Request, Any, Chunk]:
        """A pack that stood once the push was open, and that nothing condemned; it looks for new epochs twice."""
        standing = [Chunk(*each) for each in (yield bucket.listing("packs/"))]
        condemned = set(known.condemned)
        chunk = next((each for each in standing if each.pack not in condemned), None)
        for number in range(2):
            newer: Epoch = yield EPOCH
            if newer.number > known.number:
                if Rule.ALL_CONDEMNED not in self.rules:
                    condemned = set()
                condemned |= set(newer.condemned)
                chunk = next((each for each in standing if each.pack not in condemned), None)
                yield bucket.create(f"pushes/{push}/v{newer.number}", Open(newer.number))
                known = newer
            chunk = chunk or (yield from self._upload(push, f"{number}", push))
        return chunk or (yield from self._upload(push, "2", push))

    def _resumed_reliance(self, journal: Journal, known: Epoch) -> Chunk | None:
        """What a mutant goes on to rely on, because it did when it was killed."""
        chunk = journal.relies_on
        return None if chunk is None or chunk.pack in known.condemned else chunk

    def _note_reliance(self, push: Push, journal: Journal, chunk: Chunk) -> Generator[Request, Any, None]:
        """What a mutant notes, to go on to rely on it. Others decide again."""
        if Rule.RELY_AFRESH not in self.rules:
            yield from self._note(push, journal._replace(relies_on=chunk))

    def _usable(
        self, versions: Mapping[str, Version], known: Epoch, besides: str = ""
    ) -> Generator[Request, Any, Chunk | None]:
        """A chunk that a live version has in a pack that is not condemned. A segment that is gone has none."""
        segments = sorted({version.newest.segment for version in versions.values()})
        found = (yield bucket.get(*segments)) if segments else ()
        chunks = [each.chunk for each in found if each is not None]
        avoided = {besides, *(known.condemned if Rule.AVOID_CONDEMNED in self.rules else ())}
        return next((each for each in chunks if each.pack not in avoided), None)

    def _upload(self, push: str, number: str, content: str) -> Generator[Request, Any, Chunk]:
        is_named_by_push = Rule.RANDOM_NAMES in self.rules
        chunk = Chunk(f"packs/{push}/{number}", content) if is_named_by_push else Chunk("packs/a/0", "a")
        yield bucket.put(*chunk)
        return chunk

    def _poll(self, push: str, known: Epoch, chunk: Chunk, number: str) -> Generator[Request, Any, Chunk]:
        """Acknowledge a newer epoch. Returns where the chunk is then."""
        newer: Epoch = yield EPOCH
        if newer.number == known.number:
            return chunk
        if chunk.pack in newer.condemned and Rule.LOOK_BEFORE_ACKNOWLEDGING in self.rules:
            chunk = yield from self._upload(push, number, f"{push}.{number}")
        yield bucket.create(f"pushes/{push}/v{newer.number}", Open(newer.number))
        return chunk

    def _seal(self, push: str, sealed: Sealed) -> Steps:
        if Rule.SEAL not in self.rules:
            return sealed
        return (yield from self._create_once(f"pushes/{push}/end", sealed, certain=Rule.SEAL_IS_CERTAIN))

    def _commit(self, sealed: Sealed) -> Process:
        """Create what was sealed; what has been created before is left as it is."""
        outcome = Outcome.COMMITTED
        for key, body in sealed.refs:
            found = yield from self._create_once(key, body, tries=1)
            while found != body and Rule.TAKEN_IS_FINAL not in self.rules:
                stem, number = key[:-1], int(key[-1])  # of one digit, as few take part
                key = f"{stem}{number + 1}"
                found = yield from self._create_once(key, body)
            if found != body:
                outcome = Outcome.EXISTS
        return outcome

    def push_anew(self, push: Push, incarnation: int = 0) -> Process:
        """Make a version, every time under another id, and rely on what earlier tries have brought, however they ended.

        Every pack is written twice, as where no answer came: the first request may be long on its way.
        """
        try:
            return (yield from self._push_anew(push, incarnation))
        except _UnknownError:
            return Outcome.UNKNOWN

    def _push_anew(self, push: Push, incarnation: int) -> Process:
        (journal,) = yield bucket.get(JOURNAL + push.name)
        begun: tuple[tuple[str, int], ...] = journal or ()
        for attempt in range(push.tries):
            name = f"{push.name}{incarnation}{attempt}"
            known = yield from self._enter(name)
            yield bucket.put(JOURNAL + push.name, (*begun, (name, known.number)))
            refs = yield from self._list("refs/")
            if push.tag in live(refs):
                yield bucket.create(f"pushes/{name}/end", Revoked(push.name))
                return Outcome.ALREADY_THERE
            condemned = yield from self._condemned_since(begun, known)
            own = (yield bucket.listing(*(f"packs/{each}/" for each, _ in begun))) if begun else ()
            chunk = next((Chunk(*each) for each in own if each[0] not in condemned), None)
            chunk = chunk or (yield from self._upload_twice(name, "0"))
            newer: Epoch = yield EPOCH
            if newer.number > known.number:
                if chunk.pack in newer.condemned:
                    chunk = yield from self._upload_twice(name, "1")
                yield bucket.create(f"pushes/{name}/v{newer.number}", Open(newer.number))
            key, segment = f"refs/{push.tag}/{generations(refs).get(push.tag, -1) + 1}", f"segments/{name}/0"
            yield bucket.put(segment, Segment(push.version, chunk))
            end = yield from self._seal(name, Sealed(((key, Ref(name, push.name, segment, push.version)),)))
            if isinstance(end, Sealed):
                outcome = yield from self._commit(end)
                return Outcome.ALREADY_THERE if outcome is Outcome.EXISTS else outcome  # by an earlier try
            begun = (*begun, (name, known.number))
        return Outcome.GAVE_UP

    def _condemned_since(
        self, begun: tuple[tuple[str, int], ...], known: Epoch
    ) -> Generator[Request, Any, frozenset[str]]:
        """What was condemned since the first of these pushes began."""
        condemned = frozenset(known.condemned)
        if begun and Rule.ALL_EPOCHS in self.rules:
            between = range(min(number for _, number in begun) + 1, known.number)
            epochs = (yield bucket.get(*(f"gc/{number}" for number in between))) if between else ()
            condemned = condemned.union(*(epoch.packs for epoch in epochs))
        return condemned

    def _upload_twice(self, push: str, number: str) -> Generator[Request, Any, Chunk]:
        yield from self._upload(push, number, push)
        return (yield from self._upload(push, number, push))

    def repack(self, name: str, tags: tuple[str, ...], incarnation: int = 0) -> Process:
        """Move the chunks of live versions away from the packs in which they are."""
        try:
            return (yield from self._repack(name, tags, incarnation))
        except _UnknownError:
            return Outcome.UNKNOWN

    def _repack(self, name: str, tags: tuple[str, ...], incarnation: int) -> Process:
        push = f"{name}{incarnation}"
        known = yield from self._enter(push)
        versions = live((yield from self._list("refs/")))
        sealing: list[tuple[str, Ref]] = []
        fresh: Chunk | None = None
        for number, version in enumerate(versions[tag] for tag in tags if tag in versions):
            (segment,) = yield bucket.get(version.newest.segment)
            if segment is None:
                continue
            chunk = yield from self._usable(versions, known, besides=segment.chunk.pack)
            if chunk is None:
                chunk = fresh = fresh or (yield from self._upload(push, "0", push))
            key = f"segments/{push}/{number}"
            yield bucket.put(key, Segment(segment.digest, chunk))
            sealing.append((f"{version.key}.s{version.repacked + 1}", Ref(push, name, key, segment.digest)))
        end = yield from self._seal(push, Sealed(tuple(sealing)))
        if isinstance(end, Sealed):
            yield from self._commit(end)
        return Outcome.DONE

    def delete(self, tag: str) -> Process:
        """Delete the version that has a tag, if any."""
        version = live((yield from self._list("refs/"))).get(tag)
        if version is None:
            return Outcome.NOT_THERE
        yield bucket.create(f"{version.key}.x", "deleted")
        return Outcome.DELETED

    def undelete(self, tag: str) -> Process:
        """What must not be: remove a tombstone."""
        (tombstone,) = yield bucket.get(f"refs/{tag}/0.x")
        if tombstone and Rule.TOMBSTONES_STAY not in self.rules:
            yield bucket.delete([f"refs/{tag}/0.x"])
        return Outcome.DONE

    def read(self, tag: str) -> Process:
        """Fetch a version. What is missing twice, and is still what the refs name, is damaged."""
        missed = None
        while version := live((yield from self._list(f"refs/{tag}/"))).get(tag):
            if version == missed:
                return Outcome.DAMAGED
            (segment,) = yield bucket.get(version.newest.segment)
            if segment is not None:
                (content,) = yield bucket.get(segment.chunk.pack)
                if content == segment.chunk.content:
                    return Outcome.READ
            if Rule.LOOK_AGAIN not in self.rules:
                return Outcome.DAMAGED
            missed = version
        return Outcome.NOT_THERE

    def help(self) -> Process:
        """Roll forward what others have sealed, as any push may do."""
        pushes = yield from self._list("pushes/")
        for sealed in _sealed(pushes).values():
            try:
                yield from self._commit(sealed)
            except _UnknownError:
                return Outcome.UNKNOWN
        return Outcome.DONE

    def move_alias(self, mover: str, version: str, expected: str) -> Process:
        """Make an alias name a version, if it names the expected one."""
        try:
            while True:
                entries = dict((yield bucket.listing("aliases/latest/")))
                newest = max(entries, key=lambda key: int(key.rpartition("/")[2]))
                if entries[newest].version != expected:
                    return Outcome.NOT_MOVED
                key = f"aliases/latest/{int(newest.rpartition('/')[2]) + 1}"
                body = Alias(version, mover if Rule.NAMED_MOVER in self.rules else "", expected)
                found = yield from self._create_once(key, body)
                while found != body and Rule.COMPARE_AGAIN not in self.rules:
                    key = f"aliases/latest/{int(key.rpartition('/')[2]) + 1}"
                    found = yield from self._create_once(key, body)
                if found == body:
                    return Outcome.MOVED
        except _UnknownError:
            return Outcome.UNKNOWN

    def gc(self, run: str, cleaning: Cleaning = Cleaning.PACKS) -> Process:
        """Collect the packs that no live version needs, and what else `cleaning` names."""
        try:
            return (yield from self._gc(run, cleaning))
        except _UnknownError:
            return Outcome.UNKNOWN
        except _DamagedError:
            return Outcome.DAMAGED

    def sweep(self, run: str) -> Process:
        """Collect all garbage, and wait for nobody: every push that is open is revoked."""
        for push in sorted(_open((yield from self._list("pushes/")))):
            yield bucket.create(f"pushes/{push}/end", Revoked(run))
        return (yield from self.gc(run, Cleaning.ALL))

    def _gc(self, run: str, cleaning: Cleaning) -> Process:
        known: Epoch = yield EPOCH
        if Rule.PACKS_FIRST in self.rules:
            stored = dict((yield bucket.listing("packs/", "segments/")))
            marked = yield from self._mark()
        else:
            marked = yield from self._mark()
            stored = dict((yield bucket.listing("packs/", "segments/")))
        packs = {key for key in stored if key.startswith("packs/")}
        candidates = {key for key in packs - marked.packs if _push_of(key) not in marked.open_pushes()}
        kept = set(known.condemned) & packs
        if Rule.CONDEMNED_FOR_EVER not in self.rules:
            kept -= marked.packs
        condemned = kept | candidates
        if condemned or Rule.CONDEMNED_FOR_EVER not in self.rules:
            again = yield from self._condemn(run, known.number + 1, condemned, cleaning)
            if again is None:
                return Outcome.DONE
            marked = again if Rule.MARK_AGAIN in self.rules else marked
            if doomed := condemned - marked.packs:
                yield bucket.delete(doomed)
        if Cleaning.SEGMENTS in cleaning:
            yield from self._delete_segments(stored, marked)
        if Cleaning.RECORDS in cleaning:
            yield from self._purge_records(marked)
        if Cleaning.EPOCHS in cleaning:
            newest = known.number + 1 if condemned else known.number
            yield bucket.delete(f"gc/{number}" for number in range(newest))
        return Outcome.DONE

    def _condemn(
        self, run: str, number: int, packs: set[str], cleaning: Cleaning
    ) -> Generator[Request, Any, Marked | None]:
        """Publish what is to be deleted, and see to it that no push relies on it. None: another gc does."""
        if Rule.PUBLISH in self.rules:
            body = Condemned(tuple(sorted(packs)), run)
            found = yield from self._create_once(f"gc/{number}", body, certain=Rule.EPOCH_IS_CERTAIN)
            if found != body:
                return None
            if Cleaning.EPOCHS in cleaning and Rule.LATEST_EPOCH in self.rules:
                newest: Epoch = yield EPOCH
                if newest.number != number:
                    return None
        if Rule.FENCE in self.rules:
            pushes = yield from self._list("pushes/")
            for push in sorted(_open(pushes)):
                if _acknowledged(pushes, push) < number:
                    key = f"pushes/{push}/end"
                    yield from self._create_once(key, Revoked(run), certain=Rule.FENCE_IS_CERTAIN)
        return (yield from self._mark()) if Rule.MARK_AGAIN in self.rules else Marked({}, frozenset(), frozenset())

    def _mark(self) -> Generator[Request, Any, Marked]:
        """What live versions need, after everything that is sealed has its refs."""
        pushes = yield from self._list("pushes/")
        missed: set[str] = set()
        while True:
            refs = yield from self._list("refs/")
            listed = dict(refs)
            for sealed in _sealed(pushes).values() if Rule.ROLL_FORWARD in self.rules else ():
                for key, body in sealed.refs if Rule.ROLL_ALL_FORWARD in self.rules else sealed.refs[:1]:
                    if key not in refs:
                        refs[key] = yield from self._create_once(key, body)
            versions = list(live(refs).values())
            segments = sorted({version.newest.segment for version in versions})
            found = (yield bucket.get(*segments)) if segments else ()
            missing = {segment for segment, each in zip(segments, found, strict=True) if each is None}
            if not missing:
                break
            if missing & missed:
                raise _DamagedError
            missed |= missing
        if Rule.NEWEST_SEGMENT not in self.rules:
            segments, found = yield from self._first_segments(refs, versions)
        if Rule.SEGMENTS_ROLLED_FORWARD not in self.rules:
            segments = sorted({version.newest.segment for version in live(listed).values()})
        return Marked(pushes, frozenset(segments), frozenset(each.chunk.pack for each in found if each))

    def _first_segments(
        self, refs: Mapping[str, Any], versions: list[Version]
    ) -> Generator[Request, Any, tuple[list[str], tuple[Any, ...]]]:
        """What a mutant takes for the segments of live versions: those that their pushes wrote."""
        segments = sorted({refs[version.key].segment for version in versions})
        return segments, (yield bucket.get(*segments))

    def _delete_segments(self, stored: Mapping[str, Any], marked: Marked) -> Generator[Request, Any, None]:
        """Delete the segments that no live version names, and no push that is open may come to name."""
        spared = marked.open_pushes() if Rule.SEGMENTS_OF_OPEN_PUSHES in self.rules else set()
        segments = {key for key in stored if key.startswith("segments/")} - marked.segments
        if dead := {key for key in segments if _push_of(key) not in spared}:
            yield bucket.delete(dead)

    def _purge_records(self, marked: Marked) -> Generator[Request, Any, None]:
        """Remove the records of pushes that are over, but for what says that a push was revoked."""
        pushes = marked.pushes
        if Rule.PURGE_ROLLED_FORWARD not in self.rules:
            pushes = yield from self._list("pushes/")
        opened = _open(pushes)
        others = [key for key, body in pushes.items() if isinstance(body, Open) and _push_of(key) not in opened]
        removable = (Sealed,) if Rule.KEEP_REVOKED in self.rules else (Sealed, Revoked)
        ends = [key for key, body in pushes.items() if isinstance(body, removable)]
        for keys in (others, ends):
            if keys:
                yield bucket.delete(keys)
