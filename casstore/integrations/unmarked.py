"""Checkpoints that are saved and that no alias has come to mean, since the training was ended at that moment."""

from __future__ import annotations

from collections.abc import Mapping

import casstore


def unmarked(store: casstore.Store, name: str) -> list[casstore.Model]:
    """Return the checkpoints of this name since the newest that `NAME@last` has ever meant, the oldest first.

    A trainer's callback moves `NAME@last` as the last thing of a save. What a user has moved it back from is none.
    """
    try:
        meant = {move.version for move in store.alias_history(f"{name}@last")}
    except casstore.TagNotFound:
        meant = set()
    found = []
    for model in store.list(name):
        if model.tag.version in meant:
            break
        about = model.metadata
        if isinstance(about.get("step"), int) and isinstance(about.get("metrics"), Mapping):
            found.append(model)
    return found[::-1]
