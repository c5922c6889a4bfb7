"""What stands in place of a boot's id: no boot vouches that what was written is still as it was written."""

from __future__ import annotations

from enum import Enum


class NoBoot(str, Enum):
    """Why no boot does. The values stand in the catalog, among the ids of boots, and equal none of these.

    FAILED: an fsync of the container has failed, so that neither reading it in this boot nor another fsync proves
    that it is on disk. UNKNOWN: the row was made from what stood there. INHERITED: the directory was recorded before
    the store was copied.
    """

    FAILED = "not synced"
    UNKNOWN = "?"
    INHERITED = "inherited"
