"""Versions that come in: how they are wished, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.actions.saving.trust import Trust
from casstore.catalog.versions import VersionRow
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class Arrival:
    """A version that was to come in. `is_new`: false when the very same was saved already."""

    row: VersionRow
    is_new: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """How versions are to be taken in. `tag`: instead of the one they come with. `trust`, if given: the archive's
    author is believed: it may expand a lot, and its Python objects may be unpickled. `aliases`: those that come with it
    are to be moved. `is_our_own`: a program that saves has just written it, so the store asks for no signature."""

    tag: Tag | None
    trust: Trust
    durable: bool
    materialize: bool
    aliases: bool = False
    is_our_own: bool = False
