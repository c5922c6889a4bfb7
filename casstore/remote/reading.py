"""Reading a version where it is: each byte is asked for when it is wanted, and checked; not what is at hand."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from casstore.digest import Digest
from casstore.errors import IntegrityError, TagNotFound
from casstore.remote.backend import Backend, KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.remote.segment import PackInfo, Segment
from casstore.storage.buffers import checked_target
from casstore.storage.container import Container, Kind, Location
from casstore.storage.manifest import FileEntry, Manifest
from casstore.storage.objects import Objects, unreadable
from casstore.storage.readable import Readable
from casstore.tag import Tag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Read ahead, twice as much each time that a reader goes on where it was. A chain of deltas is up to nine such readers.
_FIRST_WINDOW_BYTES = 256 << 10
_MOST_WINDOW_BYTES = 4 << 20
_MOST_KEPT_BYTES = 64 << 20
_ADVICE = "`casstore remote verify --deep` names every version that is damaged"


class Local(Protocol):
    """Chunks that need not be asked for, since they are at hand, as in a store. Threads may share it."""

    def sizes(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """Those of the chunks that are at hand, with their raw bytes."""

    def read(self, digest: Digest) -> bytes:
        """The raw bytes of one. Raises IntegrityError and OSError where it is not at hand any more."""


class Nothing:
    """Nothing is at hand."""

    def sizes(self, digests: Collection[Digest]) -> Mapping[Digest, int]:  # noqa: ARG002 - see Local
        """See Local."""
        return {}

    def read(self, digest: Digest) -> bytes:
        """See Local."""
        raise FileNotFoundError(f"chunk {digest} is not here")


class LocalChunk:
    """A chunk that is at hand, as an open container of its own, in which it stands whole: see `Readable`."""

    def __init__(self, local: Local, digest: Digest) -> None:
        self._local = local
        self._digest = digest

    @classmethod
    def location(cls, digest: Digest, size: int) -> Location:
        """Where it stands: in a container that is named after it."""
        return Location(Container(0, f"chunk {digest}", Kind.LOOSE, digest), 0, size, size)

    def _raw(self) -> bytes:
        try:
            return self._local.read(self._digest)
        except (IntegrityError, OSError) as error:  # gc has taken it, or it is damaged
            raise FileNotFoundError(f"chunk {self._digest} cannot be read: {error}") from error

    @property
    def size(self) -> int:
        """See Readable."""
        return len(self._raw())

    def pread(self, offset: int, length: int) -> bytes:
        """See Readable."""
        return self._raw()[offset : offset + length]


class _Window(NamedTuple):
    """A piece of a pack that was read, and how much was asked for beyond what was wanted then."""

    start: int
    data: bytes
    ahead_bytes: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class _Windows:
    """What was read last of the packs of a version, of bounded size together. Threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], _Window] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._process = os.getpid()

    def near(self, pack: str, offset: int, end: int) -> _Window | None:
        """The window that has all of these bytes, or else one that goes to their first or beyond it."""
        with self._own_lock():
            found = [
                (key, each) for key, each in self._kept.items() if key[0] == pack and each.start <= offset <= each.end
            ]
            if not found:
                return None
            key, window = max(found, key=lambda pair: min(pair[1].end, end))
            self._kept.move_to_end(key)
            return window

    def next_start(self, pack: str, offset: int) -> int | None:
        """Where the next window after that offset begins; None where there is none."""
        with self._own_lock():
            return min(
                (each.start for key, each in self._kept.items() if key[0] == pack and each.start >= offset),
                default=None,
            )

    def add(self, pack: str, window: _Window) -> None:
        with self._own_lock():
            before = self._kept.pop((pack, window.start), None)
            self._kept[pack, window.start] = window
            self._bytes += len(window.data) - (0 if before is None else len(before.data))
            while self._bytes > _MOST_KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].data)

    def _own_lock(self) -> threading.Lock:
        if self._process != os.getpid():  # a forked child: a thread of the parent may have held it
            self._lock, self._process = threading.Lock(), os.getpid()
        return self._lock


class RemotePack:
    """A pack of a remote as an open container: see `storage.readable.Readable`. It asks for one range at a time."""

    def __init__(self, backend: Backend, info: PackInfo, windows: _Windows, tell_gone: Callable[[], object]) -> None:
        """`tell_gone` is called where it turns out that the pack is gone."""
        self._backend = backend
        self._info = info
        self._windows = windows
        self._tell_gone = tell_gone
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def size(self) -> int:
        """See Readable."""
        return self._info.size

    def pread(self, offset: int, length: int) -> bytes:
        """See Readable."""
        end = min(offset + length, self._info.size)
        if offset >= end:
            return b""
        if self._process != os.getpid():
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:  # who comes next may find what it wants in what comes now
            window = self._windows.near(self._info.key, offset, end)
            if window is None or window.end < end:
                window = self._read(offset, end, window)
        return window.data[offset - window.start : end - window.start]

    def _read(self, offset: int, end: int, before: _Window | None) -> _Window:
        """Read on from where a window ends, or from `offset`, and keep what comes with the rest of that window."""
        start, had, ahead_bytes = offset, b"", _FIRST_WINDOW_BYTES
        if before is not None:
            start, had = before.end, before.data[offset - before.start :]
            ahead_bytes = min(2 * before.ahead_bytes, _MOST_WINDOW_BYTES)
        following = self._windows.next_start(self._info.key, end) or self._info.size
        wanted = min(max(end - start, ahead_bytes), following - start)
        try:
            data = self._backend.get_range(self._info.key, start, wanted)
        except KeyMissing as error:
            self._tell_gone()
            raise FileNotFoundError(f"{self._info.key} is gone from {self._backend.name}") from error
        window = _Window(offset, had + data, ahead_bytes)
        self._windows.add(self._info.key, window)
        return window


