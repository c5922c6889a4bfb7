"""What gc is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.notebook import Shown
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class GcStep:
    """What one step of gc did, or, in a dry run, would do.

    Attributes
    ----------
    name
        The step, as `casstore gc --help` explains it.
    count
        How many things it took.
    freed_bytes
        How many bytes come back. In a dry run what packing and rewriting free is an estimate: packing by encoding what
        is to be packed, or of much a sample of it, rewriting by the sizes of what is needed. Both are below 0 where
        what does not shrink gets the headers of a pack.
    skipped
        How many more it would have taken, but left alone, since something in them was changed.
    damaged
        Chunks that it should have moved, and left where they are because they cannot be read; `verify` names the files
        that need them.
    healed
        Chunks that were damaged in their home, and that it stored again from a copy which was to go.
    """

    name: str
    count: int
    freed_bytes: int = 0
    skipped: int = 0
    damaged: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class GcReport(Shown):
    """What one gc did, or, in a dry run, would do.

    Attributes
    ----------
    steps
        The steps in order; none when gc was not due.
    dry_run
        Whether nothing was changed.
    altered
        Versions whose directories were left, since something in them was altered or added.
    strays_kept_in
        The directory in quarantine/ that took the stray files, empty if there were none. A gc that runs `keep_days`
        later removes it.
    left
        One line for each thing that could not be removed.
    foreign
        Paths among the store's own files that are not casstore's, and were left alone.
    quarantined
        Paths in quarantine/ of what stood in directories that were removed, and was not the versions' own.
    evictable_bytes
        What `evict_all` would free at once besides; 0 after it was set.
    packable_bytes
        What directories in recent use keep from being packed; with `evict_all` most of it is freed where versions are
        alike.
    quarantine_bytes
        What stays in quarantine/ and drafts/.
    """

    steps: tuple[GcStep, ...]
    dry_run: bool
    altered: tuple[Tag, ...] = ()
    strays_kept_in: str = ""
    left: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    evictable_bytes: int = 0
    packable_bytes: int = 0
    quarantine_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        """What came back in all; 0 where headers of packs took more than that."""
        return max(0, sum(step.freed_bytes for step in self.steps))

    @property
    def damaged(self) -> int:
        """Chunks that could not be read, and stay where they are."""
        return sum(step.damaged for step in self.steps)

    @property
    def healed(self) -> int:
        """Chunks that were damaged where they are at home, and are not any more."""
        return sum(step.healed for step in self.steps)


@dataclass(frozen=True, slots=True)
class GcOptions:
    """What a gc may be asked to do besides what it does by itself; see `Store.gc`."""

    evict_all: bool = False
    rewrite: bool = False
    empty_quarantine: bool = False
