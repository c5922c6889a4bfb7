"""Unpacking an archive of any format, from any stream, into an empty directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from casstore.archive import decompression
from casstore.archive.copying import copy_links
from casstore.archive.decompression import Read, Stream
from casstore.archive.formats import Format, sniff
from casstore.archive.limits import Budget
from casstore.archive.tar import BLOCK_BYTES, TarReader
from casstore.archive.unpacked_tree import UnpackedTree
from casstore.archive.zips import read_zip
from casstore.errors import InvalidSource

_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Unpacked:
    """What came out: the bytes of a top-level model.yaml, and the number and bytes of all other files."""

    descriptor: bytes | None
    file_count: int
    size: int


def unpack(
    source: BinaryIO,
    directory: Path,
    *,
    format: Format | None = None,
    budget: Budget | None = None,
    will_be_synced: bool = False,
    spool: Callable[[], BinaryIO] | None = None,
) -> Unpacked:
    """Unpack `source`, from where it stands to its end, into `directory`, which is empty and used by nothing else.

    The content decides what the format is. `source` is read once, in order; only zip needs seeking, and what cannot
    seek is first copied to the file that `spool` opens for reading and writing, which is then closed. `budget`: what
    it may take, and who is told of the bytes read; a new one. `will_be_synced`: the caller will fsync the files, so
    they may as well be on their way to the disk.

    Files get mode 0600, or 0700 if executable; owners and times are not kept. Links are replaced by copies of
    what they lead to. A model.yaml at the top is returned, not written.

    Raises InvalidSource where `source` is not an archive, or not of `format`; UnsafeArchive where it is damaged, has a
    member that cannot be, or takes too much; OSError. What was written until then stays in `directory`.
    """
    budget = budget or Budget()
    start = source.tell() if source.seekable() else None
    reader = _Reader(source)
    found = _settle(reader.peek(), format)
    tree = UnpackedTree(directory, budget, will_be_synced=will_be_synced)
    if found is Format.ZIP:
        _unpack_zip(source, start, reader, spool, tree, budget)
    else:
        _unpack_tar(_DECOMPRESS[found](reader.read_into(budget)), tree, budget)
    copy_links(tree, budget)
    return Unpacked(tree.descriptor, tree.file_count, tree.size)


_DECOMPRESS: dict[Format, Callable[[Read], Iterator[bytes]]] = {
    Format.TAR: decompression.pass_through,
    Format.GZ: decompression.decompress_gz,
    Format.XZ: decompression.decompress_xz,
    Format.BZ2: decompression.decompress_bz2,
    Format.ZST: decompression.decompress_zst,
}


def unpack_tar(read: Read, format: Format, tree: UnpackedTree, budget: Budget) -> None:
    """Add the members of a tar, compressed as `format` says. `read` tells the budget what it reads; links are noted.

    Raises UnsafeArchive, OSError.
    """
    _unpack_tar(_DECOMPRESS[format](read), tree, budget)


class _Reader:
    """A stream of which the first bytes are looked at before they are read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._head = b""

    def peek(self) -> bytes:
        while len(self._head) < BLOCK_BYTES and (data := self._source.read(BLOCK_BYTES - len(self._head))):
            self._head += data
        return self._head

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none only at the end."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._source.read(size)

    def read_into(self, budget: Budget) -> Read:
        def read(size: int) -> bytes:
            data = self.read(size)
            budget.read(len(data))
            return data

        return read


def _settle(head: bytes, wanted: Format | None) -> Format:
    found = sniff(head)
    if found is None and head == bytes(BLOCK_BYTES):
        found = Format.TAR  # of no members: nothing but its end
    if wanted in (Format.FOLDER, Format.CASMODEL):
        raise InvalidSource(f"a {wanted.value} is not an archive to unpack")
    named = "nothing" if not head else found.value if found else "not an archive of a known format"
    if found is None or found is Format.CASMODEL:
        raise InvalidSource(f"the source is {named}" + (f", and not {wanted.value}" if wanted else ""))
    if wanted not in (None, found) and not (wanted is Format.BENTOMODEL and found is Format.XZ):
        raise InvalidSource(
            f"the source is {named}, not {wanted.value if wanted else ''} as was said; "
            "leave the format out, or name the right one"
        )
    return found


def _unpack_tar(pieces: Iterator[bytes], tree: UnpackedTree, budget: Budget) -> None:
    def counted() -> Iterator[bytes]:
        for piece in pieces:
            budget.spend(len(piece))
            yield piece

    reader = TarReader(Stream(counted()))
    for member in reader:
        if member.kind == "directory":
            tree.add_directory(member.name)
        elif member.kind == "file":
            tree.add_file(member.name, member.is_executable, reader.body())
        else:
            tree.add_link(member.name, member.target, is_hard=member.kind == "hard link")


def _unpack_zip(
    source: BinaryIO,
    start: int | None,
    reader: _Reader,
    spool: Callable[[], BinaryIO] | None,
    tree: UnpackedTree,
    budget: Budget,
) -> None:
    if start is not None:
        read_zip(source, start, tree, budget, budget.read)
        return
    if spool is None:
        raise InvalidSource("a zip archive cannot be read from a pipe; save it to a file first, or use tar")
    read = reader.read_into(budget)
    with spool() as copy:
        while data := read(_COPY_BYTES):
            copy.write(data)
        copy.flush()
        read_zip(copy, 0, tree, budget, lambda _: None)