class RemoteVersion:
    """One version of a remote: what it is, and its files, to be read from where they are.

    Where they are is asked again once a pack is gone, as where the version has been packed anew since. `local`: chunks
    that are at hand are read there; where they turn out to be damaged or gone, they are asked for.
    """

    def __init__(self, bucket: Bucket, ref: Ref, segment: Segment, local: Local) -> None:
        self.bucket = bucket
        self.ref = ref
        self.segment = segment
        self.local = local
        self._packs = {info.key: info for info in segment.packs}
        self._windows = _Windows()
        self._now = segment  # says where chunks are
        self._is_old = threading.Event()
        self._there = Objects(None, self._locate_there, open_container=self._open, advice=_ADVICE)
        self._objects = Objects(None, self._locate, self._ask_for, self._open, _ADVICE)

    @classmethod
    def find(cls, bucket: Bucket, tag: Tag, local: Local | None = None) -> RemoteVersion:
        """The version of that tag. Raises TagNotFound, IntegrityError, RemoteError."""
        return cls(bucket, *bucket.version(tag), local or Nothing())

    @property
    def manifest(self) -> Manifest:
        return self.segment.manifest

    @property
    def objects(self) -> Objects:
        """What reads its chunks, wherever they are."""
        return self._objects

    def file(self, path: str) -> FileEntry:
        """One of its files. Raises FileNotFoundError."""
        found = next((file for file in self.manifest.files if file.path == path), None)
        if found is None:
            raise FileNotFoundError(f"{self.ref.tag} has no file {path!r}")
        return found

    def open(self, path: str) -> io.BufferedReader:
        """A seekable binary reader of one file. Raises FileNotFoundError.

        The reader raises IntegrityError, RemoteError, and TagNotFound where the version has been deleted meanwhile and
        its bytes are gone.
        """
        file = self.file(path)
        return self._objects.open_blob(self.manifest.recipe_of(file), f"{path} of {self.ref.tag}")

    def read_into(self, path: str, buffer: WriteableBuffer) -> None:
        """Fill a buffer with one file. Raises FileNotFoundError, TypeError, ValueError, and what a reader raises."""
        file = self.file(path)
        name = f"{path} of {self.ref.tag}"
        target = checked_target(buffer, file.size, name)
        try:
            self._objects.read_blob_into(self.manifest.recipe_of(file), target)
        except IntegrityError as error:
            raise unreadable(name, error, _ADVICE) from error

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        here = {digest: LocalChunk.location(digest, size) for digest, size in self.local.sizes(digests).items()}
        lacking = [digest for digest in digests if digest not in here]
        return {**here, **self._locate_there(lacking)} if lacking else here

    def _ask_for(self, digest: Digest, _: Digest | None) -> bytes | None:
        """A chunk that could not be read, from the remote, if it was to be read here."""
        return self._there.read_chunk(digest) if self.local.sizes([digest]) else None

    def _locate_there(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        if self._is_old.is_set():
            self.look_again()
        chunks, packs = self._now.chunks, self._now.packs
        return {
            digest: Location(Container(0, packs[place.pack].key, Kind.PACK), *place[1:])
            for digest in digests
            if (place := chunks.get(digest)) is not None
        }

    def _open(self, container: Container) -> Readable:
        if not container.is_pack:
            return LocalChunk(self.local, container.blob)
        if container.file_id not in self._packs:
            raise IntegrityError(f"{container.file_id} is not a pack of {self.ref.tag}")
        return RemotePack(self.bucket.backend, self._packs[container.file_id], self._windows, self._is_old.set)

    def look_again(self) -> Segment:
        """Look up where the chunks are now. Raises TagNotFound where the version is not there, RemoteError."""
        self._is_old.clear()
        ref, segment = self.bucket.version(self.ref.tag)
        if ref.manifest != self.ref.manifest:
            where = self.bucket.name
            raise TagNotFound(f"{ref.tag} has been deleted from {where}, and another pushed under its name")
        self._packs = {**self._packs, **{info.key: info for info in segment.packs}}
        self._now = segment
        return segment
