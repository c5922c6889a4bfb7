"""Versions to a remote: what it lacks of each, in packs, then where all of it is, then that it is there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from casstore.actions import resolve
from casstore.actions.exchange import remote_signatures
from casstore.actions.exchange.pack_size import MOST_BYTES, PackSize
from casstore.actions.exchange.remote_cache import keep_refs, read_refs, read_segments
from casstore.actions.packs.builder import ENCODE_THREADS
from casstore.actions.packs.chains import BoundedChains
from casstore.actions.packs.sending import Sending
from casstore.actions.workspace import Workspace
from casstore.catalog.events import Noted
from casstore.catalog.index import DeltaLink
from casstore.catalog.remotes import PushedPack
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import RemoteError, TagExists, TagNotFound
from casstore.progress import SILENT, Progress
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.collect import list_pushes
from casstore.remote.documents import Ref
from casstore.remote.other_places import assembled
from casstore.remote.pushing import Push, PushRevoked, described, revoke, roll_forward
from casstore.remote.segment import ChunkPlace, PackInfo, Segment
from casstore.remote.transfers import workers
from casstore.storage.container import MAX_DELTA_LINKS
from casstore.storage.manifest import Manifest
from casstore.storage.pack import EncodedChunk, PackEntry, PackStream
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

PACK_BYTES = MOST_BYTES
_AT_ONCE = 4  # packs on their way: with the one that is being filled they take 160 MiB
_TRIES = 3  # of a push that a gc revokes
_SOURCES = 3  # versions of the name, the base among them, whose chunks are looked for there
_READERS = 16
_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_NOTE_SECONDS = 60.0
pause: Callable[[float], object] = time.sleep


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one version that was to be pushed.

    Attributes
    ----------
    tag
        The version's tag.
    is_new
        Whether this push has brought it; false where it was there.
    sent_bytes, packs
        What travelled.
    signatures
        How many signatures this push has brought, also of a version that was there.
    """

    tag: Tag
    is_new: bool
    sent_bytes: int = 0
    packs: int = 0
    signatures: int = 0


@dataclass(slots=True)
class _There:
    """What the remote has that a push may rely on: of each chunk, its pack, and where in it."""

    condemned: frozenset[str]
    places: dict[Digest, tuple[PackInfo, ChunkPlace]] = field(default_factory=dict)
    chains: BoundedChains = field(default_factory=BoundedChains)

    def add_segment(self, segment: Segment) -> None:
        """Add what a version's segment names."""
        depths = segment.depths
        for digest in sorted(segment.chunks, key=depths.__getitem__):
            place = segment.chunks[digest]
            self.add(digest, segment.packs[place.pack], place)

    def add_packs(self, packs: Iterable[PushedPack]) -> None:
        """Add what is in packs, in whichever order they were written: a delta comes after what it stands on."""
        waiting = {
            entry.digest: (PackInfo(pack.key, pack.size, pack.digest), _place(entry))
            for pack in packs
            for entry in pack.entries
        }
        before = -1
        while len(self.places) != before:
            before = len(self.places)
            for digest, (info, place) in waiting.items():
                self.add(digest, info, place)

    def add(self, digest: Digest, pack: PackInfo, place: ChunkPlace) -> None:
        """Add a chunk, unless it or what it needs may not be relied on; what that is must have been added before.

        Versions that were pushed apart may each say that the other's chunk is the base; as each one stands on what was
        added before it, no chain goes in a circle.
        """
        links = self.chains.links
        if digest in links or pack.key in self.condemned:
            return
        depth = 0
        if place.base is not None:
            base, grouping = links.get(place.base), links.get(place.grouping or place.base)
            if base is None or grouping is None or grouping.base is not None or base.depth >= MAX_DELTA_LINKS:
                return
            depth = base.depth + 1
        self.places[digest] = (pack, place)
        self.chains.add(DeltaLink(digest, place.base, place.grouping, depth, depth), place.length)

    def segment(self, manifest: Manifest) -> Segment:
        """The segment of a version of which every chunk is there. Raises KeyError otherwise."""
        return assembled(manifest, self.places)


