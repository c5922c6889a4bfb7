"""The request of a save: what the caller asks for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any

from casstore.actions.saving.trust import Trust
from casstore.actions.sources.ignoring import Rules
from casstore.actions.sources.source import Source
from casstore.description import Description
from casstore.late_classes import dataclass
from casstore.storage.manifest import Base
from casstore.storage.parents import Parent
from casstore.tag import Tag


class Handling(Enum):
    """What becomes of the source files, in the place where they stand.

    Watched files may belong to another program: until the commit they must stay as they were found, and not be open for
    writing.
    """

    DRAFT = auto()  # they stand in the draft's own directory, which becomes the version's
    COPY = auto()  # they stay as they are
    COPY_WATCHED = auto()
    TAKE = auto()  # they are adopted if possible, and are gone afterwards
    TAKE_WATCHED = auto()
    KEPT = auto()  # they are a kept draft, which is taken, and goes as a whole
    BECOME = auto()  # watched; their directory becomes the version's, file by file, and is never away

    @property
    def takes(self) -> bool:
        """Whether files may be adopted, not only copied."""
        return self not in (Handling.COPY, Handling.COPY_WATCHED)

    @property
    def is_watched(self) -> bool:
        return self in (Handling.COPY_WATCHED, Handling.TAKE_WATCHED, Handling.BECOME)

    @property
    def removes(self) -> bool:
        """Whether the files are to be removed from where they stand."""
        return self in (Handling.TAKE, Handling.TAKE_WATCHED, Handling.KEPT)

    @property
    def goes_whole(self) -> bool:
        """Whether all that is removed goes at once, so that a killed process leaves no part of it."""
        return self is Handling.KEPT


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What the caller asks to be saved. `source`: a directory, or a single file. `durable`: the version must survive a
    power cut. `materialize`: its directory is to stand at once; otherwise all new chunks go encoded into packs.

    `found`: the files at the source, if it is watched. `rules`: what to leave out of a directory. `allow_empty`: it may
    have no files. `custom_objects`: Python objects to be saved with it, pickled. `created_at_ns`: its creation time, if
    not now, which also decides its place among the versions of its name. `handed_over_ns`: when it was handed over to
    be saved, or its draft was kept; it counts as made then. `trust`: whether its Python objects may be unpickled
    without consent. `said_context`, for a version that may be saved already: the parts of the context that the caller
    gave, which alone are compared. `is_base_said`: whether the caller also gave the base.
    `parents`: what the caller says that it comes from; None where that is to be told from the base and the files.
    """

    tag: Tag
    source: Path
    handling: Handling
    description: Description
    base: Base | None
    durable: bool
    materialize: bool
    found: Source | None = None
    rules: Rules | None = None
    allow_empty: bool = False
    custom_objects: bytes | None = None
    created_at_ns: int | None = None
    handed_over_ns: int | None = None
    trust: Trust = Trust.AS_KNOWN
    said_context: Mapping[str, Any] | None = None
    is_base_said: bool = False
    parents: tuple[Parent, ...] | None = None

    @property
    def made_at_ns(self) -> int | None:
        """When the version counts as made, and by which it is placed among those of its name; None for now."""
        return self.handed_over_ns if self.created_at_ns is None else self.created_at_ns

    @property
    def kind(self) -> str:
        """What a history calls it."""
        if self.created_at_ns is None:
            return "saved"
        return "adopted" if self.handling.is_watched else "imported"

    @property
    def standing(self) -> Source | None:
        """The source that becomes the version's directory where it stands; None if none does."""
        return self.found if self.handling is Handling.BECOME else None
