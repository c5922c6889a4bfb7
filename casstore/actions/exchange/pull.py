"""Versions from a remote: what the store lacks of each, by ranges of packs, checked and kept as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from casstore.actions.exchange import carried, remote_signatures
from casstore.actions.exchange.arrivals import Wishes
from casstore.actions.exchange.arriving_manifests import by_known_recipes, checked_manifest, present
from casstore.actions.exchange.elsewhere import replaced
from casstore.actions.exchange.remote_cache import read_refs, read_segments
from casstore.actions.packs.blob_checks import BlobChecks
from casstore.actions.packs.receiving import Receiving, elements
from casstore.actions.saving.commit import commit_stored
from casstore.actions.saving.needed import find_lost
from casstore.actions.workspace import Workspace
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.events import Noted
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSignature, RemoteError, TagExists, TagNotFound
from casstore.progress import Progress
from casstore.remote import keys
from casstore.remote.bucket import Bucket, advice
from casstore.remote.documents import Ref
from casstore.remote.other_places import BadPlaces
from casstore.remote.records import PackGone, RecordDamaged, RemoteRecords, plan, total_bytes
from casstore.remote.segment import Segment, chunks_of
from casstore.remote.transfers import workers
from casstore.storage.manifest import Manifest
from casstore.storage.tensors.elements import BYTES, Element
from casstore.tag import Tag

_READERS = 16
_TRIES = 3  # where the version is repacked there, or gc runs here, meanwhile


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version that was pulled. `is_new`: false when it was here. `received_bytes`: of records that travelled."""

    row: VersionRow
    is_new: bool
    received_bytes: int = 0
    notes: tuple[str, ...] = ()


def pull_version(workspace: Workspace, bucket: Bucket, tag: Tag, wishes: Wishes, progress: Progress) -> Pulled:
    """Fetch one version, unless it is here, and its signatures.

    Raises TagNotFound, TagExists where another version has the tag here, InvalidSignature and InvalidSource where the
    store asks for a signature, IntegrityError, RemoteError, OSError. What has come then stays until the next gc, and
    need not come again.
    """
    received_bytes = tries = 0
    bad, trouble = BadPlaces(), ""
    listed: list[str] = []
    admitted = carried.Admitted([], ())
    with workers(_READERS) as pool:
        while tries < _TRIES:
            state = bucket.state(tag)
            if not state.is_live:
                raise TagNotFound(f"{tag} is not in {bucket.name}; `casstore list --remote` shows what is")
            (ref,) = read_refs(workspace, bucket, {tag: state.key(tag)}, pool)
            row = _present_as(workspace, ref, wishes.tag or tag)
            if state.signatures != listed:  # else they need not come with each try
                listed = state.signatures
                admitted = remote_signatures.fetch(workspace, bucket, ref, listed)
            if row is not None:
                return Pulled(row, False, received_bytes, remote_signatures.keep(workspace, row, admitted))
            segment = read_segments(workspace, bucket, [ref], pool).get(tag)
            if segment is None:
                tries += 1
                trouble = f"{ref.segment} is gone from {bucket.name}"
                continue
            segment = _avoiding(workspace, bucket, segment, bad, pool)
            pulling = _Pulling(workspace, bucket, ref, segment, wishes, progress, admitted)
            try:
                pulling.run(pool)
                row = pulling.row()
                notes = remote_signatures.keep(workspace, row, admitted)
                return Pulled(row, True, received_bytes + pulling.received_bytes, notes)
            except ChunkVanished:
                tries += 1
                trouble = "gc of this store has taken what it relied on"
            except (PackGone, RecordDamaged) as error:
                if not bad.add(error.pack, error.digest):
                    raise IntegrityError(f"{error}, and {tag} needs it; {advice(tag)}") from error
            received_bytes += pulling.received_bytes
    raise RemoteError(
        f"{tag} could not be pulled from {bucket.name}: what it needs went away {_TRIES} times while it was read "
        f"({trouble}), as where something has been removed by hand; `casstore remote verify` tells"
    )


def _avoiding(workspace: Workspace, bucket: Bucket, segment: Segment, bad: BadPlaces, pool: Executor) -> Segment:
    """The version of a segment from other places than bad ones, as far as other versions of its name have them."""
    if not bad.spoils(segment):
        return segment
    others: list[Segment] = []
    for tag, key in keys.live(bucket.refs(segment.manifest.tag.name)).items():
        with contextlib.suppress(IntegrityError):  # each by itself: one that is damaged is no help, and no harm
            others += read_segments(workspace, bucket, read_refs(workspace, bucket, {tag: key}, pool), pool).values()
    return bad.avoided(segment, others) or segment


