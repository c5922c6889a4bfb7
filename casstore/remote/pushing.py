"""One push, as the protocol has it: opened, kept up with what gc condemns, sealed, and committed.

A push says that it is open before it looks at what the remote has, and takes note of each epoch before it goes on. So a
gc that condemns a pack either sees the push, and waits for it or revokes it, or the push sees what is condemned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casstore.description import Description
from casstore.digest import Digest
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Epoch, PushEnd, PushOpen, Ref, Seen
from casstore.remote.once import create_once
from casstore.remote.segment import HEADER_BYTES, PackInfo, Segment
from casstore.storage.machine import who
from casstore.storage.manifest import Manifest
from casstore.tag import Tag


class PushRevoked(Exception):
    """A gc has ended the push, which had not been heard of for long. It starts over under another id."""


@dataclass(slots=True)
class Push:
    """A push that is open.

    Attributes
    ----------
    epoch
        The number of the newest epoch that it has taken note of.
    condemned
        The keys of packs that it may not rely on: all that any epoch condemned which it has noted. The newest alone
        would not do, since what has been removed meanwhile is not on its list any more.
    first_epoch
        The newest epoch when it had begun: none up to that condemns what it brings.
    """

    bucket: Bucket
    id: str
    epoch: int
    condemned: frozenset[str]
    first_epoch: int = 0

    @classmethod
    def begin(cls, bucket: Bucket, tags: Sequence[Tag], content: Digest, push_id: str | None = None) -> Push:
        """Open a push under a new id. What it relies on is to be looked at from now on. Raises RemoteError.

        What an earlier push has brought that was cut short may be relied on while that push is open, as far as it is
        there. An id is never taken up again, or two processes could answer for one another: `push_id` is a new one.
        """
        epoch = bucket.epoch(bucket.newest_epoch())
        push = cls(bucket, push_id or keys.new_push_id(), epoch.number, frozenset(epoch.condemned))
        opened = PushOpen(push.epoch, [str(tag) for tag in tags], content, who())
        create_once(bucket.backend, keys.push_open(push.id), opened.pack())
        while (newer := push.newer_epoch()) is not None:
            push.note(newer)
        push.first_epoch = push.epoch
        return push

    def take_over(self, revoked: Push) -> None:
        """Take note of all that was condemned since a push began that was revoked: its other packs may be relied on.

        No epoch between may be left out. One may condemn a pack that is not on the list of the next, since it has been
        removed, and that a request which was long on its way has brought again: a gc that was asleep would remove it.
        Raises IntegrityError, RemoteError.
        """
        between = range(revoked.first_epoch + 1, self.epoch)
        self.condemned = self.condemned.union(*(self.bucket.epoch(number).condemned for number in between))

    def newer_epoch(self) -> Epoch | None:
        """An epoch that a gc has published since the last one was noted. Raises RemoteError."""
        newest = self.bucket.newest_epoch()
        return self.bucket.epoch(newest) if newest > self.epoch else None

    def note_newest(self) -> None:
        """Take note of the newest epoch. Raises RemoteError."""
        newer = self.newer_epoch()
        if newer is not None:
            self.note(newer)

    def keep_up(self) -> None:
        """Take note of the newest epoch while much is sent. Raises PushRevoked where that is in vain, RemoteError."""
        self.note_newest()
        with contextlib.suppress(KeyMissing):
            self.bucket.backend.get(keys.push_end(self.id))
            raise PushRevoked(self.id)

    def note(self, epoch: Epoch) -> None:
        """Say that nothing is relied on which the epoch condemns: to be true before the push is sealed.

        Raises RemoteError.
        """
        self.epoch, self.condemned = epoch.number, self.condemned | frozenset(epoch.condemned)
        create_once(self.bucket.backend, keys.push_seen(self.id, epoch.number), Seen(epoch.number).pack())

    def new_pack(self, body: bytes) -> PackInfo:
        """What a pack of these bytes is to be called."""
        return PackInfo(keys.pack(self.id, keys.new_number()), len(body), Digest.of(body))

    def put_segment(self, segment: Segment) -> Ref:
        """Write a segment; returns the ref that names it, which does not stand yet.

        Raises IntegrityError where nobody could read it, since what others say of their chunks contradicts it or it is
        too long, RemoteError.
        """
        manifest, packed = segment.manifest, segment.pack()
        key = keys.segment(self.id, keys.new_number())
        Segment.unpack(packed, Digest.of(packed[:HEADER_BYTES]), key)
        self.bucket.backend.put(key, packed)
        return Ref(
            manifest.tag,
            manifest.digest,
            Digest.of(manifest.pack()),
            manifest.size,
            manifest.created_at_ns,
            described(manifest),
            manifest.description.labels,
            key,
            Digest.of(packed[:HEADER_BYTES]),
            len(packed),
            self.id,
        )

    def seal(self, refs: Iterable[tuple[str, Ref]]) -> PushEnd:
        """End the push: from here on these refs will be made, by whoever finds them missing.

        Returns how it was sealed before, where it was. Raises PushRevoked, RemoteError.
        """
        end = PushEnd(self.id, True, [(key, ref.pack().decode("utf-8")) for key, ref in refs])
        stands = PushEnd.unpack(create_once(self.bucket.backend, keys.push_end(self.id), end.pack()), self.id)
        if stands.is_sealed:
            return stands
        # It may have been sealed without our hearing of it, and its records be gone since: then its refs are there.
        if end.refs and all(self._stands(key, text) for key, text in end.refs):
            return end
        raise PushRevoked(self.id)

    def _stands(self, key: str, text: str) -> bool:
        try:
            return self.bucket.backend.get(key) == text.encode("utf-8")
        except KeyMissing:
            return False


def revoke(bucket: Bucket, push_id: str) -> PushEnd:
    """End a push that is not to go on; returns how it has ended, which may be otherwise. Raises RemoteError."""
    end = PushEnd(push_id, False, by=who())
    return PushEnd.unpack(create_once(bucket.backend, keys.push_end(push_id), end.pack()), push_id)


def described(manifest: Manifest) -> Digest:
    """The digest of labels, metadata and all else that is said of a version, whoever trusts it."""
    return described_as(manifest.description)


def described_as(description: Description) -> Digest:
    """The digest of what is said of a version."""
    return Digest.of(description.completed().marked(is_untrusted=False).text.encode("utf-8"))


def roll_forward(bucket: Bucket, end: PushEnd) -> dict[str, bytes]:
    """Make the refs of a sealed push, as far as they are missing; returns what stands under each of their keys.

    Anybody may do so, any number of times. Raises RemoteError.
    """
    return {key: create_once(bucket.backend, key, text.encode("utf-8")) for key, text in end.refs}
