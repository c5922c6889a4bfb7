"""Containers: the files under objects/ that hold chunk bytes, and the place of one chunk in one of them."""

from __future__ import annotations

import os
from enum import IntEnum
from typing import NamedTuple

from casstore.digest import Digest
from casstore.late_classes import dataclass
from casstore.storage.layout import Layout

MAX_DELTA_LINKS = 8  # deltas that reading one chunk decodes at the most
# A smaller file gets no loose file: a hardlink and its row cost more time than a copy of it, and save at most
# some blocks. With 10,000 files of 4 KiB they took a third of the commit (benchmarks/small_files.py).
LINK_FROM_BYTES = 64 << 10


class Kind(IntEnum):
    """The kind of a container; the numbers stand in the catalog.

    PACK: encoded chunks that describe themselves. LOOSE: one whole blob, as it is.
    """

    PACK = 1
    LOOSE = 2


@dataclass(frozen=True, slots=True)
class Container:
    """A pack or a loose file. `id` is the catalog's and local to one store; `digest` is that of a loose file's blob.

    Raises ValueError for a loose file without a digest.
    """

    id: int
    file_id: str
    kind: Kind
    digest: Digest | None = None
    executable: bool = False

    def __post_init__(self) -> None:
        if self.kind is Kind.LOOSE and self.digest is None:
            raise ValueError("a loose file has no digest")

    @property
    def is_pack(self) -> bool:
        return self.kind is Kind.PACK

    @property
    def blob(self) -> Digest:
        """The digest of what a loose file holds. Raises ValueError for a pack, which holds many things."""
        if self.digest is None or self.is_pack:
            raise ValueError("a pack is not the file of one blob")
        return self.digest

    def path(self, layout: Layout) -> str:
        return layout.pack(self.file_id) if self.is_pack else layout.loose_file(self.blob, self.file_id)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk stands: in the one container that its row names. `offset` and `length` are of the raw bytes in a
    loose file, of the record in a pack.

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
