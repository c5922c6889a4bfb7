"""When a version was made, as callers and `model.yaml` read it."""

from __future__ import annotations

import datetime

_UTC = datetime.timezone.utc


def timestamp(nanoseconds: int) -> datetime.datetime:
    """UTC nanoseconds since 1970 as a datetime, to the microsecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.datetime.fromtimestamp(seconds, _UTC).replace(microsecond=rest // 1000)
