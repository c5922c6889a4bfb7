"""A remote that is open: its marker has been read, and its refs, segments and epochs can be."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor

from blake3 import blake3

from casstore.digest import Digest
from casstore.errors import IntegrityError, RemoteNotFound, TagNotFound, UnsupportedFormat
from casstore.remote import keys, probe
from casstore.remote.backend import Backend, KeyMissing
from casstore.remote.documents import Epoch, Marker, PushEnd, PushOpen, Ref, Summary
from casstore.remote.once import create_once
from casstore.remote.segment import HEADER_BYTES, MOST_BYTES, Header, PackInfo, Segment, unpack_packs
from casstore.remote.unconditional import Unconditional
from casstore.tag import Tag

_PACKS_GUESS = 16 << 10  # read at once with a segment's header: the packs of a version of some 300 packs
_PIECE_BYTES = 8 << 20  # of a pack that is read whole
_TRIES = 3  # of reading a version that is repacked or deleted meanwhile


class Bucket:
    """Reads what stands in a remote. Threads may share it.

    `backend` makes the conditional writes, as far as the object store can; `id` tells this remote from any other, also
    from one that has stood, or will stand, at the same URL.
    """

    def __init__(self, backend: Backend, marker: Marker) -> None:
        self.backend: Backend = Unconditional(backend) if marker.single_writer else backend
        # What stands elsewhere must not pass for this one, though anybody can write a marker with the same id.
        self.id = f"{marker.id} {backend.name}"
        self.is_single_writer = marker.single_writer
        self._written: dict[str, int] = {}

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.backend.name

    @classmethod
    def open(cls, backend: Backend) -> Bucket:
        """The remote that stands there. Raises RemoteNotFound, RemoteError, IntegrityError."""
        try:
            marker = Marker.unpack(backend.get(keys.MARKER))
        except KeyMissing as error:
            raise RemoteNotFound(
                f"no remote of casstore stands at {backend.name}; check the URL, or make one there: "
                "`casstore remote add NAME URL`"
            ) from error
        return cls(backend, marker)

    @classmethod
    def make(cls, backend: Backend, *, single_writer: bool = False) -> Bucket:
        """The remote that stands there; where none does, one is made, once the store has been probed.

        Raises RemoteUnsafe where it ignores conditional creates and `single_writer` is not said, RemoteError.
        """
        try:
            return cls.open(backend)
        except RemoteNotFound:
            pass
        if not single_writer:
            probe.check(backend)
        marker = Marker(secrets.token_hex(16), single_writer)
        writer = Unconditional(backend) if single_writer else backend
        return cls(backend, Marker.unpack(create_once(writer, keys.MARKER, marker.pack())))

    def refs(self, name: str | None = None) -> dict[Tag, keys.RefState]:
        """What a listing says of all tags, or of those of one name. Raises RemoteError."""
        prefix = keys.REFS if name is None else f"{keys.REFS}{name}/"
        return keys.refs(self._listed(prefix))

    def state(self, tag: Tag) -> keys.RefState:
        """What a listing says of one tag. Raises RemoteError."""
        return keys.refs(self._listed(keys.ref_prefix(tag))).get(tag, keys.RefState())

    def _listed(self, prefix: str) -> Iterator[str]:
        for entry in self.backend.list(prefix):
            self._written[entry.key] = entry.modified_ns
            yield entry.key

    def as_listed(self, key: str) -> str:
        """A name for what stands under a ref's key since it was listed last: its key, and when it was written.

        Where a remote has been put back as it once was, or emptied, another ref may come to stand under the key.
        """
        return f"{key}@{self._written[key]}" if key in self._written else key

    def ref(self, tag: Tag, key: str) -> Ref:
        """The document under a ref's key. Raises IntegrityError where it is damaged or gone, RemoteError."""
        return self._ref(tag, key)[0]

    def _ref(self, tag: Tag, key: str) -> tuple[Ref, bytes]:
        try:
            body = self.backend.get(key)
        except KeyMissing as error:
            raise IntegrityError(
                f"{key} was listed in {self.name} and is gone: somebody removes objects by hand"
            ) from error
        with _advised(tag):
            return Ref.unpack(body, tag, key), body

    def read_refs(self, wanted: Mapping[Tag, str], pool: Executor) -> Iterator[tuple[Ref, bytes]]:
        """The documents under these keys, and their bytes, several at once, in that order.

        Raises IntegrityError, RemoteError.
        """
        yield from pool.map(lambda pair: self._ref(*pair), wanted.items())

    def find(self, tag: Tag) -> Ref:
        """The ref of a version that is there. Raises TagNotFound, IntegrityError, RemoteError."""
        state = self.state(tag)
        if not state.is_live:
            what = "has been deleted from" if state.is_deleted else "is not in"
            raise TagNotFound(f"{tag} {what} {self.name}; `casstore list --remote` shows what is")
        return self.ref(tag, state.key(tag))

    def segment(self, ref: Ref) -> Segment:
        """The segment that a ref names. Raises KeyMissing where it is gone, IntegrityError, RemoteError."""
        return self.read_segment(ref, self.segment_bytes(ref))

    def segment_bytes(self, ref: Ref) -> bytes:
        """The bytes of the segment that a ref names, not checked.

        Raises KeyMissing where it is gone, IntegrityError where it is too long, RemoteError.
        """
        if ref.segment_bytes > MOST_BYTES:
            raise IntegrityError(f"{ref.segment} in {self.name} is too long for a segment; {advice(ref.tag)}")
        return self.backend.get_range(ref.segment, 0, max(HEADER_BYTES, ref.segment_bytes))

    def read_segment(self, ref: Ref, data: bytes) -> Segment:
        """What the segment that a ref names says. Raises IntegrityError, also where it is of another version."""
        with _advised(ref.tag):
            segment = Segment.unpack(data, ref.segment_check, ref.segment)
            said = segment.manifest
            found = (said.tag, said.digest, Digest.of(data[slice(*_manifest_span(data, ref))]))
            if found != (ref.tag, ref.digest, ref.manifest):
                raise IntegrityError(
                    f"{ref.segment} in {self.name} holds another version than {ref.tag}, whose ref names it"
                )
        return segment

    def version(self, tag: Tag) -> tuple[Ref, Segment]:
        """A version that is there, wholly, though it may be repacked while it is read.

        Raises TagNotFound, IntegrityError, RemoteError.
        """
        for _ in range(_TRIES):
            ref = self.find(tag)
            try:
                return ref, self.segment(ref)
            except KeyMissing:
                continue
        raise IntegrityError(f"{ref.segment} is gone from {self.name}, and {tag} needs it; {advice(tag)}")

    def signature(self, tag: Tag, key: str) -> bytes:
        """The bytes of a version's signature.

        Raises KeyMissing where the version has been deleted meanwhile, IntegrityError, RemoteError.
        """
        with _advised(tag):
            data = self.backend.get(key)
        if Digest.of(data) != keys.parse_signature(key):
            raise self.damaged_signature(tag, key)
        return data

    def damaged_signature(self, tag: Tag, key: str) -> IntegrityError:
        """The error for what stands under a signature's key, and is another object."""
        return IntegrityError(f"{key} in {self.name} is damaged: it does not match its digest; {advice(tag)}")

    def packs_of(self, ref: Ref) -> list[PackInfo]:
        """The packs that a version's segment names, from its beginning alone.

        Raises KeyMissing where the segment is gone, IntegrityError, RemoteError.
        """
        data = self.backend.get_range(
            ref.segment, 0, max(HEADER_BYTES, min(HEADER_BYTES + _PACKS_GUESS, ref.segment_bytes))
        )
        with _advised(ref.tag):
            header = Header.unpack(data, ref.segment_check, ref.segment)
            if len(data) < header.packs_end:
                data += self.backend.get_range(ref.segment, len(data), header.packs_end - len(data))
            return unpack_packs(data, header, ref.segment)

    def is_sound(self, info: PackInfo) -> bool:
        """Whether a pack is what its digest says; all of it is read. Raises KeyMissing, RemoteError."""
        hasher = blake3()
        for start in range(0, info.size, _PIECE_BYTES):
            hasher.update(self.backend.get_range(info.key, start, min(_PIECE_BYTES, info.size - start)))
        return hasher.digest() == info.digest

    def newest_epoch(self) -> int:
        """The number of the newest epoch, 0 before the first gc. Raises RemoteError."""
        numbers = [keys.parse_epoch(entry.key) for entry in self.backend.list(keys.EPOCHS)]
        return max((number for number in numbers if number is not None), default=0)

    def epoch(self, number: int) -> Epoch:
        """What an epoch condemns: nothing before the first gc, with number 0. Raises IntegrityError, RemoteError."""
        if not number:
            return Epoch(0, "", frozenset())
        key = keys.epoch(number)
        try:
            return Epoch.unpack(self.backend.get(key), number)
        except KeyMissing as error:
            raise IntegrityError(
                f"{key} was listed in {self.name} and is gone: somebody removes objects by hand"
            ) from error

    def summaries(self) -> list[int]:
        """The numbers of the summaries that stand, in order. Raises RemoteError."""
        numbers = [keys.parse_summary(entry.key) for entry in self.backend.list(keys.SUMMARIES)]
        return sorted(number for number in numbers if number is not None)

    def summary(self, number: int) -> Summary:
        """Refs in one object; none where it is damaged, or a newer one has taken its place. Raises RemoteError."""
        key = keys.summary(number)
        try:
            return Summary.unpack(self.backend.get(key), key)
        except (KeyMissing, IntegrityError):
            return Summary({})

    def opened(self, push_id: str) -> PushOpen:
        """What a push said when it began. Raises KeyMissing, IntegrityError, RemoteError."""
        key = keys.push_open(push_id)
        return PushOpen.unpack(self.backend.get(key), key)

    def ends(self, push_ids: Iterable[str], pool: Executor) -> list[PushEnd]:
        """How these pushes ended, as far as that is still recorded. Raises IntegrityError, RemoteError."""

        def read(push_id: str) -> PushEnd | None:
            try:
                return PushEnd.unpack(self.backend.get(keys.push_end(push_id)), push_id)
            except KeyMissing:
                return None  # it was sealed, its refs have been made, and gc has removed its records

        return [end for end in pool.map(read, push_ids) if end is not None]


def advice(tag: Tag) -> str:
    """What to do about a version of a remote that is damaged."""
    return f"delete it there (`casstore delete {tag} --remote`), and push it again from where it is"


@contextlib.contextmanager
def _advised(tag: Tag) -> Iterator[None]:
    """Have the error for damage of a version's ref or segment say what to do."""
    try:
        yield
    except UnsupportedFormat:
        raise
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {advice(tag)}") from error


def _manifest_span(data: bytes, ref: Ref) -> tuple[int, int]:
    header = Header.unpack(data, ref.segment_check, ref.segment)
    return header.packs_end, header.packs_end + header.sections[1][0]
