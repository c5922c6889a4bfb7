"""What gc is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.notebook import Shown
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class GcStep:
    """What one step of gc did, or, in a dry run, would do: how many things, and how many bytes come back.

    In a dry run what packing and rewriting free is an estimate: packing by encoding what is to be packed, or of much a
    sample of it, rewriting by the sizes of what is needed. Both are below 0 where what does not shrink gets the headers
    of a pack.
    `skipped`: how many more it would have taken but left alone, since somebody has changed something in them.
    `damaged`: chunks that it should have moved, and left where they are because they cannot be read; `verify` names
    the files that need them.
    `healed`: chunks that were damaged where they are at home, and that it stored again from a copy which was to go.
    """

    name: str
    count: int
    freed_bytes: int = 0
    skipped: int = 0
    damaged: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class GcReport(Shown):
    """The steps of one gc in order; none when it was not due.

    `altered`: the versions whose directories would have gone, were not something in them altered or added.
    `strays_kept_in`: the directory of quarantine/ that took the stray files, empty if there were none. A gc that runs
    `keep_days` later removes it.
    `left`: one line for each thing that could not be removed. `foreign`: paths among the store's own files that are
    not casstore's, and were left alone. `quarantined`: paths in quarantine/ of what was found in directories of
    deleted versions, or was written into others while these were taken away, and was not the versions' own.

    `quarantine_bytes`: what stays in quarantine/ and drafts/.
    What a gc with `evict_all` would do besides (0 after one): `evictable_bytes` would be free at once, and of
    `packable_bytes`, which directories in recent use keep from being packed, most where versions are alike.
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
class Wishes:
    """What a gc may be asked to do besides what it does by itself; see `Store.gc`."""

    evict_all: bool = False
    rewrite: bool = False
    empty_quarantine: bool = False
