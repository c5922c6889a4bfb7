"""How much an archive may take, whatever it says of itself."""

from __future__ import annotations

from collections.abc import Callable

from casstore.errors import UnsafeArchive

# Models have tens of files, at most some ten thousand shards; each costs up to 36 bytes of memory here.
MAX_MEMBERS = 1_000_000
# The largest model.yaml seen takes 5 KiB; YAML of this size already takes seconds to parse.
MAX_DESCRIPTOR_BYTES = 16 << 20
# Of pax records and GNU long names before one member: a path has at most 4 KiB, so this is 100 times what is needed.
MAX_HEADER_BYTES = 1 << 20
# All paths of links, and what they lead to, stay in memory until the end.
MAX_LINK_BYTES = 16 << 20
MAX_LINK_HOPS = 40  # Linux's own, path_resolution(7)
# xz -9 needs 65 MiB to decompress, zstd --ultra -22 a window of 128 MiB, the most that zstd's program takes by default.
MAX_DECODER_BYTES = 128 << 20
# Tensors compress to between a third and all of their size. Untrained ones may be zeros, hence the free part.
FREE_BYTES = 1 << 30
MAX_RATIO = 100


class Budget:
    """What has been read of the source, and what came of it.

    `trust` lifts the limit on how far an archive may expand, and no other. `advance` is told of the bytes read.
    """

    def __init__(self, *, trust: bool = False, advance: Callable[[int], None] = lambda _: None) -> None:
        self._trust = trust
        self._advance = advance
        self._read_bytes = 0
        self._spent_bytes = 0
        self._member_count = 0

    def read(self, count: int) -> None:
        """So many more bytes of the source were read."""
        self._read_bytes += count
        self._advance(count)

    def spend(self, count: int) -> None:
        """So many more bytes come out. Raises UnsafeArchive where that is out of proportion to what was read."""
        self._spent_bytes += count
        if self._spent_bytes > FREE_BYTES + MAX_RATIO * self._read_bytes and not self._trust:
            raise UnsafeArchive(
                f"the archive expands to {self._spent_bytes:,} bytes from {self._read_bytes:,}, more than {MAX_RATIO} "
                "times its size; if you trust its author, say so (trust) and this limit is lifted"
            )

    def add_member(self) -> None:
        """One more file, directory or link. Raises UnsafeArchive when there are too many."""
        self._member_count += 1
        if self._member_count > MAX_MEMBERS:
            raise UnsafeArchive(f"the archive has more than {MAX_MEMBERS:,} members; split it")