@dataclass(slots=True)
class _Uploads:
    """Takes records, and writes them in packs, several at once; each is noted in the catalog before it is written."""

    workspace: Workspace
    push: Push
    pool: ThreadPoolExecutor
    progress: Progress
    there: _There
    written: list[PushedPack] = field(default_factory=list)
    sent_bytes: int = 0
    packs: int = 0
    _polled: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pieces: list[bytes] = field(default_factory=list)
    _stream: PackStream | None = None
    _pack_size: PackSize = field(default_factory=lambda: PackSize(_AT_ONCE, PACK_BYTES))
    _running: list[Future[None]] = field(default_factory=list)

    def add(self, chunk: EncodedChunk) -> PackEntry:
        """See Sink."""
        return self._current().add(chunk)

    def copy(self, record: bytes) -> PackEntry:
        """See Sink."""
        return self._current().copy(record)

    def _current(self) -> PackStream:
        if self._stream is not None and self._stream.size >= self._pack_size.wanted_bytes:
            self._end_pack()
            while self._running and not self._pack_size.is_known:
                self._running.pop(0).result()
        if self._stream is None:
            self._stream = PackStream(lambda data: self._pieces.append(bytes(data)))
        return self._stream

    def _end_pack(self) -> None:
        if self._stream is None:
            return
        self._stream.end()
        body, entries = b"".join(self._pieces), self._stream.entries
        self._stream, self._pieces = None, []
        info = self.push.new_pack(body)
        self.written.append(PushedPack(info.key, info.size, info.digest, entries))
        self.workspace.catalog.remotes.add_pack(self.push.id, self.written[-1])
        self.there.places.update((entry.digest, (info, _place(entry))) for entry in entries)
        while len(self._running) >= _AT_ONCE:
            self._running.pop(0).result()
        self._running.append(self.pool.submit(self._write, info, body))
        if time.monotonic() - self._polled >= _NOTE_SECONDS:
            self._polled = time.monotonic()
            self.push.keep_up()  # a gc need not wait until all has been sent

    def _write(self, info: PackInfo, body: bytes) -> None:
        self._pack_size.send(body, lambda body: self.push.bucket.backend.put(info.key, body))
        with self._lock:
            self.sent_bytes += info.size
            self.packs += 1
        self.progress.advance(info.size)

    def finish(self) -> None:
        """Wait until all is written. Raises RemoteError."""
        self._end_pack()
        while self._running:
            self._running.pop(0).result()


def _place(entry: PackEntry) -> ChunkPlace:
    """Where a pack's entry is; which of a segment's packs that is, is not known yet."""
    grouping = entry.grouping or entry.base
    return ChunkPlace(0, entry.offset, entry.length, entry.raw_bytes, entry.encoding, entry.base, grouping)


def push_version(workspace: Workspace, bucket: Bucket, row: VersionRow, progress: Progress) -> Pushed:
    """Push one version, unless the very same is there, and the signatures that it lacks there.

    Raises TagExists where another version has the tag there, TagNotFound where it is deleted here meanwhile,
    IntegrityError, RemoteError; what has arrived is used by the next try.
    """
    manifest = _manifest(workspace, row)
    with workers(_READERS) as pool:
        states = bucket.refs(row.name)
        if _is_there(workspace, bucket, manifest, states, pool):
            state = states[row.tag]
            brought = remote_signatures.bring(workspace, bucket, manifest, state.generation, state.signatures)
            return Pushed(row.tag, False, signatures=brought)
        pushing = _Pushing(workspace, bucket, manifest, progress, pool)
        for _ in range(_TRIES):
            with contextlib.suppress(PushRevoked):
                pushed = pushing.run()
                return replace(
                    pushed, signatures=remote_signatures.bring(workspace, bucket, manifest, pushing.generation)
                )
    raise RemoteError(
        f"gc of {bucket.name} has revoked the push of {row.tag} {_TRIES} times, as it does with pushes that are silent "
        "for days; run `casstore push` again"
    )


def _is_there(
    workspace: Workspace,
    bucket: Bucket,
    manifest: Manifest,
    states: Mapping[Tag, keys.RefState],
    pool: ThreadPoolExecutor,
) -> bool:
    """Whether this version is there. Raises TagExists where another has its tag."""
    state = states.get(manifest.tag)
    if state is None or not state.is_live:
        return False
    wanted = {manifest.tag: state.key(manifest.tag)}
    (ref,) = read_refs(workspace, bucket, wanted, pool)
    if not _is_same(manifest, ref):
        (ref,) = _asked_again(workspace, bucket, wanted, pool)
        _check_same(manifest, ref, bucket)
    return True


def _asked_again(
    workspace: Workspace, bucket: Bucket, wanted: Mapping[Tag, str], pool: ThreadPoolExecutor
) -> list[Ref]:
    """The refs under these keys, whatever is kept of them here.

    A remote that was copied, or put back as it once was, has the same id, and other versions under the same keys.
    """
    read = list(bucket.read_refs(wanted, pool))
    keep_refs(workspace, bucket, {wanted[ref.tag]: body for ref, body in read})
    return [ref for ref, _ in read]


def _is_same(manifest: Manifest, ref: Ref) -> bool:
    return ref.digest == manifest.digest and ref.described == described(manifest)


