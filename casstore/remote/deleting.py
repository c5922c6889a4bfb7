"""Deleting a version of a remote: a tombstone beside its ref. Its bytes go with a later gc."""

from __future__ import annotations

import time

from casstore.errors import TagNotFound
from casstore.remote import keys
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Tombstone
from casstore.remote.once import create_once
from casstore.storage.machine import who
from casstore.tag import Tag


def delete(bucket: Bucket, tag: Tag) -> None:
    """Delete a version; to have it back, push it again. Raises TagNotFound, RemoteError."""
    state = bucket.state(tag)
    if not state.is_live:
        raise TagNotFound(f"{tag} is not in {bucket.name}; `casstore list --remote` shows what is")
    create_once(bucket.backend, keys.tombstone(tag, state.generation), Tombstone(who(), time.time_ns()).pack())
