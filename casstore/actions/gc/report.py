"""The options of gc, and its report."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.notebook import Shown
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class GcStep:
    """What one step of gc did or, in a dry run, would do.

    Attributes
    ----------
    name
        The step, as `casstore gc --help` explains it.
    count
        How many things it removed, moved or rewrote.
    freed_bytes
        How many bytes come back. In a dry run this is an estimate for packing (by encoding what is to be packed, or a
        sample if it is much) and for rewriting (by the sizes of what is needed). Both are below 0 if the content does
        not shrink and gets the headers of a pack.
    skipped
        How many more it left alone, since something in them was changed.
    damaged
        Chunks that it should have moved, but left where they are since they cannot be read; `verify` names the files
        that need them.
    healed
        Chunks that were damaged in their container, and that it stored again from a copy that was to be removed.
    """

    name: str
    count: int
    freed_bytes: int = 0
    skipped: int = 0
    damaged: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class GcReport(Shown):
    """What one gc did or, in a dry run, would do.

    Attributes
    ----------
    steps
        The steps in order; none if gc was not due.
    dry_run
        Whether nothing was changed.
    altered
        Versions whose directories were left alone, since something in them was altered or added.
    strays_kept_in
        The directory in quarantine/ that holds the stray files; empty if there were none. A gc that runs `keep_days`
        later removes it.
    left
        One line for each thing that could not be removed.
    foreign
        Paths among the store's own files that casstore did not make, and left alone.
    quarantined
        Paths in quarantine/ of what stood in removed directories and did not belong to the versions.
    evictable_bytes
        The bytes that `evict_all` would free at once in addition; 0 if it was set.
    packable_bytes
        The bytes that cannot be packed since directories in recent use link to them. `evict_all` frees most of them if
        versions are alike.
    quarantine_bytes
        The bytes that stay in quarantine/ and drafts/.
    trash_versions
        How many deleted versions stay in the trash.
    clock_moved_days
        By how many days the clock has been set since the trash was last looked at; 0 for a clock that has gone on as it
        should. The days of what is in the trash then count from now, and nothing in it is due.
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
    trash_versions: int = 0
    clock_moved_days: int = 0

    @property
    def freed_bytes(self) -> int:
        """The bytes that came back in all; 0 if headers of packs took more than that."""
        return max(0, sum(step.freed_bytes for step in self.steps))

    @property
    def damaged(self) -> int:
        """How many chunks could not be read, and stay where they are."""
        return sum(step.damaged for step in self.steps)

    @property
    def healed(self) -> int:
        """How many chunks were damaged in their home, and were stored again."""
        return sum(step.healed for step in self.steps)


@dataclass(frozen=True, slots=True)
class GcOptions:
    """The options of a gc; see `Store.gc`."""

    evict_all: bool = False
    rewrite: bool = False
    empty_quarantine: bool = False
    empty_trash: bool = False
