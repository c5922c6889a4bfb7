"""What a save is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from casstore.actions.saving.trust import Trust
from casstore.actions.sources.ignoring import Rules
from casstore.actions.sources.source import Source
from casstore.description import Description
from casstore.storage.manifest import Base
from casstore.tag import Tag


class Handling(Enum):
    """What becomes of the files that are saved, where they stand.

    Those that are watched may be somebody else's work: they must be what was found until the commit, and not be open
    for writing.
    """

    DRAFT = auto()  # they stand in the draft's own directory, which becomes the version's
    COPY = auto()  # they stay as they are
    COPY_WATCHED = auto()
    TAKE = auto()  # they are adopted where they can be, and are gone afterwards
    TAKE_WATCHED = auto()
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
        """Whether the files are to be gone from where they stand."""
        return self in (Handling.TAKE, Handling.TAKE_WATCHED)


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What the caller asks to be saved. `source`: a directory, or a single file. `durable`: it must survive a power cut
    once saved. `materialize`: its directory is to stand at once; otherwise all that is new goes encoded into packs.

    `found`: what is at the source, where it is watched. `rules`: what of a directory to leave out. `allow_empty`: it
    may have no files. `custom_objects`: Python objects to be saved with it, pickled. `created_at_ns`: when it was made,
    if not now; it takes its place among the versions of its name by that. `trust`: whether its Python objects may be
    unpickled unasked. `said_context`: where the very same version may be saved already, what the caller says of the
    context, of which the rest tells nothing; `is_base_said`: whether the caller says the base, too.
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
    trust: Trust = Trust.AS_KNOWN
    said_context: Mapping[str, Any] | None = None
    is_base_said: bool = False

    @property
    def standing(self) -> Source | None:
        """What becomes the version's directory where it stands."""
        return self.found if self.handling is Handling.BECOME else None
