"""Summaries: many refs in one object, made by gc, so that who meets a remote for the first time asks a few times."""

from __future__ import annotations

from concurrent.futures import Executor

from casstore.remote import keys
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Summary
from casstore.remote.once import create_once

MANY = 32  # so many refs that are not in the newest summary are worth another


def sum_up(bucket: Bucket, pool: Executor) -> bool:
    """Make a summary of the versions that are there, if the newest lacks many; returns whether it did.

    Two that do so at once agree on one. Those before it go. Raises IntegrityError, RemoteError.
    """
    live = keys.live(bucket.refs())
    numbers = bucket.summaries()
    newest = bucket.summary(numbers[-1]).refs if numbers else {}
    if sum(key not in newest for key in live.values()) <= MANY:
        return False
    missing = {tag: key for tag, key in live.items() if key not in newest}
    refs = {key: newest[key] for key in live.values() if key in newest}
    refs |= {missing[ref.tag]: body.decode("utf-8") for ref, body in bucket.read_refs(missing, pool)}
    number = numbers[-1] + 1 if numbers else 0
    create_once(bucket.backend, keys.summary(number), Summary(refs).pack())
    bucket.backend.delete([keys.summary(each) for each in numbers])
    return True
