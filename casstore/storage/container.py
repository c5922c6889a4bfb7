"""Containers: the files under objects/ that hold chunk bytes, and the place of one chunk in one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from casstore.digest import Digest
from casstore.storage.layout import Layout

MAX_LINKS = 8  # deltas that reading one chunk decodes at the most


@dataclass(frozen=True, slots=True)
class Container:
    """A pack (digest None) or a loose file (digest of its blob). `id` is the catalog's and local to one store."""

    id: int
    file_id: str
    digest: Digest | None
    executable: bool = False

    @property
    def is_pack(self) -> bool:
        return self.digest is None

    def path(self, layout: Layout) -> str:
        if self.digest is None:
            return layout.pack(self.file_id)
        return layout.loose_file(self.digest, self.file_id)


@dataclass(frozen=True, slots=True)
class Location:
    """A chunk's one home. `offset` and `length` are of the raw bytes in a loose file, of the record in a pack.

    Of a delta, `base` is the chunk that it is against, `grouping` the one that orders its elements, never a delta.
    """

    container: Container
    offset: int
    length: int
    raw_bytes: int
    encoding: int = 0
    base: Digest | None = None
    grouping: Digest | None = None


class FileStamp(NamedTuple):
    """What stat says of a file the store owns. Without ctime, which every new hardlink
    changes, and without the device, whose number another boot may change."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)