def _present_as(workspace: Workspace, ref: Ref, tag: Tag) -> VersionRow | None:
    """The saved version of that tag, if its files are those of the ref; None when there is none. Raises TagExists."""
    row = workspace.catalog.versions.find(tag)
    if row is not None and row.digest != ref.digest:
        raise TagExists(
            f"another {tag} is saved here already (files differ), and saved versions never change; delete it, or pull "
            "this one as another version with --as NAME:VERSION"
        )
    elsewhere = workspace.catalog.remotes.elsewhere(tag.name) if row is None else ()
    if any(each.tag == tag and each.digest != ref.digest for each in elsewhere):
        raise TagExists(replaced(tag))
    return row


@dataclass(slots=True)
class _Pulling:
    """One try of pulling one version."""

    workspace: Workspace
    bucket: Bucket
    ref: Ref
    segment: Segment
    wishes: Wishes
    progress: Progress
    admitted: carried.Admitted
    received_bytes: int = 0

    @property
    def _tag(self) -> Tag:
        return self.wishes.tag or self.segment.manifest.tag

    def run(self, pool: Executor) -> None:
        """Fetch and save it.

        Raises PackGone, RecordDamaged, ChunkVanished, IntegrityError, InvalidSignature, InvalidSource, RemoteError,
        TagExists, OSError.
        """
        self._check_signed(None)  # before gigabytes come in vain
        origin, wishes = f"{self.ref.segment} in {self.bucket.name}", self.wishes
        renamed = replace(self.segment.manifest, tag=self._tag)
        (manifest,) = by_known_recipes(self.workspace, [checked_manifest(renamed, origin)], origin)
        with self.workspace.session() as session:
            recipes = {file.digest: manifest.recipe_of(file) for file in manifest.files}
            blobs = BlobChecks(self.workspace, recipes, origin)
            incoming = Receiving(self.workspace, session, wishes.durable, origin, find_lost, blobs, self._damaged)
            try:
                self._receive(incoming, pool)
                blobs.finish(self.progress)
                self._check_signed(manifest)
            except BaseException as error:
                incoming.salvage()
                if isinstance(error, IntegrityError) and incoming.has_lost():
                    raise ChunkVanished from error
                raise
            try:
                event = Noted("pulled", {"remote": self.bucket.name})
                commit_stored(self.workspace, session, manifest, event, durable=wishes.durable, trust=wishes.trust)
            except TagExists:
                if present(self.workspace, manifest) is None:
                    raise

    def _check_signed(self, arrived: Manifest | None) -> None:
        """Check that it is signed, if the store says so, as far as can be told: wholly once its chunks have arrived.

        What the store itself has left to the remote comes back as it was. Raises InvalidSignature, InvalidSource.
        """
        left = self.workspace.catalog.remotes.elsewhere(self._tag.name)
        if any((each.tag, each.digest) == (self._tag, self.ref.digest) for each in left):
            return
        name, bundles = f"{self.ref.tag} in {self.bucket.name}", self.admitted.bundles
        try:
            if arrived is None:
                carried.check(self.workspace, bundles, None, name)
            else:
                carried.check_arrived(self.workspace, arrived, bundles, name, self.progress)
        except InvalidSignature as error:
            more = "a push from where it is saved and signed brings a signature there"  # another store than this one
            raise InvalidSignature("; ".join((str(error), *self.admitted.notes[:1], more))) from error

    def _receive(self, incoming: Receiving, pool: Executor) -> None:
        chunks = _elements(self.segment)
        here = incoming.rely_on(chunks.keys(), chunks.keys())
        lacking = [digest for digest in chunks_of(self.segment.manifest) if digest not in here]
        runs = plan(self.segment, lacking, here)
        wanted = {digest for run in runs for digest in run.digests}
        coming = RemoteRecords(self.bucket.backend, self.segment, runs, pool, self.progress.advance)
        self.progress.start("pull", total_bytes(runs))
        try:
            incoming.take_all(coming, {digest: chunks[digest] for digest in wanted}, wanted)
        finally:
            self.received_bytes = coming.received_bytes
            self.progress.finish()

    def _damaged(self, digest: Digest) -> RecordDamaged:
        place = self.segment.chunks[digest]
        pack = self.segment.packs[place.pack].key
        return RecordDamaged(
            f"{pack} in {self.bucket.name} is damaged at byte {place.offset:,}: not what the digest {digest} says",
            pack,
            digest,
        )

    def row(self) -> VersionRow:
        """The version as it is saved here. Raises TagNotFound."""
        row = self.workspace.catalog.versions.find(self._tag)
        if row is None:
            raise TagNotFound(f"{self._tag} was pulled, and has been deleted already")
        return row


def _elements(segment: Segment) -> Mapping[Digest, Element]:
    """The chunks of a segment, each with its tensor's type: what a delta stands on is of the same."""
    found = elements(segment.manifest.recipe_of(file) for file in segment.manifest.files)
    depths = segment.depths
    for digest in sorted(segment.chunks, key=depths.__getitem__, reverse=True):
        element = found.setdefault(digest, BYTES)
        place = segment.chunks[digest]
        for base in (place.base, place.grouping):
            if base is not None:
                found.setdefault(base, element)
    return found
