"""An object store in memory, and a hook around each of its calls."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from casstore.remote.backend import Entry, KeyMissing, KeyTaken


class Hook(Protocol):
    """Told of each call, in the thread that makes it. What it raises, the call raises."""

    def before(self, method: str, key: str) -> None:
        """The call has not been made yet."""

    def after(self, method: str, key: str) -> None:
        """The call has been made, and has not been answered yet."""


class NoHook:
    """Does nothing."""

    def before(self, method: str, key: str) -> None:
        """See Hook."""

    def after(self, method: str, key: str) -> None:
        """See Hook."""


class Stored(NamedTuple):
    """One object: its bytes, and when it was written by the store's own clock, which counts what is written."""

    body: bytes
    modified_ns: int


class MemoryBackend:
    """A Backend whose objects are a dict under a lock. A listing comes in pages of `page` keys, each a call."""

    listing_delay_seconds = 0.0

    def __init__(self, objects: Mapping[str, Stored] | None = None, hook: Hook | None = None, page: int = 1000) -> None:
        self.name = "memory"
        self.objects = dict(objects or {})
        self.hook: Hook = hook or NoHook()
        self.page = page
        self._written = max((each.modified_ns for each in self.objects.values()), default=0)
        self._lock = threading.Lock()

    def create(self, key: str, body: bytes) -> None:
        """See Backend."""
        self.hook.before("create", key)
        with self._lock:
            is_taken = key in self.objects
            if not is_taken:
                self._write(key, body)
        self.hook.after("create", key)
        if is_taken:
            raise KeyTaken(key)

    def put(self, key: str, body: bytes) -> None:
        """See Backend."""
        self.hook.before("put", key)
        with self._lock:
            self._write(key, body)
        self.hook.after("put", key)

    def _write(self, key: str, body: bytes) -> None:
        self._written += 1
        self.objects[key] = Stored(body, self._written)
        self._changed(key)

    def _changed(self, key: str) -> None:
        """Something was written or removed."""

    def get(self, key: str) -> bytes:
        """See Backend."""
        return self._read("get", key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Backend."""
        return self._read("get_range", key)[start : start + length]

    def _read(self, method: str, key: str) -> bytes:
        self.hook.before(method, key)
        with self._lock:
            found = self.objects.get(key)
        self.hook.after(method, key)
        if found is None:
            raise KeyMissing(key)
        return found.body

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See Backend."""
        while True:
            self.hook.before("list", prefix)
            with self._lock:
                shown = self._shown()
            keys = sorted(key for key in shown if key.startswith(prefix) and key > after)[: self.page]
            found = [Entry(key, len(shown[key].body), shown[key].modified_ns) for key in keys]
            self.hook.after("list", prefix)
            yield from found
            if len(found) < self.page:
                return
            after = found[-1].key

    def _shown(self) -> Mapping[str, Stored]:
        return dict(self.objects)

    def delete(self, keys: Sequence[str]) -> None:
        """See Backend. Objects go one by one."""
        for key in keys:
            self.hook.before("delete", key)
            with self._lock:
                self.objects.pop(key, None)
                self._changed(key)
            self.hook.after("delete", key)

    def tidy(self) -> None:
        """See Backend."""

    def close(self) -> None:
        """See Backend."""


class OldListings(MemoryBackend):
    """Listings may be as old as `age` ticks of a clock, but for what the thread itself has written, as on NFS."""

    def __init__(
        self, objects: Mapping[str, Stored], clock: Callable[[], int], age: int, chance: random.Random
    ) -> None:
        super().__init__(objects)
        self.listing_delay_seconds = 2.0 * age
        self._clock = clock
        self._age = age
        self._chance = chance
        self._moments: list[tuple[int, dict[str, Stored]]] = [(-1, dict(self.objects))]
        self._own = threading.local()

    def _changed(self, key: str) -> None:
        self._moments.append((self._clock(), dict(self.objects)))
        self._own.keys = {*getattr(self._own, "keys", ()), key}

    def _shown(self) -> Mapping[str, Stored]:
        at = self._clock() - self._chance.randrange(self._age + 1)
        then = next((objects for time, objects in reversed(self._moments) if time <= at), self.objects)
        own = {key: self.objects[key] for key in getattr(self._own, "keys", ()) if key in self.objects}
        return {**then, **own}
