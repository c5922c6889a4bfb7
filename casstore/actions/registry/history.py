"""The history of a store: what was done to it, and what is done while somebody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone

from casstore.catalog.catalog import Catalog
from casstore.catalog.events import MOST_EVENTS, Event

_PAUSE_S = 0.1  # asking whether the catalog has changed takes microseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MOST_NS = (1 << 63) - 1


def events(catalog: Catalog, since: datetime | timedelta | None, limit: int | None, after: int = 0) -> Sequence[Event]:
    """The newest events, `limit` at most, since a time or an age and after an event; the oldest first."""
    count = MOST_EVENTS if limit is None else max(0, limit)
    return catalog.events.newest(count, after=after, since_ns=_since_ns(since))


def _since_ns(since: datetime | timedelta | None) -> int:
    if since is None:
        return -_MOST_NS  # also what a clock before 1970 has noted
    try:
        moment = datetime.now(timezone.utc) - since if isinstance(since, timedelta) else since.astimezone(timezone.utc)
    except (OverflowError, ValueError):  # before or after all times
        is_before = since > timedelta(0) if isinstance(since, timedelta) else since.year < 1970
        return -_MOST_NS if is_before else _MOST_NS
    nanoseconds = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return max(-_MOST_NS, min(nanoseconds, _MOST_NS))


def follow(catalog: Catalog, after: int, timeout_s: float | None) -> Iterator[Event]:
    """Each event after that one, as it comes; ends when none has come for `timeout_s`."""
    state: tuple[object, ...] = ()
    began = time.monotonic()
    while True:
        now = catalog.events.state()
        if now != state:
            state = now  # from before the events are read: what comes meanwhile is seen at the next look
            for event in catalog.events.newest(after=after):
                after = event.number
                yield event
                began = time.monotonic()
        left_s = _PAUSE_S if timeout_s is None else began + timeout_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(_PAUSE_S, left_s))
