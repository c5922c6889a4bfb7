"""What must hold of a bucket in every state, at the end, and after one more gc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.remote.bucket import REWRITTEN, Alias, Bucket, Revoked, Segment, generations, live, perform
from tests.remote.protocol import Outcome, Protocol


def broken(bucket: Mapping[str, Any]) -> str | None:
    """The first promise that this state breaks."""
    return next(_broken(bucket), None)


def _broken(bucket: Mapping[str, Any]) -> Iterator[str]:
    if REWRITTEN in bucket:
        yield f"{bucket[REWRITTEN]} was changed or removed"
    refs = {key: body for key, body in bucket.items() if key.startswith("refs/")}
    for tag, highest in generations(refs).items():
        for generation in range(highest):
            if f"refs/{tag}/{generation}.x" not in refs:
                yield f"refs/{tag}/{generation} is neither the newest nor deleted"
    for version in live(refs).values():
        segment: Segment | None = bucket.get(version.newest.segment)
        if segment is None:
            yield f"{version.key} needs the segment {version.newest.segment}"
        elif segment.digest != refs[version.key].digest:
            yield f"{version.key} has become {segment.digest}"
        elif bucket.get(segment.chunk.pack) != segment.chunk.content:
            yield f"{version.key} needs the pack {segment.chunk.pack}"
    owners = Counter(body.owner for key, body in refs.items() if "." not in key)
    yield from (f"{owner} has committed twice" for owner, count in owners.items() if count > 1)
    yield from _misled_aliases(bucket)


def _misled_aliases(bucket: Mapping[str, Any]) -> Iterator[str]:
    for key, body in bucket.items():
        if key.startswith("aliases/") and not key.endswith("/0"):
            name, _, number = key.rpartition("/")
            if bucket[f"{name}/{int(number) - 1}"].version != body.expected:
                yield f"{key} was made for a move from {body.expected}"


def misreported(bucket: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> str | None:
    """The first process that says of its work what is not so, once nothing runs any more."""
    committed = {body.owner for key, body in bucket.items() if key.startswith("refs/") and "." not in key}
    moved = {body.mover for body in bucket.values() if isinstance(body, Alias)}
    for name, outcome in outcomes.items():
        if outcome is Outcome.DAMAGED:
            return f"{name} reports damage"
        if outcome is Outcome.COMMITTED and name not in committed:
            return f"{name} reports a push that is not there"
        if outcome in (Outcome.FAILED, Outcome.EXISTS) and name in committed:
            return f"{name} reports a failure, and its push is there"
        if outcome is Outcome.MOVED and name not in moved:
            return f"{name} reports a move that another made"
        if outcome is Outcome.NOT_MOVED and name in moved:
            return f"{name} reports a failure, and its move is there"
    return None


def swept(bucket: Mapping[str, Any], protocol: Protocol) -> Bucket:
    """The bucket after everything has stopped for good, and gc has run once more without waiting for any push."""
    after = dict(bucket)
    steps = protocol.sweep("sweep")
    try:
        request = next(steps)
        while True:
            request = steps.send(perform(after, request))
    except StopIteration:
        return after


def left_over(bucket: Mapping[str, Any], protocol: Protocol) -> str | None:
    """What is wrong, or lies about for nothing, after everything has stopped and gc has run once more."""
    after = swept(bucket, protocol)
    if fault := broken(after):
        return f"{fault}, after gc"
    versions = live({key: body for key, body in after.items() if key.startswith("refs/")}).values()
    segments = {version.newest.segment for version in versions}
    needed = segments | {after[segment].chunk.pack for segment in segments}
    for key, body in after.items():
        if key.startswith(("packs/", "segments/")) and key not in needed:
            return f"{key} is never collected"
        if key.startswith("pushes/") and not isinstance(body, Revoked):
            return f"{key} is never purged"
    return None
