"""What an object store has to be able to do for a remote: seven methods, whose names are those of the field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from casstore.errors import IntegrityError, RemoteError

MOST_DOCUMENT_BYTES = 64 << 20


class KeyMissing(Exception):
    """There is no object of this key."""


class KeyTaken(Exception):
    """`create` met an object of this key, or a store that says so: some do where nothing was stored."""


def refusal(message: str) -> RemoteError:
    """The error of a store that has said no, and has done nothing."""
    error = RemoteError(message)
    error.is_refusal = True
    return error


class Entry(NamedTuple):
    """One object of a listing: its key, its size in bytes, and when the store says it was written (UTC nanoseconds)."""

    key: str
    size: int
    modified_ns: int


class Backend(Protocol):
    """The objects below a prefix, by keys of `/`-separated parts. Threads may share it.

    Every method raises RemoteError where the store cannot be reached, refuses, or where it is not known what became of
    the request; the error says what to do, and names no secret. Of a refusal it is known that nothing was done.
    """

    name: str
    """What messages call it: the URL, without secrets."""

    @property
    def listing_delay_seconds(self) -> float:
        """0 where a listing shows all that was created before it began; else twice as long as it may be old.

        When that time has gone by since an object was created, every listing that began in the second half of it, on
        any machine, has shown it.
        """

    def create(self, key: str, body: bytes) -> None:
        """Store a new object, whole or not at all. Raises KeyTaken where the key is taken, or may be."""

    def put(self, key: str, body: bytes) -> None:
        """Store an object of a key that only the caller knows, whole or not at all; the same again does no harm."""

    def get(self, key: str) -> bytes:
        """The bytes of an object. Raises KeyMissing, and `too_large` for one above MOST_DOCUMENT_BYTES."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start` on, fewer where it ends before them. Raises KeyMissing."""

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """The objects whose keys begin with `prefix`, which ends with `/`, and come after `after`, in order of keys.

        What was created before it began is in it, but for `listing_delay_seconds`; it need not be a snapshot.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove these objects, as far as they are there."""

    def tidy(self) -> None:
        """Remove what writes that were cut short have left besides objects, where that is a day old."""

    def close(self) -> None:
        """Let go of connections and threads."""


def too_large(name: str, key: str) -> IntegrityError:
    """The error for an object that is larger than any document; what is read of packs and segments is said."""
    return IntegrityError(f"{key} in {name} is damaged: it is larger than any document of a remote")