def _check_same(manifest: Manifest, ref: Ref, bucket: Bucket) -> None:
    """Raises TagExists for another version."""
    if not _is_same(manifest, ref):
        what = "files" if ref.digest != manifest.digest else "labels, metadata or what else is said of it"
        raise TagExists(
            f"another {manifest.tag} is in {bucket.name} already ({what} differ), and versions never change; save "
            f"yours under another version, or delete that one: `casstore delete {manifest.tag} --remote`"
        )


@dataclass(slots=True)
class _Pushing:
    """One version that is pushed, by one try after another.

    Attributes
    ----------
    revoked
        The tries that a gc has ended, with what they have written.
    generation
        Under which the version stands when it has been pushed.
    """

    workspace: Workspace
    bucket: Bucket
    manifest: Manifest
    progress: Progress
    pool: ThreadPoolExecutor
    revoked: list[tuple[Push, list[PushedPack]]] = field(default_factory=list)
    generation: int = -1

    def run(self) -> Pushed:
        """Try to push it. Raises PushRevoked, TagExists, IntegrityError, RemoteError."""
        content = Digest.of(self.manifest.digest + described(self.manifest))
        version = Digest.of(content + str(self.manifest.tag).encode("utf-8"))
        push_id, remotes = keys.new_push_id(), self.workspace.catalog.remotes
        cut_short = remotes.begun(self.bucket.id, version)
        remotes.begin(self.bucket.id, push_id, version)
        push = Push.begin(self.bucket, [self.manifest.tag], content, push_id)
        try:
            pushed = self._bring(push, content, cut_short)
        except (TagExists, PushRevoked):
            self.revoked.append((push, remotes.packs(push_id)))
            self._end([push_id])
            raise
        self._end(cut_short)
        event = (
            Noted("pushed", {"remote": self.bucket.name, "sent_bytes": pushed.sent_bytes}) if pushed.is_new else None
        )
        remotes.end(push_id, self.manifest.tag, event)
        return pushed

    def _bring(self, push: Push, content: Digest, cut_short: Sequence[str]) -> Pushed:
        waited = wait_for_others(push, content, cut_short)
        open_still = [push_id for push_id in cut_short if _is_open(self.bucket, push_id)]
        for end in self.bucket.ends({*cut_short, *waited} - {*open_still}, self.pool):
            if end.is_sealed:
                roll_forward(self.bucket, end)
        # After the push was opened: whatever goes from now on, the push is told of.
        states, tag = self.bucket.refs(self.manifest.tag.name), self.manifest.tag
        if _is_there(self.workspace, self.bucket, self.manifest, states, self.pool):
            push.seal([])
            self.generation = states[tag].generation
            return Pushed(tag, False)
        segment, sent_bytes, packs = self._send(push, states, open_still)
        ref = push.put_segment(segment)
        is_new = self._commit(push, ref, states.get(tag, keys.RefState()))
        self.workspace.catalog.remotes.keep(self.bucket.id, {ref.segment: segment.pack()})  # for the next push
        return Pushed(tag, is_new, sent_bytes, packs)

    def _end(self, push_ids: Iterable[str]) -> None:
        """End pushes for which nobody is to wait; one that is sealed stays so."""
        for push_id in push_ids:
            revoke(self.bucket, push_id)
            self.workspace.catalog.remotes.end(push_id)

    def _send(
        self, push: Push, states: Mapping[Tag, keys.RefState], cut_short: Sequence[str]
    ) -> tuple[Segment, int, int]:
        """Bring what the remote lacks; returns where all of it is then, and how many bytes and packs went there."""
        segments = read_segments(self.workspace, self.bucket, self._sources(states), self.pool)
        files = [(file.path, self.manifest.recipe_of(file)) for file in self.manifest.files]
        written = self._written(push, cut_short)
        sent_bytes = packs = 0
        while True:
            there = _There(push.condemned)
            for segment in segments.values():
                there.add_segment(segment)
            there.add_packs(written)
            with workers(ENCODE_THREADS) as encoders, workers(_AT_ONCE) as writers:
                uploads = _Uploads(self.workspace, push, writers, self.progress, there)
                sending = Sending(self.workspace, uploads, encoders, SILENT, there.chains)
                sending.add(files, self._base_files(segments))
                uploads.finish()
            sent_bytes, packs = sent_bytes + uploads.sent_bytes, packs + uploads.packs
            written += uploads.written
            push.note_newest()
            whole = there.segment(self.manifest)
            if push.condemned.isdisjoint(info.key for info in whole.packs):
                return whole, sent_bytes, packs

    def _written(self, push: Push, push_ids: Sequence[str]) -> list[PushedPack]:
        """The packs that earlier pushes have brought, as far as they have arrived: those that were cut short, and are
        open, and those that were revoked under way.

        No gc has condemned a pack of a push that is open. Of one that was revoked, epochs that are not the newest may
        have: the push takes note of all since it began. When one of another process did is not known.
        """
        packs = {push_id: self.workspace.catalog.remotes.packs(push_id) for push_id in push_ids}
        for revoked, brought in self.revoked:
            push.take_over(revoked)
            packs[revoked.id] = brought
        found = []
        for push_id, noted in packs.items():
            if noted:
                listed = {entry.key: entry.size for entry in self.bucket.backend.list(f"{keys.PACKS}{push_id}/")}
                found += [pack for pack in noted if listed.get(pack.key) == pack.size]
        return found

    def _sources(self, states: Mapping[Tag, keys.RefState]) -> list[Ref]:
        """The versions whose chunks are looked for in the remote: the base, and the newest that this store knows."""
        live = keys.live(states)
        versions = self.workspace.catalog.versions
        known = [row.tag for row in versions.select(self.manifest.tag.name) if row.tag in live]
        wanted = known[:_SOURCES] or list(live)[:_SOURCES]
        base = self.manifest.base
        if base is not None and base.tag not in live and base.tag.name != self.manifest.tag.name:
            state = self.bucket.state(base.tag)
            live |= {base.tag: state.key(base.tag)} if state.is_live else {}
        if base is not None and base.tag in live:
            wanted = [base.tag, *(tag for tag in wanted if tag != base.tag)][:_SOURCES]
        return _asked_again(self.workspace, self.bucket, {tag: live[tag] for tag in wanted}, self.pool)

    def _base_files(self, segments: Mapping[Tag, Segment]) -> list[tuple[str, Recipe]]:
        """The files of the version that this one came from, if the remote has it, else of another of its name."""
        segment = next(iter(segments.values()), None)
        base = self.manifest.base
        if base is not None and base.tag in segments:
            segment = segments[base.tag]
        if segment is None:
            return []
        return [(file.path, segment.manifest.recipe_of(file)) for file in segment.manifest.files]

    def _commit(self, push: Push, ref: Ref, state: keys.RefState) -> bool:
        """Make the ref; returns whether it was this push that made it. Raises PushRevoked, TagExists."""
        key = keys.ref(ref.tag, state.next_generation)
        end = push.seal([(key, ref)])
        stands = Ref.unpack(roll_forward(self.bucket, end)[key], ref.tag, key)
        _check_same(self.manifest, stands, self.bucket)
        self.generation = state.next_generation
        return stands == ref


