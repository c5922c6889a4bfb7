"""How large the packs of a push are: large where the line is fast, and small where one would take minutes to send.

A request has to end before its timeout, whatever else goes over the line, and what is cut short is sent again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

MOST_BYTES = 32 << 20
_FIRST_BYTES = 8 << 20  # before anything is known of the line
_LEAST_BYTES = 2 << 20
_SECONDS = 30.0  # that sending one is to take
_REMEMBERED = 4
clock: Callable[[], float] = time.monotonic


class PackSize:
    """Tells the size of the next pack from the bytes a second at which the last ones went. Threads may share it.

    `at_once`: how many are sent side by side. The first goes alone, and has the line to itself.
    """

    def __init__(self, at_once: int, most_bytes: int) -> None:
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._sent: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._count = 0

    @property
    def is_known(self) -> bool:
        """Whether a size has been measured, or there is no need for that."""
        return self._count > 0 or self._most_bytes <= _FIRST_BYTES

    @property
    def wanted_bytes(self) -> int:
        """At what size a pack is to be ended."""
        with self._lock:
            sent = [*self._sent]
        wanted = float(_FIRST_BYTES)
        if sent:
            wanted = sum(size for size, _ in sent) / max(sum(seconds for _, seconds in sent), 1e-3) * _SECONDS
            wanted = wanted / self._at_once if self._count == 1 else wanted
        return int(min(max(wanted, _LEAST_BYTES), self._most_bytes))

    def send(self, body: bytes, write: Callable[[bytes], object]) -> None:
        """Send a pack, and measure how long that takes."""
        begun = clock()
        write(body)
        with self._lock:
            if self._count == 1:
                self._sent.clear()  # the first, which shared the line with nobody
            self._sent.append((len(body), clock() - begun))
            self._count += 1
