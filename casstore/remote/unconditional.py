"""An object store that ignores conditions, used by one writer alone: what it was asked not to do is looked up first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from casstore.remote.backend import Backend, Entry, KeyMissing, KeyTaken


class Unconditional:
    """Another backend, whose `create` looks whether the key is taken. Two writers at once could both win."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name

    @property
    def listing_delay_seconds(self) -> float:
        """See Backend."""
        return self._backend.listing_delay_seconds

    def create(self, key: str, body: bytes) -> None:
        """See Backend."""
        try:
            self._backend.get(key)
        except KeyMissing:
            self._backend.put(key, body)
            return
        raise KeyTaken(key)

    def put(self, key: str, body: bytes) -> None:
        """See Backend."""
        self._backend.put(key, body)

    def get(self, key: str) -> bytes:
        """See Backend."""
        return self._backend.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Backend."""
        return self._backend.get_range(key, start, length)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See Backend."""
        return self._backend.list(prefix, after)

    def delete(self, keys: Sequence[str]) -> None:
        """See Backend."""
        self._backend.delete(keys)

    def tidy(self) -> None:
        """See Backend."""
        self._backend.tidy()

    def close(self) -> None:
        """See Backend."""
        self._backend.close()
