"""A remote as this store knows it: what never changes there is asked for once, and kept in the catalog."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor

from casstore.actions.workspace import Workspace
from casstore.errors import IntegrityError
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.remote.segment import Segment
from casstore.remote.summing_up import MANY
from casstore.tag import Tag


def read_refs(workspace: Workspace, bucket: Bucket, wanted: Mapping[Tag, str], pool: Executor) -> list[Ref]:
    """The refs under these keys, in that order. Raises IntegrityError, RemoteError.

    What has been read before is not asked for, unless the last listing has another time for its key.
    """
    names = {bucket.as_listed(key): key for key in wanted.values()}
    known = workspace.catalog.remotes.objects(bucket.id, names)
    found = _sound(wanted, {names[name]: body for name, body in known.items()})
    if len(wanted) - len(found) > MANY:
        numbers = bucket.summaries()
        refs = bucket.summary(numbers[-1]).refs if numbers else {}
        summed_up = {key: refs[key].encode("utf-8") for tag, key in wanted.items() if tag not in found and key in refs}
        sound = _sound(wanted, summed_up)
        keep_refs(workspace, bucket, {wanted[tag]: summed_up[wanted[tag]] for tag in sound})
        found |= sound
    missing = {tag: key for tag, key in wanted.items() if tag not in found}
    read = dict(zip(missing, bucket.read_refs(missing, pool), strict=True))
    # As they came: another release may have written what this one would write otherwise.
    keep_refs(workspace, bucket, {missing[tag]: body for tag, (_, body) in read.items()})
    return [read[tag][0] if tag in read else found[tag] for tag in wanted]


def keep_refs(workspace: Workspace, bucket: Bucket, bodies: Mapping[str, bytes]) -> None:
    """Keep refs that have been read, by their keys."""
    workspace.catalog.remotes.keep(bucket.id, {bucket.as_listed(key): body for key, body in bodies.items()})


def _sound(wanted: Mapping[Tag, str], bodies: Mapping[str, bytes]) -> dict[Tag, Ref]:
    """Those of the refs that have been kept, or summed up, whole: the others are asked for."""
    found = {}
    for tag, key in wanted.items():
        if key in bodies:
            with contextlib.suppress(IntegrityError):
                found[tag] = Ref.unpack(bodies[key], tag, key)
    return found


def read_segments(workspace: Workspace, bucket: Bucket, refs: Iterable[Ref], pool: Executor) -> dict[Tag, Segment]:
    """The segments of these versions, as far as they are still there. Raises IntegrityError, RemoteError."""
    wanted = {ref.tag: ref for ref in refs}
    known = workspace.catalog.remotes.objects(bucket.id, [ref.segment for ref in wanted.values()])
    found: dict[Tag, Segment] = {}
    for ref in wanted.values():
        if ref.segment in known:
            with contextlib.suppress(IntegrityError):  # it was kept, and is damaged here
                found[ref.tag] = bucket.read_segment(ref, known[ref.segment])

    def read(ref: Ref) -> tuple[bytes, Segment] | None:
        try:
            data = bucket.segment_bytes(ref)
        except KeyMissing:
            return None  # it was deleted, or repacked, after it was listed
        return data, bucket.read_segment(ref, data)

    missing = [ref for ref in wanted.values() if ref.tag not in found]
    for ref, came in zip(missing, pool.map(read, missing), strict=True):
        if came is not None:
            data, found[ref.tag] = came
            workspace.catalog.remotes.keep(bucket.id, {ref.segment: data})
    return found


def live_refs(workspace: Workspace, bucket: Bucket, pool: Executor, name: str | None = None) -> list[Ref]:
    """The versions that are there, by tag, all or those of one name. Raises IntegrityError, RemoteError."""
    return read_refs(workspace, bucket, dict(sorted(keys.live(bucket.refs(name)).items())), pool)
