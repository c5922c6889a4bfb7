"""Whether an object store does what a remote's safety rests on: that of several that create one key, one does."""

from __future__ import annotations

import contextlib
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from casstore.errors import RemoteError, RemoteUnsafe
from casstore.remote.backend import Backend, KeyMissing, KeyTaken
from casstore.remote.keys import PROBE

_RACERS = 10


def check(backend: Backend) -> None:
    """Create a key twice, and another from ten threads at once. Raises RemoteUnsafe, RemoteError.

    It cannot show that a store with several endpoints keeps the promise between them.
    """
    prefix = f"{PROBE}/{secrets.token_hex(16)}"
    keys = [f"{prefix}/{name}" for name in ("twice", "race")]
    try:
        _check_twice(backend, keys[0])
        _check_race(backend, keys[1])
        listed = {entry.key for entry in backend.list(f"{prefix}/")}
        if listed != set(keys):
            raise RemoteUnsafe(
                f"{backend.name} does not list at once what was written to it, so that nobody can tell what may be "
                "removed; use an object store with consistent listings"
            )
    finally:
        with contextlib.suppress(RemoteError):  # an append-only key may write and not remove
            backend.delete(keys)


def _check_twice(backend: Backend, key: str) -> None:
    backend.create(key, b"first")
    with contextlib.suppress(KeyTaken):
        backend.create(key, b"second")
        raise _unsafe(backend, "let a second writer take a key that was taken")
    if backend.get(key) != b"first":
        raise _unsafe(backend, "refused a second writer, and let it write")


def _check_race(backend: Backend, key: str) -> None:
    together = threading.Barrier(_RACERS)

    def race(number: int) -> int | None:
        together.wait()
        try:
            backend.create(key, b"%d" % number)
        except KeyTaken:
            return None
        return number

    with ThreadPoolExecutor(_RACERS) as pool:
        winners = [number for number in pool.map(race, range(_RACERS)) if number is not None]
    try:
        stands = backend.get(key)
    except KeyMissing:
        raise _unsafe(backend, "stored nothing of what several writers brought at once") from None
    # An answer that was lost may have hidden the one that won.
    if len(winners) > 1 or (winners and stands != b"%d" % winners[0]):
        raise _unsafe(backend, f"let {len(winners)} of {_RACERS} writers win one key at once")


def _unsafe(backend: Backend, what: str) -> RemoteUnsafe:
    return RemoteUnsafe(
        f"{backend.name} {what}: it ignores `If-None-Match`, on which all that is safe in a shared remote rests. Use a "
        "store that has it (docs/remotes.md lists them), or say that only one machine will ever write there: "
        "`casstore remote add NAME URL --single-writer`"
    )
