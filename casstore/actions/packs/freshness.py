"""Whether stored bytes have been read lately, so that a new version may rely on them without a copy of its own."""

from __future__ import annotations

import time
from collections.abc import Collection

from casstore.actions.workspace import Workspace
from casstore.late_classes import dataclass

_DAY_NS = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Freshness:
    """The setting `verify_days` as of now. A clock that was put back does not make a container fresh for ever."""

    workspace: Workspace
    now_ns: int
    within_ns: int

    @classmethod
    def of(cls, workspace: Workspace) -> Freshness:
        return cls(workspace, time.time_ns(), int(workspace.catalog.setting("verify_days")) * _DAY_NS)

    def is_fresh(self, read_at_ns: int | None) -> bool:
        """Whether a container that was last read at `read_at_ns` counts as sound."""
        return read_at_ns is not None and abs(self.now_ns - read_at_ns) <= self.within_ns

    def stale(self, containers: Collection[int]) -> set[int]:
        """The containers among these, given by row id, that have not been read for too long."""
        times = self.workspace.catalog.index.read_times(containers)
        return {row_id for row_id, read_at_ns in times.items() if not self.is_fresh(read_at_ns)}
