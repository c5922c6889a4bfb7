"""Creating an object exactly once, over stores that lose answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from casstore.errors import OutcomeUnknown, RemoteError
from casstore.remote.backend import Backend, KeyMissing, KeyTaken

_TRIES = 6
_FIRST_PAUSE_SECONDS = 0.1


def create_once(backend: Backend, key: str, body: bytes, pause: Callable[[float], object] = time.sleep) -> bytes:
    """Store `body` under `key` unless something stands there, and return what stands there then.

    That is `body` itself where this call, or an earlier one with the same body, has stored it. A store may say that
    the key is taken though nothing was stored (S3's 409), or though it was this request that stored it (an answer
    lost, and the request sent again), so what stands there is always read back. Raises OutcomeUnknown where that
    cannot be told: then the object may still appear, and nothing that it names may be removed. A refusal is
    raised at once.
    """
    trouble: Exception | None = None
    for attempt in range(_TRIES):
        if attempt:
            pause(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            backend.create(key, body)
            return body
        except KeyTaken as error:
            trouble = error
        except RemoteError as error:
            if error.is_refusal and trouble is None:
                raise
            trouble = error
        try:
            return backend.get(key)
        except KeyMissing:
            continue
        except RemoteError as error:
            trouble = error
    raise OutcomeUnknown(
        f"whether {key} was written to {backend.name} is not known ({trouble}); run the same command again: it goes on "
        "with what has arrived"
    ) from trouble