def wait_for_others(push: Push, content: Digest, own: Sequence[str]) -> list[str]:
    """Where another machine is bringing the same, let it: what it has brought need not be brought twice.

    It is a kindness to the line, and nothing rests on it: who is silent for a minute is not waited for. Returns those
    that have ended meanwhile.
    """
    earlier = _earlier(push, content, own)
    waited = set(earlier)
    patience = _PATIENCE_SECONDS
    seen: tuple[int, ...] = ()
    while earlier and patience > 0:
        pause(_POLL_SECONDS)
        packs = tuple(len(list(push.bucket.backend.list(f"{keys.PACKS}{push_id}/"))) for push_id in earlier)
        patience = patience - _POLL_SECONDS if packs == seen else _PATIENCE_SECONDS
        seen = packs
        states = list_pushes(push.bucket)
        earlier = [each for each in earlier if each in states and not states[each].has_ended]
        push.note_newest()
    return sorted(waited.difference(earlier))


def _earlier(push: Push, content: Digest, own: Sequence[str]) -> list[str]:
    """The pushes of the same content that are open, and were opened before this one."""
    states = list_pushes(push.bucket)
    mine = (states[push.id].opened_ns, push.id) if push.id in states else (0, "")
    found = []
    for push_id, state in states.items():
        is_open = state.is_open and not state.has_ended and push_id not in own
        if is_open and (state.opened_ns, push_id) < mine:
            with contextlib.suppress(KeyMissing):  # it has ended meanwhile, and gc has removed its records
                if push.bucket.opened(push_id).content == content:
                    found.append(push_id)
    return found


def _is_open(bucket: Bucket, push_id: str) -> bool:
    listed = bucket.backend.list(keys.push_prefix(push_id))
    state = keys.pushes((entry.key, entry.modified_ns) for entry in listed).get(push_id)
    return state is not None and state.is_open and not state.has_ended


def _manifest(workspace: Workspace, row: VersionRow) -> Manifest:
    digests = {file.digest for file in resolve.files(workspace.catalog, row)}
    manifest = workspace.catalog.versions.manifest(row, workspace.catalog.index.recipes(digests))
    if manifest.digest != row.digest:  # its rows have gone since they were looked at
        raise TagNotFound(f"{row.tag} has been deleted meanwhile")
    return manifest
